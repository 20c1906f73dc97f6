"""The store: immutable results by fingerprint, published in one step or not at all.

    .treadle/store/<fingerprint>/   meta.json and parts: a version
    .treadle/tmp/<name>/            a version in the making, or an engine's scratch space
    .treadle/claims/<name>.lock     who is at work on it: a file lock, held as long as its process lives

Flow: `claim` the fingerprint -> `read` it (another process may have made it meanwhile) -> `draft` -> write
parts into the draft's folder -> `publish`. What a killed process leaves in tmp/ and claims/ is nobody's, and
`sweep` removes it. Published parts are read-only files: other versions were made from them and fingerprints
vouch for them, so an editor or a notebook that opened one by its path must not change it in passing. Folders
stay writable, so that deleting .treadle needs no special means.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from treadle.errors import Problem, StoreError
from treadle_runtime import disk, unsynced
from treadle_runtime.disk import storage_errors
from treadle_runtime.lock import hold_lock, try_lock
from treadle_runtime.version import (
    JSON,
    META,
    Column,
    Part,
    Times,
    Version,
    damaged,
    from_meta,
    make_version,
    to_meta,
)

__all__ = ["JSON", "Column", "Draft", "Part", "Store", "Times", "Version", "storage_errors"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_WORTH_A_WAIT_S = 1.0
_WHOLE_BYTES = 1 << 20
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class Draft:
    """A version in the making: write its parts into `folder`, then publish.

    Attributes:
        dropped: what was made here, where another version stood already; else None.
    """

    def __init__(self, store: Store, fingerprint: str, kind: str, folder: Path) -> None:
        self.folder = folder
        self._store = store
        self._fingerprint = fingerprint
        self._kind = kind
        self._opened = time.monotonic()
        self.dropped: Version | None = None

    def publish(
        self,
        columns: Iterable[Column],
        info: Mapping[str, JSON],
        *,
        rows: Mapping[str, int] = MappingProxyType({}),
        reproducible: bool = True,
        times: Mapping[str, Times] = MappingProxyType({}),
        linked: Mapping[str, Part] = MappingProxyType({}),
    ) -> Version:
        """Make what stands in the folder the version of the fingerprint, for good.

        If the fingerprint was published before, that version stands and this one is dropped. A damaged one is not
        replaced here: what was computed from it has to go with it.

        Args:
            columns: of the table that the parts hold; none when they hold no table.
            info: JSON; without NaN and infinities, which JSON does not have.
            rows: part -> how many it holds, as far as they are known; of others they are counted.
            reproducible: whether a second build gives the same bytes.
            times: name of a part -> the times of its rows, where they are known.
            linked: name of a part -> what is known of it: it is a link to a part of another version.

        Returns:
            The version that stands.

        Raises:
            StoreError: TR803 disk full, TR805 not writable, TR804 the version that stands is damaged.
        """
        target = self._store.folder_of(self._fingerprint)
        with storage_errors(target):
            version = make_version(
                target,
                kind=self._kind,
                columns=tuple(columns),
                parts=tuple(self._parts(times, rows, linked)),
                info=dict(info),
                reproducible=reproducible,
            )
            disk.write_new(self.folder / META, to_meta(version))
            if self._move_to(target):
                return version
        if damage := self._store.find_damage(self._fingerprint):
            raise StoreError(damage)
        self.dropped = version
        return self._store.read(self._fingerprint) or version

    def _parts(self, times: Mapping[str, Times], rows: Mapping[str, int], linked: Mapping[str, Part]) -> Iterator[Part]:
        for name in disk.files_below(self.folder):
            file = f"{self.folder}/{name}"
            status = os.stat(file)
            if status.st_mode & 0o222:
                os.chmod(file, status.st_mode & 0o444)
            yield linked.get(name) or Part(
                name,
                _count_rows(file) if name not in rows else rows[name],
                status.st_size,
                _digest(file),
                times.get(name),
            )

    def _move_to(self, target: Path) -> bool:
        is_synced = self._store.durable and not (
            self._store.is_grouped and time.monotonic() - self._opened < _WORTH_A_WAIT_S
        )
        if is_synced:
            disk.sync_tree(self.folder)
        is_first = disk.rename_folder(self.folder, target)
        if is_synced:
            disk.sync(target.parent)
        return is_first


class Store:
    """The versions of a project, on the local disk.

    Args:
        root: the project's `.treadle` folder; made when something is written.
        durable: whether a published version survives the loss of power (fsync); False for throw-away stores.
        owner: what this process is, told to others that wait for it, such as `treadle build`.
    """

    def __init__(self, root: Path, *, durable: bool = True, owner: str = "treadle") -> None:
        self.root = Path(root).absolute()
        self._versions, self._claims = self.root / "store", self.root / "claims"
        self.durable = durable
        self.owner = owner
        self.is_grouped = False

    def folder_of(self, fingerprint: str) -> Path:
        """Return where the version of a fingerprint stands, or would."""
        return self._versions / _checked(fingerprint)

    def read(self, fingerprint: str) -> Version | None:
        """Return the version of a fingerprint, or None when it was never built.

        Its parts are checked for existence and size; `verify` checks their content.

        Raises:
            StoreError: TR804 the version is damaged, TR801 a newer Treadle wrote it.
        """
        folder = self.folder_of(fingerprint)
        content = _content(folder / META)
        if content is None and folder.exists():
            content = _content(folder / META)  # it may have been published between the two looks
            if content is None and folder.exists():
                raise StoreError(damaged(folder, f"{META} is missing"))
        if content is None:
            return None
        version = from_meta(content, folder)
        for part in version.parts:
            found = _size(folder / part.name)
            if found != part.bytes:
                state = "is missing" if found is None else f"has {found} bytes, {part.bytes} were written"
                raise StoreError(damaged(folder, f"{part.name} {state}"))
        return version

    def fingerprints(self) -> frozenset[str]:
        """Return the fingerprints of all versions; one listing of the store, no file is opened.

        What else lies there, such as a file manager's .DS_Store, is none.
        """
        return frozenset(filter(_FINGERPRINT.fullmatch, disk.names_in(self._versions)))

    def built(self, fingerprints: Iterable[str]) -> frozenset[str]:
        """Return which of the fingerprints have a version; one listing of the store, no file is opened."""
        return frozenset(fingerprints).intersection(disk.names_in(self._versions))

    def digest(self) -> str:
        """Return a digest of which versions stand, hex: another one whenever one was published or removed."""
        return hashlib.sha256("\n".join(disk.names_in(self._versions)).encode()).hexdigest()

    def verify(self, version: Version, parts: Iterable[Part] | None = None) -> list[Problem]:
        """Return what of a version's parts is no longer as it was written; reads all of them, or those given."""
        problems = []
        for part in version.parts if parts is None else parts:
            try:
                found = _digest(version.folder / part.name)
            except OSError as error:
                problems.append(damaged(version.folder, f"{part.name}: {error.strerror}"))
                continue
            if found != part.digest:
                why = f"{part.name} has sha256 {found[:12]}..., {part.digest[:12]}... was written"
                problems.append(damaged(version.folder, why))
        return problems

    def find_damage(self, fingerprint: str) -> list[Problem]:
        """Return what of a version is no longer as it was written, its meta file included; reads all of it.

        Raises:
            StoreError: TR801 a newer Treadle wrote it: whether it is whole cannot be told.
        """
        try:
            version = self.read(fingerprint)
        except StoreError as error:
            if any(problem.code != "TR804" for problem in error.problems):
                raise
            return list(error.problems)
        return self.verify(version) if version is not None else []

    def size_of(self, fingerprint: str) -> int:
        """Return the bytes of a version's files."""
        folder = self.folder_of(fingerprint)
        return sum((folder / name).stat().st_size for name in disk.files_below(folder))

    @contextmanager
    def grouped(self, run_id: str) -> Generator[None]:
        """Let what a run publishes in the block reach the disk together, at its end; see `unsynced`.

        What took long is still waited for by itself, so that the loss of power costs little.

        Args:
            run_id: of a run that is in work.

        Raises:
            StoreError: TR803 disk full, TR805 what was published could not be written.
        """
        with unsynced.published_together(self.root, run_id, withdraw=self._withdraw_since) as self.is_grouped:
            try:
                yield
            finally:
                self.is_grouped = False

    def settle(self) -> frozenset[str]:
        """Wait until all versions that stand are on the disk, whichever run published them.

        Returns:
            The runs that were waited for. As long as `unsettled` names no other, all that stands is on the disk, but
            for what these have published since.

        Raises:
            StoreError: TR803 disk full, TR805 what was published could not be written, and is withdrawn.
        """
        runs = self.unsettled()
        unsynced.settle(self.root, withdraw=self._withdraw_since)
        return runs

    def unsettled(self) -> frozenset[str]:
        """Return the runs whose versions may not be on the disk yet."""
        return unsynced.notes(self.root)

    def _withdraw_since(self, since: float) -> int:
        """Remove all versions that were published since a moment; return how many."""
        young = self.published_since(since)
        self.remove(young)
        return len(young)

    def published_since(self, since: float) -> list[str]:
        """Return the fingerprints of the versions that were published at or after a moment, in seconds since 1970."""
        found = []
        for fingerprint in self.fingerprints():
            with suppress(FileNotFoundError):  # removed meanwhile
                if self.folder_of(fingerprint).stat().st_ctime >= since:
                    found.append(fingerprint)
        return found

    @contextmanager
    def claim(self, fingerprint: str, *, on_wait: Callable[[str], None] | None = None) -> Generator[None]:
        """Hold a fingerprint while working on it; wait while another process or thread does.

        The claim is a lock on a file: it ends with the block, or with the process, whatever kills it.

        Args:
            fingerprint: what to claim.
            on_wait: called once, with who holds the claim, before waiting; may raise to give up.

        Raises:
            StoreError: TR802 the file system has no locks, TR805 not writable.
        """
        with hold_lock(self._claim_path(fingerprint), owner=self.owner, on_wait=on_wait):
            yield

    @contextmanager
    def draft(self, fingerprint: str, *, kind: str) -> Generator[Draft]:
        """Open an empty folder to write a version into; the fingerprint must be claimed.

        Leaving the block without publishing removes the folder.

        Args:
            fingerprint: of the step that is being run.
            kind: the step's kind.
        """
        folder = self.root / "tmp" / _checked(fingerprint)
        with _fresh_folder(folder):
            yield Draft(self, fingerprint, kind, folder)

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """Open an empty folder for temporary files: removed after the block, and swept after a kill.

        Where the store cannot be written it stands among the system's temporary files, which nobody sweeps.
        """
        if not disk.is_writable(self.root):
            with tempfile.TemporaryDirectory(prefix="treadle-") as elsewhere:
                yield Path(elsewhere)
            return
        name = f"scratch-{uuid.uuid4().hex}"
        folder = self.root / "tmp" / name
        with self.claim(name), _fresh_folder(folder):
            yield folder

    def remove(self, fingerprints: Iterable[str]) -> None:
        """Delete versions; who reads one at this moment keeps the files that are open."""
        for folder in self.withdraw(fingerprints):
            disk.remove(folder)

    def withdraw(self, fingerprints: Iterable[str]) -> list[Path]:
        """Take versions out of the store at once, and return their folders, which are still to be deleted."""
        withdrawn = []
        for fingerprint in fingerprints:
            folder = self.folder_of(fingerprint)
            gone = self.root / "tmp" / f"removed-{uuid.uuid4().hex}"
            with storage_errors(folder):
                gone.parent.mkdir(parents=True, exist_ok=True)
                try:
                    folder.rename(gone)  # a version is whole or absent, while it is being deleted too
                except FileNotFoundError:
                    continue
            withdrawn.append(gone)
        return withdrawn

    def sweep(self) -> list[str]:
        """Remove what killed processes left: folders in tmp/ and locks that nobody holds.

        Returns:
            The removed paths, relative to the root.
        """
        removed = []
        for name in filter(_NAME.fullmatch, disk.names_in(self.root / "tmp")):
            with try_lock(self._claim_path(name)) as is_ours:
                if is_ours:
                    disk.remove(self.root / "tmp" / name)
                    removed.append(f"tmp/{name}")
        for name in disk.names_in(self._claims):
            with try_lock(self._claims / name) as is_ours:
                if is_ours:  # leaving the block removes the file
                    removed.append(f"claims/{name}")
        return removed

    def _claim_path(self, name: str) -> Path:
        return self._claims / f"{_checked(name)}.lock"


@contextmanager
def _fresh_folder(folder: Path) -> Generator[None]:
    with storage_errors(folder):
        disk.make_empty(folder)
    try:
        yield
    finally:
        if os.path.lexists(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no fingerprint")
    return name


def _count_rows(file: str) -> int:
    if file.endswith(".parquet"):
        import pyarrow.parquet as pq  # loaded when a part needs it: a store of models never does

        return int(pq.read_metadata(file).num_rows)
    if file.endswith(".arrow"):
        import pyarrow as pa

        with pa.memory_map(file) as source, pa.ipc.open_file(source) as reader:
            return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    return 0


def _digest(file: str | Path) -> str:
    with open(file, "rb", buffering=0) as content:
        if os.fstat(content.fileno()).st_size <= _WHOLE_BYTES:
            return hashlib.sha256(content.read()).hexdigest()
        return hashlib.file_digest(content, "sha256").hexdigest()


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
