"""How long a try of a step may still compute: a clock that stands while the try waits for others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOOK_S = 0.02


class TimeLimit:
    """The time of one try; for several threads.

    The clock stands as long as any thread of the try waits for another process, be it one that helps while others
    compute: what they do meanwhile takes no time.

    Args:
        seconds: how long it may compute.
        clock: what time it is, in seconds.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._lock = threading.Lock()
        self._started_s: float | None = None
        self._stood_s = 0.0
        self._n_waiting = 0
        self._waits_since_s = 0.0

    def start(self) -> bool:
        """Let the clock run; return whether it was not running before."""
        with self._lock:
            if self._started_s is not None:
                return False
            self._started_s = self._clock()
            return True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the clock stand within the block, in which a thread of the try waits for another process."""
        with self._lock:
            self._n_waiting += 1
            if self._n_waiting == 1:
                self._waits_since_s = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._n_waiting -= 1
                if not self._n_waiting and self._started_s is not None:  # before, there was no clock to stand
                    self._stood_s += self._clock() - max(self._waits_since_s, self._started_s)

    def left_s(self) -> float:
        """Return for how long it is certain that the time is not over; 0 when it is."""
        with self._lock:
            if self._n_waiting or self._started_s is None:
                return _LOOK_S
            return max(0.0, self._started_s + self._seconds + self._stood_s - self._clock())
