"""Folders and files on the local disk: durable, renamed in one step, and errors that a person can act on."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from treadle.errors import Problem, StoreError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
HAS_SYNCFS = sys.platform == "linux"
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


def files_below(folder: Path) -> list[str]:
    """Return the relative paths, with `/`, of all files below a folder, in order."""
    found, start = [], len(str(folder)) + 1
    for base, _, names in os.walk(folder):
        found += [f"{base}/{name}"[start:] for name in names]
    return sorted(found)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not stand yet, for reading only from then on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with open(descriptor, "wb") as file:
        file.write(content)


def make_empty(folder: Path) -> None:
    """Make a folder with nothing in it, whatever stands there."""
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        folder.mkdir(parents=True)
    except FileExistsError:
        remove(folder)  # of a process that was killed
        os.mkdir(folder)


def rename_folder(folder: Path, target: Path) -> bool:
    """Rename a folder in one step; return False when `target` stands already."""
    try:
        try:
            os.rename(folder, target)
        except FileNotFoundError:  # the first of all, or one of several at once
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
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


@contextmanager
def watched_file_system(path: Path) -> Generator[Callable[[], None]]:
    """Watch the file system of a path; yield what waits until all of it is on the disk.

    It is there only where `HAS_SYNCFS` says so. What the kernel could not write it tells once, to those who had the
    file system open by then (syncfs, since Linux 5.8): it has to be watched before anything is written to it. The
    function raises OSError for it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield lambda: _sync_file_system(descriptor, path)
    finally:
        os.close(descriptor)


def _sync_file_system(descriptor: int, path: Path) -> None:
    import ctypes  # what computes nothing needs none of it

    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def free_bytes(path: Path) -> int:
    """Return how much can still be written below the nearest folder of a path that exists."""
    found = os.statvfs(_nearest(path))
    return found.f_bavail * found.f_frsize


def is_writable(folder: Path) -> bool:
    """Return whether files may be made in a folder, or in the nearest one above where it is still to be made."""
    nearest = _nearest(folder)
    return not nearest.is_dir() or os.access(nearest, os.W_OK | os.X_OK)


def unwritable(folder: Path) -> Problem:
    """Return the problem of a folder in which no file can be made."""
    is_read_only = os.statvfs(_nearest(folder)).f_flag & os.ST_RDONLY
    number = errno.EROFS if is_read_only else errno.EACCES
    return _to_problem(folder, OSError(number, os.strerror(number), str(folder)))


def how_to_write(*paths: Path) -> str:
    """Return what to do so that paths can be written: the first of them that is in the way is named."""
    nearest = [_nearest(path) for path in paths]
    blocked = next((path for path in nearest if not os.access(path, os.W_OK)), nearest[0])
    if os.statvfs(blocked).f_flag & os.ST_RDONLY:
        return "mount that disk writable, or copy .treadle to one that is and put a link to the copy in its place"
    return f"make {blocked} writable for this user"


def _nearest(path: Path) -> Path:
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _to_problem(path: Path, error: OSError) -> Problem:
    why = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    if error.errno in _FULL:
        return disk_full(path, why)
    if error.errno in _NO_LOCKS:
        what = f"the file system at {path} has no file locks"
        return Problem("TR802", what, why=why, fix="keep the project on a local disk")
    if error.errno == errno.EIO:
        fix = "see what the system tells of that disk (dmesg), then run the same command"
    elif error.errno == errno.EXDEV:
        fix = "keep .treadle/store and .treadle/tmp on one file system: let .treadle as a whole be a link"
    else:
        fix = how_to_write(*(Path(os.fsdecode(name)) for name in (error.filename2, error.filename) if name), path)
    return Problem("TR805", f"{path} cannot be written", why=why, fix=fix)
