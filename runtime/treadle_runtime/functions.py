"""Functions of the project as steps, on polars or Arrow tables: this loads both, which only workers need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa

from treadle.errors import Problem, StepError
from treadle.pycode import Function
from treadle.step import Step
from treadle_runtime import engine, usercode
from treadle_runtime.engine import Connection
from treadle_runtime.features import name_of, order_of
from treadle_runtime.job import Job, Made, Relation
from treadle_runtime.returned import to_tables
from treadle_runtime.session import Lend
from treadle_runtime.tablefile import write_tables
from treadle_runtime.times import part_times
from treadle_runtime.types import quote_name, stored_columns

_ARROW = frozenset({"pa.Table", "pyarrow.Table", "Table"})
_FLOAT = re.compile(r"\b(FLOAT|DOUBLE)\b")
_EAGER = frozenset({"pl.DataFrame", "polars.DataFrame", "DataFrame"})


def run_function(job: Job, lend: Lend) -> Made:
    """Call a function of the project and write the table that it returns to part-0.parquet.

    Args:
        job: of a Python feature or an own stage.
        lend: where connections come from, to read what polars cannot read by itself, and to write.
    """
    step = job.step
    with calling(job, lend) as called, lend(replace(job, relations=())) as con:
        tables = called.guarded(to_tables(called.result, called.what, step.where))
        written = write_tables(
            con, tables, job.folder, job.scratch, order_by=order_of(step), what=called.what, where=step.where
        )
    times = part_times(job.folder, step.config.get("event_time"))
    # polars adds the floats of a lazy frame in an order that differs from run to run, on one thread too.
    is_reproducible = not (called.is_lazy and any(_FLOAT.search(column.type) for column in written.columns))
    return Made(
        written.columns,
        rows={engine.PART: written.rows},
        reproducible=is_reproducible,
        notes=called.watch.notes(),
        times=times,
    )


@dataclass(frozen=True)
class Called:
    """A function of the project that has returned, and whose module is still loaded.

    Attributes:
        result: what it returned; a lazy frame has still to be computed.
        what: the step, for errors.
        is_lazy: whether that is a lazy frame, or the function was given one.
        watch: what it has touched so far.
        blamed: turns what user code raises within into its error.
    """

    result: Any
    what: str
    is_lazy: bool
    watch: usercode.Watch
    blamed: Callable[[], AbstractContextManager[None]]

    def guarded(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Yield tables that user code still has a part in."""
        while True:
            with self.blamed():
                table = next(tables, None)
            if table is None:
                return
            yield table


@contextmanager
def calling(job: Job, lend: Lend) -> Iterator[Called]:
    """Call the function of a step with the tables that its parameters name; leave the block to forget its module.

    Raises:
        StepError: TR701 it raised, TR711 its files changed meanwhile.
    """
    step, function = job.step, job.step.function
    if function is None:
        raise ValueError(f"{step.id} has no function")
    what = name_of(step)
    resume = f"correct it and run `treadle build` again; `treadle run {step.id} --pdb` stops at the line"
    blamed = partial(usercode.blamed, what, job.root, resume)
    declared = tuple(path for relation in job.relations for path in relation.paths)
    arguments = _arguments(job, function, lend)
    with ExitStack() as stack:
        watch = stack.enter_context(usercode.watching(job.root, declared))
        with blamed():
            call = stack.enter_context(usercode.loaded(job.root, function.path, function.name))
            result = call(**arguments)
        is_lazy = any(isinstance(frame, pl.LazyFrame) for frame in (result, *arguments.values()))
        yield Called(result, what, is_lazy, watch, blamed)
    usercode.check_unchanged(job.root, job.python, what)


def call_function(job: Job, lend: Lend, *, is_table: bool = True) -> tuple[Any, tuple[str, ...]]:
    """Call the function of an own stage.

    Args:
        job: of the stage.
        lend: where connections come from.
        is_table: whether the result has to be a table; it is then returned as an Arrow table.

    Returns:
        (what it returned, notes on what it touched without having declared it).

    Raises:
        StepError: as `calling`; TR714 it returned no table.
    """
    with calling(job, lend) as called:
        result = called.result
        if is_table:
            result = pa.concat_tables(called.guarded(to_tables(result, called.what, job.step.where)))
    return result, called.watch.notes()


def _arguments(job: Job, function: Function, lend: Lend) -> dict[str, Any]:
    """Return the tables as the parameters' annotations ask for them: LazyFrames, unless they say otherwise."""
    relations = {relation.name: relation for relation in job.relations}
    found: dict[str, Any] = {}
    for name in function.parameters:
        is_lazy = function.annotations.get(name, "") not in _ARROW | _EAGER
        found[name] = _scan(relations[name]) if is_lazy else None
    if unread := [name for name, value in found.items() if value is None]:
        with lend(job) as con:
            found.update({name: _read(con, job, name, function.annotations.get(name, "")) for name in unread})
    return found


def _read(con: Connection, job: Job, name: str, annotation: str) -> Any:
    table = con.sql(f"from {quote_name(name)}").to_arrow_table()
    if annotation in _ARROW:
        return table
    frame = _to_frame(table, name, job.step)
    return frame if annotation in _EAGER else frame.lazy()


def _to_frame(table: pa.Table, name: str, step: Step) -> pl.DataFrame:
    try:
        return pl.DataFrame(pl.from_arrow(table))
    except pl.exceptions.PolarsError as error:
        unreadable = [field for field in table.schema if not _is_readable(table, field.name)]
        why = ", ".join(f"{field.name} ({field.type})" for field in unreadable) or str(error)[:200]
        what = f'polars cannot read "{name}", which {name_of(step)} asks for'
        fix = f"cast the column to VARCHAR in {name}, or annotate the parameter as pa.Table"
        raise StepError(Problem("TR712", what, step.where, why, fix=fix)) from error


def _is_readable(table: pa.Table, column: str) -> bool:
    try:
        pl.from_arrow(table.select([column]).slice(0, 1))
    except pl.exceptions.PolarsError:
        return False
    return True


def _scan(relation: Relation) -> pl.LazyFrame | None:
    """Return a version's parts as polars reads them itself, or None where a stored form must be cast back."""
    version = relation.version
    if version is None:
        return None
    paths = [version.folder / part.name for part in version.parts if part.name.endswith(".parquet")]
    stored = stored_columns((column.name, column.type) for column in version.columns)
    if (
        not paths
        or version.info.get("union_by_name")
        or any(column.read != quote_name(column.name) for column in stored)
    ):
        return None
    return pl.scan_parquet(paths, glob=False, hive_partitioning=False)
