"""Plan -> Run: compute what the plan asks for, publish each result in one step, and the environment's map at the end.

SQL runs on threads of this process, Python and training in workers. A step's result is claimed before it is computed,
so that two commands never compute the same, and becomes visible by one rename. What fails holds back only what
depends on it. Killed at any moment, the same command finishes the job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

from treadle.errors import Problem, StepError, StoreError, TreadleError
from treadle.events import Emit, Status, StepStarted, StepWaits
from treadle.plan import Plan, PlannedStep
from treadle.step import Step
from treadle_runtime.attempts import Attempt, Attempts
from treadle_runtime.disk import remove_empty
from treadle_runtime.intervals import Window
from treadle_runtime.job import Job, Made
from treadle_runtime.jobs import JobMaker
from treadle_runtime.leases import hold_more
from treadle_runtime.ledger import Ledger
from treadle_runtime.pieces import Pieces
from treadle_runtime.refresh import tell_refresh
from treadle_runtime.reusing import finished, reusing
from treadle_runtime.runresult import Run, StepResult, verdict_of
from treadle_runtime.schedule import Schedule, needs
from treadle_runtime.session import Sessions
from treadle_runtime.state import State
from treadle_runtime.steps import run_job
from treadle_runtime.store import Store, Version, storage_errors
from treadle_runtime.workers import WorkerPool

_IN_WORKER = frozenset({"split", "baseline", "train", "evaluate", "choose", "validate", "refit"})
_RESERVE = 3
_TICK_S = 0.2
_CLAIM_PAUSE_S = 0.05
_FUNCTIONS = ("treadle_runtime.steps", "treadle_runtime.functions")
_STAGES = (*_FUNCTIONS, "treadle_runtime.training", "treadle_runtime.evaluation")


class Runner:
    """Runs one plan.

    Args:
        windows: id of an incremental feature -> which of its intervals to compute, where that is all to be done.
    """

    def __init__(
        self,
        store: Store,
        state: State,
        maker: JobMaker,
        emit: Emit,
        *,
        threads: int = 2,
        windows: Mapping[str, Window] | None = None,
    ) -> None:
        self.store, self.state, self.maker, self.emit = store, state, maker, emit
        self.threads, self.windows = threads, windows or {}
        self._pool: ThreadPoolExecutor | None = None
        self.workers: WorkerPool | None = None
        self.sessions: Sessions | None = None
        self._attempts = Attempts(emit)

    def run(self, plan: Plan, run_id: str) -> Run:
        """Compute the plan's steps.

        Returns:
            The run, with one result for each planned step.

        Raises:
            KeyboardInterrupt: the user ended it; what was finished is kept.
            StoreError: the store cannot be written.
        """
        with reusing(plan, run_id, self.store, self.state, self.emit, self.maker.texts) as run:
            ledger = Ledger(self.state, run_id)
            try:
                self._build(run, {planned.step.id: planned for planned in plan if planned.action == "build"}, ledger)
            finally:
                ledger.flush()
                remove_empty(self._logs(run))  # a worker that died left the log empty that it had open
        return run

    def _build(self, run: Run, waiting: Mapping[str, PlannedStep], ledger: Ledger) -> None:
        with self.store.grouped(run.run_id), self.store.scratch() as scratch:
            (self.store.root / "store").mkdir(exist_ok=True)  # allowed as a folder, from the first connection on
            in_place = [path for one in self.maker.observed.values() for path in one.files(self.maker.root)]
            allowed = (self.store.root / "store", self.store.root / "tmp", *in_place)
            self.sessions = Sessions(scratch, allowed)
            try:
                self._start_workers(waiting.values())
                self._loop(run, waiting, ledger)
            finally:
                if self.workers is not None:
                    self.workers.stop()
                self.sessions.close()

    def _start_workers(self, planned: Iterable[PlannedStep]) -> None:
        remote = [p.step for p in planned if is_remote(p.step)]
        if remote:
            preload = _FUNCTIONS if all(step.kind == "feature" for step in remote) else _STAGES
            self.workers = WorkerPool(self.maker.root, min(self.threads, len(remote)), preload)

    def _loop(self, run: Run, waiting: Mapping[str, PlannedStep], ledger: Ledger) -> None:
        schedule = Schedule(run.plan.graph, [planned.step for planned in waiting.values()])
        cost = {step_id: min(int(p.step.config.get("threads", 1)), self.threads) for step_id, p in waiting.items()}
        # With a few small steps in reserve no thread waits for this one to hand out the next.
        room = self.threads * (_RESERVE if set(cost.values()) == {1} else 1)
        running: dict[Future[StepResult], str] = {}
        with ThreadPoolExecutor(self.threads, thread_name_prefix="step") as pool:
            self._pool = pool
            try:
                while schedule.n_left:
                    free = room - sum(cost[step_id] for step_id in running.values())
                    while (step := schedule.pop(free, cost)) is not None:
                        if (blocker := self._blocker(run, step)) is not None:
                            schedule.finish(step.id)
                            self._finish(run, StepResult(waiting[step.id], "skipped", problems=(blocker,)), ledger)
                            continue
                        free -= cost[step.id]
                        self.emit(StepStarted(step.id, step.kind, step.name))
                        running[pool.submit(self._compute, run, waiting[step.id])] = step.id
                    done, _ = wait(running, timeout=_TICK_S, return_when=FIRST_COMPLETED)
                    if self.workers is not None:
                        self.workers.replace_dead()
                    for future in done:
                        schedule.finish(running.pop(future))
                        self._finish(run, future.result(), ledger)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                if self.workers is not None:
                    self.workers.stop()
                self._attempts.stop()
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
                version = None if planned.is_refreshed else self.store.read(fingerprint)
                status: Status = "reused" if version else "built"
                made, is_first = Made(), False
                if version is None:
                    version, made, is_first = self._attempts.call(
                        step, lambda attempt: self._make(run, planned, attempt)
                    )
            seconds, attempts = time.monotonic() - started, self._attempts.count(step.id)
            if version is None:
                return StepResult(
                    planned, "backfilled", seconds, notes=made.notes, pieces=made.pieces, attempts=attempts
                )
            is_unrecorded = not (is_first or self.state.has_version(fingerprint))
            texts = self.maker.texts(step) if is_first or is_unrecorded else None
            return StepResult(
                planned,
                status,
                seconds,
                version,
                made.notes,
                verdict=verdict_of(version),
                texts=texts,
                pieces=made.pieces,
                attempts=attempts,
            )
        except StoreError:
            raise
        except TreadleError as error:
            seconds, attempts = time.monotonic() - started, self._attempts.count(step.id)
            return StepResult(planned, "failed", seconds, problems=error.problems, attempts=attempts)

    @contextlib.contextmanager
    def _claimed(
        self,
        step: Step,
        fingerprint: str,
        *,
        waiting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[None]:
        """Hold the claim on a fingerprint of a step; while another process holds it, wait until the run is interrupted.

        Args:
            waiting: what is entered while there is nothing to do but to wait.
        """
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
                    with waiting():
                        is_stopped = self._attempts.stopped.wait(_CLAIM_PAUSE_S)
                    if is_stopped:
                        raise StepError(_not_run(step, "the run was interrupted")) from error
            yield

    def _make(self, run: Run, planned: PlannedStep, attempt: Attempt) -> tuple[Version | None, Made, bool]:
        """Compute a step; return the version that stands, what was made, and whether it is the one that stands.

        There is no version where only pieces were asked for.
        """
        step = planned.step
        with self.store.draft(planned.fingerprint, kind=step.kind) as draft:
            log = self._logs(run) / f"{step.id}.log"
            job = self.maker.job(run.plan, step, draft.folder, self._sessions.scratch, log=log)
            job = replace(job, window=self.windows.get(step.id), anew=planned.is_refreshed)
            self.maker.intact.check_inputs(job)
            pieces = self._pieces(run.run_id, planned, attempt) if step.has_pieces else None
            with storage_errors(draft.folder):
                made = self._call(job, attempt, pieces)
            self.maker.check_unchanged(job)
            again = pieces.again if pieces is not None else ()
            if not made.is_whole:
                return None, replace(made, notes=(*made.notes, *tell_refresh(planned, None, again))), False
            read = [*job.versions.values(), *(r.version for r in job.relations if r.version is not None)]
            is_reproducible = made.reproducible and all(version.reproducible for version in read)
            version = draft.publish(
                made.columns,
                made.info,
                reproducible=is_reproducible,
                times=made.times,
                rows=made.rows,
                linked=made.linked,
            )
            whole = (version, draft.dropped) if draft.dropped is not None else None
            made = replace(made, notes=(*made.notes, *tell_refresh(planned, whole, again)))
        self.maker.note(version)
        if not made.linked:  # whose digests were made when the pieces were
            self.maker.intact.add(version)
        return version, made, draft.dropped is None

    def _call(self, job: Job, attempt: Attempt, pieces: Pieces | None) -> Made:
        if not is_remote(job.step):
            return run_job(job, attempt.lending(self._sessions.lend), pieces)
        if self.workers is None:
            raise StepError(Problem("TR710", f"no worker runs for {job.step.id}"))
        made: Made = self.workers.call(job, what=job.step.id, working=attempt.working)
        return made

    def _pieces(self, run_id: str, planned: PlannedStep, attempt: Attempt) -> Pieces:
        return Pieces(
            self.store,
            claim=partial(self._claimed, planned.step, waiting=attempt.waiting),
            hold=partial(hold_more, run_id, self.state),
            submit=self._pool.submit if self._pool is not None else None,
            n_helpers=self.threads - 1,
            is_stopped=self._attempts.stopped.is_set,
            check=partial(self.maker.intact.check, reader=planned.step),
            # What was built before and is gone may have been taken away because it was damaged.
            is_doubted=self.store.read(planned.fingerprint) is None and self.state.has_version(planned.fingerprint),
        )

    def _logs(self, run: Run) -> Path:
        return self.store.root / "logs" / run.run_id

    @property
    def _sessions(self) -> Sessions:
        if self.sessions is None:
            raise RuntimeError("nothing is being built")
        return self.sessions

    def _finish(self, run: Run, result: StepResult, ledger: Ledger) -> None:
        run.results[result.planned.step.id] = result
        ledger.add(result)
        self.emit(finished(result))


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
