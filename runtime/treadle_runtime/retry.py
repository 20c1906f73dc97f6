"""The last run of an environment -> what of it is to be done again.

What counts is the state, which a kill does not harm: a run that failed says which steps did, and one that was
interrupted is the same command again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from treadle.errors import Problem, UsageError
from treadle_runtime.intervals import Window

if TYPE_CHECKING:
    from treadle.plan import Plan
    from treadle_runtime.runstate import RunRecord, StepRecord
    from treadle_runtime.state import State
    from treadle_runtime.workspace import Workspace


@dataclass(frozen=True)
class Retry:
    """A build that does a run's rest again.

    Attributes:
        failed: ids of the steps that failed or were skipped; empty where the whole command is done again, which costs
            nothing for what it did: it was interrupted, or is a backfill.
        arguments: of `Workspace.build`.
    """

    failed: tuple[str, ...]
    arguments: Mapping[str, Any]


def find_run(state: State, env: str) -> RunRecord | None:
    """Return the last run of an environment, or the one that this was an unfinished retry of; None without runs.

    Raises:
        UsageError: TR603, it is still in work, or an older Treadle did not note what it was called with.
    """
    run = state.last_run(env)
    while run is not None and run.status != "passed" and (base := run.options.get("retry_of")):
        if run.status != "interrupted" and any(step.status in ("failed", "skipped") for step in run.steps):
            break
        run = state.run(base)
    if run is None:
        return None
    why = f"run {run.id}: {run.command}"
    if run.status == "running":
        raise UsageError(Problem("TR603", f"the last run in {env} is still in work", why=why, fix="wait for its end"))
    if not run.options:
        what = f"what the last run in {env} was called with is not known"
        raise UsageError(Problem("TR603", what, why=f"{why}, of an older Treadle", fix="run that command again"))
    return run


def make_retry(workspace: Workspace, run: RunRecord) -> Retry | None:
    """Return how to do a run's rest again, or None when it has none.

    What succeeded in it and still stands in the store is selected too, as it is not published yet: it costs nothing.

    Args:
        workspace: opened with the run's own variables and `as_of`.
        run: one that is over.
    """
    options = dict(run.options)
    names = ("exclude", "tests", "full_refresh", "threads", "defer", "state")
    arguments: dict[str, Any] = {name: options[name] for name in names}
    arguments["indirect"] = options.setdefault("indirect", "eager")  # which an older Treadle did not ask for
    arguments["window"] = Window(*options["window"]) if options["window"] else None
    if run.status == "interrupted" or (run.status == "failed" and options["window"]):
        return Retry((), {**arguments, "selectors": options["select"], "options": options})
    if run.status == "passed":
        return None
    wanted = {name: options[name] for name in ("tests", "defer", "state", "indirect")}
    plan = workspace.plan(options["select"], options["exclude"], **wanted)
    verdicts = workspace.state.verdicts()
    failed = tuple(step.step for step in run.steps if _has_failed(step, plan, verdicts))
    if not failed and not any(step.status in ("failed", "skipped") for step in run.steps):
        # It failed before any step did: while it was planned, or for want of space.
        return Retry((), {**arguments, "selectors": options["select"], "options": options})
    selectors = list(failed)
    if options["full_refresh"] and not workspace.store.built(plan.identities[step].fingerprint for step in failed):
        arguments["full_refresh"] = False  # what failed is not built: nothing is to be computed again
    if not arguments["full_refresh"]:
        selectors += [planned.step.id for planned in plan if planned.action != "build" and planned.is_selected]
    if not selectors:
        return None
    return Retry(failed, {**arguments, "selectors": selectors, "options": {**options, "retry_of": run.id}})


def _has_failed(record: StepRecord, plan: Plan, verdicts: Mapping[str, bool | None]) -> bool:
    """Return whether a step of the graph failed, was skipped, or is a test or a verdict that did not pass."""
    step = plan.graph.steps.get(record.step)
    if step is None:
        return False
    if record.status in ("failed", "skipped"):
        return True
    return (step.blocks or step.kind == "validate") and verdicts.get(record.fingerprint or "") is False
