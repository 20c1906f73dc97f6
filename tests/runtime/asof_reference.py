"""The point-in-time join as its definition reads: for each spine row a loop over all rows of the table.

Slow and obvious on purpose; it shares nothing with the engine. Rows are dicts; times are whole nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows as one read sees them; event_time None: a static table, known_at None: as event_time."""

    rows: Sequence[Row]
    prefix: str
    keys: Sequence[tuple[str, str]]
    columns: Sequence[str]
    event_time: str | None
    known_at: str | None
    ttl_ns: int | None


def answer(table: Table, spine_row: Row, t: int | None) -> Row | None:
    """Return the row of the table that is known of a spine row at t, or None."""
    best: Row | None = None
    best_time: tuple[int, int] | None = None
    for row in table.rows:
        if not is_same_entity(table, row, spine_row):
            continue
        if table.event_time is None:
            return row
        event_time = row[table.event_time]
        known_at = event_time if table.known_at is None else row[table.known_at]
        if t is None or event_time is None or known_at is None:
            continue
        if event_time > t or known_at > t:
            continue
        if table.ttl_ns is not None and event_time < t - table.ttl_ns:
            continue
        if best_time is None or (event_time, known_at) > best_time:
            best, best_time = row, (event_time, known_at)
    return best


def is_same_entity(table: Table, row: Row, spine_row: Row) -> bool:
    """Return whether all keys are there and equal."""
    for left, right in table.keys:
        if row[left] is None or spine_row[right] is None or row[left] != spine_row[right]:
            return False
    return True


def join(spine: Sequence[Row], at: str | None, tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return the spine's rows in order, each with `prefix__column` of every table."""
    result = []
    for spine_row in spine:
        found = dict(spine_row)
        for table in tables:
            row = answer(table, spine_row, None if at is None else spine_row[at])
            for column in table.columns:
                found[f"{table.prefix}__{column}"] = None if row is None else row[column]
        result.append(found)
    return result


def matches(spine: Sequence[Row], at: str | None, table: Table) -> int:
    """Return for how many spine rows a row answers."""
    return sum(answer(table, row, None if at is None else row[at]) is not None for row in spine)
