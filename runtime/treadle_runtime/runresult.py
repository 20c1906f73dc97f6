"""How the steps of a run ended, and what that comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from treadle.errors import Problem
from treadle.events import Outcome, Status
from treadle.plan import Plan, PlannedStep
from treadle_runtime.version import Version


@dataclass(frozen=True)
class StepResult:
    """How a step ended.

    Attributes:
        version: what was built, or found built when the step's turn came; None for what the plan reused.
        verdict: of a test or of gates; None for all else.
        texts: component -> text, to be recorded with the version; None where it is recorded already.
        attempts: how many tries it took.
        pieces: of a step that is put together from pieces, as `StepFinished` tells them.
    """

    planned: PlannedStep
    status: Status
    seconds: float = 0.0
    version: Version | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    verdict: bool | None = None
    texts: Mapping[str, str] | None = None
    attempts: int = 1
    pieces: tuple[int, int] | None = None

    @property
    def has_passed(self) -> bool:
        """Whether what waits for this step may run: it did not fail, and neither did what it judges."""
        return self.status not in ("failed", "skipped") and self.verdict is not False


@dataclass
class Run:
    """A run in work.

    Attributes:
        results: step id -> result, in the order in which they ended.
    """

    plan: Plan
    run_id: str
    results: dict[str, StepResult] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """What the results come to."""
        return "failed" if self.has_failed() else "rejected" if self.is_rejected() else "passed"

    def has_failed(self) -> bool:
        """Whether a step failed, or a test of severity error."""
        return any(is_failure(result) for result in self.results.values())

    def is_rejected(self) -> bool:
        """Whether the gates of a pipeline did not hold."""
        return bool(self.rejected())

    def rejected(self) -> list[str]:
        """Return the pipelines whose gates did not hold."""
        return [
            result.planned.step.pipeline
            for result in self.results.values()
            if result.planned.step.kind == "validate" and result.status != "skipped" and not result.has_passed
        ]


def is_failure(result: StepResult) -> bool:
    """Return whether a result keeps the run from being published."""
    if result.status == "failed":
        return True
    return result.verdict is False and result.status != "skipped" and result.planned.step.blocks


def verdict_of(version: Version | None) -> bool | None:
    """Return what a version says of what it judges; None where it judges nothing."""
    found = version.info.get("passed") if version is not None else None
    return found if isinstance(found, bool) else None
