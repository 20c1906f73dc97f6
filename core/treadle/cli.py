"""The front door: knows commands by name and loads the one that is called."""

from __future__ import annotations

import gc
import importlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Mapping
from functools import cached_property
from itertools import takewhile
from typing import NoReturn

import click

from treadle.errors import MAX_SHOWN, Problem, TreadleError, UsageError
from treadle.interruption import Interruption
from treadle.names import close_match

GROUP = "treadle.commands"
_EXTRA = re.compile(r"Got unexpected extra arguments? \((.*)\)", re.DOTALL)
_SELECTORS = ("--select", "-s", "--exclude")
COMMANDS: Mapping[str, str] = {
    "init": "treadle_scaffold.commands:init",
    "new": "treadle_scaffold.commands:new",
    "list": "treadle_runtime.commands.list:list_steps",
    "compile": "treadle_runtime.commands.compile:compile_project",
    "plan": "treadle_runtime.commands.plan:plan",
    "why": "treadle_runtime.commands.why:why",
    "build": "treadle_runtime.commands.build:build",
    "run": "treadle_runtime.commands.build:run",
    "test": "treadle_runtime.commands.build:test",
    "retry": "treadle_runtime.commands.retry:retry",
    "freshness": "treadle_runtime.commands.freshness:freshness",
    "show": "treadle_runtime.commands.show:show",
    "models": "treadle_runtime.commands.models:models",
    "env": "treadle_runtime.commands.env:env",
    "runs": "treadle_runtime.commands.runs:runs",
    "debug": "treadle_runtime.commands.debug:debug",
    "clean": "treadle_runtime.commands.clean:clean",
    "verify": "treadle_runtime.commands.verify:verify",
}
"""Treadle's own commands, in the order of `--help`; those of plugins are entry points of the group above."""


class _Commands(click.Group):
    """A command is imported when it is called, or for its line in `--help`."""

    @cached_property
    def points(self) -> dict[str, str]:
        # Asking for entry points reads the metadata of all that is installed: 40 ms that most calls need not pay.
        from importlib.metadata import entry_points

        found = {point.name: point.value for point in entry_points(group=GROUP)}
        return {**COMMANDS, **dict(sorted(found.items()))}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.points)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        value = COMMANDS.get(cmd_name) or self.points.get(cmd_name)
        if value is None:
            return None
        module, _, attribute = value.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            what = f'command "{cmd_name}" cannot be loaded'
            raise UsageError(Problem("TR510", what, why=f"{value} is no click command", fix="repair the plugin"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and args[0] not in self.points:
            what = f'there is no command "{args[0]}"'
            suggestion = close_match(args[0], self.points) or ""
            raise UsageError(Problem("TR603", what, suggestion=suggestion, fix="`treadle --help` lists them"))
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"treadle, version {version('treadle')}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version"
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error")
def treadle(debug: bool) -> None:
    """Build, prove and ship machine learning as one graph of small files.

    \b
    Examples:
      treadle init flights && cd flights && treadle build
      treadle plan --select carrier_history+
    """


def main(arguments: list[str]) -> NoReturn:
    """Run the command line as a part of another program, whose signals are its own, and exit."""
    interruption = Interruption(arguments)
    interruption.run(lambda: run(arguments, interruption))


def run(arguments: list[str], interruption: Interruption) -> int:
    """Run the command line and return the exit code.

    Exit codes: 0 done, 1 something ran and failed, 2 wrong usage or project, 141 nobody reads on; by `interruption`
    130 interrupted, 143 told to end by SIGTERM, 129 by SIGHUP.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    if sys.platform == "win32":
        print("Treadle runs on Linux and macOS; on Windows use it inside WSL", file=sys.stderr)
        return 2
    # Loading modules makes many objects and no garbage: looking for it took a sixth of a short command's time.
    gc.set_threshold(100_000)
    try:
        code = treadle.main(arguments, prog_name="treadle", standalone_mode=False, obj=interruption)
    except click.exceptions.Abort as error:
        raise KeyboardInterrupt from error
    except Exception as error:
        if interruption.signal:
            raise
        return _fail(error, arguments)
    return code if isinstance(code, int) else 0


def _fail(error: Exception, arguments: list[str]) -> int:
    """Tell what went wrong and return the exit code; what nobody foresaw is raised again."""
    match error:
        case TreadleError() if "--debug" not in arguments:
            _show(error)
            return error.exit_code
        case click.UsageError() if hint := _quotes(error, arguments):
            error.show()
            click.echo(f"  fix: {hint}", err=True)
            return error.exit_code
        case click.ClickException():
            error.show()
            return error.exit_code
        case BrokenPipeError():
            # The reader of our output has gone, as in `treadle list | head`: there is nobody left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
    raise error


def _quotes(error: click.UsageError, arguments: list[str]) -> str:
    """Return how to select several steps, where words after the first were taken for arguments; else ""."""
    found = _EXTRA.fullmatch(error.message)
    for at, option in enumerate(arguments):
        if found is None or option not in _SELECTORS:
            continue
        words = list(takewhile(lambda word: not word.startswith("-"), arguments[at + 1 :]))
        if words[1:] and " ".join(words[1:]) == found[1]:
            return f"several steps are one value of {option}, in quotes: {option} {shlex.quote(' '.join(words))}"
    return ""


def _show(error: TreadleError) -> None:
    for n, problem in enumerate(error.problems[:MAX_SHOWN]):
        if n:
            click.echo(err=True)
        first, *rest = problem.to_text().splitlines()
        head, _, what = first.partition(": ")
        click.echo(f"{click.style(head, fg='red', bold=True)}: {click.style(what, bold=True)}", err=True)
        for line in rest:
            click.echo(line, err=True)
    if len(error.problems) > MAX_SHOWN:
        click.echo(f"\nand {len(error.problems) - MAX_SHOWN} more", err=True)
