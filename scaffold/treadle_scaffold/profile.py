"""What a file of rows holds, column by column: enough to choose a task, a key and inputs.

The file is read with the reader of the build, so that types are what they will be there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from treadle.errors import Problem, StepError, UsageError
from treadle.names import is_identifier
from treadle_runtime import engine, readers, sources
from treadle_runtime.types import parse_type, quote_name

Kind = Literal["boolean", "integer", "number", "text", "date", "timestamp", "other"]

FORMATS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
_KINDS: dict[str, Kind] = {
    "BOOLEAN": "boolean",
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"), "integer"),
    **dict.fromkeys(("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"), "integer"),
    **dict.fromkeys(("FLOAT", "DOUBLE", "DECIMAL"), "number"),
    **dict.fromkeys(("VARCHAR", "ENUM", "UUID"), "text"),
    "DATE": "date",
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    "TIMESTAMP WITH TIME ZONE": "timestamp",
}


@dataclass(frozen=True)
class Column:
    """A column of the file.

    Attributes:
        type: DuckDB's.
        filled: rows that are not NULL.
        distinct: different values among them.
        infinite: rows that are NaN or infinite.
    """

    name: str
    type: str
    filled: int
    distinct: int
    infinite: int

    @property
    def kind(self) -> Kind:
        """What can be done with its values."""
        return _KINDS.get(parse_type(self.type).name, "other")


@dataclass(frozen=True)
class Profile:
    """A file of rows; the table `rows` of `con` holds them."""

    file: Path
    rows: int
    columns: dict[str, Column]
    con: duckdb.DuckDBPyConnection

    def quote(self, name: str) -> str:
        """Return a name as SQL takes it: in quotes only where it needs them."""
        words = {row[0] for row in self.query("select keyword_name from duckdb_keywords()")}
        return name if is_identifier(name) and name.lower() not in words else quote_name(name)

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of a query over the table `rows`."""
        return self.con.execute(sql).fetchall()


@contextmanager
def read_profile(file: Path) -> Iterator[Profile]:
    """Read a CSV or Parquet file and count what stands in its columns.

    Raises:
        UsageError: TR603, neither CSV nor Parquet; TR713, it cannot be read or holds no rows.
    """
    form = FORMATS.get(file.suffix.lower())
    if form is None:
        fix = "write it as .csv or .parquet"
        raise UsageError(
            Problem("TR603", f'"{file}" is neither CSV nor Parquet', why=f"its ending is {file.suffix!r}", fix=fix)
        )
    file = file.resolve()
    config = {"name": file.stem, "paths": [file.name], "format": form, "csv": {}, "columns": {}}
    with tempfile.TemporaryDirectory() as scratch:
        con = engine.connect(temp_directory=Path(scratch))
        try:
            observed = sources.observe(config, file.parent)
            with readers.reading(con, config, observed, file.parent):
                con.execute(f"create table rows as {readers.load(con, config, observed, file.parent)}")
            yield _profile(con, file)
        except StepError as error:
            raise UsageError(error.problems) from error
        finally:
            con.close()


def _profile(con: duckdb.DuckDBPyConnection, file: Path) -> Profile:
    types = engine.describe(con, "select * from rows")
    rows = int(con.execute("select count(*) from rows").fetchall()[0][0])
    if rows == 0:
        raise UsageError(Problem("TR713", f'"{file.name}" holds no rows', fix="take a file with rows to learn from"))
    counts = []
    for name, kind in types:
        quoted = quote_name(name)
        odd = f"count(*) filter (not isfinite({quoted}))" if kind in ("FLOAT", "DOUBLE") else "0"
        counts.append(f"count({quoted}), count(distinct {quoted}), {odd}")
    found = con.execute(f"select {', '.join(counts)} from rows").fetchall()[0]
    columns = {
        name: Column(name, kind, *(int(count) for count in found[3 * i : 3 * i + 3]))
        for i, (name, kind) in enumerate(types)
    }
    return Profile(file, rows, columns, con)
