"""Rows of a CSV that do not parse: left out of a source's table and kept beside it (`bad_rows: quarantine`).

    write the table as if all rows parsed -> one does not: write it again, and DuckDB tells what it left out
    -> one object for each such row, in the order of files and lines: bad_rows.jsonl

So a source without bad rows is read as any other, and the rows that are kept come from the same scan as those that are
not. It stays an error when a file's first line does not parse, when none of its rows does (a wrong delimiter or type
says nothing about rows), and when a quote is not closed, as nobody can tell where its row ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb

from treadle.errors import StepError
from treadle_runtime import bad_rows
from treadle_runtime.engine import Written
from treadle_runtime.form import Form
from treadle_runtime.quarantine_read import Files, QuarantineRead, find_read, is_of_rows, is_quarantined
from treadle_runtime.version import Version

PART = "bad_rows.jsonl"
COUNT = "bad_rows"
"""Key of a version's info: how many rows are bad, where they are quarantined."""


def write(
    files: Files,
    folder: Path,
    strict: Callable[[], Written],
    run: Callable[[str], Written],
    *,
    form: Form | None = None,
    has_names: bool = True,
) -> tuple[Written, int]:
    """Write a source's table, and its bad rows beside it where they are quarantined.

    Args:
        folder: the draft's.
        strict: writes the table; raises where a row does not parse.
        run: writes the table that a SELECT gives.
        form: of all files of the source, where it is known.
        has_names: whether a bad row names its file; False for a piece, which stands for a content.

    Returns:
        (what was written, how many rows are bad).

    Raises:
        StepError: TR713 a file does not parse as a whole; what `strict` raises of anything but rows.
    """
    try:
        return strict(), 0
    except (duckdb.Error, StepError) as error:
        if not is_quarantined(files.config) or not is_of_rows(error):
            raise
        try:
            how = find_read(files, form)
            bad_rows.clear(files.con)
            written = run(how.select())
        except (duckdb.Error, StepError) as second:
            if is_of_rows(second):  # not even so: the first complaint tells more
                raise error from error.__cause__
            raise
    # There may be none: the engine detects no columns where a row ends in a delimiter, and reads it all the same.
    return written, _write_part(files, folder, how, written, has_names=has_names)


def unite(pieces: Iterable[tuple[str, Version]], folder: Path) -> int:
    """Write the bad rows of a source that is kept file by file.

    Args:
        pieces: (path, version of its piece) of each file, in order.
        folder: the draft's.

    Returns:
        how many there are.
    """
    n = 0
    for path, version in pieces:
        found = [_to_line({"file": path, **row}) for row in read(version)]
        if found:
            with open(folder / PART, "a", encoding="utf-8", newline="\n") as target:
                target.writelines(found)
        n += len(found)
    return n


def read(version: Version) -> Iterator[dict[str, Any]]:
    """Yield the bad rows of a version: file (not of a piece), line, column (None: the whole row), error, text."""
    if any(part.name == PART for part in version.parts):
        with open(version.folder / PART, encoding="utf-8", newline="\n") as source:
            yield from map(json.loads, source)


def to_info(config: Mapping[str, Any], n: int) -> dict[str, int]:
    """Return what a version tells of its bad rows."""
    return {COUNT: n} if is_quarantined(config) else {}


def to_notes(name: str, n: int, rows: int) -> tuple[str, ...]:
    """Return what a build tells of bad rows.

    Args:
        n: how many there are.
        rows: how many are kept.
    """
    if not n:
        return ()
    what = "1 row" if n == 1 else f"{n:,} rows"
    verbs = "does not parse and is" if n == 1 else "do not parse and are"
    return (f"{what} of {n + rows:,} {verbs} left out; see `treadle show {name} --bad-rows`",)


def _write_part(files: Files, folder: Path, how: QuarantineRead, written: Written, *, has_names: bool) -> int:
    n, name = 0, files.config["name"]
    for part, file in files.filled():
        first: dict[str, Any] | None = None
        with open(folder / PART, "a", encoding="utf-8", newline="\n") as target:
            for row in bad_rows.read_rows(files.con, part, file, name):
                first = first or row
                target.write(_to_line({**({"file": part.path} if has_names else {}), **row}))
                n += 1
        if first is not None and (not written.rows or not _has_rows(files, how, file)):
            raise bad_rows.unreadable(
                name, part, first, "no row of the file parses, and bad_rows: quarantine would leave none"
            )
    if not n:
        (folder / PART).unlink()
    return n


def _has_rows(files: Files, how: QuarantineRead, file: Path) -> bool:
    return bool(files.con.execute(f"select * from (\n{how.select(file)}\n) limit 1").fetchall())


def _to_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
