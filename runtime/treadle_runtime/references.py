"""What refers to which stored version, and which versions something referred to until lately."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from treadle.errors import StoreError
from treadle_runtime import leases, oldcatalogs
from treadle_runtime.intervals import find_pieces
from treadle_runtime.state import State
from treadle_runtime.store import Store

REASONS: Mapping[str, str] = {
    "published": "in an environment or the registry",
    "history": "to roll back to",
    "pieces": "that these are put together from",
    "run": "for a run in work",
    "reader": "for a reader",
    "catalog": "in an open catalog",
}
"""Reason -> the words for it, the strongest first."""


@dataclass(frozen=True)
class Reference:
    """Versions that are needed.

    Attributes:
        reason: a key of `REASONS`.
        holder: the run or the reader, in words; empty otherwise.
    """

    reason: str
    fingerprints: frozenset[str]
    holder: str = ""


def find_references(store: Store, state: State, *, publications: int, closed: frozenset[Path]) -> list[Reference]:
    """Return all that refers to versions, in the order of `REASONS`; complete under the state's write lock.

    Args:
        publications: how many of the last publications of each environment can be rolled back.
        closed: replaced catalogs that are known to be closed, see `oldcatalogs`.
    """
    published, history = frozenset(state.in_use()), _history(state, publications)
    return [
        Reference("published", published),
        Reference("history", history),
        Reference("pieces", frozenset(owners_of_pieces(store, published | history))),
        *(Reference("run", each.fingerprints, each.name) for each in leases.held_by_runs(state)),
        *(Reference("reader", each.fingerprints, each.name) for each in leases.held_by_readers(store.root)),
        Reference("catalog", oldcatalogs.shown_fingerprints(store.root, closed=closed)),
    ]


def find_recent(store: Store, state: State, fingerprints: Iterable[str], *, since: datetime) -> frozenset[str]:
    """Return which of the fingerprints were built, or left an environment, at or after a moment."""
    moment = since.astimezone(UTC).isoformat(timespec="microseconds")
    rows = state.read("SELECT changes FROM publications WHERE at >= ?", (moment,))
    left = _replaced(row["changes"] for row in rows)
    columns = "SELECT fingerprint, created_at FROM"
    built = dict(map(tuple, state.read(f"{columns} versions UNION ALL {columns} inlined_identities")))

    def is_recent(fingerprint: str) -> bool:
        if fingerprint in left:
            return True
        if fingerprint in built:
            return bool(built[fingerprint] >= moment)
        try:  # a version whose run was killed before it was recorded
            return store.folder_of(fingerprint).stat().st_mtime >= since.timestamp()
        except FileNotFoundError:
            return False

    return frozenset(filter(is_recent, fingerprints))


def owners_of_pieces(store: Store, fingerprints: Iterable[str]) -> dict[str, str]:
    """Return what versions were put together from (intervals, files): fingerprint of a piece -> of one of the versions.

    The next version of their step is put together from most of it again.
    """
    found: dict[str, str] = {}
    for fingerprint in store.built(fingerprints):
        try:
            version = store.read(fingerprint)
        except StoreError:
            continue  # what is damaged names nothing
        if version is not None:
            found |= dict.fromkeys(find_pieces(version.info), fingerprint)
    return found


def _history(state: State, publications: int) -> frozenset[str]:
    """Return what it takes to go back as many times, in environments that still have a map.

    That is what was replaced since the publication that as many rollbacks lead to, and by as many publications, so
    that a rollback can be taken back too.
    """
    if not publications:
        return frozenset()
    query = """
        SELECT env, id, coalesce(restores, id) AS leads_to FROM publications
        WHERE env IN (SELECT env FROM environments)"""
    history: dict[str, dict[int, int]] = {}
    for row in state.read(query):
        history.setdefault(row["env"], {})[row["id"]] = row["leads_to"]
    found: set[str] = set()
    for env, leads_to in history.items():
        since = min(_rolled_back(leads_to, publications) + 1, *sorted(leads_to)[-publications:])
        rows = state.read("SELECT changes FROM publications WHERE env = ? AND id >= ?", (env, since))
        found |= _replaced(row["changes"] for row in rows)
    return frozenset(found)


def _rolled_back(leads_to: Mapping[int, int], times: int) -> int:
    """Return the publication that rollbacks lead to; see `Environments.rollback`."""
    here = leads_to[max(leads_to)]
    for _ in range(times):
        earlier = [number for number in leads_to if number < here]
        here = leads_to[max(earlier)] if earlier else here
    return here


def _replaced(changes: Iterable[str]) -> frozenset[str]:
    found = (before for each in changes for before, _ in json.loads(each).values())
    return frozenset(before for before in found if before is not None)
