"""What happens during a run, as values: commands turn them into lines, JSON or a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from treadle.errors import Problem

Status = Literal["built", "backfilled", "reused", "inlined", "failed", "skipped"]
Outcome = Literal["passed", "failed", "rejected", "interrupted"]


@dataclass(frozen=True)
class RunStarted:
    """A run begins: how many steps it will build besides tests, how many tests it will run, how much it reuses."""

    run_id: str
    environment: str
    n_build: int
    n_tests: int
    n_reuse: int


@dataclass(frozen=True)
class StepStarted:
    """A step is computed from now on."""

    step_id: str
    kind: str
    name: str


@dataclass(frozen=True)
class StepWaits:
    """A step waits for another process that computes the same; `holder` says which."""

    step_id: str
    holder: str


@dataclass(frozen=True)
class StepRetries:
    """A try of a step failed, and another follows after a pause.

    Attributes:
        attempt: the number of the try, from 1.
        n_attempts: how many there may be.
        pause_s: how long the step waits now.
        problem: why it failed.
    """

    step_id: str
    attempt: int
    n_attempts: int
    pause_s: float
    problem: Problem


@dataclass(frozen=True)
class CatalogWaits:
    """The environment's catalog is written by another process first; `holder` says which."""

    environment: str
    holder: str


@dataclass(frozen=True)
class StepFinished:
    """A step is done.

    Attributes:
        status: how it ended.
        seconds: from start to visible result.
        rows: of its version, 0 when it has none.
        n_columns: of its version.
        info: what its version tells of itself.
        notes: what should be looked at, a phrase each.
        problems: why it failed or was skipped.
        attempts: how many tries it took.
        pieces: of a step that is put together from pieces, (how many were computed now, how many there are); of one
            that was backfilled, (how many there are by now, how many it takes).
    """

    step_id: str
    kind: str
    name: str
    status: Status
    seconds: float
    rows: int
    n_columns: int
    info: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    severity: str = "error"
    attempts: int = 1
    pieces: tuple[int, int] | None = None


@dataclass(frozen=True)
class Published:
    """The environment's map was written.

    Attributes:
        environment: its name.
        candidates: pipeline -> number of the version that is its candidate now.
        warnings: what went wrong afterwards and does not take back what was published.
    """

    environment: str
    candidates: Mapping[str, int]
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class RunFinished:
    """A run is over."""

    run_id: str
    status: Outcome
    seconds: float
    counts: Mapping[str, int]


Event = RunStarted | StepStarted | StepWaits | StepRetries | CatalogWaits | StepFinished | Published | RunFinished
Emit = Callable[[Event], None]
