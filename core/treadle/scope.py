"""The names of a project: what each stands for, and what to say when one stands for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from treadle import sql
from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match, is_identifier
from treadle.program import Query
from treadle.render import Rendered
from treadle.yamlfile import word

_HOMES = {"source": "features/", "feature": "features/", "dataset": "models/", "model": "models/"}
_MAX_CHOICES = 8
_SURELY = 0.8


@dataclass
class Scope:
    """Sources, features, datasets and models share one space of names.

    Attributes:
        kinds: name -> source, feature, dataset or model.
        places: name -> where it is defined.
        steps: name -> id of the step that a reader of the name reads.
        broken: names whose definition is wrong; a reference to one is no further problem.
        unread: kinds of which some names are not known, because their file cannot be read.
        unread_texts: what stands in these files, as far as it is text.
        problems: what was found wrong.
        warnings: what should be looked at.
    """

    broken: set[str]
    problems: list[Problem]
    unread: set[str] = field(default_factory=set)
    unread_texts: tuple[str, ...] = ()
    kinds: dict[str, str] = field(default_factory=dict)
    places: dict[str, Location] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)

    @contextmanager
    def collecting(self, name: str, *, unread: str = "") -> Iterator[None]:
        """Keep the problems of what is done inside; if there were any, `name` is broken, and names of a kind unread."""
        try:
            yield
        except ProjectError as error:
            self.problems.extend(error.problems)
            self.broken.add(name)
            self.unread |= {unread} - {""}

    def define(self, name: str, kind: str, where: Location, *, step: str = "") -> bool:
        """Take a name; report TR101 or TR102 and return False where that is not possible."""
        if not is_identifier(name):
            self.problems.append(bad_name(kind, name, where))
            return False
        if name in self.kinds:
            why = f'{self.kinds[name]} "{name}" stands at {self.places[name]}'
            fix = "rename one of the two: sources, features, datasets and models share one space of names"
            self.problems.append(Problem("TR102", f'"{name}" is defined twice', where, why, fix=fix))
            self.broken.add(name)
            return False
        self.kinds[name], self.places[name], self.steps[name] = kind, where, step or name
        return True

    def resolve(self, name: str, kinds: Iterable[str], where: Location, *, what: str = "") -> str | None:
        """Return the id of the step behind a name, or report TR104 or TR106 and return None.

        Args:
            name: as written.
            kinds: those that are allowed here.
            where: the place of the reference.
            what: how to call the thing, by default the first of `kinds`.
        """
        allowed = tuple(kinds)
        kind = self.kinds.get(name)
        if kind in allowed:
            return self.steps[name]
        if name in self.broken:
            return None
        if kind is not None:
            why = f'"{name}" is a {kind}; here stands a {" or a ".join(allowed)}'
            choices = self.choices(allowed)
            fix = f"name one of: {choices}" if choices else f"define one in {_HOMES[allowed[0]]}"
            self.problems.append(Problem("TR106", f'"{name}" is of the wrong kind', where, why, fix=fix))
            return None
        self._report_undefined(name, allowed, where, what or allowed[0])
        return None

    def _report_undefined(self, name: str, allowed: tuple[str, ...], where: Location, what: str) -> None:
        suggestion = close_match(name, self.names(allowed)) or ""
        if self.is_unread(name, allowed, suggestion):
            return
        choices = self.choices(allowed)
        fix = f"define it in {_HOMES[allowed[0]]}" + (f"; known here: {choices}" if choices else "")
        self.problems.append(Problem("TR104", f'{what} "{word(name)}" is not defined', where, "", suggestion, fix))

    def is_unread(self, name: str, kinds: Iterable[str], suggestion: str) -> bool:
        """Return whether a name may stand in a file that cannot be read: then that is reported, and no more.

        Args:
            name: which is not defined.
            kinds: what it may be.
            suggestion: the known name that is meant if this one is misspelt, and such a file does not name it.
        """
        if self.unread.isdisjoint(kinds):
            return False
        is_named = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)").search
        if any(is_named(text) for text in self.unread_texts):
            return True
        return SequenceMatcher(None, name, suggestion).ratio() <= _SURELY

    def is_certain(self, feature: str) -> bool:
        """Return whether all is known that YAML says of a feature: what it lacks may stand in what is wrong."""
        return feature not in self.broken and "entity" not in self.unread

    def names(self, kinds: Iterable[str]) -> list[str]:
        """Return all names of some kinds."""
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def choices(self, kinds: Iterable[str]) -> str:
        """Return the names of some kinds as a list to read, the first of them if there are many."""
        found = sorted(self.names(kinds))
        more = f" and {len(found) - _MAX_CHOICES} more" if len(found) > _MAX_CHOICES else ""
        return ", ".join(found[:_MAX_CHOICES]) + more


def read_expression(text: str, where: Location, *, what: str) -> Query:
    """Return a SQL expression over the columns of some rows as a query without a table, checked.

    Args:
        text: the expression.
        where: the place of the expression in the YAML file.
        what: what the expression is, for errors.

    Raises:
        ProjectError: it does not parse, names a table, reads a file, or depends on the moment of the run.
    """
    source = f"select (\n{text}\n)"
    lines = tuple(range(1, source.count("\n") + 2))
    rendered = Rendered(source, where.path, source, (), (), {}, lines, uses_as_of=False)
    try:
        if not text.strip():
            raise ProjectError(Problem("TR204", "the SQL does not parse", where, "it is empty"))
        return sql.read_query(rendered, path=where.path, volatile=False)
    except ProjectError as error:
        raise ProjectError(_in_expression(problem, where, what) for problem in error.problems) from error


def _in_expression(problem: Problem, where: Location, what: str) -> Problem:
    why = f"{what} is computed from the columns of its own rows, and from nothing else"
    if problem.code in ("TR204", "TR208"):
        problem = replace(problem, code="TR204", what="the SQL does not parse")
        why = f"{problem.why}; {what} is one SQL expression" if problem.why else f"{what} is one SQL expression"
    elif problem.code == "TR205":
        problem = replace(problem, what=problem.what.replace(" is named without ref()", " is named in an expression"))
    return replace(problem, where=where, why=why, suggestion="", fix="write an expression over columns of the rows")


def bad_name(kind: str, name: str, where: Location) -> Problem:
    """Return the problem of a name that is no identifier."""
    why = f'"{word(name)}" is not made of letters, digits and underscores, or starts with a digit'
    near = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    suggestion = near if is_identifier(near) else ""
    return Problem("TR101", f"a {kind} has a bad name", where, why, suggestion, "rename it")


def find_cycle(inputs: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Return one cycle, first member repeated at the end, or None when there is none."""
    done: set[str] = set()
    for start in inputs:
        path: list[str] = []
        on_path: set[str] = set()
        stack = [(start, iter(inputs[start]))] if start not in done else []
        if stack:
            path.append(start)
            on_path.add(start)
        while stack:
            current, parents = stack[-1]
            parent = next((p for p in parents if p in inputs and p not in done), None)
            if parent is None:
                stack.pop()
                path.pop()
                on_path.discard(current)
                done.add(current)
            elif parent in on_path:
                return [*path[path.index(parent) :], parent]
            else:
                stack.append((parent, iter(inputs[parent])))
                path.append(parent)
                on_path.add(parent)
    return None


def order(inputs: Mapping[str, Iterable[str]]) -> list[str]:
    """Return the ids so that each stands after all of its inputs, stable otherwise; `inputs` must have no cycle."""
    waiting = {step_id: {p for p in parents if p in inputs} for step_id, parents in inputs.items()}
    readers: dict[str, list[str]] = {step_id: [] for step_id in inputs}
    for step_id, parents in waiting.items():
        for parent in parents:
            readers[parent].append(step_id)
    ready = [step_id for step_id, parents in waiting.items() if not parents]
    found: list[str] = []
    for step_id in ready:
        found.append(step_id)
        for reader in readers[step_id]:
            waiting[reader].discard(step_id)
            if not waiting[reader]:
                ready.append(reader)
    return found
