"""Run one step: by its kind, into the folder of its draft. The same function serves threads, workers and `--pdb`."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb

from treadle.errors import Problem, StepError, StoreError, TreadleError
from treadle_runtime import datasets, engine, quarantine, readers, usercode
from treadle_runtime.disk import disk_full
from treadle_runtime.diskfull import is_disk_full, why_full
from treadle_runtime.engine import Written
from treadle_runtime.features import name_of, run_query
from treadle_runtime.incremental import run_incremental
from treadle_runtime.job import Job, Made
from treadle_runtime.pieces import Pieces
from treadle_runtime.quarantine_read import Files
from treadle_runtime.sample import Sample, count_rows, fetch_sample
from treadle_runtime.session import Lend, create_relations, lend_new
from treadle_runtime.sourcefiles import is_read_by_file, run_files
from treadle_runtime.store import Column, Store
from treadle_runtime.timedtable import check_time
from treadle_runtime.times import part_times

if TYPE_CHECKING:
    from treadle_runtime.store import JSON

DATASET_FILE = "data.arrow"
MAX_SHOWN_ROWS = 3
MAX_REASON = 300


def run_job(job: Job, lend: Lend = lend_new, pieces: Pieces | None = None) -> Made:
    """Compute a step into `job.folder`.

    Args:
        job: the step, its inputs, its folder.
        lend: where DuckDB connections come from.
        pieces: keeps the pieces of a step that is put together from some; None: they are thrown away.

    Raises:
        StepError: it failed; the problem names the step, the place and the way on.
        OSError: a file of the store or of the project cannot be read or written.
    """
    try:
        return _run(job, lend, pieces)
    except (TreadleError, OSError):
        raise
    except duckdb.Error as error:
        if is_disk_full(error):
            raise StoreError(disk_full(job.folder, why_full(error))) from error
        raise engine.sql_error(error, name_of(job.step), job.step.where) from error
    except Exception as error:
        raise StepError(_cannot_predict(job, error) or _unexpected(job, error)) from error


def _run(job: Job, lend: Lend, pieces: Pieces | None) -> Made:
    step = job.step
    if step.has_pieces:
        pieces = pieces or Pieces(Store(job.scratch / "pieces", durable=False))
        return _run_source(job, lend, pieces) if step.kind == "source" else run_incremental(job, lend, pieces)
    match step.kind:
        case "source":
            return _run_source(job, lend)
        case "feature":
            return run_query(job, lend) if step.query is not None else _run_function(job, lend)
        case "dataset":
            return _run_dataset(job, lend)
        case "test":
            return _run_test(job, lend)
        case "stage":
            return _run_function(job, lend)
        case _:
            # Imported here: they bring scikit-learn, which only workers need.
            from treadle_runtime.ownstages import OWN_STAGES
            from treadle_runtime.stages import STAGES

            run = STAGES[step.kind] if step.function is None else OWN_STAGES[step.kind]
            return _located(job, lambda: run(job))


def _run_function(job: Job, lend: Lend) -> Made:
    from treadle_runtime.functions import run_function  # with polars, which only workers need

    return run_function(job, lend)


def source_config(job: Job) -> dict[str, object]:
    """Return a source's configuration in the form that `treadle_runtime.sources` reads."""
    return {"name": job.step.name, **job.step.config, **job.step.settings}


def _run_source(job: Job, lend: Lend, pieces: Pieces | None = None) -> Made:
    """Write a source that is not read in place: to a part for each file if it has a time, else to part-0.parquet."""
    if job.observed is None:
        raise ValueError(f"{job.step.id} was not observed")
    config = source_config(job)
    if pieces is not None and is_read_by_file(config, job.observed):
        return run_files(job, config, lend, pieces)
    what = f'source "{job.step.name}"'
    with lend(job, bare=True) as con, readers.reading(con, config, job.observed, job.root):
        files = Files(con, config, job.observed, job.root, job.scratch)

        def run(select: str) -> Written:
            return engine.write_query(con, select, job.folder, what=what, where=job.step.where)

        def strict() -> Written:
            return run(readers.load(con, config, files.observed, job.root))

        written, n_bad = quarantine.write(files, job.folder, strict, run)
    event_time = job.step.config.get("event_time")
    if event_time:
        columns = [(column.name, column.type) for column in written.columns]
        check_time(columns, event_time, what=what, where=job.step.where)
    return Made(
        written.columns,
        info=quarantine.to_info(config, n_bad),
        notes=(*readers.tell_empty(job.observed, config), *quarantine.to_notes(job.step.name, n_bad, written.rows)),
        times=part_times(job.folder, event_time),
        rows={engine.PART: written.rows},
    )


def _run_dataset(job: Job, lend: Lend) -> Made:
    """Join the features to the rows as of their moment: data.arrow."""
    from treadle_runtime.arrowfile import write_arrow_file  # with Arrow, which queries do without

    with lend(job, bare=True) as con:
        create_relations(con, job)
        found = datasets.build(con, job.step.config, name=job.step.name, where=job.step.where)
        write_arrow_file(found.table, job.folder / DATASET_FILE)
        con.register("dataset", found.table)
        columns = tuple(Column(name, kind) for name, kind in engine.describe(con, "from dataset"))
    return Made(columns, info=found.info)


def _run_test(job: Job, lend: Lend) -> Made:
    """Run a test's query: the rows that it returns are failures; their number and the first of them are kept."""
    step = job.step
    if step.query is None:
        raise ValueError(f"{step.id} has no query")
    with lend(job) as con:
        try:
            n = count_rows(con, step.query.text)
            found = fetch_sample(con, step.query.text, MAX_SHOWN_ROWS, n=n) if n else Sample(0, (), ())
        except duckdb.Error as error:
            raise engine.sql_error(error, f'test "{step.name}"', step.where) from error
    info: dict[str, JSON] = {
        "passed": found.n == 0,
        "failures": found.n,
        "columns": list(found.columns),
        "examples": [list(row) for row in found.rows],
    }
    return Made(info=info)


def _located(job: Job, run: Callable[[], Made]) -> Made:
    """Add the step's place to problems that do not know it."""
    try:
        return run()
    except StepError as error:
        step = job.step
        raise type(error)(replace(p, where=p.where or step.where) for p in error.problems) from error


def _cannot_predict(job: Job, error: Exception) -> Problem | None:
    """Return the problem of a model that raised when it was asked to predict, or None if it was not the model."""
    if job.step.kind != "evaluate":
        return None
    from treadle_runtime.training.model import TrainedModel

    asked = TrainedModel.predict.__code__
    if not any(frame.f_code is asked for frame, _ in traceback.walk_tb(error.__traceback__)):
        return None
    what = f'the model "{job.step.model}" cannot predict'
    fix = "set preprocess: {impute: median} in the model" if "NaN" in str(error) else "see `params` of the model"
    return Problem("TR716", what, job.step.where, _reason(error), fix=fix)


def _unexpected(job: Job, error: Exception) -> Problem:
    step_id = job.step.id
    return Problem(
        "TR718",
        f"{step_id} failed in a way that Treadle did not expect",
        job.step.where,
        f"{type(error).__name__}: {_reason(error)}",
        fix=f"please report it with this: `treadle run {step_id} --pdb` shows where",
        frames=usercode.last_frame(error.__traceback__, job.root),
    )


def _reason(error: Exception) -> str:
    """Return the first line of what an exception says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "it says nothing more"
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 3] + "..."
