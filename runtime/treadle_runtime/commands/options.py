"""Options that mean the same in every command, and opening the project that they name."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from treadle.interruption import Interruption

if TYPE_CHECKING:
    from treadle.cache import Compiled
    from treadle.step import Graph
    from treadle_runtime.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])


def project_options(command: F) -> F:
    """Add --project, --env and --vars."""
    text = "Variables that win, such as '{late: 30}'"
    return place_options(click.option("--vars", "variables", metavar="YAML", help=text)(command))


def place_options(command: F) -> F:
    """Add --project and --env, for a command that has its variables from elsewhere."""
    for option in (
        click.option("--env", "environment", metavar="NAME", help="Environment; by default the project's"),
        folder_option,
    ):
        command = option(command)
    return command


def folder_option(command: F) -> F:
    """Add --project, for a command that names its environments otherwise."""
    return click.option(
        "--project",
        "folder",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        default=".",
        help="Folder of the project, or one below it",
    )(command)


def defer_option(command: F) -> F:
    """Add --defer."""
    text = "Read what is neither selected nor built from this environment"
    return click.option("--defer", metavar="ENV", help=text)(command)


def selection_options(command: F) -> F:
    """Add --select, --selector, --exclude and --state; the command is given `selector:NAME` among what is selected."""

    @wraps(command)
    def with_named(*args: Any, select: tuple[str, ...], selector: tuple[str, ...], **rest: Any) -> Any:
        return command(*args, select=(*select, *(f"selector:{name}" for name in selector)), **rest)

    found: Any = state_option(with_named)
    chosen = "Only these steps: name, +name, name+, @name, kind:, tag:, path:, state:modified, result:error, ..."
    for name, metavar, text in (
        ("--exclude", "SELECTOR", "Leave these steps out"),
        ("--selector", "NAME", "Only what selectors.yml calls so"),
        ("--select", "SELECTOR", chosen),
    ):
        short = ("-s",) if name == "--select" else ()
        found = click.option(name, *short, multiple=True, metavar=metavar, help=text)(found)
    return cast("F", found)


def indirect_option(command: F) -> F:
    """Add --indirect-selection."""
    text = "Tests that come with a selection: if one of their tables is selected, if all are or stand above, if all are"
    return click.option(
        "--indirect-selection",
        "indirect",
        type=click.Choice(["eager", "buildable", "cautious", "empty"]),
        default="eager",
        show_default=True,
        help=text,
    )(command)


def state_option(command: F) -> F:
    """Add --state."""
    text = "Compare with this environment or manifest.json; by default with the environment itself"
    return click.option("--state", metavar="ENV_OR_PATH", help=text)(command)


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON")(command)


def as_of_option(command: F) -> F:
    """Add --as-of."""
    text = "The moment that counts as now, ISO 8601 in UTC"
    return click.option("--as-of", metavar="TIME", callback=_to_as_of, help=text)(command)


def window_options(command: F) -> F:
    """Add --start and --end, as microseconds since 1970 UTC."""
    text = "Backfill: compute only intervals {} this moment, publish nothing"
    for name, side in (("--end", "before"), ("--start", "from")):
        command = click.option(name, metavar="TIME", callback=_to_moment, help=text.format(side))(command)
    return command


def threads_option(command: F) -> F:
    """Add --threads; TREADLE_THREADS is its default, else the number of processors."""
    return click.option(
        "--threads",
        type=click.IntRange(1, 256),
        envvar="TREADLE_THREADS",
        default=lambda: os.cpu_count() or 2,
        show_default="all processors",
        help="How many steps run at once",
    )(command)


def open_project(
    folder: Path, environment: str | None = None, variables: str | None = None, as_of: str | None = None
) -> Workspace:
    """Open the project that the options name; the command's own words tell others who holds a claim."""
    from treadle.files import find_root

    root = find_root(folder)
    return open_run(root, environment, variables=_parse_variables(variables), as_of=as_of)


def open_run(
    root: Path,
    environment: str | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
    as_of: str | None = None,
) -> Workspace:
    """Open a project with values for what the options give as text."""
    from treadle_runtime.workspace import Workspace

    return Workspace(
        root, environment=environment, variables=variables, as_of=as_of, command=command_words(), on_loss=print_loss
    )


def print_loss(n: int) -> None:
    """Print on stderr how many versions the loss of power took."""
    version, what = ("version", "it is removed, and") if n == 1 else ("versions", "they are removed, and")
    again = f"`treadle build` makes {'it' if n == 1 else 'them'} again"
    click.echo(f"the loss of power left {n:,} {version} half written: {what} {again}", err=True)


def interruption() -> Interruption:
    """Return what this process does when it is told to end."""
    return click.get_current_context().find_object(Interruption) or Interruption(sys.argv[1:])


def command_words() -> str:
    """Return the words by which this command was called."""
    return shlex.join(["treadle", *sys.argv[1:]])[:200]


def load_project(
    folder: Path, environment: str | None = None, variables: str | None = None, as_of: str | None = None
) -> tuple[Path, Compiled]:
    """Return the root of the project that the options name, and what it compiles to.

    For a command that needs nothing of the runtime; it is read from the cache as far as that holds.
    """
    from treadle.cache import Asked, load_compiled
    from treadle.files import find_root

    root = find_root(folder)
    asked = Asked(root, environment, _parse_variables(variables), os.environ, as_of)
    return root, load_compiled(asked, root / ".treadle" / "cache")


def compile_project(
    folder: Path, environment: str | None = None, variables: str | None = None, as_of: str | None = None
) -> Graph:
    """Compile the project that the options name, for a command that needs nothing of the runtime."""
    return load_project(folder, environment, variables, as_of)[1].graph


def _to_as_of(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    from datetime import UTC, datetime

    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter("write a date or a time as in 2013-11-01 or 2013-11-01T06:00:00Z") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat()


def _to_moment(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    from treadle.names import parse_moment_us

    if value is None:
        return None
    try:
        return parse_moment_us(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _parse_variables(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    from treadle.errors import Problem, UsageError
    from treadle.yamlfile import read_yaml

    value = read_yaml(text, path="--vars").value
    if not isinstance(value, dict):
        fix = "write it as in --vars '{late_minutes: 30}'"
        raise UsageError(Problem("TR603", "--vars takes names and values", why=f"found {text!r}", fix=fix))
    return value
