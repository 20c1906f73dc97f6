"""How each file of a source of text is read, so that all give the same columns: found once, from all of them.

find_form: the files as they are -> columns, types, header, forms of dates
Form: a SELECT for each file
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from treadle.fingerprint import to_canonical_json
from treadle_runtime import engine, readers
from treadle_runtime.engine import Connection
from treadle_runtime.sources import Observed
from treadle_runtime.state import SourcePart
from treadle_runtime.textfile import (
    Dialect,
    csv_sql,
    json_sql,
    plain_csv_sql,
    read_dialect,
    read_first_row,
    read_head,
    sniff_sql,
)
from treadle_runtime.types import quote_name
from treadle_runtime.viewsql import escape_glob


@dataclass(frozen=True)
class Form:
    """How each file is read, so that all give the same columns.

    Attributes:
        columns: name -> type, in order.
        options: the source's `csv`, with what is detected once and holds for all files.
        dialect: of a CSV.
        first: the file whose columns the others are compared with.
    """

    columns: Mapping[str, str]
    options: Mapping[str, Any]
    dialect: Dialect | None = None
    first: str = ""

    def select(self, file: Path) -> str:
        """Return the SELECT that reads one file."""
        pattern = escape_glob(str(file))
        if self.dialect is None:
            return json_sql([pattern], self.columns)
        names = ", ".join(quote_name(name) for name in self.columns)
        return f"select {names} from ({csv_sql([pattern], self.dialect, self.options, columns=self.columns)})"

    def plain_select(self, file: Path) -> str | None:
        """Return the SELECT that reads a CSV file with just these columns in its first line; None for any other."""
        if self.dialect is None or not self.options.get("header"):
            return None
        first = read_first_row(file, self.dialect)
        if sorted(first) != sorted(self.columns):
            return None
        names = ", ".join(quote_name(name) for name in self.columns)
        columns = {name: self.columns[name] for name in first}
        return f"select {names} from ({plain_csv_sql(escape_glob(str(file)), self.dialect, self.options, columns)})"

    def quarantine_select(self, files: Iterable[tuple[Path, Sequence[str]]]) -> str:
        """Return the SELECT that reads CSV files one after another and leaves out rows that do not parse.

        DuckDB tells of these; see `treadle_runtime.bad_rows`. Nothing is detected, as bad rows would mislead that.

        Args:
            files: each with the names of its columns, in its order.
        """
        if self.dialect is None:
            raise ValueError("rows are left out of CSV files alone")
        names = ", ".join(quote_name(name) for name in self.columns)
        options = {**self.options, "quarantine": True}
        selects = []
        for file, order in files:
            columns = {name: self.columns[name] for name in order}
            read = plain_csv_sql(escape_glob(str(file)), self.dialect, options, columns)
            selects.append(f"select {names} from ({read})")
        return "\nunion all ".join(selects)

    def digest(self) -> str:
        """Return text that is equal for forms that read alike."""
        return to_canonical_json([list(self.columns.items()), self.options, self.dialect and asdict(self.dialect)])


def find_first(observed: Observed, root: Path) -> SourcePart:
    """Return the first CSV file that tells how all are written: a header alone tells nothing but names."""
    filled = [part for part in observed.parts if part.size]
    both = zip(filled, replace(observed, parts=tuple(filled)).files(root), strict=True)
    return next((part for part, file in both if len(read_head(file).strip().splitlines()) > 1), filled[0])


def find_form(con: Connection, config: Mapping[str, Any], observed: Observed, root: Path) -> Form:
    """Return how the files of a source are read.

    Args:
        config: of the source, as `readers` takes it.

    Raises:
        StepError, duckdb.Error: as `readers.load` does.
    """
    options = dict(config.get("csv") or {})
    declared: Mapping[str, str] = config.get("columns") or {}
    if config["format"] == "json":
        return Form(dict(engine.describe(con, readers.load(con, config, observed, root))), options)
    first = find_first(observed, root)
    alone = replace(observed, parts=(first,))
    [file] = alone.files(root)
    columns = dict(engine.describe(con, readers.load(con, config, alone, root)))
    if set(columns) - set(declared):
        columns = dict(engine.describe(con, readers.load(con, config, observed, root)))
    dialect = read_dialect(options, file)
    # As where all files are read at once, the first one tells how dates are written in all.
    sniff = sniff_sql(escape_glob(str(file)), dialect, options, columns=declared)
    header, date, timestamp = con.execute(sniff).fetchall()[0]
    found = {"header": header, "date_format": date, "timestamp_format": timestamp, **options}
    return Form(columns, {key: value for key, value in found.items() if value is not None}, dialect, first.path)
