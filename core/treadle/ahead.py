"""Many SQL files, read by several processes before anybody asks what they say.

    texts -> shares, whose numbers wait in a pipe -> each process takes one after the other -> what their files say

The helpers are forks of this process: they have the texts, the macros and the parser already, and read as it would.
Of a file that is wrong, and of what a helper took that died, nothing is known afterwards: whoever asks for it reads it,
and finds what there is to find. So what comes out does not depend on who has read what.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import takewhile
from typing import NoReturn

import msgspec

from treadle.errors import ProjectError
from treadle.interruption import count_other_threads
from treadle.program import Parsed
from treadle.sqlfile import SqlReader

MIN_FILES = 200
MAX_PROCESSES = 4
_MAX_SHARES = 240
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def read_ahead(reader: SqlReader, texts: Mapping[str, str]) -> SqlReader:
    """Return a reader that knows what the files say, as far as that is found out faster by several processes.

    Args:
        reader: reads one file, and knows some.
        texts: path -> text of each SQL file.
    """
    paths = [path for path, text in texts.items() if not reader.knows(path, text)]
    n_helpers = count_processes(len(paths)) - 1
    if n_helpers < 1:
        return reader
    size = -(-len(paths) // _MAX_SHARES)
    shares = [paths[at : at + size] for at in range(0, len(paths), size)]
    parent = os.getpid()
    with _frozen(), _numbers(len(shares)) as numbers, ExitStack() as stack:

        def help_reading() -> bytes:
            wanted = takewhile(lambda _: os.getppid() == parent, _take(numbers, shares))
            return _encode(_read(reader, texts, wanted), reader.renderer.read_environ)

        helpers = _start_helpers(n_helpers, help_reading, stack)
        found = _read(reader, texts, _take(numbers, shares))
        for helper in helpers:
            parsed, environ = _decode(helper.wait())
            found |= parsed
            reader.renderer.read_environ.update(environ)
    return SqlReader(reader.renderer, {**reader.known, **found})


def count_processes(n_files: int) -> int:
    """Return how many processes shall read so many files: one where they are few, or where this one has threads."""
    if sys.platform != "linux" or n_files < MIN_FILES:
        return 1
    with suppress(OSError):
        if count_other_threads() == 0:  # one may hold a lock, which nobody would release in a fork
            return min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
    return 1


def _read(reader: SqlReader, texts: Mapping[str, str], paths: Iterable[str]) -> dict[str, Parsed]:
    """Return what files say, those without errors."""
    mine = SqlReader(reader.renderer, reader.known)
    for path in paths:
        with suppress(ProjectError):
            file = mine.open(path, texts[path])
            file.read_query(volatile=file.config.get("volatile") is not None)
    return mine.parsed


@contextmanager
def _numbers(n: int) -> Iterator[int]:
    """Give a pipe that holds the numbers below `n`, a byte each: whoever reads one has taken it."""
    reading, writing = os.pipe()
    try:
        os.write(writing, bytes(range(n)))
        os.close(writing)
        yield reading
    finally:
        os.close(reading)


def _take(numbers: int, shares: Sequence[list[str]]) -> Iterator[str]:
    while number := os.read(numbers, 1):
        yield from shares[number[0]]


@contextmanager
def _frozen() -> Iterator[None]:
    """Keep the garbage collector from looking at what is there: that would copy every page that the forks share."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _start_helpers(n: int, work: Callable[[], bytes], stack: ExitStack) -> list[_Helper]:
    """Start up to `n` helpers, which end with `stack`."""
    helpers: list[_Helper] = []
    # Held back, Ctrl-C leaves none of them unknown to the stack, and is no exception of ours in any of them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with suppress(OSError):  # too many processes or open files: those that are there do it
            for _ in range(n):
                helpers.append(stack.enter_context(closing(_Helper(work, mask))))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return helpers


class _Helper:
    """A fork of this process that does some work; it ends by itself, when it is closed, and with this process.

    Args:
        work: returns what comes out.
        mask: the signals that it holds back.
    """

    def __init__(self, work: Callable[[], bytes], mask: Iterable[int]) -> None:
        # A file in memory: unlike a pipe it takes everything at once, whether somebody reads it yet or not.
        self._file = open(os.memfd_create("treadle"), "w+b")  # noqa: SIM115 (it is open as long as this)
        self._is_over = False
        try:
            self._pid = os.fork()
        except OSError:
            self._file.close()
            raise
        if not self._pid:
            self._work(work, mask)

    def _work(self, work: Callable[[], bytes], mask: Iterable[int]) -> NoReturn:
        try:
            for number in _SIGNALS:
                if callable(signal.getsignal(number)):
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._file.write(work())
            self._file.flush()
        finally:
            os._exit(0)

    def wait(self) -> bytes:
        """Return what came out, when it has ended; nothing, or a part of it, where it died."""
        self._reap()
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """End it, if it has not."""
        if not self._is_over:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._reap()
        self._file.close()

    def _reap(self) -> None:
        with suppress(ChildProcessError):  # where this process ignores that its children end, nothing is to be reaped
            os.waitpid(self._pid, 0)
        self._is_over = True


def _encode(found: Mapping[str, Parsed], environ: Mapping[str, str | None]) -> bytes:
    kept = {}
    for path, parsed in found.items():
        with suppress(OverflowError, TypeError, ValueError):  # what msgpack cannot hold is read again
            kept[path] = msgspec.Raw(msgspec.msgpack.encode(parsed))
    return msgspec.msgpack.encode((kept, dict(environ)))


def _decode(data: bytes) -> tuple[dict[str, Parsed], dict[str, str | None]]:
    try:
        return msgspec.msgpack.decode(data, type=tuple[dict[str, Parsed], dict[str, str | None]])
    except msgspec.DecodeError:
        return {}, {}
