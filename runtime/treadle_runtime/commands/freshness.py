"""treadle freshness: how old the data of the sources is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treadle_runtime.commands.options import json_option, open_project, project_options

if TYPE_CHECKING:
    from datetime import timedelta

    from treadle_runtime.freshness import Freshness
    from treadle_runtime.workspace import Workspace

FRESHNESS_VERSION = 1
_COLOURS = {"fresh": "green", "warn": "yellow", "error": "red", "unknown": "red"}
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


@click.command("freshness")
@click.option("--select", "-s", multiple=True, metavar="SELECTOR", help="Only these sources, or those that these read")
@project_options
@json_option
def freshness(
    select: tuple[str, ...], folder: Path, environment: str | None, variables: str | None, as_json: bool
) -> int:
    """Check how old the data of the sources is

    A source says in YAML how old it may be: `freshness: {column: loaded_at, warn_after: 12h, error_after: 1d}`. Without
    a column the time counts at which a file of it was last written to. Exit code 1: a source is older than its
    error_after, or cannot be read. The answer stands in target/freshness.json too.

    \b
    Examples:
      treadle freshness
      treadle freshness --select +arrivals
    """
    from datetime import UTC, datetime

    from treadle_runtime.artifacts import write_artifact
    from treadle_runtime.commands.console import print_json, print_problem, to_lines
    from treadle_runtime.freshness import check_freshness

    with open_project(folder, environment, variables) as workspace:
        now = datetime.now(UTC)
        found = check_freshness(
            _sources(workspace, select),
            root=workspace.root,
            allow_paths=workspace.compiled.allow_paths,
            store=workspace.store,
            state=workspace.state,
            now=now,
        )
        document = {
            "freshness_version": FRESHNESS_VERSION,
            "environment": workspace.environment,
            "checked_at": now.isoformat(),
            "sources": [_to_json(each) for each in found],
        }
        write_artifact(workspace.root, "freshness.json", document)
    if as_json:
        print_json(document)
    elif not found:
        click.echo("no source says how fresh it must be\nnext: add `freshness: {warn_after: 1d}` to one, in features/")
    else:
        lines = to_lines([_row(each) for each in found], header=("source", "newest (UTC)", "age", "limit", "level"))
        click.echo(lines[0])
        for each, line in zip(found, lines[1:], strict=True):
            click.echo(click.style(line, fg=_COLOURS[each.level]))
    if not as_json:
        for each in found:
            for problem in each.problems:
                print_problem(problem)
    return int(any(each.level in ("error", "unknown") for each in found))


def _sources(workspace: Workspace, selectors: Sequence[str]) -> list[Any]:
    """Return the sources that say how fresh they must be, among the selected and what these read."""
    from treadle.select import select

    graph = workspace.graph
    chosen = set(select(graph, selectors, beside=workspace.beside(selectors)))
    wanted = chosen | graph.ancestors(chosen)
    return [step for step in graph if step.kind == "source" and step.id in wanted and "freshness" in step.settings]


def _row(found: Freshness) -> tuple[str, ...]:
    newest = f"{found.newest:%Y-%m-%d %H:%M:%S}" if found.newest else "none"
    beyond = "error_after" if found.level == "error" or "warn_after" not in found.limits else "warn_after"
    limit = f"{beyond} {found.limits[beyond]}"
    return found.step.name, newest, _age(found.age), limit, found.level


def _age(age: timedelta | None) -> str:
    """Return an age for people, in its two largest units."""
    if age is None:
        return ""
    seconds = abs(int(age.total_seconds()))
    counts = []
    for unit, size in _UNITS:
        counts.append((seconds // size, unit))
        seconds %= size
    first = next((i for i, (n, _) in enumerate(counts) if n), len(counts) - 1)
    text = " ".join(f"{n} {unit}" for n, unit in counts[first : first + 2] if n) or "0 s"
    return f"in {text}" if age.total_seconds() <= -1 else text


def _to_json(found: Freshness) -> dict[str, Any]:
    return {
        "name": found.step.name,
        "level": found.level,
        "newest": found.newest.isoformat() if found.newest else None,
        "age_seconds": found.age.total_seconds() if found.age is not None else None,
        **found.limits,
        "problems": [problem.to_json() for problem in found.problems],
    }
