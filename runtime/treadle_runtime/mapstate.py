"""What the state knows of environments: their maps, the history of these, and the registry of models."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from treadle_runtime.statefile import StateFile, dump_json

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Candidate:
    """A model that went through a pipeline, by the fingerprints of the steps that made and judged it.

    Attributes:
        twin: the train step of the chosen model, which never saw the test rows.
        shipped: the refit, or the twin where nothing is refitted: the pipeline asks for none, or the gates failed.
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


class MapState(StateFile):
    """Environments, publications, model versions and their aliases."""

    def environments(self) -> list[str]:
        """Return the names of the environments that something is published in."""
        return [row[0] for row in self.read("SELECT DISTINCT env FROM environments ORDER BY env")]

    def environment(self, env: str) -> dict[str, str]:
        """Return step id -> fingerprint, as last published in an environment."""
        rows = self.read("SELECT step, fingerprint FROM environments WHERE env = ? ORDER BY step", (env,))
        return {row["step"]: row["fingerprint"] for row in rows}

    def revision(self, env: str) -> list[list[object]]:
        """Return what is another value whenever an environment's map or aliases have changed."""
        last = "SELECT id, at FROM publications WHERE env = ? ORDER BY id DESC LIMIT 1"
        aliases = "SELECT pipeline, alias, number FROM aliases WHERE env = ? ORDER BY pipeline, alias"
        return [list(row) for query in (last, aliases) for row in self.read(query, (env,))]

    def entries(self, env: str) -> list[MapEntry]:
        """Return an environment's map with what is known of each version, by step id."""
        query = """
            SELECT e.step, e.fingerprint, coalesce(v.kind, i.kind) AS kind, v.rows, v.created_at, i.sql,
              i.fingerprint IS NOT NULL AS is_inline
            FROM environments AS e
            LEFT JOIN versions AS v USING (fingerprint) LEFT JOIN inlined AS i USING (fingerprint)
            WHERE e.env = ? ORDER BY e.step"""
        return [
            MapEntry(step, fingerprint, kind, rows, created_at, sql, bool(is_inline))
            for step, fingerprint, kind, rows, created_at, sql, is_inline in self.read(query, (env,))
        ]

    def publish(
        self,
        env: str,
        run_id: str,
        mapping: Mapping[str, str],
        *,
        drop: Iterable[str] = (),
        candidates: Sequence[Candidate] = (),
        inlined: Iterable[Inlined] = (),
        check: Callable[[], None] = lambda: None,
    ) -> Published:
        """Publish what a run built, in one durable transaction: the map, its history, the registry.

        Args:
            mapping: step id -> fingerprint; steps that are not named keep theirs.
            drop: ids of steps that left the graph.
            candidates: what the pipelines chose; one that passed its gates becomes `candidate`.
            inlined: what is published and has no version.
            check: is called within the transaction, while nothing can be removed; raises to give up.

        Returns:
            what changed; where nothing did, no history is written.
        """
        with self.transaction(durable=True) as con:
            check()
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
            values = (env, run_id, command, self.now(), dump_json(changes), dump_json(candidates), restores)
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
        values |= {"metrics": dump_json(candidate.metrics), "run_id": run_id, "created_at": self.now()}
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


def _changes(old: Mapping[str, str], wanted: Mapping[str, str | None]) -> dict[str, tuple[str | None, str | None]]:
    found = ((step, (old.get(step), after)) for step, after in sorted(wanted.items()))
    return {step: (before, after) for step, (before, after) in found if before != after}
