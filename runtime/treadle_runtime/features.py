"""Features as steps: what a step is called, how its table is sorted, and queries; functions are `functions`' matter."""

from __future__ import annotations

from treadle.step import Step
from treadle_runtime import engine
from treadle_runtime.job import Job, Made
from treadle_runtime.session import Lend, threads_of
from treadle_runtime.times import part_times


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
    return Made(written.columns, rows={engine.PART: written.rows}, reproducible=is_reproducible, times=times)


def name_of(step: Step) -> str:
    """Return what to call a step with a function in an error: `feature "planes"`."""
    if step.kind == "feature" or step.function is None:
        return f'{step.kind} "{step.name}"'
    return f'stage "{step.function.name}"'


def order_of(step: Step) -> list[str]:
    """Return what a table is sorted by first: keys and times; nothing for a table that has neither."""
    times = [step.config[key] for key in ("event_time", "known_at") if step.config[key]]
    return [*step.config["keys"], *times]
