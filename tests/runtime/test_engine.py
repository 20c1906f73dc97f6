"""Queries and Arrow tables become parts: locked in, ordered, byte-equal, with errors in the user's words."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.errors import Location, StepError, StoreError
from treadle_runtime import engine
from treadle_runtime.engine import Connection, connect, create_view, lock_down, write_arrow, write_query
from treadle_runtime.store import Column, Store, Version
from treadle_runtime.types import quote_name
from treadle_runtime.viewsql import escape_glob

PART = "part-0.parquet"


@pytest.fixture
def con(tmp_path: Path) -> Generator[Connection]:
    (tmp_path / "spill").mkdir()
    connection = connect(temp_directory=tmp_path / "spill")
    yield connection
    connection.close()


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir(parents=True)
    return tmp_path / name


def version_of(con: Connection, root: Path, sql: str, fingerprint: str = "f1") -> Version:
    with Store(root, durable=False).draft(fingerprint, kind="feature") as draft:
        columns, _, _ = write_query(con, sql, draft.folder)
        return draft.publish(columns, {})


def failed(
    con: Connection,
    tmp_path: Path,
    sql: str,
    *,
    where: Location | None = None,
    order_by: Sequence[str] = (),
) -> list[str]:
    """Return the lines of the error that a query ends with."""
    target = folder(tmp_path, "failed")
    with pytest.raises(StepError) as caught:
        write_query(con, sql, target, order_by=order_by, what='feature "late"', where=where)
    return str(caught.value).splitlines()


# writing


def test_a_query_is_written_with_its_columns_and_rows(con: Connection, tmp_path: Path) -> None:
    written = write_query(con, "select 1 as a, 'x' as b union all select 2, null;", tmp_path)
    assert written.columns == (Column("a", "INTEGER"), Column("b", "VARCHAR"))
    assert (written.rows, written.spilled) == (2, False)
    assert con.execute(f"from '{tmp_path / PART}'").fetchall() == [(1, "x"), (2, None)]


@pytest.mark.parametrize(
    "sql",
    [
        "from range(3) -- a comment at the end",
        "with t as (select 1 as x) select * from t",
        "select 1 as x ;\n",
    ],
)
def test_any_form_of_select_is_written(con: Connection, tmp_path: Path, sql: str) -> None:
    assert write_query(con, sql, tmp_path).rows >= 1


def test_a_result_without_rows_keeps_its_columns(con: Connection, tmp_path: Path) -> None:
    version = version_of(con, tmp_path, "select 1::hugeint as a, [interval 1 day] as b where false")
    assert version.rows == 0
    create_view(con, "empty", version)
    assert engine.describe(con, "from empty") == [("a", "HUGEINT"), ("b", "INTERVAL[]")]


def test_names_of_columns_survive_whatever_they_are(con: Connection, tmp_path: Path) -> None:
    names = ["a b", 'q"q', "select", "ünï", "filename", "file_row_number", "a.b", "'", "\n", "rowid"]
    select = ", ".join(f"{i} as {quote_name(name)}" for i, name in enumerate(names))
    version = version_of(con, tmp_path, f"select {select}")
    create_view(con, 'odd "view"', version)
    assert [name for name, _ in engine.describe(con, 'from "odd ""view"""')] == names
    assert con.execute('from "odd ""view"""').fetchall() == [tuple(range(len(names)))]


def test_the_order_of_the_query_is_kept_when_none_is_asked_for(con: Connection, tmp_path: Path) -> None:
    sql = "select x, x::hugeint as y from (select unnest([3, 1, 2]) as x) order by x desc"
    version = version_of(con, tmp_path, sql)
    create_view(con, "v", version)
    assert con.execute("select x from v").fetchall() == [(3,), (2,), (1,)]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.none() | st.integers(0, 2),
        st.sampled_from([0.5, None, float("inf"), -1.0]),
    ),
    max_size=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, seed=st.integers(0, 2**32))
def test_ordered_files_do_not_depend_on_the_order_of_the_input(
    con: Connection, tmp_path: Path, rows: list[tuple[object, ...]], seed: int
) -> None:
    types = {"v": pa.float64(), "t": pa.int64(), "k": pa.string()}
    shuffled = random.Random(seed).sample(rows, len(rows))
    digests = []
    for order in (rows, shuffled):
        named = [dict(zip("ktv", row, strict=True)) for row in order]
        table = pa.Table.from_pylist(named, schema=pa.schema(types))
        write_arrow(con, table, tmp_path, ["k", "T"])
        digests.append(hashlib.sha256((tmp_path / PART).read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    stored = [(k, t, v) for v, t, k in con.execute(f"from '{tmp_path / PART}'").fetchall()]
    assert stored == sorted(rows, key=lambda row: [(value is None, value) for value in row])


WRITE = """
import pathlib, sys
from treadle_runtime.engine import connect, write_query
folder = pathlib.Path(sys.argv[1])
sql = '''
select range % 97 as k, sum(sqrt(range)) as s, count(*) as n, list(range % 3) as l,
       interval (range % 97) day as i,
       case when k % 5 = 0 then null else 'name ' || k end as name
from range(200000) group by k, i
'''
write_query(connect(temp_directory=folder), sql, folder, order_by=sys.argv[2:])
"""


@pytest.mark.parametrize("order", [[], ["k"]])
def test_two_processes_write_equal_bytes(tmp_path: Path, order: list[str]) -> None:
    digests = set()
    for name in ("a", "b", "c"):
        subprocess.run([sys.executable, "-c", WRITE, str(folder(tmp_path, name)), *order], check=True)
        digests.add(hashlib.sha256((tmp_path / name / PART).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_a_query_beyond_memory_spills_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    spill = folder(tmp_path, "spill")
    con = connect(temp_directory=spill, memory_limit="60MB")
    lock_down(con, [tmp_path])
    big = write_query(con, "select hash(range) as h, range as r from range(4000000) order by h", tmp_path)
    assert (big.rows, big.spilled) == (4_000_000, True)
    assert not write_query(con, "select 1 as a", tmp_path).spilled
    con.close()
    assert os.listdir(spill) == []


# Arrow


def test_polars_results_are_written_as_they_are(con: Connection, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "k": ["b", "a"],
            "c": pl.Series(["x", None], dtype=pl.Categorical),
            "l": [[1], None],
            "n": [None, None],
        }
    )
    written = write_arrow(con, frame.to_arrow(), tmp_path, ["k"])
    assert written.columns[0] == Column("k", "VARCHAR")
    assert con.execute(f"from '{tmp_path / PART}'").fetchall() == [
        ("a", None, None, None),
        ("b", "x", [1], None),
    ]


def test_a_stream_of_batches_is_read_once(con: Connection, tmp_path: Path) -> None:
    table = pa.table({"x": list(range(1000))})
    written = write_arrow(con, table.to_reader(max_chunksize=10), tmp_path)
    assert written.rows == 1000
    assert con.execute("select count(*) from duckdb_views() where not internal").fetchall() == [(0,)]


def test_arrow_types_unknown_to_the_engine_are_named(con: Connection, tmp_path: Path) -> None:
    table = pa.table({"ok": [1], "half": pa.array([1.0], pa.float16()), "wide": pa.array([1], pa.decimal256(50))})
    with pytest.raises(StepError) as caught:
        write_arrow(con, table, tmp_path, what='feature "f"')
    assert [problem.code for problem in caught.value.problems] == ["TR703", "TR703"]
    assert caught.value.problems[0].what == 'column "half" of feature "f" cannot be stored: its type is halffloat'


# views


def test_a_dataset_is_mapped_and_a_folder_of_odd_name_is_read_as_it_is(con: Connection, tmp_path: Path) -> None:
    for name in ("run=5", "st*r", "stXr", "we[i]rd", "sp ace", "quo'te"):
        root = tmp_path / name
        version = version_of(con, root, f"select '{name.replace(chr(39), chr(39) * 2)}' as x")
        create_view(con, "v", version)
        assert con.execute("from v").fetchall() == [(name,)]
        with Store(root).draft("d1", kind="dataset") as draft:
            table = pa.table({"_at": [1, 2], "x": ["a", None]})
            with pa.ipc.new_file(str(draft.folder / "data.arrow"), table.schema) as writer:
                writer.write_table(table)
            dataset = draft.publish([], {})
        create_view(con, "d", dataset)
        assert con.execute("from d").fetchall() == [(1, "a"), (2, None)]


def test_parts_of_a_version_are_read_in_order(con: Connection, tmp_path: Path) -> None:
    with Store(tmp_path).draft("f1", kind="feature") as draft:
        for i in (1, 0):
            write_query(con, f"select {i} as x", draft.folder)
            (draft.folder / PART).rename(draft.folder / f"part-{i}.tmp")
        for i in (0, 1):
            (draft.folder / f"part-{i}.tmp").rename(draft.folder / f"part-{i}.parquet")
        version = draft.publish([Column("x", "INTEGER")], {})
    create_view(con, "v", version)
    assert con.execute("from v").fetchall() == [(0,), (1,)]


# what a query may reach


@pytest.mark.parametrize(
    "sql",
    [
        "from read_text('/etc/hostname')",
        "from '{outside}'",
        "from '{inside}/../outside.parquet'",
        "from glob('/*')",
        "from read_blob('/proc/self/environ')",
        "from sniff_csv('/etc/hostname')",
        "from parquet_metadata('{outside}')",
    ],
)
def test_a_locked_connection_reads_nothing_else(con: Connection, tmp_path: Path, sql: str) -> None:
    inside, outside = folder(tmp_path, "inside"), tmp_path / "outside.parquet"
    con.execute(f"copy (select 1 as x) to '{outside}'")
    lock_down(con, [inside])
    with pytest.raises(StepError) as caught:
        write_query(con, sql.format(inside=inside, outside=outside), inside)
    assert caught.value.problems[0].code == "TR702"
    assert "disabled by configuration" in caught.value.problems[0].why


@pytest.mark.parametrize(
    "sql",
    [
        "set threads = 4",
        "set TimeZone = 'Europe/Berlin'",
        "attach '{0}/x.db'",
        "load httpfs",
        "copy (select 1) to '{0}.csv'",
    ],
)
def test_a_locked_connection_changes_nothing(con: Connection, tmp_path: Path, sql: str) -> None:
    lock_down(con, [folder(tmp_path, "inside")])
    with pytest.raises(duckdb.Error):
        con.execute(sql.format(tmp_path / "outside"))


def test_allowed_files_and_folders_stay_readable(con: Connection, tmp_path: Path) -> None:
    data = folder(tmp_path, "da[t]a*")
    (data / "one.csv").write_text("a\n1\n")
    (data / "two.csv").write_text("a\n2\n")
    version = version_of(con, tmp_path / "run=1 [x]", "select 3 as a")
    create_view(con, "three", version)
    lock_down(con, [data / "one.csv", version.folder])
    one = escape_glob(str(data / "one.csv"))
    assert con.execute(f"from read_csv('{one}') union all from three").fetchall() == [(1,), (3,)]
    with pytest.raises(duckdb.Error):
        con.execute(f"from read_csv('{escape_glob(str(data / 'two.csv'))}')")


def test_python_variables_are_no_tables(con: Connection, tmp_path: Path) -> None:
    frame = pa.table({"x": [1]})
    assert frame.num_rows == 1
    assert failed(con, tmp_path, "from frame")[0] == 'error[TR702]: SQL failed in feature "late"'


# errors


def test_a_failing_query_says_what_where_and_why(con: Connection, tmp_path: Path) -> None:
    con.execute("create table flights as select 1 as carrier, 2 as dep_delay")
    where = Location("features/late.sql", 2, 3, "carier,")
    assert failed(con, tmp_path, "select\n  carier,\n  dep_delay\nfrom flights", where=where) == [
        'error[TR702]: SQL failed in feature "late"',
        "  features/late.sql:2:3   carier,",
        '  Binder Error: Referenced column "carier" not found in FROM clause!',
        '  Candidate bindings: "carrier"',
        "  line 2 of the compiled SQL: carier,",
    ]


def test_a_table_that_is_not_there_suggests_the_near_one(con: Connection, tmp_path: Path) -> None:
    con.execute("create table flights as select 1 as carrier")
    assert failed(con, tmp_path, "select * from flihgts") == [
        'error[TR702]: SQL failed in feature "late"',
        "  Catalog Error: Table with name flihgts does not exist!",
        "  line 1 of the compiled SQL: select * from flihgts",
        "  did you mean: flights",
    ]


def test_a_value_that_fails_at_run_time_is_told_in_few_lines(con: Connection, tmp_path: Path) -> None:
    con.execute("create table t as select 'x' || range as v, range::hugeint as h from range(10)")
    lines = failed(con, tmp_path, "select h, cast(v as integer) as n from t")
    assert lines[:2] == [
        'error[TR702]: SQL failed in feature "late"',
        "  Conversion Error: Could not convert string 'x0' to INT32 when casting from source column v",
    ]
    assert len(lines) <= 4


def test_a_value_beyond_its_stored_form_names_its_column(con: Connection, tmp_path: Path) -> None:
    sql = f"select 1::hugeint as fine, {2**127 - 1}::hugeint as total from range(2)"
    source = "when casting from source column total"
    assert failed(con, tmp_path, sql) == [
        'error[TR703]: a value of column "total" of feature "late" cannot be stored',
        "  its type is HUGEINT, stored as DECIMAL(38,0)",
        f"  Conversion Error: Could not cast value {2**127 - 1} to DECIMAL(38,0) {source}",
        '  fix: select cast("total" as VARCHAR) as "total", or as DOUBLE if rounding does no harm',
    ]


def test_a_nested_value_beyond_its_stored_form_names_its_column(con: Connection, tmp_path: Path) -> None:
    sql = f"select 1::hugeint as fine, [{{'t': {2**127 - 3}::hugeint + range}}] as sums from range(3)"
    what = 'a value of column "sums" of feature "late" cannot be stored'
    assert failed(con, tmp_path, sql)[0] == f"error[TR703]: {what}"


def test_a_missing_column_of_the_order_lists_those_there_are(con: Connection, tmp_path: Path) -> None:
    assert failed(con, tmp_path, "select 1 as a, 2 as b", order_by=["a", "arrived_at"]) == [
        'error[TR706]: column "arrived_at" is missing in feature "late"',
        "  its columns are: a, b",
        "  fix: select that column, or correct its name in the configuration",
    ]


def test_too_little_memory_is_an_error_of_the_step(tmp_path: Path) -> None:
    con = connect(temp_directory=tmp_path, memory_limit="20MB")
    lines = failed(con, tmp_path, "select list(range) as l from range(20000000)")
    assert lines[0] == 'error[TR702]: SQL failed in feature "late"'
    assert lines[1].startswith("  Out of Memory Error")
    assert lines[-1] == "  fix: let fewer steps run at once, or give the engine more memory or disk"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error_of_the_store(con: Connection, tmp_path: Path) -> None:
    (tmp_path / PART).symlink_to("/dev/full")
    with pytest.raises(StoreError) as caught:
        write_query(con, "select 1 as a", tmp_path)
    assert caught.value.problems[0].code == "TR803"


# what it runs on


def test_a_connection_is_the_same_on_every_machine(con: Connection) -> None:
    names = (
        "TimeZone",
        "threads",
        "autoload_known_extensions",
        "autoinstall_known_extensions",
        "enable_progress_bar",
    )
    found = {name: con.execute(f"select current_setting('{name}')").fetchall()[0][0] for name in names}
    assert found == dict(zip(names, ("UTC", 1, False, False, False), strict=True))
    assert json.loads(con.execute("select to_json(timestamptz '2020-01-01 00:00:00+00')").fetchall()[0][0]) == (
        "2020-01-01 00:00:00+00"
    )


# columns of one name


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("select 1 as x, 2 as x", 'columns 1 and 2 are both called "x"'),
        ("select 1 as x, 2 as y, 3 as X;", 'columns 1 and 3 are both called "X"'),
        ("select 1 as x, 3 as x_1, 2 as x", 'columns 1 and 3 are both called "x"'),
        ("with t as (select 1 as x) select * from t, t as u -- why not", 'columns 1 and 2 are both called "x"'),
        (
            "from (select 1 as a, 2 as b, 3 as c, 4 as d) t, (select 1 as a, 2 as b, 3 as c, 4 as d) u",
            'columns 1 and 5 are both called "a"; columns 2 and 6 are both called "b"; columns 3 and 7 are both called "c" and 1 more',
        ),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, query: str, why: str) -> None:
    with connect(temp_directory=tmp_path) as con, pytest.raises(StepError) as caught:
        write_query(con, query, tmp_path, what='feature "spend"', where=Location("features/spend.sql", 1))
    assert str(caught.value) == (
        'error[TR715]: feature "spend" has two columns of one name\n'
        "  features/spend.sql:1\n"
        f"  {why}\n"
        "  fix: name one of them otherwise with `as`; of a join, name the columns, or leave some out: * exclude (...)"
    )


def test_columns_that_are_numbered_by_hand_are_none_of_one_name(tmp_path: Path) -> None:
    with connect(temp_directory=tmp_path) as con:
        written = write_query(con, "select 1 as x, 2 as x_1, 3 as x_2", tmp_path)
    assert [column.name for column in written.columns] == ["x", "x_1", "x_2"]
