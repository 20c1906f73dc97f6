"""What Treadle remembers between commands: `.treadle/state.db`.

    start_run -> record_results ... -> publish (one durable transaction) -> finish_run

Versions themselves live in the store; the state indexes them and holds the environments' maps, the runs and
the registry.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from treadle_runtime.mapstate import MapState
from treadle_runtime.runstate import RunState
from treadle_runtime.schema import MIGRATIONS
from treadle_runtime.statefile import dump_json, now
from treadle_runtime.versionstate import VersionState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path


@dataclass(frozen=True)
class SourcePart:
    """One file of a source as it was found.

    Attributes:
        path: relative to the project's root with `/`, or absolute when the file lies outside it.
        digest: sha256 of its content, hex.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: str


class State(VersionState, RunState, MapState):
    """The open state; may be used by several threads, and by several processes at once.

    Args:
        path: `.treadle/state.db`.
        clock: what time it is, with a time zone.
        mounts, migrations: see `StateFile`, whose errors every method may raise.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], datetime] = now,
        mounts: str | None = None,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> None:
        super().__init__(path, migrations=migrations, mounts=mounts, clock=clock)

    def source_parts(self, paths: Iterable[str]) -> dict[str, SourcePart]:
        """Return path -> the file as it was when it was last hashed, for those that are known."""
        query = "SELECT * FROM source_parts WHERE path IN (SELECT value FROM json_each(?))"
        return {row["path"]: SourcePart(**dict(row)) for row in self.read(query, (dump_json(list(paths)),))}

    def record_source_parts(self, parts: Iterable[SourcePart]) -> None:
        """Remember files that were hashed."""
        with self.transaction(cache=True) as con:
            con.executemany(
                "INSERT OR REPLACE INTO source_parts VALUES (:path, :size, :mtime_ns, :ctime_ns, :inode, :digest)",
                [asdict(part) for part in parts],
            )

    def newest(self, fingerprint: str, column: str) -> tuple[int | None] | None:
        """Return the greatest moment in a column of a source's version, in us since 1970; None if it is not known."""
        query = "SELECT newest_us FROM freshness WHERE fingerprint = ? AND column_name = ?"
        rows = self.read(query, (fingerprint, column))
        return (rows[0]["newest_us"],) if rows else None

    def record_newest(self, fingerprint: str, column: str, newest_us: int | None) -> None:
        """Remember the greatest moment in a column of a source's version; None where it holds no moment."""
        with self.transaction(cache=True) as con:
            con.execute("INSERT OR REPLACE INTO freshness VALUES (?, ?, ?)", (fingerprint, column, newest_us))
