"""How old a source's data is: the newest moment in it, compared with now.

    source -> its files as they are -> the newest moment: remembered, or from the built version, or read -> its level

The moment is a column's greatest value, or, where no column is named, the time at which one of its files was last
written to. What was found for a source of a fingerprint is remembered: its content does not change.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import duckdb

from treadle.errors import Problem, ProjectError, StepError, StoreError
from treadle.fingerprint import identify
from treadle.names import close_match, parse_duration_us
from treadle.step import Step
from treadle_runtime import engine, quarantine_read, readers, sources
from treadle_runtime.engine import Connection
from treadle_runtime.quarantine_read import Files
from treadle_runtime.sources import Observed
from treadle_runtime.state import State
from treadle_runtime.store import Store
from treadle_runtime.types import quote_name, quote_text
from treadle_runtime.viewsql import view_sql

Level = Literal["fresh", "warn", "error", "unknown"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = ("TIMESTAMP", "DATE")


@dataclass(frozen=True)
class Freshness:
    """How fresh a source is.

    Attributes:
        step: the source.
        level: fresh, or the limit that its age is beyond; a source without any moment is beyond its last limit.
            unknown: it could not be read.
        newest: the newest moment in it, UTC; None when it holds none.
        age: from then to now; negative for a moment that is still to come.
        problems: why it could not be read.
    """

    step: Step
    level: Level
    newest: datetime | None = None
    age: timedelta | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def limits(self) -> Mapping[str, str]:
        """`column`, `warn_after` and `error_after`, as far as they are said."""
        found: Mapping[str, str] = self.step.settings["freshness"]
        return found


def check_freshness(
    steps: Iterable[Step],
    *,
    root: Path,
    allow_paths: Iterable[str],
    store: Store,
    state: State,
    now: datetime,
) -> list[Freshness]:
    """Return how fresh sources are.

    Args:
        steps: sources that say how fresh they must be.
        root: the project's folder.
        allow_paths: folders outside it whose files may be read.
        store: holds versions of sources, which are quicker to read than files.
        state: remembers what was found.
        now: with a time zone.
    """
    found = []
    for step in steps:
        try:
            newest_us = _find_newest(step, root, tuple(allow_paths), store, state)
        except (ProjectError, StepError, StoreError) as error:
            found.append(Freshness(step, "unknown", problems=error.problems))
            continue
        found.append(judge(step, newest_us, now))
    return found


def judge(step: Step, newest_us: int | None, now: datetime) -> Freshness:
    """Compare a source's newest moment, in microseconds since 1970 in UTC, with now."""
    limits: Mapping[str, str] = step.settings["freshness"]
    age_us = None if newest_us is None else (now - _EPOCH) // timedelta(microseconds=1) - newest_us
    level: Level = "fresh"
    for name, limit in (("warn", limits.get("warn_after")), ("error", limits.get("error_after"))):
        if limit is not None and (age_us is None or age_us > parse_duration_us(limit)):
            level = "warn" if name == "warn" else "error"
    if newest_us is None or age_us is None:
        return Freshness(step, level)
    return Freshness(step, level, _EPOCH + timedelta(microseconds=newest_us), timedelta(microseconds=age_us))


def _find_newest(step: Step, root: Path, allow_paths: tuple[str, ...], store: Store, state: State) -> int | None:
    config: dict[str, Any] = {"name": step.name, **step.config, **step.settings}
    observed = sources.observe(config, root, allow_paths=allow_paths, state=state, where=step.where)
    column = step.settings["freshness"].get("column")
    if not column:
        return max(part.mtime_ns for part in observed.parts) // 1_000
    fingerprint = identify(step, {}, parts=(observed.digest,)).fingerprint
    remembered = state.newest(fingerprint, column)
    if remembered is None:
        remembered = (_read_newest(step, column, config, observed, fingerprint, root, store),)
        state.record_newest(fingerprint, column, remembered[0])
    return remembered[0]


def _read_newest(
    step: Step, column: str, config: Mapping[str, Any], observed: Observed, fingerprint: str, root: Path, store: Store
) -> int | None:
    version = store.read(fingerprint)
    with store.scratch() as scratch, engine.connect(temp_directory=scratch, threads=os.cpu_count() or 1) as con:
        if version is not None and (sql := view_sql(version, quote_text(str(version.folder)))):
            return _read_version(con, sql, column, step, store, fingerprint)
        with readers.reading(con, config, observed, root):
            if not quarantine_read.is_quarantined(config):
                return _max(con, readers.load(con, config, observed, root), column, step)
            try:
                return _max(con, quarantine_read.whole_rows(readers.load(con, config, observed, root)), column, step)
            except duckdb.Error as error:
                if not quarantine_read.is_of_rows(error):
                    raise
            how = quarantine_read.find_read(Files(con, config, observed, root, scratch))
            return _max(con, quarantine_read.whole_rows(how.select()), column, step)


def _read_version(con: Connection, sql: str, column: str, step: Step, store: Store, fingerprint: str) -> int | None:
    try:
        return _max(con, sql, column, step)
    except duckdb.Error as error:
        if damage := store.find_damage(fingerprint):
            raise StoreError(damage) from error
        raise


def _max(con: Connection, sql: str, column: str, step: Step) -> int | None:
    kinds = {name.lower(): (name, kind) for name, kind in engine.describe(con, sql)}
    if column.lower() not in kinds:
        names = [name for name, _ in kinds.values()]
        what = f'source "{step.name}" has no column "{column}", which tells how fresh it is'
        suggestion = close_match(column, names) or ""
        raise StepError(Problem("TR706", what, step.where, f"its columns: {', '.join(names[:20])}", suggestion))
    name, kind = kinds[column.lower()]
    if not kind.startswith(_TIMES):
        what = f'column "{name}" of source "{step.name}" is no time, and cannot tell how fresh it is'
        fix = f"declare its type in `columns`, as in {{name: {name}, type: TIMESTAMP}}, or name another column"
        raise StepError(Problem("TR712", what, step.where, f"its type is {kind}", fix=fix))
    quoted = quote_name(name)
    row = con.execute(f"select epoch_us(max({quoted})) from (\n{sql}\n) where isfinite({quoted})").fetchall()[0]
    return None if row[0] is None else int(row[0])
