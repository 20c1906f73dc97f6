"""Free baselines: fitted on training rows, chosen on validation rows, the same every time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from treadle_runtime.evaluation.baselines import PRIOR_ROWS, baselines, best_baseline
from treadle_runtime.evaluation.metrics import score

N = 3000
PARTS = np.repeat(np.array([1, 2, 3, 0], np.int8), [1600, 600, 600, 200])


def fit(columns: dict[str, Any], y: Any, task: str, metrics: list[str], **rest: Any) -> dict[str, Any]:
    """Fit baselines on all columns."""
    table = pa.table(columns)
    config = {"task": task, "metrics": metrics}
    return baselines(table, rest.pop("parts", PARTS), {"inputs": table.column_names}, config, y=y, **rest)


def numbers(seed: int = 0) -> Any:
    """N standard normal numbers."""
    return np.random.default_rng(seed).normal(size=N)


def label_of(x: Any, seed: int = 1) -> Any:
    """Binary labels, more likely 1 where x is great."""
    return (np.random.default_rng(seed).random(N) < 1 / (1 + np.exp(-2 * x))).astype(np.int64)


def test_constant_is_the_training_rows_share() -> None:
    y = label_of(numbers())
    found = fit({"x": numbers()}, y, "binary", ["brier", "roc_auc"], classes=(0, 1))["constant"]

    share = y[PARTS == 1].mean()
    for name, part in (("validation", 2), ("test", 3)):
        labels = y[part == PARTS]
        assert found[name] == score(labels, np.full(600, share), "binary", ["brier", "roc_auc"])
        assert found[name]["roc_auc"] == 0.5


def test_constant_of_a_value_is_median_for_absolute_errors_and_mean_for_squared_ones() -> None:
    y = np.exp(numbers())
    found = fit({"x": numbers()}, y, "regression", ["rmse", "mae"])["constant"]["test"]

    train, test = y[PARTS == 1], y[PARTS == 3]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((test - train.mean()) ** 2)), rel=1e-12)
    assert found["mae"] == pytest.approx(np.mean(np.abs(test - np.median(train))), rel=1e-12)


def test_best_single_names_the_informative_input() -> None:
    x = numbers()
    columns = {"noise": numbers(5), "x": x, "other": numbers(6)}

    found = fit(columns, label_of(x), "binary", ["roc_auc"], classes=(0, 1))

    assert found["best_single"]["input"] == "x"
    # The best possible ranking is by x itself; 32 bins lose little of it.
    possible = score(label_of(x)[PARTS == 3], 1 / (1 + np.exp(-x[PARTS == 3])), "binary", ["roc_auc"])["roc_auc"]
    assert possible is not None
    assert possible - 0.02 < found["best_single"]["test"]["roc_auc"] <= possible + 0.02


def test_best_single_finds_what_is_not_monotonic_and_linear_cannot() -> None:
    x = numbers()
    y = (np.abs(x) > 0.7).astype(np.int64)

    found = fit({"x": x}, y, "binary", ["roc_auc"], classes=(0, 1))

    assert found["best_single"]["test"]["roc_auc"] > 0.97
    assert found["linear"]["test"]["roc_auc"] < 0.6


def test_best_single_is_the_smoothed_mean_per_category() -> None:
    names = np.random.default_rng(3).choice(["a", "b", "c"], N).astype(object)
    names[:4] = None
    y = np.random.default_rng(4).normal(size=N) + np.where(names == "a", 3.0, 0.0)
    names[-500:-300] = "unseen"  # test rows

    found = fit({"name": pa.array(names, pa.string())}, y, "regression", ["rmse"])["best_single"]

    train = PARTS == 1
    prior = y[train].mean()

    def mean_of(name: Any) -> float:
        rows = train & np.array([value == name for value in names])
        return float((y[rows].sum() + PRIOR_ROWS * prior) / (rows.sum() + PRIOR_ROWS))

    means = {name: mean_of(name) for name in ("a", "b", "c", None, "unseen")}
    assert means["unseen"] == prior
    for name, part in (("validation", 2), ("test", 3)):
        error = np.array([means[value] for value in names[part == PARTS]]) - y[part == PARTS]
        assert found[name]["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-12)


def test_best_single_takes_medians_when_the_first_metric_is_an_absolute_error() -> None:
    names = np.random.default_rng(3).choice(["a", "b"], N)
    y = np.exp(np.random.default_rng(4).normal(size=N)) + np.where(names == "a", 3.0, 0.0)
    names[0] = "once"

    found = fit({"name": names}, y, "regression", ["mae", "rmse"])["best_single"]["test"]

    train, test = PARTS == 1, PARTS == 3
    medians = {name: np.median(y[train & (names == name)]) for name in ("a", "b")}
    error = np.abs(np.array([medians[name] for name in names[test]]) - y[test])
    assert found["mae"] == pytest.approx(error.mean(), rel=1e-12)


def test_missing_values_are_information_to_best_single() -> None:
    gone = np.random.default_rng(8).random(N) < 0.3
    x = pa.array(numbers(), mask=gone)

    found = fit({"x": x}, gone.astype(np.int64), "binary", ["roc_auc"], classes=(0, 1))

    assert found["best_single"]["test"]["roc_auc"] == 1.0


def test_linear_equals_scikit_learn_on_standardized_numbers() -> None:
    columns = {"a": numbers(1) * 50 + 7, "b": numbers(2)}
    X = np.stack(list(columns.values()), axis=1)
    train, test = PARTS == 1, PARTS == 3

    y = label_of(columns["b"])
    found = fit(columns, y, "binary", ["log_loss"], classes=(0, 1))["linear"]["test"]
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=1000)).fit(X[train], y[train])
    wanted = score(y[test], model.predict_proba(X[test])[:, 1], "binary", ["log_loss"])
    assert found["log_loss"] == pytest.approx(wanted["log_loss"], rel=1e-4)

    values = columns["a"] * 0.1 + numbers(3)
    found = fit(columns, values, "regression", ["rmse"])["linear"]["test"]
    ridge = make_pipeline(StandardScaler(), Ridge()).fit(X[train], values[train])
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((ridge.predict(X[test]) - values[test]) ** 2)), rel=1e-9)


def test_linear_reads_categories_and_missing_numbers() -> None:
    names = np.random.default_rng(3).choice([f"c{i}" for i in range(6)], N)
    effect = np.array([int(name[1]) for name in names]) - 2.5
    columns = {
        "name": pa.array(names).dictionary_encode(),
        "x": pa.array(numbers(), mask=np.random.default_rng(1).random(N) < 0.5),
        "nothing": pa.nulls(N, pa.float64()),
        "same": np.ones(N),
    }

    found = fit(columns, label_of(effect), "binary", ["roc_auc"], classes=(0, 1))

    assert found["linear"]["test"]["roc_auc"] > 0.9


def test_multiclass_baselines_score_every_metric() -> None:
    x = numbers()
    y = np.digitize(x + 0.3 * numbers(2), [-0.5, 0.5])
    metrics = ["accuracy", "balanced_accuracy", "f1", "log_loss", "roc_auc"]

    found = fit({"x": x, "noise": numbers(9)}, y, "multiclass", metrics, classes=("low", "mid", "high"))

    assert found["best_single"]["input"] == "x"
    for name in ("best_single", "linear"):
        assert found[name]["test"]["accuracy"] > 0.7 > found["constant"]["test"]["accuracy"]
        assert list(found[name]["test"]) == metrics


def test_class_that_training_rows_lack_is_no_error() -> None:
    y = (np.arange(N) % 2) * 2
    y[-300:] = 1

    found = fit({"x": numbers()}, y, "multiclass", ["accuracy"], classes=(0, 1, 2))

    assert set(found) == {"constant", "best_single", "linear"}


def test_labels_of_test_rows_choose_and_fit_nothing() -> None:
    x = numbers()
    y = label_of(x)
    columns = {"noise": numbers(5), "x": x}
    first = fit(columns, y, "binary", ["roc_auc"], classes=(0, 1))
    changed = np.where((PARTS == 3) | (PARTS == 0), 1 - y, y)

    second = fit(columns, changed, "binary", ["roc_auc"], classes=(0, 1))

    assert second["best_single"]["input"] == first["best_single"]["input"]
    for name in first:
        assert second[name]["validation"] == first[name]["validation"]
        assert second[name]["test"]["roc_auc"] == pytest.approx(1 - first[name]["test"]["roc_auc"])


def test_inputs_of_test_rows_fit_nothing() -> None:
    x, names = numbers(), np.random.default_rng(3).choice(["a", "b"], N)
    y = label_of(x)
    first = fit({"x": x, "name": names}, y, "binary", ["roc_auc"], classes=(0, 1))
    others = PARTS == 3
    columns = {"x": np.where(others, 1e9, x), "name": np.where(others, "new", names)}

    second = fit(columns, y, "binary", ["roc_auc"], classes=(0, 1))

    for name in first:
        assert second[name]["validation"] == first[name]["validation"]


def test_baselines_are_json_and_the_same_again() -> None:
    n = 120_000
    random = np.random.default_rng(0)
    x = random.normal(size=n)
    columns = {"x": x, "z": random.normal(size=n), "c": random.choice(["a", "b", "c"], n)}
    y = (random.random(n) < 1 / (1 + np.exp(-x))).astype(np.int64)
    parts = np.repeat(np.array([1, 2, 3], np.int8), [n - 2000, 1000, 1000])

    first = fit(columns, y, "binary", ["roc_auc", "brier"], classes=(0, 1), parts=parts)
    again = fit(columns, y, "binary", ["roc_auc", "brier"], classes=(0, 1), parts=parts)

    assert json.dumps(first, allow_nan=False) == json.dumps(again, allow_nan=False)


def test_without_usable_inputs_only_the_constant_is_left() -> None:
    times = pa.array(np.arange(N), pa.timestamp("us"))

    assert set(fit({"t": times}, label_of(numbers()), "binary", ["roc_auc"], classes=(0, 1))) == {"constant"}


def test_booleans_decimals_and_infinite_numbers_are_read() -> None:
    x = numbers()
    y = label_of(x)
    infinite = x.copy()
    infinite[::10] = np.inf
    columns = {
        "flag": pa.array(x > 0),
        "price": pa.array(np.round(x, 2)).cast(pa.decimal128(12, 2), safe=False),
        "inf": infinite,
    }

    found = fit(columns, y, "binary", ["roc_auc"], classes=(0, 1))

    assert found["best_single"]["input"] in ("price", "inf")
    assert found["linear"]["test"]["roc_auc"] > 0.8


def test_best_baseline_follows_the_metric_and_skips_the_undefined() -> None:
    found = {
        "constant": {"test": {"mae": 3.0, "r2": None}},
        "best_single": {"input": "x", "test": {"mae": 2.0, "r2": 0.1}},
        "linear": {"test": {"mae": 2.5, "r2": 0.2}},
    }

    assert best_baseline(found, "mae") == ("best_single", 2.0)
    assert best_baseline(found, "r2") == ("linear", 0.2)
    assert best_baseline({"constant": {"test": {"r2": None}}}, "r2") is None
    assert best_baseline({}, "mae") is None
