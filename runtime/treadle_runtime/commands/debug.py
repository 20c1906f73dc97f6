"""treadle debug: what Treadle sees of the machine and the project, each part checked."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path

import click

from treadle_runtime.commands.options import json_option, open_project, project_options

_LIBRARIES = ("treadle", "duckdb", "polars", "pyarrow", "numpy", "scikit-learn", "sqlglot", "skops", "pydantic")


@click.command("debug")
@project_options
@json_option
def debug(folder: Path, environment: str | None, variables: str | None, as_json: bool) -> int:
    """Show versions and paths, and check that the project works

    \b
    Examples:
      treadle debug
      treadle debug --project flights --json
    """
    from treadle.errors import TreadleError
    from treadle.fingerprint import installed_version
    from treadle_runtime.commands.console import print_json, print_problem, to_lines

    versions = {name: installed_version(name) for name in _LIBRARIES}
    checks: list[tuple[str, str, str]] = []
    errors: list[TreadleError] = []

    def check(what: str, look: Callable[[], str]) -> None:
        try:
            checks.append(("ok", what, look()))
        except TreadleError as error:
            checks.append(("error", what, error.problems[0].what))
            errors.append(error)

    try:
        workspace = open_project(folder, environment, variables)
    except TreadleError as error:
        checks.append(("error", "project", error.problems[0].what))
        errors.append(error)
    else:
        with workspace:
            check("project", lambda: f"{workspace.root}, environment {workspace.environment}")
            check("graph", lambda: f"{len(workspace.graph.steps)} steps")
            if not errors:
                check("state", lambda: f"{workspace.folder / 'state.db'}, {len(workspace.state.runs(1000))} runs")
                check("sources", lambda: f"{len(workspace.observed)} found")
                check("store", lambda: f"{workspace.folder / 'store'}, {len(workspace.store.fingerprints())} versions")
    code = max((error.exit_code for error in errors), default=0)
    if as_json:
        rows = [{"status": status, "check": what, "found": found} for status, what, found in checks]
        print_json(
            {"python": sys.version.split()[0], "platform": platform.platform(), "versions": versions, "checks": rows}
        )
        return code
    click.echo(f"python {sys.version.split()[0]} at {sys.executable}, {platform.platform()}")
    for line in to_lines(list(versions.items())):
        click.echo(line)
    for line in to_lines(checks):
        click.echo(line)
    for problem in dict.fromkeys(problem for error in errors for problem in error.problems):
        print_problem(problem)
    return code
