"""Whether DuckDB failed for want of space, and whose limit it met."""

from __future__ import annotations

import duckdb

_FULL = {
    "No space left": "No space left on device",
    '"errno":"28"': "No space left on device",
    "File too large": "File too large: `ulimit -f` sets the limit",
    "Disk quota exceeded": "Disk quota exceeded",
}


def is_disk_full(error: duckdb.Error) -> bool:
    """Return whether the engine could not write because the disk is full, or a quota or a limit is reached."""
    return bool(why_full(error))


def why_full(error: duckdb.Error) -> str:
    """Return what is full; "" where nothing is."""
    text = str(error) if isinstance(error, duckdb.IOException) else ""
    return next((why for sign, why in _FULL.items() if sign in text), "")
