"""CSV files some of whose rows do not parse: how the others are read.

    copy the rows whose form is that of their file's first line -> find columns, types, header and forms of dates
    in the copies, as in any files -> a SELECT over the files themselves, in which nothing is detected

DuckDB's detection gives up on crooked rows, or is misled by them; of the copies it knows nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from treadle.errors import StepError, StoreError
from treadle_runtime import bad_rows, readers
from treadle_runtime.diagnosis import TOO_LONG
from treadle_runtime.disk import disk_full
from treadle_runtime.diskfull import is_disk_full, why_full
from treadle_runtime.engine import Connection
from treadle_runtime.form import Form, find_first, find_form
from treadle_runtime.sources import Observed
from treadle_runtime.state import SourcePart
from treadle_runtime.textfile import (
    LONGEST_ROW,
    Dialect,
    copy_sql,
    is_compressed,
    long_lines_sql,
    read_dialect,
    read_first_row,
)
from treadle_runtime.types import quote_text
from treadle_runtime.viewsql import escape_glob


def is_quarantined(config: Mapping[str, Any]) -> bool:
    """Return whether a source leaves bad rows out."""
    return config.get("bad_rows") == "quarantine"


def is_of_rows(error: Exception) -> bool:
    """Return whether what the engine says, bare or as `write_query` hands it on, can be about rows of a CSV."""
    reason = error.__cause__ if isinstance(error, StepError) else error
    return isinstance(reason, (duckdb.InvalidInputException, duckdb.ConversionException))


@dataclass(frozen=True)
class Files:
    """The CSV files of a source, or one of them, and what reads them.

    Attributes:
        con: may read them, and write and read below `scratch`.
        config: of the source, as `readers` takes it.
        root: the project's folder.
        scratch: for copies, which are removed after use.
    """

    con: Connection
    config: Mapping[str, Any]
    observed: Observed
    root: Path
    scratch: Path

    def filled(self) -> list[tuple[SourcePart, Path]]:
        """Return the files that hold anything."""
        both = zip(self.observed.parts, self.observed.files(self.root), strict=True)
        return [(part, file) for part, file in both if part.size]

    def only(self, *parts: SourcePart) -> Files:
        """Return some of the files."""
        return replace(self, observed=replace(self.observed, parts=parts))


@dataclass(frozen=True)
class QuarantineRead:
    """How files are read without their bad rows.

    Attributes:
        columns: file -> the names of its columns, in its order.
    """

    form: Form
    columns: Mapping[Path, tuple[str, ...]]

    def select(self, *files: Path) -> str:
        """Return the SELECT over some of the files; none: over all."""
        return self.form.quarantine_select([(file, self.columns[file]) for file in files or self.columns])


def find_read(files: Files, form: Form | None = None) -> QuarantineRead:
    """Return how files are read without their bad rows.

    Args:
        form: of all files of the source, where it is known.

    Raises:
        StepError: what `readers.load` raises; TR713 a file's first line does not parse.
        StoreError: TR803 the disk is full.
        duckdb.Error: a file cannot be read even so.
    """
    bad_rows.clear(files.con)
    with _copied(files) as copies:
        known = {form.first: list(form.columns)} if form is not None else {}
        columns = readers.columns_of_each(copies.con, copies.config, copies.observed, copies.root)
        readers.check_same_columns(copies.con, copies.config, copies.observed, copies.root, known)
        found = form or find_form(copies.con, copies.config, copies.observed, copies.root)
    order = [tuple(names) for names in columns.values()]
    return QuarantineRead(found, {file: names for (_, file), names in zip(files.filled(), order, strict=True)})


def find_form_of_any(files: Files) -> Form:
    """Return how the files of a source are read, some of which may hold bad rows.

    Raises:
        StepError, duckdb.Error: as `form.find_form` does.
    """
    try:
        return find_form(files.con, files.config, files.observed, files.root)
    except duckdb.Error as error:
        if not is_quarantined(files.config) or not is_of_rows(error):
            raise
    bad_rows.clear(files.con)
    with _copied(files.only(find_first(files.observed, files.root))) as copies:
        found = find_form(copies.con, copies.config, copies.observed, copies.root)
    if set(found.columns) <= set(files.config.get("columns") or {}):
        return found
    with _copied(files) as copies:
        return find_form(copies.con, copies.config, copies.observed, copies.root)


def whole_rows(select: str) -> str:
    """Return a SELECT in which a row is bad whichever columns are asked for.

    DuckDB converts the values of no other columns than those that a query needs.
    """
    return f"select * from (\n{select}\n) where hash(columns(*)) is not null"


@contextmanager
def _copied(files: Files) -> Iterator[Files]:
    """Copy the rows whose form is that of their file's first line, all values as they are."""
    options = files.config.get("csv") or {}
    filled = files.filled()
    with TemporaryDirectory(dir=files.scratch) as name:
        folder, parts = Path(name).resolve(), []
        for part, file in filled:
            dialect = read_dialect(options, filled[0][1])
            target = folder / part.path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            n_columns = len(read_first_row(file, dialect))
            _check_lengths(files, part, file, long_lines_sql(escape_glob(str(file)), dialect, n_columns))
            _copy(files.con, copy_sql(escape_glob(str(file)), dialect, n_columns), target, dialect)
            bad = next(bad_rows.read_rows(files.con, part, file, files.config["name"]), None)
            if bad is not None and bad["line"] == 1:
                why = "the first line tells the columns, so that bad_rows: quarantine cannot leave it out"
                raise bad_rows.unreadable(files.config["name"], part, bad, why)
            parts.append(replace(part, path=part.path.lstrip("/"), size=target.stat().st_size))
        yield replace(files, observed=replace(files.observed, parts=tuple(parts)), root=folder)


def _check_lengths(files: Files, part: SourcePart, file: Path, select: str) -> None:
    """Raise TR713 where a row is too long: what reads the file from here on would not even tell that it left it out."""
    if part.size < LONGEST_ROW and not is_compressed(file):
        return
    files.con.execute(select).fetchall()
    rows = bad_rows.read_rows(files.con, part, file, files.config["name"])
    if long := next((row for row in rows if row["error"].startswith(TOO_LONG)), None):
        raise bad_rows.unreadable(files.config["name"], part, long, "bad_rows: quarantine cannot leave it out")
    bad_rows.clear(files.con)


def _copy(con: Connection, select: str, target: Path, dialect: Dialect) -> None:
    try:
        con.execute(f"copy ({select}) to {quote_text(str(target))} (format csv, header false, {dialect.to_copy()})")
    except duckdb.Error as error:
        if is_disk_full(error):
            raise StoreError(disk_full(target.parent, why_full(error))) from error
        raise
