"""Everything that can be wrong, in a form that a person can act on.

A `Problem` answers four questions in this order: what, where, why, how to fix.
Exceptions carry one or more of them; only commands turn them into text on a terminal.

    TreadleError              exit code 1: something ran and failed
    ├── StepError             a step of the graph failed, or the user's code in it
    │   └── TransientError    for a reason that may pass by itself: it may be tried again
    ├── StoreError            the store, the state or the catalog cannot be used
    └── ProjectError          exit code 2: the project is wrong; nothing ran
        └── UsageError        exit code 2: the command was called wrongly
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

MAX_SHOWN = 20
MAX_LINE = 120

CODES: Mapping[str, str] = {
    "TR001": "no project here",
    "TR002": "YAML does not parse",
    "TR003": "a key that is not known",
    "TR004": "a value of the wrong form",
    "TR005": "a key written twice",
    "TR006": "a required key is missing",
    "TR007": "a file is too large, or YAML aliases expand too far",
    "TR008": "a file lies outside the project",
    "TR009": "a file cannot be read as UTF-8 text",
    "TR010": "another version of Treadle is required",
    "TR011": "something stands in a folder where it does not belong",
    "TR101": "a bad name",
    "TR102": "a name is defined twice",
    "TR103": "something is described or tested that does not exist",
    "TR104": "a name is not defined",
    "TR105": "features read each other in a cycle",
    "TR106": "a name is of the wrong kind",
    "TR107": "an entity is not defined",
    "TR108": "a model is in no pipeline, or in two",
    "TR109": "an environment is not defined",
    "TR201": "a template does not parse",
    "TR202": "a template names what is not defined, or an expression in it fails",
    "TR203": "a template goes beyond its limits, or is unsafe",
    "TR204": "SQL does not parse",
    "TR205": "a table is named without ref()",
    "TR206": "a volatile function without `volatile`",
    "TR207": "a file is read in SQL",
    "TR208": "a file holds not exactly one SELECT",
    "TR209": "env_var may not read this variable",
    "TR210": "a var is not defined",
    "TR211": "an environment variable is not set",
    "TR301": "Python does not parse",
    "TR302": "a parameter is no table",
    "TR303": "a decorator's arguments are not literal",
    "TR304": "no plain function is decorated",
    "TR305": "what a function calls cannot be told from the code (a warning)",
    "TR401": "a feature has an entity, and neither event_time nor static",
    "TR402": "a timed feature in a dataset without `at`",
    "TR403": "the label is missing",
    "TR404": "a feature in a dataset has no entity",
    "TR405": "key columns cannot be matched",
    "TR407": "the label is among the inputs",
    "TR408": "a static feature stands on timed ones",
    "TR411": "a feature cannot be incremental as it is configured",
    "TR501": "a trainer is not known",
    "TR502": "a trainer has no such parameter",
    "TR503": "a parameter's value is not allowed",
    "TR504": "a metric is not known, or is not computed",
    "TR505": "a gate does not parse",
    "TR506": "models of one pipeline differ in dataset or task",
    "TR507": "a split does not fit the dataset",
    "TR508": "a trainer does not fit the task",
    "TR509": "a slice column is not in the dataset",
    "TR510": "a plugin is broken",
    "TR601": "a selector matches nothing",
    "TR602": "a selector method is not known",
    "TR603": "a command is used wrongly",
    "TR608": "what --state names cannot be compared with",
    "TR609": "a selector of selectors.yml is wrong",
    "TR701": "the project's own code raised",
    "TR702": "SQL failed",
    "TR703": "a column's type or a value cannot be stored",
    "TR704": "a key is NULL or not unique",
    "TR705": "two equal rows of a state table",
    "TR706": "a column is missing",
    "TR707": "a part of a split is empty",
    "TR708": "the labels do not fit the task",
    "TR709": "a step took longer than its timeout",
    "TR710": "a worker died",
    "TR711": "a file changed while it was read",
    "TR712": "a column's type does not fit",
    "TR713": "a source has no files, or cannot be read",
    "TR714": "a Python feature returned no table",
    "TR715": "two columns have one name",
    "TR716": "training failed, or predicted what is no prediction",
    "TR717": "a step was not run",
    "TR718": "a step failed in an unexpected way",
    "TR731": "a row's event_time fits into no interval",
    "TR732": "the intervals of a feature differ in their columns",
    "TR733": "a feature has too many intervals",
    "TR801": "written by a newer Treadle",
    "TR802": "a file system without locks",
    "TR803": "the disk is full",
    "TR804": "the state or a stored version is damaged",
    "TR805": "the store cannot be written",
    "TR806": "another program holds the catalog",
    "TR807": "not built yet",
    "TR808": "what was shown has changed meanwhile",
}
"""Every code and what it says; the table in core/README.md is the same."""


class Location(Struct, frozen=True, eq=False, array_like=True, gc=False):
    """A place in a file of the user's project.

    Attributes:
        path: relative to the project's root, with `/`.
        line: from 1; 0 when only the file is known.
        column: from 1; 0 when only the line is known.
        text: the line itself, without its indentation; may be empty. Two places are the same whatever it is.
    """

    path: str
    line: int = 0
    column: int = 0
    text: str = ""

    @property
    def _place(self) -> tuple[str, int, int]:
        return self.path, self.line, self.column

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self._place == other._place

    def __lt__(self, other: Location) -> bool:
        return self._place < other._place

    def __hash__(self) -> int:
        return hash(self._place)

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
            lines.append(f"  {self.where}   {_printable(self.where.text)}".rstrip())
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


def _printable(line: str) -> str:
    """Return a line of a user's file for a terminal: short, and without what a terminal would obey."""
    text = "".join(c if c.isprintable() else " " for c in line)
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 3] + "..."


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


class TransientError(StepError):
    """A step failed for a reason that may pass by itself: `retries` are for these."""


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
