"""Versions: what the store holds, and the file `meta.json` that describes each.

meta.json is canonical JSON without a time or a run in it: two builds of a fingerprint write the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from treadle.errors import Problem, StoreError

FORMAT = 2
"""2: parts may tell the range of their event_time."""

META = "meta.json"
JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Times: TypeAlias = "tuple[int, int] | tuple[()]"
"""The first and the last event_time of some rows, in microseconds since 1970 UTC; empty when none of them has one."""


@dataclass(frozen=True)
class Column:
    """A column of a version: its name, and DuckDB's type as readers see it."""

    name: str
    type: str


@dataclass(frozen=True)
class Part:
    """A file of a version.

    Attributes:
        name: relative to the version's folder, with `/`.
        rows: of a Parquet or Arrow file; 0 for any other.
        bytes: the file's size.
        digest: sha256 of the file's content, in hex.
        times: of its rows; None where it is not known: they may be of any time.
    """

    name: str
    rows: int
    bytes: int
    digest: str
    times: Times | None = None


@dataclass(frozen=True)
class Version:
    """One immutable result.

    Attributes:
        fingerprint: the identity of the step that made it.
        kind: the step's kind.
        folder: where its parts stand; absolute.
        columns: of its table; empty for a result that is no table.
        parts: its files, by name.
        rows: of all parts together.
        bytes: of all parts together.
        info: what the step tells of it: the roles of a dataset's columns, metrics, a verdict.
        reproducible: False when another build of the fingerprint may differ in rounding or in row order.
    """

    fingerprint: str
    kind: str
    folder: Path
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    rows: int
    bytes: int
    info: Mapping[str, JSON]
    reproducible: bool


def to_meta(version: Version) -> bytes:
    """Return the content of a version's meta.json.

    Raises:
        ValueError: `info` holds NaN or an infinity, which JSON does not have.
    """
    body: dict[str, object] = {
        "format": FORMAT,
        "fingerprint": version.fingerprint,
        "kind": version.kind,
        "columns": [{"name": column.name, "type": column.type} for column in version.columns],
        "parts": [_from_part(part) for part in version.parts],
        "info": version.info,
        "reproducible": version.reproducible,
    }
    return _canonical({**body, "digest": hashlib.sha256(_canonical(body)).hexdigest()})


def from_meta(content: bytes, folder: Path) -> Version:
    """Return the version that stands in a folder, from the content of its meta.json.

    Raises:
        StoreError: TR804 the content was changed, TR801 a newer Treadle wrote it.
    """
    try:
        body = json.loads(content)
        if body["format"] > FORMAT:
            raise StoreError(_newer(folder, body["format"]))
        digest = body.pop("digest")
        if hashlib.sha256(_canonical(body)).hexdigest() != digest:
            raise ValueError("its content was changed")
        if body["fingerprint"] != folder.name:
            raise ValueError(f"it describes {body['fingerprint']}")
        return make_version(
            folder,
            kind=body["kind"],
            columns=tuple(Column(**column) for column in body["columns"]),
            parts=tuple(_to_part(part) for part in body["parts"]),
            info=body["info"],
            reproducible=body["reproducible"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(damaged(folder, f"{META} cannot be read: {error}")) from error


def make_version(
    folder: Path,
    *,
    kind: str,
    columns: tuple[Column, ...],
    parts: tuple[Part, ...],
    info: Mapping[str, JSON],
    reproducible: bool,
) -> Version:
    """Return a version whose fingerprint is its folder's name, with rows and bytes summed over its parts."""
    rows, size = sum(part.rows for part in parts), sum(part.bytes for part in parts)
    return Version(folder.name, kind, folder, columns, parts, rows, size, info, reproducible)


def _from_part(part: Part) -> dict[str, object]:
    body: dict[str, object] = {"name": part.name, "rows": part.rows, "bytes": part.bytes, "digest": part.digest}
    return body if part.times is None else {**body, "times": part.times}


def _to_part(body: Mapping[str, Any]) -> Part:
    times = body.get("times")
    return Part(**{**body, "times": None if times is None else tuple(times)})


def damaged(folder: Path, why: str) -> Problem:
    """Return the problem of a version that is not as it was written."""
    return Problem(
        "TR804",
        f'the stored version "{folder.name[:12]}" is damaged',
        why=f"{folder}\n{why}",
        fix="run `treadle verify --repair`, then the same command: what was damaged is made again",
    )


def _newer(folder: Path, found: object) -> Problem:
    return Problem(
        "TR801",
        f'the stored version "{folder.name[:12]}" was written by a newer Treadle',
        why=f"its format is {found}, this Treadle reads up to {FORMAT}",
        fix="upgrade treadle, or delete that folder",
    )


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonical(value: object) -> bytes:
    return _ENCODER.encode(value).encode() + b"\n"
