"""What can be wrong with a dataset's columns, times and keys, told before anything is joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from treadle.errors import Problem, StepError
from treadle.names import close_match
from treadle_runtime.columns import (
    TIME_TYPES,
    check_distinct,
    check_key,
    check_present,
    find_infinite,
    find_repeated,
    find_types,
)
from treadle_runtime.dataset_layout import RESERVED, context_type, input_type, label_type
from treadle_runtime.types import quote_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from treadle_runtime.asof import Read
    from treadle_runtime.dataset_layout import Layout, TimeColumn
    from treadle_runtime.engine import Connection


def check_columns(con: Connection, layout: Layout) -> None:
    """Raise for all columns that are missing, of a type that cannot be stored, or of a name that is taken."""
    types, where = layout.types, layout.where
    problems = check_present((layout.key, *layout.columns, *layout.keep), types, table=layout.rows, where=where)
    problems += _check_label(layout)
    for column in layout.taken:
        if column in types:
            is_input = column in layout.columns
            problems += _check_type(layout, layout.rows, column, types[column], is_input=is_input)
    for read in layout.reads:
        problems += _check_feature(con, layout, read)
    names = (*layout.taken, *layout.feature_columns)
    problems += [_reserved(layout, name) for name in names if name.casefold() in RESERVED]
    problems += check_distinct(names, where=where)
    if problems:
        raise StepError(problems)


def check_times(con: Connection, layout: Layout) -> dict[str, str]:
    """Return column -> type of the declared times, which are expressions over the rows.

    Raises:
        StepError: an expression fails (TR702) or says no time (TR712).
    """
    return {time.column: _find_time_type(con, layout, time) for time in layout.times}


def check_finite(con: Connection, layout: Layout, relation: str, time_types: Mapping[str, str]) -> None:
    """Raise when a declared time is infinite in some row of `relation`, which holds the columns of `time_types`."""
    for time in layout.times:
        infinite = find_infinite(con, relation, time.column, time_types[time.column])
        if infinite is not None:
            raise StepError(
                Problem(
                    code="TR712",
                    what=f'`{time.key}` of dataset "{layout.name}" is an infinite time for some rows',
                    where=layout.where,
                    why=f"{time.expression} is {infinite}",
                    fix=f'write NULL for it in "{layout.rows}"',
                )
            )


def check_unique(con: Connection, layout: Layout) -> None:
    """Raise when the key is NULL in some row, or stands in two."""
    key = quote_name(layout.key)
    row = con.execute(f"SELECT count(*) FROM {quote_name(layout.rows)} WHERE {key} IS NULL").fetchone()
    n_null = int(row[0]) if row else 0
    if n_null:
        what, why = "is NULL", f"{n_null:,} {'row has' if n_null == 1 else 'rows have'} no {layout.key}"
    elif repeated := find_repeated(con, layout.rows, {layout.key: key}, by=[key]):
        what, why = "is not unique", "\n".join(repeated)
    else:
        return
    raise StepError(
        Problem(
            code="TR704",
            what=f'the key "{layout.key}" of dataset "{layout.name}" {what} in "{layout.rows}"',
            where=layout.where,
            why=why,
            fix="name a column that identifies each row, or keep one row for each value",
        )
    )


def times_failed(layout: Layout, times: Sequence[TimeColumn], error: duckdb.Error) -> StepError:
    """Return the error of times that the engine cannot compute."""
    keys = "` or `".join(time.key for time in times)
    expressions = "\n".join(time.expression for time in times)
    return StepError(
        Problem(
            code="TR702",
            what=f'`{keys}` of dataset "{layout.name}" cannot be computed from the rows of "{layout.rows}"',
            where=layout.where,
            why=f"{expressions}\n{_message(error)}",
            fix=f'write a SQL expression over the columns of "{layout.rows}"',
        )
    )


def values_failed(layout: Layout, error: duckdb.Error) -> StepError:
    """Return the error of values that do not fit the types in which they are stored."""
    return StepError(
        Problem(
            code="TR703",
            what=f'a value of dataset "{layout.name}" cannot be stored',
            where=layout.where,
            why=_message(error),
            fix="whole numbers of keys and labels fit 64 bits, times lie between the years 290309 BC and 294246",
        )
    )


def _message(error: duckdb.Error) -> str:
    return str(error).split("\n\nLINE")[0].strip()


def _check_label(layout: Layout) -> Iterator[Problem]:
    label, types = layout.label, layout.types
    if label is None:
        return
    if label not in types:
        yield Problem(
            code="TR403",
            what=f'the label "{label}" of dataset "{layout.name}" is no column of "{layout.rows}"',
            where=layout.where,
            why=f"its columns: {', '.join(types)}",
            suggestion=close_match(label, types) or "",
            fix=f'name one of its columns, or add "{label}" to "{layout.rows}"',
        )
    elif label_type(types[label]) is None:
        yield Problem(
            code="TR712",
            what=f'the label "{label}" of dataset "{layout.name}" is {_article(types[label])}',
            where=layout.where,
            why="a label is a number, a boolean or a string",
            fix=f'make one of it in "{layout.rows}"',
        )


def _check_type(layout: Layout, table: str, column: str, kind: str, *, is_input: bool) -> Iterator[Problem]:
    if is_input:
        stored, role, why = input_type(kind), "be an input of", "an input is a number, a boolean or a string"
    else:
        stored, role = context_type(kind), "be carried in"
        why = "a key or column to keep is a number, a boolean, a string, a date or a timestamp"
    if stored is not None:
        return
    fix = f'derive a number or a string from it in "{table}", or leave it out'
    if kind in TIME_TYPES:
        fix = f"derive a number from it in a feature, such as date_part('hour', {column}), or leave it out"
    elif kind == "UUID":
        fix = f"cast it in a feature: cast({column} as varchar) as {column}, or leave it out"
    what = f'"{column}" of "{table}" is {_article(kind)} and cannot {role} "{layout.name}"'
    yield Problem("TR712", what, layout.where, why, fix=fix)


def _check_feature(con: Connection, layout: Layout, read: Read) -> Iterator[Problem]:
    types = find_types(con, read.table)
    keys = {left for left, _ in read.keys}
    others = [column for column in read.table_columns if column not in keys]
    yield from check_present(others, types, table=read.table, where=layout.where)
    if not read.columns:
        yield Problem(
            code="TR706",
            what=f'"{read.table}" has no column besides its keys and times',
            where=layout.where,
            why=f"its columns: {', '.join(types)}",
            fix="add the column that the dataset is to read",
        )
    for left, right in read.keys:
        sides = ((read.table, left, types), (layout.rows, right, layout.types))
        missing = [_no_key(layout, read, *side) for side in sides if side[1] not in side[2]]
        yield from missing
        if not missing:
            one, other = ((table, column, known[column]) for table, column, known in sides)
            yield from check_key(one, other, where=layout.where)
    for column in read.columns:
        if column in types:
            yield from _check_type(layout, read.table, column, types[column], is_input=True)


def _no_key(layout: Layout, read: Read, table: str, column: str, types: Mapping[str, str]) -> Problem:
    left, _ = read.keys[0]
    return Problem(
        code="TR405",
        what=f'"{read.table}" cannot be matched with "{layout.rows}": "{table}" has no column "{column}"',
        where=layout.where,
        why=f"its columns: {', '.join(types)}",
        suggestion=close_match(column, types) or "",
        fix=f"name the columns that match: {read.table}: {{on: {{{left}: <column of {layout.rows}>}}}}",
    )


def _reserved(layout: Layout, name: str) -> Problem:
    return Problem(
        code="TR102",
        what=f'dataset "{layout.name}" cannot hold a column named "{name}"',
        where=layout.where,
        why=f"{', '.join(RESERVED)} are columns of every dataset",
        fix=f'rename it in "{layout.rows}"',
    )


def _find_time_type(con: Connection, layout: Layout, time: TimeColumn) -> str:
    query = f"SELECT {quote_name(layout.key)}, (\n{time.expression}\n) FROM {quote_name(layout.rows)}"
    try:
        rows = con.execute(f"DESCRIBE {query}").fetchall()
    except duckdb.Error as error:
        raise times_failed(layout, [time], error) from error
    kind = str(rows[1][1])
    if kind in TIME_TYPES:
        return kind
    raise StepError(
        Problem(
            code="TR712",
            what=f'`{time.key}` of dataset "{layout.name}" is no time',
            where=layout.where,
            why=f"{time.expression} is {_article(kind)}; a time is a DATE or a TIMESTAMP",
            fix=f"cast it: cast({time.expression} as timestamp)",
        )
    )


def _article(kind: str) -> str:
    """Return a type as it stands in a sentence."""
    if kind == '"NULL"':
        return "always NULL"
    if len(kind) > 60:
        kind = kind[:60] + "..."
    return f"{'an' if kind[0] in 'AEIO' else 'a'} {kind}"
