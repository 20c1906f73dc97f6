"""A few rows of a query, to show."""

from __future__ import annotations

from dataclasses import dataclass

from treadle_runtime.engine import Connection
from treadle_runtime.types import quote_name


@dataclass(frozen=True)
class Sample:
    """The first rows of a query's result as text, NULL as None, and how many rows there are in all."""

    n: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]


def count_rows(con: Connection, sql: str) -> int:
    """Run a query and return how many rows it gives.

    Raises:
        duckdb.Error: the query failed.
    """
    query = sql.strip().rstrip(";")
    return int(con.execute(f"select count(*) from (\n{query}\n)").fetchall()[0][0])


def fetch_sample(con: Connection, sql: str, limit: int, *, n: int | None = None) -> Sample:
    """Run a query, count its rows and return the first of them.

    Args:
        n: how many rows it gives, if they were counted before.

    Raises:
        duckdb.Error: the query failed.
    """
    query = sql.strip().rstrip(";")
    n = count_rows(con, query) if n is None else n
    described = con.execute(f"describe select * from (\n{query}\n)").fetchall()
    names = [str(row[0]) for row in described]
    as_text = ", ".join(f"cast({quote_name(name)} as varchar)" for name in names)
    rows = con.execute(f"select {as_text} from (\n{query}\n) limit {limit}").fetchall()
    return Sample(n, tuple(names), tuple(tuple(row) for row in rows))
