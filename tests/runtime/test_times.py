"""What files tell of the times of their rows, held against a plain look at the rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle_runtime.columns import TIME_TYPES
from treadle_runtime.engine import connect, write_query
from treadle_runtime.times import fetch_times, is_finite, is_within, part_times, read_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

EPOCH = datetime(1970, 1, 1)
KINDS = sorted(TIME_TYPES)
moments = st.datetimes(datetime(1690, 1, 1), datetime(2250, 1, 1))
SLOW = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def con(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(temp_directory=tmp_path) as opened:
        yield opened


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def floor_to(moment: datetime, kind: str) -> datetime:
    """Return what a type keeps of a moment, as literals below are written."""
    if kind == "DATE":
        return moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "TIMESTAMP_S":
        return moment.replace(microsecond=0)
    return moment.replace(microsecond=moment.microsecond // 1_000 * 1_000) if kind == "TIMESTAMP_MS" else moment


def values_sql(times: list[datetime | None], kind: str) -> str:
    zone = "+00" if "TZ" in kind or "ZONE" in kind else ""
    texts = ["NULL" if t is None else f"'{floor_to(t, kind).isoformat(sep=' ')}{zone}'" for t in times]
    rows = ", ".join(f"(cast({text} as {kind}))" for text in texts)
    return f"select * from (values {rows}) t(ts)"


@SLOW
@given(
    kind=st.sampled_from(KINDS), times=st.lists(st.one_of(st.none(), moments), min_size=1, max_size=6), data=st.data()
)
def test_statistics_query_and_filter_agree_with_the_rows(
    con: duckdb.DuckDBPyConnection, tmp_path: Path, kind: str, times: list[datetime | None], data: st.DataObject
) -> None:
    sql = values_sql(times, kind)
    kept = sorted(micros(floor_to(time, kind)) for time in times if time is not None)
    expected = (kept[0], kept[-1]) if kept else ()
    assert fetch_times(con, sql, "ts", kind) == expected
    write_query(con, sql, tmp_path)
    told = read_statistics(tmp_path / "part-0.parquet", "TS")
    if told is not None:
        assert told == (len(times) - len(kept), expected)
    assert told is not None or kind == "TIMESTAMPTZ_NS"
    near = st.sampled_from(kept).flatmap(lambda time: st.integers(time - 3, time + 3)) if kept else st.just(0)
    start, end = data.draw(near), data.draw(near)
    found = con.execute(f"select count(*) from ({sql}) where {is_within('ts', kind, start, end)}").fetchall()[0][0]
    assert found == sum(start <= time < end for time in kept)


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_times_do_not_count(con: duckdb.DuckDBPyConnection, tmp_path: Path, kind: str) -> None:
    infinite = f"select cast('infinity' as {kind}) as ts union all select cast('-infinity' as {kind})"
    finite = f"select cast('2024-01-01 00:00:00' as {kind}) as ts"
    moment = micros(datetime(2024, 1, 1))
    assert fetch_times(con, f"{infinite} union all {finite}", "ts", kind) == (moment, moment)
    assert fetch_times(con, infinite, "ts", kind) == ()
    rows = con.execute(f"select {is_finite('ts', kind)} from ({infinite} union all {finite})").fetchall()
    assert [row[0] for row in rows] == [False, False, True]
    write_query(con, infinite, tmp_path)
    told = read_statistics(tmp_path / "part-0.parquet", "ts")
    assert told is None or told == (0, None)


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_beyond_a_type_hold_everything(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    sql = f"select cast('2024-01-01 00:00:00' as {kind}) as ts union all select NULL"
    for start, end in ((-(10**18), 10**18), (-(10**17), micros(datetime(2024, 1, 2)))):
        found = con.execute(f"select count(*) from ({sql}) where {is_within('ts', kind, start, end)}").fetchall()
        assert found == [(1,)]


def test_file_of_another_writer_that_tells_nothing_is_not_believed(tmp_path: Path) -> None:
    table = pa.table({"ts": pa.array([datetime(2024, 1, 1)], pa.timestamp("us")), "x": [1]})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    pq.write_table(table, tmp_path / "b.parquet", use_deprecated_int96_timestamps=True)
    pq.write_table(table, tmp_path / "c.parquet")
    assert read_statistics(tmp_path / "a.parquet", "ts") is None
    assert read_statistics(tmp_path / "b.parquet", "ts") is None
    assert read_statistics(tmp_path / "c.parquet", "x") is None
    assert read_statistics(tmp_path / "c.parquet", "y") is None
    moment = micros(datetime(2024, 1, 1))
    assert read_statistics(tmp_path / "c.parquet", "ts") == (0, (moment, moment))


def test_times_of_several_row_groups_are_united(tmp_path: Path) -> None:
    times = [datetime(2024, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
    pq.write_table(
        pa.table({"ts": pa.array([*times, None, None], pa.timestamp("ns", "UTC"))}),
        tmp_path / "a.parquet",
        row_group_size=1,
    )
    assert part_times(tmp_path, "ts") == {"a.parquet": (micros(datetime(2024, 1, 1)), micros(datetime(2024, 1, 3)))}
    assert read_statistics(tmp_path / "a.parquet", "ts") == (2, part_times(tmp_path, "ts")["a.parquet"])
    assert part_times(tmp_path, None) == {}


def test_file_without_rows_has_no_times(con: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    write_query(con, "select timestamp '2024-01-01' as ts where false", tmp_path)
    assert part_times(tmp_path, "ts") == {"part-0.parquet": ()}
