"""treadle clean: remove versions that nothing refers to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treadle_runtime.commands.options import json_option, open_project, project_options

if TYPE_CHECKING:
    from treadle_runtime.housekeeping import Unused
    from treadle_runtime.references import Reference

MAX_STEPS = 20


def _to_age(ctx: click.Context, parameter: click.Parameter, value: str) -> timedelta:
    from treadle.names import parse_duration_us

    try:
        return timedelta(microseconds=parse_duration_us(value))
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error)) from error


@click.command("clean")
@click.option(
    "--older-than",
    default="7d",
    show_default=True,
    metavar="AGE",
    callback=_to_age,
    help="Only what was built, and last in an environment, longer ago, as in 12h or 30d",
)
@click.option(
    "--keep",
    default=2,
    show_default=True,
    type=click.IntRange(0),
    help="How many publications of each environment can be rolled back",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed")
@click.option("--yes", is_flag=True, help="Do not ask")
@project_options
@json_option
def clean(
    older_than: timedelta,
    keep: int,
    dry_run: bool,
    yes: bool,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> None:
    """Remove stored versions that nothing refers to

    Kept is what an environment, a model version, a running build, an open project or an open catalog refers to, and
    what the last publications replaced. The rest goes a week after it was last needed.

    \b
    Examples:
      treadle clean --dry-run
      treadle clean --older-than 30d --yes
    """
    from treadle_runtime.commands.console import ask, print_json
    from treadle_runtime.commands.story import mebibytes
    from treadle_runtime.housekeeping import Terms, find_unused, remove_unused

    terms = Terms(older_than, keep)
    with open_project(folder, environment, variables) as workspace:
        store, state = workspace.store, workspace.state
        unused = find_unused(store, state, terms)
        steps = state.step_names()
        if as_json:
            gone = remove_unused(store, state, unused.versions, terms) if yes and not dry_run else None
            print_json(_to_json(unused, steps, gone))
            return
        for line in _to_lines(unused, steps):
            click.echo(line)
        if dry_run or (unused.versions and not (yes or ask("Remove them?"))):
            return
        gone = remove_unused(store, state, unused.versions, terms)  # with none, what else is left over goes
        if unused.versions:
            n_left = len(unused.versions) - len(gone)
            size = mebibytes(sum(unused.versions[fingerprint] for fingerprint in gone))
            click.echo(f"removed {size}" + (f", except {n_left} that are in use by now" if n_left else ""))


def _to_json(unused: Unused, steps: Mapping[str, str], gone: list[str] | None) -> dict[str, Any]:
    versions = {fp: size for fp, size in unused.versions.items() if gone is None or fp in gone}
    return {
        "removed": bool(gone),
        "bytes": sum(versions.values()),
        "versions": {fp: {"step": steps.get(fp), "bytes": size} for fp, size in versions.items()},
        "recent": {"versions": len(unused.recent), "bytes": sum(unused.recent.values())},
        "kept": [{"reason": each.reason, "holder": each.holder, "versions": n} for each, n in _kept(unused)],
    }


def _to_lines(unused: Unused, steps: Mapping[str, str]) -> list[str]:
    from treadle_runtime.commands.console import to_lines
    from treadle_runtime.commands.story import mebibytes
    from treadle_runtime.references import REASONS

    sizes: dict[str, list[int]] = {}
    for fingerprint, size in unused.versions.items():
        sizes.setdefault(steps.get(fingerprint, "(not recorded)"), []).append(size)
    rows = sorted(sizes.items(), key=lambda item: (-sum(item[1]), item[0]))
    cells = [(step, f"{len(found):,}", mebibytes(sum(found))) for step, found in rows[:MAX_STEPS]]
    lines = to_lines(cells, header=("step", "versions", "size")) if cells else []
    if len(rows) > MAX_STEPS:
        lines.append(f"and {len(rows) - MAX_STEPS} more steps")
    word = "version" if len(unused.versions) == 1 else "versions"
    lines.append(f"{len(unused.versions):,} {word} that nothing refers to, {mebibytes(sum(unused.versions.values()))}")
    if unused.recent:
        recent = mebibytes(sum(unused.recent.values()))
        lines.append(f"{len(unused.recent):,} more, {recent}, not old enough: `--older-than 0s` takes them too")
    kept = [f"{n:,} {REASONS[each.reason]} {each.holder}".rstrip() for each, n in _kept(unused)]
    return [*lines, f"kept: {', '.join(kept)}"] if kept else lines


def _kept(unused: Unused) -> list[tuple[Reference, int]]:
    """Return the references that keep anything, each with how many versions it keeps that those before do not."""
    seen: set[str] = set()
    found = []
    for reference in unused.references:
        if n := len(reference.fingerprints - seen):
            found.append((reference, n))
        seen |= reference.fingerprints
    return found
