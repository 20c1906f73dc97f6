"""treadle plan: what a build would do, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.options import (
    as_of_option,
    defer_option,
    indirect_option,
    json_option,
    open_project,
    project_options,
    selection_options,
)

if TYPE_CHECKING:
    from treadle.plan import PlannedStep
    from treadle.select import Indirect
    from treadle_runtime.workspace import Workspace


@click.command("plan")
@selection_options
@as_of_option
@defer_option
@indirect_option
@click.option("--all", "show_all", is_flag=True, help="Show what is reused too")
@project_options
@json_option
def plan(
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    state: str | None,
    as_of: str | None,
    defer: str | None,
    indirect: Indirect,
    show_all: bool,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> None:
    """Show what a build would run, what it would reuse, and why

    \b
    Examples:
      treadle plan
      treadle plan --select carrier_history+ --all
      treadle plan --select carrier_history --defer production
      treadle plan --select state:modified+ --state production
    """
    from treadle_runtime.answers import Answers
    from treadle_runtime.commands.console import print_json, print_problem, to_lines, warn_of_nothing

    with open_project(folder, environment, variables, as_of) as workspace:
        is_brief = workspace.request(select, exclude).is_whole and not (defer or show_all or as_json)
        for warning in workspace.compiled.warnings if not as_json else ():
            print_problem(warning, severity="warning")
        answers = Answers(workspace, "plan", int)
        if is_brief and (n_reuse := answers.find()) is not None:
            _tell(workspace, 0, n_reuse)
            return
        found = workspace.plan(select, exclude, defer=defer, state=state, indirect=indirect)
        if not found.steps:
            warn_of_nothing(select, exclude)
        if as_json:
            print_json(
                [
                    {
                        "id": planned.step.id,
                        "kind": planned.step.kind,
                        "action": planned.action,
                        "reason": planned.reason,
                        "fingerprint": planned.fingerprint,
                        "changes": [vars(change) for change in planned.changes],
                    }
                    for planned in found
                ]
            )
            return

        def is_news(planned: PlannedStep) -> bool:
            return planned.action == "build" or planned.step.id in found.deferred

        shown = [planned for planned in found if show_all or is_news(planned)]
        for line in to_lines([(p.action, p.step.kind, p.step.id.removeprefix("test:"), _reason(p)) for p in shown]):
            click.echo(line)
        _tell(workspace, found.n("build"), found.n("reuse"))
        if is_brief and not shown:
            answers.keep(found.n("reuse"))


def _tell(workspace: Workspace, n_build: int, n_reuse: int) -> None:
    click.echo(f"{n_build} to build, {n_reuse} to reuse in {workspace.environment}")
    click.echo(f"next: {next_command('build')}" if n_build else "nothing to do")


def _reason(planned: PlannedStep) -> str:
    """Return why a step is planned, and for an incremental feature that not all of it need be computed."""
    interval = planned.step.config.get("interval")
    if planned.action != "build" or interval is None:
        return planned.reason
    return f"{planned.reason}; by intervals of {interval}"
