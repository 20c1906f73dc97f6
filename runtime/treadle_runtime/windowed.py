"""The query of an incremental feature, run for one interval: what its names stand for then, and which rows are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from treadle.errors import StepError
from treadle.names import moment_text
from treadle_runtime import engine, times
from treadle_runtime.connection_pool import ConnectionPool
from treadle_runtime.engine import PART, Connection
from treadle_runtime.features import order_of
from treadle_runtime.intervals import (
    NOTHING,
    Input,
    Interval,
    Setting,
    count_intervals,
    identify_interval,
    list_intervals,
    rule_of,
)
from treadle_runtime.job import Job, Made, Relation
from treadle_runtime.pieces import Check, Piece
from treadle_runtime.reach import Reach, to_notes
from treadle_runtime.session import Lend, create_relations, threads_of
from treadle_runtime.store import Column
from treadle_runtime.timedtable import check_time, is_timed, is_view, origin_of, survey
from treadle_runtime.types import quote_name, quote_text, stored_columns
from treadle_runtime.version import Times
from treadle_runtime.viewsql import escape_glob


class IntervalQuery:
    """The query of one feature, on connections each of which is used by one thread at a time.

    Args:
        job: of the feature.
        setting: how it is cut into intervals.
        lend: where connections come from.
        stack: gives them back.
        check: compares the parts that an interval is about to read, see `Pieces`.

    Attributes:
        inputs: all that the query reads, itself or through views.

    Raises:
        StepError: the query cannot be run, or a table lacks its event_time.
    """

    def __init__(self, job: Job, setting: Setting, lend: Lend, stack: ExitStack, check: Check) -> None:
        if job.step.query is None:
            raise ValueError(f"{job.step.id} has no query")
        self.job, self.step, self.setting, self._check = job, job.step, setting, check
        self.threads = threads_of(job)
        self._scratch = Path(stack.enter_context(TemporaryDirectory(prefix="intervals-", dir=job.scratch)))
        self._query = job.step.query.text.strip().rstrip(";")
        self._what = f'feature "{job.step.name}"'
        self._connections = ConnectionPool(job, lend, stack, lambda con: create_relations(con, job))
        with self._connections.use() as con:
            self._tables = {each.name: survey(con, each, self._scratch) for each in job.relations if is_timed(each)}
            self._views = {
                each.name: (each.sql, _kind_of(con, each))
                for each in job.relations
                if is_view(each) and origin_of(each).event_time
            }
            self.inputs = [self._input(con, relation) for relation in job.relations]
            self._restrict(con, NOTHING)
            self._reach = Reach(setting, self._check_query(con))
            self._untimed = self._write_untimed(con)

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
            StoreError: TR804 what it reads is damaged.
        """
        for table in self._tables.values():
            if (read := table.relation.version) is not None:
                self._check(read, table.needed_parts(read, interval, self.setting.lookback))
        what = self._what if interval == NOTHING else f"{self._what}, interval {interval}"
        work = self._scratch / folder.name
        work.mkdir()
        with self._connections.use() as con:
            self._restrict(con, interval)
            order, rows = order_of(self.step), self._rows_of(interval)
            written = engine.write_query(con, rows, work, order_by=order, what=what, where=self.step.where)
            with self._told(what):
                found = self._check_rows(con, interval, work / PART, what)
                self._check_left_out(con, interval, what)
        for table in self._tables.values():
            table.check_unchanged(interval, self.setting.lookback, self.job.root)
        os.replace(work / PART, folder / PART)
        versions = [relation.version for relation in self.job.relations if relation.version is not None]
        is_reproducible = self.threads == 1 and all(version.reproducible for version in versions)
        info = {"start": str(interval), "end": moment_text(interval.end)}
        return Made(written.columns, info=info, reproducible=is_reproducible, times={PART: found})

    def count_left_out(self, first: Interval, last: Interval) -> tuple[str, ...]:
        """Return what to tell of rows that lie before the first interval or after the last one.

        Args:
            first, last: `NOTHING` where there are no intervals.
        """
        if self._untimed is None and not self.setting.lookback:
            return ()  # such a row is an error of its interval
        with self._connections.use() as con, self._told(self._what):
            self._restrict(con, first)
            before = self._reach.count_before(con, self._query, first)
            if last != first:
                self._restrict(con, last)
            after = self._reach.count_after(con, self._query, last)
        return to_notes(first, last, before, after)

    def check_coming(self, last: Interval) -> None:
        """Make sure that no row is left out which the intervals after the last one would find to be lost.

        They read the newest rows too, as far as the lookback reaches: what is an error then is one now.

        Raises:
            StepError: TR731 a row is made from rows with a time that its own interval does not read.
        """
        length, lookback = self.setting.length, self.setting.lookback
        if not lookback or count_intervals(last.end, last.end + lookback, length) is None:
            return
        with self._connections.use() as con:
            for interval in list_intervals(last.end, last.end + lookback - 1, length):
                what = f"{self._what}, coming interval {interval}"
                with self._told(what):
                    self._restrict(con, interval)
                    self._find_lost(con, interval, what)

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
        """Return the SELECT of the rows that an interval keeps, and of those that are an error and so are found."""
        if self._untimed is None and not self.setting.lookback:
            return self._query
        wanted = [self._reach.is_in(interval), self._reach.is_odd()]
        if self._untimed is None:
            wanted.append(self._reach.is_beyond(interval))
        return f"select * from ({self._query}\n) where {' or '.join(wanted)}"

    def _write_untimed(self, con: Connection) -> str | None:
        """Write the rows that are made from tables without a time alone, which every interval finds.

        Args:
            con: on which no table with a time has rows.

        Returns:
            the SELECT of these rows; None where there are none, as in most features.
        """
        query = f"select * from ({self._query}\n) where not {self._reach.is_odd()}"
        with self._told(self._what):
            if not con.execute(f"{query} limit 1").fetchall():
                return None
        folder = self._scratch / "untimed"
        folder.mkdir()
        written = engine.write_query(con, query, folder, what=self._what, where=self.step.where)
        columns = stored_columns((column.name, column.type) for column in written.columns)
        part = quote_text(escape_glob(str(folder / PART)))
        return f"select {', '.join(column.read for column in columns)} from read_parquet({part})"

    def _check_query(self, con: Connection) -> str:
        """Check that the query can be run and has its event_time; return the type of that."""
        with self._told(self._what):
            columns = engine.describe(con, self._query)
            names = (name for name, _ in columns)
            engine.check_names(con, self._query, names, what=self._what, where=self.step.where)
        return check_time(columns, self.setting.event_time, what=self._what, where=self.step.where)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn an error of the engine within the block into one of the step."""
        try:
            yield
        except duckdb.Error as error:
            raise engine.sql_error(error, what, self.step.where) from error

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
        if problem := self._reach.find_misfit(con, select, interval, what, self.step.where):
            raise StepError(problem)
        return times.fetch_times(con, select, self.setting.event_time, self._reach.kind)

    def _check_left_out(self, con: Connection, interval: Interval, what: str) -> None:
        """Make sure that the rows which are left to other intervals are found there.

        Raises:
            StepError: TR731 one is made from rows with a time that its own interval does not read.
        """
        if self._untimed is None:
            return  # such rows were written, and found
        self._find_lost(con, interval, what)

    def _find_lost(self, con: Connection, interval: Interval, what: str) -> None:
        """Raise TR731 where a row that an interval leaves out is in none that reads what it is made from."""
        beyond = self._reach.is_beyond(interval)
        lost = f"select * from ({self._query}\n) where {beyond}"
        if self._untimed is not None:
            lost += f" except all select * from ({self._untimed}) where {beyond}"
        if problem := self._reach.find_misfit(con, lost, interval, what, self.step.where):
            raise StepError(problem)


def _kind_of(con: Connection, relation: Relation) -> tuple[str, str]:
    """Return the event_time of a view and its type."""
    column = origin_of(relation).event_time
    columns = engine.describe(con, f"from {quote_name(relation.name)}")
    return column, check_time(columns, column, what=f'"{relation.name}"')
