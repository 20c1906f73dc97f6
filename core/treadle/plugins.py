"""Finding plugins and calling their hooks.

    entry points of the group `treadle` -> find() -> Plugins -> call("register_trainers", register=...)

No plugin is imported before a hook is called. Built-ins go the same way: whoever calls passes their modules
to `find`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from treadle import hooks
from treadle.errors import Problem, ProjectError
from treadle.names import close_match

GROUP = "treadle"

Implementation = Callable[..., object]


def known_hooks() -> dict[str, tuple[str, ...]]:
    """Return the name of each hook and the names of its arguments."""
    found = inspect.getmembers(hooks, inspect.isfunction)
    return {name: tuple(inspect.signature(f).parameters) for name, f in found if name != hooks.hook.__name__}


@dataclass(frozen=True)
class Plugins:
    """The plugins of this installation, in the order in which their hooks are called.

    Attributes:
        builtins: modules that are always there.
        installed: entry points of other distributions, not yet imported.
    """

    builtins: tuple[ModuleType, ...] = ()
    installed: tuple[EntryPoint, ...] = ()

    @cached_property
    def implementations(self) -> dict[str, list[tuple[str, Implementation]]]:
        """Hook -> (plugin, function), checked; the first use imports the plugins.

        Raises:
            ProjectError: TR510, a plugin cannot be imported or implements a hook wrongly.
        """
        modules = [(module.__name__, module) for module in self.builtins]
        modules += [(point.name, _import(point)) for point in self.installed]
        found: dict[str, list[tuple[str, Implementation]]] = {}
        for plugin, module in modules:
            for name, function in _marked(module):
                _verify(plugin, name, function)
                found.setdefault(name, []).append((plugin, function))
        return found

    def call(self, name: str, **arguments: object) -> None:
        """Call a hook in every plugin that implements it, with the arguments it names."""
        for _, function in self.implementations.get(name, []):
            wanted = inspect.signature(function).parameters
            function(**{key: value for key, value in arguments.items() if key in wanted})


def find(builtins: Iterable[ModuleType] = ()) -> Plugins:
    """Return built-in and installed plugins, the built-in ones first and the others by name; imports none."""
    return Plugins(tuple(builtins), tuple(sorted(entry_points(group=GROUP), key=lambda point: point.name)))


def _import(point: EntryPoint) -> ModuleType:
    try:
        module = point.load()
    except Exception as e:
        owner = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
        raise _broken(
            f'plugin "{point.name}"{owner} cannot be loaded',
            why=f"{type(e).__name__}: {e}",
            fix="repair or uninstall the package that brings it",
        ) from e
    if not isinstance(module, ModuleType):
        raise _broken(
            f'plugin "{point.name}" is no module',
            why=f'its entry point names "{point.value}", a {type(module).__name__}',
            fix="let the entry point name the module that holds the hooks",
        )
    return module


def _marked(module: ModuleType) -> Iterator[tuple[str, Implementation]]:
    for name, value in vars(module).items():
        if inspect.isfunction(value) and hasattr(value, hooks.MARK):
            yield name, value


def _verify(plugin: str, name: str, function: Implementation) -> None:
    known = known_hooks()
    if name not in known:
        raise _broken(
            f'plugin "{plugin}" implements hook "{name}", which does not exist',
            why=f"the hooks are {', '.join(known)}",
            suggestion=close_match(name, known) or "",
            fix="rename the function, or take away its @hook",
        )
    for argument in inspect.signature(function).parameters:
        if argument not in known[name]:
            raise _broken(
                f'plugin "{plugin}": hook "{name}" has no argument "{argument}"',
                why=f"its arguments are {', '.join(known[name])}",
                suggestion=close_match(argument, known[name]) or "",
                fix="name the arguments as the hook does; those that are not needed may be left out",
            )


def _broken(what: str, *, why: str, fix: str, suggestion: str = "") -> ProjectError:
    return ProjectError(Problem("TR510", what, why=why, suggestion=suggestion, fix=fix))
