"""Free baselines: what a model has to beat before its metrics mean anything.

    constant      the training rows' class shares; for a value the mean, or the median for metrics of absolute errors
    best_single   the smoothed mean of the label per value (category) or per quantile bin (number) of one input, the
                  input that does best on validation rows by the first metric
    linear        logistic or ridge regression over standardized numbers and one-hot categories

All are fitted on training rows alone, the linear one on at most `MAX_LINEAR_ROWS` of them, drawn with a fixed
seed. Test rows choose nothing. Inputs that are neither numbers nor text have no part in them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from treadle.gates import is_better
from treadle.metrics import METRICS
from treadle_runtime.evaluation.metrics import Codes, Floats, score
from treadle_runtime.splits import TEST, TRAIN, VALIDATION

MAX_LINEAR_ROWS = 50_000
MAX_CATEGORIES = 30
BINS = 32
PRIOR_ROWS = 20.0
_BLOCK = 50_000
_ABSOLUTE = ("mae", "median_absolute_error", "mape")

Result = dict[str, Any]
Predict = Callable[[Codes], Floats]


@dataclass(frozen=True)
class _Task:
    """What is predicted, and on which rows of the dataset (positions) each part stands."""

    name: str
    metrics: Sequence[str]
    y: npt.NDArray[Any]
    k: int
    rows: Mapping[str, Codes]
    sample: Codes

    @property
    def prefers_median(self) -> bool:
        """Whether the first metric is least at the median."""
        return self.metrics[0] in _ABSOLUTE

    def score(self, predict: Predict, metrics: Sequence[str] | None = None) -> Result:
        """Return the metrics of predictions on validation and test rows."""
        return {part: self.score_part(predict, part, metrics) for part in ("validation", "test")}

    def score_part(self, predict: Predict, part: str, metrics: Sequence[str] | None = None) -> dict[str, float | None]:
        """Return the metrics of predictions on the rows of one part."""
        rows = self.rows[part]
        names = self.metrics if metrics is None else metrics
        return score(self.y[rows], predict(rows), self.name, names)


def baselines(
    dataset: pa.Table,
    parts: npt.NDArray[np.int8],
    roles: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    y: npt.NDArray[Any],
    classes: Sequence[Any] = (),
) -> dict[str, Result]:
    """Fit the free baselines on training rows and score them on validation and test rows.

    Args:
        dataset: the dataset's version, n rows.
        parts: int8 of shape (n,): 1 train, 2 validation, 3 test.
        roles: the dataset's roles; `inputs` are looked at.
        config: `task` and `metrics`, of which the first chooses the best single input.
        y: shape (n,): labels as numbers (see `metrics.score`); rows left out do not count.
        classes: the values behind 0, 1, ... of a classification.

    Returns:
        JSON: `constant`, `best_single` (with `input`, the column's name) and `linear`, each with `validation`
        and `test` {metric: value}. Without usable inputs the last two are absent, and the linear one also
        where the training rows have one class.
    """
    train = np.flatnonzero(parts == TRAIN)
    validation, test = np.flatnonzero(parts == VALIDATION), np.flatnonzero(parts == TEST)
    rows = {"train": train, "validation": validation, "test": test}
    sample = train
    if len(train) > MAX_LINEAR_ROWS:
        sample = np.sort(np.random.default_rng(0).choice(train, MAX_LINEAR_ROWS, replace=False))
    task = _Task(config["task"], list(config["metrics"]), np.asarray(y), len(classes), rows, sample)
    columns = _read_columns(dataset, list(dict.fromkeys(roles["inputs"])))
    found = {"constant": _constant(task)}
    if columns:
        found["best_single"] = _best_single(task, columns)
        with threadpool_limits(limits=1):  # BLAS sums depend on the number of threads in the last bits
            linear = _linear(task, columns)
        if linear is not None:
            found["linear"] = linear
    return found


def best_baseline(found: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[str, float] | None:
    """Return (name, value) of the baseline with the best value of a metric on test rows, or None without
    any."""
    best: tuple[str, float] | None = None
    for name, result in found.items():
        value = result["test"].get(metric)
        if is_better(value, best[1] if best else None, METRICS[metric]):
            best = (name, float(value))
    return best


def _read_columns(dataset: pa.Table, names: Sequence[str]) -> dict[str, Floats | Codes]:
    """Return numbers as float64 (missing: NaN) and text as int64 codes (missing is a code of its own), shape
    (n,)."""
    found: dict[str, Floats | Codes] = {}
    for name in names:
        column, kind = dataset.column(name), dataset.schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            column = pc.cast(column, kind)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or _is_cast(kind):
            numbers = pc.fill_null(pc.cast(column, pa.float64(), safe=False), float("nan"))
            found[name] = np.asarray(numbers.to_numpy(), np.float64)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
            indices = encoded.indices if isinstance(encoded, pa.DictionaryArray) else pa.array([], pa.int64())
            found[name] = np.asarray(indices.to_numpy(), np.int64)
    return found


def _is_cast(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_decimal(kind))


def _constant(task: _Task) -> Result:
    y = task.y[task.rows["train"]]
    if task.name == "multiclass":
        shares = np.bincount(y, minlength=task.k) / max(len(y), 1)
        return task.score(lambda rows: np.tile(shares, (len(rows), 1)))
    result = task.score(lambda rows: np.full(len(rows), y.mean()))
    if task.name == "regression":
        absolute = [name for name in task.metrics if name in _ABSOLUTE]
        by_median = task.score(lambda rows: np.full(len(rows), np.median(y)), absolute)
        result = {part: {**result[part], **by_median[part]} for part in result}
    return result


def _best_single(task: _Task, columns: Mapping[str, Floats | Codes]) -> Result:
    first = METRICS[task.metrics[0]]
    best: tuple[str, Predict, float | None] | None = None
    for name, column in columns.items():
        predict = _fit_single(task, _to_codes(column, task.sample))
        value = task.score_part(predict, "validation", task.metrics[:1])[first.name]
        if best is None or is_better(value, best[2], first):
            best = (name, predict, value)
    name, predict, _ = best or ("", _fit_single(task, np.zeros(len(task.y), np.int64)), None)
    return {"input": name, **task.score(predict)}


def _to_codes(column: Floats | Codes, sample: Codes) -> Codes:
    """Return the bin (numbers; missing is the last one) or the category of each row."""
    if column.dtype == np.int64:
        return column.astype(np.int64, copy=False)
    known = column[sample]
    known = known[np.isfinite(known)]
    # Few rows get few bins: each must outweigh the prior, or the input would seem to say nothing.
    bins = int(np.clip(len(known) // (3 * PRIOR_ROWS), 2, BINS))
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins)) if len(known) else np.zeros(0)
    codes = np.searchsorted(edges, column, side="right")
    return np.where(np.isnan(column), len(edges) + 1, codes).astype(np.int64)


def _fit_single(task: _Task, codes: Codes) -> Predict:
    """Return the smoothed mean (or median) of the training rows' label per code, as a function of rows."""
    train = task.rows["train"]
    of_code, y, k = codes[train], task.y[train], int(codes.max(initial=0)) + 1
    n = np.bincount(of_code, minlength=k)
    if task.name == "regression" and task.prefers_median:
        medians = _medians(of_code, y, n)
        return lambda rows: medians[codes[rows]]
    if task.name == "multiclass":
        sums = np.stack([np.bincount(of_code, y == c, k) for c in range(task.k)], axis=1)  # (codes, K)
        prior = np.bincount(y, minlength=task.k) / max(len(y), 1)
        means = (sums + PRIOR_ROWS * prior) / (n + PRIOR_ROWS)[:, None]
    else:
        means = (np.bincount(of_code, y, k) + PRIOR_ROWS * y.mean()) / (n + PRIOR_ROWS)
    return lambda rows: means[codes[rows]]


def _medians(codes: Codes, y: Floats, n: Codes) -> Floats:
    """Return the median of y per code; codes with fewer rows than the prior's get the median of all."""
    order = np.lexsort((y, codes))
    ranked, starts = y[order], np.cumsum(n) - n
    enough = n >= PRIOR_ROWS
    low, high = (starts + (n - 1) // 2)[enough], (starts + n // 2)[enough]
    medians = np.full(len(n), np.median(y))
    medians[enough] = (ranked[low] + ranked[high]) / 2
    return medians


def _linear(task: _Task, columns: Mapping[str, Floats | Codes]) -> Result | None:
    encoders = [_fit_encoder(column, task.sample) for column in columns.values()]
    y = task.y[task.sample]
    if task.name != "regression" and len(np.unique(y)) < 2:
        return None

    def design(rows: Codes) -> Floats:
        """Return the columns of `rows` as one matrix of shape (rows, p)."""
        return np.concatenate([encode(rows) for encode in encoders], axis=1)

    X = design(task.sample)
    model: Any
    if task.name == "regression":
        model = Ridge(alpha=1.0, solver="cholesky")
    else:
        # Newton's method solves a system of p * K unknowns: few iterations, but cubic in their number.
        few = X.shape[1] * max(task.k - 1, 1) <= 1_000
        model = LogisticRegression(solver="newton-cholesky" if few else "lbfgs", max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a baseline that has not fully converged is still one
        model.fit(X, y)

    def predict(rows: Codes) -> Floats:
        """Predict in blocks, so that the matrix of all rows never stands in memory."""
        blocks = np.split(rows, range(_BLOCK, len(rows), _BLOCK))
        return np.concatenate([_predict_linear(model, task, design(block)) for block in blocks])

    return task.score(predict)


def _predict_linear(model: Any, task: _Task, X: Floats) -> Floats:
    if task.name == "regression":
        values: Floats = model.predict(X)
        return values
    shares: Floats = model.predict_proba(X)
    if task.name == "binary":
        return shares[:, 1]
    every = np.zeros((len(X), task.k))
    every[:, model.classes_] = shares
    return every


def _fit_encoder(column: Floats | Codes, sample: Codes) -> Callable[[Codes], Floats]:
    """Return a function from rows to standardized numbers (rows, 1) or one-hot categories (rows, <= 30)."""
    if column.dtype == np.int64:
        counts = np.bincount(column[sample])
        kept = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
        return lambda rows: (column[rows][:, None] == kept).astype(np.float64)
    known = column[sample]
    known = known[np.isfinite(known)]
    mean = float(known.mean()) if len(known) else 0.0
    spread = float(known.std()) if len(known) else 0.0

    def standardize(rows: Codes) -> Floats:
        """Return (value - mean) / deviation; missing and infinite values are the mean."""
        scaled = (column[rows] - mean) / (spread or 1.0)
        return np.where(np.isfinite(scaled), scaled, 0.0)[:, None]

    return standardize
