"""A worker process: receives jobs, runs them one after the other, and ends with its parent."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from treadle_runtime.session import Lend


def main() -> None:
    """Serve jobs until the parent closes the connection."""
    descriptor, lifeline, *preload = sys.argv[1:]
    _end_with_parent(int(lifeline))
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all its processes: the parent decides
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed survives a crash
    connection: Connection[Any, Any] = Connection(int(descriptor))
    os.set_inheritable(int(descriptor), False)
    os.set_inheritable(int(lifeline), False)
    for module in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    from treadle_runtime.session import OwnSession  # with the engine, which takes long to load

    session = OwnSession()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_answer(job, session.lend))


def _answer(job: Any, lend: Lend) -> tuple[bool, Any]:
    from treadle.errors import TreadleError
    from treadle_runtime.disk import storage_errors
    from treadle_runtime.steps import run_job

    os.chdir(job.root)  # an earlier step's code may have left it
    try:
        with _printing_to(job.log), storage_errors(job.folder):
            return True, run_job(job, lend)
    except TreadleError as error:
        return False, error


@contextlib.contextmanager
def _printing_to(log: Path | None) -> Iterator[None]:
    """Let all that is printed, by Python or by a library below it, go to a file; an empty one is removed."""
    if log is None:
        yield
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
    if not log.stat().st_size:
        log.unlink()


def _end_with_parent(lifeline: int) -> None:
    """Let the worker, and what user code started in its process group, be killed when the pipe's other end closes."""
    threading.Thread(target=_kill_group_after, args=(lifeline,), daemon=True).start()
    if sys.platform == "linux":
        # A thread waits for the interpreter's lock, which code written in C may hold for long. The kernel does not:
        # it sends the signal of F_SETSIG to the group once the pipe hangs up (fcntl(2), "I/O availability signals").
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _kill_group_after(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
