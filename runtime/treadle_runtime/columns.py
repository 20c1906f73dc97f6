"""What columns are, asked before they are joined: their types, times and repeated values, and whether they fit.

`find_` gives facts, `check_` gives a problem for each thing that does not fit.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from treadle.errors import Location, Problem
from treadle.names import close_match
from treadle_runtime import engine
from treadle_runtime.types import quote_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from treadle_runtime.engine import Connection

TIME_TYPES = frozenset(
    {
        "DATE",
        "TIMESTAMP",
        "TIMESTAMP_S",
        "TIMESTAMP_MS",
        "TIMESTAMP_NS",
        "TIMESTAMP WITH TIME ZONE",
        "TIMESTAMPTZ_NS",
    }
)
MAX_EXAMPLES = 3
_SMALL_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"})
_INTEGERS = _SMALL_INTEGERS | {"UBIGINT", "HUGEINT", "UHUGEINT"}
_FLOATS = frozenset({"FLOAT", "DOUBLE"})


def find_types(con: Connection, relation: str) -> dict[str, str]:
    """Return column -> type of a relation, as DESCRIBE prints it."""
    return dict(engine.describe(con, f"from {quote_name(relation)}"))


def nanoseconds(expression: str, time_type: str) -> str:
    """Return SQL for a time as HUGEINT nanoseconds since 1970 UTC; NULL for NULL and for an infinite time."""
    if time_type == "DATE":  # a DATE reaches further than a TIMESTAMP
        days = f"CASE WHEN isfinite({expression}) THEN datediff('day', DATE '1970-01-01', {expression}) END"
        return f"(CAST({days} AS HUGEINT) * 86400000000000)"
    if time_type.endswith("_NS"):
        return f"CAST(epoch_ns({expression}) AS HUGEINT)"
    return f"(CAST(epoch_us({expression}) AS HUGEINT) * 1000)"


def common_key_type(one: str, other: str) -> str | None:
    """Return the type in which keys of two types are compared without loss, or None if they cannot be.

    Integers match integers, floats match floats, strings match enums; all else matches its own type only.
    """
    pair = {one, other}
    if pair <= _INTEGERS:
        return "BIGINT" if pair <= _SMALL_INTEGERS else "HUGEINT"
    if pair <= _FLOATS:
        return "DOUBLE"
    if all(key == "VARCHAR" or key.startswith("ENUM(") for key in pair):
        return "VARCHAR"
    return one if one == other else None


def find_infinite(con: Connection, relation: str, column: str, time_type: str) -> str | None:
    """Return an infinite time that stands in a column, as text, or None."""
    name = quote_name(column)
    row = con.execute(
        f"SELECT CAST({name} AS VARCHAR) FROM {quote_name(relation)}"
        f" WHERE {name} IS NOT NULL AND {nanoseconds(name, time_type)} IS NULL LIMIT 1"
    ).fetchone()
    return None if row is None else str(row[0])


def find_repeated(con: Connection, relation: str, shown: Mapping[str, str], *, by: Iterable[str]) -> list[str]:
    """Return up to three lines that each show values standing in more than one row.

    Args:
        con: holds `relation`.
        relation: any relation.
        shown: label -> SQL of a value to show; constant among rows that are equal in `by`.
        by: SQL of the values that must not repeat together.
    """
    values = ", ".join(f"min(CAST({expression} AS VARCHAR))" for expression in shown.values())
    group = ", ".join(by)
    rows = con.execute(
        f"SELECT {values}, count(*) FROM {quote_name(relation)} GROUP BY {group} HAVING count(*) > 1"
        f" ORDER BY {group} LIMIT {MAX_EXAMPLES}"
    ).fetchall()
    return [
        ", ".join(f"{label} {value}" for label, value in zip(shown, row[:-1], strict=True)) + f": {row[-1]:,} rows"
        for row in rows
    ]


def check_present(
    columns: Iterable[str], known: Mapping[str, str], *, table: str, where: Location | None
) -> list[Problem]:
    """Return a TR706 for each of `columns` that the table does not have."""
    return [
        Problem(
            code="TR706",
            what=f'"{table}" has no column "{column}"',
            where=where,
            why=f"its columns: {', '.join(known)}",
            suggestion=close_match(column, known) or "",
            fix=f'name one of its columns, or add "{column}" to "{table}"',
        )
        for column in dict.fromkeys(columns)
        if column not in known
    ]


def check_key(left: tuple[str, str, str], right: tuple[str, str, str], *, where: Location | None) -> list[Problem]:
    """Return a TR405 when two key columns, each (table, column, type), can be compared by a cast only."""
    (table, key, key_type), (spine, column, column_type) = left, right
    if common_key_type(key_type, column_type) is not None:
        return []
    return [
        Problem(
            code="TR405",
            what=f'rows of "{spine}" and "{table}" cannot be matched: their keys are of two types',
            where=where,
            why=f'"{key}" of "{table}" is {key_type}, "{column}" of "{spine}" is {column_type}',
            fix=f"cast one of them where it is made: cast({key} as {column_type.lower()}) as {key}",
        )
    ]


def check_time(con: Connection, relation: str, column: str, time_type: str, *, where: Location | None) -> list[Problem]:
    """Return a TR712 when a column is no DATE or TIMESTAMP, or holds an infinite time."""
    if time_type not in TIME_TYPES:
        what, why = "is no time", f"it is {time_type}; a time is a DATE or a TIMESTAMP"
        fix = f"cast it where it is made: cast({column} as timestamp) as {column}"
    elif (infinite := find_infinite(con, relation, column, time_type)) is not None:
        what, why = "holds an infinite time", f"{infinite} is neither before nor after the moment of a row"
        fix = f"write NULL for it: case when isfinite({column}) then {column} end as {column}"
    else:
        return []
    return [Problem("TR712", f'"{column}" of "{relation}" {what}', where, why, fix=fix)]


def check_distinct(names: Sequence[str], *, where: Location | None) -> list[Problem]:
    """Return a TR102 for each name that two columns would share; upper and lower case are one in SQL."""
    n_uses = Counter(name.casefold() for name in names)
    twice = {name.casefold(): name for name in names if n_uses[name.casefold()] > 1}
    return [
        Problem(
            code="TR102",
            what=f'two columns would both be named "{name}"',
            where=where,
            why="a feature's columns are named prefix__column beside those of the rows",
            fix="give the feature another prefix with `as:`, or rename the column",
        )
        for name in twice.values()
    ]
