"""Whether DuckDB failed for want of space."""

from __future__ import annotations

import duckdb


def is_disk_full(error: duckdb.Error) -> bool:
    """Return whether the engine could not write because the disk is full."""
    text = str(error)
    return isinstance(error, duckdb.IOException) and ("No space left" in text or '"errno":"28"' in text)
