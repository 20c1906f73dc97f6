"""What Treadle remembers between commands: `.treadle/state.db`.

    start_run -> record_version, record_step ... -> publish (one durable transaction) -> finish_run

Versions themselves live in the store; the state indexes them and holds the environments' maps, the runs and
the registry.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from treadle_runtime.disk import remove_empty, storage_errors
from treadle_runtime.lock import is_held
from treadle_runtime.statefile import StateFile
from treadle_runtime.textpack import pack_texts, unpack_texts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

SCHEMA = """
CREATE TABLE versions (
  fingerprint TEXT PRIMARY KEY, step TEXT NOT NULL, kind TEXT NOT NULL, components TEXT NOT NULL,
  rows INTEGER NOT NULL, bytes INTEGER NOT NULL, seconds REAL NOT NULL, run_id TEXT, created_at TEXT NOT NULL,
  summary TEXT NOT NULL, reproducible INTEGER NOT NULL
) STRICT;
CREATE TABLE environments (
  env TEXT NOT NULL, step TEXT NOT NULL, fingerprint TEXT NOT NULL, PRIMARY KEY (env, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE runs (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, env TEXT NOT NULL, command TEXT NOT NULL, as_of TEXT,
  started_at TEXT NOT NULL, finished_at TEXT, status TEXT NOT NULL
) STRICT;
CREATE TABLE run_steps (
  run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, step TEXT NOT NULL, fingerprint TEXT,
  status TEXT NOT NULL, seconds REAL NOT NULL, message TEXT NOT NULL, PRIMARY KEY (run_id, step)
) STRICT;
CREATE TABLE publications (
  id INTEGER PRIMARY KEY, env TEXT NOT NULL, run_id TEXT NOT NULL REFERENCES runs (id), at TEXT NOT NULL,
  changes TEXT NOT NULL
) STRICT;
CREATE TABLE source_parts (
  path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL, digest TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE model_versions (
  pipeline TEXT NOT NULL, number INTEGER NOT NULL, model TEXT NOT NULL,
  choose TEXT NOT NULL, twin TEXT NOT NULL, shipped TEXT NOT NULL, validate TEXT NOT NULL,
  evaluate TEXT NOT NULL, split TEXT NOT NULL, dataset TEXT NOT NULL, champion_input INTEGER,
  metrics TEXT NOT NULL, passed INTEGER NOT NULL, created_at TEXT NOT NULL,
  run_id TEXT NOT NULL REFERENCES runs (id),
  PRIMARY KEY (pipeline, number), UNIQUE (pipeline, validate, shipped)
) STRICT;
CREATE TABLE aliases (
  env TEXT NOT NULL, pipeline TEXT NOT NULL, alias TEXT NOT NULL, number INTEGER NOT NULL,
  PRIMARY KEY (env, pipeline, alias),
  FOREIGN KEY (pipeline, number) REFERENCES model_versions (pipeline, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE alias_history (
  id INTEGER PRIMARY KEY, env TEXT NOT NULL, pipeline TEXT NOT NULL, alias TEXT NOT NULL,
  old INTEGER, new INTEGER NOT NULL, forced INTEGER NOT NULL, at TEXT NOT NULL
) STRICT;
"""

SCHEMA_2 = """
ALTER TABLE versions ADD COLUMN passed INTEGER;
ALTER TABLE versions ADD COLUMN texts BLOB;
CREATE TABLE inlined_identities (
  fingerprint TEXT PRIMARY KEY, step TEXT NOT NULL, components TEXT NOT NULL, run_id TEXT, created_at TEXT NOT NULL,
  texts BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE inlined (
  fingerprint TEXT PRIMARY KEY, step TEXT NOT NULL, kind TEXT, sql TEXT
) STRICT, WITHOUT ROWID;
INSERT OR IGNORE INTO inlined
  SELECT fingerprint, step, NULL, NULL FROM environments WHERE fingerprint NOT IN (SELECT fingerprint FROM versions);
CREATE TABLE publications_2 (
  id INTEGER PRIMARY KEY, env TEXT NOT NULL, run_id TEXT REFERENCES runs (id) ON DELETE SET NULL,
  command TEXT NOT NULL, at TEXT NOT NULL, changes TEXT NOT NULL, candidates TEXT, restores INTEGER
) STRICT;
INSERT INTO publications_2 (id, env, run_id, command, at, changes)
  SELECT p.id, p.env, p.run_id, r.command, p.at, p.changes FROM publications AS p JOIN runs AS r ON r.id = p.run_id;
DROP TABLE publications;
ALTER TABLE publications_2 RENAME TO publications;
CREATE INDEX publications_env ON publications (env, id);
"""
"""What is published has its text beside it where it is a view or a source in place, which the store does not hold;
a publication need not come from a run."""

SCHEMA_3 = """
ALTER TABLE runs ADD COLUMN options TEXT NOT NULL DEFAULT '{}';
ALTER TABLE run_steps ADD COLUMN attempts INTEGER NOT NULL DEFAULT 1;
CREATE TABLE freshness (
  fingerprint TEXT NOT NULL, column_name TEXT NOT NULL, newest_us INTEGER, PRIMARY KEY (fingerprint, column_name)
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: tuple[str, ...] = (SCHEMA, SCHEMA_2, SCHEMA_3)
"""In the order in which they are applied; never edited once released."""


_VERSION_COLUMNS = ", ".join(
    (
        *("fingerprint", "step", "kind", "components", "rows", "bytes", "seconds"),
        *("run_id", "created_at", "summary", "reproducible", "passed", "texts"),
    )
)
_STEP_COLUMNS = "run_id, step, fingerprint, status, seconds, message, attempts"


@dataclass(frozen=True)
class VersionRecord:
    """What is known of a version without opening it.

    Attributes:
        components: what its fingerprint was made of: code, configuration, inputs, distributions.
        summary: what the step tells in one line, as JSON.
    """

    fingerprint: str
    step: str
    kind: str
    components: Mapping[str, Any]
    rows: int
    bytes: int
    seconds: float
    run_id: str | None
    created_at: str
    summary: Mapping[str, Any]
    reproducible: bool


@dataclass(frozen=True)
class Result:
    """What became of one step, to be recorded.

    Attributes:
        version: what there is to know of its version without opening it; None where there is none.
        passed: the verdict of a test or of gates; None for all else.
    """

    step: str
    kind: str
    status: str
    fingerprint: str
    seconds: float = 0.0
    message: str = ""
    version: VersionFacts | None = None
    passed: bool | None = None
    attempts: int = 1


@dataclass(frozen=True)
class VersionFacts:
    """A version's rows, bytes, whether another build gives the same; what its fingerprint was made of, in texts too."""

    components: Mapping[str, str]
    rows: int
    bytes: int
    reproducible: bool
    texts: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Remembered:
    """What an identity was made of.

    Attributes:
        components: as in `VersionRecord`.
        texts: component -> the text that it is a digest of; none where an earlier Treadle recorded it.
    """

    components: Mapping[str, str]
    texts: Mapping[str, str]
    run_id: str | None
    created_at: str


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


@dataclass(frozen=True)
class Candidate:
    """A model that went through a pipeline, by the fingerprints of the steps that made and judged it.

    Attributes:
        twin: the train step of the chosen model, which never saw the test rows.
        shipped: the refit, or the twin where nothing is refitted.
        champion_input: the number that was champion when the gates were applied; None when there was none.
        metrics: the twin's metrics on the test rows.
        passed: whether every gate passed; a candidate that failed gets a number and no alias.
    """

    pipeline: str
    model: str
    choose: str
    twin: str
    shipped: str
    validate: str
    evaluate: str
    split: str
    dataset: str
    champion_input: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    passed: bool = True


@dataclass(frozen=True)
class Inlined:
    """A view, or a source that is read in place: it has a fingerprint and no version, so its text is kept here.

    Attributes:
        sql: a SELECT over the names that it reads.
    """

    fingerprint: str
    step: str
    kind: str
    sql: str


@dataclass(frozen=True)
class MapEntry:
    """A step as it stands in an environment.

    Attributes:
        kind, rows, created_at: of its version; None where nothing is recorded of it. What is inlined has no rows.
        sql: the text of what is inlined, if it is known.
    """

    step: str
    fingerprint: str
    kind: str | None
    rows: int | None
    created_at: str | None
    sql: str | None
    is_inline: bool


@dataclass(frozen=True)
class Registered:
    """A candidate's number in the registry, and whether it was given now."""

    pipeline: str
    number: int
    is_new: bool
    passed: bool


@dataclass(frozen=True)
class Published:
    """What a publication changed: step id -> (fingerprint before, after), None where there was or is none."""

    changes: Mapping[str, tuple[str | None, str | None]]
    registered: tuple[Registered, ...]


@dataclass(frozen=True)
class Publication:
    """An entry of an environment's history.

    Attributes:
        run_id: the run that published it; None where no step was run for it, as in a promotion or a rollback.
        restores: the earlier publication whose map is in force again since this one, for a rollback.
    """

    id: int
    env: str
    run_id: str | None
    command: str
    at: str
    changes: Mapping[str, tuple[str | None, str | None]]
    restores: int | None = None


def _now() -> datetime:
    return datetime.now(UTC)


class State(StateFile):
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
        clock: Callable[[], datetime] = _now,
        mounts: str | None = None,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> None:
        super().__init__(path, migrations=migrations, mounts=mounts)
        self.clock = clock
        self._held: dict[str, int] = {}
        self._runs = path.parent / "runs"
        self._runs.mkdir(exist_ok=True)

    def close(self) -> None:
        """Close the file; runs of this process that were not finished count as interrupted from now on."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()
        super().close()

    def now(self) -> str:
        """Return the clock's time as ISO 8601 text in UTC."""
        return self.clock().astimezone(UTC).isoformat(timespec="microseconds")

    # versions

    def record_version(
        self,
        fingerprint: str,
        *,
        step: str,
        kind: str,
        components: Mapping[str, Any],
        rows: int = 0,
        bytes: int = 0,  # noqa: A002 the word that versions use
        seconds: float = 0.0,
        run_id: str | None = None,
        summary: Mapping[str, Any] | None = None,
        reproducible: bool = True,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Record a version that the store holds; a later record of it replaces an earlier one.

        Args:
            texts: component -> the text that it is a digest of.
        """
        values = (fingerprint, step, kind, _dump(components), rows, bytes, seconds, run_id, self.now())
        with self.transaction() as con:
            con.execute(
                f"INSERT OR REPLACE INTO versions ({_VERSION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, _dump(summary or {}), int(reproducible), None, pack_texts(texts)),
            )

    def record_results(self, run_id: str, results: Sequence[Result], *, steps: bool = True) -> None:
        """Record what became of steps, and the versions that they made; later records replace earlier ones.

        Args:
            steps: whether they belong to what the run did; False for versions that an earlier run left unrecorded.
        """
        now = self.now()
        versions = [
            (
                *(one.fingerprint, one.step, one.kind, _dump(one.version.components), one.version.rows),
                *(one.version.bytes, one.seconds, run_id, now, "{}", int(one.version.reproducible), one.passed),
                pack_texts(one.version.texts),
            )
            for one in results
            if one.version is not None
        ]
        done = [
            (run_id, one.step, one.fingerprint, one.status, one.seconds, one.message, one.attempts) for one in results
        ]
        with self.transaction() as con:
            slots = "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?"
            con.executemany(f"INSERT OR REPLACE INTO versions ({_VERSION_COLUMNS}) VALUES ({slots})", versions)
            if steps:
                con.executemany(
                    f"INSERT OR REPLACE INTO run_steps ({_STEP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", done
                )

    def verdicts(self) -> dict[str, bool | None]:
        """Return fingerprint -> verdict, None for what is judged by nobody, of all versions that are recorded."""
        rows = self.read("SELECT fingerprint, passed FROM versions")
        return {fingerprint: None if passed is None else bool(passed) for fingerprint, passed in rows}

    def record_inlined(
        self,
        fingerprint: str,
        *,
        step: str,
        components: Mapping[str, Any],
        run_id: str | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Record a view, or a source that is read in place: it has an identity and no version of its own."""
        columns = "fingerprint, step, components, run_id, created_at, texts"
        values = (fingerprint, step, _dump(components), run_id, self.now(), pack_texts(texts))
        with self.transaction() as con:
            con.execute(f"INSERT OR REPLACE INTO inlined_identities ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)

    def recorded_inlined(self) -> set[str]:
        """Return the fingerprints of the views and sources in place whose identity is recorded."""
        return {row[0] for row in self.read("SELECT fingerprint FROM inlined_identities")}

    def inlined(self) -> frozenset[str]:
        """Return the fingerprints of all views and sources in place that anything is recorded of."""
        query = "SELECT fingerprint FROM inlined UNION SELECT fingerprint FROM inlined_identities"
        return frozenset(row[0] for row in self.read(query))

    def version(self, fingerprint: str) -> VersionRecord | None:
        """Return what is recorded of a version, or None."""
        rows = self.read(f"SELECT {_VERSION_COLUMNS} FROM versions WHERE fingerprint = ?", (fingerprint,))
        if not rows:
            return None
        found = dict(rows[0])
        for name in ("components", "summary"):
            found[name] = json.loads(found[name])
        del found["passed"], found["texts"]
        return VersionRecord(**{**found, "reproducible": bool(found["reproducible"])})

    def identities(self, fingerprints: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """Return fingerprint -> its components, for those that are recorded."""
        rows = self._recorded("fingerprint, components", fingerprints)
        return {row["fingerprint"]: json.loads(row["components"]) for row in rows}

    def remembered(self, fingerprints: Iterable[str]) -> dict[str, Remembered]:
        """Return fingerprint -> what its identity was made of, texts included, for those that are recorded."""
        rows = self._recorded("fingerprint, components, run_id, created_at, texts", fingerprints)
        found = {}
        for row in rows:
            components, texts = json.loads(row["components"]), unpack_texts(row["texts"])
            found[row["fingerprint"]] = Remembered(components, texts, row["run_id"], row["created_at"])
        return found

    def _recorded(self, columns: str, fingerprints: Iterable[str]) -> list[sqlite3.Row]:
        wanted = json.dumps(list(fingerprints))
        where = "WHERE fingerprint IN (SELECT value FROM json_each(?))"
        query = f"SELECT {columns} FROM versions {where} UNION ALL SELECT {columns} FROM inlined_identities {where}"
        return self.read(query, (wanted, wanted))

    def step_names(self) -> dict[str, str]:
        """Return fingerprint -> id of the step that made it, for all versions that are recorded."""
        return {row["fingerprint"]: row["step"] for row in self.read("SELECT fingerprint, step FROM versions")}

    def in_use(self) -> set[str]:
        """Return the fingerprints that an environment or a model version stands on."""
        found = {row[0] for row in self.read("SELECT fingerprint FROM environments")}
        columns = "choose, twin, shipped, validate, evaluate, split, dataset"
        for row in self.read(f"SELECT {columns} FROM model_versions"):
            found.update(row)
        return found

    def forget(self, fingerprints: Iterable[str]) -> None:
        """Remove the records of versions that the store no longer holds."""
        with self.transaction() as con:
            self.drop_records(con, fingerprints)

    def drop_records(self, con: sqlite3.Connection, fingerprints: Iterable[str]) -> None:
        """`forget`, within a transaction; also for views and sources in place."""
        wanted = [(each,) for each in fingerprints]
        for table in ("versions", "inlined", "inlined_identities"):
            con.executemany(f"DELETE FROM {table} WHERE fingerprint = ?", wanted)

    # runs

    def start_run(
        self, env: str, command: str, *, as_of: str | None = None, options: Mapping[str, Any] | None = None
    ) -> str:
        """Begin a run, which lives no longer than this process; return its id, as in 20261123T211649-ab12."""
        with self.transaction() as con:
            self._sweep(con)
            run_id, fd = self._claim_run()
            self._held[run_id] = fd
            columns = "id, env, command, as_of, started_at, status, options"
            values = (run_id, env, command, as_of, self.now(), "running", _dump(options or {}))
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

    def record_step(
        self,
        run_id: str,
        step: str,
        *,
        status: str,
        fingerprint: str | None = None,
        seconds: float = 0.0,
        message: str = "",
        attempts: int = 1,
    ) -> None:
        """Record what became of a step in a run; a later record of the same step replaces the earlier one."""
        with self.transaction() as con:
            con.execute(
                f"INSERT OR REPLACE INTO run_steps ({_STEP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run_id, step, fingerprint, status, seconds, message, attempts),
            )

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

    # environments

    def environments(self) -> list[str]:
        """Return the names of the environments that something is published in."""
        return [row[0] for row in self.read("SELECT DISTINCT env FROM environments ORDER BY env")]

    def environment(self, env: str) -> dict[str, str]:
        """Return step id -> fingerprint, as last published in an environment."""
        rows = self.read("SELECT step, fingerprint FROM environments WHERE env = ? ORDER BY step", (env,))
        return {row["step"]: row["fingerprint"] for row in rows}

    def entries(self, env: str) -> list[MapEntry]:
        """Return an environment's map with what is known of each version, by step id."""
        query = """
            SELECT e.step, e.fingerprint, coalesce(v.kind, i.kind) AS kind, v.rows, v.created_at, i.sql,
              i.fingerprint IS NOT NULL AS is_inline
            FROM environments AS e
            LEFT JOIN versions AS v USING (fingerprint) LEFT JOIN inlined AS i USING (fingerprint)
            WHERE e.env = ? ORDER BY e.step"""
        return [MapEntry(**{**dict(row), "is_inline": bool(row["is_inline"])}) for row in self.read(query, (env,))]

    def publish(
        self,
        env: str,
        run_id: str,
        mapping: Mapping[str, str],
        *,
        drop: Iterable[str] = (),
        candidates: Sequence[Candidate] = (),
        inlined: Iterable[Inlined] = (),
    ) -> Published:
        """Publish what a run built, in one durable transaction: the map, its history, the registry.

        Args:
            mapping: step id -> fingerprint; steps that are not named keep theirs.
            drop: ids of steps that left the graph.
            candidates: what the pipelines chose; one that passed its gates becomes `candidate`.
            inlined: what is published and has no version.

        Returns:
            what changed; where nothing did, no history is written.
        """
        with self.transaction(durable=True) as con:
            self._record_inlined(con, inlined)
            registered = tuple(self._register(con, env, run_id, each) for each in candidates)
            command = self.read("SELECT coalesce(max(command), '') FROM runs WHERE id = ?", (run_id,))[0][0]
            wanted = {**dict.fromkeys(drop), **mapping}
            changes = self.write_map(con, env, wanted, command=command, run_id=run_id)
        return Published(changes, registered)

    def write_map(
        self,
        con: sqlite3.Connection,
        env: str,
        wanted: Mapping[str, str | None],
        *,
        command: str,
        run_id: str | None = None,
        restores: int | None = None,
    ) -> dict[str, tuple[str | None, str | None]]:
        """Change an environment's map, within a transaction, and note it in the history if anything changed.

        Args:
            wanted: step id -> fingerprint, None for a step that is to leave; steps that are not named keep theirs.
            command, run_id, restores: see `Publication`. Aliases that move along are moved before.
        """
        changes = _changes(self.environment(env), wanted)
        gone = [(env, step) for step, (_, after) in changes.items() if after is None]
        rows = [(env, step, after) for step, (_, after) in changes.items() if after is not None]
        con.executemany("DELETE FROM environments WHERE env = ? AND step = ?", gone)
        con.executemany("INSERT OR REPLACE INTO environments VALUES (?, ?, ?)", rows)
        if changes:
            query = "SELECT pipeline, number FROM aliases WHERE env = ? AND alias = 'candidate'"
            candidates: dict[str, int] = dict(con.execute(query, (env,)).fetchall())
            columns = "env, run_id, command, at, changes, candidates, restores"
            values = (env, run_id, command, self.now(), _dump(changes), _dump(candidates), restores)
            con.execute(f"INSERT INTO publications ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return changes

    def _record_inlined(self, con: sqlite3.Connection, inlined: Iterable[Inlined]) -> None:
        con.executemany(
            "INSERT INTO inlined VALUES (:fingerprint, :step, :kind, :sql) ON CONFLICT (fingerprint)"
            " DO UPDATE SET kind = excluded.kind, sql = excluded.sql WHERE sql IS NOT excluded.sql",
            [asdict(each) for each in inlined],
        )

    def history(self, env: str, limit: int = 20) -> list[Publication]:
        """Return what was published in an environment, newest first."""
        rows = self.read("SELECT * FROM publications WHERE env = ? ORDER BY id DESC LIMIT ?", (env, limit))
        found = []
        for row in rows:
            changes = {step: (before, after) for step, (before, after) in json.loads(row["changes"]).items()}
            entry = {name: row[name] for name in ("id", "env", "run_id", "command", "at", "restores")}
            found.append(Publication(**entry, changes=changes))
        return found

    def _register(self, con: sqlite3.Connection, env: str, run_id: str, candidate: Candidate) -> Registered:
        values = asdict(candidate)
        values |= {"metrics": _dump(candidate.metrics), "run_id": run_id, "created_at": self.now()}
        same = "pipeline = :pipeline AND validate = :validate AND shipped = :shipped"
        known = con.execute(f"SELECT number FROM model_versions WHERE {same}", values).fetchone()
        if known is None:
            query = "SELECT coalesce(max(number), 0) + 1 FROM model_versions WHERE pipeline = ?"
            values["number"] = con.execute(query, (candidate.pipeline,)).fetchone()[0]
            columns = ", ".join(values)
            slots = ", ".join(f":{name}" for name in values)
            con.execute(f"INSERT INTO model_versions ({columns}) VALUES ({slots})", values)
        number = values["number"] if known is None else known[0]
        if candidate.passed:
            self.point_alias(con, env, candidate.pipeline, "candidate", number)
        return Registered(candidate.pipeline, number, known is None, candidate.passed)

    def point_alias(
        self,
        con: sqlite3.Connection,
        env: str,
        pipeline: str,
        alias: str,
        number: int,
        *,
        forced: bool = False,
    ) -> None:
        """Point an alias at a version, within a transaction, and note it in the history if it moved."""
        where = (env, pipeline, alias)
        query = "SELECT number FROM aliases WHERE env = ? AND pipeline = ? AND alias = ?"
        row = con.execute(query, where).fetchone()
        old = row["number"] if row else None
        if old == number:
            return
        con.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?, ?, ?)", (*where, number))
        columns = "env, pipeline, alias, old, new, forced, at"
        query = f"INSERT INTO alias_history ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        con.execute(query, (*where, old, number, int(forced), self.now()))

    # sources

    def source_parts(self, paths: Iterable[str]) -> dict[str, SourcePart]:
        """Return path -> the file as it was when it was last hashed, for those that are known."""
        query = "SELECT * FROM source_parts WHERE path IN (SELECT value FROM json_each(?))"
        return {row["path"]: SourcePart(**dict(row)) for row in self.read(query, (json.dumps(list(paths)),))}

    def record_source_parts(self, parts: Iterable[SourcePart]) -> None:
        """Remember files that were hashed."""
        with self.transaction() as con:
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
        with self.transaction() as con:
            con.execute("INSERT OR REPLACE INTO freshness VALUES (?, ?, ?)", (fingerprint, column, newest_us))


def _changes(old: Mapping[str, str], wanted: Mapping[str, str | None]) -> dict[str, tuple[str | None, str | None]]:
    found = ((step, (old.get(step), after)) for step, after in sorted(wanted.items()))
    return {step: (before, after) for step, (before, after) in found if before != after}


def _dump(value: Any) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
