"""Versions that are published before they are on the disk: one wait for a run, instead of several for each version.

    .treadle/unsynced/<run>    the boot under which the run publishes so; its time: what was published before is safe

A rename shows a version to every process at once, wherever its bytes are by then: a process that is killed loses
nothing, only the loss of power does. So a run notes itself here, and sees the note safe on the disk, before it
publishes anything; publishes without waiting; and waits once, for the whole file system (syncfs), before an environment
refers to what it made. Whoever relies on what another run has made waits too: a note says that there is something to
wait for, and the note of a run that was killed goes when somebody has.

What the kernel fails to write it tells once, to whoever had the file system open before: so a run opens it before it
writes anything. Nobody can tell which bytes are lost, and reading shows those in memory. So all is withdrawn that was
published since the notes that were waited for, whoever made it: an error of the disk concerns all who write to it. But
whoever has waited well moves the notes of the runs in work to that moment, before it refers to anything: so what an
environment or the registry was given since stays. What a reader or another run holds goes with the rest: nothing would
tell of it later.

A note of another boot says that the machine went down meanwhile. What was published since the note was written is then
compared with its digests, and what is not whole is removed: no environment refers to it, and a build makes it again.

Only Linux has syncfs and an id for each boot. Elsewhere every version is waited for by itself.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from treadle.errors import StoreError
from treadle_runtime import disk
from treadle_runtime.disk import storage_errors
from treadle_runtime.lock import hold_lock, is_held

Withdraw = Callable[[float], int]
"""Takes away what was published since a moment, in seconds since 1970, and returns how many versions that were."""

_TICK_S = 0.01
"""The longest of the times that systems are set up with."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def published_together(root: Path, run_id: str, *, withdraw: Withdraw) -> Generator[bool]:
    """Let what is published in the block reach the disk together, at its end.

    Args:
        root: the project's `.treadle` folder.
        run_id: of the run that publishes, which holds its lock in runs/.
        withdraw: is called where something could not be written.

    Yields:
        Whether that is possible here; if not, each version has to be waited for.

    Raises:
        StoreError: TR803 disk full, TR805 what was published could not be written.
    """
    boot = _read_boot()
    if not boot:
        yield False
        return
    note, store = _folder(root) / run_id, root / "store"
    with ExitStack() as stack:
        with storage_errors(note):
            store.mkdir(parents=True, exist_ok=True)
            sync = stack.enter_context(disk.watched_file_system(store))
            note.parent.mkdir(exist_ok=True)
            note.write_text(boot)
            for path in (note, note.parent, root):
                disk.sync(path)
        try:
            yield True
        finally:
            _settle(root, sync, withdraw, run_id=run_id)


def settle(root: Path, *, withdraw: Withdraw) -> None:
    """Wait until all that was published is on the disk; nothing to do where no run has left a note.

    Args:
        root: the project's `.treadle` folder.
        withdraw: is called where something could not be written.

    Raises:
        StoreError: TR803 disk full, TR805 what was published could not be written.
    """
    if notes(root):
        with disk.watched_file_system(root / "store") as sync:
            _settle(root, sync, withdraw)


def notes(root: Path) -> frozenset[str]:
    """Return the runs whose versions may not be on the disk yet."""
    return frozenset(disk.names_in(_folder(root)))


def _settle(root: Path, sync: Callable[[], None], withdraw: Withdraw, *, run_id: str = "") -> None:
    """Wait, and remove the notes of runs that were killed, and of one that ends."""
    folder = _folder(root)
    noted = disk.names_in(folder)
    # Looked at before the wait: what a run publishes that ends after it is not waited for. A note of another boot is
    # for `recovery`: no wait brings back what is lost.
    cut_off = find_cut_off(root)
    over = [name for name in noted if name == run_id or not (name in cut_off or _is_in_work(root, name))]
    in_work = [folder / name for name in noted if name not in over and name not in cut_off]
    moment = _between_ticks() if in_work else 0.0
    try:
        with storage_errors(root / "store"):
            sync()
    except StoreError as error:
        with _notes_held(root):
            n = withdraw(min((_begun(folder / name) for name in over), default=math.inf))
        _forget_all(folder, over)
        if not n:
            raise
        why = f"withdrawn is what was published and may not be on the disk: {n:,} version{'s' * (n != 1)}"
        raise StoreError(replace(problem, why=f"{problem.why}\n{why}") for problem in error.problems) from error
    _forget_all(folder, over)
    if in_work:
        with _notes_held(root):
            for note in in_work:
                _move_to(note, moment)


def _between_ticks() -> float:
    """Return a moment after all that was published so far, and before all that will be, in seconds since 1970.

    Folders bear the time of the system's last tick.
    """
    moment = time.time() + _TICK_S
    time.sleep(2 * _TICK_S)
    return moment


def _notes_held(root: Path) -> AbstractContextManager[None]:
    """Keep others from moving notes, or from withdrawing by what they say, within the block."""
    return hold_lock(root / "claims" / "unsynced.lock")


def _move_to(note: Path, moment: float) -> None:
    with storage_errors(note), suppress(FileNotFoundError):  # its run has ended
        later = max(moment, note.stat().st_mtime)
        os.utime(note, (later, later))


def _forget_all(folder: Path, names: Iterable[str]) -> None:
    with storage_errors(folder):
        for name in names:
            (folder / name).unlink(missing_ok=True)


def find_cut_off(root: Path) -> dict[str, float]:
    """Return run -> since when what was published may not be on the disk, of runs that the loss of power has ended."""
    folder = _folder(root)
    boot = None
    found = {}
    for name in disk.names_in(folder):
        boot = boot or _read_boot()
        if _is_in_work(root, name):  # it may be writing its note at this moment
            continue
        try:
            if (folder / name).read_text() != boot:
                found[name] = (folder / name).stat().st_mtime
        except FileNotFoundError:
            continue  # another command has settled it
    return found


def _begun(note: Path) -> float:
    """Return since when what was published may not be on the disk; never, where the note has gone meanwhile."""
    try:
        return note.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def forget(root: Path, run_id: str) -> None:
    """Remove the note of a run."""
    (_folder(root) / run_id).unlink(missing_ok=True)


def _folder(root: Path) -> Path:
    return root / "unsynced"


def _is_in_work(root: Path, run_id: str) -> bool:
    return is_held(root / "runs" / f"{run_id}.lock")


def _read_boot() -> str:
    if not disk.HAS_SYNCFS:
        return ""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
