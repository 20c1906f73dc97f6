"""Opening a project's store: what the loss of power left half written goes before anybody looks at it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from treadle.errors import StoreError
from treadle_runtime import unsynced
from treadle_runtime.store import Store

_CLOCK_S = 3600.0
"""By how much the clock may have been set back between a run's note and what it published after it."""


def open_store(root: Path, *, owner: str, on_loss: Callable[[int], None]) -> Store:
    """Return the store of a project.

    Args:
        root: the project's `.treadle` folder.
        owner: see `Store`.
        on_loss: called with how many versions the loss of power took, if it took any.
    """
    store = Store(root, owner=owner)
    with suppress(StoreError):  # it cannot be written, and what was published stands well
        if removed := recover(store):
            on_loss(len(removed))
    return store


def recover(store: Store) -> list[str]:
    """Remove what the loss of power left half written; return the fingerprints.

    Raises:
        StoreError: TR802, TR805.
    """
    removed = []
    for run_id in unsynced.find_cut_off(store.root):
        with store.claim(f"recover-{run_id}"):
            since = unsynced.find_cut_off(store.root).get(run_id)
            if since is None:  # another command did it meanwhile
                continue
            young = store.published_since(since - _CLOCK_S)
            broken = [fingerprint for fingerprint in young if _is_broken(store, fingerprint)]
            store.remove(broken)
            removed += broken
            unsynced.forget(store.root, run_id)
    return removed


def _is_broken(store: Store, fingerprint: str) -> bool:
    with suppress(StoreError):  # a newer Treadle wrote it: whether it is whole cannot be told
        return bool(store.find_damage(fingerprint))
    return False
