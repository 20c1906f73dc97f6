"""A dataset's rows: what is predicted, when, from which values, and what came of it.

    rows, checked -> spine (key, at, label, context, columns; by at and key) -> as-of join -> Arrow table

Inputs are numbers, booleans and strings; what cannot be one is an error that names the column before anything
is joined. Times are compared in full precision and stored in microseconds: `_at` rounded down, the label's
known_at rounded up, so that rounding never lets a row see more than it could.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from treadle.errors import Location, Problem, StepError, UsageError
from treadle.names import close_match
from treadle_runtime import asof
from treadle_runtime.asof import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

AT, LABEL, LABEL_KNOWN_AT = "_at", "_label", "_label_known_at"
RESERVED = (AT, LABEL, LABEL_KNOWN_AT)
BATCH_ROWS = 1 << 20  # one batch for most datasets: a column of one batch is mapped as one array
_SPINE, _JOINED = "treadle_dataset_spine", "treadle_dataset_joined"
_BIG = ("HUGEINT", "UHUGEINT")
_PLAIN = frozenset(
    [
        *("BOOLEAN", "VARCHAR", "FLOAT", "DOUBLE"),
        *("TINYINT", "SMALLINT", "INTEGER", "BIGINT"),
        *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    ]
)


@dataclass(frozen=True)
class Dataset:
    """A built dataset.

    Attributes:
        table: one row to predict for each of the rows, by (at, key). Columns: the key; where declared `_at`,
            `_label` and `_label_known_at` (times are timestamp[us], UTC without a zone); context; inputs.
        info: `roles` (key, at, label, label_known_at, inputs, context), `rows_in`, `label_null`, `at_null`,
            and `features`: prefix -> rows for which the feature had an answer. With provenance also
            `provenance`: prefix -> names of its columns and of those with their event_time and known_at.
    """

    table: pa.Table
    info: Mapping[str, Any]


@dataclass(frozen=True)
class _Request:
    """A dataset's configuration, with the types of the rows' columns."""

    name: str
    where: Location | None
    rows: str
    types: Mapping[str, str]
    key: str
    columns: tuple[str, ...]
    keep: tuple[str, ...]
    at: str | None
    label: str | None
    label_known_at: str | None
    reads: tuple[asof.Read, ...]

    @property
    def context(self) -> tuple[str, ...]:
        """Columns that are carried along: those to keep and the features' keys."""
        keys = (column for read in self.reads for _, column in read.keys)
        return tuple(dict.fromkeys((*self.keep, *keys)))

    @property
    def taken(self) -> tuple[str, ...]:
        """Columns of the rows that are stored under their own names, each once."""
        return tuple(dict.fromkeys((self.key, *self.context, *self.columns)))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in the table."""
        features = (f"{read.prefix}__{column}" for read in self.reads for column in read.columns)
        return (*dict.fromkeys(self.columns), *features)


def build(
    con: duckdb.DuckDBPyConnection,
    config: Mapping[str, Any],
    *,
    name: str,
    where: Location | None,
    only_key: str | int | float | bool | None = None,
    provenance: bool = False,
) -> Dataset:
    """Build a dataset from its inputs.

    Args:
        con: holds the rows and the features as relations of their logical names.
        config: the step's configuration.
        name: the dataset's name, for errors.
        where: the place where it is written, for errors.
        only_key: build only the row of this key; None builds all.
        provenance: whether each timed feature's event_time and known_at follow as columns.

    Raises:
        StepError: a column is missing or of a type that does not fit, the key is not unique, a feature cannot
            be joined; what is wrong with columns is told at once.
        UsageError: no row has the key `only_key`.
    """
    request = _to_request(con, config, name=name, where=where)
    _check_columns(con, request)
    at_type = _check_time_expression(con, request, "at", request.at)
    known_type = _check_time_expression(con, request, "label: known_at", request.label_known_at)
    _check_key(con, request)
    try:
        rows_in = _write_spine(con, request, only_key)
        _check_infinite(con, request, {AT: at_type, LABEL_KNOWN_AT: known_type})
        at = AT if request.at is not None else None
        con.execute(f"DROP TABLE IF EXISTS {_JOINED}")
        matched = asof.join(
            con, spine=_SPINE, at=at, reads=request.reads, into=_JOINED, provenance=provenance, where=where
        )
        table = _read_table(con, request, at_type, known_type, provenance=provenance)
    finally:
        con.execute(f"DROP TABLE IF EXISTS temp.{_SPINE}")
        con.execute(f"DROP TABLE IF EXISTS {_JOINED}")
    info = _describe(request, table, rows_in) | {"features": matched}
    if provenance:
        info["provenance"] = {read.prefix: _describe_provenance(read) for read in request.reads}
    return Dataset(table=table, info=info)


def write_arrow_file(table: pa.Table, path: Path) -> None:
    """Write a table as an uncompressed Arrow IPC file whose bytes depend on its schema and values alone."""
    schema = table.schema.remove_metadata()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, table.num_rows, BATCH_ROWS):
            part = table.slice(start, BATCH_ROWS)
            columns = [_normalise(part.column(i)) for i in range(part.num_columns)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def map_arrow_file(path: Path) -> pa.Table:
    """Return the table of an Arrow IPC file, mapped: values are read from disk when they are looked at."""
    return pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()


def _normalise(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array without what stood in memory behind its NULLs."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if array.null_count == 0 or not _has_fixed_width(array.type):
        return array
    values = pc.fill_null(array, pa.scalar(0, pa.int64()).cast(array.type))
    validity = array.is_valid()
    return pa.Array.from_buffers(array.type, len(array), [validity.buffers()[1], values.buffers()[1]])


def _has_fixed_width(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


def _to_request(
    con: duckdb.DuckDBPyConnection, config: Mapping[str, Any], *, name: str, where: Location | None
) -> _Request:
    label = config.get("label") or {}
    return _Request(
        name=name,
        where=where,
        rows=config["rows"],
        types=asof.describe(con, config["rows"]),
        key=config["key"],
        columns=tuple(config.get("columns") or ()),
        keep=tuple(config.get("keep") or ()),
        at=config.get("at"),
        label=label.get("column"),
        label_known_at=label.get("known_at"),
        reads=tuple(_to_read(con, use) for use in config.get("features") or ()),
    )


def _to_read(con: duckdb.DuckDBPyConnection, use: Mapping[str, Any]) -> asof.Read:
    keys = tuple((left, right) for left, right in use["keys"])
    event_time, known_at = use.get("event_time"), use.get("known_at")
    others = {*(left for left, _ in keys), event_time, known_at}
    columns = use.get("columns") or [c for c in asof.describe(con, use["feature"]) if c not in others]
    return asof.Read(
        table=use["feature"],
        prefix=use["prefix"],
        keys=keys,
        columns=tuple(columns),
        event_time=event_time,
        known_at=known_at,
        ttl_us=use.get("ttl_us"),
    )


def _check_columns(con: duckdb.DuckDBPyConnection, request: _Request) -> None:
    """Raise for all columns that are missing, of a type that cannot be stored, or of a name that is taken."""
    types, where = request.types, request.where
    problems = asof.find_missing(
        (request.key, *request.columns, *request.keep), types, table=request.rows, where=where
    )
    problems += _check_label(request)
    problems += [
        problem
        for column in request.taken
        if column in types
        for problem in _check_type(
            request, request.rows, column, types[column], is_input=column in request.columns
        )
    ]
    names: list[str] = [*request.taken]
    for read in request.reads:
        problems += _check_feature(con, request, read)
        names += [f"{read.prefix}__{column}" for column in read.columns]
    problems += [_reserved(request, name) for name in names if name.casefold() in RESERVED]
    problems += asof.check_distinct(names, where=where)
    if problems:
        raise StepError(problems)


def _check_label(request: _Request) -> Iterator[Problem]:
    label, types = request.label, request.types
    if label is None:
        return
    if label not in types:
        yield Problem(
            code="TR403",
            what=f'the label "{label}" of dataset "{request.name}" is no column of "{request.rows}"',
            where=request.where,
            why=f"its columns: {', '.join(types)}",
            suggestion=close_match(label, types) or "",
            fix=f'name one of its columns, or add "{label}" to "{request.rows}"',
        )
    elif _label_type(types[label]) is None:
        yield Problem(
            code="TR712",
            what=f'the label "{label}" of dataset "{request.name}" is {_article(types[label])}',
            where=request.where,
            why="a label is a number, a boolean or a string",
            fix=f'make one of it in "{request.rows}"',
        )


def _check_type(
    request: _Request, table: str, column: str, column_type: str, *, is_input: bool
) -> Iterator[Problem]:
    if (_input_type(column_type) if is_input else _context_type(column_type)) is not None:
        return
    role = "input" if is_input else "key or column to keep"
    fix = f'derive a number or a string from it in "{table}", or leave it out'
    if column_type in asof.TIME_TYPES:
        fix = f"derive a number from it in a feature, such as date_part('hour', {column}), or leave it out"
    elif column_type == "UUID":
        fix = f"cast it in a feature: cast({column} as varchar) as {column}, or leave it out"
    yield Problem(
        code="TR712",
        what=f'"{column}" of "{table}" is {_article(column_type)} and cannot be an input of "{request.name}"'
        if is_input
        else f'"{column}" of "{table}" is {_article(column_type)} and cannot be carried in "{request.name}"',
        where=request.where,
        why="an input is a number, a boolean or a string"
        if is_input
        else f"a {role} is a number, a boolean, a string, a date or a timestamp",
        fix=fix,
    )


def _check_feature(con: duckdb.DuckDBPyConnection, request: _Request, read: asof.Read) -> Iterator[Problem]:
    types = asof.describe(con, read.table)
    keys = {left for left, _ in read.keys}
    others = [column for column in read.table_columns if column not in keys]
    yield from asof.find_missing(others, types, table=read.table, where=request.where)
    if not read.columns:
        yield Problem(
            code="TR706",
            what=f'"{read.table}" has no column besides its keys and times',
            where=request.where,
            why=f"its columns: {', '.join(types)}",
            fix="add the column that the dataset is to read",
        )
    for left, right in read.keys:
        sides = ((read.table, left, types), (request.rows, right, request.types))
        missing = [_no_key(request, read, *side) for side in sides if side[1] not in side[2]]
        yield from missing
        if not missing:
            yield from asof.check_key(
                (read.table, left, types[left]),
                (request.rows, right, request.types[right]),
                where=request.where,
            )
    for column in read.columns:
        if column in types:
            yield from _check_type(request, read.table, column, types[column], is_input=True)


def _no_key(request: _Request, read: asof.Read, table: str, column: str, types: Mapping[str, str]) -> Problem:
    left, _ = read.keys[0]
    return Problem(
        code="TR405",
        what=f'"{read.table}" cannot be matched with "{request.rows}": "{table}" has no column "{column}"',
        where=request.where,
        why=f"its columns: {', '.join(types)}",
        suggestion=close_match(column, types) or "",
        fix=f"name the columns that match: {read.table}: {{on: {{{left}: <column of {request.rows}>}}}}",
    )


def _reserved(request: _Request, name: str) -> Problem:
    return Problem(
        code="TR102",
        what=f'dataset "{request.name}" cannot hold a column named "{name}"',
        where=request.where,
        why=f"{', '.join(RESERVED)} are columns of every dataset",
        fix=f'rename it in "{request.rows}"',
    )


def _check_time_expression(
    con: duckdb.DuckDBPyConnection, request: _Request, key: str, expression: str | None
) -> str | None:
    """Return the type of an expression over the rows that says a time."""
    if expression is None:
        return None
    try:
        rows = con.execute(
            f"DESCRIBE SELECT {quote(request.key)}, (\n{expression}\n) FROM {quote(request.rows)}"
        ).fetchall()
    except duckdb.Error as error:
        raise StepError(_expression_failed(request, key, expression, error)) from error
    kind = str(rows[1][1])
    if kind in asof.TIME_TYPES:
        return kind
    raise StepError(
        Problem(
            code="TR712",
            what=f'`{key}` of dataset "{request.name}" is no time',
            where=request.where,
            why=f"{expression} is {_article(kind)}; a time is a DATE or a TIMESTAMP",
            fix=f"cast it: cast({expression} as timestamp)",
        )
    )


def _expression_failed(request: _Request, key: str, expression: str, error: Exception) -> Problem:
    message = str(error).split("\n\nLINE")[0].strip()
    return Problem(
        code="TR702",
        what=f'`{key}` of dataset "{request.name}" cannot be computed from the rows of "{request.rows}"',
        where=request.where,
        why=f"{expression}\n{message}",
        fix=f'write a SQL expression over the columns of "{request.rows}"',
    )


def _check_key(con: duckdb.DuckDBPyConnection, request: _Request) -> None:
    key = quote(request.key)
    row = con.execute(f"SELECT count(*) FROM {quote(request.rows)} WHERE {key} IS NULL").fetchone()
    n_null = int(row[0]) if row else 0
    repeated = asof.find_repeated(con, request.rows, {request.key: key}, by=[key]) if n_null == 0 else []
    if n_null:
        what, why = "is NULL", f"{n_null:,} {'row has' if n_null == 1 else 'rows have'} no {request.key}"
    elif repeated:
        what, why = "is not unique", "\n".join(repeated)
    else:
        return
    raise StepError(
        Problem(
            code="TR704",
            what=f'the key "{request.key}" of dataset "{request.name}" {what} in "{request.rows}"',
            where=request.where,
            why=why,
            fix="name a column that identifies each row, or keep one row for each value",
        )
    )


def _write_spine(
    con: duckdb.DuckDBPyConnection, request: _Request, only_key: str | int | float | bool | None
) -> int:
    """Write the rows with moments and labels, in the dataset's order; return how many rows there are."""
    chosen = [quote(column) for column in request.taken]
    for name, expression in (
        (AT, request.at),
        (LABEL, None if request.label is None else quote(request.label)),
        (LABEL_KNOWN_AT, request.label_known_at),
    ):
        if expression is not None:
            chosen.append(f"(\n{expression}\n) AS {name}")
    order = ([f"{AT} NULLS LAST"] if request.at is not None else []) + [_stored_key(request)]
    only = "" if only_key is None else f" WHERE CAST({quote(request.key)} AS VARCHAR) = {_text(only_key)}"
    try:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {_SPINE} AS SELECT * FROM"
            f" (SELECT {', '.join(chosen)} FROM {quote(request.rows)}{only}) ORDER BY {', '.join(order)}"
        )
    except duckdb.Error as error:
        said = {"at": request.at, "label: known_at": request.label_known_at}
        keys = [key for key, expression in said.items() if expression is not None]
        expressions = "\n".join(expression for expression in said.values() if expression is not None)
        raise StepError(_expression_failed(request, "` or `".join(keys), expressions, error)) from error
    counts = con.execute(
        f"SELECT (SELECT count(*) FROM {quote(request.rows)}), (SELECT count(*) FROM {_SPINE})"
    ).fetchone()
    rows_in, n = counts if counts is not None else (0, 0)
    if only_key is not None and n == 0:
        raise UsageError(_no_row(con, request, only_key))
    if only_key is None and n != rows_in:
        raise StepError(_multiplied(request, rows_in, n))
    return int(rows_in)


def _stored_key(request: _Request) -> str:
    return _cast(quote(request.key), _context_type(request.types[request.key]))


def _text(value: str | int | float | bool) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return "'" + text.replace("'", "''") + "'"


def _no_row(con: duckdb.DuckDBPyConnection, request: _Request, only_key: str | int | float | bool) -> Problem:
    key = quote(request.key)
    found = con.execute(
        f"SELECT CAST(min({key}) AS VARCHAR), CAST(max({key}) AS VARCHAR) FROM {quote(request.rows)}"
    )
    low, high = found.fetchone() or (None, None)
    return Problem(
        code="TR603",
        what=f'dataset "{request.name}" has no row {only_key}',
        where=request.where,
        why=f"{request.key} runs from {low} to {high}"
        if low is not None
        else f'"{request.rows}" has no rows',
        fix=f"give a value of {request.key}",
    )


def _multiplied(request: _Request, rows_in: int, n: int) -> Problem:
    return Problem(
        code="TR702",
        what=f'`at` or `known_at` of dataset "{request.name}" gives more or fewer than one value for a row',
        where=request.where,
        why=f'{rows_in:,} rows of "{request.rows}" became {n:,}',
        fix="write an expression with one value for each row",
    )


def _check_infinite(
    con: duckdb.DuckDBPyConnection, request: _Request, types: Mapping[str, str | None]
) -> None:
    for column, kind in types.items():
        infinite = None if kind is None else asof.find_infinite(con, _SPINE, column, kind)
        if infinite is not None:
            key, expression = (
                ("at", request.at) if column == AT else ("label: known_at", request.label_known_at)
            )
            raise StepError(
                Problem(
                    code="TR712",
                    what=f'`{key}` of dataset "{request.name}" is an infinite time for some rows',
                    where=request.where,
                    why=f"{expression} is {infinite}",
                    fix=f'write NULL for it in "{request.rows}"',
                )
            )


def _read_table(
    con: duckdb.DuckDBPyConnection,
    request: _Request,
    at_type: str | None,
    known_type: str | None,
    *,
    provenance: bool,
) -> pa.Table:
    chosen = []

    def take(name: str, kind: str | None) -> None:
        chosen.append(f"{_cast(quote(name), kind)} AS {quote(name)}")

    take(request.key, _stored_type(request, request.key))
    if at_type is not None:
        chosen.append(f"{_microseconds(AT, at_type, round_up=False)} AS {AT}")
    if request.label is not None:
        take(LABEL, _label_type(request.types[request.label]))
    if known_type is not None:
        chosen.append(f"{_microseconds(LABEL_KNOWN_AT, known_type, round_up=True)} AS {LABEL_KNOWN_AT}")
    for column in request.taken[1:]:
        take(column, _stored_type(request, column))
    joined = asof.describe(con, _JOINED)
    for read in request.reads:
        for column in read.columns:
            take(f"{read.prefix}__{column}", _input_type(joined[f"{read.prefix}__{column}"]))
        if provenance and read.event_time is not None:
            chosen += [quote(column) for column in read.provenance_columns()]
    try:
        return con.sql(f"SELECT {', '.join(chosen)} FROM {_JOINED}").to_arrow_table()
    except duckdb.Error as error:
        raise StepError(_unstorable(request, error)) from error


def _describe(request: _Request, table: pa.Table, rows_in: int) -> dict[str, Any]:
    return {
        "roles": {
            "key": request.key,
            "at": request.at is not None,
            "label": request.label,
            "label_known_at": request.label_known_at is not None,
            "inputs": list(request.inputs),
            "context": list(request.context),
        },
        "rows_in": rows_in,
        "label_null": table[LABEL].null_count if request.label is not None else 0,
        "at_null": table[AT].null_count if request.at is not None else 0,
    }


def _describe_provenance(read: asof.Read) -> dict[str, Any]:
    event_time, known_at = read.provenance_columns() if read.event_time is not None else (None, None)
    columns = [f"{read.prefix}__{column}" for column in read.columns]
    return {"feature": read.table, "columns": columns, "event_time": event_time, "known_at": known_at}


def _unstorable(request: _Request, error: Exception) -> Problem:
    return Problem(
        code="TR703",
        what=f'a value of dataset "{request.name}" cannot be stored',
        where=request.where,
        why=str(error).split("\n\nLINE")[0].strip(),
        fix="whole numbers of keys and labels fit 64 bits, times lie between the years 290309 BC and 294246",
    )


def _input_type(kind: str) -> str | None:
    """Return the type in which an input is stored, or None when it cannot be an input."""
    if kind in _BIG or kind.startswith("DECIMAL("):
        return "DOUBLE"
    if kind.startswith("ENUM("):
        return "VARCHAR"
    return kind if kind in _PLAIN else None


def _label_type(kind: str) -> str | None:
    """As `_input_type`, but sums of whole numbers (HUGEINT) stay whole: they may be classes."""
    return "BIGINT" if kind in _BIG else _input_type(kind)


def _context_type(kind: str) -> str | None:
    """Return the type in which a key or a carried column is stored: no two values become one."""
    if kind == "UUID":
        return "VARCHAR"
    if kind.startswith("DECIMAL(") or kind in asof.TIME_TYPES:
        return kind
    return _label_type(kind)


def _stored_type(request: _Request, column: str) -> str | None:
    """Return the type in which a column of the rows is stored; one that is an input and carried is both."""
    kind = request.types[column]
    carried = column == request.key or column in request.context
    if column in request.columns and not (carried and kind in _BIG):
        return _input_type(kind)
    return _context_type(kind)


def _cast(expression: str, kind: str | None) -> str:
    """Return SQL for a value as it is stored; times with a zone become UTC without one."""
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({expression}))"
    if kind == "TIMESTAMPTZ_NS":
        return f"make_timestamp_ns(epoch_ns({expression}))"
    return f"CAST({expression} AS {kind})"


def _microseconds(name: str, kind: str, *, round_up: bool) -> str:
    """Return SQL for a time as a TIMESTAMP; nanoseconds are rounded."""
    nanoseconds = asof.nanoseconds(name, kind)
    if round_up:
        nanoseconds = f"({nanoseconds} + 999)"
    # Division truncates towards zero, so that what is over is taken off first.
    whole = f"({nanoseconds} - (({nanoseconds} % 1000) + 1000) % 1000)"
    return f"make_timestamp(CAST({whole} // 1000 AS BIGINT))"


def _article(kind: str) -> str:
    """Return a type as it stands in a sentence."""
    if kind == '"NULL"':
        return "always NULL"
    if len(kind) > 60:
        kind = kind[:60] + "..."
    return f"{'an' if kind[0] in 'AEIO' else 'a'} {kind}"
