"""A table that is read by time: which of its files hold rows of an interval, and the SELECT of these rows.

Its files are the parts of a stored version, or those of a Parquet source that is read where it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from treadle.errors import Location, Problem, StepError
from treadle.names import close_match
from treadle_runtime import engine, sources, times
from treadle_runtime.columns import TIME_TYPES
from treadle_runtime.engine import Connection
from treadle_runtime.intervals import Input, Interval, find_pieces, rule_of
from treadle_runtime.job import Origin, Relation
from treadle_runtime.store import Column, Part, Version
from treadle_runtime.types import quote_name, quote_text, stored_columns
from treadle_runtime.version import Times
from treadle_runtime.viewsql import escape_glob, parquet_sql


@dataclass(frozen=True)
class TimedTable:
    """A table with an event_time.

    Attributes:
        kind: the type of its event_time.
        files: its Parquet files, in order, as `input.parts` tells of them.
        schema: a Parquet file of all its columns and no rows: files may lack columns, and an interval may need none.
    """

    relation: Relation
    input: Input
    kind: str
    files: tuple[Path, ...]
    schema: Path

    def select(self, interval: Interval, lookback: int) -> str:
        """Return the SELECT of the rows that an interval reads."""
        column = origin_of(self.relation).event_time
        within = times.is_within(column, self.kind, interval.start - lookback, interval.end)
        files = [self.schema, *(self.files[n] for n in self._needed(interval, lookback))]
        return f"select * from ({_select(self.relation, files)}) where {within}"

    def check_unchanged(self, interval: Interval, lookback: int, root: Path) -> None:
        """Make sure that the files that an interval read in place are still those that were planned with.

        Raises:
            StepError: TR711.
        """
        observed = origin_of(self.relation).observed
        if observed is not None:
            read = tuple(observed.parts[n] for n in self._needed(interval, lookback))
            sources.check_unchanged(replace(observed, parts=read), root)

    def needed_parts(self, version: Version, interval: Interval, lookback: int) -> list[Part]:
        """Return the parts of the table's version that an interval reads."""
        parts = _tables(version)
        return [parts[n] for n in self._needed(interval, lookback)]

    def _needed(self, interval: Interval, lookback: int) -> list[int]:
        return [n for n, (_, told) in enumerate(self.input.parts or ()) if interval.meets(told, lookback=lookback)]


def is_timed(relation: Relation) -> bool:
    """Return whether a relation is read by time: it has an event_time, and files of its own."""
    return not is_view(relation) and bool(origin_of(relation).event_time)


def is_view(relation: Relation) -> bool:
    """Return whether a relation is a view: a SELECT over relations that are inputs themselves."""
    return relation.version is None and origin_of(relation).observed is None


def origin_of(relation: Relation) -> Origin:
    """Return where a relation of an incremental feature comes from."""
    if relation.origin is None:
        raise ValueError(f"the origin of {relation.name} is not told")
    return relation.origin


def survey(con: Connection, relation: Relation, scratch: Path) -> TimedTable:
    """Return what is known of a timed table's files.

    Args:
        con: on which the relation's name is a view of the whole table.
        scratch: an own folder, which the connection may write to.

    Raises:
        StepError: TR706 it lacks its event_time, TR712 that is no time, TR731 a row has none.
    """
    columns = engine.describe(con, f"from {quote_name(relation.name)}")
    origin = origin_of(relation)
    column = origin.event_time
    kind = check_time(columns, column, what=f'"{relation.name}"')
    files = _files(relation)
    schema = scratch / f"schema-{relation.name}.parquet"
    union = _parquet(files if is_mixed(relation) else files[:1])
    con.execute(f"copy (select * from {union} limit 0) to {quote_text(str(schema))} (format parquet)")
    # The rows of pieces were looked at when they were made.
    is_of_pieces = relation.version is not None and bool(find_pieces(relation.version.info))
    parts = []
    for n, (digest, told) in enumerate(_parts(relation)):
        found = told if told is not None and is_of_pieces else _times(con, relation, [schema, files[n]], column, kind)
        parts.append((digest, found))
    made = Input(
        name=relation.name,
        fingerprint=origin.fingerprint,
        rule={**(rule_of(origin.components) if origin.observed is not None else {}), "event_time": column},
        columns=tuple(Column(*each) for each in columns),
        parts=tuple(parts),
    )
    return TimedTable(relation, made, kind, tuple(files), schema)


def check_time(columns: Sequence[tuple[str, str]], event_time: str, *, what: str, where: Location | None = None) -> str:
    """Return the type of a table's event_time.

    Args:
        columns: (name, type) of each.
        what: the table, for errors.

    Raises:
        StepError: TR706 the column is missing, TR712 it is no time.
    """
    kinds = {name.casefold(): kind for name, kind in columns}
    kind = kinds.get(event_time.casefold())
    if kind is None:
        names = [name for name, _ in columns]
        why = f"its columns: {', '.join(names)}"
        suggestion = close_match(event_time, names) or ""
        fix = "select that column, or correct event_time"
        missing = f'{what} has no column "{event_time}", which is its event_time'
        raise StepError(Problem("TR706", missing, where, why, suggestion, fix))
    if kind not in TIME_TYPES:
        fix = f"cast it where it is made, as in cast({event_time} as timestamp) as {event_time}"
        why = f"it is {kind}; a time is a DATE or a TIMESTAMP"
        raise StepError(Problem("TR712", f'"{event_time}" of {what} is no time', where, why, fix=fix))
    return kind


def check_found(
    con: Connection,
    select: str,
    event_time: str,
    kind: str,
    *,
    what: str,
    path: str = "",
    where: Location | None = None,
) -> None:
    """Make sure that who reads some rows by time finds all of them.

    Args:
        kind: the type of their event_time.
        what: the table, for errors.
        path: of the file that they come from, for errors; empty for those of a feature.

    Raises:
        StepError: TR731 a row has no time, or an infinite one.
    """
    name = quote_name(event_time)
    odd = f"from ({select}) where {name} is null or not {times.is_finite(name, kind)}"
    n, n_infinite = con.execute(f"select count(*), count({name}) {odd}").fetchall()[0]
    if n:
        found = [(n - n_infinite, f'without "{event_time}"'), (n_infinite, "at an infinite time")]
        said = [f"{count:,} {'row' if count == 1 else 'rows'} {which}" for count, which in found if count]
        why = f"{path}: {' and '.join(said)}" if path else " and ".join(said)
        fix = f"leave them out of it: where {f'isfinite({event_time})' if n_infinite else f'{event_time} is not null'}"
        if path:
            fix = "give each a time; or read such files as a source without event_time, and filter them in a feature"
        raise StepError(Problem("TR731", f"{what} has rows that lie in no interval", where, why, fix=fix))


def is_mixed(relation: Relation) -> bool:
    """Return whether files of a relation may differ in their columns."""
    return relation.version is None or bool(relation.version.info.get("union_by_name"))


def _files(relation: Relation) -> list[Path]:
    if relation.version is None:
        return list(relation.paths)
    return [relation.version.folder / part.name for part in _tables(relation.version)]


def _tables(version: Version) -> list[Part]:
    """Return the parts that hold rows; beside them may stand what was left out of a source."""
    return [part for part in version.parts if part.name.endswith(".parquet")]


def _parts(relation: Relation) -> list[tuple[str, Times | None]]:
    if relation.version is not None:
        return [(part.digest, part.times) for part in _tables(relation.version)]
    observed = origin_of(relation).observed
    return [(part.digest, None) for part in observed.parts] if observed is not None else []


def _times(con: Connection, relation: Relation, files: Sequence[Path], column: str, kind: str) -> Times:
    """Return the times in the last of some files; the first tells the columns."""
    is_cast = column.casefold() in {name.casefold() for name in origin_of(relation).declared}
    told = None if is_cast else times.read_statistics(files[-1], column)
    if told is not None and told.times is not None and not told.nulls:
        return told.times
    select, observed = _select(relation, files), origin_of(relation).observed
    path = observed.parts[relation.paths.index(files[-1])].path if observed is not None else ""
    what = f'source "{relation.name}"' if path else f'"{relation.name}"'
    check_found(con, select, column, kind, what=what, path=path)
    return times.fetch_times(con, select, column, kind)


def _select(relation: Relation, files: Sequence[Path]) -> str:
    if relation.version is None:
        return parquet_sql(files, origin_of(relation).declared)
    columns = stored_columns((column.name, column.type) for column in relation.version.columns)
    return f"select {', '.join(column.read for column in columns)} from {_parquet(files)}"


def _parquet(files: Sequence[Path]) -> str:
    paths = ", ".join(quote_text(escape_glob(str(file))) for file in files)
    return f"read_parquet([{paths}], union_by_name=true, hive_partitioning=false)"
