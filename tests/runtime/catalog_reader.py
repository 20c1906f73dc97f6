"""A process that reads a catalog again and again, as people do while builds run and die.

    python catalog_reader.py .treadle/dev.duckdb

It waits for the catalog to appear, then prints each edition that it finds, and whatever goes wrong: an error, two
editions in one catalog, or a connection on which an answer changes. It ends when its standard input is closed.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import duckdb

PAUSE_S = 0.2


def read(con: duckdb.DuckDBPyConnection) -> set[int]:
    """Return the editions that the views show, after all their rows were read."""
    views = con.execute("select view_name from duckdb_views() where not internal").fetchall()
    editions: set[int] = set()
    for (view,) in views:
        found = con.execute(f'from "{view}"')
        names = [column[0] for column in found.description or ()]
        rows = found.fetchall()
        if "edition" in names:
            editions.update(row[names.index("edition")] for row in rows)
    n_orders, n_counted = con.execute("select (select count(*) from orders), n_orders from edition").fetchall()[0]
    if n_orders != n_counted:
        raise ValueError(f"{n_orders} orders, {n_counted} were counted")
    if len(editions) != 1:
        raise ValueError(f"editions {sorted(editions)} stand side by side")
    return editions


def main() -> None:
    """Read until standard input is closed."""
    path, is_over = Path(sys.argv[1]), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    while not path.exists() and not is_over.wait(PAUSE_S):
        pass
    last: set[int] = set()
    n = 0
    while not is_over.wait(PAUSE_S):
        n += 1
        try:
            with duckdb.connect(str(path), read_only=True, config={"threads": 1}) as con:
                found = read(con)
                if n % 3 == 0:  # a reader that stays, while the catalog may be replaced under its name
                    time.sleep(2 * PAUSE_S)
                    if read(con) != found:
                        raise ValueError("an open catalog changed")
        except (duckdb.Error, ValueError) as error:
            print(f"error: {error}", flush=True)
            continue
        if found != last:
            print(*found, flush=True)
            last = found


if __name__ == "__main__":
    main()
