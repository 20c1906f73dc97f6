"""What was computed from versions that are damaged: they may hold, or have learned from, wrong values.

A version's recorded components name the fingerprints of what it read. What compares all that it reads with its digests
(see `intact`) read nothing that was damaged, but may have read what was computed from damage; a view passes on what it
stands on. A version that is put together from pieces says which in its meta.json: what one of them was computed from,
all versions with it were. Where nothing tells what a version was computed from (an interval that was backfilled, a
version whose run was killed), it may have been anything that a step of its kind reads, as the project's files stand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from treadle.errors import StoreError
from treadle_runtime.intact import compares_all
from treadle_runtime.intervals import find_pieces
from treadle_runtime.state import State
from treadle_runtime.store import Store

_FROM_OUTSIDE = frozenset({"source", "file"})
"""Kinds of versions that are made from no other."""


def find_suspects(
    store: Store,
    state: State,
    damaged: Collection[str],
    *,
    kinds_below: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> dict[str, frozenset[str]]:
    """Return what may have been computed from damaged versions: fingerprint -> which of these it goes back to.

    Args:
        damaged: fingerprints of versions whose bytes are no longer as they were written, though they open well.
        kinds_below: damaged version -> kinds of the versions and pieces that are made from what its step makes; one
            that is not named may have been read by anything.

    Returns:
        only versions that stand in the store and are not damaged themselves.
    """
    if not damaged:
        return {}
    standing, inlined = store.fingerprints(), state.inlined()
    components = state.identities([*state.step_names(), *inlined])
    readers, comparing = _find_readers(components)
    pieces = _find_pieces(store, standing)
    related = _relate(pieces)
    untold = _find_untold(store, standing - components.keys() - related.keys() - frozenset(damaged))
    suspects: dict[str, set[str]] = {}
    for root in damaged:
        reached: set[tuple[str, bool]] = set()
        below = kinds_below.get(root)
        left = [(root, True), *((each, False) for each, kind in untold.items() if below is None or kind in below)]
        while left:
            found = left.pop()
            if found in reached:
                continue
            reached.add(found)
            fingerprint, is_damage = found
            if is_damage:
                reading = [reader for reader in readers.get(fingerprint, ()) if reader not in comparing]
            else:
                reading = [*readers.get(fingerprint, ()), *related.get(fingerprint, ())]
                suspects.setdefault(fingerprint, set()).add(root)
            left += [(reader, is_damage and reader in inlined) for reader in reading]
    there = standing - frozenset(damaged)
    return {fingerprint: frozenset(roots) for fingerprint, roots in suspects.items() if fingerprint in there}


def _find_readers(components: Mapping[str, Mapping[str, str]]) -> tuple[Mapping[str, list[str]], frozenset[str]]:
    """Return (version -> what read it, which of all compare what they read)."""
    readers: dict[str, list[str]] = {}
    comparing = set()
    for fingerprint, found in components.items():
        if compares_all(found["kind"].partition("/")[0]):
            comparing.add(fingerprint)
        for name, value in found.items():
            if name.startswith("input:") or name == "champion":
                readers.setdefault(value, []).append(fingerprint)
    return readers, frozenset(comparing)


def _find_pieces(store: Store, fingerprints: Iterable[str]) -> Mapping[str, set[str]]:
    """Return version -> the pieces that it was put together from."""
    found = {}
    for fingerprint in fingerprints:
        with suppress(StoreError):  # what is cut, or was written by a newer Treadle, names nothing
            version = store.read(fingerprint)
            if version is not None and (pieces := find_pieces(version.info)):
                found[fingerprint] = pieces
    return found


def _relate(pieces: Mapping[str, set[str]]) -> Mapping[str, list[str]]:
    """Return what was computed from the same as a version: its pieces, and for a piece all versions that have it."""
    related: dict[str, list[str]] = {}
    for owner, owned in pieces.items():
        for piece in owned:
            related.setdefault(owner, []).append(piece)
            related.setdefault(piece, []).append(owner)
    return related


def _find_untold(store: Store, fingerprints: Iterable[str]) -> Mapping[str, str]:
    """Return version -> kind, of those of which neither the state nor another version tells."""
    found = {}
    for fingerprint in fingerprints:
        with suppress(StoreError):
            version = store.read(fingerprint)
            if version is not None and version.kind not in _FROM_OUTSIDE:
                found[fingerprint] = version.kind
    return found
