"""The state's file: opened, migrated, guarded, used in transactions; what it holds is `state`'s matter.

check_file_system -> connect -> WAL -> migrate (a backup first) -> transaction, read

Where the folder cannot be written, what stands in the file is copied into memory, for commands that only read.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from treadle.errors import Problem, StoreError
from treadle_runtime import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BUSY_TIMEOUT_S = 60.0
NEEDED_BYTES = 256 * 1024
"""Where less is free, an error of reading or writing is that of a full disk: SQLite does not always call it so."""

_NETWORK_TYPES = frozenset(
    (
        *("9p", "afs", "beegfs", "ceph", "cifs", "davfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "fuse.ceph", "fuse.davfs2", "fuse.gcsfuse"),
        *("fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    )
)
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_UNUSABLE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR),
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY),
}


def dump_json(value: Any) -> str:
    """Return a value as the state keeps it: JSON with sorted keys."""
    return msgspec.json.encode(value, order="sorted").decode()


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class StateFile:
    """An open SQLite file in WAL mode, for several threads of one process and several processes at once.

    Args:
        path: the file; created with its folder when absent.
        migrations: scripts in the order in which they are applied; a file's version is how many it has seen.
        mounts: the text of the mount table; None reads the system's own, where it has one.
        clock: what time it is, with a time zone.

    Attributes:
        is_snapshot: whether this is a copy in memory, as the folder cannot be written; no transaction but one for a
            cache begins then.

    Raises:
        StoreError: TR801 a newer Treadle wrote it; TR802 it lies on a network file system; TR803, TR805 it
            cannot be written; TR804 it is damaged.
    """

    def __init__(
        self,
        path: Path,
        *,
        migrations: Sequence[str],
        mounts: str | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.path, self.clock = path, clock
        self._migrations = tuple(migrations)
        self._lock = threading.RLock()
        check_file_system(path, mounts=mounts)
        self.is_snapshot = not disk.is_writable(path.parent)
        if self.is_snapshot:
            with self._errors():
                self._refuse_emptied()
                self._open(_copy_to_memory(path))
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(path, error.strerror or "it cannot be written") from error
        # A new file's switch to WAL and a migration are for one process at a time.
        with self._errors(), disk.storage_errors(path.parent), _locked(path.with_name("state.lock")):
            self._refuse_emptied()
            self._open(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._con.close()

    def now(self) -> str:
        """Return the clock's time as ISO 8601 text in UTC."""
        return self.clock().astimezone(UTC).isoformat(timespec="microseconds")

    def _open(self, con: sqlite3.Connection) -> None:
        self._con = con
        try:
            self._prepare()
        except BaseException:
            con.close()
            raise

    def _prepare(self) -> None:
        con = self._con
        con.row_factory = sqlite3.Row
        if not self.is_snapshot and con.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise _on_network(self.path, "a file system without shared memory")
        con.execute("PRAGMA foreign_keys = ON")
        con.execute("PRAGMA synchronous = NORMAL")
        version = self._version()
        if version < len(self._migrations):
            self._migrate(version)

    def _refuse_emptied(self) -> None:
        """Refuse a file that was cut to nothing, which SQLite takes for a new one; who stored versions wrote to it."""
        files = (self.path, self.path.with_name(f"{self.path.name}-wal"))
        is_empty = self.path.exists() and not any(file.exists() and file.stat().st_size for file in files)
        if is_empty and disk.names_in(self.path.parent / "store"):
            raise _damaged(self.path, "it is empty, and the store beside it is not")

    def _version(self) -> int:
        version: int = self._con.execute("PRAGMA user_version").fetchone()[0]
        if version > len(self._migrations):
            raise _newer(self.path, version, len(self._migrations))
        return version

    def _migrate(self, version: int) -> None:
        if version and not self.is_snapshot:
            _back_up(self.path, self.path.with_name(f"{self.path.name}.v{version}.bak"))
        self._con.execute("BEGIN IMMEDIATE")
        try:
            for script in self._migrations[version:]:
                for statement in _statements(script):
                    self._con.execute(statement)
            self._con.execute(f"PRAGMA user_version = {len(self._migrations)}")
            self._con.execute("COMMIT")
        except BaseException:
            self._con.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _DAMAGED:
                raise _damaged(self.path, str(error)) from error
            if code == sqlite3.SQLITE_FULL or (
                code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and disk.free_bytes(self.path) < NEEDED_BYTES
            ):
                raise StoreError(disk.disk_full(self.path, str(error))) from error
            if code in _UNUSABLE:
                raise _unusable(self.path, str(error), code) from error
            raise

    @contextmanager
    def transaction(self, *, durable: bool = False, cache: bool = False) -> Iterator[sqlite3.Connection]:
        """Run statements as one transaction, rolled back when the body raises.

        Args:
            durable: whether it must also survive a power failure, together with all that was written before;
                every transaction survives the death of the process.
            cache: whether all that is written can be found out again, so that it may be lost with a snapshot.

        Raises:
            StoreError: TR805, the folder cannot be written, and this is no cache.
        """
        if self.is_snapshot and not cache:
            raise StoreError(disk.unwritable(self.path.parent))
        with self._lock, self._errors():
            if durable:
                self._con.execute("PRAGMA synchronous = FULL")
            try:
                self._con.execute("BEGIN IMMEDIATE")
                self._version()
                yield self._con
                self._con.execute("COMMIT")
            finally:
                if self._con.in_transaction:
                    self._con.execute("ROLLBACK")
                if durable:
                    self._con.execute("PRAGMA synchronous = NORMAL")

    def read(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        with self._lock, self._errors():
            return self._con.execute(query, parameters).fetchall()

    def find_damage(self) -> list[Problem]:
        """Return what is wrong with the file: pages, indexes, and references to rows that are not there."""
        try:
            found = [row[0] for row in self.read("PRAGMA integrity_check") if row[0] != "ok"]
            found += [
                f"{row['table']}: a row refers to {row['parent']}" for row in self.read("PRAGMA foreign_key_check")
            ]
        except StoreError as error:
            return list(error.problems)
        return [problem for reason in found[:1] for problem in _damaged(self.path, reason).problems]


def check_file_system(path: Path, *, mounts: str | None = None) -> None:
    """Refuse a file on a network file system, whose locks and shared memory SQLite cannot rely on.

    Args:
        mounts: text in the form of /proc/self/mountinfo; None reads that file, where there is one.

    Raises:
        StoreError: TR802.
    """
    if mounts is None:
        if not sys.platform.startswith("linux"):
            return
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    kind = _file_system(path.resolve(), mounts)
    if kind in _NETWORK_TYPES:
        raise _on_network(path, kind)


def _file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds a path; "" when the table does not tell."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        mount, separator, device = line.partition(" - ")
        fields = mount.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(_unescape(fields[4]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), device.split(" ")[0]
    # A sandbox may show its own root as 9p; locks work there.
    return "" if kind == "9p" and best == 1 else kind


def _unescape(text: str) -> str:
    for escaped, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escaped, plain)
    return text


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _back_up(path: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    source, copy = sqlite3.connect(path), sqlite3.connect(partial)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()
    os.replace(partial, target)


def _copy_to_memory(path: Path) -> sqlite3.Connection:
    """Return a copy of the file, with what stands in its log, as of one moment; an empty one where there is none.

    A process that has the file open keeps the index of its log (-shm) beside it, by which a reader that may not write
    keeps out of its way. Without one nobody has it open, and SQLite wants to make one, which it can beside a copy.
    """
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        if path.with_name(f"{path.name}-shm").exists():
            _copy(f"{path.absolute().as_uri()}?mode=ro", memory)
        elif path.exists():
            with tempfile.TemporaryDirectory(prefix="treadle-") as folder:
                for name in (path.name, f"{path.name}-wal"):
                    if path.with_name(name).exists():
                        shutil.copyfile(path.with_name(name), f"{folder}/{name}")
                _copy((Path(folder) / path.name).as_uri(), memory)
    except OSError as error:
        memory.close()
        raise _unusable(path, str(error)) from error
    except BaseException:
        memory.close()
        raise
    return memory


def _copy(uri: str, target: sqlite3.Connection) -> None:
    source = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S)
    try:
        source.backup(target)
    finally:
        source.close()


def _statements(script: str) -> Iterator[str]:
    """Yield a script's statements; `executescript` would end the transaction that holds them together."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _newer(path: Path, found: int, known: int) -> StoreError:
    why = f"{path} has schema version {found}; this Treadle knows versions up to {known}"
    fix = "upgrade with `pip install --upgrade treadle`, or use the older one in a copy of the project without .treadle"
    return StoreError(Problem("TR801", "the state was written by a newer Treadle", why=why, fix=fix))


def _on_network(path: Path, kind: str) -> StoreError:
    why = f"{path} lies on {kind}, where locks and shared memory do not hold between machines"
    fix = "move the project to a local disk, or make .treadle a link to a folder on one"
    return StoreError(Problem("TR802", "the state cannot be kept on a network file system", why=why, fix=fix))


def _damaged(path: Path, reason: str) -> StoreError:
    files = f"{path.name}, {path.name}-wal and {path.name}-shm"
    fix = (
        f"move {files} out of {path.parent}, then run `treadle build`:\n"
        "  what the store holds is not built again; run history and model versions are lost"
    )
    backups = sorted(path.parent.glob(f"{path.name}.v*.bak"), key=lambda file: file.stat().st_mtime)
    if backups:
        fix += f"\n  or move them out and put the backup {backups[-1].name} in the place of {path.name}"
    return StoreError(Problem("TR804", "the state is damaged", why=f"{path}: {reason}", fix=fix))


def _unusable(path: Path, reason: str, code: int = sqlite3.SQLITE_PERM) -> StoreError:
    match code:
        case sqlite3.SQLITE_BUSY:
            fix = "end the program that holds the file"
        case sqlite3.SQLITE_IOERR:
            fix = "check the disk, its quota and `ulimit -f`, then run the same command"
        case _:
            fix = disk.how_to_write(path.parent, path)
    what = "the state cannot be read or written"
    return StoreError(Problem("TR805", what, why=f"{path}: {reason}", fix=fix))
