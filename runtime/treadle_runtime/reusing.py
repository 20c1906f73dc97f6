"""The part of a run that computes nothing: its begin and end, and the versions that are taken as they stand.

A build that finds nothing to do consists of this alone, and needs no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from treadle.events import Emit, Outcome, RunFinished, RunStarted, StepFinished
from treadle.plan import Plan
from treadle.step import Step
from treadle_runtime.ledger import to_record
from treadle_runtime.runresult import Run, StepResult, verdict_of
from treadle_runtime.state import State
from treadle_runtime.store import Store

_JUDGES = frozenset({"test", "validate"})


Texts = Callable[[Step], Mapping[str, str]]


def reuse(plan: Plan, run_id: str, store: Store, state: State, emit: Emit, texts: Texts) -> Run:
    """Run a plan that builds nothing; `texts` returns what the state is to keep of a step's code."""
    with reusing(plan, run_id, store, state, emit, texts) as run:
        return run


@contextmanager
def reusing(plan: Plan, run_id: str, store: Store, state: State, emit: Emit, texts: Texts) -> Iterator[Run]:
    """Begin a run with what it need not build, and tell how it ended once the rest is done."""
    started = time.monotonic()
    run = Run(plan, run_id)
    n_tests = sum(p.action == "build" and p.step.kind == "test" for p in plan)
    emit(RunStarted(run_id, plan.graph.environment, plan.n("build") - n_tests, n_tests, plan.n("reuse")))
    status: Outcome = "interrupted"
    try:
        _reuse(run, store, state, emit, texts)
        yield run
        status = run.outcome
    finally:
        counts: dict[str, int] = {}
        for result in run.results.values():
            counts[result.status] = counts.get(result.status, 0) + 1
        emit(RunFinished(run_id, status, time.monotonic() - started, counts))


def _reuse(run: Run, store: Store, state: State, emit: Emit, texts: Texts) -> None:
    """Note what need not be built; no version is opened for it, unless nobody has recorded what it is."""
    verdicts, inlined = state.verdicts(), state.recorded_inlined()
    unrecorded: list[StepResult] = []
    red: list[StepResult] = []
    for planned in run.plan:
        step, fingerprint = planned.step, planned.identity.fingerprint
        if planned.action == "inline":
            if fingerprint not in inlined:
                components = planned.identity.components
                state.record_inlined(
                    fingerprint, step=step.id, components=components, run_id=run.run_id, texts=texts(step)
                )
            run.results[step.id] = StepResult(planned, "inlined")
        elif planned.action == "reuse":
            verdict = verdicts.get(fingerprint)
            result = StepResult(planned, "reused", verdict=verdict)
            if fingerprint not in verdicts or (verdict is None and step.kind in _JUDGES):
                # Killed between the version's rename and its record: a later plan asks what it was made of.
                version = store.read(fingerprint)
                result = StepResult(planned, "reused", version=version, verdict=verdict_of(version), texts=texts(step))
                if step.id not in run.plan.deferred:  # whose identity is another environment's
                    unrecorded.append(result)
            if result.verdict is False:
                red.append(result)
                emit(finished(replace(result, version=store.read(fingerprint))))
            run.results[step.id] = result
    if red:
        # That a test failed is what became of it in this run, though nothing was computed.
        state.record_results(run.run_id, [replace(to_record(result), version=None) for result in red])
    if unrecorded:
        state.record_results(run.run_id, [to_record(result) for result in unrecorded], steps=False)


def finished(result: StepResult) -> StepFinished:
    """Return the event that tells a result."""
    step, version = result.planned.step, result.version
    return StepFinished(
        step_id=step.id,
        kind=step.kind,
        name=step.name,
        status=result.status,
        seconds=result.seconds,
        rows=version.rows if version else 0,
        n_columns=len(version.columns) if version else 0,
        info=version.info if version else {},
        notes=result.notes,
        problems=result.problems,
        severity=str(step.settings.get("severity", "error")),
        attempts=result.attempts,
        pieces=result.pieces,
    )
