"""Why a source's file cannot be read: DuckDB's complaint, in terms of the file, its line and the value."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import duckdb

from treadle.errors import Location, Problem
from treadle_runtime.engine import Connection
from treadle_runtime.textfile import json_sql, open_file, read_dialect, read_first_row, text_sql
from treadle_runtime.viewsql import escape_glob

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from treadle_runtime.sources import Observed

_LINE = re.compile(r"CSV Error on Line: (\d+)\nOriginal Line: ?(.*)")
_CAST = re.compile(r"""converting column "(.*)"\. Could not convert string "(.*)" to '(.*?)'\n""", re.DOTALL)
_COUNT = re.compile(r"Expected Number of Columns: (\d+) Found: (\d+)")
_LENGTH = re.compile(r"Maximum line size of (\d+) bytes exceeded")
_HOLDER = re.compile(r"Conflicting lock is held in (\S+) \(PID (\d+)\)")
_PREFIX = re.compile(r"^[A-Z][A-Za-z ]* Error: ")
_MAX_TEXT = 80
TOO_LONG = "the row is longer than"
_OPEN_QUOTE = "a quote is not closed"


def explain(con: Connection, message: str, config: Mapping[str, Any], observed: Observed, root: Path) -> Problem:
    """Return what is wrong with a source's file.

    Args:
        con: may read the files; they are read again where the message does not tell the place.
        message: what DuckDB said.
    """
    if config["format"] == "csv":
        return _explain_csv(con, message, config, observed, root)
    if config["format"] == "json":
        return _explain_json(con, message, config, observed, root)
    if holder := _HOLDER.search(message):
        what = f'the database of source "{observed.name}" is held open by another program'
        why = f"{observed.parts[0].path}: {holder[1].rsplit('/', 1)[-1]}, process {holder[2]}"
        fix = "close it there, or export the table to Parquet and read that"
        return Problem("TR713", what, why=why, fix=fix)
    return _general(message, observed, root)


def _explain_csv(con: Connection, message: str, config: Mapping[str, Any], observed: Observed, root: Path) -> Problem:
    for part, file in zip(observed.parts, observed.files(root), strict=True):
        if bad := _find_bad_text(file):
            fix = f"save it as UTF-8, as in: iconv -f latin1 -t utf-8 {part.path}"
            return _unreadable(observed, Location(part.path, bad), "the line is not UTF-8 text", fix)
    if not _LINE.search(message):
        message = _parse_again(con, config, observed, root) or message
    if line := _LINE.search(message):
        where = _place(message, observed, root, int(line[1]), line[2])
        return _unreadable(observed, where, *_advised(*csv_reason(message), config, int(line[1])))
    if "invalid state" in message:
        where = _place(message, observed, root)
        why = "a quote stands where none belongs, or lines end in two ways (\\r\\n and \\n)"
        return _unreadable(observed, where, why, "write the file anew, with one kind of line ending")
    return _general(message, observed, root)


def _advised(why: str, fix: str, config: Mapping[str, Any], line: int) -> tuple[str, str]:
    """Add to the reason and the way on of a bad row what `bad_rows: quarantine` can do, or why it could not."""
    is_quarantined = config.get("bad_rows") == "quarantine"
    if why == _OPEN_QUOTE:
        more = "\nwhere its row ends cannot be told, so that bad_rows: quarantine cannot leave it out"
        return (why + more if is_quarantined else why), fix
    return why, (fix if is_quarantined or line <= 1 else f"{fix}; or leave such rows out with bad_rows: quarantine")


def csv_reason(message: str) -> tuple[str, str]:
    """Return why a line of a CSV cannot be read, and what to do.

    Args:
        message: what DuckDB said.
    """
    if cast := _CAST.search(message):
        value = shorten(cast[2])
        null = json.dumps([value], ensure_ascii=False)
        fix = f"correct the value, declare another type, or take it as NULL: csv: {{null: {null}}}"
        return f'column "{cast[1]}": "{value}" is no {cast[3]}', fix
    if count := _COUNT.search(message):
        why = f"{count[2]} fields, where the first line has {count[1]}"
        return why, "correct the line; a value that holds the delimiter needs quotes"
    if length := _LENGTH.search(message):
        return f"{TOO_LONG} {int(length[1]):,} bytes", "correct the file, or give it as Parquet"
    if "unterminated quote" in message:
        return _OPEN_QUOTE, "close it, or say that nothing is quoted with `csv: {quote: ''}`"
    reason = message.split("\nPossible")[0].strip().splitlines()[-1]
    return reason, "correct the line"


def _parse_again(con: Connection, config: Mapping[str, Any], observed: Observed, root: Path) -> str:
    """Return the complaint about the first row whose form is not that of its file's first; "" if none."""
    for file in observed.files(root):
        dialect = read_dialect(config.get("csv") or {}, file)
        n_columns = len(read_first_row(file, dialect))
        if not n_columns:
            continue
        try:
            con.execute(text_sql(escape_glob(str(file)), dialect, n_columns)).fetchall()
        except duckdb.Error as error:
            return str(error)
    return ""


def _explain_json(con: Connection, message: str, config: Mapping[str, Any], observed: Observed, root: Path) -> Problem:
    for part, file in zip(observed.parts, observed.files(root), strict=True):
        with suppress(OSError), open_file(file) as stream:
            for number, line in enumerate(stream, start=1):
                if why := _json_problem(line):
                    where = Location(part.path, number, text=shorten(line.decode(errors="replace").strip()))
                    return _unreadable(observed, where, why, "write one JSON object on each line, as UTF-8")
    files = [escape_glob(str(file)) for file in observed.files(root)]
    for column, kind in (config.get("columns") or {}).items():
        try:
            con.execute(f"select count(columns(*)) from ({json_sql(files, {column: kind})})").fetchall()
        except duckdb.Error as error:
            detail = _PREFIX.sub("", str(error)).splitlines()[0]
            why = f'column "{column}" is declared as {kind}: {detail.rsplit(": ", 1)[-1]}'
            fix = "correct the value, or declare another type"
            return _unreadable(observed, _place(str(error), observed, root), why, fix)
    return _general(message, observed, root)


def _json_problem(line: bytes) -> str:
    if not line.strip():
        return ""
    try:
        value = json.loads(line)
    except UnicodeDecodeError:
        return "the line is not UTF-8 text"
    except json.JSONDecodeError as error:
        return f"{error.msg[0].lower()}{error.msg[1:]}, at character {error.pos + 1}"
    return "" if isinstance(value, dict) else f"the line holds a {_JSON_NAMES.get(type(value), 'value')}, not an object"


_JSON_NAMES = {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}


def _find_bad_text(file: Path) -> int:
    """Return the number of the first line that is not UTF-8; 0 when all are."""
    with suppress(OSError), open_file(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def _place(message: str, observed: Observed, root: Path, line: int = 0, text: str = "") -> Location | None:
    """Return the place in the file that a message names, as people write its path."""
    both = zip(observed.files(root), observed.parts, strict=True)
    named = [(len(str(file)), part.path) for file, part in both if str(file) in message]
    path = observed.parts[0].path if len(observed.parts) == 1 else max(named, default=(0, ""))[1]
    return Location(path, line, text=shorten(text)) if path else None


def _general(message: str, observed: Observed, root: Path) -> Problem:
    why = _PREFIX.sub("", message).splitlines()[0].replace(f"{root.resolve()}/", "")
    fix = "check that the file is whole, and that `format` is what it is"
    return _unreadable(observed, _place(message, observed, root), why, fix)


def _unreadable(observed: Observed, where: Location | None, why: str, fix: str) -> Problem:
    return Problem("TR713", f'source "{observed.name}" cannot be read', where, why, fix=fix)


def shorten(text: str) -> str:
    """Return a line of a file as far as an error shows it."""
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
