"""Run -> environment: one transaction writes its map and its candidates; the catalog follows."""

from __future__ import annotations

from typing import Any

from treadle.plan import Plan
from treadle.step import Step
from treadle_runtime import catalog
from treadle_runtime.jobs import JobMaker
from treadle_runtime.runner import Run
from treadle_runtime.state import Candidate, State
from treadle_runtime.store import Store, Version


def publish(plan: Plan, run: Run, store: Store, state: State, jobs: JobMaker) -> dict[str, int]:
    """Make what a run computed the current versions of its environment.

    Args:
        plan: what was run; steps of the environment that its graph no longer has are dropped.
        run: none of whose steps failed.
        store: where the versions stand.
        state: where the map is written.
        jobs: knows what views and sources in place stand for.

    Returns:
        pipeline -> number of the version that is its candidate now, for pipelines whose gates held.
    """
    environment = plan.graph.environment
    done = {step_id for step_id, result in run.results.items() if result.status != "skipped"}
    done |= plan.graph.ancestors(done)
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
    _write_catalog(plan, store, state, jobs)
    return {registered.pipeline: registered.number for registered in published.registered if registered.passed}


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


def _write_catalog(plan: Plan, store: Store, state: State, jobs: JobMaker) -> None:
    """Bring the environment's catalog up to its map: a view for each feature and source."""
    environment = plan.graph.environment
    published = state.environment(environment)
    views: dict[str, Version | str] = {}
    for step in plan.graph:
        if step.kind not in ("source", "feature") or step.id not in published:
            continue
        if step.is_inline:
            relation = jobs.relation(plan, step).get(step.name)
            if relation is not None and published[step.id] == plan.identities[step.id].fingerprint:
                views[step.name] = relation.sql
        elif (version := store.read(published[step.id])) is not None:
            views[step.name] = version
    catalog.write_catalog(store.root / f"{environment}.duckdb", views, store.root / "store")
