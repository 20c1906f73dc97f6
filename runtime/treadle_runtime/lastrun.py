"""How the steps of the last run ended, in the words of `result:`."""

from __future__ import annotations

from treadle.step import Graph, Step
from treadle_runtime.state import State

_STATUS = {"failed": "error", "skipped": "skipped"}


def find_results(state: State, graph: Graph) -> dict[str, str]:
    """Return step id -> how it ended in the last run of the graph's environment, as in `treadle.select.RESULTS`.

    What a run reused without a failed test is not told: it ended earlier.

    Args:
        state: holds the runs.
        graph: says which steps are tests, and how severe.
    """
    run = state.last_run(graph.environment)
    if run is None:
        return {}
    verdicts = state.verdicts()
    found = {}
    for record in run.steps:
        step = graph.steps.get(record.step)
        if step is not None:
            word = _judge(step, verdicts.get(record.fingerprint or ""))
            found[record.step] = _STATUS.get(record.status, word)
    return found


def _judge(step: Step, verdict: bool | None) -> str:
    if step.kind not in ("test", "validate"):
        return "success"
    if verdict is not False:
        return "pass"
    return "fail" if step.blocks or step.kind == "validate" else "warn"
