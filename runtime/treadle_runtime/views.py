"""What an environment's catalog shows: a view for each source and feature of its map.

A table's view stands on its version in the store; a view, or a source in place, on the text that was published with it.
So the state and the store are all that is needed to make a catalog, whatever the project's files say by now.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from treadle.errors import Problem, StoreError
from treadle_runtime.stamp import Query, Unread, is_current

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from treadle_runtime.state import State
    from treadle_runtime.store import Store
    from treadle_runtime.version import Version

_TABLES = ("source", "feature")


def catalog_path(store: Store, env: str) -> Path:
    """Return where the catalog of an environment stands."""
    return store.root / f"{env}.duckdb"


def write_views(
    state: State,
    store: Store,
    env: str,
    *,
    like: str | None = None,
    anew: bool = False,
    has_changed: bool = False,
    known: Mapping[str, Version] | None = None,
    without: frozenset[str] = frozenset(),
    on_wait: Callable[[str], None] | None = None,
) -> tuple[Problem, ...]:
    """Bring an environment's catalog up to its map.

    Args:
        state: holds the map.
        store: holds the versions.
        env: the environment.
        like: another environment, whose catalog is copied if it shows the same.
        anew: make it from nothing, whatever stands.
        has_changed: whether the map is known to have changed since the catalog was written.
        known: fingerprint -> version, of those that need not be opened again.
        without: fingerprints of versions that get no view, as they cannot be read or should not be.
        on_wait: called with who writes it, before this process waits for that.

    Returns:
        Why that could not be, if so: the catalog is a cache, and the next build writes it again.
    """

    def find_views(told: Mapping[str, str]) -> dict[str, Query | Unread]:
        found = _find(state, store, env, told, known or {})
        return {name: view for name, view in found.items() if view.fingerprint not in without}

    path = catalog_path(store, env)
    if not (anew or has_changed):
        views = find_views({})
        queries = {view.fingerprint: view.sql for view in views.values() if isinstance(view, Query)}
        wanted = {name: view.fingerprint for name, view in views.items()}
        if is_current(path, store.root / "store", wanted, queries):
            return ()
    from treadle_runtime.catalog import write_catalog

    other = catalog_path(store, like) if like else None
    try:
        root = store.root / "store"
        write_catalog(path, find_views, root, like=other, anew=anew, owner=store.owner, on_wait=on_wait)
    except StoreError as error:
        return tuple(error.problems)
    return ()


def remove_views(store: Store, env: str, *, on_wait: Callable[[str], None] | None = None) -> None:
    """Delete an environment's catalog; `on_wait` as in `write_views`.

    Raises:
        StoreError: TR805 not writable.
    """
    from treadle_runtime.catalog import remove_catalog

    remove_catalog(catalog_path(store, env), owner=store.owner, on_wait=on_wait)


def _find(
    state: State, store: Store, env: str, told: Mapping[str, str], known: Mapping[str, Version]
) -> dict[str, Query | Unread]:
    """Return what stands for each source and feature that is published now; a name without either has no view.

    Args:
        told: fingerprint -> text of views, as catalogs were last written with: for what was published by a Treadle
            that kept the texts nowhere else.
        known: fingerprint -> version.
    """

    def read(fingerprint: str) -> Version | None:
        return known.get(fingerprint) or store.read(fingerprint)

    built = store.fingerprints()
    views: dict[str, Query | Unread] = {}
    for entry in state.entries(env):
        text = entry.sql or told.get(entry.fingerprint)
        if entry.fingerprint in built:
            kind = entry.kind
            if kind is None:  # killed between the version's rename and its record
                version = store.read(entry.fingerprint)
                kind = version.kind if version else None
            if kind in _TABLES:
                views[entry.step] = Unread(entry.fingerprint, partial(read, entry.fingerprint))
        elif text is not None:
            views[entry.step] = Query(entry.fingerprint, text)
    return views
