"""The documents in target/ that other programs read: manifest.json, run_results.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from treadle_runtime.disk import storage_errors


def write_artifact(root: Path, name: str, value: Any) -> Path:
    """Write JSON to target/, replacing an earlier document in one step, and return its path."""
    path = root / "target" / name
    with storage_errors(path):
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{name}.{os.getpid()}")
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
        temporary.replace(path)
    return path
