from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest

from treadle.errors import Location, ProjectError, StepError
from treadle_runtime.engine import connect, lock_down, write_query
from treadle_runtime.readers import load, reading
from treadle_runtime.sources import Observed, check_unchanged, find_appended, in_place, observe, observe_all
from treadle_runtime.state import State
from treadle_runtime.viewsql import read_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import MakeProject

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / ".treadle" / "state.db") as opened:
        yield opened


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(temp_directory=tmp_path) as opened:
        yield opened


def write(root: Path, path: str, content: str | bytes) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def source(*paths: str, format: str = "csv", **values: Any) -> Mapping[str, Any]:  # noqa: A002 the key's name
    return {"name": "flights", "paths": list(paths), "format": format, "table": "", **values}


def paths_of(observed: Observed) -> list[str]:
    return [part.path for part in observed.parts]


def read(con: duckdb.DuckDBPyConnection, config: Mapping[str, Any], root: Path) -> list[tuple[Any, ...]]:
    observed = observe(config, root)
    with reading(con, config, observed, root):
        return con.execute(load(con, config, observed, root)).fetchall()


def types(con: duckdb.DuckDBPyConnection, config: Mapping[str, Any], root: Path) -> dict[str, str]:
    observed = observe(config, root)
    with reading(con, config, observed, root):
        rows = con.execute(f"describe {load(con, config, observed, root)}").fetchall()
    return {row[0]: row[1] for row in rows}


def error_of(con: duckdb.DuckDBPyConnection, config: Mapping[str, Any], root: Path) -> str:
    with pytest.raises(StepError) as caught:
        read(con, config, root)
    return str(caught.value)


# observe


def test_glob_is_sorted_and_paths_keep_their_order(root: Path) -> None:
    for name in ("b", "a", "c/d", "c/.hidden"):
        write(root, f"data/{name}.csv", name)
    assert paths_of(observe(source("data/**/*.csv"), root)) == ["data/a.csv", "data/b.csv", "data/c/d.csv"]
    assert paths_of(observe(source("data/b.csv", "data/?.csv"), root)) == ["data/b.csv", "data/a.csv"]
    assert paths_of(observe(source("./data/../data/a.csv"), root)) == ["data/a.csv"]


def test_file_whose_name_looks_like_a_glob_is_found(root: Path) -> None:
    write(root, "data/x[1].csv", "right")
    write(root, "data/x1.csv", "wrong")
    assert paths_of(observe(source("data/x[1].csv"), root)) == ["data/x[1].csv"]


def test_part_holds_the_sha256_of_its_content(root: Path) -> None:
    write(root, "data/a.csv", "id\n1\n")
    part = observe(source("data/a.csv"), root).parts[0]
    assert part.digest == hashlib.sha256(b"id\n1\n").hexdigest()
    assert part.size == 5


def test_digest_counts_content_and_order_and_no_names(root: Path) -> None:
    def digest(**files: str) -> str:
        for file in (root / "data").iterdir():
            file.unlink()
        for name, content in files.items():
            write(root, f"data/{name}.csv", content)
        return observe(source("data/*.csv"), root).digest

    base = digest(a="x", b="y")
    assert digest(b="x", c="y") == base
    assert len({base, digest(a="y", b="x"), digest(a="xy"), digest(a="x", b="y", c=""), digest(a="x")}) == 5


def test_digest_counts_how_a_file_is_compressed(root: Path) -> None:
    write(root, "data/a.csv", "x")
    write(root, "data/a.csv.gz", "x")
    assert observe(source("data/a.csv"), root).digest != observe(source("data/a.csv.gz"), root).digest


def test_file_is_hashed_once(root: Path, state: State) -> None:
    write(root, "data/a.csv", "one")
    later = time.time_ns() + HOUR_NS
    found = observe(source("data/a.csv"), root, state=state, now_ns=lambda: later)
    # Content under the same size and times cannot be made; a planted digest shows that the file is not read.
    planted = type(found.parts[0])(**{**vars(found.parts[0]), "digest": "planted"})
    state.record_source_parts([planted])
    assert observe(source("data/a.csv"), root, state=state).parts[0].digest == "planted"


def test_fresh_file_is_hashed_each_time(root: Path, state: State) -> None:
    write(root, "data/a.csv", "one")
    now = os.stat(root / "data/a.csv").st_ctime_ns
    observe(source("data/a.csv"), root, state=state, now_ns=lambda: now + 1_900_000_000)
    assert state.source_parts(["data/a.csv"]) == {}
    observe(source("data/a.csv"), root, state=state, now_ns=lambda: now + 2_100_000_000)
    assert list(state.source_parts(["data/a.csv"])) == ["data/a.csv"]


def test_change_behind_an_old_mtime_is_seen(root: Path, state: State) -> None:
    file = root / "data/a.csv"
    write(root, "data/a.csv", "one")
    later = time.time_ns() + HOUR_NS
    first = observe(source("data/a.csv"), root, state=state, now_ns=lambda: later)
    before = file.stat()
    time.sleep(0.02)  # longer than the file system's clock takes for a tick
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert observe(source("data/a.csv"), root, state=state).digest != first.digest


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ("a,b\n1,2\n", "a,b\n1,2\n3,4\n5,6\n", 2),
        ("a,b\n1,2\n", "a,b\n1,2\n3,4\n5,6", 2),
        ("a,b\n1,2", "a,b\n1,2\n3,4\n", 1),
        ("a,b\n1,2", "a,b\n1,20", 0),
        ("x" * 3_000_000 + "\n", "x" * 3_000_000 + "\n" + "y\n" * 2_000_000, 2_000_000),
        ("a,b\n1,2\n", "a,b\n1,3\n3,4\n", None),
        ("a,b\n1,2\n", "a,b\n", None),
        ("a,b\n", "a,b\n", None),
        ("", "a,b\n", None),
    ],
    ids=range(9),
)
def test_file_that_was_appended_to_is_known(root: Path, before: str, after: str, lines: int | None) -> None:
    write(root, "data/a.csv", before)
    write(root, "data/b.csv", "same")
    was = observe(source("data/*.csv"), root).listing
    write(root, "data/a.csv", after)
    write(root, "data/c.csv", "new")
    found = observe(source("data/*.csv"), root)
    assert find_appended(found, was, root) == ({} if lines is None else {"data/a.csv": lines})


def test_lines_are_counted_where_the_file_has_lines(root: Path) -> None:
    for path, format_name in (("data/a.csv.gz", "csv"), ("data/a.parquet", "parquet")):
        write(root, path, b"PAR1")
        was = observe(source(path, format=format_name), root).listing
        write(root, path, b"PAR1\nPAR1\n")
        assert find_appended(observe(source(path, format=format_name), root), was, root) == {path: None}


def test_source_without_files_names_the_close_match(root: Path) -> None:
    write(root, "data/flights.csv", "")
    write(root, "data/planes.csv", "")
    with pytest.raises(ProjectError) as caught:
        observe(source("data/fligths.csv"), root, where=Location("features/flights.yml", 3))
    assert str(caught.value) == (
        'error[TR713]: source "flights" has no files\n'
        "  features/flights.yml:3\n"
        "  data/fligths.csv matches nothing; data/ holds flights.csv, planes.csv\n"
        "  did you mean: data/flights.csv\n"
        "  fix: correct `path`, or put the file there"
    )


def test_source_without_files_names_the_folder_that_is_missing(root: Path) -> None:
    with pytest.raises(ProjectError) as caught:
        observe(source("dat/raw/*.csv"), root)
    assert str(caught.value) == (
        'error[TR713]: source "flights" has no files\n'
        "  dat/raw/*.csv matches nothing; the project's folder holds data\n"
        "  did you mean: data\n"
        "  fix: correct `path`, or put the file there"
    )


def test_folder_as_path_says_what_to_write(root: Path) -> None:
    with pytest.raises(ProjectError, match=r"data is a folder\n  fix: name its files, as in data/\*.csv"):
        observe(source("data"), root)


@pytest.mark.parametrize("link", ["file", "folder", "path", "missing"])
def test_file_outside_the_project_needs_to_be_allowed(root: Path, link: str) -> None:
    outside = root.parent / "outside"
    write(root.parent, "outside/a.csv", "id\n1\n")
    path = {"file": "data/a.csv", "folder": "data/out/*.csv", "path": "../outside/a.csv"}.get(link, "../outside/b.csv")
    if link == "file":
        (root / "data/a.csv").symlink_to(outside / "a.csv")
    elif link == "folder":
        (root / "data/out").symlink_to(outside)
    with pytest.raises(ProjectError) as caught:
        observe(source(path), root)
    assert str(caught.value).startswith('error[TR008]: source "flights" lies outside the project\n')
    assert str(outside) in str(caught.value)
    assert str(caught.value).endswith(
        "fix: copy it into the project, or list its folder in `allow_paths` of treadle.yml"
    )
    if link != "missing":
        assert len(observe(source(path), root, allow_paths=["../outside"]).parts) == 1


def test_allowed_file_is_known_by_its_absolute_path(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root.parent, "outside/a.csv", "id\n1\n")
    observed = observe(source("../outside/a.csv"), root, allow_paths=["../outside"])
    assert paths_of(observed) == [str(root.parent / "outside" / "a.csv")]
    assert con.execute(load(con, source("../outside/a.csv"), observed, root)).fetchall() == [(1,)]


def test_link_that_leads_nowhere_is_an_error(root: Path) -> None:
    write(root, "data/a.csv", "id\n1\n")
    (root / "data/b.csv").symlink_to("gone.csv")
    (root / "data/c.csv").symlink_to("c.csv")
    with pytest.raises(ProjectError, match=r"data/b\.csv is a link to .*/gone\.csv, which is no file"):
        observe(source("data/*.csv"), root)


def test_observe_all_reports_every_source(root: Path) -> None:
    write(root, "data/a.csv", "id\n1\n")
    configs = [{**source(path), "name": name} for name, path in (("a", "data/a.csv"), ("b", "x"), ("c", "../y"))]
    with pytest.raises(ProjectError) as caught:
        observe_all(configs, root, where={"b": Location("features/s.yml", 4)})
    assert [(problem.code, problem.where) for problem in caught.value.problems] == [
        ("TR713", Location("features/s.yml", 4)),
        ("TR008", None),
    ]
    assert list(observe_all(configs[:1], root)) == ["a"]


WRITER = """
import sys, time
with open(sys.argv[1], "ab", buffering=0) as file:
    while True:
        file.write(b"x" * 4096)
        if file.tell() > 2**26:
            file.truncate(0)
"""


def test_file_that_is_being_written_is_refused(root: Path) -> None:
    write(root, "data/a.csv", b"x" * 2**24)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(root / "data/a.csv")])
    found = ""
    try:
        # The writer may sleep through a read, which is right to succeed then.
        for _ in range(1_000):
            try:
                observe(source("data/a.csv"), root)
            except StepError as error:
                found = str(error)
                break
    finally:
        writer.kill()
        writer.wait()
    assert found == (
        "error[TR711]: data/a.csv changed while it was read\n"
        "  it is being written to\n"
        "  fix: run the command again once nothing writes to the file"
    )


def test_check_unchanged_compares_content(root: Path) -> None:
    write(root, "data/a.csv", "one")
    write(root, "data/b.csv", "two")
    observed = observe(source("data/*.csv"), root)
    check_unchanged(observed, root)
    os.utime(root / "data/a.csv")
    check_unchanged(observed, root)
    write(root, "data/a.csv", "ONE")
    (root / "data/b.csv").unlink()
    with pytest.raises(StepError) as caught:
        check_unchanged(observed, root)
    assert str(caught.value) == (
        "error[TR711]: data/a.csv changed while it was read\n"
        "  its content is not what it was when the run was planned\n"
        "  fix: run the command again once nothing writes to the file\n"
        "\n"
        "error[TR711]: data/b.csv changed while it was read\n"
        "  No such file or directory\n"
        "  fix: run the command again once nothing writes to the file"
    )


def read_after(
    change: Callable[[], object], con: duckdb.DuckDBPyConnection, config: Mapping[str, Any], root: Path
) -> None:
    observed = observe(config, root)
    with reading(con, config, observed, root):
        change()
        con.execute(load(con, config, observed, root))


def test_change_during_the_read_is_found(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id\n1\n")
    config = source("data/a.csv")
    with pytest.raises(StepError, match="TR711"):
        read_after(lambda: write(root, "data/a.csv", "id\n2\n"), con, config, root)
    with pytest.raises(StepError, match="TR711"):
        read_after((root / "data/a.csv").unlink, con, config, root)


# CSV


def test_csv_types_come_from_all_rows(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    n = 60_000
    write(root, "data/a.csv", "id,x,d\n" + "".join(f"{i},{i},2013-01-01\n" for i in range(n)) + "1,2.5,\n")
    assert types(con, source("data/a.csv"), root) == {"id": "BIGINT", "x": "DOUBLE", "d": "DATE"}
    rows = read(con, source("data/a.csv"), root)
    assert [row[0] for row in rows] == [*range(n), 1]


def test_csv_types_come_from_all_files(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    for i in range(25):
        write(root, f"data/{i:02}.csv", f"id,x\n{i},{'word' if i == 24 else i}\n")
    config = source("data/*.csv")
    assert types(con, config, root) == {"id": "BIGINT", "x": "VARCHAR"}
    assert [row[0] for row in read(con, config, root)] == list(range(25))


def test_csv_columns_are_matched_by_name(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id,x\n1,10\n")
    write(root, "data/b.csv", "x,id\n20,2\n")
    assert read(con, source("data/*.csv"), root) == [(1, 10), (2, 20)]


def test_csv_files_with_other_columns_are_refused(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id,x\n1,10\n")
    write(root, "data/b.csv", "id,y,x\n2,3,4\n")
    assert error_of(con, source("data/*.csv"), root) == (
        'error[TR713]: the files of source "flights" differ in their columns\n'
        '  data/b.csv has "y" besides, compared with data/a.csv\n'
        "  fix: give all its files the same columns, or make two sources of them"
    )
    write(root, "data/b.csv", "id,y\n2,3\n")
    assert 'data/b.csv lacks "x" and has "y" besides' in error_of(con, source("data/*.csv"), root)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiter_is_that_of_the_first_line(root: Path, con: duckdb.DuckDBPyConnection, delimiter: str) -> None:
    write(root, "data/a.csv", f'id{delimiter}"a,b;c,d,e"\n1{delimiter}"x,y;z,,"\n')
    assert types(con, source("data/a.csv"), root) == {"id": "BIGINT", "a,b;c,d,e": "VARCHAR"}
    assert read(con, source("data/a.csv"), root) == [(1, "x,y;z,,")]


def test_csv_options_are_honoured(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "1~'a~b'~02.01.2013~NA~-\n2~~03.01.2013~5~\n")
    options = {
        "delimiter": "~",
        "quote": "'",
        "header": False,
        "null": ["NA", "-"],
        "date_format": "%d.%m.%Y",
    }
    config = source("data/a.csv", csv=options)
    found = list(types(con, config, root).values())
    assert found == ["BIGINT", "VARCHAR", "DATE", "BIGINT", "VARCHAR"]
    rows = [tuple(map(str, row)) for row in read(con, config, root)]
    assert rows == [("1", "a~b", "2013-01-02", "None", "None"), ("2", "None", "2013-01-03", "5", "None")]


def test_csv_without_header_is_seen(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "1,2\n3,4\n")
    assert types(con, source("data/a.csv"), root) == {"column0": "BIGINT", "column1": "BIGINT"}


def test_csv_hash_sign_and_byte_order_mark_are_no_comment_and_no_name(
    root: Path, con: duckdb.DuckDBPyConnection
) -> None:
    write(root, "data/a.csv", b"\xef\xbb\xbfid,x\n#1,2\n2,3\n")
    assert types(con, source("data/a.csv"), root) == {"id": "VARCHAR", "x": "BIGINT"}
    assert read(con, source("data/a.csv"), root) == [("#1", 2), ("2", 3)]


def test_csv_header_alone_is_an_empty_table(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id,x\n")
    config = source("data/a.csv", columns={"id": "INTEGER"})
    assert types(con, config, root) == {"id": "INTEGER", "x": "VARCHAR"}
    assert read(con, config, root) == []


def test_csv_without_a_byte_is_refused_unless_others_have_some(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "")
    assert error_of(con, source("data/*.csv"), root) == (
        'error[TR713]: source "flights" holds no data\n  data/a.csv: 0 bytes\n  fix: give it at least a header line'
    )
    write(root, "data/b.csv", "id\n1\n")
    assert read(con, source("data/*.csv"), root) == [(1,)]


def test_csv_may_be_compressed(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv.gz", gzip.compress(b"id;x\n1;2\n"))
    write(root, "data/b.csv.zst", pa.compress(b"id;x\n3;4\n", codec="zstd", asbytes=True))
    write(root, "data/c.csv", "id;x\n5;6\n")
    assert read(con, source("data/*"), root) == [(1, 2), (3, 4), (5, 6)]


def test_csv_that_is_not_compressed_as_named_is_an_error(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv.gz", "id,x\n1,2\n")
    assert error_of(con, source("data/a.csv.gz"), root) == (
        'error[TR713]: source "flights" cannot be read\n'
        "  data/a.csv.gz\n"
        "  Input is not a GZIP stream: data/a.csv.gz\n"
        "  fix: check that the file is whole, and that `format` is what it is"
    )


def test_csv_in_a_folder_that_looks_like_a_partition_or_a_glob(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/year=2013/[a]*?.csv", "id\n1\n")
    write(root, "data/year=2013/a.csv", "id\n2\n")
    assert types(con, source("data/year=2013/[[]a]*?.csv"), root) == {"id": "BIGINT"}
    assert read(con, source("data/year=2013/[[]*.csv"), root) == [(1,)]


@pytest.mark.parametrize(
    ("content", "line", "text", "why"),
    [
        ("id,x\n1,2\n2,3,4\n3,1\n", 3, "2,3,4", "3 fields, where the first line has 2"),
        ("id,x\n1,2\n2\n", 3, "2", "1 fields, where the first line has 2"),
        ("title\nid,x\n1,2\n", 2, "id,x", "2 fields, where the first line has 1"),
        ('id,x\n1,"abc\n2,3\n', 2, '1,"abc', "a quote is not closed"),
        ("id,x\n1,2\n2,caf\xe9\n", 3, "", "the line is not UTF-8 text"),
    ],
)
def test_csv_row_that_does_not_parse_is_named(
    root: Path, con: duckdb.DuckDBPyConnection, content: str, line: int, text: str, why: str
) -> None:
    write(root, "data/a.csv", "id,x\n1,2\n")
    write(root, "data/b.csv", content.encode("latin-1"))
    found = error_of(con, source("data/b.csv"), root).splitlines()
    assert found[0] == 'error[TR713]: source "flights" cannot be read'
    assert found[1].split() == [f"data/b.csv:{line}", *text.split()]
    assert found[2] == f"  {why}"
    assert found[3].startswith("  fix: ")
    assert len(found) == 4


def test_csv_value_of_another_type_names_the_column(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id,delay\n" + "1,2\n" * 30_000 + "2,n/a\n")
    config = source("data/a.csv", columns={"delay": "INTEGER"})
    assert error_of(con, config, root) == (
        'error[TR713]: source "flights" cannot be read\n'
        "  data/a.csv:30002   2,n/a\n"
        '  column "delay": "n/a" is no INTEGER\n'
        '  fix: correct the value, declare another type, or take it as NULL: csv: {null: ["n/a"]}; '
        "or leave such rows out with bad_rows: quarantine"
    )
    rows = read(con, {**config, "csv": {"null": "n/a"}}, root)
    assert rows[-1] == (2, None)


def build(con: duckdb.DuckDBPyConnection, config: Mapping[str, Any], root: Path, folder: Path) -> int:
    observed = observe(config, root)
    with reading(con, config, observed, root):
        sql = load(con, config, observed, root)
        lock_down(con, [*observed.files(root), folder])
        return write_query(con, sql, folder).rows


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("2,x\n", '  data/a[1].csv:5002   2,x\n  column "delay": "x" is no INTEGER\n'),
        ("2\n", "  data/a[1].csv:5002   2\n  1 fields, where the first line has 2\n"),
    ],
)
def test_csv_error_is_the_same_through_the_engine(
    root: Path, con: duckdb.DuckDBPyConnection, tmp_path: Path, rows: str, expected: str
) -> None:
    write(root, "data/a[1].csv", "id,delay\n" + "1,2\n" * 5_000 + rows)
    with pytest.raises(StepError) as caught:
        build(con, source("data/a[1].csv", columns={"delay": "INTEGER"}), root, tmp_path)
    assert expected in str(caught.value)


def test_csv_mixed_line_endings_are_named(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id,x\r\n1,2\n2,4\r\n")
    assert "lines end in two ways (\\r\\n and \\n)" in error_of(con, source("data/a.csv"), root)


def test_declared_column_that_is_missing(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id,delay\n1,2\n")
    assert error_of(con, source("data/a.csv", columns={"delai": "INTEGER", "id": "BIGINT"}), root) == (
        'error[TR706]: source "flights" has no column "delai", whose type is declared\n'
        "  its columns: id, delay\n"
        "  did you mean: delay"
    )


def test_declared_type_that_is_none(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.csv", "id,delay\n1,2\n")
    assert error_of(con, source("data/a.csv", columns={"delay": "INTEGR", "id": "int) from x --"}), root) == (
        'error[TR712]: column "delay" of source "flights" is declared as INTEGR, which is no type\n'
        "  fix: write a DuckDB type, such as INTEGER, DOUBLE, VARCHAR, DATE, TIMESTAMP or DECIMAL(10, 2)\n"
        "\n"
        'error[TR712]: column "id" of source "flights" is declared as int) from x --, which is no type\n'
        "  fix: write a DuckDB type, such as INTEGER, DOUBLE, VARCHAR, DATE, TIMESTAMP or DECIMAL(10, 2)"
    )


# JSON


def test_json_lines_take_types_from_all_rows(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.jsonl", '{"id": 1, "d": "2013-01-02"}\n\n' * 30_000 + '{"id": 1.5, "o": {"a": [1]}}\n')
    write(root, "data/b.jsonl.gz", gzip.compress(b'{"late": true}\n'))
    config = source("data/*", format="json")
    expected = {"id": "DOUBLE", "d": "DATE", "o": "STRUCT(a BIGINT[])", "late": "BOOLEAN"}
    assert types(con, config, root) == expected
    rows = read(con, config, root)
    assert rows[-2:] == [(1.5, None, {"a": [1]}, None), (None, None, None, True)]


def test_json_declared_types_apply_to_the_text(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.jsonl", '{"id": 1, "d": "2013-01-02T03:04:05Z"}\n')
    columns = {"d": "VARCHAR", "absent": "INTEGER"}
    config = source("data/a.jsonl", format="json", columns=columns)
    assert types(con, config, root) == {"id": "BIGINT", "d": "VARCHAR", "absent": "INTEGER"}
    assert read(con, config, root) == [(1, "2013-01-02T03:04:05Z", None)]


def test_json_without_a_byte_needs_declared_columns(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.jsonl", "")
    assert "0 bytes\n  fix: declare its columns" in error_of(con, source("data/a.jsonl", format="json"), root)
    config = source("data/a.jsonl", format="json", columns={"id": "INTEGER"})
    assert types(con, config, root) == {"id": "INTEGER"}
    assert read(con, config, root) == []


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        ('{"id": 1}\n{"id": \n', 2, "expecting value, at character 9"),
        ("1\n2\n", 1, "the line holds a number, not an object"),
        ('[{"id": 1}]\n', 1, "the line holds a list, not an object"),
    ],
)
def test_json_line_that_is_no_object_is_named(
    root: Path, con: duckdb.DuckDBPyConnection, content: str, line: int, why: str
) -> None:
    write(root, "data/a.jsonl", content)
    found = error_of(con, source("data/a.jsonl", format="json"), root)
    assert f"  data/a.jsonl:{line}   {content.splitlines()[line - 1]}".rstrip() + f"\n  {why}\n" in found


def test_json_value_of_another_type_names_the_column(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/a.jsonl", '{"id": 1, "n": 2}\n{"id": "x", "n": 3}\n')
    config = source("data/a.jsonl", format="json", columns={"n": "INTEGER", "id": "INTEGER"})
    assert error_of(con, config, root) == (
        'error[TR713]: source "flights" cannot be read\n'
        "  data/a.jsonl\n"
        '  column "id" is declared as INTEGER: "x"\n'
        "  fix: correct the value, or declare another type"
    )


# Parquet


def write_parquet(root: Path, path: str, query: str) -> None:
    duckdb.execute(f"copy ({query}) to '{root / path}' (format parquet)")


def test_parquet_is_read_in_place(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write_parquet(root, "data/a[1].parquet", "select 1 as id, 2 as x")
    write_parquet(root, "data/b.parquet", "select 2.5::double as x, 2 as id")
    config = source("data/*.parquet", format="parquet", columns={"id": "VARCHAR"})
    assert in_place(config)
    assert not in_place(source("data/a.csv"))
    assert types(con, config, root) == {"id": "VARCHAR", "x": "DOUBLE"}
    assert read(con, config, root) == [("1", 2.0), ("2", 2.5)]
    sql = read_sql(config, observe(config, root), root)
    con.execute(f"create view flights as {sql}")
    assert con.execute("from flights").fetchall() == [("1", 2.0), ("2", 2.5)]


def test_parquet_files_with_other_columns_are_refused(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write_parquet(root, "data/a.parquet", "select 1 as id, 2 as x")
    write_parquet(root, "data/b.parquet", "select 2 as id")
    found = error_of(con, source("data/*.parquet", format="parquet"), root)
    assert 'data/b.parquet lacks "x", compared with data/a.parquet' in found


def test_parquet_that_is_none_is_named(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write_parquet(root, "data/a.parquet", "select 1 as id")
    write(root, "data/b.parquet", "no parquet file at all")
    found = error_of(con, source("data/*.parquet", format="parquet"), root)
    assert found.startswith('error[TR713]: source "flights" cannot be read\n  data/b.parquet\n')


# DuckDB


def write_database(root: Path, *statements: str) -> None:
    with duckdb.connect(root / "data" / "raw.duckdb") as database:
        for statement in statements:
            database.execute(statement)


def test_database_table_is_read(root: Path, con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    write_database(root, "create table t as select i as id, i * 2 as x from range(5000) r(i)")
    config = source("data/raw.duckdb", format="duckdb", columns={"x": "DOUBLE"})
    assert types(con, config, root) == {"id": "BIGINT", "x": "DOUBLE"}
    assert build(con, config, root, tmp_path) == 5000


def test_database_table_is_chosen_by_name(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write_database(root, "create table t as select 1 as id", "create schema s", "create view s.v as select 2 as id")
    config = source("data/raw.duckdb", format="duckdb")
    assert read(con, {**config, "table": "t"}, root) == [(1,)]
    assert read(con, {**config, "table": "s.v"}, root) == [(2,)]
    assert error_of(con, config, root) == (
        'error[TR713]: source "flights" does not say which table it reads\n'
        "  data/raw.duckdb holds t, s.v\n"
        "  fix: name one of them as `table`"
    )
    assert 'has no table "s.vv"' in error_of(con, {**config, "table": "s.vv"}, root)


def test_database_log_counts_as_content(root: Path) -> None:
    write_database(root, "create table t as select 1 as id")
    config = source("data/raw.duckdb", format="duckdb", table="t")
    before = observe(config, root)
    write(root, "data/raw.duckdb.wal", "x")
    after = observe(config, root)
    assert paths_of(after) == ["data/raw.duckdb", "data/raw.duckdb.wal"]
    assert before.digest != after.digest
    with pytest.raises(StepError, match=r"data/raw\.duckdb\.wal changed while it was read"):
        check_unchanged(before, root)


HOLDER = """
import sys, duckdb
database = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_database_held_by_another_process_is_named(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write_database(root, "create table t as select 1 as id")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root / "data/raw.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    found = error_of(con, source("data/raw.duckdb", format="duckdb"), root)
    holder.communicate(timeout=60)
    assert found.startswith('error[TR713]: the database of source "flights" is held open by another program\n')
    assert f"process {holder.pid}\n" in found


def test_database_that_is_none_and_several_are_refused(root: Path, con: duckdb.DuckDBPyConnection) -> None:
    write(root, "data/raw.duckdb", "no database at all" * 1000)
    found = error_of(con, source("data/raw.duckdb", format="duckdb"), root)
    assert "not a valid DuckDB database file" in found
    write(root, "data/other.duckdb", "")
    with pytest.raises(ProjectError, match="names 2 database files"):
        observe(source("data/*.duckdb", format="duckdb"), root)


@pytest.mark.parametrize(
    ("more", "notes"),
    [
        ("", ("2 of 4 files are empty, without a header line: data/b.csv, data/d.csv",)),
        (", csv: {header: true}", ("2 of 4 files are empty, without a header line: data/b.csv, data/d.csv",)),
        (", csv: {header: false}", ()),
    ],
)
def test_empty_csv_among_others_is_told(make_project: MakeProject, more: str, notes: tuple[str, ...]) -> None:
    project = make_project({"treadle.yml": "name: shop\n", "data/a.csv": "id\n1\n", "data/c.csv": "id\n2\n"})
    project.write("features/raw.yml", f"sources: [{{name: raw, path: 'data/*.csv'{more}}}]\n")
    for name in ("b", "d"):
        project.write(f"data/{name}.csv", "")
    assert project.build().notes("raw") == notes


def test_many_empty_files_are_counted(make_project: MakeProject) -> None:
    project = make_project({"treadle.yml": "name: shop\n", "data/a.csv": "id\n1\n"})
    project.write("features/raw.yml", "sources: [{name: raw, path: 'data/*.csv'}]\n")
    for n in range(1200):
        project.write(f"data/{n:04}.csv", "")
    assert project.treadle("build").stderr.splitlines()[1].strip() == (
        "note: 1,200 of 1,201 files are empty, without a header line: "
        "data/0000.csv, data/0001.csv, data/0002.csv and 1,197 more"
    )


def test_empty_file_of_json_lines_is_as_it_should_be(make_project: MakeProject) -> None:
    project = make_project({"treadle.yml": "name: shop\n", "data/a.jsonl": '{"id": 1}\n', "data/b.jsonl": ""})
    project.write("features/raw.yml", "sources: [{name: raw, path: 'data/*.jsonl'}]\n")
    assert project.build().notes("raw") == ()
