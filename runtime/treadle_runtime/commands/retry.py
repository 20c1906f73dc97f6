"""treadle retry: do again what failed in the last run."""

from __future__ import annotations

from pathlib import Path

import click

from treadle_runtime.commands.build import build_and_tell
from treadle_runtime.commands.hint import take_over
from treadle_runtime.commands.options import interruption, json_option, open_run, place_options


@click.command("retry")
@click.option("--threads", type=click.IntRange(1, 256), help="How many steps run at once; by default as many as then")
@place_options
@json_option
def retry(threads: int | None, folder: Path, environment: str | None, as_json: bool) -> int:
    """Run what failed in the last run again

    Steps that failed or were skipped are run, and what they need, with that run's own selection, variables, --as-of
    and threads; what changed besides is left to `treadle build`. A run that was interrupted or killed is the same
    command again.

    \b
    Examples:
      treadle retry
      treadle retry --env production --threads 1
    """
    from treadle.files import find_root
    from treadle.projectfile import read_environments
    from treadle_runtime.commands.console import print_json
    from treadle_runtime.retry import find_run, make_retry

    interruption().is_kept = True
    root = find_root(folder)
    env = environment or read_environments(root).default
    with open_run(root, env) as workspace:
        run = find_run(workspace.state, env)
    if run is not None:
        with open_run(root, env, variables=run.options["vars"], as_of=run.as_of) as workspace:
            take_over(run)
            found = make_retry(workspace, run)
            if found is not None:
                what = f"{len(found.failed)} that failed or were skipped" if found.failed else "the whole command"
                if not as_json:
                    click.echo(f"retry of {run.id}, {run.command}: {what}", err=True)
                arguments = dict(found.arguments)
                arguments["threads"] = threads or arguments["threads"]
                return build_and_tell(workspace, as_json=as_json, **arguments)
    last = f"{run.id}, {run.command}" if run else None
    if as_json:
        print_json({"retry_of": run.id if run else None, "steps": []})
    else:
        click.echo(f"nothing failed in {last}" if last else f"nothing was run in {env} yet")
    return 0
