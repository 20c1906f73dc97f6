"""treadle env: environments listed, shown, compared, promoted, rolled back, dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.options import command_words, compile_project, folder_option, json_option, print_loss

if TYPE_CHECKING:
    from treadle.projectfile import EnvironmentNames
    from treadle_runtime.environments import Changes, Environments, Move

_TABLES = ("source", "feature", "dataset", "evaluate", "stage")
_SHORT = 12
_MAX_SHOWN = 20


@click.group("env")
def env() -> None:
    """List, compare, promote and roll back environments

    An environment is a map from names to versions. All stand on one store, so none of these commands moves data.

    \b
    Examples:
      treadle env diff dev production
      treadle env promote dev production
    """


@env.command("list")
@folder_option
@json_option
def list_environments(folder: Path, as_json: bool) -> None:
    """List the environments, and what was published in each

    \b
    Examples:
      treadle env list
      treadle env list --json
    """
    from treadle_runtime.commands.console import print_json, to_lines

    with _opened(folder) as (names, environments):
        found = environments.list(names.names)
    if as_json:
        print_json([asdict(each) | {"is_default": each.name == names.default} for each in found])
        return
    rows = []
    for each in found:
        notes = ["default"] if each.name == names.default else []
        notes += [] if each.is_defined else ["not in treadle.yml"]
        when = _minute(each.published_at) or "never"
        rows.append((each.name, str(each.steps), when, each.command or "", ", ".join(notes)))
    for line in to_lines(rows, header=("environment", "steps", "published (UTC)", "by", "note")):
        click.echo(line)


@env.command("show")
@click.argument("name", required=False)
@click.option("--history", is_flag=True, help="What was published, newest first, instead of the map")
@click.option("--limit", default=_MAX_SHOWN, show_default=True, type=click.IntRange(1), help="How much of the history")
@folder_option
@json_option
def show(name: str | None, history: bool, limit: int, folder: Path, as_json: bool) -> None:
    """Show an environment's map, or what was published in it

    \b
    Examples:
      treadle env show production
      treadle env show production --history
    """
    from treadle_runtime.commands.console import print_json, to_lines
    from treadle_runtime.registry import Registry

    with _opened(folder) as (names, environments):
        chosen = name or names.default
        names.check(chosen, environments.names())
        if history:
            _show_history(environments, chosen, limit, as_json)
            return
        entries = environments.state.entries(chosen)
        aliases = Registry(environments.state).aliases(chosen)
    if as_json:
        keys = ("step", "kind", "fingerprint", "rows", "created_at")
        steps = [{key: getattr(entry, key) for key in keys} for entry in entries]
        print_json({"environment": chosen, "steps": steps, "aliases": aliases})
        return
    rows = [
        (
            entry.kind or "",
            entry.step.removeprefix("test:"),
            entry.fingerprint[:_SHORT],
            "in place" if entry.is_inline else f"{entry.rows or 0:,}" if entry.kind in _TABLES else "",
            _minute(entry.created_at),
        )
        for entry in entries
    ]
    for line in to_lines(rows, header=("kind", "name", "version", "rows", "built (UTC)")):
        click.echo(line)
    for pipeline, numbers in aliases.items():
        click.echo(f"{pipeline}: " + ", ".join(f"{alias} is version {number}" for alias, number in numbers.items()))
    click.echo(f"{_count(entries, 'step')} in {chosen}")
    words = ("env", "show", chosen, "--history") if entries else ("build", "--env", chosen)
    click.echo(f"next: {next_command(*words)}")


def _show_history(environments: Environments, name: str, limit: int, as_json: bool) -> None:
    from treadle_runtime.commands.console import print_json, to_lines

    found = environments.state.history(name, limit)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    rows = [
        (str(each.id), _minute(each.at), _counts(each.changes), each.command)
        if each.restores is None
        else (str(each.id), _minute(each.at), _counts(each.changes), f"{each.command}: back to {each.restores}")
        for each in found
    ]
    for line in to_lines(rows, header=("publication", "at (UTC)", "steps", "by")):
        click.echo(line)
    if not found:
        click.echo(f"next: {next_command('build', '--env', name)}")


@env.command("diff")
@click.argument("first")
@click.argument("second")
@folder_option
@json_option
def diff(first: str, second: str, folder: Path, as_json: bool) -> None:
    """Compare what two environments have published

    The reason given for a step is what its version in the first environment changed against that in the second.

    \b
    Examples:
      treadle env diff dev production
      treadle env diff dev production --json
    """
    from treadle_runtime.commands.console import print_json

    with _opened(folder) as (names, environments):
        for name in (first, second):
            names.check(name, environments.names())
        changes = environments.diff(first, second)
        groups = _grouped(changes)
        if as_json:
            only_first, only_second, different = groups
            print_json(
                {
                    "first": first,
                    "second": second,
                    "only_first": {step: changes[step][0] for step in only_first},
                    "only_second": {step: changes[step][1] for step in only_second},
                    "different": {step: list(changes[step]) for step in different},
                }
            )
            return
        _print_diff(environments, first, second, changes)
    if not changes:
        click.echo(f"{first} and {second} are the same")
    elif len(groups[1]) < len(changes):
        click.echo(f"next: {next_command('env', 'promote', first, second)}")


def _print_diff(environments: Environments, first: str, second: str, changes: Changes) -> None:
    from treadle.fingerprint import describe
    from treadle.fingerprint import diff as compare
    from treadle_runtime.commands.console import to_lines

    for title, steps in zip((f"only in {first}", f"only in {second}", "different"), _grouped(changes), strict=True):
        if not steps:
            continue
        click.echo(f"{title}: {len(steps)}")
        shown = steps[:_MAX_SHOWN]
        identities = environments.state.identities(found for step in shown for found in changes[step] if found)
        rows = []
        for step in shown:
            ours, theirs = changes[step]
            after, before = identities.get(ours or ""), identities.get(theirs or "")
            reasons = [describe(change) for change in compare(before, after)] if before and after else []
            versions = " / ".join(found[:_SHORT] for found in (ours, theirs) if found)
            rows.append((f"  {step.removeprefix('test:')}", versions, "; ".join(reasons[:2])))
        for line in to_lines(rows):
            click.echo(line)
        if len(steps) > len(shown):
            click.echo(f"  and {len(steps) - len(shown)} more: --json lists all")


@env.command("promote")
@click.argument("source")
@click.argument("target")
@click.option("--select", "-s", multiple=True, metavar="SELECTOR", help="Only these steps, and what they stand on")
@click.option("--yes", is_flag=True, help="Do not ask")
@folder_option
@json_option
def promote(source: str, target: str, select: tuple[str, ...], yes: bool, folder: Path, as_json: bool) -> None:
    """Give an environment the versions of another

    The pipelines' candidates move along. The champion does not: it is moved by `treadle models promote` alone. With
    --select the names that the project's files give to the selected steps and to all that they read move, and the
    other names stay. With --json and without --yes nothing is done.

    \b
    Examples:
      treadle env promote dev production
      treadle env promote dev production --select +spend --yes
    """
    from treadle.files import find_root
    from treadle.select import Beside
    from treadle.selectors import read_selectors
    from treadle_runtime.commands.console import ask, print_json
    from treadle_runtime.environments import stand_on

    with _opened(folder) as (names, environments):
        for name in (source, target):
            names.check(name)
        steps = None
        if select:
            environments.preview(source, target)
            graph = compile_project(folder, source)
            beside = Beside(named=read_selectors(find_root(folder)).named)
            steps = stand_on(graph, select, environments.state.environment(source), source, beside=beside)
        move = None if yes else environments.preview(source, target, steps=steps)
        if move is not None and not as_json and (move.changes or move.candidates):
            _print_names(move.changes)
            if not ask(f"Promote {source} to {target}: {_counts(move.changes)}?"):
                return
        if move is None or not as_json:
            move = environments.promote(source, target, steps=steps, shown=move)
            _write_views(environments, target, move, like=source)
    is_change = bool(move.changes or move.candidates)
    if as_json:
        print_json({"source": source, "target": target, "promoted": yes, **_to_json(move)})
        return
    click.echo(f"{target}: {_counts(move.changes)}" if is_change else f"{target} has what {source} has")
    _print_candidates(target, move)
    for pipeline in move.candidates:
        click.echo(f"next: {next_command('models', 'promote', pipeline, '--env', target)}")
        return
    click.echo(f"next: {next_command('env', 'show', target, '--history')}")


@env.command("rollback")
@click.argument("name")
@click.option("--to", type=int, metavar="PUBLICATION", help="The map after this publication, as --history numbers it")
@folder_option
@json_option
def rollback(name: str, to: int | None, folder: Path, as_json: bool) -> None:
    """Take back an environment's last publication

    The history keeps it: --to leads forward again. Rolling back twice goes two publications back.

    \b
    Examples:
      treadle env rollback production
      treadle env rollback production --to 12
    """
    from treadle_runtime.commands.console import print_json

    with _opened(folder) as (names, environments):
        names.check(name, environments.names())
        move = environments.rollback(name, to=to)
        _write_views(environments, name, move)
    if as_json:
        print_json({"environment": name, "restores": move.restores, **_to_json(move)})
        return
    click.echo(f"{name}: back to publication {move.restores}: {_counts(move.changes)}")
    _print_candidates(name, move)
    click.echo(f"next: {next_command('env', 'show', name, '--history')}")


@env.command("drop")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask")
@folder_option
@json_option
def drop(name: str, yes: bool, folder: Path, as_json: bool) -> None:
    """Remove an environment's map, aliases and catalog

    The versions stay in the store until `treadle clean` removes those that nothing else stands on. With --json and
    without --yes nothing is done.

    \b
    Examples:
      treadle env drop pr_17
      treadle env drop pr_17 --yes
    """
    from treadle_runtime.commands.console import ask, print_json, print_wait
    from treadle_runtime.views import remove_views

    with _opened(folder) as (names, environments):
        names.check(name, environments.names())
        n = len(environments.state.environment(name))
        if not as_json and not yes:
            yes = ask(f"Drop {name}, {n} {'step' if n == 1 else 'steps'}, with its aliases and its catalog?")
        if yes:
            n = len(environments.drop(name).changes)
            remove_views(environments.store, name, on_wait=partial(print_wait, name))
    if as_json:
        print_json({"environment": name, "steps": n, "dropped": yes})
    elif yes:
        click.echo(f"{name} is dropped; its versions are in the store")
        click.echo(f"next: {next_command('clean')}")


@contextmanager
def _opened(folder: Path) -> Iterator[tuple[EnvironmentNames, Environments]]:
    """Open what is known of the environments; of the project's files only treadle.yml is read."""
    from treadle.files import find_root
    from treadle.projectfile import read_environments
    from treadle_runtime.environments import Environments
    from treadle_runtime.recovery import open_store
    from treadle_runtime.state import State

    root = find_root(folder)
    names, words = read_environments(root), command_words()
    with State(root / ".treadle" / "state.db") as state:
        store = open_store(root / ".treadle", owner=words, on_loss=print_loss)
        yield names, Environments(state, store, command=words)


def _write_views(environments: Environments, name: str, move: Move, *, like: str | None = None) -> None:
    from treadle_runtime.commands.console import print_problem, print_wait
    from treadle_runtime.views import write_views

    state, store = environments.state, environments.store
    has_changed, on_wait = bool(move.changes), partial(print_wait, name)
    for problem in write_views(state, store, name, like=like, has_changed=has_changed, on_wait=on_wait):
        print_problem(problem, severity="warning")


def _grouped(changes: Changes) -> tuple[list[str], list[str], list[str]]:
    """Return the names that have only a first, only a second, and two different fingerprints; tests come last."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for step in sorted(changes, key=lambda step: (step.startswith("test:"), step)):
        first, second = changes[step]
        groups[0 if second is None else 1 if first is None else 2].append(step)
    return groups


def _counts(changes: Changes) -> str:
    """Return `2 changed, 1 new`; in changes, the first fingerprint is the one before."""
    gone, new, changed = _grouped(changes)
    parts = [f"{len(steps)} {word}" for steps, word in ((changed, "changed"), (new, "new"), (gone, "gone")) if steps]
    return ", ".join(parts) or "no step changed"


def _print_names(changes: Changes) -> None:
    from treadle_runtime.commands.console import to_names

    for word, steps in zip(("gone", "new", "changed"), _grouped(changes), strict=True):
        if steps:
            click.echo(f"{word}: {to_names(steps)}")


def _print_candidates(name: str, move: Move) -> None:
    for pipeline, number in move.candidates.items():
        click.echo(f"{pipeline}: version {number} is the candidate in {name}")


def _to_json(move: Move) -> Mapping[str, object]:
    return {"changes": {k: list(v) for k, v in move.changes.items()}, "candidates": dict(move.candidates)}


def _count(things: Iterable[object], word: str) -> str:
    n = len(list(things))
    return f"{n:,} {word}" if n == 1 else f"{n:,} {word}s"


def _minute(moment: str | None) -> str:
    return moment[:19].replace("T", " ") if moment else ""
