"""treadle list: what the project consists of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle_runtime.commands.options import (
    as_of_option,
    compile_project,
    json_option,
    open_project,
    project_options,
    selection_options,
)

if TYPE_CHECKING:
    from treadle.select import Beside
    from treadle.step import Graph, Step


@click.command("list")
@selection_options
@as_of_option
@project_options
@json_option
def list_steps(
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    state: str | None,
    as_of: str | None,
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
      treadle list --select state:modified+ --state production
    """
    from treadle.files import find_root
    from treadle.select import SELECTORS_FILE, asked_beside
    from treadle_runtime.commands.console import print_json, to_lines, warn_of_nothing

    if asked_beside((*select, *exclude)) or (find_root(folder) / SELECTORS_FILE).is_file():
        with open_project(folder, environment, variables, as_of) as workspace:  # which takes longer to load
            request = workspace.request(select, exclude)
            beside = workspace.beside(request.selectors, request.exclude, state=state)
            steps = _choose(workspace.graph, request.selectors, request.exclude, beside)
    else:
        steps = _choose(compile_project(folder, environment, variables, as_of), select, exclude)
    if not steps:
        warn_of_nothing(select, exclude)
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
    if rows:
        click.echo("\n".join(to_lines(rows)))


def _choose(
    graph: Graph, select: tuple[str, ...], exclude: tuple[str, ...], beside: Beside | None = None
) -> list[Step]:
    from treadle.select import select as choose

    chosen = choose(graph, select, exclude, beside=beside)
    return [step for step in graph if step.id in chosen]
