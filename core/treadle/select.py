"""Which steps a person means: names and methods, with the steps above and below them, in dbt's words.

    name   +name   name+   2+name+1   @name   method:value
    a blank joins (union), a comma narrows (intersection), `*`, `?` and `[...]` match as in a shell

`@name` means the step, what stands on it, and all that those need. A step's own id means that step alone, also where a
pipeline or model has the same name. `state:` and `result:` may mean no step at all: that nothing is modified is an
answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from treadle.errors import Problem, UsageError
from treadle.names import close_match
from treadle.step import Graph, Step

if TYPE_CHECKING:
    from treadle.comparison import Compared

_TERM = re.compile(r"(?P<around>@)?(?P<up>[0-9]{0,6}\+)?(?P<core>[^+@]+?)(?P<down>\+[0-9]{0,6})?")
_TYPES = {"model": "feature", "seed": "source", "snapshot": "source"}
"""dbt's words for kinds; `model` also means what belongs to a model."""
SELECTORS_FILE = "selectors.yml"
RESULTS = ("success", "error", "skipped", "pass", "fail", "warn")


@dataclass(frozen=True)
class Union:
    """Each step that one of the parts means; a part is a term, such as `+tag:daily`."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Intersection:
    """The steps that all parts mean."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Without:
    """The steps that `base` means and `minus` does not."""

    base: Expression
    minus: Expression


Expression = str | Union | Intersection | Without


@dataclass(frozen=True)
class Selectors:
    """The selections of a project that have a name; `treadle.selectors` reads them.

    Attributes:
        named: name -> what it means.
        descriptions: name -> text.
        default: the one that is meant where a command selects nothing; None: all steps are.
    """

    named: Mapping[str, Expression] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None


@dataclass(frozen=True)
class Beside:
    """What stands beside a graph and a selection may ask for.

    Attributes:
        compared: how the graph differs from another side, for `state:`.
        results: step id -> how it ended in the last run, as in `RESULTS`, for `result:`.
        named: name -> what selectors.yml says, for `selector:`.
    """

    compared: Compared | None = None
    results: Mapping[str, str] | None = None
    named: Mapping[str, Expression] = field(default_factory=dict)


def _matches_path(step: Step, value: str) -> bool:
    value = value.rstrip("/")
    return step.where.path == value or step.where.path.startswith(value + "/") or fnmatchcase(step.where.path, value)


def _matches_file(step: Step, value: str) -> bool:
    path = PurePosixPath(step.where.path)
    return fnmatchcase(path.name, value) or fnmatchcase(path.stem, value)


def _matches_folder(step: Step, value: str) -> bool:
    """Compare with `staging.orders`: the folders below the first, and the name; the beginning alone will do."""
    names = (*PurePosixPath(step.where.path).parts[1:-1], step.name)
    wanted = value.split(".")
    return len(wanted) <= len(names) and all(map(fnmatchcase, names, wanted))


def _matches_kind(step: Step, value: str) -> bool:
    return fnmatchcase(step.kind, value) or (value == "model" and bool(step.model))


def _matches_type(step: Step, value: str) -> bool:
    return _matches_kind(step, value) or step.kind == _TYPES.get(value)


def _matches_test_type(step: Step, value: str) -> bool:
    own = "singular" if step.config.get("test") == "sql" else "generic"
    return step.kind == "test" and any(fnmatchcase(word, value) for word in ("data", own))


_METHODS: dict[str, Callable[[Step, str], bool]] = {
    "kind": _matches_kind,
    "resource_type": _matches_type,
    "tag": lambda step, value: any(fnmatchcase(tag, value) for tag in step.tags),
    "path": _matches_path,
    "file": _matches_file,
    "fqn": _matches_folder,
    "pipeline": lambda step, value: fnmatchcase(step.pipeline, value),
    "source": lambda step, value: step.kind == "source" and fnmatchcase(step.name, value.rpartition(".")[2]),
    "test": lambda step, value: step.kind == "test" and fnmatchcase(step.name, value),
    "test_name": lambda step, value: step.kind == "test" and fnmatchcase(str(step.config.get("test")), value),
    "test_type": _matches_test_type,
}
_STATES: dict[str, Callable[[Compared], frozenset[str]]] = {
    "new": lambda compared: compared.new,
    "modified": lambda compared: compared.modified,
    "modified.body": lambda compared: compared.body,
    "modified.configs": lambda compared: compared.configs,
}
_ASKING = ("state", "result", "selector")
"""Methods that ask for what stands beside the graph."""
_CONFIG = "config."


def select(
    graph: Graph, selectors: Iterable[str], exclude: Iterable[str] = (), *, beside: Beside | None = None
) -> frozenset[str]:
    """Return the ids of the steps that selectors mean; no selector means all.

    Args:
        graph: the graph.
        selectors: each a union of terms; all of them are joined.
        exclude: what is taken away again.
        beside: what they ask for beside the graph, see `asked_beside`.

    Raises:
        UsageError: TR601 (a term matches nothing), TR602 (no such method), TR603 (it asks for what is not known here).
    """
    search = _Search(graph, beside or Beside())
    wanted, unwanted = parse(selectors), parse(exclude)
    found = search.find(wanted) if wanted.parts else set(graph.steps)
    return frozenset(found - search.find(unwanted))


def parse(selectors: Iterable[str]) -> Union:
    """Return what selectors of a command line say.

    Raises:
        UsageError: TR601, one is empty, as a shell variable that is not set is.
    """
    members: list[Expression] = []
    for selector in selectors:
        if not selector.split():
            fix = "name a step, as `treadle list` shows them; without --select all are meant"
            raise UsageError(Problem("TR601", "a selector is empty", fix=fix))
        for member in selector.split():
            terms = tuple(term for term in member.split(",") if term)
            if not terms:
                fix = "name a step, as `treadle list` shows them"
                raise UsageError(Problem("TR601", f'"{member}" selects nothing', fix=fix))
            members.append(terms[0] if len(terms) == 1 else Intersection(terms))
    return Union(tuple(members))


def asked_beside(selectors: Iterable[str], named: Mapping[str, Expression] | None = None) -> frozenset[str]:
    """Return which methods of selectors ask for what stands beside the graph: `state`, `result`, `selector`."""
    found: set[str] = set()
    left: list[Expression] = [
        term for selector in selectors for member in selector.split() for term in member.split(",")
    ]
    while left:
        for term in _terms(left.pop()):
            match = _TERM.fullmatch(term)
            method, colon, value = match["core"].partition(":") if match else ("", "", "")
            if not colon or method not in _ASKING:
                continue
            if method == "selector" and method + value not in found and named and value in named:
                left.append(named[value])
            found |= {method, method + value}
    return frozenset(found.intersection(_ASKING))


def _terms(expression: Expression) -> Iterator[str]:
    match expression:
        case str():
            yield expression
        case Without():
            yield from _terms(expression.base)
            yield from _terms(expression.minus)
        case _:
            for part in expression.parts:
                yield from _terms(part)


Indirect = Literal["eager", "buildable", "cautious", "empty"]
"""Which tests come with what they look at: if one of their tables is selected, if all are or stand above a selected
one, if all are, or none."""


def with_tests(graph: Graph, selected: Iterable[str], how: Indirect = "eager") -> frozenset[str]:
    """Return the selection and the tests of what it holds; see `Indirect`."""
    chosen = frozenset(selected)
    if how == "empty":
        return chosen
    within = chosen | graph.ancestors(set(chosen)) if how == "buildable" else chosen

    def comes_along(step: Step) -> bool:
        return not chosen.isdisjoint(step.inputs) and (how == "eager" or within.issuperset(step.inputs))

    return chosen | {step.id for step in graph if step.kind == "test" and comes_along(step)}


class _Search:
    """Finds what expressions mean in a graph."""

    def __init__(self, graph: Graph, beside: Beside) -> None:
        self.graph, self.beside = graph, beside
        self._within: list[str] = []

    def find(self, expression: Expression) -> set[str]:
        match expression:
            case str():
                return self._term(expression)
            case Union():
                return set().union(*map(self.find, expression.parts))
            case Without():
                return self.find(expression.base) - self.find(expression.minus)
        found = set.intersection(*map(self.find, expression.parts))
        if not found and not any(_may_be_empty(term) for term in _terms(expression)):
            text = ",".join(_terms(expression))
            why = "each of its parts selects something, and no step is in all of them"
            fix = "a blank between them means either"
            raise UsageError(Problem("TR601", f'"{text}" selects nothing', why=why, fix=fix))
        return found

    def _term(self, text: str) -> set[str]:
        match = _TERM.fullmatch(text)
        if match is None:
            fix = "write name, +name, name+, 2+name, @name, or a method such as kind:feature"
            raise UsageError(Problem("TR601", f'"{text}" is no selector', fix=fix))
        found = self._named(match["core"])
        if not found and not _may_be_empty(text):
            raise UsageError(_nothing(self.graph, match["core"]))
        if match["around"]:
            readers = found | self.graph.descendants(found)
            return readers | self.graph.ancestors(readers)
        above, below = match["up"], match["down"]
        more: set[str] = set()
        if above:
            more |= self.graph.ancestors(found, depth=int(above[:-1]) if above != "+" else None)
        if below:
            more |= self.graph.descendants(found, depth=int(below[1:]) if below != "+" else None)
        return found | more

    def _named(self, core: str) -> set[str]:
        graph = self.graph
        method, colon, value = core.partition(":")
        if colon:
            return self._by_method(method, value)
        if core in graph.steps:
            return {core}
        found = {step.id for step in graph if _is_named(step, core)}
        return found or {step.id for step in graph if fnmatchcase(step.pipeline, core)}

    def _by_method(self, method: str, value: str) -> set[str]:
        graph = self.graph
        if method.startswith(_CONFIG):
            key = method.removeprefix(_CONFIG)
            return {step.id for step in graph if _has_config(step, key, value)}
        match method:
            case "state":
                return {step_id for step_id in self._in_state(value) if step_id in graph.steps}
            case "result":
                return self._with_result(value)
            case "selector":
                return self._by_selector(value)
        if method not in _METHODS:
            methods = sorted((*_METHODS, *_ASKING, f"{_CONFIG}KEY"))
            suggestion = close_match(method, methods) or ""
            fix = f"methods are {', '.join(f'{name}:' for name in methods)}"
            raise UsageError(Problem("TR602", f'"{method}:" is no selector method', suggestion=suggestion, fix=fix))
        return {step.id for step in graph if _METHODS[method](step, value)}

    def _in_state(self, value: str) -> frozenset[str]:
        if value not in _STATES:
            raise UsageError(_no_word("state", value, _STATES))
        if self.beside.compared is None:
            raise UsageError(_not_here(f"state:{value}", "has nothing to compare with here"))
        return _STATES[value](self.beside.compared)

    def _with_result(self, value: str) -> set[str]:
        if value not in RESULTS:
            raise UsageError(_no_word("result", value, RESULTS))
        if self.beside.results is None:
            raise UsageError(_not_here(f"result:{value}", "has no run to look at here"))
        return {step_id for step_id, found in self.beside.results.items() if found == value} & self.graph.steps.keys()

    def _by_selector(self, name: str) -> set[str]:
        named = self.beside.named
        if name not in named:
            suggestion = close_match(name, named) or ""
            why = f"selectors.yml has {', '.join(sorted(named))}" if named else "there is no selectors.yml"
            fix = "define it in selectors.yml, beside treadle.yml"
            raise UsageError(Problem("TR609", f'"{name}" is no selector of the project', None, why, suggestion, fix))
        if name in self._within:
            why = " -> ".join((*self._within, name))
            raise UsageError(
                Problem("TR609", f'selector "{name}" stands on itself', why=why, fix="take one of them out")
            )
        self._within.append(name)
        try:
            return self.find(named[name])
        finally:
            self._within.pop()


def _may_be_empty(text: str) -> bool:
    """Return whether a term may mean no step: what it asks for may be nothing."""
    match = _TERM.fullmatch(text)
    return match is not None and match["core"].partition(":")[0] in _ASKING and ":" in match["core"]


def _has_config(step: Step, key: str, value: str) -> bool:
    """Return whether a step is configured so; `config.meta.team` looks into a mapping, and a list needs to hold it."""
    found: Any = {"tags": list(step.tags), **step.settings, **step.config}
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is None:
        return False
    return any(fnmatchcase(_to_word(each), value) for each in (found if isinstance(found, (list, tuple)) else [found]))


def _to_word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_named(step: Step, pattern: str) -> bool:
    if fnmatchcase(step.id, pattern) or step.id.startswith(pattern + "."):
        return True
    return (not step.pipeline or bool(step.model) or step.kind == "stage") and fnmatchcase(step.name, pattern)


def _no_word(method: str, value: str, words: Iterable[str]) -> Problem:
    suggestion = close_match(value, tuple(words))
    fix = f"write {', '.join(f'{method}:{name}' for name in words)}"
    what = f'"{method}:{value}" is no selector'
    return Problem("TR602", what, suggestion=f"{method}:{suggestion}" if suggestion else "", fix=fix)


def _not_here(term: str, what: str) -> Problem:
    return Problem("TR603", f'"{term}" {what}', fix="use it in --select or --exclude")


def _nothing(graph: Graph, core: str) -> Problem:
    name = core.partition(":")[2] or core
    known = {step.id for step in graph} | {step.name for step in graph} | {tag for step in graph for tag in step.tags}
    known |= {step.pipeline for step in graph if step.pipeline}
    fix = "see `treadle list` for all names"
    return Problem("TR601", f'"{core}" selects nothing', suggestion=close_match(name, known) or "", fix=fix)
