"""treadle why: why one step is built or reused, down to the line, value or file that changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.options import (
    as_of_option,
    json_option,
    open_project,
    project_options,
    state_option,
)

if TYPE_CHECKING:
    from treadle.explain import Cause, Difference, Explanation, FileChange, Past

MAX_LINES = 60
MAX_CAUSES = 12
MAX_FILES = 20
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.command("why")
@click.argument("name")
@state_option
@as_of_option
@project_options
@json_option
def why(
    name: str,
    state: str | None,
    as_of: str | None,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> None:
    """Explain why a step would be built or reused

    Shows what changed since the environment's version: lines of code, values of the configuration, files of a source,
    versions of what computes it; and for inputs that changed, what changed there.

    \b
    Examples:
      treadle why carrier_history
      treadle why arrivals --state production --json
    """
    from treadle_runtime.commands.console import print_json
    from treadle_runtime.explaining import explain_step

    with open_project(folder, environment, variables, as_of) as workspace:
        found = explain_step(workspace, name, state=state)
        if as_json:
            print_json(_to_json(found))
            return
        is_plain = bool(os.environ.get("NO_COLOR"))
        for line in _tell(found):
            click.echo(line, color=False if is_plain else None)


def _tell(found: Explanation) -> Iterator[str]:
    step = found.planned.step
    yield click.style(f"{step.id} {_ACTIONS[found.planned.action]}: {found.planned.reason}", bold=True)
    yield from (f"  {line}" for line in _tell_past(found))
    if found.differences:
        yield ""
        yield from _tell_differences(found.differences)
    for cause in found.causes[:MAX_CAUSES]:
        yield ""
        yield from _tell_cause(cause)
    if len(found.causes) > MAX_CAUSES:
        yield ""
        yield f"and {len(found.causes) - MAX_CAUSES} more: {_names([c.step.id for c in found.causes[MAX_CAUSES:]])}"
    if found.alike:
        yield ""
        yield f"the same for: {_names(found.alike)}"
    if found.planned.action == "build":
        yield f"next: {next_command('build', '--select', step.id)}"


_ACTIONS = {"build": "would be built", "reuse": "is reused", "inline": "is part of what reads it"}


def _tell_past(found: Explanation) -> Iterator[str]:
    past, built = found.past, found.built
    if past is None:
        yield f"{found.side} holds a version of which no record is left" if found.stands else f"{found.side} holds none"
    elif not past.fingerprint:
        yield f"compared with {found.side}, which tells nothing of data"
    elif past.fingerprint == found.planned.fingerprint:
        yield f"{_when(past)}; nothing changed since"
        return
    else:
        yield f"compared with {found.side}: {_when(past)}"
    if built is not None:
        yield f"this one: {_when(built)}"


def _when(past: Past) -> str:
    return f"built {past.built_at[:19]}Z" + (f" by run {past.run_id}" if past.run_id else "")


def _tell_cause(cause: Cause) -> Iterator[str]:
    through = f", through {', '.join(cause.way[1:-1])}" if len(cause.way) > 2 else ""
    yield click.style(f"because of {cause.step.id}{through}", bold=True)
    if not cause.differences:
        yield "  its earlier identity is unknown"
    yield from (f"  {line}" if line else "" for line in _tell_differences(cause.differences))


def _tell_differences(differences: tuple[Difference, ...]) -> Iterator[str]:
    for difference in differences:
        if difference.leaves:
            yield from (_clean(leaf.to_text()) for leaf in difference.leaves[:MAX_LINES])
            yield from _tell_rest(len(difference.leaves), MAX_LINES, "values")
            continue
        yield _clean(difference.what) + (f": {difference.note}" if difference.note else "")
        for line in difference.lines[:MAX_LINES]:
            yield f"  {click.style(_clean(line), fg=_COLOURS.get(line[:1]))}" if line.strip() else ""
        yield from _tell_rest(len(difference.lines), MAX_LINES, "lines")
        yield from (f"  {_clean(_tell_file(file))}" for file in difference.files[:MAX_FILES])
        yield from _tell_rest(len(difference.files), MAX_FILES, "files")


def _tell_rest(n: int, shown: int, word: str) -> Iterator[str]:
    if n > shown:
        yield f"  and {n - shown} more {word}; --json shows all"


def _tell_file(file: FileChange) -> str:
    match file.verb:
        case "added":
            return f"{file.path} was added: {file.after:,} bytes"
        case "removed":
            return f"{file.path} was removed: {file.before:,} bytes"
        case "renamed":
            return f"{file.was} was renamed to {file.path}"
        case "appended":
            what = "" if file.lines is None else f", {file.lines:,} {'line' if file.lines == 1 else 'lines'} more"
            return f"{file.path} was appended to: {_growth(file)}{what}"
    return f"{file.path} changed: {_growth(file)}"


def _growth(file: FileChange) -> str:
    return f"{file.before:,} -> {file.after:,} bytes"


def _names(ids: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(ids) - MAX_CAUSES} more" if len(ids) > MAX_CAUSES else ""
    return ", ".join(ids[:MAX_CAUSES]) + more


def _clean(line: str) -> str:
    """Return a line of a user's file without what a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\t" else " " for c in line)


def _to_json(found: Explanation) -> dict[str, Any]:
    planned = found.planned
    return {
        "id": planned.step.id,
        "kind": planned.step.kind,
        "path": planned.step.where.path,
        "action": planned.action,
        "reason": planned.reason,
        "fingerprint": planned.fingerprint,
        "compared_with": found.side,
        "before": _past_json(found.past),
        "built": _past_json(found.built),
        "differences": [_difference_json(each) for each in found.differences],
        "causes": [
            {
                "id": cause.step.id,
                "way": list(cause.way),
                "differences": [_difference_json(each) for each in cause.differences],
            }
            for cause in found.causes
        ],
        "alike": list(found.alike),
    }


def _past_json(past: Past | None) -> dict[str, Any] | None:
    if past is None:
        return None
    return {"fingerprint": past.fingerprint or None, "built_at": past.built_at or None, "run": past.run_id or None}


def _difference_json(difference: Difference) -> dict[str, Any]:
    found: dict[str, Any] = {**vars(difference.change), "what": difference.what}
    if difference.lines:
        found["diff"] = list(difference.lines)
    if difference.leaves:
        found["values"] = [vars(leaf) for leaf in difference.leaves]
    if difference.files:
        found["files"] = [vars(file) for file in difference.files]
    if difference.note:
        found["note"] = difference.note
    return found
