"""A backfill: of which incremental features which intervals are computed, and nothing else."""

from __future__ import annotations

from treadle.errors import Problem, UsageError
from treadle.step import Graph
from treadle_runtime.intervals import Window


def choose_windows(graph: Graph, selected: frozenset[str], window: Window) -> dict[str, Window]:
    """Return id of a feature -> the window to compute, for a selection.

    What stands on another one that is chosen waits: it reads that as a whole.

    Raises:
        UsageError: TR603, no incremental feature is selected, or the window is empty.
    """
    if window.start is not None and window.end is not None and window.start >= window.end:
        raise UsageError(Problem("TR603", "--start must lie before --end", fix="--end is the first moment left out"))
    found = {step_id for step_id in selected if graph[step_id].config.get("materialized") == "incremental"}
    if not found:
        every = [step.name for step in graph if step.config.get("materialized") == "incremental"]
        why = f"incremental here: {', '.join(every[:10])}" if every else "the project has none"
        fix = "select one, or leave --start and --end out"
        what = "--start and --end are for incremental features, and none is selected"
        raise UsageError(Problem("TR603", what, why=why, fix=fix))
    return {step_id: window for step_id in sorted(found) if found.isdisjoint(graph.ancestors({step_id}))}
