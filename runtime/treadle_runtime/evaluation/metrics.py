"""Metrics as numbers: the value of each on some rows, and how far it could be off by chance.

    labels, predictions -> what can be prepared once (errors, order by score) -> a function of row counts

A bootstrap resample is how often each row was drawn, so one prepared statistic answers all rows (counts of
one) and every resample, in one pass over the rows and without sorting again. The definitions are
scikit-learn's; the tests hold them against it. Sums are numpy's, not BLAS's: those depend on the number of
threads in the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Statistic = Callable[[Floats], float | None]

RESAMPLES = 200
_EPSILON = float(np.finfo(np.float64).eps)


def score(y: npt.ArrayLike, prediction: Floats, task: str, metrics: Sequence[str]) -> dict[str, float | None]:
    """Return the value of each metric.

    Args:
        y: shape (n,): binary 0 or 1 (1 is positive); multiclass 0 to K - 1; regression the value.
        prediction: float64: binary (n,) probability of the positive class; multiclass (n, K) probabilities;
            regression (n,).
        task: binary, multiclass or regression.
        metrics: names, each of which fits the task.

    Returns:
        name -> value; None where it is undefined: no rows, one class only, precision without a positive
        prediction.
    """
    statistics = prepare(y, prediction, task, metrics)
    rows = np.ones(len(prediction))
    return {name: _finite(statistic(rows)) for name, statistic in statistics.items()}


def score_interval(
    y: npt.ArrayLike, prediction: Floats, task: str, metrics: Sequence[str], *, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Return the value of each metric with a 95 % interval.

    The interval is the bootstrap's percentile interval over `RESAMPLES` resamples of rows (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). It takes rows as independent: where
    they are not (many rows of one customer, of one day) it is too narrow.

    Args:
        y, prediction, task, metrics: as for `score`.
        seed: of the resamples; all metrics see the same ones.

    Returns:
        name -> {value, low, high}; low and high are None where the metric is undefined in every resample.
    """
    statistics = prepare(y, prediction, task, metrics)
    n = len(prediction)
    found = {name: {"value": _finite(statistic(np.ones(n)))} for name, statistic in statistics.items()}
    draws: dict[str, list[float]] = {name: [] for name in statistics}
    random = np.random.default_rng(seed)
    for _ in range(RESAMPLES if n else 0):
        counts = np.bincount(random.integers(0, n, n), minlength=n).astype(np.float64)
        for name, statistic in statistics.items():
            if (value := _finite(statistic(counts))) is not None:
                draws[name].append(value)
    for name, values in draws.items():
        low, high = np.percentile(values, [2.5, 97.5]).tolist() if values else (None, None)
        found[name] |= {"low": low, "high": high}
    return found


def prepare(y: npt.ArrayLike, prediction: Floats, task: str, metrics: Sequence[str]) -> dict[str, Statistic]:
    """Return each metric as a function of how often every row counts, float64 of shape (n,)."""
    labels = np.asarray(y)
    if task == "regression":
        return _prepare_regression(labels.astype(np.float64), prediction, metrics)
    if task == "binary":
        return _prepare_binary(labels.astype(np.float64), prediction, metrics)
    return _prepare_multiclass(labels.astype(np.int64), prediction, metrics)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _dot(counts: Floats, values: Floats) -> float:
    return float((counts * values).sum())


def _ratio(above: Any, below: Any) -> float | None:
    return float(above) / float(below) if below else None


def _mean(values: Floats) -> Statistic:
    return lambda counts: _ratio(_dot(counts, values), counts.sum())


# binary


def _prepare_binary(y: Floats, probability: Floats, metrics: Sequence[str]) -> dict[str, Statistic]:
    made: dict[str, Callable[[], Statistic]] = {
        "roc_auc": lambda: _roc_auc(y, probability),
        "average_precision": lambda: _average_precision(y, probability),
        "brier": lambda: _mean((probability - y) ** 2),
        "log_loss": lambda: _mean(-np.log(_clip(np.where(y > 0, probability, 1.0 - probability)))),
    }
    positive = (probability >= 0.5).astype(np.float64)
    return {name: made[name]() if name in made else _confusion(name, y, positive) for name in metrics}


def _clip(probability: Floats) -> Floats:
    return np.clip(probability, _EPSILON, 1.0 - _EPSILON)


def _confusion(name: str, y: Floats, positive: Floats) -> Statistic:
    hit = y * positive

    def statistic(counts: Floats) -> float | None:
        n, labelled, predicted, hits = (_dot(counts, x) for x in (np.ones_like(y), y, positive, hit))
        match name:
            case "accuracy":
                return _ratio(n - labelled - predicted + 2 * hits, n)
            case "precision":
                return _ratio(hits, predicted)
            case "recall":
                return _ratio(hits, labelled)
            case "f1":
                return _ratio(2 * hits, labelled + predicted)
            case _:
                found, left = _ratio(hits, labelled), _ratio(n - labelled - predicted + hits, n - labelled)
                return None if found is None or left is None else (found + left) / 2

    return statistic


class _Ranking:
    """Rows in the order of their score, with the first row of every group of equal scores."""

    def __init__(self, y: Floats, probability: Floats) -> None:
        self.order = np.argsort(probability, kind="stable")
        ranked = probability[self.order]
        self.starts = np.flatnonzero(np.diff(ranked, prepend=-np.inf) != 0) if len(ranked) else np.zeros(0, int)
        self.y = y[self.order]

    def group(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return (positives, negatives) per group of equal scores, ascending by score."""
        if not len(self.starts):
            return np.zeros(0), np.zeros(0)
        ranked = counts[self.order]
        positives = np.add.reduceat(ranked * self.y, self.starts)
        return positives, np.add.reduceat(ranked, self.starts) - positives


def _roc_auc(y: Floats, probability: Floats) -> Statistic:
    ranking = _Ranking(y, probability)

    def statistic(counts: Floats) -> float | None:
        positives, negatives = ranking.group(counts)
        below = np.cumsum(negatives) - negatives / 2  # ties count half: Mann and Whitney
        return _ratio(_dot(positives, below), positives.sum() * negatives.sum())

    return statistic


def _average_precision(y: Floats, probability: Floats) -> Statistic:
    ranking = _Ranking(y, probability)

    def statistic(counts: Floats) -> float | None:
        positives, negatives = ranking.group(counts)
        hits, misses = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
        if not len(hits) or not hits[-1]:
            return None
        precision = hits / np.maximum(hits + misses, 1.0)
        return _dot(positives[::-1], precision) / float(hits[-1])

    return statistic


# multiclass


def _prepare_multiclass(y: Codes, shares: Floats, metrics: Sequence[str]) -> dict[str, Statistic]:
    k = shares.shape[1]
    predicted = shares.argmax(axis=1) if len(shares) else np.zeros(0, np.int64)
    of_label = shares[np.arange(len(y)), y]
    made: dict[str, Callable[[], Statistic]] = {
        "accuracy": lambda: _mean((predicted == y).astype(np.float64)),
        "log_loss": lambda: _mean(-np.log(_clip(of_label))),
        "roc_auc": lambda: _one_against_rest(y, shares),
    }
    return {name: made[name]() if name in made else _macro(name, y, predicted, k) for name in metrics}


def _one_against_rest(y: Codes, shares: Floats) -> Statistic:
    each = [_roc_auc((y == c).astype(np.float64), shares[:, c]) for c in range(shares.shape[1])]

    def statistic(counts: Floats) -> float | None:
        found = [value for of_class in each if (value := of_class(counts)) is not None]
        return _ratio(sum(found), len(found))

    return statistic


def _macro(name: str, y: Codes, predicted: Codes, k: int) -> Statistic:
    """Return f1 or balanced_accuracy as the mean over classes; a class that does not occur is no part of
    it."""

    def statistic(counts: Floats) -> float | None:
        labelled = np.bincount(y, counts, k)
        given = np.bincount(predicted, counts, k)
        hits = np.bincount(y, counts * (y == predicted), k)
        if name == "f1":
            occurs = labelled + given > 0
            values = 2 * hits[occurs] / (labelled + given)[occurs]
        else:
            if np.count_nonzero(labelled) < 2:
                return None
            values = hits[labelled > 0] / labelled[labelled > 0]
        return _ratio(values.sum(), len(values))

    return statistic


# regression


def _prepare_regression(y: Floats, value: Floats, metrics: Sequence[str]) -> dict[str, Statistic]:
    error = value - y
    size = np.abs(error)
    made: dict[str, Callable[[], Statistic]] = {
        "mae": lambda: _mean(size),
        "rmse": lambda: _root_mean(error**2),
        "median_absolute_error": lambda: _median(size),
        "mape": lambda: _mean(size / np.maximum(np.abs(y), _EPSILON)),
        "r2": lambda: _r2(y, error),
    }
    return {name: made[name]() for name in metrics}


def _root_mean(values: Floats) -> Statistic:
    def statistic(counts: Floats) -> float | None:
        mean = _ratio(_dot(counts, values), counts.sum())
        return None if mean is None else math.sqrt(mean)

    return statistic


def _median(values: Floats) -> Statistic:
    order = np.argsort(values, kind="stable")
    ranked = values[order]

    def statistic(counts: Floats) -> float | None:
        drawn = np.cumsum(counts[order])
        if not len(drawn) or not drawn[-1]:
            return None
        n = drawn[-1]
        low = ranked[np.searchsorted(drawn, (n + 1) // 2)]
        high = ranked[np.searchsorted(drawn, n // 2 + 1)]
        return float((low + high) / 2)

    return statistic


def _r2(y: Floats, error: Floats) -> Statistic:
    squares = error**2

    def statistic(counts: Floats) -> float | None:
        mean = _ratio(_dot(counts, y), counts.sum())
        spread = 0.0 if mean is None else _dot(counts, (y - mean) ** 2)
        return 1.0 - _dot(counts, squares) / spread if spread else None

    return statistic
