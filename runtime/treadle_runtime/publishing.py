"""Run -> environment: one transaction writes its map and its candidates; the catalog follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from treadle.errors import Problem, StoreError
from treadle.plan import Plan
from treadle.step import Step
from treadle_runtime import catalog
from treadle_runtime.jobs import JobMaker
from treadle_runtime.runner import Run
from treadle_runtime.state import Candidate, State
from treadle_runtime.store import Store, Version

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


def publish(plan: Plan, run: Run, store: Store, state: State, jobs: JobMaker) -> PublishedRun:
    """Make what a run computed the current versions of its environment.

    Args:
        plan: what was run; steps of the environment that its graph no longer has are dropped.
        run: none of whose steps failed.
        store: where the versions stand.
        state: where the map is written.
        jobs: knows what views and sources in place stand for.
    """
    environment = plan.graph.environment
    done = _done(plan, run)
    built = store.fingerprints()
    mapping = {
        step_id: plan.identities[step_id].fingerprint
        for step_id in done
        if plan.graph[step_id].is_inline or plan.identities[step_id].fingerprint in built
    }
    judged = [step for step in plan.graph if step.kind == "validate" and step.id in done]
    published = state.publish(
        environment,
        run.run_id,
        mapping,
        drop=[step_id for step_id in state.environment(environment) if step_id not in plan.graph.steps],
        candidates=[found for step in judged if (found := _candidate(plan, step, store)) is not None],
    )
    candidates = {each.pipeline: each.number for each in published.registered if each.passed}
    return PublishedRun(candidates, _write_catalog(plan, store, state, jobs))


def _done(plan: Plan, run: Run) -> set[str]:
    """Return the ids of what was run, what it read, and the verdicts that it waited for."""
    done: set[str] = set()
    edge = {step_id for step_id, result in run.results.items() if result.status != "skipped"}
    while edge:
        done |= edge
        steps = [plan.graph[step_id] for step_id in edge]
        verdicts = {parent for step in steps for parent in step.after if plan.graph[parent].kind != "test"}
        edge = ({parent for step in steps for parent in step.inputs} | verdicts) - done
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


def rebuild_catalog(plan: Plan, store: Store, state: State, jobs: JobMaker) -> tuple[Problem, ...]:
    """Make the environment's catalog from nothing; return why that could not be."""
    return _write_catalog(plan, store, state, jobs, anew=True)


def _write_catalog(
    plan: Plan, store: Store, state: State, jobs: JobMaker, *, anew: bool = False
) -> tuple[Problem, ...]:
    """Bring the environment's catalog up to its map; return why that could not be: it is a cache."""

    def find_views(standing: Mapping[str, str]) -> dict[str, Version | catalog.Query]:
        return _views(plan, store, state, jobs, standing)

    path = store.root / f"{plan.graph.environment}.duckdb"
    try:
        catalog.write_catalog(path, find_views, store.root / "store", anew=anew)
    except StoreError as error:
        return tuple(error.problems)
    return ()


def _views(
    plan: Plan, store: Store, state: State, jobs: JobMaker, standing: Mapping[str, str]
) -> dict[str, Version | catalog.Query]:
    """Return what stands for each source and feature that is published now.

    That need not be what this run published: another may have published since, and a run of a part leaves the
    rest as it was. Such a version is in the store, and the text of such a view in the catalog.
    """
    views: dict[str, Version | catalog.Query] = {}
    for step_id, fingerprint in state.environment(plan.graph.environment).items():
        step = plan.graph.steps.get(step_id)
        if step is not None and step.kind not in _TABLES:
            continue
        if step is not None and step.is_inline and plan.identities[step_id].fingerprint == fingerprint:
            relation = jobs.relation(plan, step).get(step.name)
            if relation is not None:
                views[step.name] = catalog.Query(fingerprint, relation.sql)
        elif fingerprint in standing:
            views[step_id] = catalog.Query(fingerprint, standing[fingerprint])
        elif (version := store.read(fingerprint)) is not None and version.kind in _TABLES:
            views[step_id] = version
    return views
