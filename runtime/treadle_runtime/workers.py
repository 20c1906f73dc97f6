"""Worker processes for user code and training: warm while a build lasts, gone with their parent.

A worker is `python -m treadle_runtime.worker FD LIFELINE`: jobs and answers travel over a socket pair. It leads a
process group of its own, which is killed when the lifeline pipe closes, whatever it is doing then.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from treadle.errors import Problem, TransientError

Working: TypeAlias = Callable[[Callable[[], None]], AbstractContextManager[None]]

_ENVIRONMENT = {
    # Threads that wait for others give their core away: spinning made small fits on a busy machine 17 times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # As with SQL: more threads change the last bits of float sums and the order of rows from machine to machine.
    "POLARS_MAX_THREADS": "1",
    # Text hashes alike in every process, so that the order of a set does not differ from build to build.
    "PYTHONHASHSEED": "0",
}


class WorkerDiedError(Exception):
    """A worker ended without an answer."""

    def __init__(self, returncode: int) -> None:
        super().__init__(returncode)
        self.returncode = returncode


class Worker:
    """One worker process; not for use by two threads at a time."""

    def __init__(self, root: Path, preload: tuple[str, ...]) -> None:
        ours, theirs = socket.socketpair()
        lifeline_read, self._lifeline = os.pipe()
        # -P: the project's folder is not searched for what Treadle imports; `usercode` adds it for the project's code.
        command = [sys.executable, "-P", "-m", "treadle_runtime.worker"]
        command += [str(theirs.fileno()), str(lifeline_read), *preload]
        self.process = subprocess.Popen(
            command,
            pass_fds=(theirs.fileno(), lifeline_read),
            cwd=root,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        os.close(lifeline_read)
        self._connection: Connection[Any, Any] = Connection(ours.detach())

    def call(self, job: object) -> Any:
        """Send a job and return the answer, or raise what the job raised.

        Raises:
            WorkerDiedError: the process ended first.
        """
        try:
            self._connection.send(job)
            succeeded, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerDiedError(self.process.wait()) from error
        if succeeded:
            return answer
        raise answer

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process and what user code started in it, whatever they do."""
        with suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """`kill`, and return when the process is gone."""
        self.kill()
        self._connection.close()
        os.close(self._lifeline)
        self.process.wait()


class WorkerPool:
    """A fixed number of workers, started from the thread that makes the pool."""

    def __init__(self, root: Path, n: int, preload: tuple[str, ...] = ()) -> None:
        self._root, self._preload = root, preload
        self._free: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        self._all: list[Worker] = []
        self._lock = threading.Lock()
        self._stopped = False
        try:
            for _ in range(n):
                self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        worker = Worker(self._root, self._preload)
        self._all.append(worker)
        self._free.put(worker)

    def replace_dead(self) -> None:
        """Start a worker for each that ended; call it from the thread that made the pool."""
        for worker in [worker for worker in self._all if not worker.is_alive()]:
            self._all.remove(worker)
            worker.stop()
            self._start()

    @contextmanager
    def _borrowed(self) -> Iterator[Worker]:
        worker = self._free.get()
        while worker is not None and not worker.is_alive():
            # It died while it had nothing to do; `replace_dead` starts another.
            worker = self._free.get()
        if worker is None:
            self._free.put(None)  # for the next who waits
            raise WorkerDiedError(-signal.SIGKILL)
        try:
            yield worker
        finally:
            if worker.is_alive():
                self._free.put(worker)

    def call(self, job: object, *, what: str, working: Working) -> Any:
        """Run a job on a free worker, waiting for one.

        Args:
            job: a picklable value that `treadle_runtime.worker` knows how to run.
            what: the step, for the error.
            working: opened while the worker computes, with what kills it.

        Raises:
            TransientError: TR710, the worker died.
            StepError: what the job raised.
        """
        try:
            with self._borrowed() as worker, working(worker.kill):
                return worker.call(job)
        except WorkerDiedError as error:
            raise TransientError(_died(what, error.returncode)) from error

    def stop(self) -> None:
        """End all workers, whatever they do; who waits for one gets TR710."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        self._free.put(None)
        for worker in self._all:
            worker.stop()


def _died(what: str, returncode: int) -> Problem:
    if returncode < 0:
        why = f"it was ended by signal {-returncode}"
        if returncode == -9:
            why += "; when nobody sent it, the machine ran out of memory"
    else:
        why = f"it ended with exit code {returncode}"
    return Problem(
        "TR710",
        f"the worker that computed {what} died",
        why=why,
        fix="run the same command again: what is built is kept",
    )
