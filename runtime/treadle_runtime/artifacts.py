"""The documents in target/ that other programs read: manifest.json, run_results.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from treadle.replacing import replace_file
from treadle_runtime.disk import storage_errors


def write_artifact(root: Path, name: str, value: Any, *, made_of: str = "") -> Path:
    """Write JSON to target/, replacing an earlier document in one step, and return its path.

    Args:
        root: the project's folder.
        name: of the document.
        value: what stands in it; `msgspec.Raw` where it is encoded already.
        made_of: a name of what it was made of, for `is_written`.
    """
    path = root / "target" / name
    with storage_errors(path):
        written = replace_file(path, _to_document(value) + b"\n")
    if made_of:
        with suppress(OSError):  # then it is written again next time
            _note(root, name).write_text(_to_mark(written, made_of))
    return path


def is_written(root: Path, name: str, *, made_of: str) -> bool:
    """Return whether a document in target/ was made of just that, and is as it was written."""
    try:
        return _note(root, name).read_text() == _to_mark((root / "target" / name).stat(), made_of)
    except (OSError, ValueError):
        return False


def _note(root: Path, name: str) -> Path:
    return root / ".treadle" / "cache" / f"{name}.made"


def _to_mark(stat: os.stat_result, made_of: str) -> str:
    return f"{made_of} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"


def encode(value: Any) -> bytes:
    """Return a value as JSON on one line; NaN and infinities, which JSON lacks, as text."""
    try:
        text = _dump(value)
    except ValueError:
        text = _dump(to_json(value))
    return text.encode("utf-8", "surrogateescape")


def _to_document(value: Any) -> bytes:
    return msgspec.json.format(bytes(value) if isinstance(value, msgspec.Raw) else encode(value), indent=1)


def _dump(value: Any) -> str:
    # Without an indent, which the library's own fast encoder does not know.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def to_json(value: Any) -> Any:
    """Return a value that JSON can hold: NaN and infinities, which it lacks, as text."""
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
