"""Connections of one step whose pieces are computed by several threads: each is used by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

from treadle_runtime.engine import Connection
from treadle_runtime.job import Job
from treadle_runtime.session import Lend


class ConnectionPool:
    """Lends bare connections of a job again and again, for opening one takes as long as a small piece.

    Args:
        lend: where they come from.
        stack: gives them back; no thread may use one any more by then.
        prepare: is called with each new one.
    """

    def __init__(self, job: Job, lend: Lend, stack: ExitStack, prepare: Callable[[Connection], None]) -> None:
        self._job, self._lend, self._stack, self._prepare = job, lend, stack, prepare
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    @contextmanager
    def use(self) -> Generator[Connection]:
        """Use a connection that nobody uses; one on which something failed is not used again."""
        with self._lock:
            con = self._idle.pop() if self._idle else None
        if con is None:
            lent = self._lend(self._job, bare=True)
            with self._lock:
                con = self._stack.enter_context(lent)
            self._prepare(con)
        yield con
        with self._lock:
            self._idle.append(con)
