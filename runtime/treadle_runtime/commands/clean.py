"""treadle clean: remove versions that no environment and no model version refers to."""

from __future__ import annotations

from pathlib import Path

import click

from treadle_runtime.commands.options import json_option, open_project, project_options


@click.command("clean")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed")
@click.option("--yes", is_flag=True, help="Do not ask")
@project_options
@json_option
def clean(
    dry_run: bool, yes: bool, folder: Path, environment: str | None, variables: str | None, as_json: bool
) -> None:
    """Remove stored versions that nothing refers to

    Whatever an environment or a registered model stands on is kept, and so is everything while a build runs.

    \b
    Examples:
      treadle clean --dry-run
      treadle clean --yes
    """
    from treadle_runtime.commands.console import print_json
    from treadle_runtime.commands.story import mebibytes
    from treadle_runtime.housekeeping import find_unused, remove_unused

    with open_project(folder, environment, variables) as workspace:
        unused = find_unused(workspace.store, workspace.state)
        size = mebibytes(sum(unused.values()))
        if as_json and not (dry_run or yes):
            dry_run = True
        if not as_json:
            click.echo(f"{len(unused)} versions that nothing refers to, {size}")
        if unused and not dry_run and (yes or click.confirm("Remove them?")):
            gone = remove_unused(workspace.store, workspace.state, unused)
            kept = len(unused) - len(gone)
            unused = {fingerprint: unused[fingerprint] for fingerprint in gone}
            if not as_json:
                click.echo("removed" + (f", except {kept} that are in use by now" if kept else ""))
        if as_json:
            print_json({"versions": unused, "removed": bool(unused) and not dry_run})
