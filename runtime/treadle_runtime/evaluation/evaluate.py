"""What a trained model predicts for validation and test rows, and how good that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from treadle.errors import Problem, StepError
from treadle_runtime.evaluation.metrics import Floats, score, score_interval
from treadle_runtime.evaluation.slices import score_slices
from treadle_runtime.splits import TEST, VALIDATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Parts = npt.NDArray[np.int8]


class Predictor(Protocol):
    """What predicts: a trained model together with the normal form of its inputs."""

    def predict(self, rows: pa.Table, /) -> npt.NDArray[np.float64]:
        """Return float64: regression (n,), binary (n,) of the positive class, multiclass (n, K)."""
        ...


def evaluate(
    model: Predictor,
    dataset: pa.Table,
    parts: Parts,
    roles: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    y: npt.NDArray[Any],
    classes: Sequence[Any] = (),
) -> tuple[pa.Table, dict[str, Any]]:
    """Score a model on validation and test rows.

    Args:
        model: predicts from a table of the dataset's input columns.
        dataset: the dataset's version, n rows.
        parts: int8 of shape (n,): 2 validation, 3 test.
        roles: the dataset's roles.
        config: `task`, `metrics` and `slices`.
        y: shape (n,): labels as numbers (see `metrics.score`); what stands in rows of other parts does not
            count.
        classes: the values behind 0, 1, ... of a classification.

    Returns:
        (predictions, info). The table is that of `predictions`. Info is JSON: `validation` {metric: value},
        `test` {metric: {value, low, high}}, `slices` of the test rows (see `slices.score_slices`), `rows` per
        part.

    Raises:
        StepError: TR716, the model predicts what is no prediction.
    """
    task, metrics = str(config["task"]), list(config["metrics"])
    rows = np.flatnonzero((parts == VALIDATION) | (parts == TEST))
    taken = dataset.take(rows)
    inputs = taken.select(list(dict.fromkeys(roles["inputs"])))
    prediction = check_prediction(model.predict(inputs), len(rows), task, len(classes))
    labels, part = y[rows], parts[rows]
    is_test = part == TEST
    info = {
        "validation": score(labels[~is_test], prediction[~is_test], task, metrics),
        "test": score_interval(labels[is_test], prediction[is_test], task, metrics),
        "slices": score_slices(
            taken.filter(pa.array(is_test)),
            labels[is_test],
            prediction[is_test],
            task=task,
            metrics=metrics,
            columns=list(config.get("slices") or ()),
        ),
        "rows": {"validation": int((~is_test).sum()), "test": int(is_test.sum())},
    }
    return predictions(taken, rows, part, prediction, roles, classes), info


def predictions(
    taken: pa.Table,
    rows: npt.NDArray[np.int64],
    part: Parts,
    prediction: Floats,
    roles: Mapping[str, Any],
    classes: Sequence[Any],
) -> pa.Table:
    """Return the table of predictions, in the dataset's order.

    Args:
        taken: m rows of the dataset.
        rows: their positions in it, shape (m,).
        part: their parts, shape (m,).
        prediction: what the model says of them, shape (m,) or (m, K).
        roles: the dataset's roles.
        classes: the values behind 0, 1, ... of a classification.

    Returns:
        columns `row` (int64, position in the dataset), `key`, `predicted_at` (if the dataset has time), `part`
        (`validation` or `test`), `label`, `prediction` (the positive class's probability, the value, or with
        several classes the most probable one) and, with several classes, `probability_<class>` for each
        of `classes`.
    """
    columns: dict[str, Any] = {"row": pa.array(rows, pa.int64()), "key": taken.column(roles["key"])}
    if roles.get("at"):
        columns["predicted_at"] = taken.column("_at")
    columns["part"] = pa.array(np.where(part == TEST, "test", "validation"), pa.string())
    if roles.get("label") is not None:
        columns["label"] = taken.column("_label")
    if prediction.ndim == 1:
        columns["prediction"] = pa.array(prediction)
    else:
        best = prediction.argmax(axis=1)
        columns["prediction"] = pa.array(list(classes)).take(pa.array(best))
        for k, value in enumerate(classes):
            columns[f"probability_{value}"] = pa.array(np.ascontiguousarray(prediction[:, k]))
    return pa.table(columns)


def check_prediction(found: object, n: int, task: str, k: int) -> Floats:
    """Return predictions as float64 after checking that they are some.

    Args:
        found: what the model returned.
        n: the number of rows.
        task: binary, multiclass or regression.
        k: the number of classes.

    Raises:
        StepError: TR716, wrong shape, NaN or infinite values, or probabilities outside of 0 to 1.
    """
    wanted = (n, k) if task == "multiclass" else (n,)
    prediction = np.asarray(found, dtype=np.float64)
    if prediction.shape != wanted:
        raise _wrong(f"its shape is {prediction.shape}, and {wanted} is expected")
    if wrong := int((~np.isfinite(prediction)).sum()):
        raise _wrong(f"{wrong} of {prediction.size} values are NaN or infinite")
    # A sum of float32 shares may pass 1 by some ulp.
    slack = 1e-6
    if task != "regression" and prediction.size:
        low, high = float(prediction.min()), float(prediction.max())
        if low < -slack or high > 1 + slack:
            raise _wrong(f"probabilities lie between {low:g} and {high:g}, outside of 0 to 1")
        prediction = np.clip(prediction, 0.0, 1.0)
    return prediction


def _wrong(why: str) -> StepError:
    fix = "return one finite number a row: a value, a probability, or one probability per class"
    return StepError(Problem("TR716", "what the model predicts is no prediction", why=why, fix=fix))
