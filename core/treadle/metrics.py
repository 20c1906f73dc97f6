"""The metrics that a pipeline can name: which tasks they measure, and which way is better.

They are computed in the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from treadle.errors import Location, Problem
from treadle.names import close_match

Needs = Literal["probability", "class", "value"]


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are.

    Attributes:
        name: as written in a pipeline and in a gate.
        tasks: those it measures; with more than two classes f1 and balanced_accuracy are means over the
            classes, and roc_auc is the mean of each class against the rest.
        higher_is_better: whether a greater value is a better one.
        needs: what it looks at: probabilities, the class (binary: probability of at least 0.5; multiclass:
            the most probable), or the predicted value.
        unit: `label` for the label's own unit, `share` for a part of 1 that may exceed it, else empty.
    """

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    needs: Needs
    unit: str = ""


_CLASSES = ("binary", "multiclass")

METRICS: dict[str, Metric] = {
    found.name: found
    for found in (
        Metric("roc_auc", _CLASSES, True, "probability"),
        Metric("average_precision", ("binary",), True, "probability"),
        Metric("brier", ("binary",), False, "probability"),
        Metric("log_loss", _CLASSES, False, "probability"),
        Metric("accuracy", _CLASSES, True, "class"),
        Metric("balanced_accuracy", _CLASSES, True, "class"),
        Metric("f1", _CLASSES, True, "class"),
        Metric("precision", ("binary",), True, "class"),
        Metric("recall", ("binary",), True, "class"),
        Metric("mae", ("regression",), False, "value", "label"),
        Metric("rmse", ("regression",), False, "value", "label"),
        Metric("median_absolute_error", ("regression",), False, "value", "label"),
        Metric("mape", ("regression",), False, "value", "share"),
        Metric("r2", ("regression",), True, "value"),
    )
}


def metric(name: str, task: str, *, where: Location | None = None) -> Metric | Problem:
    """Return the metric of that name, or problem TR504 when there is none or it does not fit the task.

    Args:
        name: as the user wrote it.
        task: binary, multiclass or regression.
        where: the place to name in the problem.
    """
    found = METRICS.get(name)
    if found is not None and task in found.tasks:
        return found
    fitting = [known.name for known in METRICS.values() if task in known.tasks]
    fix = f"take one of {', '.join(fitting)}"
    if found is None:
        return Problem(
            "TR504",
            f'metric "{name}" is not known',
            where,
            f"the task is {task}",
            close_match(name, fitting) or "",
            fix,
        )
    why = f"{name} measures {' and '.join(found.tasks)}, the task is {task}"
    return Problem("TR504", f'metric "{name}" does not measure the task', where, why, fix=fix)
