"""Folders and files on the local disk: durable, renamed in one step, and errors that a person can act on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from treadle.errors import Problem, StoreError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn an OSError of the block into a StoreError.

    Args:
        path: what is being written, for the error's text.

    Raises:
        StoreError: TR803 disk full, TR802 no file locks, TR805 `path` cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(_to_problem(path, error)) from error


def disk_full(path: Path, why: str) -> Problem:
    """Return the problem of a full disk below `path`."""
    fix = "free space there, then run the same command: what was built stays built"
    return Problem("TR803", f"the disk is full at {path}", why=why, fix=fix)


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder in order; none when there is no such folder."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, in the order of their relative paths."""
    found = [Path(base) / name for base, _, names in os.walk(folder) for name in names]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def rename_folder(folder: Path, target: Path) -> bool:
    """Rename a folder in one step; return False when `target` stands already."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder with all that is in it, as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Delete the empty files in a folder, and the folder itself if no other is in it, as far as possible."""
    with suppress(OSError):
        for path in folder.iterdir():
            if not path.stat().st_size:
                path.unlink()
        folder.rmdir()


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, survives the loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` everything below a folder, and the folder itself last."""
    for base, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(base) / name)
        sync(Path(base))


def _to_problem(path: Path, error: OSError) -> Problem:
    why = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    if error.errno in _FULL:
        return disk_full(path, why)
    if error.errno in _NO_LOCKS:
        what = f"the file system at {path} has no file locks"
        return Problem("TR802", what, why=why, fix="keep the project on a local disk")
    if error.errno == errno.EXDEV:
        why += "\n.treadle/store and .treadle/tmp must be on one file system"
    return Problem("TR805", f"{path} cannot be written", why=why, fix="make it writable for this user")
