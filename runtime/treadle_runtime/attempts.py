"""The tries of a step: ended from another thread when its time or the run is over, repeated where that may help.

    call: try -> failed for a reason that may pass, and `retries` are left -> wait 1 s, 2 s, 4 s ... -> try again

A try that computes on connections of this process has its queries interrupted; one in a worker has the worker killed,
with what it started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar

import duckdb

from treadle.errors import Problem, StepError, TransientError
from treadle.events import Emit, StepRetries
from treadle.names import parse_duration_us
from treadle.step import Step
from treadle_runtime.engine import Connection
from treadle_runtime.job import Job
from treadle_runtime.session import Lend
from treadle_runtime.timelimit import TimeLimit

_AGAIN_S = 0.02
_MAX_PAUSE_S = 60.0

T = TypeVar("T")


class Attempt:
    """One try.

    Args:
        timeout_s: how long it may compute, from its first connection or from its worker's start, and without the time
            in which one of its threads waits for another process; None for ever.
    """

    def __init__(self, timeout_s: float | None = None) -> None:
        self.has_expired = False
        self._limit = TimeLimit(timeout_s) if timeout_s is not None else None
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[Connection] = []
        self._kill: Callable[[], None] | None = None

    def lending(self, lend: Lend) -> Lend:
        """Return what lends a connection and notes it as long as it is lent."""

        @contextmanager
        def lend_noted(job: Job, *, bare: bool = False) -> Iterator[Connection]:
            with lend(job, bare=bare) as con:
                with self._lock:
                    self._connections.append(con)
                self._start_clock()
                try:
                    yield con
                finally:
                    with self._lock:
                        self._connections.remove(con)

        return lend_noted

    @contextmanager
    def working(self, kill: Callable[[], None]) -> Iterator[None]:
        """Note what ends the worker that computes the step within the block, and not after it."""
        with self._lock:
            self._kill = kill
        self._start_clock()
        try:
            yield
        finally:
            with self._lock:
                self._kill = None

    def waiting(self) -> AbstractContextManager[None]:
        """Return a block in which a thread of the try waits for another process, and the clock stands."""
        return self._limit.waiting() if self._limit is not None else nullcontext()

    def end(self) -> None:
        """End what runs at this moment. A query that begins later goes on: call it until the step has ended."""
        with self._lock:
            for con in self._connections:
                with suppress(duckdb.ConnectionException):  # closed by an error, and not yet given back
                    con.interrupt()
            if self._kill is not None:
                self._kill()

    def close(self) -> None:
        """Note that the try is over."""
        self._is_over.set()

    def _start_clock(self) -> None:
        if self._limit is not None and self._limit.start():
            threading.Thread(target=self._expire, args=(self._limit,), daemon=True).start()

    def _expire(self, limit: TimeLimit) -> None:
        while left_s := limit.left_s():
            if self._is_over.wait(left_s):
                return
        self.has_expired = True
        while not self._is_over.is_set():
            self.end()
            self._is_over.wait(_AGAIN_S)


class Attempts:
    """The tries of a run's steps.

    Args:
        emit: is told of each try that failed and is followed by another.
    """

    def __init__(self, emit: Emit) -> None:
        self.stopped = threading.Event()
        self._emit = emit
        self._counts: dict[str, int] = {}
        self._current: set[Attempt] = set()
        self._lock = threading.Lock()

    def count(self, step_id: str) -> int:
        """Return how many tries a step took so far; 1 for one that was never tried."""
        return self._counts.get(step_id, 1)

    def call(self, step: Step, make: Callable[[Attempt], T]) -> T:
        """Return what `make` returns, at whichever of the step's tries.

        Args:
            step: its settings `retries` and `timeout` count.
            make: gets the try, to tell it what it computes on; nothing of a failed try may remain.

        Raises:
            StepError: TR709, the last try took too long; TR717, the run was ended; or what the last try raised.
        """
        timeout, retries = step.settings.get("timeout"), int(step.settings.get("retries", 0))
        timeout_s = parse_duration_us(timeout) / 1e6 if timeout else None
        attempt_number = 0
        while True:
            attempt_number += 1
            self._counts[step.id] = attempt_number
            attempt = Attempt(timeout_s)
            try:
                with self._in_work(step, attempt):
                    return make(attempt)
            except StepError as error:
                failure = TransientError(_timed_out(step, str(timeout))) if attempt.has_expired else error
                if not isinstance(failure, TransientError) or attempt_number > retries or self.stopped.is_set():
                    raise failure from error
            pause_s = min(2.0 ** (attempt_number - 1), _MAX_PAUSE_S)
            self._emit(StepRetries(step.id, attempt_number, retries + 1, pause_s, failure.problems[0]))
            self.stopped.wait(pause_s)

    @contextmanager
    def _in_work(self, step: Step, attempt: Attempt) -> Iterator[None]:
        with self._lock:
            self._current.add(attempt)
        try:
            if self.stopped.is_set():
                raise StepError(Problem("TR717", f"{step.id} was not run", why="the run was interrupted"))
            yield
        finally:
            attempt.close()
            with self._lock:
                self._current.discard(attempt)

    def stop(self) -> None:
        """End all tries, and let no other begin; returns when the last has ended."""
        self.stopped.set()
        while True:
            with self._lock:
                current = list(self._current)
            if not current:
                return
            for attempt in current:
                attempt.end()
            time.sleep(_AGAIN_S)


def _timed_out(step: Step, timeout: str) -> Problem:
    fix = "give it more time with `timeout`, or make less work of it"
    return Problem(
        "TR709", f"{step.id} took longer than its timeout", step.where, f"it was ended after {timeout}", fix=fix
    )
