"""Locks that live as long as their process: files under `flock`.

A lock file exists only while it is held. The last holder removes it, so whoever gets the lock checks that the
file still stands under its name, and starts again when it does not. What the file says of its holder is for
people; nothing is decided by it, nor by a clock or a process number.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from treadle_runtime.disk import storage_errors

_N_LOOKS = 50
_LOOK_S = 0.002


@contextmanager
def hold_lock(path: Path, *, owner: str = "treadle", on_wait: Callable[[str], None] | None = None) -> Generator[None]:
    """Hold an exclusive lock; wait while another process or thread holds it.

    The kernel frees the lock when the process ends. A program started meanwhile does not inherit it.

    Args:
        path: the lock's file, on a local file system; its folder is made.
        owner: what this process is, for those who wait.
        on_wait: called once, with who holds the lock, before waiting; may raise to give up.

    Raises:
        StoreError: TR802 the file system has no locks, TR805 not writable.
    """
    with storage_errors(path):
        descriptor = _lock(path)
    pause_s = 0.005
    while descriptor is None:
        if on_wait is not None and (holder := _read_holder(path)) is not None:
            on_wait(holder)
            on_wait = None
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)
        with storage_errors(path):
            descriptor = _lock(path)
    try:
        with suppress(OSError):
            os.ftruncate(descriptor, 0)  # a holder that was killed may have said more
            os.pwrite(descriptor, f"pid {os.getpid()}, {owner}\n".encode(), 0)
        yield
    finally:
        _unlock(path, descriptor)


@contextmanager
def try_lock(path: Path) -> Generator[bool]:
    """Hold an exclusive lock if nobody else does; yield whether it is held."""
    with storage_errors(path):
        descriptor = _lock(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _unlock(path, descriptor)


def is_held(path: Path) -> bool:
    """Return whether somebody holds a lock; the file stays as it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(path: Path) -> int | None:
    """Return a descriptor that locks the file which stands at `path` now, or None when another holds it."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the last holder removed the file between our open and our lock


def _unlock(path: Path, descriptor: int) -> None:
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(path: Path) -> str | None:
    """Return what the holder says of itself; None when it has just given the lock up."""
    for _ in range(_N_LOOKS):
        try:
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError:
            break
        if text:
            return text
        time.sleep(_LOOK_S)  # it has the lock, and is about to write
    return "another process"
