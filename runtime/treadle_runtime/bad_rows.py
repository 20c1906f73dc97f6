"""Bad rows as DuckDB tells of them: a CSV's rows that it left out, in its tables `reject_errors` and `reject_scans`.

They hold an error for each bad value, and come to be with the first bad row of a connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb

from treadle.errors import Location, Problem, StepError
from treadle_runtime.diagnosis import csv_reason, shorten
from treadle_runtime.engine import Connection
from treadle_runtime.state import SourcePart
from treadle_runtime.textfile import open_file, read_head

_BLOCK = 1 << 20
_FETCHED = 10_000
# Of several errors in a row, the one about its form explains the others.
_ROWS = """
    select distinct on (line_byte_position)
        line_byte_position, csv_line, column_name, error_type::varchar, error_message
    from reject_errors join reject_scans using (scan_id, file_id) where file_path = $1
    order by line_byte_position, error_type = 'CAST', column_idx
"""


def clear(con: Connection) -> None:
    """Forget the rows that earlier scans left out."""
    con.execute("drop table if exists reject_errors; drop table if exists reject_scans")


def read_rows(con: Connection, part: SourcePart, file: Path, source: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that were left out, in order: line, column (None: the whole row), error, text.

    Lines count as in an editor; DuckDB's own numbers are those of rows.

    Args:
        con: does nothing else meanwhile.
        source: the source's name.

    Raises:
        StepError: TR713 a quote is not closed within its line: what follows was taken for part of the row.
    """
    try:
        con.execute(_ROWS, [str(file)])
    except duckdb.CatalogException:  # nothing was left out
        return
    newline = b"\n" if "\n" in read_head(file) else b"\r"
    with open_file(file) as stream:
        number, at = 1, 0
        while fetched := con.fetchmany(_FETCHED):
            for position, raw, column, kind, message in fetched:
                text = raw.lstrip("\r\n")
                offset = position - 1 + len(raw) - len(text)
                while at < offset and (block := stream.read(min(_BLOCK, offset - at))):
                    number, at = number + block.count(newline), at + len(block)
                text = text.rstrip("\r\n")
                error = "the line is not UTF-8 text" if kind == "INVALID ENCODING" else csv_reason(f"{message}\n")[0]
                row = {"line": number, "column": column, "error": error.removeprefix(f'column "{column}": ')}
                if kind == "UNQUOTED VALUE" and ("\n" in text or "\r" in text):
                    why = "where its row ends cannot be told, so that bad_rows: quarantine cannot leave it out"
                    raise unreadable(source, part, {**row, "text": text.splitlines()[0]}, why)
                yield {**row, "text": text}


def unreadable(source: str, part: SourcePart, row: Mapping[str, Any], why: str) -> StepError:
    """Return the error of a file that holds a bad row, and of which no rows are left out for the reason given."""
    where = Location(part.path, row["line"], text=shorten(row["text"]))
    named = f'column "{row["column"]}": ' if row["error"].startswith('"') else ""
    fix = "correct the file, or `csv` and the types of `columns` in the source"
    return StepError(
        Problem("TR713", f'source "{source}" cannot be read', where, f"{named}{row['error']}\n{why}", fix=fix)
    )
