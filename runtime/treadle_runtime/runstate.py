"""What the state knows of runs: what was asked for, what became of each step, which runs are in work."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treadle_runtime.disk import remove_empty, storage_errors
from treadle_runtime.lock import is_held
from treadle_runtime.statefile import StateFile, dump_json

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True)
class StepRecord:
    """What became of one step in one run; `seconds` is what it took then, `message` may be empty."""

    step: str
    fingerprint: str | None
    status: str
    seconds: float
    message: str
    attempts: int = 1


@dataclass(frozen=True)
class RunRecord:
    """One run of a command.

    Attributes:
        status: `running`, `interrupted`, or what the command ended with.
        options: what it was called with: `select`, `exclude`, `tests`, `full_refresh`, `threads`, `vars`; and
            `retry_of`, the run whose rest it did again. Empty where an older Treadle did not note them.
    """

    id: str
    env: str
    command: str
    as_of: str | None
    started_at: str
    finished_at: str | None
    status: str
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[StepRecord, ...] = ()


class RunState(StateFile):
    """Runs and their steps; a run of this process holds a lock in runs/ as long as it is in work.

    Args:
        path, rest: see `StateFile`.
    """

    def __init__(self, path: Path, **rest: Any) -> None:
        super().__init__(path, **rest)
        self._held: dict[str, int] = {}
        self._runs = path.parent / "runs"
        if not self.is_snapshot:
            with storage_errors(self._runs):
                self._runs.mkdir(exist_ok=True)

    def close(self) -> None:
        """Close the file; runs of this process that were not finished count as interrupted from now on."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
        super().close()

    def start_run(
        self, env: str, command: str, *, as_of: str | None = None, options: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run, which lives no longer than this process; return its id, as in 20261123T211649-ab12."""
        with self.transaction() as con:
            self._sweep(con)
            run_id, fd = self._claim_run()
            self._held[run_id] = fd
            columns = "id, env, command, as_of, started_at, status, options"
            values = (run_id, env, command, as_of, self.now(), "running", dump_json(options or {}))
            con.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return run_id

    def _claim_run(self) -> tuple[str, int]:
        while True:
            run_id = f"{self.clock().astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
            if self.read("SELECT 1 FROM runs WHERE id = ?", (run_id,)):
                continue
            try:
                fd = os.open(self._lock_file(run_id), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            except FileExistsError:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            return run_id, fd

    def _sweep(self, con: sqlite3.Connection) -> None:
        """Settle the runs whose process died; new lock files appear under SQLite's write lock only."""
        for (run_id,) in con.execute("SELECT id FROM runs WHERE status = 'running'").fetchall():
            if not is_held(self._lock_file(run_id)):
                con.execute("UPDATE runs SET status = 'interrupted' WHERE id = ?", (run_id,))
                remove_empty(self.path.parent / "logs" / run_id)
        for file in self._runs.glob("*.lock"):
            if not is_held(file):
                file.unlink(missing_ok=True)

    def _lock_file(self, run_id: str) -> Path:
        return self._runs / f"{run_id}.lock"

    def announce(self, run_id: str, fingerprints: Iterable[str]) -> None:
        """Say which versions a run of this process stands on, within a transaction: it is seen by who looks in one."""
        path = self._lock_file(run_id)
        with storage_errors(path):
            os.pwrite(self._held[run_id], "\n".join(sorted(fingerprints)).encode(), 0)

    def announced(self, run_id: str) -> frozenset[str]:
        """Return which versions a run that is in work stands on."""
        try:
            text = self._lock_file(run_id).read_text("utf-8")
        except FileNotFoundError:
            return frozenset()
        return frozenset(text.split())

    def finish_run(self, run_id: str, status: str) -> None:
        """End a run that this process began."""
        with self.transaction() as con:
            query = "UPDATE runs SET status = ?, finished_at = ? WHERE id = ?"
            con.execute(query, (status, self.now(), run_id))
        fd = self._held.pop(run_id, None)
        if fd is not None:
            self._lock_file(run_id).unlink(missing_ok=True)
            os.close(fd)

    def runs(self, limit: int = 20, *, env: str | None = None) -> list[RunRecord]:
        """Return the newest runs, newest first, without their steps: of one environment, or of all."""
        query = "SELECT * FROM runs WHERE ?1 IS NULL OR env = ?1 ORDER BY number DESC LIMIT ?2"
        rows = self.read(query, (env, limit))
        return [self._run(row) for row in rows]

    def last_run(self, env: str) -> RunRecord | None:
        """Return the newest run of an environment with its steps, or None."""
        rows = self.read("SELECT id FROM runs WHERE env = ? ORDER BY number DESC LIMIT 1", (env,))
        return self.run(rows[0]["id"]) if rows else None

    def running(self) -> list[RunRecord]:
        """Return the runs that are in work, newest first; within a transaction none begins meanwhile."""
        rows = self.read("SELECT * FROM runs WHERE status = 'running' ORDER BY number DESC")
        return [run for row in rows if (run := self._run(row)).status == "running"]

    def run(self, run_id: str) -> RunRecord | None:
        """Return a run with its steps in the order in which they ended, or None."""
        rows = self.read("SELECT * FROM runs WHERE id = ?", (run_id,))
        columns = "step, fingerprint, status, seconds, message, attempts"
        steps = self.read(f"SELECT {columns} FROM run_steps WHERE run_id = ? ORDER BY rowid", (run_id,))
        return self._run(rows[0], tuple(StepRecord(**dict(row)) for row in steps)) if rows else None

    def _run(self, row: sqlite3.Row, steps: tuple[StepRecord, ...] = ()) -> RunRecord:
        found = dict(row)
        del found["number"]
        found["options"] = json.loads(found["options"])
        if found["status"] == "running" and not is_held(self._lock_file(found["id"])):
            # It may have ended between the two looks: the row is read again.
            found["status"] = self.read("SELECT status FROM runs WHERE id = ?", (found["id"],))[0][0]
            if found["status"] == "running":
                found["status"] = "interrupted"
        return RunRecord(**found, steps=steps)
