"""What the state knows of versions: their identities, and who computed them when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from treadle_runtime.statefile import StateFile, dump_json
from treadle_runtime.textpack import pack_texts, unpack_texts

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

_VERSION_COLUMNS = ", ".join(
    (
        *("fingerprint", "step", "kind", "components", "rows", "bytes", "seconds"),
        *("run_id", "created_at", "summary", "reproducible", "passed", "texts"),
    )
)
_STEP_COLUMNS = "run_id, step, fingerprint, status, seconds, message, attempts"


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
        components: what the fingerprint was made of: code, configuration, inputs, distributions.
        texts: component -> the text that it is a digest of; none where an earlier Treadle recorded it.
    """

    components: Mapping[str, str]
    texts: Mapping[str, str]
    run_id: str | None
    created_at: str


class VersionState(StateFile):
    """Versions, and the views and sources in place that have an identity and no version."""

    def record_results(self, run_id: str, results: Sequence[Result], *, steps: bool = True) -> None:
        """Record what became of steps, and the versions that they made; later records replace earlier ones.

        Args:
            steps: whether they belong to what the run did; False for versions that an earlier run left unrecorded.
        """
        now = self.now()
        versions = [
            (
                *(one.fingerprint, one.step, one.kind, dump_json(one.version.components), one.version.rows),
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
        values = (fingerprint, step, dump_json(components), run_id, self.now(), pack_texts(texts))
        with self.transaction() as con:
            con.execute(f"INSERT OR REPLACE INTO inlined_identities ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)

    def recorded_inlined(self) -> set[str]:
        """Return the fingerprints of the views and sources in place whose identity is recorded."""
        return {row[0] for row in self.read("SELECT fingerprint FROM inlined_identities")}

    def inlined(self) -> frozenset[str]:
        """Return the fingerprints of all views and sources in place that anything is recorded of."""
        query = "SELECT fingerprint FROM inlined UNION SELECT fingerprint FROM inlined_identities"
        return frozenset(row[0] for row in self.read(query))

    def has_version(self, fingerprint: str) -> bool:
        """Return whether anything is recorded of a version."""
        return bool(self.read("SELECT 1 FROM versions WHERE fingerprint = ?", (fingerprint,)))

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

    def drop_records(self, con: sqlite3.Connection, fingerprints: Iterable[str]) -> None:
        """Remove the records of versions that the store no longer holds, and of views and sources in place.

        Args:
            con: within a transaction.
        """
        wanted = [(each,) for each in fingerprints]
        for table in ("versions", "inlined", "inlined_identities"):
            con.executemany(f"DELETE FROM {table} WHERE fingerprint = ?", wanted)
