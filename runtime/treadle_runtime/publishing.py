"""Run -> environment: one transaction writes its map and its candidates; the catalog follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from treadle.errors import Problem, StoreError
from treadle.plan import Plan
from treadle.step import Step
from treadle_runtime.mapstate import Candidate, Inlined
from treadle_runtime.runresult import Run
from treadle_runtime.state import State
from treadle_runtime.store import Store
from treadle_runtime.views import write_views

if TYPE_CHECKING:
    from treadle_runtime.jobs import JobMaker


_MAX_NAMED = 5


@dataclass(frozen=True)
class PublishedRun:
    """What was published.

    Attributes:
        candidates: pipeline -> number of the version that is its candidate now, for pipelines whose gates held.
        rejected: pipeline -> number of the version that its gates refused.
        warnings: why the catalog does not show it, if it does not; the next build writes the catalog again.
    """

    candidates: Mapping[str, int]
    rejected: Mapping[str, int]
    warnings: tuple[Problem, ...] = ()


def publish(
    plan: Plan,
    run: Run,
    store: Store,
    state: State,
    jobs: Callable[[], JobMaker],
    *,
    on_wait: Callable[[str], None] | None = None,
) -> PublishedRun:
    """Make what a run computed the current versions of its environment.

    Args:
        plan: what was run; steps of the environment that its graph no longer has are dropped.
        run: none of whose steps failed.
        store: where the versions stand.
        state: where the map is written.
        jobs: returns what knows what views and sources in place stand for.
        on_wait: called with who writes the catalog, before this process waits for that.

    Raises:
        StoreError: TR807, a version that the run built or reused is gone; TR803, TR805, what was published could not
            be written, and is withdrawn.
    """
    environment, graph = plan.graph.environment, plan.graph
    store.settle()
    current = state.environment(environment)
    done = _done(plan, run)
    built = store.fingerprints()
    # What was only read by what stands may be gone: nothing of the run needed it.
    mapping = {
        step_id: plan.identities[step_id].fingerprint
        for step_id in done
        if plan.identities[step_id].fingerprint in built or graph[step_id].is_inline
    }
    standing = {**current, **mapping}
    judged = [step for step in graph if step.kind == "validate" and step.id in done]
    published = state.publish(
        environment,
        run.run_id,
        mapping,
        drop=[step_id for step_id in current if step_id not in graph.steps],
        candidates=[found for step in judged if (found := _candidate(plan, step, store)) is not None],
        inlined=_inlined(plan, standing, jobs),
        check=lambda: _check_standing(plan, store, mapping.keys() | (_relied_on(run) - plan.deferred)),
    )
    candidates, rejected = (
        {each.pipeline: each.number for each in published.registered if each.passed is passed}
        for passed in (True, False)
    )
    known = {result.version.fingerprint: result.version for result in run.results.values() if result.version}
    has_changed = bool(published.changes)
    warnings = write_views(state, store, environment, has_changed=has_changed, known=known, on_wait=on_wait)
    return PublishedRun(candidates, rejected, warnings)


def _relied_on(run: Run) -> set[str]:
    """Return the ids of the steps whose versions the run built, or took as they stood."""
    return {step_id for step_id, result in run.results.items() if result.status in ("built", "reused")}


def _check_standing(plan: Plan, store: Store, step_ids: Iterable[str]) -> None:
    """Refuse a map without the versions that the run relies on: a smaller one would be taken for the whole."""
    wanted = {s: plan.identities[s].fingerprint for s in sorted(step_ids) if not plan.graph[s].is_inline}
    standing = store.built(wanted.values())
    lost = [f"{step_id} ({found[:12]})" for step_id, found in wanted.items() if found not in standing]
    if not lost:
        return
    what = f'nothing is published in "{plan.graph.environment}": what the run relies on is not in the store any more'
    more = f" and {len(lost) - _MAX_NAMED} more" if len(lost) > _MAX_NAMED else ""
    fix = "run the same command again: it is built anew"
    raise StoreError(Problem("TR807", what, why=", ".join(lost[:_MAX_NAMED]) + more, fix=fix))


def _inlined(plan: Plan, standing: Mapping[str, str], jobs: Callable[[], JobMaker]) -> list[Inlined]:
    """Return the text of each view and source in place that stands as it is planned."""
    shown = [s for s in plan.graph if s.is_inline and standing.get(s.id) == plan.identities[s.id].fingerprint]
    if not shown:
        return []
    maker = jobs()
    texts = ((step, maker.inline_sql(step)) for step in shown)
    return [Inlined(standing[step.id], step.id, step.kind, sql) for step, sql in texts if sql is not None]


def _done(plan: Plan, run: Run) -> set[str]:
    """Return the ids of what was run, what it read, and the verdicts that it waited for.

    What was read from another environment stays there.
    """
    steps = plan.graph.steps
    done = {step_id for step_id, result in run.results.items() if result.status != "skipped"} - plan.deferred
    left = list(done)
    while left:
        step = steps[left.pop()]
        for parent in (*step.inputs, *step.after):
            if parent in done or parent in plan.deferred:
                continue
            if parent in step.inputs or steps[parent].kind != "test":
                done.add(parent)
                left.append(parent)
    return done


def _candidate(plan: Plan, validate: Step, store: Store) -> Candidate | None:
    """Return what a pipeline offers, or None where its refit is missing; what its gates refuse has none."""
    pipeline = validate.pipeline

    def fingerprint(stage: str) -> str:
        return plan.identities[f"{pipeline}.{stage}"].fingerprint

    verdict, choice = store.read(fingerprint("validate")), store.read(fingerprint("choose"))
    if verdict is None or choice is None:
        return None
    passed = bool(verdict.info["passed"])
    model = str(choice.info["chosen"])
    twin = fingerprint(f"{model}.train")
    shipped = fingerprint("refit") if passed and f"{pipeline}.refit" in plan.graph.steps else twin
    if store.read(shipped) is None:
        return None
    champion = plan.champions.get(pipeline)
    dataset = plan.graph[f"{pipeline}.split"].inputs[0]
    test: Any = choice.info["test"]
    return Candidate(
        pipeline=pipeline,
        model=model,
        choose=fingerprint("choose"),
        twin=twin,
        shipped=shipped,
        validate=fingerprint("validate"),
        evaluate=fingerprint(f"{model}.evaluate"),
        split=fingerprint("split"),
        dataset=plan.identities[dataset].fingerprint,
        champion_input=champion.number if champion else None,
        metrics={name: value["value"] for name, value in test.items()},
        passed=passed,
    )
