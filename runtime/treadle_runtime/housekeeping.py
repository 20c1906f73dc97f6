"""What of the store is no longer needed."""

from __future__ import annotations

from collections.abc import Iterable

from treadle.errors import Problem, UsageError
from treadle_runtime.state import State
from treadle_runtime.store import Store


def find_unused(store: Store, state: State) -> dict[str, int]:
    """Return fingerprint -> bytes of the versions that no environment and no model version stands on.

    Raises:
        UsageError: TR603, a run is in work, whose results are not published yet.
    """
    running = [run for run in state.runs(1000) if run.status == "running"]
    if running:
        why = f"run {running[0].id}: {running[0].command}"
        raise UsageError(Problem("TR603", "a run is in work", why=why, fix="clean when it has ended"))
    unused = sorted(store.fingerprints() - state.in_use())
    return {fingerprint: store.size_of(fingerprint) for fingerprint in unused}


def remove_unused(store: Store, state: State, fingerprints: Iterable[str]) -> None:
    """Remove versions and what is recorded of them."""
    gone = list(fingerprints)
    state.forget(gone)
    store.remove(gone)
    store.sweep()
