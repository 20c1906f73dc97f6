"""A build: a request becomes a plan, the plan a run, and what the run computed is published.

request -> plan, whose versions are held -> run -> map, candidates and catalog of the environment
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from treadle.errors import TreadleError
from treadle.events import CatalogWaits, Emit, Event, Published
from treadle.events import Outcome as RunStatus
from treadle_runtime.backfill import choose_windows
from treadle_runtime.leases import plan_and_hold
from treadle_runtime.request import Request
from treadle_runtime.store import Store, storage_errors

# A build that finds nothing to do must stay fast: what brings DuckDB is imported where it is used.
if TYPE_CHECKING:
    from treadle.plan import Plan
    from treadle.step import Step
    from treadle_runtime.intervals import Window
    from treadle_runtime.publishing import PublishedRun
    from treadle_runtime.runresult import Run
    from treadle_runtime.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    """What a build came to.

    Attributes:
        run: its steps and how they ended.
        candidates: pipeline -> number of the version that is its candidate now; empty when nothing was published.
        rejected: pipeline -> number of the version that its gates refused, which nothing points at.
        published: whether the environment's map was written.
        is_idle: whether nothing was computed, and all that stands and is shown has passed.
        backfilled: ids of the features of which only some intervals were asked for.
    """

    run: Run
    candidates: Mapping[str, int]
    published: bool
    is_idle: bool = False
    backfilled: tuple[str, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)


def ignore(told: Event | int) -> None:
    """Tell nobody."""


def build(
    workspace: Workspace,
    request: Request,
    *,
    threads: int = 2,
    options: Mapping[str, Any] | None = None,
    emit: Emit = ignore,
    window: Window | None = None,
) -> Outcome:
    """Compute what a request needs and publish it in the environment.

    Args:
        workspace: the open project.
        request: what is asked for.
        threads: how many steps run at once.
        options: what the run remembers of its call, for `retry`; None for these arguments.
        emit: is told what happens.
        window: backfill: compute only these intervals of the selected incremental features, and publish nothing.

    Returns:
        How each step ended. Nothing is published when one failed.
    """
    workspace.read_anew()
    # What is wrong with the project or the request ends the command before there is a run.
    workspace.check_trainers()
    beside = workspace.beside(request.selectors, request.exclude, state=request.state)
    selected = request.choose(workspace.graph, beside)
    workspace.deferral(request, beside)
    windows = choose_windows(workspace.graph, selected, window) if window is not None else {}
    if windows:
        request = replace(request, selectors=tuple(windows), exclude=(), tests="without")
    workspace.store.sweep()
    run_id = _start_run(workspace, _to_options(request, threads, window) if options is None else options)
    status: RunStatus = "interrupted"
    published: PublishedRun | None = None
    try:
        make = partial(workspace.plan_request, request, run=run_id)
        plan = plan_and_hold(make, run_id, workspace.store, workspace.state)
        # Whose claims tell those who wait for them which run it is.
        store = Store(workspace.folder, owner=f"{workspace.command} (run {run_id})")
        run = _run(workspace, plan, run_id, store, emit, threads, windows)
        if not (run.has_failed() or windows):
            published = _publish(workspace, plan, run, store, emit)
        status = run.outcome
    except TreadleError:
        status = "failed"
        raise
    finally:
        # Only now: what is built and not yet published is safe from `clean` while the run is running.
        workspace.state.finish_run(run_id, status)
    if published is None:
        return Outcome(run, {}, published=False, backfilled=tuple(windows))
    emit(Published(plan.graph.environment, published.candidates, published.warnings))
    has_passed = all(result.has_passed for result in run.results.values())
    is_idle = not plan.n("build") and has_passed and not published.warnings
    return Outcome(run, published.candidates, published=True, is_idle=is_idle, rejected=published.rejected)


def note_idle_build(workspace: Workspace, *, threads: int) -> str:
    """Note a build of the whole project for which everything stands, as it is known to; return the run's id."""
    workspace.store.sweep()
    run_id = _start_run(workspace, _to_options(Request(), threads, None))
    workspace.state.finish_run(run_id, "passed")
    return run_id


def _to_options(request: Request, threads: int, window: Window | None) -> dict[str, Any]:
    """Return what a run remembers of its call."""
    return {
        "select": request.selectors,
        "exclude": request.exclude,
        "tests": request.tests,
        "full_refresh": request.full_refresh,
        "defer": request.defer,
        "state": request.state,
        "indirect": request.indirect,
        "threads": threads,
        "window": None if window is None else (window.start, window.end),
    }


def _start_run(workspace: Workspace, options: Mapping[str, Any]) -> str:
    options = {"vars": workspace.variables, **options}
    with storage_errors(workspace.folder):
        return workspace.state.start_run(
            workspace.environment, workspace.command, as_of=workspace.as_of, options=options
        )


def _run(
    workspace: Workspace,
    plan: Plan,
    run_id: str,
    store: Store,
    emit: Emit,
    threads: int,
    windows: Mapping[str, Window],
) -> Run:
    state = workspace.state
    if not plan.n("build"):
        from treadle_runtime.reusing import reuse
        from treadle_runtime.texts import TextReader

        reader = TextReader(workspace.root, workspace.compiled)

        def texts(step: Step) -> Mapping[str, str]:
            return reader.read(step, workspace.observed.get(step.id))

        return reuse(plan, run_id, store, state, emit, texts)
    from treadle_runtime.runner import Runner

    return Runner(store, state, workspace.jobs(), emit, threads=threads, windows=windows).run(plan, run_id)


def _publish(workspace: Workspace, plan: Plan, run: Run, store: Store, emit: Emit) -> PublishedRun:
    from treadle_runtime.publishing import publish

    def on_wait(holder: str) -> None:
        emit(CatalogWaits(plan.graph.environment, holder))

    return publish(plan, run, store, workspace.state, workspace.jobs, on_wait=on_wait)
