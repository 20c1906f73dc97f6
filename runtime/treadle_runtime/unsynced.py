"""Versions that are published before they are on the disk: one wait for a run, instead of several for each version.

    .treadle/unsynced/<run>    the boot under which the run publishes so

A rename shows a version to every process at once, wherever its bytes are by then: a process that is killed loses
nothing, only the loss of power does. So a run notes itself here, and sees the note safe on the disk, before it
publishes anything; publishes without waiting; and waits once, for the whole file system (syncfs), before an environment
refers to what it made. Whoever relies on what another run has made waits too: a note says that there is something to
wait for, and the note of a run that was killed goes when somebody has.

A note of another boot says that the machine went down meanwhile. What was published since the note was written is then
compared with its digests, and what is not whole is removed: no environment refers to it, and a build makes it again.

Only Linux has syncfs and an id for each boot. Elsewhere every version is waited for by itself.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from treadle_runtime import disk
from treadle_runtime.disk import storage_errors
from treadle_runtime.lock import is_held

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def published_together(root: Path, run_id: str) -> Generator[bool]:
    """Let what is published in the block reach the disk together, at its end.

    Args:
        root: the project's `.treadle` folder.
        run_id: of the run that publishes, which holds its lock in runs/.

    Yields:
        Whether that is possible here; if not, each version has to be waited for.

    Raises:
        StoreError: TR803 disk full, TR805 what was published could not be written.
    """
    boot = _read_boot()
    if not boot:
        yield False
        return
    note = _folder(root) / run_id
    with storage_errors(note):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(boot)
        for path in (note, note.parent, root):
            disk.sync(path)
    try:
        yield True
    finally:
        settle(root, run_id=run_id)


def settle(root: Path, *, run_id: str = "") -> None:
    """Wait until all that was published is on the disk; nothing to do where no run has left a note.

    Args:
        root: the project's `.treadle` folder.
        run_id: whose note is removed besides those of runs that were killed.

    Raises:
        StoreError: TR803 disk full, TR805 what was published could not be written.
    """
    folder = _folder(root)
    notes = disk.names_in(folder)
    if not notes:
        return
    # Looked at before the wait: what a run publishes that ends after it is not waited for. A note of another boot is
    # for `Store.recover`: no wait brings back what is lost.
    cut_off = find_cut_off(root)
    over = [name for name in notes if name == run_id or not (name in cut_off or _is_in_work(root, name))]
    with storage_errors(folder):
        disk.sync_file_system(root / "store")
        for name in over:
            (folder / name).unlink(missing_ok=True)


def find_cut_off(root: Path) -> dict[str, float]:
    """Return run -> seconds since 1970 at which it began to publish, of runs that the loss of power has ended."""
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
