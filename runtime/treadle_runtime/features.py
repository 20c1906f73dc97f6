"""Features as steps: a query on a DuckDB of its own, or a function of the project on polars or Arrow tables."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa

from treadle.errors import Location, Problem, StepError
from treadle.pycode import Function
from treadle.step import Step
from treadle_runtime import engine, usercode
from treadle_runtime.engine import Connection
from treadle_runtime.job import Job, Made, Relation
from treadle_runtime.session import Lend, create_relations, threads_of
from treadle_runtime.times import part_times
from treadle_runtime.types import quote_name, stored_columns

_ARROW = frozenset({"pa.Table", "pyarrow.Table", "Table"})
_EAGER = frozenset({"pl.DataFrame", "polars.DataFrame", "DataFrame"})


def run_query(job: Job, lend: Lend) -> Made:
    """Run a feature's SELECT into part-0.parquet.

    Args:
        job: of a SQL feature.
        lend: where the connection comes from.
    """
    step = job.step
    if step.query is None:
        raise ValueError(f"{step.id} has no query")
    with lend(job) as con:
        what = f'feature "{step.name}"'
        order_by = order_of(step)
        written = engine.write_query(con, step.query.text, job.folder, order_by=order_by, what=what, where=step.where)
    is_reproducible = threads_of(job) == 1 and (bool(order_by) or not written.spilled)
    times = part_times(job.folder, step.config["event_time"])
    return Made(written.columns, reproducible=is_reproducible, times=times, rows={engine.PART: written.rows})


def run_function(job: Job) -> Made:
    """Call a function of the project and write the table that it returns to part-0.parquet."""
    step = job.step
    result, notes = call_function(job)
    table: pa.Table = result
    with engine.connect(temp_directory=job.scratch) as con:
        order_by = order_of(step) or table.column_names[:1]
        written = engine.write_arrow(con, table, job.folder, order_by=order_by, what=name_of(step), where=step.where)
    times = part_times(job.folder, step.config["event_time"])
    return Made(written.columns, notes=notes, times=times, rows={engine.PART: written.rows})


def call_function(job: Job, *, is_table: bool = True) -> tuple[Any, tuple[str, ...]]:
    """Call the function of a step with the tables that its parameters name.

    Args:
        job: of a Python feature or an own stage.
        is_table: whether the result has to be a table; it is then returned as an Arrow table.

    Returns:
        (what it returned, notes on what it touched without having declared it).

    Raises:
        StepError: TR701 it raised, TR711 its files changed meanwhile, TR714 it returned no table.
    """
    step, function = job.step, job.step.function
    if function is None:
        raise ValueError(f"{step.id} has no function")
    what = name_of(step)
    resume = f"correct it and run `treadle build` again; `treadle run {step.id} --pdb` stops at the line"
    with engine.connect(temp_directory=job.scratch) as con:
        create_relations(con, job)
        declared = tuple(path for relation in job.relations for path in relation.paths)
        arguments = {name: _argument(con, job, name, function) for name in function.parameters}
        with (
            usercode.blamed(what, job.root, resume),
            usercode.watching(job.root, declared) as watch,
            usercode.loaded(job.root, function.path, function.name) as call,
        ):
            result = call(**arguments)
            if is_table:
                result = _to_arrow(result, what, step.where)
        usercode.check_unchanged(job.root, job.python, what)
    return result, watch.notes()


def name_of(step: Step) -> str:
    """Return what to call a step with a function in an error: `feature "planes"`."""
    if step.kind == "feature" or step.function is None:
        return f'{step.kind} "{step.name}"'
    return f'stage "{step.function.name}"'


def order_of(step: Step) -> list[str]:
    """Return what a table is sorted by first: keys and times; nothing for a table that has neither."""
    times = [step.config[key] for key in ("event_time", "known_at") if step.config[key]]
    return [*step.config["keys"], *times]


def _argument(con: Connection, job: Job, name: str, function: Function) -> Any:
    """Return a table as the parameter's annotation asks for it: a LazyFrame, unless it says otherwise."""
    annotation = function.annotations.get(name, "")
    relation = next(relation for relation in job.relations if relation.name == name)
    if annotation not in _ARROW | _EAGER and (lazy := _scan(relation)) is not None:
        return lazy
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


def _to_arrow(result: object, what: str, where: Location) -> pa.Table:
    match result:
        case pl.LazyFrame():
            return result.collect().to_arrow()
        case pl.DataFrame():
            return result.to_arrow()
        case pa.Table():
            return result
        case pa.RecordBatchReader():
            return result.read_all()
    why = f"it returned a {type(result).__name__}"
    fix = "return a polars LazyFrame or DataFrame, or an Arrow table"
    raise StepError(Problem("TR714", f"{what} returned no table", where, why, fix=fix))
