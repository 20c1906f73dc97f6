"""Intervals of an incremental feature: which there are, what each is made of, and when two of them are the same.

Values only: `incremental` reads the inputs and runs the queries. An interval's identity is its feature's, with the
bounds and, of each input, only the parts whose rows it may read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from treadle.fingerprint import to_canonical_json
from treadle.names import moment_text, parse_duration_us, parse_moment_us
from treadle.step import Step
from treadle_runtime.version import JSON, Column, Times

REVISION = 1
"""Raised by one when Treadle itself would compute a different result for an interval."""

MAX_INTERVALS = 100_000
PIECES = ("intervals", "files")
"""Keys of a version's info that list what it was put together from, as [what, fingerprint]."""

_EPOCH = datetime(1970, 1, 1)
_FIRST_US = (datetime.min - _EPOCH) // timedelta(microseconds=1)
_LAST_US = (datetime.max - _EPOCH) // timedelta(microseconds=1)
_MINUTE_US = 60_000_000
_FREE = frozenset({"config:begin"})
"""Components of a feature's identity on which no interval depends."""


@dataclass(frozen=True, order=True)
class Interval:
    """The moments from `start` up to and without `end`, in microseconds since 1970 UTC."""

    start: int
    end: int

    def __str__(self) -> str:
        return moment_text(self.start)

    def meets(self, times: Times | None, *, lookback: int = 0) -> bool:
        """Return whether some of the rows with these times lie within, or up to `lookback` before."""
        if times is None:
            return True
        return len(times) == 2 and times[1] >= self.start - lookback and times[0] < self.end

    @property
    def part(self) -> str:
        """The name of its part in the feature's version; names sort as intervals do, within one length."""
        moment = _EPOCH + timedelta(microseconds=self.start)
        whole = self.start % _MINUTE_US == 0 and self.end % _MINUTE_US == 0
        text = moment.isoformat(timespec="minutes" if whole else "microseconds")
        return f"part-{text.replace(':', '-')}.parquet"


NOTHING = Interval(0, 0)
"""An interval without a moment: nothing that is restricted to it has rows."""


@dataclass(frozen=True)
class Setting:
    """How a feature is cut into intervals.

    Attributes:
        event_time: the column of its own rows' times.
        length, lookback: microseconds.
        begin: the start of the first interval in microseconds since 1970 UTC; None: that of the first row it reads.
        on_schema_change: rebuild, fail or append.
    """

    event_time: str
    length: int
    lookback: int
    begin: int | None
    on_schema_change: str

    @classmethod
    def of(cls, step: Step) -> Setting:
        """Return the setting of an incremental feature."""
        config = step.config
        return cls(
            event_time=config["event_time"],
            length=parse_duration_us(config["interval"]),
            lookback=parse_duration_us(config["lookback"]),
            begin=None if config["begin"] is None else parse_moment_us(config["begin"]),
            on_schema_change=config["on_schema_change"],
        )


@dataclass(frozen=True)
class Window:
    """What is backfilled: from `start` up to and without `end`, in microseconds since 1970 UTC; None: no bound."""

    start: int | None = None
    end: int | None = None

    def meets(self, interval: Interval) -> bool:
        """Return whether some moments of an interval lie within."""
        is_after = self.start is None or interval.end > self.start
        return is_after and (self.end is None or interval.start < self.end)


@dataclass(frozen=True)
class Input:
    """A table that an incremental feature reads, as far as it tells one interval from another.

    Attributes:
        name: as SQL names it.
        fingerprint: of its version.
        rule: component -> value: how it is computed, for a view and for a source that is read in place; by which
            column its rows have their times.
        columns: those that the feature sees.
        parts: (digest, times) of each; None for a table without a time, which every interval reads whole, and for a
            view, whose tables are inputs themselves.
    """

    name: str
    fingerprint: str
    rule: Mapping[str, str]
    columns: tuple[Column, ...] = ()
    parts: tuple[tuple[str, Times | None], ...] | None = None
    is_view: bool = False


def list_intervals(first: int, last: int, length: int) -> list[Interval]:
    """Return the intervals of a length, aligned to 1970-01-01 UTC, from that of one moment through that of another."""
    start = first - first % length
    return [Interval(at, at + length) for at in range(start, last + 1, length)]


def count_intervals(first: int, last: int, length: int) -> int | None:
    """Return how many `list_intervals` would return; None where one lies outside of the years 1 to 9999."""
    start, end = first - first % length, last - last % length + length
    if start < _FIRST_US or end > _LAST_US:
        return None
    return max(0, (end - start) // length)


def span(inputs: Iterable[Input]) -> Times:
    """Return the first and the last time of the inputs' rows."""
    ranges = [times for found in inputs for _, times in found.parts or () if times]
    return (min(times[0] for times in ranges), max(times[-1] for times in ranges)) if ranges else ()


def rule_of(components: Mapping[str, str], *, without: Iterable[str] = ()) -> dict[str, str]:
    """Return what of an identity tells how a table is computed, and not from which data."""
    free = {*without, "parts"}
    return {name: value for name, value in components.items() if name not in free and not name.startswith("input:")}


def identify_interval(
    components: Mapping[str, str],
    interval: Interval,
    inputs: Sequence[Input],
    *,
    lookback: int,
    is_schema_counted: bool,
) -> str:
    """Return the fingerprint of an interval, 64 hexadecimal digits.

    Args:
        components: of the feature's identity.
        inputs: all tables that it reads, in its order.
        is_schema_counted: whether the interval is another one when the columns of an input change.
    """
    found = rule_of(components, without=_FREE)
    found |= {"piece": f"interval/{REVISION}", "bounds": f"{interval.start}/{interval.end}"}
    for each in inputs:
        found[f"rule:{each.name}"] = to_canonical_json(each.rule)
        if each.is_view:
            continue
        if is_schema_counted:
            found[f"columns:{each.name}"] = to_canonical_json([[column.name, column.type] for column in each.columns])
        if each.parts is None:
            found[f"input:{each.name}"] = each.fingerprint
        else:
            read = [digest for digest, times in each.parts if interval.meets(times, lookback=lookback)]
            found[f"input:{each.name}"] = to_canonical_json(read)
    return hashlib.sha256(to_canonical_json(found).encode()).hexdigest()


def find_pieces(info: Mapping[str, JSON]) -> set[str]:
    """Return the fingerprints of the pieces that a version says it was put together from: intervals, or files."""
    found: set[str] = set()
    for key in PIECES:
        listed = info.get(key)
        if isinstance(listed, list | tuple):
            found |= {str(each[-1]) for each in listed if isinstance(each, list | tuple) and each}
    return found


def unite_columns(tables: Iterable[Sequence[Column]]) -> tuple[Column, ...]:
    """Return the columns of all tables by name, in the order in which they come up first."""
    found: dict[str, Column] = {}
    for columns in tables:
        for column in columns:
            found.setdefault(column.name.casefold(), column)
    return tuple(found.values())
