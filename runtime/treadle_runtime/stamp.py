"""What a catalog shows and holds, in a small file beside it: a build that changed nothing need not open the catalog."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from treadle.replacing import replace_file

if TYPE_CHECKING:
    from treadle_runtime.version import Version


@dataclass(frozen=True)
class Query:
    """A view over other names: an inlined feature, or a source that is read where it lies.

    Attributes:
        fingerprint: of the step.
        sql: its text.
    """

    fingerprint: str
    sql: str


@dataclass(frozen=True)
class Unread:
    """A stored version that is opened when its view has to be made.

    Attributes:
        read: returns the version, or None when it is gone.
    """

    fingerprint: str
    read: Callable[[], Version | None]


@dataclass(frozen=True)
class Stamp:
    """What a catalog holds, and by which it is recognised as the file that was written here.

    Attributes:
        file: inode, size and time of change in ns of the catalog's file.
        store: the folder that `store()` returns.
        views: name -> fingerprint of a version or a query.
        queries: fingerprint -> text.
    """

    file: tuple[int, ...]
    store: str
    views: Mapping[str, str]
    queries: Mapping[str, str]


def read_stamp(path: Path) -> Stamp | None:
    """Return with what the catalog at `path` was last written here, or None."""
    try:
        body = json.loads(stamp_path(path).read_bytes())
        return Stamp(tuple(body["file"]), body["store"], dict(body["views"]), dict(body["queries"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def describes(stamp: Stamp, path: Path) -> bool:
    """Return whether the catalog is still the file that the stamp was written for."""
    try:
        return stamp.file == identify(path)
    except OSError:
        return False


def is_current(path: Path, store_root: Path, views: Mapping[str, str], queries: Mapping[str, str]) -> bool:
    """Return whether the catalog at `path` shows these names with these fingerprints and texts, and nothing else."""
    stamp = read_stamp(path)
    if stamp is None or not describes(stamp, path):
        return False
    return stamp.store == str(store_root.absolute()) and stamp.views == views and stamp.queries == queries


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Write what the catalog at `path` holds, in one step."""
    replace_file(stamp_path(path), json.dumps(vars(stamp), sort_keys=True, separators=(",", ":")).encode())


def identify(path: Path) -> tuple[int, ...]:
    """Return by what a catalog's file is recognised."""
    return identity_of(path.stat())


def identity_of(found: os.stat_result) -> tuple[int, ...]:
    """Return by what an open catalog's file is recognised."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def stamp_path(path: Path) -> Path:
    """Return where the stamp of the catalog at `path` stands."""
    return path.with_suffix(".catalog.json")
