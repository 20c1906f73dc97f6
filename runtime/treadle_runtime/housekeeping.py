"""What of the store is no longer needed."""

from __future__ import annotations

from collections.abc import Iterable

from treadle.errors import Problem, UsageError
from treadle_runtime import disk
from treadle_runtime.state import State
from treadle_runtime.store import Store


def find_unused(store: Store, state: State) -> dict[str, int]:
    """Return fingerprint -> bytes of the versions that no environment and no model version stands on.

    Raises:
        UsageError: TR603, a run is in work, whose results are not published yet.
    """
    return {fingerprint: store.size_of(fingerprint) for fingerprint in _unused(store, state)}


def remove_unused(store: Store, state: State, fingerprints: Iterable[str]) -> list[str]:
    """Remove versions and what is recorded of them, except those that are in use by now.

    No run begins and nothing is published between the look at what is in use and the removal: both take the
    state's write lock, which is held here until the folders stand outside of the store.

    Returns:
        the fingerprints of what was removed.

    Raises:
        UsageError: TR603, a run is in work.
    """
    with state.transaction() as con:
        unused = set(_unused(store, state))
        gone = [fingerprint for fingerprint in fingerprints if fingerprint in unused]
        state.drop_records(con, gone)
        folders = store.withdraw(gone)
    for folder in folders:
        disk.remove(folder)
    store.sweep()
    return gone


def _unused(store: Store, state: State) -> list[str]:
    if running := state.running():
        why = f"run {running[0].id}: {running[0].command}"
        raise UsageError(Problem("TR603", "a run is in work", why=why, fix="clean when it has ended"))
    return sorted(store.fingerprints() - state.in_use())
