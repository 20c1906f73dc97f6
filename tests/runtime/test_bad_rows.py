"""`bad_rows: quarantine`: rows of a CSV that do not parse are left out of the table, kept beside it and counted."""

from __future__ import annotations

import gzip
import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from treadle.errors import StepError
from treadle_runtime import engine, quarantine, readers
from treadle_runtime.engine import Connection, Written, connect, view_sql
from treadle_runtime.quarantine_read import Files
from treadle_runtime.sources import observe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from conftest import Built, MakeProject, ProjectFolder
    from treadle_runtime.store import Version

TYPES = {"id": "INTEGER", "ts": "TIMESTAMP", "note": "VARCHAR"}
HEAD = "id,ts,note\n"
SHOP: Mapping[str, str] = {
    "treadle.yml": "name: shop\n",
    "features/copy.sql": "{{ config(entity='id', event_time='ts') }}\nselect * from {{ ref('orders') }}\n",
    "features/ids.yml": "entities: [{name: id}]\n",
}


def source(more: str = ", bad_rows: quarantine", *, types: Mapping[str, str] = TYPES, path: str = "data/*.csv*") -> str:
    columns = ", ".join(f"{{name: {name}, type: {kind}}}" for name, kind in types.items())
    return f"sources:\n  - {{name: orders, path: '{path}', columns: [{columns}]{more}}}\n"


TIMED = ", bad_rows: quarantine, event_time: ts"


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    project = make_project(SHOP, {"features/orders.yml": source()})
    project.write("data/a.csv", HEAD + "1,2024-01-01,a\nx,2024-01-01,b\n3,2024-01-02\n4,2024-01-03,d\n")
    project.write("data/b.csv", HEAD + '5,2024-01-04,"e\ne"\n\n6,2024-01-04,f,f\nx,later,g\n7,2024-01-05,"h"\n')
    return project


BAD = [
    {"file": "data/a.csv", "line": 3, "column": "id", "error": '"x" is no INTEGER', "text": "x,2024-01-01,b"},
    {
        "file": "data/a.csv",
        "line": 4,
        "column": "note",
        "error": "2 fields, where the first line has 3",
        "text": "3,2024-01-02",
    },
    {
        "file": "data/b.csv",
        "line": 5,
        "column": None,
        "error": "4 fields, where the first line has 3",
        "text": "6,2024-01-04,f,f",
    },
    {"file": "data/b.csv", "line": 6, "column": "id", "error": '"x" is no INTEGER', "text": "x,later,g"},
]
NOTE = "4 rows of 8 do not parse and are left out; see `treadle show orders --bad-rows`"


def version(built: Built, step: str = "orders") -> Version:
    assert built.outcome.published, built.problems
    result = built.outcome.run.results[step]
    found = result.version or built.store.read(result.planned.fingerprint)
    assert found is not None
    return found


def rows(found: Version) -> list[tuple[Any, ...]]:
    with engine.connect(temp_directory=found.folder) as con:
        return con.execute(view_sql(found, f"'{found.folder}'") or "").fetchall()


def ids(found: Version) -> list[int]:
    return [row[0] for row in rows(found)]


# a build


@pytest.mark.parametrize("more", [", bad_rows: quarantine", TIMED], ids=["at once", "by file"])
def test_bad_rows_are_left_out_kept_and_counted(project: ProjectFolder, more: str) -> None:
    project.write("features/orders.yml", source(more))
    built = project.build()
    found = version(built)
    assert ids(found) == [1, 4, 5, 7]
    assert list(quarantine.read(found)) == BAD
    assert (found.rows, found.info["bad_rows"]) == (4, 4)
    assert built.notes("orders") == (NOTE,)
    assert ids(version(built, "copy")) == [1, 4, 5, 7]
    [step] = [step for step in project.json("build", "--full-refresh")["steps"] if step["id"] == "orders"]
    assert step["info"]["bad_rows"] == 4
    assert project.treadle("verify").code == 0


def test_build_says_it_beneath_the_step(project: ProjectFolder) -> None:
    assert f"  note: {NOTE}\n" in project.treadle("build").stderr
    assert "note" not in project.treadle("build").stderr  # nothing was read


@pytest.mark.parametrize("more", [", bad_rows: quarantine", TIMED], ids=["at once", "by file"])
def test_bytes_are_the_same_from_build_to_build(project: ProjectFolder, make_project: MakeProject, more: str) -> None:
    project.write("features/orders.yml", source(more))
    other = make_project(SHOP, {"features/orders.yml": source(more)})
    for name in ("b.csv", "a.csv"):
        other.write(f"data/{name}", (project.root / "data" / name).read_text())
    project.build()
    other.build()
    assert project.metas() == other.metas()
    assert project.build(full_refresh=True).notes("orders")[-1] == "computed again, with the same bytes"


@pytest.mark.parametrize("more", [", bad_rows: quarantine", TIMED], ids=["at once", "by file"])
def test_source_without_bad_rows_has_no_such_part(project: ProjectFolder, more: str) -> None:
    project.write("features/orders.yml", source(more, path="data/good.csv"))
    project.write("data/good.csv", HEAD + "1,2024-01-01,a\n")
    built = project.build()
    assert [part.name for part in version(built).parts if part.name == quarantine.PART] == []
    assert (version(built).info["bad_rows"], built.notes("orders")) == (0, ())


def test_new_file_is_the_only_one_that_is_read(project: ProjectFolder) -> None:
    project.write("features/orders.yml", source(TIMED))
    project.build()
    project.write("data/c.csv", HEAD + "8,2024-01-06,i\n9,never,j\n")
    built = project.build()
    assert built.outcome.run.results["orders"].pieces == (1, 3)
    assert ids(version(built)) == [1, 4, 5, 7, 8]
    assert [row["file"] for row in quarantine.read(version(built))] == ["data/a.csv"] * 2 + ["data/b.csv"] * 2 + [
        "data/c.csv"
    ]


def test_first_bad_row_does_not_make_good_files_be_read_again(project: ProjectFolder) -> None:
    project.write("features/orders.yml", source(TIMED, path="data/[1-9].csv"))
    for n in (2, 3):
        project.write(f"data/{n}.csv", HEAD + f"{n},2024-01-0{n},a\n")
    project.build()
    project.write("data/1.csv", HEAD + "1,2024-01-01,a\n0,never,b\n")  # the first file tells how all are read
    built = project.build()
    assert (built.outcome.run.results["orders"].pieces, built.info("orders")["bad_rows"]) == ((1, 3), 1)


def test_files_of_one_content_have_their_bad_rows_each(project: ProjectFolder) -> None:
    project.write("features/orders.yml", source(TIMED, path="data/?.csv"))
    project.write("data/b.csv", (project.root / "data/a.csv").read_text())
    found = version(project.build())
    assert ids(found) == [1, 4, 1, 4]
    assert [(row["file"], row["line"]) for row in quarantine.read(found)] == [
        ("data/a.csv", 3),
        ("data/a.csv", 4),
        ("data/b.csv", 3),
        ("data/b.csv", 4),
    ]


def test_renamed_file_is_told_by_its_new_name(project: ProjectFolder) -> None:
    project.build()
    (project.root / "data/b.csv").rename(project.root / "data/c.csv")
    assert {row["file"] for row in quarantine.read(version(project.build()))} == {"data/a.csv", "data/c.csv"}


def test_incremental_feature_reads_the_rows_and_not_the_bad_ones(project: ProjectFolder) -> None:
    project.write("features/orders.yml", source(TIMED))
    config = "{{ config(materialized='incremental', entity='id', event_time='ts', interval='1d') }}"
    project.write("features/copy.sql", f"{config}\nselect * from {{{{ ref('orders') }}}}\n")
    assert ids(version(project.build(), "copy")) == [1, 4, 5, 7]


def test_clean_keeps_what_was_left_out(project: ProjectFolder) -> None:
    project.write("features/orders.yml", source(TIMED))
    project.build()
    project.treadle("clean", "--older-than", "0s", "--yes")
    assert project.json("show", "orders", "--bad-rows")["sample"] == BAD


def test_default_has_the_fingerprint_that_it_always_had(project: ProjectFolder) -> None:
    project.write("data/good.csv", HEAD + "1,2024-01-01,a\n")
    found = []
    for more in ("", ", bad_rows: fail", ", bad_rows: quarantine"):
        project.write("features/orders.yml", source(more, path="data/good.csv"))
        found.append(project.plan().identities["orders"].fingerprint)
    assert found[0] == found[1] != found[2]


def test_freshness_does_not_count_what_is_left_out(project: ProjectFolder) -> None:
    project.write("features/orders.yml", source(", bad_rows: quarantine, freshness: {column: ts, warn_after: 1h}"))
    project.write("data/c.csv", HEAD + "x,2024-02-01,later\n8,2024-01-09,i\n")
    [found] = project.json("freshness")["sources"]
    assert found["newest"].startswith("2024-01-09")


# show


def test_show_prints_bad_rows(project: ProjectFolder) -> None:
    project.build()
    assert project.treadle("show", "orders", "--bad-rows", "--limit", "3").stdout.splitlines() == [
        "line          column  error                                 text",
        'data/a.csv:3  id      "x" is no INTEGER                     x,2024-01-01,b',
        "data/a.csv:4  note    2 fields, where the first line has 3  3,2024-01-02",
        "data/b.csv:5          4 fields, where the first line has 3  6,2024-01-04,f,f",
        "4 of 8 rows do not parse, the first 3 of them above: see --limit",
    ]
    assert project.json("show", "orders", "--bad-rows") == {"name": "orders", "rows": 4, "bad_rows": 4, "sample": BAD}
    assert project.treadle("show", "orders").stdout.splitlines()[-2:] == ["4 rows x 3", NOTE]
    assert project.json("show", "orders")["bad_rows"] == 4


def test_show_refuses_bad_rows_of_what_keeps_none(project: ProjectFolder) -> None:
    text = project.treadle("show", "orders", "--bad-rows", code=2).stderr
    assert text.startswith('error[TR807]: "orders" is not built as its files stand now\n')
    text = project.treadle("show", "copy", "--bad-rows", code=2).stderr
    assert text.startswith('error[TR603]: "copy" is no source with bad_rows: quarantine\n')
    project.write("features/orders.yml", source(""))
    text = project.treadle("show", "orders", "--bad-rows", code=2).stderr
    assert "a row that does not parse fails its build\n  fix: set it in the source" in text


# errors


def error_of(project: ProjectFolder) -> str:
    return project.treadle("build", code=1).stderr.partition("error")[2].partition("\nnot run")[0]


def test_error_of_a_bad_row_tells_of_the_key(project: ProjectFolder) -> None:
    project.write("features/orders.yml", source(""))
    assert error_of(project).startswith(
        '[TR713]: source "orders" cannot be read\n'
        "  data/a.csv:4   3,2024-01-02\n"
        "  2 fields, where the first line has 3\n"
        "  fix: correct the line; a value that holds the delimiter needs quotes; "
        "or leave such rows out with bad_rows: quarantine\n"
    )


@pytest.mark.parametrize("more", [", bad_rows: quarantine", TIMED], ids=["at once", "by file"])
@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (
            HEAD + "x,2024-01-01,a\ny,2024-01-01,b\n",
            2,
            "no row of the file parses, and bad_rows: quarantine would leave none",
        ),
        (
            HEAD + "1;2024-01-01;a\n2;2024-01-01;b\n",
            2,
            "no row of the file parses, and bad_rows: quarantine would leave none",
        ),
        (HEAD + '1,2024-01-01,a\n2,2024-01-01,"b\n3,2024-01-01,c\n', 3, "where its row ends cannot be told"),
    ],
    ids=["type", "delimiter", "quote"],
)
def test_file_that_is_broken_as_a_whole_is_an_error(
    project: ProjectFolder, more: str, content: str, line: int, why: str
) -> None:
    project.write("features/orders.yml", source(more))
    project.write("data/c.csv", content)
    text = error_of(project)
    assert text.startswith(f'[TR713]: source "orders" cannot be read\n  data/c.csv:{line}   ')
    assert why in text


@pytest.mark.parametrize("more", [", bad_rows: quarantine", TIMED], ids=["at once", "by file"])
def test_first_line_of_each_file_must_parse(project: ProjectFolder, more: str) -> None:
    project.write("features/orders.yml", source(more))
    project.write("data/c.csv", HEAD)
    assert project.build().outcome.published  # no rows, and none that is bad
    project.write("data/c.csv", 'id,"ts"x,note\n8,2024-01-08,h\n')
    assert error_of(project).startswith(
        '[TR713]: source "orders" cannot be read\n  data/c.csv:1   id,"ts"x,note\n  a quote is not closed\n'
        "  the first line tells the columns, so that bad_rows: quarantine cannot leave it out\n"
    )


# rows kept and rows left out, against a slow and obvious reader


@dataclass(frozen=True)
class Record:
    """A row as it stands in a file: the line that it begins on, its fields, whether they are well-formed."""

    line: int
    fields: list[str]
    is_whole: bool


def read_slowly(text: str) -> list[Record]:
    """Read one character after the other; a line break within quotes belongs to the value."""
    records, line, at = [], 1, 0
    while at < len(text):
        start, fields, is_whole = line, [""], True
        while at < len(text) and text[at] != "\n":
            if text[at] == ",":
                fields.append("")
                at += 1
            elif text[at] == '"' and fields[-1] == "":
                at += 1
                while text[at] != '"' or text[at + 1 : at + 2] == '"':
                    line += text[at] == "\n"
                    fields[-1] += text[at]
                    at += 1 + (text[at] == '"')
                at += 1
                if text[at : at + 1] not in (",", "\n", ""):
                    is_whole = False
                    while text[at : at + 1] not in ("\n", ""):
                        at += 1
            else:
                fields[-1] += text[at]
                at += 1
        if fields != [""]:
            records.append(Record(start, fields, is_whole))
        line, at = line + 1, at + 1
    return records


def is_good(record: Record, declared: Mapping[str, str]) -> bool:
    fields = record.fields[:-1] if len(record.fields) == 4 and record.fields[-1] == "" else record.fields
    is_form = record.is_whole and len(fields) == 3 and "\ufffd" not in "".join(fields)
    patterns = {"INTEGER": r"-?\d{0,9}|", "DATE": r"2024-01-\d\d|"}
    named = zip(("a", "b", "c"), fields, strict=False)
    return is_form and all(re.fullmatch(patterns.get(declared.get(n, ""), r"(?s).*"), text) for n, text in named)


GOOD = (
    "{n},2024-01-0{d},n{n}",
    '{n},2024-01-0{d},"n,{n}"',
    '{n},2024-01-0{d},"n\n{n}"',
    '{n},,"say ""{n}"""',
    "{n},2024-01-0{d},x{n},",
)
CROOKED = (
    "{n}",
    "{n},2024-01-0{d}",
    "{n},2024-01-0{d},a,b",
    "n{n},2024-01-0{d},a",
    "{n},2024-13-0{d},a",
    '"{n}"x,2024-01-0{d},a',
    '{n},2024-01-0{d},"a\nb",c',
    'n{n},never,"a\nb"',
    "{n},2024-01-0{d},\udcff{n}",
    "",
)


def crooked_csv(rng: random.Random) -> bytes:
    lines = ["a,b,c"]
    share = rng.choice([0.0, 0.1, 0.5, 0.9])
    for n in range(rng.choice([0, 1, 3, 10, 30])):
        form = rng.choice(CROOKED if rng.random() < share else GOOD)
        lines.append(form.format(n=n, d=rng.randrange(1, 10)))
    text = "\n".join(lines) + rng.choice(["\n", "", "\n\n"])
    if rng.random() < 0.3:
        text = text.replace("\n", "\r\n")
    return text.encode(errors="surrogateescape")


@pytest.fixture
def con(tmp_path: Path) -> Iterator[Connection]:
    with connect(temp_directory=tmp_path) as opened:
        yield opened


def read_quickly(
    con: Connection, config: Mapping[str, Any], root: Path
) -> tuple[list[tuple[Any, ...]], list[dict[str, Any]]]:
    observed, folder = observe(config, root), root / "out"
    folder.mkdir(exist_ok=True)
    (folder / quarantine.PART).unlink(missing_ok=True)

    def run(select: str) -> Written:
        return engine.write_query(con, select, folder)

    with readers.reading(con, config, observed, root):
        files = Files(con, config, observed, root, root)
        _, n = quarantine.write(files, folder, lambda: run(readers.load(con, config, observed, root)), run)
    kept = con.execute(f"select * from '{folder}/part-0.parquet'").fetchall()
    part = folder / quarantine.PART
    bad = [json.loads(line) for line in part.read_text().splitlines()] if part.exists() else []
    assert n == len(bad)
    return kept, bad


def as_text(row: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple("" if value is None else str(value).replace("\r\n", "\n") for value in row)


@pytest.mark.parametrize("declared", [{"a": "INTEGER", "b": "DATE", "c": "VARCHAR"}, {"a": "INTEGER"}, {}], ids=len)
def test_every_row_is_kept_or_left_out_and_none_is_both(
    con: Connection, tmp_path: Path, declared: Mapping[str, str]
) -> None:
    rng = random.Random(len(declared))
    n_read = n_errors = n_bad = 0
    for _ in range(60):
        (tmp_path / "data").mkdir(exist_ok=True)
        for file in (tmp_path / "data").iterdir():
            file.unlink()
        contents = {
            f"data/{n}.csv{'.gz' if rng.random() < 0.2 else ''}": crooked_csv(rng) for n in range(rng.randrange(1, 4))
        }
        for path, content in contents.items():
            (tmp_path / path).write_bytes(gzip.compress(content) if path.endswith(".gz") else content)
        files = {
            path: read_slowly(content.decode(errors="replace").replace("\r\n", "\n"))[1:]
            for path, content in contents.items()
        }
        config = {"name": "s", "paths": ["data/*"], "format": "csv", "columns": declared, "bad_rows": "quarantine"}
        good = {path: [is_good(record, declared) for record in records] for path, records in files.items()}
        if any(found and not any(found) for found in good.values()):
            with pytest.raises(StepError) as caught:
                read_quickly(con, config, tmp_path)
            assert [problem.code for problem in caught.value.problems] == ["TR713"], contents
            n_errors += 1
            continue
        kept, bad = read_quickly(con, config, tmp_path)
        order = sorted(files)
        expected = [
            as_text(tuple(record.fields[:3])) for path in order for record in files[path] if is_good(record, declared)
        ]
        assert [as_text(row) for row in kept] == expected, contents
        assert [(row["file"], row["line"]) for row in bad] == [
            (path, record.line) for path in order for record in files[path] if not is_good(record, declared)
        ], contents
        n_read, n_bad = n_read + 1, n_bad + len(bad)
    assert min(n_read, n_errors) > 3
    assert n_bad > 100


# rows that are too long for the reader


@pytest.mark.parametrize("rows", ["", "6,2024-01-06,f\n"], ids=["alone", "after another"])
@pytest.mark.parametrize("name", ["d.csv", "d.csv.gz"])
@pytest.mark.parametrize("more", ["", ", event_time: ts", ", bad_rows: quarantine", TIMED])
def test_last_row_that_is_too_long_is_not_passed_over(project: ProjectFolder, more: str, name: str, rows: str) -> None:
    project.write("features/orders.yml", source(more, path="data/[cd].csv*"))
    project.write("data/c.csv", f"{HEAD}5,2024-01-05,e\n")
    data = f"{HEAD}{rows}7,2024-01-07,{'c' * 36_000_000}\n".encode()
    (project.root / "data" / name).write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    text = error_of(project)
    assert text.startswith(f'[TR713]: source "orders" cannot be read\n  data/{name}')
    assert "row is longer than 2,000,000 bytes" in text


@pytest.mark.parametrize("more", [", bad_rows: quarantine", TIMED])
def test_row_that_is_too_long_is_not_left_out(project: ProjectFolder, more: str) -> None:
    project.write("features/orders.yml", source(more, path="data/c.csv*"))
    project.write("data/c.csv", f"{HEAD}x,2024-01-06,a\n7,2024-01-07,{'c' * 36_000_000}\n8,2024-01-08,d\n")
    text = error_of(project)
    assert text.startswith('[TR713]: source "orders" cannot be read\n  data/c.csv:3   7,2024-01-07,ccc')
    assert "  the row is longer than 2,000,000 bytes\n  bad_rows: quarantine cannot leave it out\n" in text
