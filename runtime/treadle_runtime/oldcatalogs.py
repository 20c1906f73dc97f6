"""Catalogs that were replaced while somebody had them open: their readers still query the versions of then.

    .treadle/catalogs/<env>-<n>.duckdb   a second name of the replaced file
    .treadle/catalogs/<env>-<n>.json     a second name of its stamp, which holds the fingerprints that it shows

A replaced catalog is opened by nobody anew, so once it is closed it stays closed, and both names are removed.

DuckDB holds an fcntl lock on a file that it has open. Such a lock belongs to the process, and closing any other
descriptor of the file drops it: a file that this process has open itself is recognised by its descriptors, and
never opened a second time. Whether others hold a lock is asked (F_GETLK), never tried: who tries one has it for a
moment, and DuckDB refuses a reader who comes then.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from treadle_runtime import disk
from treadle_runtime.lock import hold_lock

_FINGERPRINT = re.compile(rb'"([0-9a-f]{64})"')

_ON_MACOS = sys.platform == "darwin"
_FLOCK = struct.Struct("@qqihh" if _ON_MACOS else "@hhqqi0q")
"""The C struct flock: (start, length, pid, type, whence) on macOS, (type, whence, start, length, pid) on Linux."""


@contextmanager
def kept_for_readers(catalog: Path, stamp: Path) -> Generator[None]:
    """Replace a catalog in the block; keep the old file if somebody has it open.

    Args:
        catalog: its file; need not exist yet.
        stamp: the file beside it that holds its fingerprints.
    """
    root = catalog.parent
    with _locked(root):
        for path in _closed(root):
            _forget(path)
        numbers = [int(path.stem.rpartition("-")[2]) for path in _kept(root)]
        kept = root / "catalogs" / f"{catalog.stem}-{max(numbers, default=0) + 1}.duckdb"
        # On a file system without second names its readers are protected by the grace period of `clean` alone.
        with suppress(OSError):
            kept.parent.mkdir(exist_ok=True)
            kept.with_suffix(".json").unlink(missing_ok=True)  # of a process that was killed before the second link
            os.link(stamp, kept.with_suffix(".json"))
            os.link(catalog, kept)
        try:
            yield
        finally:
            if not is_open(kept):
                _forget(kept)


def is_open(path: Path) -> bool:
    """Return whether a program has a catalog open, this one included; False where there is no such file."""
    return _is_open_here(path) or _excludes(path, fcntl.F_WRLCK)


def may_have_writer(path: Path) -> bool:
    """Return whether a program may have a catalog open for writing: another does, or this one has it open somehow."""
    return _is_open_here(path) or _excludes(path, fcntl.F_RDLCK)


def shown_fingerprints(root: Path, *, closed: frozenset[Path] = frozenset()) -> frozenset[str]:
    """Return what the catalogs show that can be read now: those of today, and replaced ones that are open.

    Args:
        root: the project's `.treadle` folder.
        closed: replaced catalogs that are known to be closed, see `find_closed`.
    """
    stamps = [path for path in root.glob("*.catalog.json") if (root / f"{path.name[:-13]}.duckdb").exists()]
    stamps += [path.with_suffix(".json") for path in _kept(root) if path not in closed]
    found: set[str] = set()
    for stamp in stamps:
        with suppress(FileNotFoundError):
            found.update(match.decode() for match in _FINGERPRINT.findall(stamp.read_bytes()))
    return frozenset(found)


def find_closed(root: Path) -> frozenset[Path]:
    """Return the replaced catalogs that nobody has open any more."""
    if not _kept(root):
        return frozenset()
    with _locked(root):
        return _closed(root)


def forget_closed(root: Path) -> None:
    """Remove the replaced catalogs that nobody has open any more."""
    if not _kept(root):
        return
    with _locked(root):
        for path in _closed(root):
            _forget(path)


@contextmanager
def _locked(root: Path) -> Generator[None]:
    """Keep others from looking at a catalog that has its second name and is not replaced yet."""
    with hold_lock(root / "claims" / "catalogs.lock"):
        yield


def _closed(root: Path) -> frozenset[Path]:
    kept = _kept(root)
    inodes = _open_inodes() if kept else frozenset()
    return frozenset(path for path in kept if not (_inode(path) in inodes or is_open(path)))


def _kept(root: Path) -> list[Path]:
    folder = root / "catalogs"  # another process may remove it meanwhile
    return [folder / name for name in disk.names_in(folder) if name.endswith(".duckdb")]


def _forget(kept: Path) -> None:
    kept.unlink(missing_ok=True)
    kept.with_suffix(".json").unlink(missing_ok=True)
    with suppress(OSError):  # it holds others
        kept.parent.rmdir()


def _excludes(path: Path, lock: int) -> bool:
    """Return whether another process holds what excludes a lock on a file that this process does not have open.

    Args:
        path: the file; what this user may not read cannot be told, and counts as held.
        lock: F_WRLCK, which every lock excludes, or F_RDLCK, which a writer's does.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
    try:
        asked = (0, 0, 0, lock, os.SEEK_SET) if _ON_MACOS else (lock, os.SEEK_SET, 0, 0, 0)
        told = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(*asked)))
    finally:
        os.close(descriptor)
    return bool(told[3 if _ON_MACOS else 0] != fcntl.F_UNLCK)


def _is_open_here(path: Path) -> bool:
    wanted = _inode(path)
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the descriptor of the listing itself
            found = os.fstat(int(name))
            if (found.st_dev, found.st_ino) == wanted:
                return True
    return False


def _open_inodes() -> frozenset[tuple[int, int]]:
    """Return the files that processes of this user have open, where the system tells: a lock may have been dropped."""
    found: set[tuple[int, int]] = set()
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # another user's, or it ended
            for descriptor in os.scandir(folder):
                with suppress(OSError):
                    target = descriptor.stat()
                    found.add((target.st_dev, target.st_ino))
    return frozenset(found)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
