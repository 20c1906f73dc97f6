"""The documents in target/ that other programs read: manifest.json, run_results.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from treadle_runtime.disk import storage_errors


def write_artifact(root: Path, name: str, value: Any) -> Path:
    """Write JSON to target/, replacing an earlier document in one step, and return its path."""
    path = root / "target" / name
    with storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{name}.{os.getpid()}")
        text = json.dumps(to_json(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", "utf-8")
        temporary.replace(path)
    return path


def to_json(value: Any) -> Any:
    """Return a value that JSON can hold: NaN and infinities, which it lacks, as text."""
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
