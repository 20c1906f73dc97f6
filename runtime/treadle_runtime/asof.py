"""The point-in-time join: for each row of a spine, what was known of its entity at its moment.

    spine, numbered -> for each read: candidates -> effective rows -> one ASOF join -> all side by side

Times are compared as HUGEINT nanoseconds since 1970 UTC (a DATE is its midnight, a naive time is UTC): every
time type of DuckDB fits without loss, and it costs no more than BIGINT. A candidate (e, k) = (event_time,
known_at) may be seen from t when e <= t and k <= t, which is v <= t for v = greatest(e, k). The answer is the
greatest (e, k) among those. Taken in the order of (v, e, k), only rows that are a new maximum of (e, k) can
ever be an answer, and of several with one v only the last. These are the effective rows: unique in
(entity, v), so that DuckDB's ASOF join, which breaks ties by the order of its input, has none to break. The
ttl is then applied to the answer: when it is too old, all else is older still.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treadle.errors import Location, Problem, StepError
from treadle.names import close_match

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb

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
_SPINE, _CANDIDATES, _EFFECTIVE, _FOUND = (
    f"treadle_asof_{name}" for name in ("spine", "candidates", "effective", "found")
)
_N, _T = '"treadle n"', '"treadle t"'  # no name that a person writes holds a space


@dataclass(frozen=True)
class Read:
    """A table as a spine reads it.

    Attributes:
        table: its name in the connection.
        prefix: its columns come out as `prefix__column`.
        keys: (column of the table, column of the spine), one or more; NULL matches nothing.
        columns: the value columns to take.
        event_time: the column that says from when on a row is true; None: the table is static, always true.
        known_at: the column that says since when a row can be known; None: since its event_time.
        ttl_us: how old an event_time may be at the spine's moment, in microseconds, inclusive; None: any age.
    """

    table: str
    prefix: str
    keys: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    event_time: str | None
    known_at: str | None
    ttl_us: int | None

    @property
    def table_columns(self) -> tuple[str, ...]:
        """All columns of the table that the join looks at."""
        times = (self.event_time, self.known_at if self.event_time else None)
        return (*(column for column, _ in self.keys), *self.columns, *(time for time in times if time))

    def provenance_columns(self) -> tuple[str, str]:
        """Return the names under which a value's event_time and known_at come out.

        The third underscore keeps them apart from a value column called event_time.
        """
        return f"{self.prefix}___event_time", f"{self.prefix}___known_at"


def join(
    con: duckdb.DuckDBPyConnection,
    *,
    spine: str,
    at: str | None,
    reads: Sequence[Read],
    into: str,
    provenance: bool = False,
    where: Location | None = None,
) -> dict[str, int]:
    """Create the table `into`: every row of `spine`, once and in order, with what each read knew of it then.

    For a spine row at t, a read answers with the row of the entity that has the greatest (event_time,
    known_at) among those with t - ttl <= event_time <= t and known_at <= t. A NULL in that row stays NULL;
    where no row answers, all of the read's columns are NULL. A row without event_time is never true, one
    without known_at is never known, one with a NULL key belongs to no entity.

    Args:
        con: holds `spine` and the tables of `reads`.
        spine: a relation; its rows may repeat, hold NULL keys and name entities that no table knows.
        at: the spine's column with the moment t; NULL there finds nothing; None allows static tables only.
        reads: tables with distinct prefixes.
        into: the table to create: the spine's columns, then `prefix__column` for each read in turn.
        provenance: whether `prefix___event_time` and `prefix___known_at` follow each timed read's columns.
        where: the place to name in errors.

    Returns:
        prefix -> the number of spine rows for which a row answered, be its values NULL.

    Raises:
        StepError: a column is missing (TR706), keys cannot be matched (TR405), a time is of another type or
            infinite (TR712), two columns share a name (TR102), a static table has two rows for a key (TR704),
            two rows of a timed one share entity, event_time and known_at (TR705).
    """
    _check(con, spine=spine, at=at, reads=reads, provenance=provenance, where=where)
    moment = "NULL::HUGEINT" if at is None else nanoseconds(quote(at), describe(con, spine)[at])
    tables = [f"{_FOUND}_{i}" for i in range(len(reads))]
    try:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {_SPINE} AS"
            f" SELECT row_number() OVER () AS {_N}, {moment} AS {_T}, * FROM {quote(spine)}"
        )
        matched = {
            read.prefix: _find(con, read, into=table, where=where)
            for read, table in zip(reads, tables, strict=True)
        }
        names = [
            f"{table}.{column} AS {quote(name)}"
            for read, table in zip(reads, tables, strict=True)
            for column, name in _outputs(read, provenance)
        ]
        # Each table holds one row for each spine row, in its order: side by side costs a ninth of joins on n.
        sides = "".join(f" POSITIONAL JOIN {table}" for table in tables)
        chosen = ", ".join([f"{_SPINE}.* EXCLUDE ({_N}, {_T})", *names])
        con.execute(f"CREATE TABLE {quote(into)} AS SELECT {chosen} FROM {_SPINE}{sides}")
    finally:
        for table in (_SPINE, _CANDIDATES, _EFFECTIVE, *tables):
            con.execute(f"DROP TABLE IF EXISTS temp.{table}")
    return matched


def quote(name: str) -> str:
    """Return `name` as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def describe(con: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """Return column -> type of a relation, as DESCRIBE prints it."""
    rows = con.execute(f"DESCRIBE {quote(relation)}").fetchall()
    return {str(row[0]): str(row[1]) for row in rows}


def nanoseconds(expression: str, time_type: str) -> str:
    """Return SQL for a time as HUGEINT nanoseconds since 1970 UTC; NULL for NULL and for an infinite time."""
    if time_type == "DATE":  # a DATE reaches further than a TIMESTAMP
        days = f"CASE WHEN isfinite({expression}) THEN datediff('day', DATE '1970-01-01', {expression}) END"
        return f"(CAST({days} AS HUGEINT) * 86400000000000)"
    if time_type.endswith("_NS"):
        return f"CAST(epoch_ns({expression}) AS HUGEINT)"
    return f"(CAST(epoch_us({expression}) AS HUGEINT) * 1000)"


def find_infinite(con: duckdb.DuckDBPyConnection, relation: str, column: str, time_type: str) -> str | None:
    """Return an infinite time that stands in a column, as text, or None."""
    name = quote(column)
    row = con.execute(
        f"SELECT CAST({name} AS VARCHAR) FROM {quote(relation)}"
        f" WHERE {name} IS NOT NULL AND {nanoseconds(name, time_type)} IS NULL LIMIT 1"
    ).fetchone()
    return None if row is None else str(row[0])


def find_repeated(
    con: duckdb.DuckDBPyConnection, relation: str, shown: Mapping[str, str], *, by: Iterable[str]
) -> list[str]:
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
        f"SELECT {values}, count(*) FROM {quote(relation)} GROUP BY {group} HAVING count(*) > 1"
        f" ORDER BY {group} LIMIT {MAX_EXAMPLES}"
    ).fetchall()
    return [
        ", ".join(f"{label} {value}" for label, value in zip(shown, row[:-1], strict=True))
        + f": {row[-1]:,} rows"
        for row in rows
    ]


def find_missing(
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


def _find(con: duckdb.DuckDBPyConnection, read: Read, *, into: str, where: Location | None) -> int:
    """Create `into`: hit, c0..., event_time, known_at of each spine row, in order; return the hits."""
    table_types, spine_types = describe(con, read.table), describe(con, _SPINE)
    types = [common_key_type(table_types[left], spine_types[right]) for left, right in read.keys]
    _write_candidates(con, read, table_types, types)
    _check_repeated(con, read, where)
    source = _CANDIDATES
    if read.event_time is not None and read.known_at is not None:
        _write_effective(con, len(types))
        source = _EFFECTIVE
    on = [
        f"TRY_CAST(s.{quote(right)} AS {key_type}) = x.k{i}"
        for i, ((_, right), key_type) in enumerate(zip(read.keys, types, strict=True))
    ]
    kind, hit = "LEFT JOIN", "x.hit IS NOT NULL"
    if read.event_time is not None:
        kind = "ASOF LEFT JOIN"
        on.append(f"s.{_T} >= x.v")
        if read.ttl_us is not None:
            hit += f" AND s.{_T} - x.e <= CAST({read.ttl_us} AS HUGEINT) * 1000"
    values = [f"c{i}" for i in range(len(read.columns))] + ["event_time", "known_at"]
    taken = ", ".join(f"CASE WHEN {hit} THEN x.{value} END AS {value}" for value in values)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {into} AS SELECT ({hit}) AS hit, {taken}"
        f" FROM {_SPINE} AS s {kind} {source} AS x ON {' AND '.join(on)} ORDER BY s.{_N}"
    )
    row = con.execute(f"SELECT count(*) FILTER (hit) FROM {into}").fetchone()
    return int(row[0]) if row else 0


def _write_candidates(
    con: duckdb.DuckDBPyConnection, read: Read, types: Mapping[str, str], key_types: Sequence[str | None]
) -> None:
    """Write the rows that can be an answer to some spine row: keys k0..., times e, k and v, values c0..."""
    keys = [
        f"TRY_CAST({quote(key)} AS {key_type})"
        for (key, _), key_type in zip(read.keys, key_types, strict=True)
    ]
    values = [f"{quote(column)} AS c{i}" for i, column in enumerate(read.columns)]
    needed = list(keys)
    times = ["NULL AS event_time", "NULL AS known_at"]
    if read.event_time is not None:
        known_at = read.known_at or read.event_time
        e, k = (nanoseconds(quote(time), types[time]) for time in (read.event_time, known_at))
        times = [
            f"{e} AS e",
            f"{k} AS k",
            f"greatest({e}, {k}) AS v",
            f"{quote(read.event_time)} AS event_time",
            f"{quote(known_at)} AS known_at",
        ]
        needed += [quote(read.event_time), quote(known_at)]
    chosen = [f"{key} AS k{i}" for i, key in enumerate(keys)] + times + values + ["TRUE AS hit"]
    conditions = " AND ".join(f"{expression} IS NOT NULL" for expression in needed)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_CANDIDATES} AS"
        f" SELECT {', '.join(chosen)} FROM {quote(read.table)} WHERE {conditions}"
    )


def _write_effective(con: duckdb.DuckDBPyConnection, n_keys: int) -> None:
    keys = ", ".join(f"k{i}" for i in range(n_keys))
    # In this order equal e come with rising k, so a maximum of e alone is a maximum of (e, k).
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_EFFECTIVE} AS SELECT * FROM {_CANDIDATES}"
        f" WINDOW w AS (PARTITION BY {keys} ORDER BY v, e, k)"
        " QUALIFY lead(v) OVER w IS DISTINCT FROM v AND e = max(e) OVER w"
    )


def _outputs(read: Read, provenance: bool) -> list[tuple[str, str]]:
    """Return (column of the found table, column of the result) of a read."""
    found = [(f"c{i}", f"{read.prefix}__{column}") for i, column in enumerate(read.columns)]
    if provenance and read.event_time is not None:
        found += zip(("event_time", "known_at"), read.provenance_columns(), strict=True)
    return found


def _check(
    con: duckdb.DuckDBPyConnection,
    *,
    spine: str,
    at: str | None,
    reads: Sequence[Read],
    provenance: bool,
    where: Location | None,
) -> None:
    spine_types = describe(con, spine)
    spine_columns = ([] if at is None else [at]) + [right for read in reads for _, right in read.keys]
    problems = find_missing(spine_columns, spine_types, table=spine, where=where)
    if at in spine_types:
        problems += check_time(con, spine, at, spine_types[at], where=where)
    for read in reads:
        problems += _check_read(con, read, spine, spine_types, where)
        if at is None and read.event_time is not None:
            problems.append(_no_moment(read, where))
    names = [*spine_types, *(name for read in reads for _, name in _outputs(read, provenance))]
    problems += check_distinct(names, where=where)
    if problems:
        raise StepError(problems)


def _no_moment(read: Read, where: Location | None) -> Problem:
    return Problem(
        code="TR402",
        what=f'"{read.table}" changes over time, and the dataset does not say when it predicts',
        where=where,
        why=f'its rows are true from "{read.event_time}" on',
        fix="add `at` to the dataset: the moment of prediction",
    )


def _check_read(
    con: duckdb.DuckDBPyConnection,
    read: Read,
    spine: str,
    spine_types: Mapping[str, str],
    where: Location | None,
) -> list[Problem]:
    types = describe(con, read.table)
    problems = find_missing(read.table_columns, types, table=read.table, where=where)
    problems += [
        problem
        for left, right in read.keys
        if left in types and right in spine_types
        for problem in check_key(
            (read.table, left, types[left]), (spine, right, spine_types[right]), where=where
        )
    ]
    for time in (read.event_time, read.known_at):
        if read.event_time is not None and time in types:
            problems += check_time(con, read.table, time, types[time], where=where)
    return problems


def check_key(
    left: tuple[str, str, str], right: tuple[str, str, str], *, where: Location | None
) -> list[Problem]:
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


def check_time(
    con: duckdb.DuckDBPyConnection, relation: str, column: str, time_type: str, *, where: Location | None
) -> list[Problem]:
    """Return a TR712 when a column is no DATE or TIMESTAMP, or holds an infinite time."""
    if time_type not in TIME_TYPES:
        return [
            Problem(
                code="TR712",
                what=f'"{column}" of "{relation}" is no time',
                where=where,
                why=f"it is {time_type}; a time is a DATE or a TIMESTAMP",
                fix=f"cast it where it is made: cast({column} as timestamp) as {column}",
            )
        ]
    infinite = find_infinite(con, relation, column, time_type)
    if infinite is None:
        return []
    return [
        Problem(
            code="TR712",
            what=f'"{column}" of "{relation}" holds an infinite time',
            where=where,
            why=f"{infinite} is neither before nor after the moment of a row",
            fix=f"write NULL for it: case when isfinite({column}) then {column} end as {column}",
        )
    ]


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


def _check_repeated(con: duckdb.DuckDBPyConnection, read: Read, where: Location | None) -> None:
    keys = {key: f"k{i}" for i, (key, _) in enumerate(read.keys)}
    if read.event_time is None:
        examples = find_repeated(con, _CANDIDATES, keys, by=keys.values())
        code, what = "TR704", f'"{read.table}" is static and has several rows for one key'
        fix = f"keep one row for each {', '.join(keys)}, or give the table an event_time"
    else:
        shown = {**keys, read.event_time: "event_time"}
        if read.known_at is not None:
            shown[read.known_at] = "known_at"
        examples = find_repeated(con, _CANDIDATES, shown, by=[*keys.values(), "e", "k"])
        code, what = "TR705", f'"{read.table}" has several rows for one entity at one time'
        fix = "keep one of them, or tell the later one apart by its known_at"
    if examples:
        raise StepError(Problem(code=code, what=what, where=where, why="\n".join(examples), fix=fix))
