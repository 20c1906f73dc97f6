"""A dataset's rows: what is predicted, when, from which values, and what came of it.

    layout -> checks -> spine (key, at, label, context, columns; by at and key) -> as-of join -> Arrow table

Inputs are numbers, booleans and strings; what cannot be one is an error that names the column before anything
is joined. Times are compared in full precision and stored in microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from treadle.errors import Location, Problem, StepError, UsageError
from treadle_runtime import asof
from treadle_runtime.columns import find_types
from treadle_runtime.dataset_checks import (
    check_columns,
    check_finite,
    check_times,
    check_unique,
    times_failed,
    values_failed,
)
from treadle_runtime.dataset_layout import AT, LABEL, Layout, context_type, read_layout, select_stored, to_stored
from treadle_runtime.engine import sql_error
from treadle_runtime.types import quote_name, quote_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from treadle_runtime.engine import Connection

_SPINE, _JOINED = "treadle_dataset_spine", "treadle_dataset_joined"


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


def build(
    con: Connection,
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
    layout = read_layout(con, config, name=name, where=where)
    check_columns(con, layout)
    time_types = check_times(con, layout)
    check_unique(con, layout)
    at = AT if layout.at is not None else None
    try:
        rows_in = _write_spine(con, layout, only_key)
        check_finite(con, layout, _SPINE, time_types)
        con.execute(f"DROP TABLE IF EXISTS {_JOINED}")
        matched = asof.join(
            con, spine=_SPINE, at=at, reads=layout.reads, into=_JOINED, provenance=provenance, where=where
        )
        table = _read_table(con, layout, time_types, provenance=provenance)
    finally:
        con.execute(f"DROP TABLE IF EXISTS temp.{_SPINE}")
        con.execute(f"DROP TABLE IF EXISTS {_JOINED}")
    info = _describe(layout, table, rows_in) | {"features": matched}
    if provenance:
        info["provenance"] = {read.prefix: _describe_provenance(read) for read in layout.reads}
    return Dataset(table=table, info=info)


def _write_spine(con: Connection, layout: Layout, only_key: str | int | float | bool | None) -> int:
    """Write the rows with moments and labels, in the dataset's order; return how many rows there are."""
    rows, key = quote_name(layout.rows), quote_name(layout.key)
    chosen = [quote_name(column) for column in layout.taken]
    chosen += [f"(\n{time.expression}\n) AS {time.column}" for time in layout.times]
    if layout.label is not None:
        chosen.append(f"{quote_name(layout.label)} AS {LABEL}")
    order = [f"{AT} NULLS LAST"] if layout.at is not None else []
    order.append(to_stored(layout.key, context_type(layout.types[layout.key])))
    only = "" if only_key is None else f" WHERE CAST({key} AS VARCHAR) = {_to_text(only_key)}"
    try:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {_SPINE} AS SELECT * FROM"
            f" (SELECT {', '.join(chosen)} FROM {rows}{only}) ORDER BY {', '.join(order)}"
        )
    except duckdb.Error as error:
        if layout.times:
            raise times_failed(layout, layout.times, error) from error
        raise sql_error(error, f'"{layout.rows}", the rows of dataset "{layout.name}"', layout.where) from error
    counts = con.execute(f"SELECT (SELECT count(*) FROM {rows}), (SELECT count(*) FROM {_SPINE})").fetchone()
    rows_in, n = counts if counts is not None else (0, 0)
    if only_key is not None and n == 0:
        raise UsageError(_no_row(con, layout, only_key))
    if only_key is None and n != rows_in:
        raise StepError(_multiplied(layout, rows_in, n))
    return int(rows_in)


def _to_text(value: str | int | float | bool) -> str:
    return quote_text(str(value).lower() if isinstance(value, bool) else str(value))


def _no_row(con: Connection, layout: Layout, only_key: str | int | float | bool) -> Problem:
    rows, key = quote_name(layout.rows), quote_name(layout.key)
    found = con.execute(f"SELECT CAST(min({key}) AS VARCHAR), CAST(max({key}) AS VARCHAR) FROM {rows}")
    low, high = found.fetchone() or (None, None)
    return Problem(
        code="TR603",
        what=f'dataset "{layout.name}" has no row {only_key}',
        where=layout.where,
        why=f"{layout.key} runs from {low} to {high}" if low is not None else f'"{layout.rows}" has no rows',
        fix=f"give a value of {layout.key}",
    )


def _multiplied(layout: Layout, rows_in: int, n: int) -> Problem:
    return Problem(
        code="TR702",
        what=f'`at` or `known_at` of dataset "{layout.name}" gives more or fewer than one value for a row',
        where=layout.where,
        why=f'{rows_in:,} rows of "{layout.rows}" became {n:,}',
        fix="write an expression with one value for each row",
    )


def _read_table(con: Connection, layout: Layout, time_types: Mapping[str, str], *, provenance: bool) -> pa.Table:
    chosen = select_stored(layout, find_types(con, _JOINED), time_types, provenance=provenance)
    try:
        return con.sql(f"SELECT {', '.join(chosen)} FROM {_JOINED}").to_arrow_table()
    except duckdb.Error as error:
        raise values_failed(layout, error) from error


def _describe(layout: Layout, table: pa.Table, rows_in: int) -> dict[str, Any]:
    return {
        "roles": {
            "key": layout.key,
            "at": layout.at is not None,
            "label": layout.label,
            "label_known_at": layout.label_known_at is not None,
            "inputs": list(layout.inputs),
            "context": list(layout.context),
        },
        "rows_in": rows_in,
        "label_null": table[LABEL].null_count if layout.label is not None else 0,
        "at_null": table[AT].null_count if layout.at is not None else 0,
    }


def _describe_provenance(read: asof.Read) -> dict[str, Any]:
    event_time, known_at = read.provenance_columns() if read.event_time is not None else (None, None)
    columns = list(read.value_columns)
    return {"feature": read.table, "columns": columns, "event_time": event_time, "known_at": known_at}
