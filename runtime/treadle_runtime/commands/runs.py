"""treadle runs: what was run, when, and how it ended."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle_runtime.commands.options import json_option, open_project, project_options

if TYPE_CHECKING:
    from treadle_runtime.runstate import StepRecord


@click.command("runs")
@click.argument("run_id", required=False)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many runs")
@project_options
@json_option
def runs(
    run_id: str | None,
    limit: int,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> None:
    """List the last runs, or the steps of one

    \b
    Examples:
      treadle runs
      treadle runs --env production
      treadle runs 20261123T211649-ab12
    """
    from treadle.errors import Problem, UsageError
    from treadle.projectfile import read_environments
    from treadle_runtime.commands.console import print_json, to_lines
    from treadle_runtime.commands.story import seconds
    from treadle_runtime.environments import Environments

    with open_project(folder, environment, variables) as workspace:
        if run_id is None:
            if environment is not None:
                known = Environments(workspace.state, workspace.store, command=workspace.command).names()
                read_environments(workspace.root).check(environment, known)
            found = workspace.state.runs(limit, env=environment)
            if as_json:
                print_json([asdict(run) for run in found])
                return
            rows = [(run.id, run.env, run.status, run.started_at[:19], run.command) for run in found]
            for line in to_lines(rows, header=("run", "environment", "status", "started (UTC)", "command")):
                click.echo(line)
            return
        run = workspace.state.run(run_id)
        if run is None:
            raise UsageError(Problem("TR603", f'there is no run "{run_id}"', fix="`treadle runs` lists them"))
        if as_json:
            print_json(asdict(run))
            return
        click.echo(f"{run.id}: {run.command}: {run.status} in {run.env}")
        for line in to_lines([(s.status, s.step, seconds(s.seconds), _remark(s)) for s in run.steps]):
            click.echo(line)


def _remark(step: StepRecord) -> str:
    tries = f"{step.attempts} tries" if step.attempts > 1 else ""
    return "; ".join(text for text in (tries, step.message) if text)
