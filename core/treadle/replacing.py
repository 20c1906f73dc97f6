"""A file gets other content in one step: who reads it finds the old or the new, and two who write take turns."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: bytes) -> os.stat_result:
    """Give a file other content by one rename; its folder is made where there is none.

    What is to replace it is written beside it, under a name that is always the same, so that what a killed process
    leaves is used by the next; its lock, which ends with the process, keeps two from writing it at once.

    Returns:
        The stat of the file as it was written.

    Raises:
        OSError: it cannot be written, or the file system has no locks. The file is as it was.
    """
    new = path.with_name(f".{path.name}.new")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_locked(new)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.truncate(0)
            file.write(content)
        found = os.fstat(descriptor)
        os.replace(new, path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise
    finally:
        os.close(descriptor)
    return found


def _open_locked(path: Path) -> int:
    """Open a file, made if need be, that nobody else has a lock on, and lock it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who had the lock renamed the file, or removed it
