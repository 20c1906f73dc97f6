"""The names of a project: what each stands for, and what to say when one stands for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match, is_identifier

_PLURAL = {"source": "features/", "feature": "features/", "dataset": "models/", "model": "models/"}


@dataclass
class Scope:
    """Sources, features, datasets and models share one space of names.

    Attributes:
        kinds: name -> source, feature, dataset or model.
        places: name -> where it is defined.
        steps: name -> id of the step that a reader of the name reads.
        broken: names whose definition is wrong; a reference to one is no further problem.
        problems: what was found wrong.
        warnings: what should be looked at.
    """

    broken: set[str]
    problems: list[Problem]
    kinds: dict[str, str] = field(default_factory=dict)
    places: dict[str, Location] = field(default_factory=dict)
    steps: dict[str, str] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)

    @contextmanager
    def collecting(self, name: str) -> Iterator[None]:
        """Keep the problems of what is done inside, and count `name` as broken if there were any."""
        try:
            yield
        except ProjectError as error:
            self.problems.extend(error.problems)
            self.broken.add(name)

    def define(self, name: str, kind: str, where: Location, *, step: str = "") -> bool:
        """Take a name; report TR101 or TR102 and return False where that is not possible."""
        if not is_identifier(name):
            why = f"{name!r} is not made of letters, digits and underscores"
            self.problems.append(Problem("TR101", f"a {kind} has a bad name", where, why, fix="rename it"))
            return False
        if name in self.kinds:
            why = f'{self.kinds[name]} "{name}" stands at {self.places[name]}'
            fix = "rename one of the two: sources, features, datasets and models share one space of names"
            self.problems.append(Problem("TR102", f'"{name}" is defined twice', where, why, fix=fix))
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
            self.problems.append(Problem("TR106", f'"{name}" is of the wrong kind', where, why))
            return None
        known = [other for other, other_kind in self.kinds.items() if other_kind in allowed]
        suggestion = close_match(name, known) or ""
        fix = f"define it in {_PLURAL[allowed[0]]}, or see `treadle list --select kind:{allowed[0]}`"
        self.problems.append(
            Problem("TR104", f'{what or allowed[0]} "{name}" is not defined', where, suggestion=suggestion, fix=fix)
        )
        return None


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
