"""Everything that can be wrong, in a form that a person can act on.

A `Problem` answers four questions in this order: what, where, why, how to fix.
Exceptions carry one or more of them; only commands turn them into text on a terminal.

    TreadleError              exit code 1: something ran and failed
    ├── StepError             a step of the graph failed, or the user's code in it
    ├── StoreError            the store, the state or the catalog cannot be used
    └── ProjectError          exit code 2: the project is wrong; nothing ran
        └── UsageError        exit code 2: the command was called wrongly
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MAX_SHOWN = 20


@dataclass(frozen=True, order=True)
class Location:
    """A place in a file of the user's project.

    Attributes:
        path: relative to the project's root, with `/`.
        line: from 1; 0 when only the file is known.
        column: from 1; 0 when only the line is known.
        text: the line itself, without its indentation; may be empty.
    """

    path: str
    line: int = 0
    column: int = 0
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        place = self.path
        if self.line:
            place += f":{self.line}"
            if self.column:
                place += f":{self.column}"
        return place


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        code: `TR` and three digits; the table in core/README.md lists them all.
        what: one sentence without a full stop, names in double quotes.
        where: the place to look at first; None when no file is at fault.
        why: the value found and what was expected; may be empty, may have several lines.
        suggestion: the close match ("did you mean"); may be empty.
        fix: what to do, as an imperative; may be empty.
        frames: lines shown last, for user code that raised: the user's own frame is the last of them.
    """

    code: str
    what: str
    where: Location | None = None
    why: str = ""
    suggestion: str = ""
    fix: str = ""
    frames: tuple[str, ...] = ()

    def to_text(self) -> str:
        """Return the problem as lines of text, without colour."""
        lines = [f"error[{self.code}]: {self.what}"]
        if self.where is not None:
            lines.append(f"  {self.where}   {self.where.text}".rstrip())
        lines += [f"  {line}" for line in self.why.splitlines()]
        if self.suggestion:
            lines.append(f"  did you mean: {self.suggestion}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        lines += [f"  {line}" for line in self.frames]
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the problem as a JSON object; absent answers are left out."""
        found: dict[str, object] = {"code": self.code, "what": self.what}
        if self.where is not None:
            found["where"] = {"path": self.where.path, "line": self.where.line, "column": self.where.column}
        for name in ("why", "suggestion", "fix"):
            if value := getattr(self, name):
                found[name] = value
        if self.frames:
            found["frames"] = list(self.frames)
        return found


class TreadleError(Exception):
    """The root of all errors that Treadle raises on purpose.

    Attributes:
        problems: one or more, in the order of the files they stand in.
        exit_code: what a command exits with when nobody handles the error.
    """

    exit_code = 1

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(to_text(self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.problems,)


class StepError(TreadleError):
    """A step of the graph ran and failed."""


class StoreError(TreadleError):
    """The store, the state or the catalog cannot be read or written."""


class ProjectError(TreadleError):
    """The project is wrong; nothing was run."""

    exit_code = 2


class UsageError(ProjectError):
    """The command was called wrongly."""


def to_text(problems: Sequence[Problem]) -> str:
    """Return problems as text, the first twenty in full and the rest as a count."""
    shown = [problem.to_text() for problem in problems[:MAX_SHOWN]]
    if len(problems) > MAX_SHOWN:
        shown.append(f"and {len(problems) - MAX_SHOWN} more")
    return "\n\n".join(shown)
