"""Trainers by the name that models give: built-in ones and those of plugins, all through one hook."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from treadle import plugins
from treadle.errors import Problem, ProjectError
from treadle.names import close_match
from treadle_runtime.training import builtin

if TYPE_CHECKING:
    from treadle_runtime.training.contract import Trainer


@dataclass(frozen=True)
class Registered:
    """A trainer, or with a name such as `sklearn.*` a family of them; see `hooks.RegisterTrainer`."""

    name: str
    load: Callable[[str], object]
    table: Callable[[Path], Mapping[str, Any]]

    def covers(self, name: str) -> bool:
        """Return whether `name` is this trainer or one of this family."""
        return name.startswith(self.name[:-1]) if self.name.endswith("*") else name == self.name


@functools.cache
def registered() -> tuple[Registered, ...]:
    """Return every trainer of this installation; imports plugins, but no library that trains.

    Raises:
        ProjectError: TR510, a plugin is broken.
    """
    found: list[Registered] = []

    def register(name: str, *, load: Callable[[str], object], table: Callable[[Path], Mapping[str, Any]]) -> None:
        found.append(Registered(name, load, table))

    plugins.find([builtin]).call("register_trainers", register=register)
    return tuple(found)


def find_trainer(name: str) -> Registered | None:
    """Return the trainer or family that `name` belongs to, or None."""
    return next((entry for entry in registered() if entry.covers(name)), None)


def load_trainer(name: str) -> Trainer:
    """Return a trainer ready to fit; imports its library.

    Raises:
        ProjectError: TR501, no such trainer, or its library is not installed.
    """
    entry = find_trainer(name)
    if entry is None:
        raise ProjectError(unknown_trainer(name, [entry.name for entry in registered()]))
    return cast("Trainer", entry.load(name))


def unknown_trainer(name: str, known: list[str]) -> Problem:
    """Return the problem of a trainer that nobody registered."""
    families = ", ".join(entry.name for entry in registered())
    return Problem(
        "TR501",
        f'trainer "{name}" is not known',
        why=f"the trainers of this installation are {families}",
        suggestion=close_match(name, known) or "",
        fix="name one of these, such as sklearn.hist_gradient_boosting, or install the plugin that brings it",
    )
