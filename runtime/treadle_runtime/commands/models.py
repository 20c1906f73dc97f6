"""treadle models: versions and their aliases; promote makes one the champion."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.options import json_option, open_project, project_options


@click.group("models", invoke_without_command=True)
@project_options
@json_option
@click.pass_context
def models(ctx: click.Context, folder: Path, environment: str | None, variables: str | None, as_json: bool) -> None:
    """List model versions and their aliases; promote one

    \b
    Examples:
      treadle models
      treadle models promote arrivals
    """
    if ctx.invoked_subcommand is not None:
        return
    from treadle_runtime.commands.console import print_json, to_lines
    from treadle_runtime.commands.story import in_order, number
    from treadle_runtime.promoting import is_standing

    with open_project(folder, environment, variables) as workspace:
        env = workspace.environment
        found = [v for name in workspace.registry.pipelines() for v in workspace.registry.versions(name, env=env)]
        standing = workspace.store.fingerprints()
        if as_json:
            print_json([{**vars(version), "in_store": is_standing(version, standing)} for version in found])
            return
        rows = []
        for version in found:
            found_metrics = in_order(version.metrics, workspace.graph, version.pipeline)
            metrics = ", ".join(f"{name} {number(value)}" for name, value in found_metrics.items())
            aliases = ", ".join(version.aliases)
            gates = "held" if version.passed else "did not hold"
            said = (version.pipeline, str(version.number), version.model, aliases, gates, metrics)
            mark = "" if is_standing(version, standing) else "  not in the store"
            rows.append((*said, version.created_at[:19] + mark))
        header = ("pipeline", "version", "model", "aliases", "gates", "test metrics", "built (UTC)")
        for line in to_lines(rows, header=header):
            click.echo(line)
        if not found:
            click.echo(f"no versions yet\nnext: {next_command('build')}")


@models.command("promote")
@click.argument("pipeline")
@click.argument("version", default="candidate")
@click.option("--force", is_flag=True, help="Promote although its gates did not hold")
@project_options
@json_option
def promote(
    pipeline: str,
    version: str,
    force: bool,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> None:
    """Make a version the champion: by default the candidate

    \b
    Examples:
      treadle models promote arrivals
      treadle models promote arrivals 3 --env production
    """
    from treadle_runtime.commands.console import print_json
    from treadle_runtime.promoting import check_whole

    with open_project(folder, environment, variables) as workspace:
        before = workspace.registry.champion(pipeline, env=workspace.environment)
        check = partial(check_whole, store=workspace.store, env=workspace.environment)
        found = workspace.registry.promote(pipeline, version, env=workspace.environment, force=force, check=check)
        if as_json:
            print_json(vars(found))
            return
        was = f", before it was version {before.number}" if before and before.number != found.number else ""
        click.echo(
            f"{pipeline}: version {found.number} ({found.model}) is the champion in {workspace.environment}{was}"
        )
        click.echo(f"next: {next_command('show', pipeline)}")
