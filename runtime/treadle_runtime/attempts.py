"""Steps in the middle of their work, and the means to end them from another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import duckdb

from treadle.errors import Problem, StepError
from treadle_runtime.engine import Connection
from treadle_runtime.job import Job
from treadle_runtime.session import Lend

PAUSE_S = 0.02


class Attempt:
    """One computation of a step: a query on connections of this process, or a job in a worker."""

    def __init__(self) -> None:
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
        try:
            yield
        finally:
            with self._lock:
                self._kill = None

    def end(self) -> None:
        """End what runs at this moment. A query that begins later goes on: call it until the step has ended."""
        with self._lock:
            for con in self._connections:
                with suppress(duckdb.ConnectionException):  # closed by an error, and not yet given back
                    con.interrupt()
            if self._kill is not None:
                self._kill()


class Attempts:
    """The computations of a run that are in work."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._current: set[Attempt] = set()
        self._lock = threading.Lock()

    @contextmanager
    def attempt(self, step_id: str) -> Iterator[Attempt]:
        """Begin a computation.

        Raises:
            StepError: TR717, the run was ended before.
        """
        attempt = Attempt()
        with self._lock:
            self._current.add(attempt)
        try:
            if self.stopped.is_set():
                raise StepError(Problem("TR717", f"{step_id} was not run", why="the run was interrupted"))
            yield attempt
        finally:
            with self._lock:
                self._current.discard(attempt)

    def stop(self) -> None:
        """End all computations, and let no other begin; returns when the last has ended."""
        self.stopped.set()
        while True:
            with self._lock:
                current = list(self._current)
            if not current:
                return
            for attempt in current:
                attempt.end()
            time.sleep(PAUSE_S)
