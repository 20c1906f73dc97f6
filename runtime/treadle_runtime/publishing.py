"""Run -> environment: one transaction writes its map and its candidates; the catalog follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from treadle.errors import Problem, StoreError
from treadle.plan import Plan
from treadle.step import Step
from treadle_runtime.runresult import Run
from treadle_runtime.stamp import is_current
from treadle_runtime.state import Candidate, State
from treadle_runtime.store import Store

if TYPE_CHECKING:
    from treadle_runtime.jobs import JobMaker

_TABLES = ("source", "feature")


@dataclass(frozen=True)
class PublishedRun:
    """What was published.

    Attributes:
        candidates: pipeline -> number of the version that is its candidate now, for pipelines whose gates held.
        warnings: why the catalog does not show it, if it does not; the next build writes the catalog again.
    """

    candidates: Mapping[str, int]
    warnings: tuple[Problem, ...] = ()


def publish(plan: Plan, run: Run, store: Store, state: State, jobs: Callable[[], JobMaker]) -> PublishedRun:
    """Make what a run computed the current versions of its environment.

    Args:
        plan: what was run; steps of the environment that its graph no longer has are dropped.
        run: none of whose steps failed.
        store: where the versions stand.
        state: where the map is written.
        jobs: returns what knows what views and sources in place stand for.
    """
    environment, graph = plan.graph.environment, plan.graph
    done = _done(plan, run)
    built = store.fingerprints()
    mapping = {
        step_id: plan.identities[step_id].fingerprint
        for step_id in done
        if plan.identities[step_id].fingerprint in built or graph[step_id].is_inline
    }
    judged = [step for step in graph if step.kind == "validate" and step.id in done]
    published = state.publish(
        environment,
        run.run_id,
        mapping,
        drop=[step_id for step_id in state.environment(environment) if step_id not in graph.steps],
        candidates=[found for step in judged if (found := _candidate(plan, step, store)) is not None],
    )
    candidates = {each.pipeline: each.number for each in published.registered if each.passed}
    return PublishedRun(candidates, _write_catalog(plan, store, state, jobs))


def _done(plan: Plan, run: Run) -> set[str]:
    """Return the ids of what was run, what it read, and the verdicts that it waited for."""
    steps = plan.graph.steps
    done = {step_id for step_id, result in run.results.items() if result.status != "skipped"}
    left = list(done)
    while left:
        step = steps[left.pop()]
        for parent in (*step.inputs, *step.after):
            if parent not in done and (parent in step.inputs or steps[parent].kind != "test"):
                done.add(parent)
                left.append(parent)
    return done


def _candidate(plan: Plan, validate: Step, store: Store) -> Candidate | None:
    """Return what a pipeline offers, or None where its verdict is red or its refit is missing."""
    pipeline = validate.pipeline

    def fingerprint(stage: str) -> str:
        return plan.identities[f"{pipeline}.{stage}"].fingerprint

    verdict, choice = store.read(fingerprint("validate")), store.read(fingerprint("choose"))
    if verdict is None or choice is None or not verdict.info["passed"]:
        return None
    model = str(choice.info["chosen"])
    twin = fingerprint(f"{model}.train")
    shipped = fingerprint("refit") if f"{pipeline}.refit" in plan.graph.steps else twin
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
    )


def _write_catalog(plan: Plan, store: Store, state: State, jobs: Callable[[], JobMaker]) -> tuple[Problem, ...]:
    """Bring the environment's catalog up to its map; return why that could not be: it is a cache."""
    path = store.root / f"{plan.graph.environment}.duckdb"
    if is_current(path, store.root / "store", _tables(plan, store, state)):
        return ()
    from treadle_runtime import catalog

    def find_views(standing: Mapping[str, str]) -> dict[str, catalog.Query | catalog.Unread]:
        found: dict[str, catalog.Query | catalog.Unread] = {}
        for name, fingerprint in _tables(plan, store, state).items():
            if (sql := _inline_sql(plan, jobs, name, fingerprint)) is not None:
                found[name] = catalog.Query(fingerprint, sql)
            elif fingerprint in standing:
                found[name] = catalog.Query(fingerprint, standing[fingerprint])
            else:
                found[name] = catalog.Unread(fingerprint, partial(store.read, fingerprint))
        return found

    try:
        catalog.write_catalog(path, find_views, store.root / "store")
    except StoreError as error:
        return tuple(error.problems)
    return ()


def _tables(plan: Plan, store: Store, state: State) -> dict[str, str]:
    """Return name -> fingerprint of the sources and features that are published now.

    That need not be what this run published: another may have published since, and a run of a part leaves the rest as
    it was. Such a version is in the store, and the text of such a view in the catalog.
    """
    steps = plan.graph.steps
    found: dict[str, str] = {}
    for step_id, fingerprint in state.environment(plan.graph.environment).items():
        step = steps.get(step_id)
        if step is None:  # of another state of the project's files
            version = store.read(fingerprint)
            is_table = version is not None and version.kind in _TABLES
        else:
            is_table = step.kind in _TABLES
        if is_table:
            found[step_id] = fingerprint
    return found


def _inline_sql(plan: Plan, jobs: Callable[[], JobMaker], name: str, fingerprint: str) -> str | None:
    """Return what a view, or a source in place, stands for if it is published as it is planned."""
    step = plan.graph.steps.get(name)
    if step is None or not step.is_inline or plan.identities[name].fingerprint != fingerprint:
        return None
    relation = jobs().relation(plan, step).get(step.name)
    return relation.sql if relation is not None else None
