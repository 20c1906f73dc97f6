"""DuckDB for steps: a connection of its own, inputs as views, a query's result as a Parquet part.

Flow: `connect` -> `create_view` for each input -> `lock_down` -> `write_query` (or `write_arrow`).

One thread is the default because more of them change the last bits of float sums and the order of rows from
run to run. Equal inputs give byte-equal files, unless the engine spilled, which `Written.spilled` tells.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import duckdb

from treadle.errors import Location, Problem, StepError, StoreError, TransientError
from treadle_runtime.disk import disk_full
from treadle_runtime.diskfull import is_disk_full, why_full
from treadle_runtime.types import StoredColumn, quote_name, quote_text, stored_columns
from treadle_runtime.version import Column, Version
from treadle_runtime.viewsql import escape_glob, view_sql

if TYPE_CHECKING:
    import pyarrow as pa

PART = "part-0.parquet"
GROUP_ROWS = 122_880  # larger groups gain nothing
Connection: TypeAlias = duckdb.DuckDBPyConnection

# Measured on 3M rows x 6 with one thread: lz4_raw writes 1.3 times as fast as snappy and 1.7 times as fast as
# zstd, reads 1.4 and 1.8 times as fast, and takes 1.05 and 1.2 times the space.
_PARQUET = f"format parquet, compression lz4_raw, row_group_size {GROUP_ROWS}"
_LINE = re.compile(r"^LINE (\d+): (.*)$", re.MULTILINE)
_NUMBERED = re.compile(r"(.+)_[0-9]+", re.DOTALL)
_MAX_PAIRS = 3
_MEANT = re.compile(r'Did you mean "([^"]+)"')


class Written(NamedTuple):
    """What a query wrote.

    Attributes:
        columns: of the result, with the types that readers will see.
        rows: how many were written.
        spilled: whether memory did not suffice and the engine used its temporary folder: rows whose order
            `order_by` left open may come in another order next time.
    """

    columns: tuple[Column, ...]
    rows: int
    spilled: bool


def connect(*, temp_directory: Path, threads: int = 1, memory_limit: str | None = None) -> Connection:
    """Open an in-memory database that depends on nothing outside.

    Times with a zone are in UTC whatever the machine says; extensions are never fetched; Python variables are
    not tables. Takes about 15 ms: `session` keeps connections for many steps.

    Args:
        temp_directory: an existing folder. The engine spills into one of its own below it: two databases in
            one folder would overwrite each other's files.
        threads: more than one makes float sums and the order of rows differ from run to run.
        memory_limit: such as `2GB`; None for DuckDB's default, 80 % of the machine's.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": threads,
        "temp_directory": str(temp_directory / f"spill-{uuid.uuid4().hex}"),
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_persistent_secrets": False,
    }
    if memory_limit is not None:
        settings["memory_limit"] = memory_limit
    con = duckdb.connect(":memory:", config=settings)
    con.execute(
        "set TimeZone='UTC'; set enable_progress_bar=false; set python_enable_replacements=false;"
        "set enable_profiling='no_output'; set profiling_coverage='ALL';"
        "set tracked_metrics=['system.peak_temp_dir_size']"
    )
    return con


def create_view(con: Connection, name: str, version: Version) -> None:
    """Make a version readable by a name, with the types that its writer saw.

    Args:
        con: not locked against the version's folder.
        name: any name; it is quoted.
        version: of Parquet parts, or of one Arrow file, which is mapped and not copied.

    Raises:
        ValueError: the version holds no table.
    """
    if sql := view_sql(version, quote_text(str(version.folder))):
        con.execute(f"create or replace view {quote_name(name)} as {sql}")
        return
    from treadle_runtime.arrowfile import map_arrow_file  # with Arrow, which queries over Parquet do without

    files = [part.name for part in version.parts if part.name.endswith(".arrow")]
    if len(files) != 1:
        raise ValueError(f"version {version.fingerprint} of a {version.kind} holds no table")
    con.register(name, map_arrow_file(version.folder / files[0]))


def lock_down(con: Connection, allowed: Sequence[Path]) -> None:
    """Let queries read and write nothing but `allowed`, and change no setting.

    Args:
        con: stays locked until it is closed.
        allowed: files, and folders with all that is in them; the temporary folder is always allowed.
    """
    temp = con.execute("select current_setting('temp_directory')").fetchall()[0][0]
    folders = [str(temp)] + [str(path) for path in allowed if path.is_dir()]
    files = [str(path) for path in allowed if not path.is_dir()]
    for setting, paths in (("allowed_directories", folders), ("allowed_paths", files)):
        both = {form for path in paths for form in (path, escape_glob(path))}
        con.execute(f"set {setting} = [{', '.join(map(quote_text, sorted(both)))}]")
    con.execute("set enable_external_access = false")
    con.execute("set lock_configuration = true")


def write_query(
    con: Connection,
    sql: str,
    folder: Path,
    *,
    order_by: Sequence[str] = (),
    is_sorted: bool = False,
    what: str = "the query",
    where: Location | None = None,
) -> Written:
    """Run a query and write its result as `part-0.parquet`; nothing passes through Python.

    Args:
        con: with a view for each table that the query names.
        sql: one SELECT.
        folder: the draft's.
        order_by: columns by which rows are sorted first, then by all others, NULL last; empty keeps the
            engine's order.
        is_sorted: whether the rows are known to stand in that order already.
        what: the step, for errors: `feature "carrier_history"`.
        where: the step's place in the project.

    Raises:
        StepError: TR702 the query failed, TR703 a column or a value cannot be stored, TR706 a column of
            `order_by` is missing, TR715 two columns have one name.
        StoreError: TR803 the disk is full.
    """
    query = sql.strip().rstrip(";")
    columns: tuple[StoredColumn, ...] = ()
    try:
        described = describe(con, query)
        check_names(con, query, (name for name, _ in described), what=what, where=where)
        columns = stored_columns(described, what=what, where=where)
        order = _total_order(columns, order_by, what, where)
        select = _select(columns, query, () if is_sorted else order)
        target = quote_text(str(folder / PART))
        rows = con.execute(f"copy ({select}) to {target} ({_PARQUET})").fetchall()[0][0]
        return Written(tuple(Column(c.name, c.type) for c in columns), int(rows), has_spilled(con))
    except duckdb.ConversionException as error:
        raise _value_error(con, columns, query, what, where) or sql_error(error, what, where) from error
    except duckdb.Error as error:
        raise _engine_error(error, folder, what, where) from error


def write_arrow(
    con: Connection,
    table: pa.Table | pa.RecordBatchReader,
    folder: Path,
    order_by: Sequence[str] = (),
    *,
    is_sorted: bool = False,
    what: str = "the table",
    where: Location | None = None,
) -> Written:
    """Write an Arrow table as `part-0.parquet`, as `write_query` does; a reader is streamed and consumed.

    Raises:
        StepError: TR703 a column's type cannot be stored, and what `write_query` raises.
        StoreError: TR803 the disk is full.
    """
    name = f"arrow-{uuid.uuid4().hex}"
    try:
        con.register(name, table)
    except duckdb.Error as error:
        raise StepError(_unknown_arrow(table.schema, error, what, where)) from error
    try:
        sql = f"select * from {quote_name(name)}"
        return write_query(con, sql, folder, order_by=order_by, is_sorted=is_sorted, what=what, where=where)
    finally:
        con.unregister(name)


def describe(con: Connection, sql: str) -> list[tuple[str, str]]:
    """Return (name, DuckDB type) of a query's columns; a repeated name gets a number, as in a table."""
    # `con.sql` asks the same in no less time, and other threads wait for it.
    rows = con.execute(f"describe select * from (\n{sql}\n)").fetchall()
    return [(row[0], row[1]) for row in rows]


def check_names(
    con: Connection, sql: str, names: Iterable[str], *, what: str = "the query", where: Location | None = None
) -> None:
    """Refuse a query of which two columns have one name, whatever its case: the table would hold the second as `x_1`.

    Args:
        sql: one SELECT.
        names: of its columns, as `describe` gives them.

    Raises:
        StepError: TR715.
    """
    names = list(names)
    known = {name.casefold() for name in names}
    if not any((found := _NUMBERED.fullmatch(name)) and found[1].casefold() in known for name in names):
        return
    said = [str(row[0]) for row in con.execute(f"describe {sql}").fetchall()]
    first: dict[str, int] = {}
    twice = [(first[name.casefold()], n) for n, name in enumerate(said) if first.setdefault(name.casefold(), n) != n]
    if twice:
        pairs = [f'columns {i + 1} and {n + 1} are both called "{said[n]}"' for i, n in twice]
        more = f" and {len(pairs) - _MAX_PAIRS} more" if len(pairs) > _MAX_PAIRS else ""
        fix = "name one of them otherwise with `as`; of a join, name the columns, or leave some out: * exclude (...)"
        problem = Problem("TR715", f"{what} has two columns of one name", where, "; ".join(pairs[:_MAX_PAIRS]) + more)
        raise StepError(replace(problem, fix=fix))


def _select(columns: Sequence[StoredColumn], query: str, order: Sequence[str]) -> str:
    written = ", ".join(column.write for column in columns)
    select = f"select {written} from (\n{query}\n)"
    if not order:
        return select
    keys = ", ".join(f"{quote_name(name)} asc nulls last" for name in order)
    return f"select * from ({select}) order by {keys}"


def _total_order(
    columns: Sequence[StoredColumn], order_by: Sequence[str], what: str, where: Location | None
) -> list[str]:
    if not order_by:
        return []
    names = {column.name.lower(): column.name for column in columns}
    missing = [name for name in order_by if name.lower() not in names]
    if missing:
        found = ", ".join(names.values())
        raise StepError(
            Problem(
                "TR706",
                f'column "{name}" is missing in {what}',
                where,
                why=f"its columns are: {found}",
                fix="select that column, or correct its name in the configuration",
            )
            for name in missing
        )
    leading = list(dict.fromkeys(names[name.lower()] for name in order_by))
    return leading + [name for name in names.values() if name not in leading]


def has_spilled(con: Connection) -> bool:
    """Return whether the last query used the temporary folder."""
    metrics = json.loads(con.get_profiling_information())
    return int(metrics["system"]["peak_temp_dir_size"]) > 0


# errors


def _value_error(
    con: Connection, columns: Sequence[StoredColumn], query: str, what: str, where: Location | None
) -> StepError | None:
    """Return the error of a column with a value that its stored form cannot hold; runs the query again."""
    for column in columns:
        if not column.is_narrower:
            continue
        name = quote_name(column.name)
        try:
            con.execute(f"select max(hash(cast({name} as {column.stored}))) from (\n{query}\n)").fetchall()
        except duckdb.Error as error:
            if not _runs(con, f"select max(hash({name})) from (\n{query}\n)"):
                return None  # the query itself fails, not the cast
            why = f"its type is {column.type}, stored as {column.stored}\n{_explain(error)[0]}"
            fix = f"select cast({name} as VARCHAR) as {name}, or as DOUBLE if rounding does no harm"
            problem = f'a value of column "{column.name}" of {what} cannot be stored'
            return StepError(Problem("TR703", problem, where, why, fix=fix))
    return None


def _runs(con: Connection, sql: str) -> bool:
    try:
        con.execute(sql).fetchall()
    except duckdb.Error:
        return False
    return True


def _engine_error(error: duckdb.Error, folder: Path, what: str, where: Location | None) -> StepError | StoreError:
    if is_disk_full(error):
        return StoreError(disk_full(folder, why_full(error)))
    return sql_error(error, what, where)


def sql_error(error: duckdb.Error, what: str, where: Location | None) -> StepError:
    why, suggestion = _explain(error)
    fix = ""
    if isinstance(error, duckdb.OutOfMemoryException):
        fix = "let fewer steps run at once, or give the engine more memory or disk"
    kind = TransientError if isinstance(error, (duckdb.OutOfMemoryException, duckdb.IOException)) else StepError
    return kind(Problem("TR702", f"SQL failed in {what}", where, why, suggestion, fix))


def _explain(error: duckdb.Error) -> tuple[str, str]:
    """Return DuckDB's message in one to three lines, and the name that it believes was meant."""
    text = str(error)
    line = _LINE.search(text)
    meant = _MEANT.search(text)
    lines = [part.strip() for part in text[: line.start() if line else None].splitlines()]
    lines = [part for part in lines if part and not _MEANT.match(part)][:2]
    if line and int(line[1]) > 1:  # the query starts on the second line of what is executed
        lines.append(f"line {int(line[1]) - 1} of the compiled SQL: {line[2].strip()}")
    why = "\n".join(part if len(part) <= 200 else part[:197] + "..." for part in lines)
    return why, meant[1] if meant else ""


def _unknown_arrow(schema: pa.Schema, error: duckdb.Error, what: str, where: Location | None) -> list[Problem]:
    import pyarrow as pa

    con = duckdb.connect(":memory:")
    problems = []
    for field in schema:
        try:
            con.register("t", pa.schema([field]).empty_table())
        except duckdb.Error:
            named = f'column "{field.name}" of {what} cannot be stored: its type is {field.type}'
            fix = "cast it to a type that DuckDB reads before it is returned"
            problems.append(Problem("TR703", named, where, "DuckDB cannot read it", fix=fix))
    con.close()
    return problems or [Problem("TR703", f"{what} cannot be stored", where, _explain(error)[0])]
