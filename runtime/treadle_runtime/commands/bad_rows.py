"""treadle show NAME --bad-rows: the rows of a source that do not parse, which `bad_rows: quarantine` leaves out."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from treadle_runtime.handle import StepHandle

_MAX_TEXT = 60


def show_bad_rows(name: str, handle: StepHandle | None, limit: int, as_json: bool) -> None:
    """Print a source's first bad rows, and how many there are.

    Args:
        limit: how many to print.

    Raises:
        UsageError: TR603 the name is no source that leaves bad rows out, TR807 it is not built.
    """
    from treadle.errors import Problem, UsageError
    from treadle_runtime import quarantine
    from treadle_runtime.commands.console import print_json, to_lines
    from treadle_runtime.handle import not_built
    from treadle_runtime.quarantine_read import is_quarantined

    if handle is None or not is_quarantined(handle.step.config):
        what = f'"{name}" is no source with bad_rows: quarantine'
        why = "" if handle is None or handle.step.kind != "source" else "a row that does not parse fails its build"
        where = handle.step.where if handle is not None else None
        fix = "set it in the source and build; `treadle list --select kind:source` names all sources"
        raise UsageError(Problem("TR603", what, where, why, fix=fix))
    version = handle.version
    if version is None:
        raise not_built(name)
    n = count_bad_rows(handle)[quarantine.COUNT]
    rows = list(islice(quarantine.read(version), limit))
    if as_json:
        print_json({"name": name, "rows": version.rows, quarantine.COUNT: n, "sample": rows})
        return
    cells = [(f"{row['file']}:{row['line']}", row["column"] or "", row["error"], _cut(row["text"])) for row in rows]
    if cells:
        for line in to_lines(cells, header=("line", "column", "error", "text")):
            click.echo(line)
    more = f", the first {len(rows):,} of them above: see --limit" if len(rows) < n else ""
    click.echo(f"{n:,} of {n + version.rows:,} rows do not parse{more}")


def count_bad_rows(handle: StepHandle) -> dict[str, int]:
    """Return how many rows of a built source are left out, by the name of the key; {} where none ever are."""
    from treadle_runtime.quarantine import COUNT

    info = handle.version.info if handle.step.kind == "source" and handle.version is not None else {}
    found = info.get(COUNT)
    return {COUNT: found} if isinstance(found, int) else {}


def tell_bad_rows(handle: StepHandle, rows: int) -> tuple[str, ...]:
    """Return what to say beneath a source's rows, of which there are so many."""
    from treadle_runtime.quarantine import to_notes

    return to_notes(handle.step.name, sum(count_bad_rows(handle).values()), rows)


def _cut(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
