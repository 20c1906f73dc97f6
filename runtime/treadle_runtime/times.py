"""When the rows of a table happened: from Parquet's statistics where they tell, else asked of DuckDB.

All times are microseconds since 1970 UTC, rounded down: a row lies before a moment exactly if its rounded time does.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from treadle_runtime.types import quote_name
from treadle_runtime.version import Times

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from treadle_runtime.engine import Connection

DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1)
_PER_US = {"milliseconds": (1_000, 1), "microseconds": (1, 1), "nanoseconds": (1, 1_000)}
_INFINITE = frozenset({2**63 - 1, -(2**63) + 1, -(2**63), 2**31 - 1, -(2**31) + 1, -(2**31)})
_NS_RANGE = (-9_223_372_036_854_775, 9_223_372_036_854_775)


class Statistics(NamedTuple):
    """What a Parquet file tells of a column of times.

    Attributes:
        nulls: how many rows have none.
        times: of the others; None when one is infinite.
    """

    nulls: int
    times: Times | None


def read_statistics(file: Path, column: str) -> Statistics | None:
    """Return what a Parquet file's footer tells of a column; None when it does not say, or the column is no time."""
    import pyarrow.parquet as pq  # only tables with a time are looked at

    found = pq.read_metadata(file)
    index = _find_column(found, column)
    if index is None:
        return None
    nulls, bounds = 0, list[int]()
    for n in range(found.num_row_groups):
        group = found.row_group(n)
        told = group.column(index).statistics
        if told is None or not told.has_null_count:
            return None
        nulls += told.null_count
        if told.null_count < group.num_rows:
            if not told.has_min_max:
                return None
            bounds += [told.min_raw, told.max_raw]
    if not _INFINITE.isdisjoint(bounds):
        return Statistics(nulls, None)
    factor, divisor = _unit(found.schema.column(index))
    scaled = [bound * factor // divisor for bound in bounds]
    return Statistics(nulls, (min(scaled), max(scaled)) if scaled else ())


def _find_column(found: pq.FileMetaData, column: str) -> int | None:
    for index in range(len(found.schema)):
        leaf = found.schema.column(index)
        if leaf.path.casefold() == column.casefold() and leaf.max_repetition_level == 0:
            return index if leaf.logical_type.type in ("TIMESTAMP", "DATE") else None
    return None


def _unit(leaf: pq.ColumnSchema) -> tuple[int, int]:
    if leaf.logical_type.type == "DATE":
        return DAY_US, 1
    return _PER_US[json.loads(leaf.logical_type.to_json())["timeUnit"]]


def part_times(folder: Path, column: str | None) -> dict[str, Times]:
    """Return name -> times of the Parquet files in a folder, where they tell.

    Args:
        column: the table's event_time; None when it has none.
    """
    if not column:
        return {}
    told = {file.name: read_statistics(file, column) for file in sorted(folder.glob("*.parquet"))}
    return {name: found.times for name, found in told.items() if found is not None and found.times is not None}


def fetch_times(con: Connection, select: str, column: str, kind: str) -> Times:
    """Return the times of a column of a SELECT; rows without a finite time do not count.

    Args:
        kind: the column's type, one of `columns.TIME_TYPES`.
    """
    name = quote_name(column)
    # Without a filter DuckDB answers from statistics.
    for query in (select, f"select * from ({select}) where {is_finite(name, kind)}"):
        first, last, is_empty = con.execute(
            f"select {_epoch(f'min({name})', kind)}, {_epoch(f'max({name})', kind)}, count({name}) = 0 from ({query})"
        ).fetchall()[0]
        if is_empty:
            return ()
        if first is not None and last is not None:
            return (_to_us(first, kind), _to_us(last, kind))
    return ()


def is_finite(expression: str, kind: str) -> str:
    """Return SQL for whether a time is neither infinity nor -infinity."""
    return f"isfinite(cast({expression} as timestamptz))" if kind == "TIMESTAMPTZ_NS" else f"isfinite({expression})"


def is_within(column: str, kind: str, start: int, end: int) -> str:
    """Return SQL for start <= column < end, which DuckDB compares with Parquet's statistics.

    Args:
        kind: the column's type, one of `columns.TIME_TYPES`.
        start, end: microseconds since 1970 UTC.
    """
    name = quote_name(column)
    lower, upper = _bound(start, kind), _bound(end, kind)
    both = [f"{name} >= {lower}"] if lower else []
    both += [f"{name} < {upper}"] if upper else []
    return " and ".join(both) or f"{name} is not null"


def _bound(moment: int, kind: str) -> str | None:
    """Return a moment in a column's type; None where no value of the type lies beyond it."""
    if kind == "DATE":
        moment = -(-moment // DAY_US) * DAY_US  # a date is its midnight: it lies before a moment or not before the next
    if kind.endswith("_NS") and not _NS_RANGE[0] < moment < _NS_RANGE[1]:
        return None
    try:
        text = (_EPOCH + timedelta(microseconds=moment)).isoformat(sep=" ")
    except OverflowError:
        return None
    if kind in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"):
        text += "+00"
    elif kind == "DATE":
        text = text[:10]
    return f"cast('{text}' as {'TIMESTAMP' if kind in ('TIMESTAMP_S', 'TIMESTAMP_MS') else kind})"


def _epoch(time: str, kind: str) -> str:
    """Return SQL for a time as a number: days of a DATE, nanoseconds of a type that holds them, else microseconds."""
    if kind == "DATE":  # a DATE reaches further than a TIMESTAMP
        return f"case when isfinite({time}) then datediff('day', date '1970-01-01', {time}) end"
    if kind.endswith("_NS"):
        return f"case when {is_finite(time, kind)} then epoch_ns({time}) end"
    return f"epoch_us({time})"


def _to_us(number: int, kind: str) -> int:
    if kind == "DATE":
        return number * DAY_US
    return number // 1_000 if kind.endswith("_NS") else number
