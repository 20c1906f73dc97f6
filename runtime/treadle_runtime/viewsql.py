"""The SELECT over a version's parts, and what else of DuckDB is needed where no table is computed.

Apart from `engine`, for a catalog is written without Arrow, which takes as long to load as thousands of views to copy.
"""

from __future__ import annotations

import re

import duckdb

from treadle_runtime.types import quote_text, stored_columns
from treadle_runtime.version import Version

_GLOB = re.compile(r"[*?\[]")


def view_sql(version: Version, folder: str) -> str | None:
    """Return the query over a version's Parquet parts, or None when it has none.

    Args:
        version: whose columns and parts are read.
        folder: a constant SQL expression for the version's folder.
    """
    files = [part.name for part in version.parts if part.name.endswith(".parquet")]
    if not files:
        return None
    columns = stored_columns((column.name, column.type) for column in version.columns)
    # A folder `a=b` above the project would become a column, and `*` in one would match its neighbours.
    pattern = escape_glob(folder)
    paths = ", ".join(f"{pattern} || {quote_text('/' + name)}" for name in files)
    select = ", ".join(column.read for column in columns)
    return f"select {select} from read_parquet([{paths}], hive_partitioning = false)"


def escape_glob(path: str) -> str:
    """Return the pattern that DuckDB reads as exactly this path."""
    return re.sub(_GLOB, r"[\g<0>]", path)


def is_disk_full(error: duckdb.Error) -> bool:
    """Return whether the engine could not write because the disk is full."""
    text = str(error)
    return isinstance(error, duckdb.IOException) and ("No space left" in text or '"errno":"28"' in text)
