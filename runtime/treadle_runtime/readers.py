"""How DuckDB reads the files of a source.

    load: check what is declared -> a SELECT
    reading: run it -> errors in our words -> were the files left alone?

Nothing is guessed from a sample and nothing is skipped: types come from all rows, and a row that does not
parse stops the read (`quarantine` reads again where a source leaves such rows out). A CSV's delimiter is taken from
its first line, so that a crooked row cannot change it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb

from treadle.errors import Problem, StepError
from treadle.names import close_match
from treadle_runtime.diagnosis import explain
from treadle_runtime.engine import Connection, describe
from treadle_runtime.sources import Observed, check_unchanged
from treadle_runtime.textfile import csv_sql, json_sql, read_dialect
from treadle_runtime.types import parse_type, quote_name, quote_text
from treadle_runtime.viewsql import escape_glob, read_sql, select_cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_HEAD_ROWS = 2_048
_MAX_EMPTY = 3


@contextmanager
def reading(con: Connection, config: Mapping[str, Any], observed: Observed, root: Path) -> Iterator[None]:
    """Run `load` and what reads its SELECT within this: what goes wrong is told in terms of the files.

    Raises:
        StepError: TR711 a file changed while it was read; TR713 a file cannot be read.
    """
    try:
        yield
    except (duckdb.Error, StepError) as error:
        reason = _engine_error(error)
        if reason is None:
            raise
        check_unchanged(observed, root)
        raise StepError(explain(con, str(reason), config, observed, root)) from reason
    check_unchanged(observed, root)


def _engine_error(error: duckdb.Error | StepError) -> duckdb.Error | None:
    """Return the engine's complaint about a file, bare or as `write_query` hands it on."""
    if isinstance(error, StepError):
        is_query = error.problems[0].code == "TR702"
        return error.__cause__ if is_query and isinstance(error.__cause__, duckdb.Error) else None
    return None if isinstance(error, duckdb.OutOfMemoryException) else error


def load(con: Connection, config: Mapping[str, Any], observed: Observed, root: Path) -> str:
    """Check a source against its declaration and return the SELECT that reads it.

    Args:
        con: of one thread, so that rows come in the order of the files; a database file is attached to it.

    Raises:
        StepError: TR706 a declared column is missing; TR712 a declared type is none; TR713 nothing to read,
            or files with different columns.
        duckdb.Error: a file cannot be read; `reading` says why.
    """
    declared: Mapping[str, str] = config.get("columns") or {}
    _check_types(con, observed.name, declared)
    if config["format"] == "duckdb":
        return select_cast(_attach(con, config, observed, root), declared)
    if config["format"] == "json":
        return _json_sql(con, observed, root, declared)
    files = _files(observed, root)
    if not files:
        raise StepError(_no_data(observed, "give it at least a header line"))
    columns = columns_of_each(con, config, observed, root)
    _check_same(observed.name, columns)
    _check_declared(observed.name, declared, next(iter(columns.values())))
    if config["format"] == "parquet":
        return read_sql(config, observed, root)
    options = config.get("csv") or {}
    dialect = read_dialect(options, files[0][1])
    return csv_sql([escape_glob(str(file)) for _, file in files], dialect, options, columns=declared)


def check_same_columns(
    con: Connection, config: Mapping[str, Any], observed: Observed, root: Path, known: Mapping[str, Sequence[str]]
) -> None:
    """Make sure that files have the same columns as those whose columns are known.

    Raises:
        StepError: TR713.
    """
    _check_same(observed.name, {**known, **columns_of_each(con, config, observed, root)})


def tell_empty(observed: Observed, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a build tells of files of a CSV source that lack even the header which the others have.

    Such a file has no rows, as a marker or an export without any leaves it, so it fails nothing; but it may be an
    upload that was cut. An empty file of JSON lines, or where there is no header, is what it should be.
    """
    has_header = (config.get("csv") or {}).get("header") is not False
    empty = [part.path for part in observed.parts if not part.size]
    if config["format"] != "csv" or not has_header or not empty:
        return ()
    verb = "is" if len(empty) == 1 else "are"
    more = f" and {len(empty) - _MAX_EMPTY:,} more" if len(empty) > _MAX_EMPTY else ""
    which = f"{', '.join(empty[:_MAX_EMPTY])}{more}"
    return (f"{len(empty):,} of {len(observed.parts):,} files {verb} empty, without a header line: {which}",)


def _files(observed: Observed, root: Path) -> list[tuple[str, Path]]:
    """Return (path as people write it, absolute path) of the files that hold anything."""
    both = zip(observed.parts, observed.files(root), strict=True)
    return [(part.path, file) for part, file in both if part.size]


def _check_types(con: Connection, name: str, declared: Mapping[str, str]) -> None:
    problems = []
    for column, kind in declared.items():
        try:
            con.sqltype(kind)
        except duckdb.Error:
            what = f'column "{column}" of source "{name}" is declared as {kind}, which is no type'
            fix = "write a DuckDB type, such as INTEGER, DOUBLE, VARCHAR, DATE, TIMESTAMP or DECIMAL(10, 2)"
            problems.append(Problem("TR712", what, fix=fix))
    if problems:
        raise StepError(problems)


def columns_of_each(con: Connection, config: Mapping[str, Any], observed: Observed, root: Path) -> dict[str, list[str]]:
    """Return path -> the names of its columns, for each file of CSV or Parquet that holds anything."""
    files = _files(observed, root)
    if config["format"] == "csv":
        options = config.get("csv") or {}
        dialect = read_dialect(options, files[0][1])
        queries = [csv_sql([escape_glob(str(file))], dialect, options, sample_size=_HEAD_ROWS) for _, file in files]
    else:
        form = "select * from read_parquet([{}], hive_partitioning=false)"
        queries = [form.format(quote_text(escape_glob(str(file)))) for _, file in files]
    names = [[name for name, _ in describe(con, sql)] for sql in queries]
    return {path: found for (path, _), found in zip(files, names, strict=True)}


def _check_same(name: str, columns: Mapping[str, Sequence[str]]) -> None:
    first, expected = next(iter(columns.items()))
    for path, found in columns.items():
        lacking, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
        if lacking or extra:
            parts = [f"lacks {_quoted(lacking)}"] if lacking else []
            parts += [f"has {_quoted(extra)} besides"] if extra else []
            why = f"{path} {' and '.join(parts)}, compared with {first}"
            fix = "give all its files the same columns, or make two sources of them"
            raise StepError(Problem("TR713", f'the files of source "{name}" differ in their columns', why=why, fix=fix))


def _check_declared(name: str, declared: Iterable[str], columns: Sequence[str]) -> None:
    problems = []
    for column in declared:
        if column not in columns:
            what = f'source "{name}" has no column "{column}", whose type is declared'
            shown = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
            problems.append(
                Problem("TR706", what, why=f"its columns: {shown}", suggestion=close_match(column, columns) or "")
            )
    if problems:
        raise StepError(problems)


def _json_sql(con: Connection, observed: Observed, root: Path, declared: Mapping[str, str]) -> str:
    """Return the SELECT over JSON lines. A declared key may be missing in all lines: it is NULL then."""
    files = _files(observed, root)
    if not files and not declared:
        raise StepError(_no_data(observed, "declare its columns, and it may be empty"))
    if not files:
        nulls = ", ".join(f"cast(NULL as {parse_type(kind)}) as {quote_name(name)}" for name, kind in declared.items())
        return f"select {nulls} where false"
    patterns = [escape_glob(str(file)) for _, file in files]
    if not declared:
        return json_sql(patterns)
    return json_sql(patterns, {**dict(describe(con, json_sql(patterns))), **declared})


def _attach(con: Connection, config: Mapping[str, Any], observed: Observed, root: Path) -> str:
    """Attach a database file and return the full name of the source's table."""
    alias = f"source_{observed.name}"
    path = quote_text(str(observed.files(root)[0]))
    con.execute(f"attach if not exists {path} as {quote_name(alias)} (read_only)")
    query = """
        select schema_name, table_name from duckdb_tables() where database_name = $1 and not internal
        union all select schema_name, view_name from duckdb_views() where database_name = $1 and not internal
    """
    rows = sorted(con.execute(query, [alias]).fetchall())
    tables = {name if schema == "main" else f"{schema}.{name}": (schema, name) for schema, name in rows}
    wanted = config.get("table") or (next(iter(tables)) if len(tables) == 1 else "")
    if wanted not in tables:
        has = f'has no table "{wanted}"' if wanted else "does not say which table it reads"
        what = f'source "{observed.name}" {has}'
        why = f"{observed.parts[0].path} holds {', '.join(tables) or 'no tables'}"
        fix = "name one of them as `table`" if tables else "name another file as `path`"
        raise StepError(Problem("TR713", what, why=why, suggestion=close_match(wanted, tables) or "", fix=fix))
    return ".".join(quote_name(part) for part in (alias, *tables[wanted]))


def _no_data(observed: Observed, fix: str) -> Problem:
    why = ", ".join(part.path for part in observed.parts[:5]) + ": 0 bytes"
    return Problem("TR713", f'source "{observed.name}" holds no data', why=why, fix=fix)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
