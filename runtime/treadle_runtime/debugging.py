"""Run one step in this process, and stop where it raises."""

from __future__ import annotations

import pdb
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.errors import TreadleError
from treadle_runtime.steps import run_job

if TYPE_CHECKING:
    from treadle_runtime.workspace import Workspace


def debug_step(workspace: Workspace, name: str) -> int:
    """Run a step whose inputs are built; nothing is stored. An exception opens the debugger at its frame.

    Returns:
        0 when it ran, 1 when it raised.
    """
    handle = workspace.step(name)
    with tempfile.TemporaryDirectory(prefix="treadle-") as folder:
        target, scratch = Path(folder) / "result", Path(folder) / "scratch"
        target.mkdir()
        scratch.mkdir()
        job = handle.jobs.job(handle.plan, handle.step, target, scratch)
        try:
            made = run_job(job)
        except TreadleError as error:
            cause = error.__cause__ or error
            print(error)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                # polars has put a handler of its own in front, under which a wait for a line is not interrupted.
                signal.signal(signal.SIGINT, signal.default_int_handler)
            pdb.post_mortem(cause.__traceback__)
            return 1
        print(f"{handle.step.id} ran: {len(made.columns)} columns; nothing was stored")
    return 0
