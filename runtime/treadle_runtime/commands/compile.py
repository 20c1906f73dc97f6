"""treadle compile: check every file and write target/manifest.json."""

from __future__ import annotations

from pathlib import Path

import click

from treadle_runtime.commands.options import as_of_option, json_option, open_project, project_options


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
    from treadle.manifest import to_manifest
    from treadle_runtime.artifacts import write_artifact
    from treadle_runtime.commands.console import print_json, print_problem

    with open_project(folder, environment, variables, as_of) as workspace:
        graph = workspace.graph
        workspace.check_trainers()
        manifest = to_manifest(graph, {})
        path = write_artifact(workspace.root, "manifest.json", manifest)
        for warning in graph.warnings:
            print_problem(warning, severity="warning")
        if as_json:
            print_json(manifest)
            return
        kinds = [step.kind for step in graph]
        shown = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        click.echo(f"{len(kinds)} steps: {shown}")
        click.echo(f"wrote {path.relative_to(workspace.root)}")
        click.echo("next: treadle plan")
