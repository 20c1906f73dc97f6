"""A worker process: receives jobs, runs them one after the other, and ends with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve jobs until the parent closes the connection."""
    descriptor, lifeline, *preload = sys.argv[1:]
    threading.Thread(target=_end_with_parent, args=(int(lifeline),), daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(int(descriptor))
    os.set_inheritable(int(descriptor), False)
    os.set_inheritable(int(lifeline), False)
    for module in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_answer(job))


def _answer(job: Any) -> tuple[bool, Any]:
    from treadle.errors import TreadleError
    from treadle_runtime.steps import run_job

    try:
        with _printing_to(job.log):
            return True, run_job(job)
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
        with contextlib.suppress(OSError):
            log.parent.rmdir()


def _end_with_parent(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    # What user code started belongs to the worker's session and ends with it.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
