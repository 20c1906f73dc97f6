"""What of the store is no longer needed, and its removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from treadle_runtime import disk, oldcatalogs
from treadle_runtime.references import Reference, find_recent, find_references
from treadle_runtime.state import State
from treadle_runtime.store import Store


@dataclass(frozen=True)
class Terms:
    """What is kept although nothing refers to it now.

    A week by default: a build that failed on Friday is resumed on Monday, and who goes back to another branch finds
    its results. Neither is written down anywhere, so that time alone can speak for them.

    Attributes:
        older_than: how long ago a version must have been built, and have left every environment.
        publications: how many of the last publications of each environment stay possible to roll back.
    """

    older_than: timedelta = timedelta(days=7)
    publications: int = 2


@dataclass(frozen=True)
class Unused:
    """What a look at the store found; all fingerprints are of versions that stand in it.

    Attributes:
        versions: fingerprint -> bytes of what can go.
        recent: fingerprint -> bytes of what could, but for its age.
        references: what keeps the others.
    """

    versions: Mapping[str, int]
    recent: Mapping[str, int]
    references: tuple[Reference, ...]


def find_unused(store: Store, state: State, terms: Terms) -> Unused:
    """Return what neither an environment, the registry, the history, a run nor a reader refers to."""
    references = _references(store, state, terms, oldcatalogs.find_closed(store.root))
    free, recent = _split(store, state, terms, references)
    standing = store.fingerprints()
    kept = (Reference(each.reason, each.fingerprints & standing, each.holder) for each in references)
    return Unused(_sizes(store, free), _sizes(store, recent), tuple(kept))


def remove_unused(store: Store, state: State, fingerprints: Iterable[str], terms: Terms) -> list[str]:
    """Remove versions and what is recorded of them, except those that are in use by now.

    No plan is made to stand on a version, no reader takes it up and nothing is published between the look at
    what is in use and the removal: all of them take the state's write lock, which is held here until the folders
    stand outside of the store. A replaced catalog is never opened anew, so those that are closed are found before.

    Returns:
        the fingerprints of what was removed.
    """
    closed = oldcatalogs.find_closed(store.root)
    with state.transaction():
        free, _ = _split(store, state, terms, _references(store, state, terms, closed))
        gone = [fingerprint for fingerprint in fingerprints if fingerprint in free]
        folders = store.withdraw(gone)
    for folder in folders:
        disk.remove(folder)
    oldcatalogs.forget_closed(store.root)
    store.sweep()
    _forget(store, state, gone, terms, closed)  # last: on a full disk there is room for it by now
    return gone


def _forget(store: Store, state: State, gone: Iterable[str], terms: Terms, closed: frozenset[Path]) -> None:
    """Drop what is recorded of versions that are gone, and of views that nothing refers to."""
    with state.transaction() as con:
        references = _references(store, state, terms, closed)
        views = state.inlined().difference(*(each.fingerprints for each in references))
        views -= find_recent(store, state, views, since=state.clock() - terms.older_than)
        state.drop_records(con, (set(gone) - store.fingerprints()) | views)


def _references(store: Store, state: State, terms: Terms, closed: frozenset[Path]) -> list[Reference]:
    return find_references(store, state, publications=terms.publications, closed=closed)


def _split(
    store: Store, state: State, terms: Terms, references: Iterable[Reference]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return what of the store can go, and what could but for its age."""
    free = store.fingerprints().difference(*(each.fingerprints for each in references))
    recent = find_recent(store, state, free, since=state.clock() - terms.older_than)
    return free - recent, recent


def _sizes(store: Store, fingerprints: Iterable[str]) -> dict[str, int]:
    return {fingerprint: store.size_of(fingerprint) for fingerprint in sorted(fingerprints)}
