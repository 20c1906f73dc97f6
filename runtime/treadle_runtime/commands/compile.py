"""treadle compile: check every file and write target/manifest.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.options import as_of_option, json_option, load_project, open_project, project_options

if TYPE_CHECKING:
    from treadle.cache import Compiled

_MANIFEST = "manifest.json"


@click.command("compile")
@as_of_option
@project_options
@json_option
def compile_project(
    as_of: str | None, folder: Path, environment: str | None, variables: str | None, as_json: bool
) -> None:
    """Check every file and write target/manifest.json

    No code of the project runs. With an error, all of them are shown and nothing is written.

    \b
    Examples:
      treadle compile
      treadle compile --env production --json
    """
    from treadle_runtime.artifacts import is_written, write_artifact

    root, compiled = load_project(folder, environment, variables, as_of)
    # What was written for this very graph was checked before, and writing takes longer than all the rest.
    is_due = not is_written(root, _MANIFEST, made_of=compiled.name)
    if is_due and "train" in compiled.counts:
        with open_project(folder, environment, variables, as_of) as workspace:
            workspace.check_trainers()
    if is_due:
        write_artifact(root, _MANIFEST, _to_manifest(compiled), made_of=compiled.name)
    if compiled.warnings:
        from treadle_runtime.commands.console import print_problem

        for warning in compiled.warnings:
            print_problem(warning, severity="warning")
    if as_json:
        from treadle_runtime.commands.console import print_json

        print_json(_to_manifest(compiled))
        return
    shown = ", ".join(f"{n} {kind}" for kind, n in compiled.counts.items())
    click.echo(f"{sum(compiled.counts.values())} steps: {shown}")
    click.echo(f"wrote target/{_MANIFEST}" if is_due else f"target/{_MANIFEST} is up to date")
    click.echo(f"next: {next_command('plan')}")


def _to_manifest(compiled: Compiled) -> dict[str, Any]:
    from treadle.manifest import to_manifest

    return to_manifest(compiled.graph, {})
