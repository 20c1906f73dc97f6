"""Plan -> Run: compute what the plan asks for, publish each result in one step, and the environment's map at the end.

SQL runs on threads of this process, Python and training in workers. A step's result is claimed before it is computed,
so that two commands never compute the same, and becomes visible by one rename. What fails holds back only what
depends on it. Killed at any moment, the same command finishes the job.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from treadle.errors import Problem, StepError, StoreError, TreadleError
from treadle.events import Emit, Outcome, RunFinished, RunStarted, Status, StepFinished, StepStarted, StepWaits
from treadle.plan import Plan, PlannedStep
from treadle.step import Step
from treadle_runtime.engine import Connection
from treadle_runtime.job import Job, Made
from treadle_runtime.jobs import JobMaker
from treadle_runtime.schedule import Schedule, needs
from treadle_runtime.state import State
from treadle_runtime.steps import run_job
from treadle_runtime.store import Store, Version, storage_errors
from treadle_runtime.workers import WorkerPool

_IN_WORKER = frozenset({"split", "baseline", "train", "evaluate", "choose", "validate", "refit"})
_TICK_S = 0.2
_CLAIM_PAUSE_S = 0.05
_PRELOAD = ("treadle_runtime.steps", "treadle_runtime.training", "treadle_runtime.evaluation")


@dataclass(frozen=True)
class StepResult:
    """How a step ended."""

    planned: PlannedStep
    status: Status
    seconds: float = 0.0
    version: Version | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def has_passed(self) -> bool:
        """Whether what waits for this step may run: it did not fail, and neither did what it judges."""
        if self.status in ("failed", "skipped"):
            return False
        return self.version is None or self.version.info.get("passed", True) is True


@dataclass
class Run:
    """A run in work.

    Attributes:
        results: step id -> result, in the order in which they ended.
    """

    plan: Plan
    run_id: str
    results: dict[str, StepResult] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """What the results come to."""
        return "failed" if self.has_failed() else "rejected" if self.is_rejected() else "passed"

    def has_failed(self) -> bool:
        """Whether a step failed, or a test of severity error."""
        return any(is_failure(result) for result in self.results.values())

    def is_rejected(self) -> bool:
        """Whether the gates of a pipeline did not hold."""
        return any(
            result.planned.step.kind == "validate" and result.status != "skipped" and not result.has_passed
            for result in self.results.values()
        )


def is_failure(result: StepResult) -> bool:
    """Return whether a result keeps the run from being published."""
    if result.status == "failed":
        return True
    return result.planned.step.blocks and result.status != "skipped" and not result.has_passed


class Runner:
    """Runs one plan."""

    def __init__(self, store: Store, state: State, maker: JobMaker, emit: Emit, *, threads: int = 2) -> None:
        self.store, self.state, self.maker, self.emit = store, state, maker, emit
        self.threads = threads
        self.workers: WorkerPool | None = None
        self._connections: list[Connection] = []
        self._is_interrupted = threading.Event()

    def run(self, plan: Plan, run_id: str) -> Run:
        """Compute the plan's steps.

        Returns:
            The run, with one result for each planned step.

        Raises:
            KeyboardInterrupt: the user ended it; what was finished is kept.
            StoreError: the store cannot be written.
        """
        started = time.monotonic()
        run = Run(plan, run_id)
        n_tests = sum(p.action == "build" and p.step.kind == "test" for p in plan)
        self.emit(RunStarted(run_id, plan.graph.environment, plan.n("build") - n_tests, n_tests, plan.n("reuse")))
        status: Outcome = "interrupted"
        try:
            self._reuse(run)
            waiting = {planned.step.id: planned for planned in plan if planned.action == "build"}
            if waiting:
                self._start_workers(waiting.values())
                self._loop(run, waiting)
            status = run.outcome
        finally:
            if self.workers is not None:
                self.workers.stop()
            with contextlib.suppress(OSError):  # there are logs in it, or nothing was logged
                self._logs(run).rmdir()
            counts: dict[str, int] = {}
            for result in run.results.values():
                counts[result.status] = counts.get(result.status, 0) + 1
            self.emit(RunFinished(run_id, status, time.monotonic() - started, counts))
        return run

    def _reuse(self, run: Run) -> None:
        recorded = self.state.identities(planned.fingerprint for planned in run.plan)
        for planned in run.plan:
            if planned.action == "reuse":
                version = self.store.read(planned.fingerprint)
                if version is not None and planned.fingerprint not in recorded:
                    # Killed between the version's rename and its record: a later plan asks what it was made of.
                    self._record(run, planned, version, 0.0)
                self._finish(run, StepResult(planned, "reused", version=version))
            elif planned.action == "inline":
                self._finish(run, StepResult(planned, "inlined"))

    def _start_workers(self, planned: Iterable[PlannedStep]) -> None:
        remote = [p.step for p in planned if is_remote(p.step)]
        if remote:
            preload = _PRELOAD if any(step.kind != "feature" for step in remote) else _PRELOAD[:1]
            self.workers = WorkerPool(self.maker.root, min(self.threads, len(remote)), preload)

    def _loop(self, run: Run, waiting: Mapping[str, PlannedStep]) -> None:
        schedule = Schedule(run.plan.graph, [planned.step for planned in waiting.values()])
        cost = {step_id: min(int(p.step.config.get("threads", 1)), self.threads) for step_id, p in waiting.items()}
        running: dict[Future[StepResult], str] = {}
        with ThreadPoolExecutor(self.threads, thread_name_prefix="step") as pool:
            try:
                while schedule.n_left:
                    free = self.threads - sum(cost[step_id] for step_id in running.values())
                    while (step := schedule.pop(free, cost)) is not None:
                        if (blocker := self._blocker(run, step)) is not None:
                            schedule.finish(step.id)
                            self._finish(run, StepResult(waiting[step.id], "skipped", problems=(blocker,)))
                            continue
                        free -= cost[step.id]
                        self.emit(StepStarted(step.id, step.kind, step.name))
                        running[pool.submit(self._compute, run, waiting[step.id])] = step.id
                    done, _ = wait(running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
                    if self.workers is not None:
                        self.workers.replace_dead()
                    for future in done:
                        schedule.finish(running.pop(future))
                        self._finish(run, future.result())
            except BaseException:
                self._interrupt()
                raise

    def _blocker(self, run: Run, step: Step) -> Problem | None:
        """Return why a step can never run: what it reads or waits for did not pass."""
        inputs, after = needs(run.plan.graph, step)
        for parent in inputs:
            result = run.results.get(parent)
            if result is not None and result.status in ("failed", "skipped"):
                return _not_run(step, f"{parent} {result.status}")
        for parent in after:
            result = run.results.get(parent)
            passed = result.has_passed if result is not None else self.maker.has_passed(run.plan, parent)
            if not passed:
                why = (
                    "the gates did not hold"
                    if parent.endswith(".validate")
                    else f"{parent.removeprefix('test:')} failed"
                )
                return _not_run(step, why)
        return None

    def _compute(self, run: Run, planned: PlannedStep) -> StepResult:
        """Claim, compute, publish one step. Runs on a thread of the pool."""
        started = time.monotonic()
        step, fingerprint = planned.step, planned.fingerprint
        try:
            with self._claimed(step, fingerprint):
                version = None if planned.reason == "full refresh" else self.store.read(fingerprint)
                notes: tuple[str, ...] = ()
                status: Status = "reused" if version else "built"
                if version is None:
                    version, notes = self._make(run, planned)
            seconds = time.monotonic() - started
            self._record(run, planned, version, seconds)
            return StepResult(planned, status, seconds, version, notes)
        except StoreError:
            raise
        except TreadleError as error:
            return StepResult(planned, "failed", time.monotonic() - started, problems=error.problems)

    @contextlib.contextmanager
    def _claimed(self, step: Step, fingerprint: str) -> Iterator[None]:
        """Hold the claim on a step's fingerprint; while another process holds it, wait until the run is interrupted."""
        with contextlib.ExitStack() as stack:
            is_told = False
            while True:
                try:
                    stack.enter_context(self.store.claim(fingerprint, on_wait=_give_up))
                    break
                except _HeldElsewhereError as error:
                    if not is_told:
                        self.emit(StepWaits(step.id, error.holder))
                        is_told = True
                    if self._is_interrupted.wait(_CLAIM_PAUSE_S):
                        raise StepError(_not_run(step, "the run was interrupted")) from error
            yield

    def _make(self, run: Run, planned: PlannedStep) -> tuple[Version, tuple[str, ...]]:
        step = planned.step
        with self.store.draft(planned.fingerprint, kind=step.kind) as draft, self.store.scratch() as scratch:
            log = self._logs(run) / f"{step.id}.log"
            job = self.maker.job(run.plan, step, draft.folder, scratch, log=log)
            self.maker.check_intact(job)
            with storage_errors(draft.folder):
                made = self._call(job)
            self.maker.check_unchanged(run.plan, step)
            read = [*job.versions.values(), *(r.version for r in job.relations if r.version is not None)]
            is_reproducible = made.reproducible and all(version.reproducible for version in read)
            version = draft.publish(made.columns, made.info, reproducible=is_reproducible)
        self.maker.intact.add(version.fingerprint)
        return version, made.notes

    def _call(self, job: Job) -> Made:
        if not is_remote(job.step):
            return run_job(job, self._connections.append)
        if self.workers is None:
            raise StepError(Problem("TR710", f"no worker runs for {job.step.id}"))
        made: Made = self.workers.call(job, what=job.step.id)
        return made

    def _logs(self, run: Run) -> Path:
        return self.store.root / "logs" / run.run_id

    def _interrupt(self) -> None:
        """End what is running: queries on this process's threads, and the workers."""
        self._is_interrupted.set()
        for connection in self._connections:
            with contextlib.suppress(duckdb.ConnectionException):  # closed: its step is over
                connection.interrupt()
        if self.workers is not None:
            self.workers.stop()

    def _record(self, run: Run, planned: PlannedStep, version: Version, seconds: float) -> None:
        self.state.record_version(
            planned.fingerprint,
            step=planned.step.id,
            kind=planned.step.kind,
            components=planned.identity.components,
            rows=version.rows,
            bytes=version.bytes,
            seconds=seconds,
            run_id=run.run_id,
            reproducible=version.reproducible,
        )

    def _finish(self, run: Run, result: StepResult) -> None:
        planned, version = result.planned, result.version
        step = planned.step
        run.results[step.id] = result
        if result.status != "reused":
            message = result.problems[0].what if result.problems else ""
            fingerprint = planned.fingerprint
            self.state.record_step(
                run.run_id,
                step.id,
                status=result.status,
                fingerprint=fingerprint,
                seconds=result.seconds,
                message=message,
            )
        self.emit(
            StepFinished(
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
            )
        )


class _HeldElsewhereError(Exception):
    """Another process holds the claim; never leaves this module."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def _give_up(holder: str) -> None:
    raise _HeldElsewhereError(holder)


def is_remote(step: Step) -> bool:
    """Return whether a step runs in a worker: user code, and all that needs scikit-learn."""
    return step.kind in _IN_WORKER or step.function is not None


def _not_run(step: Step, why: str) -> Problem:
    return Problem("TR717", f"{step.id} was not run", why=why)
