"""One step of an open project, to look at: what it reads, what it made, a few of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from treadle.errors import Problem, StepError, StoreError, UsageError
from treadle.plan import Plan
from treadle.step import Step
from treadle_runtime import datasets, engine
from treadle_runtime.engine import Connection
from treadle_runtime.job import Relation
from treadle_runtime.jobs import JobMaker
from treadle_runtime.leases import Lease
from treadle_runtime.sample import Sample, fetch_sample
from treadle_runtime.session import create_relation
from treadle_runtime.store import Version
from treadle_runtime.types import quote_name


@dataclass(frozen=True)
class StepHandle:
    """A step as it is planned now.

    Attributes:
        lease: keeps what the step may read from being removed, as long as this handle or its workspace lives.
    """

    step: Step
    plan: Plan
    jobs: JobMaker
    lease: Lease

    @property
    def fingerprint(self) -> str:
        """The identity of the step as its files stand now."""
        return self.plan.identities[self.step.id].fingerprint

    @property
    def version(self) -> Version | None:
        """What is built of the step as it stands now, or None."""
        return self.jobs.version(self.plan, self.step.id)

    @property
    def inputs(self) -> dict[str, pa.Table]:
        """The tables that the step reads, by the names it reads them by.

        Raises:
            UsageError: TR807, one is not built.
        """
        relations = self.jobs.relations(self.plan, self.step)
        names = [self.plan.graph[parent].name for parent in self.step.inputs if _is_table(self.plan.graph[parent])]
        for name in names:
            _check_built(name, relations)
        with self._connected(relations) as con:
            return {name: con.sql(f"from {quote_name(name)}").to_arrow_table() for name in names}

    def table(self) -> pa.Table:
        """Return the step's own table.

        Raises:
            UsageError: TR807, it is not built.
        """
        with self._connected(self._own()) as con:
            return con.sql(f"from {quote_name(self.step.name)}").to_arrow_table()

    def sample(self, limit: int) -> Sample:
        """Return the first rows of the step's own table.

        Raises:
            UsageError: TR807, it is not built.
        """
        with self._connected(self._own()) as con:
            return fetch_sample(con, f"from {quote_name(self.step.name)}", limit)

    def dataset_row(self, key: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Return one row of a dataset, joined anew, with the event_time and known_at of each feature's value.

        Args:
            key: the row's key, as text.

        Returns:
            (column -> value, info), where info["provenance"] says which columns hold which times.

        Raises:
            UsageError: TR807, an input is not built; or no row has the key.
        """
        relations = self.jobs.relations(self.plan, self.step)
        for parent in self.step.inputs:
            _check_built(self.plan.graph[parent].name, relations)
        step = self.step
        with self._connected(relations) as con:
            found = datasets.build(con, step.config, name=step.name, where=step.where, only_key=key, provenance=True)
        return found.table.to_pylist()[0], found.info

    def _own(self) -> dict[str, Relation]:
        relations = self.jobs.relation(self.plan, self.step)
        _check_built(self.step.name, relations)
        return relations

    @contextmanager
    def _connected(self, relations: Mapping[str, Relation]) -> Iterator[Connection]:
        with self.jobs.store.scratch() as scratch, engine.connect(temp_directory=scratch) as con:
            try:
                for relation in relations.values():
                    create_relation(con, relation)
                yield con
            except (duckdb.Error, StepError) as error:
                self._refuse_damaged(relations, error)
                raise

    def _refuse_damaged(self, relations: Mapping[str, Relation], error: Exception) -> None:
        """Tell of damage, where that is why tables could not be read.

        Raises:
            StoreError: TR804.
        """
        versions = [relation.version for relation in relations.values() if relation.version is not None]
        if problems := [problem for version in versions for problem in self.jobs.store.verify(version)]:
            raise StoreError(problems) from error


def _is_table(step: Step) -> bool:
    return step.kind in ("source", "feature", "dataset", "evaluate")


def _check_built(name: str, relations: Mapping[str, Relation]) -> None:
    if name not in relations:
        raise not_built(name)


def not_built(name: str) -> UsageError:
    """Return the error of a table that is asked for and not built."""
    what = f'"{name}" is not built as its files stand now'
    return UsageError(Problem("TR807", what, fix=f"run `treadle build --select {name}`"))
