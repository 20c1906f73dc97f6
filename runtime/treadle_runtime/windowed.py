"""The query of an incremental feature, run for one interval: what its names stand for then, and which rows are kept."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from treadle.errors import Problem, StepError
from treadle.names import moment_text
from treadle_runtime import engine, times
from treadle_runtime.engine import PART, Connection
from treadle_runtime.features import order_of
from treadle_runtime.intervals import NOTHING, Input, Interval, Setting, identify_interval, rule_of
from treadle_runtime.job import Job, Made, Relation
from treadle_runtime.pieces import Piece
from treadle_runtime.session import Lend, create_relations, threads_of
from treadle_runtime.spare import Spare
from treadle_runtime.store import Column
from treadle_runtime.timedtable import check_time, is_timed, is_view, origin_of, survey
from treadle_runtime.types import quote_name, quote_text
from treadle_runtime.version import Times
from treadle_runtime.viewsql import escape_glob

_MAX_ROW = 200


class Desk:
    """What the intervals of one feature are computed with: connections, each used by one thread at a time.

    Args:
        job: of the feature.
        setting: how it is cut into intervals.
        lend: where connections come from.
        stack: gives them back.

    Attributes:
        inputs: all that the query reads, itself or through views.

    Raises:
        StepError: the query cannot be run, or a table lacks its event_time.
    """

    def __init__(self, job: Job, setting: Setting, lend: Lend, stack: ExitStack) -> None:
        if job.step.query is None:
            raise ValueError(f"{job.step.id} has no query")
        self.job, self.step, self.setting = job, job.step, setting
        self.threads = threads_of(job)
        self._scratch = Path(stack.enter_context(TemporaryDirectory(prefix="intervals-", dir=job.scratch)))
        self._query = job.step.query.text.strip().rstrip(";")
        self._what = f'feature "{job.step.name}"'
        self._connections = Spare(job, lend, stack, lambda con: create_relations(con, job))
        with self._connections.use() as con:
            self._tables = {each.name: survey(con, each, self._scratch) for each in job.relations if is_timed(each)}
            self._views = {
                each.name: (each.sql, _kind_of(con, each))
                for each in job.relations
                if is_view(each) and origin_of(each).event_time
            }
            self.inputs = [self._input(con, relation) for relation in job.relations]
            self._restrict(con, NOTHING)
            self._kind = self._check_query(con)
        # Where nothing is read that lies outside of an interval, a row that does is a mistake: no interval has it.
        self._is_closed = setting.lookback == 0 and all(each.is_view or each.parts is not None for each in self.inputs)

    def piece(self, interval: Interval) -> Piece:
        """Return the computation of an interval."""
        is_schema_counted = self.setting.on_schema_change == "rebuild"
        fingerprint = identify_interval(
            self.job.components,
            interval,
            self.inputs,
            lookback=self.setting.lookback,
            is_schema_counted=is_schema_counted,
        )
        return Piece(fingerprint, lambda folder: self.write(interval, folder))

    def write(self, interval: Interval, folder: Path) -> Made:
        """Compute the rows of an interval into part-0.parquet.

        Raises:
            StepError: the query failed, or a row has no event_time or lies outside of what it was made from.
        """
        what = self._what if interval == NOTHING else f"{self._what}, interval {interval}"
        work = self._scratch / folder.name
        work.mkdir()
        with self._connections.use() as con:
            self._restrict(con, interval)
            order, rows = order_of(self.step), self._rows_of(interval)
            written = engine.write_query(con, rows, work, order_by=order, what=what, where=self.step.where)
            found = self._check_rows(con, interval, work / PART, what)
        for table in self._tables.values():
            table.check_unchanged(interval, self.setting.lookback, self.job.root)
        os.replace(work / PART, folder / PART)
        read = [relation.version for relation in self.job.relations if relation.version is not None]
        is_reproducible = self.threads == 1 and all(version.reproducible for version in read)
        info = {"start": str(interval), "end": moment_text(interval.end)}
        return Made(written.columns, info=info, reproducible=is_reproducible, times={PART: found})

    def _input(self, con: Connection, relation: Relation) -> Input:
        if relation.name in self._tables:
            return self._tables[relation.name].input
        origin, inlined = origin_of(relation), is_view(relation)
        return Input(
            name=relation.name,
            fingerprint=origin.fingerprint,
            rule=rule_of(origin.components) if inlined else {},
            columns=tuple(Column(*each) for each in engine.describe(con, f"from {quote_name(relation.name)}")),
            is_view=inlined,
        )

    def _restrict(self, con: Connection, interval: Interval) -> None:
        """Let the names of what has an event_time stand for the rows that an interval reads."""
        lookback = self.setting.lookback
        for name, table in self._tables.items():
            con.execute(f"create or replace view {quote_name(name)} as {table.select(interval, lookback)}")
        for name, (sql, (column, kind)) in self._views.items():
            within = times.is_within(column, kind, interval.start - lookback, interval.end)
            con.execute(f"create or replace view {quote_name(name)} as select * from (\n{sql}\n) where {within}")

    def _rows_of(self, interval: Interval) -> str:
        if self._is_closed:
            return self._query
        name = quote_name(self.setting.event_time)
        within = times.is_within(self.setting.event_time, self._kind, interval.start, interval.end)
        # Rows without a finite time come through, so that they are found.
        is_odd = f"{name} is null or not {times.is_finite(name, self._kind)}"
        return f"select * from ({self._query}\n) where {is_odd} or ({within})"

    def _check_query(self, con: Connection) -> str:
        """Check that the query can be run and has its event_time; return the type of that."""
        try:
            columns = engine.describe(con, self._query)
            names = (name for name, _ in columns)
            engine.check_names(con, self._query, names, what=self._what, where=self.step.where)
        except duckdb.Error as error:
            raise engine.sql_error(error, self._what, self.step.where) from error
        return check_time(columns, self.setting.event_time, what=self._what, where=self.step.where)

    def _check_rows(self, con: Connection, interval: Interval, part: Path, what: str) -> Times:
        """Return the times of an interval's rows.

        Raises:
            StepError: TR731 a row has none, or lies outside of the interval.
        """
        told = times.read_statistics(part, self.setting.event_time)
        if told is not None and not told.nulls and told.times is not None:
            found = told.times
            if not found or (interval.start <= found[0] and found[-1] < interval.end):
                return found
        select = f"select * from read_parquet({quote_text(escape_glob(str(part)))})"
        if problem := self._find_misfit(con, interval, select, what):
            raise StepError(problem)
        return times.fetch_times(con, select, self.setting.event_time, self._kind)

    def _find_misfit(self, con: Connection, interval: Interval, select: str, what: str) -> Problem | None:
        column, where = self.setting.event_time, self.step.where
        name = quote_name(column)
        within = times.is_within(column, self._kind, interval.start, interval.end)
        found = con.execute(
            f"select {name} is null, {times.is_finite(name, self._kind)}, cast(columns(*) as varchar)"
            f" from ({select}) where {name} is null or not ({within}) limit 1"
        )
        names = [each[0] for each in found.description or ()][2:]
        rows = found.fetchall()
        if not rows:
            return None
        is_null, is_finite, *values = rows[0]
        row = ", ".join(f"{key}={value}" for key, value in zip(names, values, strict=True))[:_MAX_ROW]
        if is_null:
            fix = f"leave such rows out of the query: where {column} is not null"
            return Problem("TR731", f'a row of {what} has no "{column}"', where, row, fix=fix)
        if not is_finite:
            fix = f"leave such rows out of the query: where isfinite({column})"
            return Problem("TR731", f"a row of {what} lies at an infinite time", where, row, fix=fix)
        until = moment_text(interval.end)
        why = f"{row}\nit was made from rows of {interval} up to {until}, so no interval would hold it"
        fix = "set lookback to how far rows are moved or look back, or make the intervals as long as what is summed up"
        return Problem("TR731", f"a row of {what} lies outside of it", where, why, fix=fix)


def _kind_of(con: Connection, relation: Relation) -> tuple[str, str]:
    """Return the event_time of a view and its type."""
    column = origin_of(relation).event_time
    columns = engine.describe(con, f"from {quote_name(relation.name)}")
    return column, check_time(columns, column, what=f'"{relation.name}"')
