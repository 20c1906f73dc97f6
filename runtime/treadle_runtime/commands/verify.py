"""treadle verify: read everything that is built, and say what is not as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.options import (
    json_option,
    open_project,
    project_options,
    selection_options,
    threads_option,
)

if TYPE_CHECKING:
    from treadle_runtime.verifying import Report, Wrong


@click.command("verify")
@selection_options
@click.option("--repair", is_flag=True, help="Take damaged versions away, and what was computed from them")
@threads_option
@project_options
@json_option
def verify(
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    state: str | None,
    repair: bool,
    threads: int,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> int:
    """Check every stored version, the state and the catalogs

    All versions of all steps are read and compared with the digests that were written with them; the catalog of each
    environment is made anew. What may have been computed from a damaged version counts as damaged too. Exit code 1:
    something is wrong, and is named with the command that sets it right.

    \b
    Examples:
      treadle verify
      treadle verify --select spend+ --repair
    """
    from treadle import select as selection
    from treadle.projectfile import read_environments
    from treadle_runtime.commands.console import print_json, print_wait
    from treadle_runtime.verifying import verify as check

    with open_project(folder, environment, variables) as workspace:
        steps = None
        if select or exclude:
            beside = workspace.beside(select, exclude, state=state)
            steps = selection.select(workspace.graph, select, exclude, beside=beside)
        report = check(workspace, steps=steps, threads=threads, repair=repair, on_wait=print_wait)
        commands = _next(report, environment or read_environments(workspace.root).default)
        if as_json:
            print_json(_to_json(report, commands))
        else:
            for line in _to_lines(report, commands):
                click.echo(line)
    return 0 if report.is_sound else 1


def _to_json(report: Report, commands: list[str]) -> dict[str, Any]:
    return {
        "sound": report.is_sound,
        "state": [problem.to_json() for problem in report.state],
        "versions": len(report.checked),
        "bytes": sum(report.checked.values()),
        "wrong": [_to_row(each) for each in report.wrong],
        "catalogs": {env: problem.to_json() if problem else None for env, problem in report.catalogs.items()},
        "next": commands,
    }


def _to_row(wrong: Wrong) -> dict[str, Any]:
    return {
        "fingerprint": wrong.fingerprint,
        "status": wrong.status,
        "step": wrong.step,
        "why": wrong.why,
        "environments": wrong.environments,
        "models": wrong.models,
        "holders": wrong.holders,
        "is_withdrawn": wrong.is_withdrawn,
        "is_planned": wrong.is_planned,
        "roots": wrong.roots,
    }


def _to_lines(report: Report, commands: list[str]) -> list[str]:
    from treadle_runtime.commands.console import to_lines
    from treadle_runtime.commands.story import mebibytes

    wrong = [each for each in report.wrong if each.status != "suspect"]
    n_bad = sum(each.fingerprint in report.checked for each in wrong)
    size = mebibytes(sum(report.checked.values()))
    rows = [
        ("state", report.state[0].why.splitlines()[0] if report.state else "ok"),
        ("versions", f"{len(report.checked) - n_bad:,} of {len(report.checked):,} are as they were written, {size}"),
    ]
    for env, problem in report.catalogs.items():
        rows.append((f"catalog of {env}", "made anew" if problem is None else f"not made: {problem.what}"))
    lines = to_lines(rows)
    table = [(_status(each), each.step or "unknown", each.fingerprint[:12], _users(each)) for each in wrong]
    for line, each in zip(to_lines(table), wrong, strict=True):
        lines += [line, f"  {each.why}"]
    lines += _tell_suspects([each for each in report.wrong if each.status == "suspect"])
    for problem in (*report.state, *filter(None, report.catalogs.values())):
        lines += ["", *problem.to_text().splitlines()]
    return lines + [f"{'next' if n == 0 else ' or '}: {command}" for n, command in enumerate(commands)]


def _tell_suspects(suspects: Sequence[Wrong]) -> list[str]:
    """Return what may have been computed from damage: the steps in a line, and a line for whom it concerns."""
    from treadle_runtime.commands.console import to_names

    lines = []
    for word, is_withdrawn in (("withdrawn too", True), ("suspect", False)):
        chosen = [each for each in suspects if each.is_withdrawn == is_withdrawn]
        if names := dict.fromkeys(each.step or f"unknown ({each.fingerprint[:12]})" for each in chosen):
            lines.append(f"{word}, as computed from what is damaged: {to_names(names)}")
        if models := sorted({model for each in chosen for model in each.models if not each.is_lost}):
            lines.append(f"  {_stand(models)}: the build makes {_them(models)} again")
    if lost := sorted({model for each in suspects for model in each.models if each.is_lost}):
        lines.append(f"  {_stand(lost)}, and no build makes {_them(lost)} again: promote another version")
    if holders := sorted({holder for each in suspects for holder in each.holders}):
        lines.append(f"  not withdrawn: {', '.join(holders)} reads it")
    return lines


def _stand(models: Sequence[str]) -> str:
    return f"{', '.join(models)} {'stands' if len(models) == 1 else 'stand'} on it"


def _them(models: Sequence[str]) -> str:
    return "it" if len(models) == 1 else "them"


def _status(wrong: Wrong) -> str:
    return "withdrawn" if wrong.is_withdrawn else wrong.status


def _users(wrong: Wrong) -> str:
    users = [f"in {env}" for env in wrong.environments] + list(wrong.models)
    if wrong.is_lost:
        users.append("no build makes it again: promote another version")
    users += [f"not withdrawn: {holder} reads it" for holder in wrong.holders]
    return ", ".join(users) or "nothing refers to it"


def _next(report: Report, environment: str) -> list[str]:
    """Return what to paste: the repair, then a build of what is missing in each environment."""
    from treadle_runtime.commands.console import MAX_NAMES

    repair, commands = "", []
    if any(each.status == "damaged" and not each.is_withdrawn for each in report.wrong):
        repair = next_command("verify", "--repair")
    for env in sorted({env for each in report.wrong for env in each.environments}):
        names = sorted({each.step for each in report.wrong if env in each.environments})
        chosen = ("--select", " ".join(names)) if len(names) <= MAX_NAMES else ()
        option = () if env == environment else ("--env", env)
        commands.append(next_command("build", *option, *chosen))
    builds = " && ".join(commands)
    # The repair ends with 1 where it leaves something that no build sets right; the builds are wanted all the same.
    is_left = bool(report.state) or any(each.is_lost or each.status == "newer" for each in report.wrong)
    both = ("; " if is_left else " && ").join(filter(None, (repair, builds)))
    return [both] if both else []
