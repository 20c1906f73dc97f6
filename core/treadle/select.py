"""Which steps a person means: `name`, `+name`, `name+`, `2+name`, `kind:`, `tag:`, `path:`, `pipeline:`, `test:` and
`state:`.

A blank joins (union), a comma narrows (intersection), `*` stands for any text; the words are dbt's. A step's own id
means that step alone, also where a pipeline or model has the same name. `state:` alone may mean no step at all: that
nothing is modified is an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from treadle.errors import Problem, UsageError
from treadle.names import close_match
from treadle.step import Graph, Step

if TYPE_CHECKING:
    from treadle.comparison import Compared

_TERM = re.compile(r"(?P<up>[0-9]{0,6}\+)?(?P<core>[^+]+?)(?P<down>\+[0-9]{0,6})?")


def _matches_path(step: Step, value: str) -> bool:
    value = value.rstrip("/")
    return step.where.path == value or step.where.path.startswith(value + "/") or fnmatchcase(step.where.path, value)


_METHODS: dict[str, Callable[[Step, str], bool]] = {
    "kind": lambda step, value: fnmatchcase(step.kind, value) or (value == "model" and bool(step.model)),
    "tag": lambda step, value: any(fnmatchcase(tag, value) for tag in step.tags),
    "path": _matches_path,
    "pipeline": lambda step, value: fnmatchcase(step.pipeline, value),
    "test": lambda step, value: step.kind == "test" and fnmatchcase(step.name, value),
}
_STATES: dict[str, Callable[[Compared], frozenset[str]]] = {
    "new": lambda compared: compared.new,
    "modified": lambda compared: compared.modified,
    "modified.body": lambda compared: compared.body,
    "modified.configs": lambda compared: compared.configs,
}
_STATE = "state:"


def select(
    graph: Graph, selectors: Iterable[str], exclude: Iterable[str] = (), *, compared: Compared | None = None
) -> frozenset[str]:
    """Return the ids of the steps that selectors mean; no selector means all.

    Args:
        graph: the graph.
        selectors: each a union of terms; all of them are joined.
        exclude: what is taken away again.
        compared: how the graph differs from another side, for `state:`; needed where `uses_state` says so.

    Raises:
        UsageError: TR601 (a term matches nothing), TR602 (no such method), TR603 (`state:`, and nothing was compared).
    """
    wanted, unwanted = _terms(selectors), _terms(exclude)
    found = set().union(*(_union_member(graph, term, compared) for term in wanted)) if wanted else set(graph.steps)
    for term in unwanted:
        found -= _union_member(graph, term, compared)
    return frozenset(found)


def uses_state(selectors: Iterable[str]) -> bool:
    """Return whether a selector compares with another side."""
    return any(_is_state(term) for selector in selectors for member in selector.split() for term in member.split(","))


def _is_state(term: str) -> bool:
    match = _TERM.fullmatch(term)
    return match is not None and match["core"].startswith(_STATE)


def _terms(selectors: Iterable[str]) -> list[str]:
    """Return the members of all unions; an empty selector, as of a shell variable that is not set, is an error."""
    found: list[str] = []
    for selector in selectors:
        if not selector.split():
            fix = "name a step, as `treadle list` shows them; without --select all are meant"
            raise UsageError(Problem("TR601", "a selector is empty", fix=fix))
        found += selector.split()
    return found


def with_tests(graph: Graph, selected: Iterable[str]) -> frozenset[str]:
    """Return the selection and the tests of what it holds."""
    chosen = set(selected)
    return frozenset(chosen | {step.id for step in graph if step.kind == "test" and chosen & set(step.inputs)})


def _union_member(graph: Graph, text: str, compared: Compared | None) -> set[str]:
    parts = [_term(graph, part, compared) for part in text.split(",") if part]
    if not parts:
        raise UsageError(Problem("TR601", f'"{text}" selects nothing', fix="name a step, as `treadle list` shows them"))
    if not (found := set.intersection(*parts)) and not uses_state([text]):
        why = "each of its parts selects something, and no step is in all of them"
        raise UsageError(
            Problem("TR601", f'"{text}" selects nothing', why=why, fix="a blank between them means either")
        )
    return found


def _term(graph: Graph, text: str, compared: Compared | None) -> set[str]:
    match = _TERM.fullmatch(text)
    if match is None:
        fix = "write name, +name, name+, 2+name, or a method such as kind:feature"
        raise UsageError(Problem("TR601", f'"{text}" is no selector', fix=fix))
    found = _named(graph, match["core"], compared)
    if not found and not _is_state(text):
        raise UsageError(_nothing(graph, match["core"]))
    above, below = match["up"], match["down"]
    more: set[str] = set()
    if above:
        more |= graph.ancestors(found, depth=int(above[:-1]) if above != "+" else None)
    if below:
        more |= graph.descendants(found, depth=int(below[1:]) if below != "+" else None)
    return found | more


def _named(graph: Graph, core: str, compared: Compared | None) -> set[str]:
    method, colon, value = core.partition(":")
    if core.startswith(_STATE):
        return {step_id for step_id in _in_state(value, compared) if step_id in graph.steps}
    if colon:
        if method not in _METHODS:
            methods = sorted((*_METHODS, "state"))
            suggestion = close_match(method, methods) or ""
            fix = f"methods are {', '.join(f'{name}:' for name in methods)}"
            raise UsageError(Problem("TR602", f'"{method}:" is no selector method', suggestion=suggestion, fix=fix))
        return {step.id for step in graph if _METHODS[method](step, value)}
    if core in graph.steps:
        return {core}
    found = {step.id for step in graph if _is_named(step, core)}
    return found or {step.id for step in graph if fnmatchcase(step.pipeline, core)}


def _in_state(value: str, compared: Compared | None) -> frozenset[str]:
    if value not in _STATES:
        suggestion = close_match(value, _STATES) or ""
        fix = f"write {', '.join(f'state:{name}' for name in _STATES)}"
        what = f'"state:{value}" is no selector'
        raise UsageError(Problem("TR602", what, suggestion=f"state:{suggestion}" if suggestion else "", fix=fix))
    if compared is None:
        what = f'"state:{value}" has nothing to compare with here'
        raise UsageError(Problem("TR603", what, fix="use it in --select or --exclude"))
    return _STATES[value](compared)


def _is_named(step: Step, pattern: str) -> bool:
    if fnmatchcase(step.id, pattern) or step.id.startswith(pattern + "."):
        return True
    return (not step.pipeline or bool(step.model) or step.kind == "stage") and fnmatchcase(step.name, pattern)


def _nothing(graph: Graph, core: str) -> Problem:
    name = core.partition(":")[2] or core
    known = {step.id for step in graph} | {step.name for step in graph} | {tag for step in graph for tag in step.tags}
    known |= {step.pipeline for step in graph if step.pipeline}
    fix = "see `treadle list` for all names"
    return Problem("TR601", f'"{core}" selects nothing', suggestion=close_match(name, known) or "", fix=fix)
