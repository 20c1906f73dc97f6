"""Results of a run on their way into the state: written together, for a transaction costs as much as a small step.

What is not yet written when the process is killed is not lost: the versions stand in the store, and the next run
records those that it finds unrecorded.
"""

from __future__ import annotations

import time

from treadle_runtime.runresult import StepResult
from treadle_runtime.state import State
from treadle_runtime.versionstate import Result, VersionFacts

MAX_WAITING = 256
MAX_AGE_S = 0.5


class Ledger:
    """Collects the results of one run; for one thread."""

    def __init__(self, state: State, run_id: str) -> None:
        self._state, self._run_id = state, run_id
        self._waiting: list[Result] = []
        self._since = time.monotonic()

    def add(self, result: StepResult) -> None:
        """Note a result."""
        self._waiting.append(to_record(result))
        if len(self._waiting) >= MAX_WAITING or time.monotonic() - self._since > MAX_AGE_S:
            self.flush()

    def flush(self) -> None:
        """Write what was noted."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._state.record_results(self._run_id, waiting)
        self._since = time.monotonic()


def to_record(result: StepResult) -> Result:
    """Return a result in the form that the state keeps."""
    step, version = result.planned.step, result.version
    facts = None
    if version is not None and result.texts is not None:
        identity = result.planned.identity
        facts = VersionFacts(identity.components, version.rows, version.bytes, version.reproducible, result.texts)
    return Result(
        step=step.id,
        kind=step.kind,
        status=result.status,
        fingerprint=result.planned.fingerprint,
        seconds=result.seconds,
        message=result.problems[0].what if result.problems else "",
        version=facts,
        passed=result.verdict,
        attempts=result.attempts,
    )
