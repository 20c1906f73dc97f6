"""The command that is told as the next one: to be pasted, with the options which the present one was given.

The same option means the same everywhere, so that one that both commands take is taken along.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from treadle_runtime.runstate import RunRecord

_CARRIED = (
    "folder",
    "environment",
    "variables",
    "select",
    "selector",
    "exclude",
    "state",
    "as_of",
    "defer",
    "indirect",
)
"""What says which project, which steps and which moment are meant; how to tell or to do it is said anew each time."""
_SELECTION = ("select", "selector", "exclude", "state")
_TAKEN = f"{__name__}.taken"


def next_command(*words: str) -> str:
    """Return a command in the words of a shell.

    Args:
        words: the command without `treadle`, and what it has to be told in any case; an option among them is not
            taken from the present command.
    """
    return shlex.join(("treadle", *words, *_carried(words)))


def take_over(run: RunRecord) -> None:
    """Let what is told as the next command carry the options of an earlier run, which the present command goes by."""
    options = run.options
    taken = {
        "variables": json.dumps(options["vars"], ensure_ascii=False) if options["vars"] else None,
        "as_of": run.as_of,
        **{name: options.get(name) for name in (*_SELECTION, "defer")},
    }
    click.get_current_context().meta[_TAKEN] = {name: value for name, value in taken.items() if value}


def _carried(words: tuple[str, ...]) -> Iterator[str]:
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return
    taken = ctx.meta.get(_TAKEN, {})
    given = {name: ctx.params[name] for name in _CARRIED if _is_given(ctx, name)} | taken
    if not given:
        return
    known = {option.name: option for option in _find(ctx, words).params if isinstance(option, click.Option)}
    if "--select" in words:
        given = {name: value for name, value in given.items() if name not in _SELECTION}
    elif given.keys().isdisjoint(_SELECTION[:3]):
        given.pop("state", None)  # only a selection asks what it is compared with
    for name, value in given.items():
        option = known.get(name)
        if option is None or not set(words).isdisjoint(option.opts):
            continue
        for each in value if isinstance(value, (tuple, list)) else (value,):
            yield from (option.opts[0], str(each))


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE


def _find(ctx: click.Context, words: tuple[str, ...]) -> click.Command:
    """Return the command that the words call."""
    command = ctx.find_root().command
    for word in words:
        found = command.get_command(ctx, word) if isinstance(command, click.Group) else None
        if found is None:
            break
        command = found
    return command
