"""The documents in target/ that other programs read: manifest.json, run_results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from treadle_runtime.disk import storage_errors
from treadle_runtime.lock import hold_lock


def write_artifact(root: Path, name: str, value: Any) -> Path:
    """Write JSON to target/, replacing an earlier document in one step, and return its path."""
    path = root / "target" / name
    new = path.with_name(f".{name}.new")  # always the same name, so that what a killed process leaves is replaced
    with hold_lock(root / ".treadle" / "claims" / f"target-{name}.lock"), storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        new.write_bytes(_encode(value) + b"\n")
        new.replace(path)
    return path


def _encode(value: Any) -> bytes:
    try:
        text = _dump(value)
    except ValueError:
        text = _dump(to_json(value))
    return msgspec.json.format(text.encode("utf-8", "surrogateescape"), indent=1)


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
