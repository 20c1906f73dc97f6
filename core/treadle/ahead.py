"""Many SQL files, read by several processes before anybody asks what they say.

    texts -> shares, whose numbers wait in a pipe -> each process takes one after the other -> what their files say

The helpers are forks of this process: they have the texts, the macros and the parser already, and read as it would.
A template that fails is not rendered again, as that may take all the time that it is given. Of a query that is wrong,
and of what a helper took that died or did not end, nothing is known afterwards: whoever asks for it reads it, and finds
what there is to find. So what comes out does not depend on who has read what.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NoReturn

import msgspec

from treadle.errors import ProjectError
from treadle.files import digest_text
from treadle.interruption import count_other_threads
from treadle.program import Parsed
from treadle.render import Renderer
from treadle.sqlfile import Failed, SqlReader

MIN_FILES = 200
MAX_PROCESSES = 4
_MAX_SHARES = 240
_PATIENCE_S = 5.0
"""How long a helper is waited for when nothing is left to do: a share is read in less, unless something holds it."""
_TICK_S = 0.001
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
            return _encode(_read(reader, texts, wanted), reader.renderer)

        helpers = _start_helpers(n_helpers, help_reading, stack)
        found = _read(reader, texts, _take(numbers, shares))
        for helper in helpers:
            theirs, environ, variables = _decode(helper.wait(_PATIENCE_S))
            found.add(theirs)
            reader.renderer.read_environ.update(environ)
            reader.renderer.read_variables.update(variables)
    return SqlReader(reader.renderer, {**reader.known, **found.parsed}, found.failed)


def count_processes(n_files: int) -> int:
    """Return how many processes shall read so many files: one where they are few, or where this one has threads."""
    if sys.platform != "linux" or n_files < MIN_FILES:
        return 1
    with suppress(OSError):
        if count_other_threads() == 0:  # one may hold a lock, which nobody would release in a fork
            return min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
    return 1


@dataclass
class _Found:
    """What was found out: what files say, and what is wrong with the templates of others; see `SqlReader`."""

    parsed: dict[str, Parsed] = field(default_factory=dict)
    failed: dict[str, Failed] = field(default_factory=dict)

    def add(self, other: _Found) -> None:
        self.parsed |= other.parsed
        self.failed |= other.failed


def _read(reader: SqlReader, texts: Mapping[str, str], paths: Iterable[str]) -> _Found:
    """Return what files say."""
    mine, failed = SqlReader(reader.renderer, reader.known), dict[str, Failed]()
    for path in paths:
        try:
            file = mine.open(path, texts[path])
        except ProjectError as error:
            failed[path] = (digest_text(texts[path]), error.problems)
            continue
        with suppress(ProjectError):
            file.read_query(volatile=file.config.get("volatile") is not None)
    return _Found(mine.parsed, failed)


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

    def wait(self, patience_s: float) -> bytes:
        """Return what came out, when it has ended; nothing, or a part of it, where it died or does not end in time."""
        end_s = time.monotonic() + patience_s
        while not self._reap(os.WNOHANG) and time.monotonic() < end_s:
            time.sleep(_TICK_S)
        self._end()
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """End it, if it has not."""
        self._end()
        self._file.close()

    def _end(self) -> None:
        if not self._is_over:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._reap()

    def _reap(self, options: int = 0) -> bool:
        """Return whether it has ended, after which nothing is left of it."""
        try:
            self._is_over = os.waitpid(self._pid, options)[0] == self._pid
        except ChildProcessError:  # where this process ignores that its children end, nothing is to be reaped
            self._is_over = True
        return self._is_over


def _encode(found: _Found, renderer: Renderer) -> bytes:
    said = _encodable(found.parsed), _encodable(found.failed)
    return msgspec.msgpack.encode((*said, renderer.read_environ, renderer.read_variables))


def _encodable(said: Mapping[str, object]) -> dict[str, msgspec.Raw]:
    kept = {}
    for path, value in said.items():
        with suppress(OverflowError, TypeError, ValueError):  # what msgpack cannot hold is read again
            kept[path] = msgspec.Raw(msgspec.msgpack.encode(value))
    return kept


def _decode(data: bytes) -> tuple[_Found, dict[str, str | None], set[str]]:
    kind = tuple[dict[str, Parsed], dict[str, Failed], dict[str, str | None], set[str]]
    try:
        parsed, failed, environ, variables = msgspec.msgpack.decode(data, type=kind)
    except msgspec.DecodeError:
        return _Found(), {}, set()
    return _Found(parsed, failed), environ, variables
