"""Ctrl-C, SIGTERM, a closed terminal (SIGHUP): the first ends the command in order, and what does not end is ended.

    signal -> KeyboardInterrupt in the main thread -> the command cleans up -> `end`: how to go on, and the exit code

Python handles a signal when its main thread returns from C code: a query, a slow disk or a lock of the database can
keep it there. So a thread of its own learns of the signal at once, and ends the process when the time is over, whatever
the other is doing then. That is as safe as kill -9: nothing is half done at any moment, and the next command sweeps
what is left.
"""

from __future__ import annotations

import _thread
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

GRACE_S = 1.5
_AGAIN_S = 0.02
_SIGNALS = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if sys.platform != "win32" else ()))
_THREAD = "interruption"
_SHOW_CURSOR = "\x1b[?25h"


def count_other_threads() -> int:
    """Return how many threads this process has besides the calling one and that which waits for a signal (Linux).

    Raises:
        OSError: /proc is not there.
    """
    own = sum(thread.name == _THREAD for thread in threading.enumerate())
    return len(os.listdir("/proc/self/task")) - own - 1


class Interruption:
    """What a process does when it is told to end.

    Args:
        arguments: what the command was called with, to be repeated.

    Attributes:
        is_kept: whether what the command did so far is kept, so that it goes on from there.
        signal: the first that came; None while none did.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.is_kept = False
        self.signal: signal.Signals | None = None
        self._arguments = tuple(arguments)
        self._is_raised = False
        self._is_said = threading.Lock()
        self._wakeup = -1

    @property
    def farewell(self) -> str:
        """What is said at the end, with the command that goes on."""
        kept = ": what is built is kept" if self.is_kept else ""
        return f"interrupted{kept}\nnext: {shlex.join(('treadle', *self._arguments))}"

    def install(self) -> None:
        """Handle the signals of this process from now on, except those that it was started to ignore."""
        reader, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        self._handle()
        threading.Thread(target=self._watch, args=(reader,), name=_THREAD, daemon=True).start()
        sys.unraisablehook = self._raise_again

    def _handle(self) -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let Ctrl-C be an ordinary KeyboardInterrupt within the block: a debugger lives on after it."""
        if self._wakeup < 0:
            yield
            return
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            if signal.getsignal(number) == self._raise:
                signal.signal(number, signal.default_int_handler)
        try:
            yield
        finally:
            self._handle()

    def run(self, call: Callable[[], int]) -> NoReturn:
        """Call, and end the process with what it returns; or in our way, once a signal came."""
        try:
            code = call()
        except KeyboardInterrupt:
            self.end()
        except Exception:
            # After a signal whatever comes up is its consequence: a query, for one, raises an error of its own.
            if self.signal:
                self.end()
            raise
        sys.exit(code)

    def end(self) -> NoReturn:
        """Say how to go on, and end the process."""
        # For good: it is said once. Nobody may take it; the process ends all the same.
        if self._is_said.acquire(blocking=False) and sys.stderr is not None:
            with suppress(OSError, ValueError):
                print(self.farewell, file=sys.stderr, flush=True)
        code = 128 + (self.signal or signal.SIGINT)
        if self._wakeup < 0:
            sys.exit(code)
        # Python's own way out can be interrupted again, and may make a signal of the exit code (bpo-1054041).
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        """Raise once: a second signal must not break into the cleaning up after the first."""
        if not self._is_raised:
            self._is_raised = True
            self.signal = self.signal or signal.Signals(number)
            raise KeyboardInterrupt

    def _raise_again(self, found: sys.UnraisableHookArgs) -> None:
        """Repeat an interrupt that came where Python cannot raise, as in a destructor."""
        if self._is_raised and isinstance(found.exc_value, KeyboardInterrupt):
            again = threading.Timer(_AGAIN_S, self._repeat)
            again.daemon = True
            again.start()
        else:
            sys.__unraisablehook__(found)

    def _repeat(self) -> None:
        self._is_raised = False
        _thread.interrupt_main(self.signal or signal.SIGINT)

    def _watch(self, reader: int) -> None:
        while (number := os.read(reader, 1)[0]) not in _SIGNALS:
            pass
        time.sleep(GRACE_S)
        try:
            if self._is_said.acquire(blocking=False) and select.select([], [2], [], 0)[1]:
                text = f"{_SHOW_CURSOR if os.isatty(2) else ''}{self.farewell}\n"
                os.write(2, text.encode(errors="replace"))
        finally:
            os._exit(128 + number)
