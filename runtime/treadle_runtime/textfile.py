"""CSV and JSON lines: what is known of a file before DuckDB reads it, and how it is told to read."""

from __future__ import annotations

import csv
import io
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from treadle_runtime.types import quote_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_DELIMITERS = (",", "\t", ";", "|")
_HEAD_BYTES = 65_536
_STRICT = "skip=0, comment='', strict_mode=true, null_padding=false, hive_partitioning=false"
LONGEST_ROW = 2_000_000
"""Bytes of a row that DuckDB reads by default."""
_ALL_ROWS = -1
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_JSON = "format='newline_delimited', records=true, hive_partitioning=false, maximum_object_size=67108864"
_DETECT = "sample_size=-1, maximum_depth=-1, map_inference_threshold=-1, union_by_name=true"


@dataclass(frozen=True)
class Dialect:
    """How fields are told apart; a quote within quotes is doubled. An empty quote: nothing is quoted."""

    delimiter: str
    quote: str

    def to_sql(self) -> str:
        """Return the dialect as arguments of `read_csv`; nothing of it is left to detection."""
        quote = quote_text(self.quote)
        return f"delim={quote_text(self.delimiter)}, quote={quote}, escape={quote}, {_STRICT}"

    def to_copy(self) -> str:
        """Return the dialect as options of COPY, which write what is read so."""
        quote = quote_text(self.quote)
        return f"delimiter {quote_text(self.delimiter)}, quote {quote}, escape {quote}"


def read_dialect(options: Mapping[str, Any], file: Path) -> Dialect:
    """Return a file's dialect: as given, else the delimiter that stands most often in its first line.

    Args:
        options: the source's `csv`.
    """
    quote = '"' if options.get("quote") is None else options["quote"]
    delimiter = options.get("delimiter")
    if not delimiter:
        line = read_head(file).split("\n", 1)[0]
        bare = "".join(line.split(quote)[::2]) if quote else line
        delimiter = max(_DELIMITERS, key=bare.count)
    return Dialect(delimiter, quote)


def csv_sql(
    files: Sequence[str],
    dialect: Dialect,
    options: Mapping[str, Any],
    *,
    columns: Mapping[str, str] | None = None,
    sample_size: int = _ALL_ROWS,
) -> str:
    """Return the SELECT that reads CSV files, which all have the same columns.

    Args:
        files: patterns, as DuckDB reads them.
        options: the source's `csv`; what is absent is detected.
        columns: name -> type, of those that are not to be detected.
        sample_size: how many rows the other types are detected from.
    """
    arguments = _csv_arguments(dialect, options, columns or {}, sample_size)
    return f"select * from read_csv([{', '.join(map(quote_text, files))}], files_to_sniff=-1, {arguments})"


def plain_csv_sql(file: str, dialect: Dialect, options: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Return the SELECT that reads one CSV file and detects nothing, which takes a fifth of the time on a small one.

    Args:
        file: a pattern.
        options: the source's `csv`, with `header`; dates are in ISO's form unless it says otherwise. With `quarantine`,
            rows that do not parse are left out; see `treadle_runtime.bad_rows`.
        columns: name -> type of all, in the order of the file.
    """
    types = ", ".join(f"{quote_text(name)}: {quote_text(kind)}" for name, kind in columns.items())
    arguments = [dialect.to_sql(), *_form_arguments(options), f"auto_detect=false, columns={{{types}}}"]
    return f"select * from read_csv([{quote_text(file)}], {', '.join(arguments)})"


def sniff_sql(
    file: str, dialect: Dialect, options: Mapping[str, Any], *, columns: Mapping[str, str] | None = None
) -> str:
    """Return a query of one row: has a CSV file a header, how does it write dates, how timestamps (NULL: as ISO does).

    Args:
        file: a path, which is no pattern here.
        options, columns: as in `csv_sql`.
    """
    arguments = _csv_arguments(dialect, options, columns or {}, _ALL_ROWS)
    return f"select HasHeader, DateFormat, TimestampFormat from sniff_csv({quote_text(file)}, {arguments})"


def _csv_arguments(dialect: Dialect, options: Mapping[str, Any], columns: Mapping[str, str], sample_size: int) -> str:
    arguments = [dialect.to_sql(), f"sample_size={sample_size}", *_form_arguments(options)]
    if columns:
        types = ", ".join(f"{quote_text(name)}: {quote_text(kind)}" for name, kind in columns.items())
        arguments.append(f"types={{{types}}}")
    return ", ".join(arguments)


def _form_arguments(options: Mapping[str, Any]) -> list[str]:
    arguments = ["store_rejects=true" if options.get("quarantine") else "ignore_errors=false"]
    if options.get("header") is not None:
        arguments.append(f"header={str(options['header']).lower()}")
    null = options.get("null")
    if null is not None:
        texts = ["", *([null] if isinstance(null, str) else null)]
        arguments.append(f"nullstr=[{', '.join(map(quote_text, dict.fromkeys(texts)))}]")
    for key, name in (("date_format", "dateformat"), ("timestamp_format", "timestampformat")):
        if options.get(key):
            arguments.append(f"{name}={quote_text(options[key])}")
    return arguments


def json_sql(files: Sequence[str], columns: Mapping[str, str] | None = None) -> str:
    """Return the SELECT that reads files of one JSON object a line; a key that is absent from a line is NULL.

    Args:
        files: patterns, as DuckDB reads them.
        columns: key -> type; None detects them from all lines.
    """
    types = ", ".join(f"{quote_text(name)}: {quote_text(kind)}" for name, kind in (columns or {}).items())
    form = _DETECT if columns is None else f"auto_detect=false, columns={{{types}}}"
    return f"select * from read_json([{', '.join(map(quote_text, files))}], {_JSON}, {form})"


def text_sql(file: str, dialect: Dialect, n_columns: int) -> str:
    """Return a query that reads each field of a file as text, so that only its form can be wrong."""
    return f"select count(columns(*)) from {_as_text(file, dialect, n_columns)}"


def long_lines_sql(file: str, dialect: Dialect, n_columns: int) -> str:
    """Return a query after which `reject_errors` tells of rows that are too long, which `copy_sql` passes over.

    Of the two readers of DuckDB one does not tell of these, the other not of quotes that are not closed.
    """
    return f"select count(columns(*)) from {_as_text(file, dialect, n_columns, ', store_rejects=true, parallel=false')}"


def copy_sql(file: str, dialect: Dialect, n_columns: int) -> str:
    """Return the SELECT of each field of a file as text, of the rows whose form is right; see `bad_rows`."""
    return f"select * from {_as_text(file, dialect, n_columns, ', store_rejects=true')}"


def _as_text(file: str, dialect: Dialect, n_columns: int, more: str = "") -> str:
    columns = ", ".join(f"c{i}: 'VARCHAR'" for i in range(n_columns))
    form = f"{dialect.to_sql()}, header=false, auto_detect=false, columns={{{columns}}}{more}"
    return f"read_csv([{quote_text(file)}], {form})"


def read_head(file: Path) -> str:
    """Return the first 64 KiB of a file as text; nothing when it is not compressed as its ending says."""
    try:
        with open_file(file) as stream:
            return str(stream.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace"))
    except OSError:
        return ""


def read_first_row(file: Path, dialect: Dialect) -> list[str]:
    """Return the fields of a file's first row; none when the file is empty."""
    text = io.StringIO(read_head(file), newline="")
    if not dialect.quote:
        return next(csv.reader(text, delimiter=dialect.delimiter, quoting=csv.QUOTE_NONE), [])
    return next(csv.reader(text, delimiter=dialect.delimiter, quotechar=dialect.quote), [])


def is_last_line_too_long(file: Path) -> bool:
    """Return whether a file ends in a line that DuckDB passes over without a word, where it detects nothing."""
    if file.stat().st_size < LONGEST_ROW and not is_compressed(file):
        return False
    tail = b""
    with open_file(file) as stream:
        if not is_compressed(file):
            stream.seek(-min(2 * LONGEST_ROW, file.stat().st_size), os.SEEK_END)
        while block := stream.read(LONGEST_ROW):
            tail = tail[-LONGEST_ROW:] + block
    tail = tail.rstrip(b"\r\n")
    return len(tail) - 1 - max(tail.rfind(b"\n"), tail.rfind(b"\r")) >= LONGEST_ROW


def is_compressed(file: Path) -> bool:
    """Return whether a file's ending says that it is compressed."""
    return file.suffix in _CODECS


@contextmanager
def open_file(file: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, and decompress it when its ending says so."""
    with open(file, "rb") as plain:
        if not is_compressed(file):
            yield plain
        else:
            import pyarrow as pa  # only files that are compressed need it

            yield io.BufferedReader(pa.CompressedInputStream(plain, _CODECS[file.suffix]))
