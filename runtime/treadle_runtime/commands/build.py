"""treadle build, run and test: compute what changed, prove it, publish it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from treadle_runtime.commands.options import (
    as_of_option,
    defer_option,
    indirect_option,
    interruption,
    json_option,
    open_project,
    project_options,
    selection_options,
    threads_option,
    window_options,
)

if TYPE_CHECKING:
    from treadle.select import Indirect
    from treadle_runtime.commands.idle import IdleBuilds
    from treadle_runtime.request import Conditions, Tests
    from treadle_runtime.workspace import Workspace

F = TypeVar("F", bound=Callable[..., Any])


def _run_options(command: F) -> F:
    for option in (
        *(json_option, project_options, threads_option, defer_option, as_of_option),
        *(indirect_option, selection_options),
    ):
        command = option(command)
    return click.option(
        "--full-refresh", is_flag=True, help="Compute the selected again and compare; first results stay"
    )(command)


@click.command("build")
@window_options
@_run_options
def build(**options: Any) -> int:
    """Build features, datasets and models, run the tests, publish

    Only what changed runs; `treadle plan` shows it beforehand. Exit code 1: a step or a test failed and nothing was
    published, or the gates of a pipeline did not hold and its candidate stayed. --start and --end backfill incremental
    features: their intervals between these moments are computed, and nothing else is.

    \b
    Examples:
      treadle build
      treadle build --select +arrivals --exclude tag:slow
      treadle build --select state:modified+ --state production
      treadle build --select daily_totals --start 2024-01-01 --end 2024-02-01
    """
    return _build("with", **options)


@click.command("run")
@click.argument("steps", nargs=-1)
@click.option("--pdb", is_flag=True, help="Run one step here and stop where it raises")
@window_options
@_run_options
def run(steps: tuple[str, ...], pdb: bool, **options: Any) -> int:
    """Build without tests; `run STEP --pdb` debugs a step

    \b
    Examples:
      treadle run plane_age
      treadle run plane_age --pdb
    """
    if pdb:
        return _debug(steps, **options)
    options["select"] = (*options["select"], *steps)
    return _build("without", **options)


@click.command("test")
@_run_options
def test(**options: Any) -> int:
    """Run the tests, and build what they look at

    \b
    Examples:
      treadle test
      treadle test --select flights
    """
    return _build("only", **options)


def _build(
    tests: Tests,
    *,
    select: tuple[str, ...],
    exclude: tuple[str, ...],
    state: str | None,
    as_of: str | None,
    threads: int,
    full_refresh: bool,
    defer: str | None,
    indirect: Indirect,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
    start: int | None = None,
    end: int | None = None,
) -> int:
    from treadle_runtime.commands.idle import IdleBuilds
    from treadle_runtime.intervals import Window

    interruption().is_kept = True
    window = None if start is None and end is None else Window(start, end)
    with open_project(folder, environment, variables, as_of) as workspace:
        asked: Conditions = {
            "tests": tests,
            "full_refresh": full_refresh,
            "defer": defer,
            "state": state,
            "indirect": indirect,
        }
        request = workspace.request(select, exclude, **asked)
        is_whole = request.is_whole and (tests, full_refresh, defer, window) == ("with", False, None, None)
        idle = IdleBuilds(workspace) if is_whole else None
        if idle is not None and idle.tell(threads=threads, as_json=as_json):
            return 0
        return build_and_tell(
            workspace,
            as_json=as_json,
            idle=idle,
            selectors=select,
            exclude=exclude,
            threads=threads,
            window=window,
            **asked,
        )


def build_and_tell(workspace: Workspace, *, as_json: bool, idle: IdleBuilds | None = None, **arguments: Any) -> int:
    """Build, tell it as it goes and what came of it, and return the exit code.

    Args:
        idle: where a build of the whole project is kept that found nothing to do.
        arguments: of `Workspace.build`.
    """
    from treadle_runtime.commands.console import Reporter, print_json, print_problem, warn_of_nothing
    from treadle_runtime.commands.summary import exit_code, print_failures, to_results, to_summary

    reporter = Reporter(as_json=as_json)
    for warning in workspace.compiled.warnings:
        print_problem(warning, severity="warning")
    try:
        outcome = workspace.build(**arguments, emit=reporter)
    finally:
        reporter.close()
    if not outcome.run.results:
        what = "test" if arguments["tests"] == "only" else "step"
        warn_of_nothing(arguments["selectors"], arguments["exclude"], what=what)
    results, summary = to_results(workspace, outcome, reporter), to_summary(workspace, outcome)
    if as_json:
        print_json(results)
    else:
        summary.print(results["seconds"])
        print_failures(outcome)
    if idle is not None and outcome.is_idle:
        idle.keep(summary, results)
    return exit_code(workspace, outcome)


def _debug(
    steps: tuple[str, ...],
    *,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_of: str | None,
    threads: int,
    defer: str | None,
    **_: Any,
) -> int:
    from treadle.errors import Problem, UsageError
    from treadle_runtime.debugging import debug_step

    if len(steps) != 1:
        raise UsageError(Problem("TR603", "--pdb takes one step", fix="write `treadle run STEP --pdb`"))
    if defer:
        raise UsageError(
            Problem("TR603", "--pdb takes no --defer", fix="leave --defer out: what the step reads is built")
        )
    with open_project(folder, environment, variables, as_of) as workspace:
        if not _build_inputs(workspace, steps[0], threads):
            return 1
        with interruption().suspended():
            return debug_step(workspace, steps[0])


def _build_inputs(workspace: Workspace, step: str, threads: int) -> bool:
    """Build what the step reads, so that it can run here; return whether that succeeded."""
    from treadle_runtime.commands.console import Reporter
    from treadle_runtime.commands.summary import print_failures

    parents = workspace.step(step).step.inputs
    if not parents:
        return True
    outcome = workspace.build(parents, tests="without", threads=threads, emit=Reporter())
    print_failures(outcome)
    return not outcome.run.has_failed()
