"""What stands in a project after a build, in a form in which two projects can be compared."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

_PASSING = frozenset({"runs", "run_steps", "source_parts"})
"""Tables of what was done, and of how files looked when they were hashed."""
_OF_ONE_RUN = frozenset(
    {"id", "run_id", "command", "at", "created_at", "seconds", "mtime_ns", "ctime_ns", "inode", "started_at"}
)
"""Columns that differ from run to run: times, who did it, and where a file lies on the disk."""


@dataclass(frozen=True)
class Standing:
    """What two builds of one project must agree on.

    Attributes:
        store: path -> bytes of every file of every version.
        state: table -> rows, without what differs from run to run.
        catalog: view -> its text and its rows.
        others: the files that stand beside the store.
    """

    store: dict[str, bytes]
    state: dict[str, list[tuple[Any, ...]]]
    catalog: dict[str, tuple[str, list[tuple[Any, ...]]]]
    others: list[str]

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of all versions."""
        return frozenset(Path(path).parts[1] for path in self.store)


def find_differences(found: Standing, wanted: Standing) -> list[str]:
    """Return what two projects do not agree on, a line each: what is there and should not be, and the reverse."""
    differences = []
    for sign, one, other in (("+", found, wanted), ("-", wanted, found)):
        differences += [f"{sign} {path}" for path in one.store if one.store[path] != other.store.get(path)]
        differences += [f"{sign} {view}" for view in one.catalog if one.catalog[view] != other.catalog.get(view)]
        differences += [f"{sign} {path}" for path in one.others if path not in other.others]
        for table, rows in one.state.items():
            differences += [f"{sign} {table}: {row}" for row in rows if row not in other.state.get(table, [])]
    return differences


def read_standing(root: Path) -> Standing:
    """Return what stands in a project's `.treadle`."""
    folder = root / ".treadle"
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return Standing(
        store={str(path): (folder / path).read_bytes() for path in files if path.parts[0] == "store"},
        state=read_state(folder / "state.db"),
        catalog=read_catalog(folder / "dev.duckdb"),
        others=[str(path) for path in files if path.parts[0] != "store"],
    )


def read_state(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return table -> rows in order, whatever tables there are by now."""
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    found = {}
    try:
        for (table,) in con.execute("select name from sqlite_master where type = 'table' order by name").fetchall():
            if table in _PASSING:
                continue
            names = [row[1] for row in con.execute(f"pragma table_info({table})")]
            columns = ", ".join(f'"{name}"' for name in names if name not in _OF_ONE_RUN)
            found[table] = sorted(con.execute(f"select {columns} from {table}").fetchall(), key=repr)
    finally:
        con.close()
    return found


def read_catalog(path: Path) -> dict[str, tuple[str, list[tuple[Any, ...]]]]:
    """Return view -> its text and its rows, sorted: a view leaves their order open."""
    with duckdb.connect(str(path), read_only=True) as con:
        views = con.execute("select view_name, sql from duckdb_views() where not internal order by 1").fetchall()
        return {name: (sql, sorted(con.execute(f'from "{name}"').fetchall(), key=repr)) for name, sql in views}
