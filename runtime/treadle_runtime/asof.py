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

from dataclasses import dataclass
from typing import TYPE_CHECKING

from treadle.errors import Location, Problem, StepError
from treadle_runtime.columns import (
    check_distinct,
    check_key,
    check_present,
    check_time,
    common_key_type,
    find_repeated,
    find_types,
    nanoseconds,
)
from treadle_runtime.types import quote_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from treadle_runtime.engine import Connection

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

    @property
    def value_columns(self) -> tuple[str, ...]:
        """The names under which `columns` come out, in their order."""
        return tuple(f"{self.prefix}__{column}" for column in self.columns)

    def provenance_columns(self) -> tuple[str, str]:
        """Return the names under which a value's event_time and known_at come out.

        The third underscore keeps them apart from a value column called event_time.
        """
        return f"{self.prefix}___event_time", f"{self.prefix}___known_at"


def join(
    con: Connection,
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
    moment = "NULL::HUGEINT" if at is None else nanoseconds(quote_name(at), find_types(con, spine)[at])
    tables = [f"{_FOUND}_{i}" for i in range(len(reads))]
    try:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {_SPINE} AS"
            f" SELECT row_number() OVER () AS {_N}, {moment} AS {_T}, * FROM {quote_name(spine)}"
        )
        matched = {
            read.prefix: _find(con, read, into=table, where=where) for read, table in zip(reads, tables, strict=True)
        }
        names = [
            f"{table}.{column} AS {quote_name(name)}"
            for read, table in zip(reads, tables, strict=True)
            for column, name in _outputs(read, provenance)
        ]
        # Each table holds one row for each spine row, in its order: side by side costs a ninth of joins on n.
        sides = "".join(f" POSITIONAL JOIN {table}" for table in tables)
        chosen = ", ".join([f"{_SPINE}.* EXCLUDE ({_N}, {_T})", *names])
        con.execute(f"CREATE TABLE {quote_name(into)} AS SELECT {chosen} FROM {_SPINE}{sides}")
    finally:
        for table in (_SPINE, _CANDIDATES, _EFFECTIVE, *tables):
            con.execute(f"DROP TABLE IF EXISTS temp.{table}")
    return matched


def _find(con: Connection, read: Read, *, into: str, where: Location | None) -> int:
    """Create `into`: hit, c0..., event_time, known_at of each spine row, in order; return the hits."""
    table_types, spine_types = find_types(con, read.table), find_types(con, _SPINE)
    types = [common_key_type(table_types[left], spine_types[right]) for left, right in read.keys]
    _write_candidates(con, read, table_types, types)
    _check_repeated(con, read, where)
    source = _CANDIDATES
    if read.event_time is not None and read.known_at is not None:
        _write_effective(con, len(types))
        source = _EFFECTIVE
    on = [
        f"TRY_CAST(s.{quote_name(right)} AS {key_type}) = x.k{i}"
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


def _write_candidates(con: Connection, read: Read, types: Mapping[str, str], key_types: Sequence[str | None]) -> None:
    """Write the rows that can be an answer to some spine row: keys k0..., times e, k and v, values c0..."""
    keys = [
        f"TRY_CAST({quote_name(key)} AS {key_type})" for (key, _), key_type in zip(read.keys, key_types, strict=True)
    ]
    values = [f"{quote_name(column)} AS c{i}" for i, column in enumerate(read.columns)]
    needed = list(keys)
    times = ["NULL AS event_time", "NULL AS known_at"]
    if read.event_time is not None:
        known_at = read.known_at or read.event_time
        e, k = (nanoseconds(quote_name(time), types[time]) for time in (read.event_time, known_at))
        times = [
            f"{e} AS e",
            f"{k} AS k",
            f"greatest({e}, {k}) AS v",
            f"{quote_name(read.event_time)} AS event_time",
            f"{quote_name(known_at)} AS known_at",
        ]
        needed += [quote_name(read.event_time), quote_name(known_at)]
    chosen = [f"{key} AS k{i}" for i, key in enumerate(keys)] + times + values + ["TRUE AS hit"]
    conditions = " AND ".join(f"{expression} IS NOT NULL" for expression in needed)
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_CANDIDATES} AS"
        f" SELECT {', '.join(chosen)} FROM {quote_name(read.table)} WHERE {conditions}"
    )


def _write_effective(con: Connection, n_keys: int) -> None:
    keys = ", ".join(f"k{i}" for i in range(n_keys))
    # In this order equal e come with rising k, so a maximum of e alone is a maximum of (e, k).
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {_EFFECTIVE} AS SELECT * FROM {_CANDIDATES}"
        f" WINDOW w AS (PARTITION BY {keys} ORDER BY v, e, k)"
        " QUALIFY lead(v) OVER w IS DISTINCT FROM v AND e = max(e) OVER w"
    )


def _outputs(read: Read, provenance: bool) -> list[tuple[str, str]]:
    """Return (column of the found table, column of the result) of a read."""
    found = [(f"c{i}", name) for i, name in enumerate(read.value_columns)]
    if provenance and read.event_time is not None:
        found += zip(("event_time", "known_at"), read.provenance_columns(), strict=True)
    return found


def _check(
    con: Connection,
    *,
    spine: str,
    at: str | None,
    reads: Sequence[Read],
    provenance: bool,
    where: Location | None,
) -> None:
    spine_types = find_types(con, spine)
    spine_columns = ([] if at is None else [at]) + [right for read in reads for _, right in read.keys]
    problems = check_present(spine_columns, spine_types, table=spine, where=where)
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
    con: Connection,
    read: Read,
    spine: str,
    spine_types: Mapping[str, str],
    where: Location | None,
) -> list[Problem]:
    types = find_types(con, read.table)
    problems = check_present(read.table_columns, types, table=read.table, where=where)
    problems += [
        problem
        for left, right in read.keys
        if left in types and right in spine_types
        for problem in check_key((read.table, left, types[left]), (spine, right, spine_types[right]), where=where)
    ]
    for time in (read.event_time, read.known_at):
        if read.event_time is not None and time in types:
            problems += check_time(con, read.table, time, types[time], where=where)
    return problems


def _check_repeated(con: Connection, read: Read, where: Location | None) -> None:
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
