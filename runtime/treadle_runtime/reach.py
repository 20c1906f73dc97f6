"""Which rows of an interval's query are kept, which are left to other intervals, and which no interval would hold.

    in the interval             kept
    in its reach, `lookback`    left out: an interval that has the row reads some of what it is made from too
    beyond                      none that has it does: an error, unless it is made from tables without a time alone
    without a finite time       an error

A row of tables without a time comes out of every interval, and the one it lies in keeps it. What lies before the first
interval or after the last one is left out and counted. The intervals after the last one, as far as they look back on
rows that are there, are asked for what is beyond them too: so a row that is an error tomorrow is one today.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treadle.errors import Location, Problem
from treadle.names import moment_text
from treadle_runtime import times
from treadle_runtime.intervals import NOTHING, Interval, Setting
from treadle_runtime.types import quote_name

if TYPE_CHECKING:
    from treadle_runtime.engine import Connection

_EVER = 10**18
"""Microseconds, more than any type of a time holds."""
_MAX_ROW = 200


@dataclass(frozen=True)
class Reach:
    """The conditions on the rows of a feature's intervals, as SQL.

    Attributes:
        kind: the type of the feature's event_time, one of `columns.TIME_TYPES`.
    """

    setting: Setting
    kind: str

    def is_in(self, interval: Interval) -> str:
        """Return the condition of the rows that an interval keeps."""
        return self._lies(interval.start, interval.end)

    def is_odd(self) -> str:
        """Return the condition of rows without a finite time."""
        name = quote_name(self.setting.event_time)
        return f"({name} is null or not {times.is_finite(name, self.kind)})"

    def is_beyond(self, interval: Interval) -> str:
        """Return the condition of rows in intervals that read none of the timed rows which this one reads."""
        if interval == NOTHING:
            return "false"
        length, lookback = self.setting.length, self.setting.lookback
        start, end = interval.start - lookback, interval.end + lookback
        return f"not {self._lies(start - start % length, end + -end % length)}"

    def find_misfit(
        self, con: Connection, select: str, interval: Interval, what: str, where: Location | None
    ) -> Problem | None:
        """Return TR731 of a row that does not lie in the interval that it was found in, if there is one.

        Args:
            select: rows of an interval, without those that are left to others.
            what: the interval, for the error.
            where: the feature's place in the project.
        """
        column, name = self.setting.event_time, quote_name(self.setting.event_time)
        found = con.execute(
            f"select {name} is null, {times.is_finite(name, self.kind)}, {self._lies(-_EVER, interval.start)},"
            f" cast(columns(*) as varchar) from ({select}) where {self.is_odd()} or not {self.is_in(interval)} limit 1"
        )
        names = [each[0] for each in found.description or ()][3:]
        rows = found.fetchall()
        if not rows:
            return None
        is_null, is_finite, is_earlier, *values = rows[0]
        row = ", ".join(f"{key}={value}" for key, value in zip(names, values, strict=True))[:_MAX_ROW]
        if is_null:
            fix = f"leave such rows out of the query: where {column} is not null"
            return Problem("TR731", f'a row of {what} has no "{column}"', where, row, fix=fix)
        if not is_finite:
            fix = f"leave such rows out of the query: where isfinite({column})"
            return Problem("TR731", f"a row of {what} lies at an infinite time", where, row, fix=fix)
        first, until = moment_text(interval.start - self.setting.lookback), moment_text(interval.end)
        why = f"{row}\nit is made from rows of {first} up to {until}, which its own interval does not read"
        fix = (
            "no interval reads what lies after it: date a row by the newest that it is made from, or lengthen the"
            " intervals"
            if is_earlier
            else "set lookback to how far back an interval has to read for such rows"
        )
        return Problem("TR731", f"a row of {what} lies outside of it", where, why, fix=fix)

    def count_before(self, con: Connection, query: str, first: Interval) -> int:
        """Return how many rows of the first interval's query lie before it; none where `begin` says so."""
        return 0 if self.setting.begin is not None else _count(con, query, self._lies(-_EVER, first.start))

    def count_after(self, con: Connection, query: str, last: Interval) -> int:
        """Return how many rows of the last interval's query lie after it."""
        return _count(con, query, self._lies(last.end, _EVER))

    def _lies(self, start: int, end: int) -> str:
        return f"({times.is_within(self.setting.event_time, self.kind, start, end)})"


def _count(con: Connection, query: str, condition: str) -> int:
    return int(con.execute(f"select count(*) from ({query}\n) where {condition}").fetchall()[0][0])


def to_notes(first: Interval, last: Interval, before: int, after: int) -> tuple[str, ...]:
    """Return what a build tells of rows that lie in no interval.

    Args:
        first, last: the intervals; both `NOTHING` where there are none.
        before, after: how many rows lie before the first, and after the last.
    """
    if first == NOTHING:
        n = before + after
        return (f"{_rows(n)} left out: no table with a time has rows, and so there are no intervals",) if n else ()
    notes = []
    if before:
        why = "no interval lies there, unless begin is set"
        notes.append(f"{_rows(before, f'before {first}')} left out: {why}")
    if after:
        why = "the intervals end there, until newer rows are read"
        notes.append(f"{_rows(after, f'from {moment_text(last.end)} on')} left out: {why}")
    return tuple(notes)


def _rows(n: int, where: str = "") -> str:
    rows = "1 row" if n == 1 else f"{n:,} rows"
    return " ".join(filter(None, (rows, where, "is" if n == 1 else "are")))
