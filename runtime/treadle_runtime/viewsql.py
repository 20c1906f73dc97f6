"""SELECTs over Parquet files: the parts of a version, the files of a source that is read in place.

They are text: who writes a map or a catalog needs them, and neither an engine nor Arrow, which take long to load.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from treadle_runtime.types import parse_type, quote_name, quote_text, stored_columns
from treadle_runtime.version import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from treadle_runtime.sources import Observed

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
    union = ", union_by_name = true" if version.info.get("union_by_name") else ""
    return f"select {select} from read_parquet([{paths}], hive_partitioning = false{union})"


def read_sql(config: Mapping[str, Any], observed: Observed, root: Path) -> str:
    """Return the SELECT over a Parquet source's own files, by absolute paths; columns are matched by name."""
    return parquet_sql(observed.files(root), config.get("columns") or {})


def parquet_sql(files: Iterable[Path], declared: Mapping[str, str]) -> str:
    """Return the SELECT over Parquet files, whose columns are matched by name, with the declared types."""
    paths = ", ".join(quote_text(escape_glob(str(file))) for file in files)
    return select_cast(f"read_parquet([{paths}], union_by_name=true, hive_partitioning=false)", declared)


def select_cast(source: str, columns: Mapping[str, str]) -> str:
    """Return the SELECT over a table function, with the columns cast that are declared: name -> type."""
    quoted = {quote_name(name): parse_type(kind) for name, kind in columns.items()}
    casts = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in quoted.items())
    return f"select * replace ({casts}) from {source}" if casts else f"select * from {source}"


def escape_glob(path: str) -> str:
    """Return the pattern that DuckDB reads as exactly this path."""
    return re.sub(_GLOB, r"[\g<0>]", path)
