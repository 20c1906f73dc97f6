"""What a plugin may add to Treadle: each hook is an empty function here; arguments are passed by name.

A plugin is a module named by an entry point of the group `treadle`; it marks its own functions with `@hook`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

MARK = "__treadle_hook__"

F = TypeVar("F", bound=Callable[..., object])


def hook(function: F) -> F:
    """Mark a function of a plugin as the implementation of the hook of that name."""
    setattr(function, MARK, True)
    return function


class RegisterTrainer(Protocol):
    """Adds one trainer, or with a name such as `sklearn.*` a family of them.

    `load` takes the name that a model gives and returns the trainer; it may import what is heavy. `table`
    takes a folder that outlives the command and returns the parameters that the trainers know: it is asked at
    plan time.
    """

    def __call__(
        self, name: str, *, load: Callable[[str], object], table: Callable[[Path], Mapping[str, Any]]
    ) -> None: ...


def register_trainers(register: RegisterTrainer) -> None:
    """Add trainers by calling `register` once for each."""
