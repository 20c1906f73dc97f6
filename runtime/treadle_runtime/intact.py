"""Whether what a step reads is as it was written: parts compared with their digests, each once in a run.

Models learn and are judged on datasets, so these and all that stands on them compare whatever they read. A feature may
need two columns of a large source: reading such a part whole takes four times as long as the query. Features and tests
compare the parts up to `SMALL_BYTES`, for 14 us and 0.8 ms/MB each, and leave the others to `treadle verify`, which
therefore counts what was computed from a damaged version as damaged too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from treadle.errors import StoreError
from treadle.step import Step
from treadle_runtime.job import Job
from treadle_runtime.store import Part, Store, Version

SMALL_BYTES = 16 << 20
_LARGE_READERS = frozenset({"source", "feature", "test"})


def compares_all(kind: str) -> bool:
    """Return whether steps of a kind compare all that they read, however large."""
    return kind not in _LARGE_READERS


class Intact:
    """What was seen to be as it was written, in one run; for several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: set[tuple[str, str]] = set()

    def add(self, version: Version) -> None:
        """Note a version whose digests were made in this run."""
        self._seen.update((version.fingerprint, part.name) for part in version.parts)

    def check_inputs(self, job: Job) -> None:
        """Make sure that what a step reads is whole; of tables that it reads by time, its pieces see to that.

        Raises:
            StoreError: TR804.
        """
        by_time = {r.version.fingerprint for r in job.relations if r.version and r.origin and r.origin.event_time}
        found = [*job.versions.values(), *(r.version for r in job.relations if r.version is not None)]
        if job.opponent is not None:
            found += [job.opponent.twin, job.opponent.dataset, job.opponent.split]
        for version in found:
            if version.fingerprint not in by_time:
                self.check(version, version.parts, reader=job.step)

    def check(self, version: Version, parts: Iterable[Part], *, reader: Step) -> None:
        """Make sure that parts of a version that a step reads are whole, those that were not yet looked at.

        Raises:
            StoreError: TR804.
        """
        new = [
            part
            for part in parts
            if (version.fingerprint, part.name) not in self._seen
            and (part.bytes <= SMALL_BYTES or compares_all(reader.kind))
        ]
        if problems := self._store.verify(version, new):
            raise StoreError(replace(problem, why=f"{problem.why}\nread by {reader.id}") for problem in problems)
        self._seen.update((version.fingerprint, part.name) for part in new)
