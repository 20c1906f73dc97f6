"""treadle list: what the project consists of."""

from __future__ import annotations

from pathlib import Path

import click

from treadle_runtime.commands.options import compile_project, json_option, project_options, selection_options


@click.command("list")
@selection_options
@project_options
@json_option
def list_steps(
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> None:
    """List the steps of the graph, parents first

    \b
    Examples:
      treadle list
      treadle list --select kind:feature,+arrivals --json
    """
    from treadle.select import select as choose
    from treadle_runtime.commands.console import print_json, to_lines

    graph = compile_project(folder, environment, variables)
    chosen = choose(graph, select, exclude)
    steps = [step for step in graph if step.id in chosen]
    if as_json:
        print_json(
            [
                {
                    "id": step.id,
                    "kind": step.kind,
                    "name": step.name,
                    "path": step.where.path,
                    "inputs": list(step.inputs),
                    "tags": list(step.tags),
                    "description": step.description,
                }
                for step in steps
            ]
        )
        return
    rows = [(step.kind, step.id, str(step.where.path), step.description.split("\n")[0][:60]) for step in steps]
    click.echo("\n".join(to_lines(rows)))
