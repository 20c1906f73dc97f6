"""The verdict: which model is the best on validation rows, and whether it passes the gates on test rows.

A gate is `passed`, `failed` or `skipped`. Only a gate that names the champion is ever skipped, and only while
there is none; what keeps a gate from being judged otherwise fails it, and is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from treadle.errors import Problem, StepError, TransientError
from treadle.gates import Gate, is_better
from treadle_runtime.evaluation.baselines import best_baseline
from treadle_runtime.evaluation.evaluate import Predictor, check_prediction
from treadle_runtime.evaluation.metrics import score
from treadle_runtime.evaluation.slices import MIN_ROWS
from treadle_runtime.splits import TEST

if TYPE_CHECKING:
    from treadle.metrics import Metric

Info = Mapping[str, Any]
_MAX_REASON = 200
_PASSING = (MemoryError, OSError)
"""What a model raises for reasons of the machine: the verdict stands for good, and they do not."""


class _CannotJudgeError(Exception):
    """Why a gate fails without a comparison; never leaves this module."""


def choose(evaluations: Mapping[str, Info], metric: Metric) -> dict[str, Any]:
    """Return the model with the best validation value of a metric.

    Args:
        evaluations: model -> info of its evaluation; of equals the first one wins.
        metric: the pipeline's first metric.

    Returns:
        JSON: `chosen` (the model's name), `by` (the metric's name), `values` {model: value or None}.

    Raises:
        ValueError: there are no evaluations.
    """
    values = {name: _defined(info["validation"].get(metric.name)) for name, info in evaluations.items()}
    if not values:
        raise ValueError("there is no model to choose from")
    chosen = next(iter(values))
    for name, value in values.items():
        if is_better(value, values[chosen], metric):
            chosen = name
    return {"chosen": chosen, "by": metric.name, "values": values}


def validate(
    gates: Sequence[Gate], evaluation: Info, champion: Info | None, baselines: Mapping[str, Info]
) -> dict[str, Any]:
    """Hold the chosen model against the gates.

    Args:
        gates: the pipeline's gates, parsed.
        evaluation: info of the chosen model's evaluation: `test` and `slices` are read.
        champion: None if there is no champion; else {"name", "metrics", "overlap", "why"}: the metrics of its
            held-out twin on the same test rows and why there are none (as from `champion_metrics`), and on
            how many of these rows the twin was trained (as from `count_overlap`).
        baselines: as from `baselines.baselines`.

    Returns:
        JSON: `passed` (no gate failed) and `gates` [{gate, status, value, bound, why}], in their order. value
        and bound are None where they could not be told; a slice gate's entry has `slice`, the worst one.
    """
    judged = [_judge(gate, evaluation, champion, baselines) for gate in gates]
    return {"passed": all(entry["status"] != "failed" for entry in judged), "gates": judged}


def _judge(gate: Gate, evaluation: Info, champion: Info | None, baselines: Mapping[str, Info]) -> dict[str, Any]:
    entry: dict[str, Any] = {"gate": gate.text, "status": "failed", "value": None, "bound": None, "why": ""}
    try:
        entry |= _read_value(gate, evaluation)
        if gate.needs_champion and champion is None:
            return entry | {"status": "skipped", "why": "there is no champion yet"}
        of_champion = _read_champion(gate, champion) if champion and gate.needs_champion else None
        of_baseline = _read_baseline(gate, baselines) if gate.needs_baseline else None
    except _CannotJudgeError as reason:
        return entry | {"why": str(reason)}
    entry["bound"] = gate.bound(of_champion, of_baseline)
    if gate.holds(entry["value"], of_champion, of_baseline):
        return entry | {"status": "passed"}
    where = f" for {gate.slice} = {_shown(entry['slice'])}" if gate.slice is not None else ""
    return entry | {"why": f"{gate.metric} is {entry['value']:.4g}{where}, the bound is {entry['bound']:.4g}"}


def _read_value(gate: Gate, evaluation: Info) -> dict[str, Any]:
    """Return the value that a gate looks at, and for a slice gate which slice is the worst."""
    if gate.slice is None:
        value = _defined(evaluation["test"].get(gate.metric, {}).get("value"))
        if value is None:
            raise _CannotJudgeError(f"{gate.metric} is undefined on the test rows")
        return {"value": value}
    slices = evaluation["slices"].get(gate.slice, {"judged": []})["judged"]
    defined = [s for s in slices if _defined(s["metrics"].get(gate.metric)) is not None]
    if not defined:
        why = f"{MIN_ROWS} test rows, of two classes or more where the label has classes"
        raise _CannotJudgeError(f"no slice of {gate.slice} can be judged: none has {why}")
    worst = (min if gate.wants_more else max)(defined, key=lambda s: float(s["metrics"][gate.metric]))
    return {"value": float(worst["metrics"][gate.metric]), "slice": worst["value"]}


def _read_champion(gate: Gate, champion: Info) -> float:
    name = champion.get("name", "")
    if why := champion.get("why"):
        raise _CannotJudgeError(f"the champion {name} cannot be scored on the test rows: {why}")
    overlap = champion.get("overlap")
    if overlap is None:
        raise _CannotJudgeError(f"on which rows the champion {name} was trained is not known")
    if overlap:
        raise _CannotJudgeError(f"the champion {name} was trained on {overlap} of the test rows")
    value = _defined(champion.get("metrics", {}).get(gate.metric))
    if value is None:
        raise _CannotJudgeError(f"the champion {name} has no {gate.metric} on the test rows")
    return value


def _read_baseline(gate: Gate, baselines: Mapping[str, Info]) -> float:
    best = best_baseline(baselines, gate.metric)
    if best is None:
        raise _CannotJudgeError(f"no baseline has a {gate.metric} on the test rows")
    return best[1]


def _defined(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _shown(value: Any) -> str:
    return "NULL" if value is None else repr(value)


def champion_metrics(
    model: Predictor,
    dataset: pa.Table,
    parts: npt.NDArray[np.int8],
    roles: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    y: npt.NDArray[Any],
    classes: Sequence[Any] = (),
    inputs: Sequence[str] | None = None,
    champion_classes: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Score a champion's held-out twin on the test rows of the candidate.

    Args:
        model: the twin.
        dataset, parts, roles, config, y, classes: the candidate's, as for `evaluate`.
        inputs: the columns that the twin reads, where they differ from the candidate's.
        champion_classes: the values behind 0, 1, ... in the twin's predictions, where they may differ.

    Returns:
        JSON: `metrics` {metric: value} on the test rows, `missing` [inputs that the dataset lacks], `why`
        (empty, or why there are no metrics).

    Raises:
        TransientError: TR716, the twin could not predict for a reason that may pass, such as a full disk or memory.
    """
    task, metrics = str(config["task"]), list(config["metrics"])
    names = list(dict.fromkeys(roles["inputs"] if inputs is None else inputs))
    missing = [name for name in names if name not in dataset.column_names]
    if missing:
        return _unscored(f"the dataset lacks its inputs {', '.join(missing)}", missing)
    if champion_classes is not None and list(champion_classes) != list(classes):
        return _unscored(f"it knows the classes {list(champion_classes)}, and the labels are {list(classes)}")
    rows = np.flatnonzero(parts == TEST)
    try:
        found = model.predict(dataset.select(names).take(rows))
        prediction = check_prediction(found, len(rows), task, len(classes))
    except TransientError:
        raise
    except StepError as error:
        problem = error.problems[0]
        return _unscored(f"{problem.what}; {problem.why}" if problem.why else problem.what)
    except Exception as error:  # its library's own: a model that fails on new rows must not stop its successor
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "it says nothing more")
        why = f"{type(error).__name__}: {said[:_MAX_REASON]}"
        if isinstance(error, _PASSING) and not isinstance(error, FileNotFoundError):
            what, fix = "the champion's model cannot predict", "run the same command again"
            raise TransientError(Problem("TR716", what, why=why, fix=fix)) from error
        return _unscored(f"its model raised {why}")
    return {"metrics": score(y[rows], prediction, task, metrics), "missing": [], "why": ""}


def _unscored(why: str, missing: Sequence[str] = ()) -> dict[str, Any]:
    return {"metrics": {}, "missing": list(missing), "why": why}


def count_overlap(test_keys: pa.ChunkedArray, trained_keys: pa.ChunkedArray) -> int:
    """Return how many test rows a champion's twin was trained on.

    Args:
        test_keys: keys of the test rows.
        trained_keys: keys of the rows that the twin trained on; compared as text if the types differ.
    """
    if test_keys.type != trained_keys.type:
        test_keys, trained_keys = pc.cast(test_keys, pa.string()), pc.cast(trained_keys, pa.string())
    trained = set(trained_keys.to_pylist())
    return sum(key in trained for key in test_keys.to_pylist())
