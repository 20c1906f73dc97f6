"""The check whether rows stand in order, against the engine's own sort."""

from __future__ import annotations

from collections.abc import Generator
from datetime import date, datetime

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle_runtime.engine import Connection, connect
from treadle_runtime.ordering import OrderCheck
from treadle_runtime.types import quote_name

NAN = float("nan")
VALUES: dict[pa.DataType, list[object]] = {
    pa.int64(): [-(2**63), 0, 1],
    pa.uint8(): [0, 255],
    pa.float64(): [float("-inf"), -0.0, 0.0, 1.5, float("inf"), NAN],
    pa.float32(): [-1.0, NAN],
    pa.bool_(): [False, True],
    pa.string(): ["", "A", "a", "a\0", "ab", "é", "\U0001f642", "\uffff"],
    pa.large_string(): ["Z", "z"],
    pa.date32(): [date(1, 1, 1), date(2024, 2, 29)],
    pa.timestamp("us"): [datetime(1969, 1, 1), datetime(2024, 1, 1)],
    pa.timestamp("ns", "UTC"): [datetime(2024, 1, 1), datetime(2025, 1, 1)],
}


@pytest.fixture(scope="module")
def con(tmp_path_factory: pytest.TempPathFactory) -> Generator[Connection]:
    connection = connect(temp_directory=tmp_path_factory.mktemp("spill"))
    yield connection
    connection.close()


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Return a table of few distinct values, so that many rows are tied."""
    n = draw(st.integers(0, 6))
    columns = {}
    for i in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(list(VALUES)))
        values = draw(st.lists(st.sampled_from([None, *VALUES[kind]]), min_size=n, max_size=n))
        columns[f"c{i}"] = pa.array(values, kind)
    return pa.table(columns)


def numbered(con: Connection, table: pa.Table, order: list[str]) -> list[int]:
    """Return the numbers of the rows as the engine sorts them; rows that are equal keep their order."""
    with_number = table.append_column("number", pa.array(range(table.num_rows), pa.int64()))
    con.register("given", with_number)
    keys = ", ".join(f"{quote_name(name)} asc nulls last" for name in order)
    rows = con.execute(f"select number from given order by {keys}, number").fetchall()
    con.unregister("given")
    return [row[0] for row in rows]


def check(table: pa.Table, order_by: list[str], n_rows: int) -> bool:
    """Return what a check says of a table that passes by in pieces of some rows."""
    found = OrderCheck(table.column_names, order_by)
    for start in range(0, max(table.num_rows, 1), n_rows):
        found.see(table.slice(start, n_rows))
    return found.holds


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), table=tables(), n_rows=st.integers(1, 7))
def test_rows_are_in_order_exactly_if_the_engine_leaves_them(
    con: Connection, data: st.DataObject, table: pa.Table, n_rows: int
) -> None:
    names = data.draw(st.permutations(table.column_names))
    order_by = names[: data.draw(st.integers(1, len(names)))]
    order = order_by + [name for name in table.column_names if name not in order_by]
    expected = numbered(con, table, order)
    assert check(table, order_by, n_rows) == (expected == list(range(table.num_rows)))
    assert check(table.take(pa.array(expected, pa.int64())), order_by, n_rows)


def test_names_of_the_order_may_be_in_other_case() -> None:
    table = pa.table({"A": [2, 1], "b": [1, 2]})
    assert OrderCheck(table.column_names, ["B"]).see(table)
    assert not OrderCheck(table.column_names, ["a"]).see(table)


@pytest.mark.parametrize(
    ("table", "order_by"),
    [
        (pa.table({"a": [1]}), ["b"]),  # the engine tells which column is missing
        (pa.table({"a": [1], "A": [1]}), ["a"]),  # the engine renames one of them
        (pa.table({"a": [[1], [2]]}), ["a"]),
        (pa.table({"a": pa.array(["x", "y"]).dictionary_encode()}), ["a"]),
    ],
)
def test_what_cannot_be_told_counts_as_out_of_order(table: pa.Table, order_by: list[str]) -> None:
    assert not OrderCheck(table.column_names, order_by).see(table)


def test_columns_behind_a_key_without_ties_may_be_of_any_type() -> None:
    assert OrderCheck(["a", "b"], ["a"]).see(pa.table({"a": [1, 2], "b": [[2], [1]]}))
