"""Metrics against scikit-learn, intervals, slices, predictions, the choice and the verdict."""

from __future__ import annotations

import errno
import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.errors import Problem, StepError, TransientError
from treadle.gates import parse_gate
from treadle.metrics import METRICS
from treadle_runtime.evaluation.evaluate import check_prediction, evaluate
from treadle_runtime.evaluation.metrics import prepare, score, score_interval
from treadle_runtime.evaluation.slices import MAX_OTHERS, MIN_ROWS, score_slices
from treadle_runtime.evaluation.verdict import champion_metrics, choose, count_overlap, validate

BINARY = [name for name, metric in METRICS.items() if "binary" in metric.tasks]
MULTICLASS = [name for name, metric in METRICS.items() if "multiclass" in metric.tasks]
REGRESSION = [name for name, metric in METRICS.items() if "regression" in metric.tasks]

Reference = dict[str, Callable[[Any, Any, Any], float]]

BINARY_REFERENCE: Reference = {
    "roc_auc": lambda y, p, w: sk.roc_auc_score(y, p, sample_weight=w),
    "average_precision": lambda y, p, w: sk.average_precision_score(y, p, sample_weight=w),
    "brier": lambda y, p, w: sk.brier_score_loss(y, p, sample_weight=w),
    "log_loss": lambda y, p, w: sk.log_loss(y, p, sample_weight=w, labels=[0, 1]),
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p >= 0.5, sample_weight=w),
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p >= 0.5, sample_weight=w),
    "f1": lambda y, p, w: sk.f1_score(y, p >= 0.5, sample_weight=w, zero_division=np.nan),
    "precision": lambda y, p, w: sk.precision_score(y, p >= 0.5, sample_weight=w, zero_division=np.nan),
    "recall": lambda y, p, w: sk.recall_score(y, p >= 0.5, sample_weight=w, zero_division=np.nan),
}
MULTICLASS_REFERENCE: Reference = {
    "roc_auc": lambda y, p, w: sk.roc_auc_score(y, p, multi_class="ovr", average="macro", sample_weight=w),
    "log_loss": lambda y, p, w: sk.log_loss(y, p, sample_weight=w, labels=[0, 1, 2]),
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p.argmax(axis=1), sample_weight=w),
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(y, p.argmax(axis=1), sample_weight=w),
    "f1": lambda y, p, w: sk.f1_score(y, p.argmax(axis=1), average="macro", sample_weight=w),
}
REGRESSION_REFERENCE: Reference = {
    "mae": lambda y, p, w: sk.mean_absolute_error(y, p, sample_weight=w),
    "rmse": lambda y, p, w: sk.root_mean_squared_error(y, p, sample_weight=w),
    "median_absolute_error": lambda y, p, w: sk.median_absolute_error(
        *((y, p) if w is None else (np.repeat(y, w), np.repeat(p, w)))
    ),
    "mape": lambda y, p, w: sk.mean_absolute_percentage_error(y, p, sample_weight=w),
    "r2": lambda y, p, w: sk.r2_score(y, p, sample_weight=w),
}


def close(found: float | None, wanted: float) -> bool:
    """Return whether two values agree to 1e-12, relative for large ones; NaN stands for undefined."""
    if found is None:
        return math.isnan(wanted)
    return math.isclose(found, wanted, rel_tol=1e-12, abs_tol=1e-12)


_SEED = st.integers(0, 2**32 - 1)


def draw_binary(seed: int) -> tuple[Any, Any]:
    """Labels of both classes, and probabilities with many or few ties, 0 and 1 among them."""
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 60))
    y = random.integers(0, 2, n)
    y[:2] = (0, 1)
    levels = int(random.choice([1, 2, 3, 10, 10_000]))
    return y, random.integers(0, levels + 1, n) / levels


@given(seed=_SEED, name=st.sampled_from(BINARY))
def test_binary_metric_equals_scikit_learn(seed: int, name: str) -> None:
    y, p = draw_binary(seed)

    assert close(score(y, p, "binary", [name])[name], BINARY_REFERENCE[name](y, p, None))


@given(seed=_SEED, name=st.sampled_from(BINARY))
def test_binary_metric_of_counts_equals_scikit_learn_with_weights(seed: int, name: str) -> None:
    y, p = draw_binary(seed)
    counts = np.random.default_rng(seed + 1).integers(0, 4, len(y))
    counts[:2] = np.maximum(counts[:2], 1)

    found = prepare(y, p, "binary", [name])[name](counts.astype(float))

    assert close(found, BINARY_REFERENCE[name](y, p, counts))


def draw_multiclass(seed: int) -> tuple[Any, Any]:
    """Labels of all of three classes and their probabilities, which sum to 1."""
    random = np.random.default_rng(seed)
    n = int(random.integers(3, 60))
    y = random.integers(0, 3, n)
    y[:3] = (0, 1, 2)
    shares = random.integers(1, int(random.choice([3, 1000])), (n, 3)).astype(float)
    return y, shares / shares.sum(axis=1, keepdims=True)


@given(seed=_SEED, name=st.sampled_from(MULTICLASS))
def test_multiclass_metric_equals_scikit_learn(seed: int, name: str) -> None:
    y, p = draw_multiclass(seed)
    counts = np.random.default_rng(seed + 1).integers(0, 4, len(y))
    counts[:3] = np.maximum(counts[:3], 1)

    assert close(score(y, p, "multiclass", [name])[name], MULTICLASS_REFERENCE[name](y, p, None))
    found = prepare(y, p, "multiclass", [name])[name](counts.astype(float))
    used = counts > 0
    assert close(found, MULTICLASS_REFERENCE[name](y[used], p[used], counts[used]))


@given(seed=_SEED, name=st.sampled_from(REGRESSION))
def test_regression_metric_equals_scikit_learn(seed: int, name: str) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 60))
    y = random.integers(1, 50, n) * random.choice([1.0, 0.1, 1e3])
    y[:2] = (1.0, 2.0)
    p = y + random.normal(size=n)
    counts = random.integers(0, 4, n)
    counts[:2] = np.maximum(counts[:2], 1)

    assert close(score(y, p, "regression", [name])[name], REGRESSION_REFERENCE[name](y, p, None))
    found = prepare(y, p, "regression", [name])[name](counts.astype(float))
    assert close(found, REGRESSION_REFERENCE[name](y, p, counts))


def test_undefined_metrics_are_none() -> None:
    ones, half = np.ones(5), np.full(5, 0.4)
    binary = score(ones, half, "binary", BINARY)

    assert {name for name, value in binary.items() if value is None} == {
        "roc_auc",
        "balanced_accuracy",
        "precision",
    }
    assert score(np.zeros(5), half, "binary", ["average_precision", "recall", "f1", "log_loss"]) == {
        "average_precision": None,
        "recall": None,
        "f1": None,
        "log_loss": pytest.approx(-math.log(0.6)),
    }
    assert score(ones, ones, "regression", ["r2", "mae"]) == {"r2": None, "mae": 0.0}
    assert score(np.zeros(5, int), np.full((5, 2), 0.5), "multiclass", MULTICLASS)["roc_auc"] is None


def test_no_rows_make_every_metric_none() -> None:
    none = np.zeros(0)
    for task, names, prediction in (
        ("binary", BINARY, none),
        ("multiclass", MULTICLASS, np.zeros((0, 3))),
        ("regression", REGRESSION, none),
    ):
        assert set(score(none, prediction, task, names).values()) == {None}
        interval = score_interval(none, prediction, task, names)
        assert all(found == {"value": None, "low": None, "high": None} for found in interval.values())


def test_class_that_does_not_occur_is_no_part_of_a_mean_over_classes() -> None:
    y, p = draw_multiclass(3)
    wider = np.concatenate([p, np.zeros((len(p), 1))], axis=1)

    assert score(y, wider, "multiclass", MULTICLASS) == score(y, p, "multiclass", MULTICLASS)


def test_interval_holds_its_value_and_is_the_same_again() -> None:
    random = np.random.default_rng(5)
    p = random.random(2000)
    y = random.random(2000) < p

    first = score_interval(y, p, "binary", BINARY)

    assert json.dumps(first) == json.dumps(score_interval(y, p, "binary", BINARY))
    assert first != score_interval(y, p, "binary", BINARY, seed=1)
    for found in first.values():
        low, value, high = found["low"], found["value"], found["high"]
        assert low is not None
        assert value is not None
        assert high is not None
        assert low < value < high


def test_interval_of_a_mean_has_the_width_that_theory_gives() -> None:
    random = np.random.default_rng(6)
    y = random.exponential(size=4000)
    found = score_interval(y, np.zeros(4000), "regression", ["mae"])["mae"]

    low, high = found["low"], found["high"]
    assert low is not None
    assert high is not None
    # 200 resamples leave the ends of the interval about 10 % of its width uncertain.
    assert (high - low) == pytest.approx(2 * 1.96 * y.std() / math.sqrt(4000), rel=0.3)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    hits = 0
    for _ in range(60):
        y = random.normal(size=150)
        found = score_interval(y, np.zeros(150), "regression", ["rmse"])["rmse"]
        assert found["low"] is not None
        assert found["high"] is not None
        hits += found["low"] <= 1.0 <= found["high"]

    assert hits >= 50  # 57 expected; fewer than 50 has a chance below 1 in 1,000 for a 95 % interval


# slices


def test_slices_with_too_few_rows_or_one_class_are_listed_and_not_judged() -> None:
    sizes = {"big": 500, "edge": MIN_ROWS, "small": MIN_ROWS - 1, "one_class": 300}
    names = [name for name, n in sizes.items() for _ in range(n)] + [None] * 250
    y = np.array([0 if name == "one_class" else i % 2 for i, name in enumerate(names)])
    p = np.random.default_rng(0).random(len(y))
    table = pa.table({"carrier": names})

    found = score_slices(table, y, p, task="binary", metrics=["roc_auc", "brier"], columns=["carrier"])["carrier"]

    assert [(entry["value"], entry["n"]) for entry in found["judged"]] == [
        ("big", 500),
        (None, 250),
        ("edge", 200),
    ]
    assert found["others"] == [
        {"value": "one_class", "n": 300, "why": "all rows are of one class"},
        {"value": "small", "n": 199, "why": "fewer than 200 rows"},
    ]
    for entry in found["judged"]:
        rows = np.array([name == entry["value"] for name in names])
        assert entry["metrics"] == score(y[rows], p[rows], "binary", ["roc_auc", "brier"])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, 1, 2] * 300, pa.int16()),
        pa.array(["b", "a", "c"] * 300).dictionary_encode(),
        pa.array([1.5, float("nan"), float("inf")] * 300),
        pa.array([0, 1, 2] * 300, pa.timestamp("us")),
        pa.array([True, False, None] * 300),
    ],
)
def test_slices_by_any_type_are_json_and_ordered(values: pa.Array) -> None:
    y = np.arange(900.0)
    found = score_slices(pa.table({"x": values}), y, y + 1, task="regression", metrics=["mae"], columns=["x"])["x"]

    assert len(found["judged"]) == 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    shuffled = pa.table({"x": values.take(pa.array(np.random.default_rng(0).permutation(900)))})
    again = score_slices(shuffled, y, y + 1, task="regression", metrics=["mae"], columns=["x"])["x"]
    assert [entry["value"] for entry in again["judged"]] == [entry["value"] for entry in found["judged"]]


def test_many_small_slices_are_capped_and_counted() -> None:
    y = np.arange(500.0)
    found = score_slices(pa.table({"x": np.arange(500)}), y, y, task="regression", metrics=["mae"], columns=["x"])["x"]

    assert (len(found["others"]), found["unlisted"]) == (MAX_OTHERS, 500 - MAX_OTHERS)


# evaluating


class Echo:
    """A model that predicts one of its inputs."""

    def __init__(self, *columns: str) -> None:
        self.columns = columns

    def predict(self, rows: pa.Table) -> Any:
        """Return the columns as they are."""
        found = np.stack([rows[name].to_numpy() for name in self.columns], axis=1)
        return found if len(self.columns) > 1 else found[:, 0]


class Failing:
    """A model whose library raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def predict(self, rows: pa.Table) -> Any:
        """Raise."""
        raise self.error


def make_dataset(n: int = 1200) -> tuple[pa.Table, Any, dict[str, Any], Any]:
    """A dataset whose input `p` is the probability of its label, its parts, roles and encoded labels."""
    random = np.random.default_rng(11)
    p = random.random(n)
    y = (random.random(n) < p).astype(int)
    table = pa.table(
        {
            "id": [f"k{i}" for i in range(n)],
            "_at": pa.array(np.arange(n), pa.timestamp("us")),
            "_label": y.astype(bool),
            "carrier": ["AA" if i % 3 else "B6" for i in range(n)],
            "p": p,
            "q": 1 - p,
        }
    )
    parts = np.array([0, 1, 2, 3] * (n // 4), np.int8)
    roles = {
        "key": "id",
        "at": True,
        "label": "late",
        "label_known_at": False,
        "inputs": ["p"],
        "context": ["carrier"],
    }
    return table, parts, roles, y


CONFIG = {"task": "binary", "metrics": ["roc_auc", "brier"], "slices": ["carrier"]}


def test_evaluate_scores_validation_and_test_rows_apart() -> None:
    table, parts, roles, y = make_dataset()

    found, info = evaluate(Echo("p"), table, parts, roles, CONFIG, y=y, classes=(False, True))

    p = table["p"].to_numpy()
    assert info["validation"] == score(y[parts == 2], p[parts == 2], "binary", CONFIG["metrics"])
    assert info["test"] == score_interval(y[parts == 3], p[parts == 3], "binary", CONFIG["metrics"])
    assert info["rows"] == {"validation": 300, "test": 300}
    assert [entry["value"] for entry in info["slices"]["carrier"]["judged"]] == ["AA"]
    assert found.column_names == ["row", "key", "predicted_at", "part", "label", "prediction"]
    rows = np.flatnonzero(parts >= 2)
    assert found["row"].to_pylist() == rows.tolist()
    assert found["key"].to_pylist() == [f"k{i}" for i in rows]
    assert found["part"].to_pylist() == ["validation" if parts[i] == 2 else "test" for i in rows]
    assert found["label"].to_pylist() == [bool(y[i]) for i in rows]
    assert found["prediction"].to_pylist() == p[rows].tolist()


def test_evaluation_info_is_json_and_the_same_again() -> None:
    table, parts, roles, y = make_dataset()

    first = evaluate(Echo("p"), table, parts, roles, CONFIG, y=y, classes=(False, True))
    again = evaluate(Echo("p"), table, parts, roles, CONFIG, y=y, classes=(False, True))

    assert json.dumps(first[1], allow_nan=False) == json.dumps(again[1], allow_nan=False)
    assert first[0].equals(again[0])


def test_multiclass_predictions_name_the_class_and_its_probabilities() -> None:
    table, parts, roles, y = make_dataset(40)
    config = {"task": "multiclass", "metrics": ["accuracy"]}

    found, info = evaluate(
        Echo("q", "p"),
        table,
        parts,
        {**roles, "at": False, "inputs": ["p", "q"]},
        config,
        y=y,
        classes=("no", "yes"),
    )

    assert found.column_names == [
        "row",
        "key",
        "part",
        "label",
        "prediction",
        "probability_no",
        "probability_yes",
    ]
    p = table["p"].to_numpy()[parts >= 2]
    assert found["prediction"].to_pylist() == ["yes" if value > 0.5 else "no" for value in p]
    assert found["probability_yes"].to_pylist() == p.tolist()
    assert info["slices"] == {}


@pytest.mark.parametrize(
    ("found", "task", "why"),
    [
        (np.zeros(3), "binary", "its shape is (3,), and (4,) is expected"),
        (np.zeros((4, 2)), "binary", "its shape is (4, 2), and (4,) is expected"),
        (np.zeros(4), "multiclass", "its shape is (4,), and (4, 3) is expected"),
        ([0.0, np.nan, np.inf, 1.0], "regression", "2 of 4 values are NaN or infinite"),
        ([0.0, 1.5, 0.2, 1.0], "binary", "probabilities lie between 0 and 1.5, outside of 0 to 1"),
    ],
)
def test_what_is_no_prediction_is_an_error(found: Any, task: str, why: str) -> None:
    with pytest.raises(StepError) as caught:
        check_prediction(found, 4, task, 3)

    assert str(caught.value) == (
        f"error[TR716]: what the model predicts is no prediction\n  {why}\n"
        "  fix: return one finite number a row: a value, a probability, or one probability per class"
    )


def test_float32_shares_a_little_above_one_are_clipped() -> None:
    assert check_prediction([1.0000001, -1e-8], 2, "binary", 2).tolist() == [1.0, 0.0]


# the choice


def infos(**values: float | None) -> dict[str, dict[str, Any]]:
    """Return evaluations that hold a validation value only."""
    return {name: {"validation": {"mae": value, "roc_auc": value}} for name, value in values.items()}


def test_choose_takes_the_best_in_the_metrics_direction() -> None:
    assert choose(infos(a=0.7, b=0.8), METRICS["roc_auc"]) == {
        "chosen": "b",
        "by": "roc_auc",
        "values": {"a": 0.7, "b": 0.8},
    }
    assert choose(infos(a=0.7, b=0.8), METRICS["mae"])["chosen"] == "a"


def test_choose_takes_the_first_of_equals_and_undefined_last() -> None:
    assert choose(infos(a=0.7, b=0.7), METRICS["mae"])["chosen"] == "a"
    assert choose(infos(a=None, b=float("nan"), c=0.1), METRICS["roc_auc"]) == {
        "chosen": "c",
        "by": "roc_auc",
        "values": {"a": None, "b": None, "c": 0.1},
    }
    assert choose(infos(a=None, b=None), METRICS["mae"])["chosen"] == "a"


# the verdict

EVALUATION = {
    "test": {
        "roc_auc": {"value": 0.76, "low": 0.7, "high": 0.8},
        "f1": {"value": None, "low": None, "high": None},
    },
    "slices": {
        "carrier": {
            "judged": [
                {"value": "AA", "n": 300, "metrics": {"roc_auc": 0.7}},
                {"value": "B6", "n": 250, "metrics": {"roc_auc": 0.55}},
            ],
            "others": [{"value": "OO", "n": 3, "why": "fewer than 200 rows"}],
        },
        "origin": {"judged": [], "others": []},
    },
}
BASELINES = {
    "constant": {"validation": {"roc_auc": 0.5}, "test": {"roc_auc": 0.5}},
    "best_single": {"input": "hour", "validation": {"roc_auc": 0.9}, "test": {"roc_auc": 0.61}},
    "linear": {"validation": {"roc_auc": 0.6}, "test": {"roc_auc": 0.66}},
}
CHAMPION: dict[str, Any] = {"name": "trees@3", "metrics": {"roc_auc": 0.755}, "overlap": 0, "why": ""}


def judge(gate: str, champion: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the entry of one gate."""
    found = validate([parse_gate(gate)], EVALUATION, champion, BASELINES)
    (entry,) = found["gates"]
    assert found["passed"] == (entry["status"] != "failed")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return dict(entry)


def test_gate_on_all_test_rows_passes_or_fails() -> None:
    assert judge("roc_auc >= 0.75") == {
        "gate": "roc_auc >= 0.75", "status": "passed", "value": 0.76, "bound": 0.75, "why": "",
    }  # fmt: skip
    assert judge("roc_auc >= 0.8") == {
        "gate": "roc_auc >= 0.8", "status": "failed", "value": 0.76, "bound": 0.8,
        "why": "roc_auc is 0.76, the bound is 0.8",
    }  # fmt: skip


def test_slice_gate_looks_at_the_worst_judged_slice() -> None:
    found = judge("slice(carrier).roc_auc >= 0.6")

    assert (found["status"], found["value"], found["slice"]) == ("failed", 0.55, "B6")
    assert found["why"] == "roc_auc is 0.55 for carrier = 'B6', the bound is 0.6"
    assert judge("slice(carrier).roc_auc >= 0.55")["status"] == "passed"
    assert judge("slice(carrier).roc_auc <= 0.6")["value"] == 0.7


def test_slice_gate_without_a_judged_slice_fails() -> None:
    found = judge("slice(origin).roc_auc >= 0.1")

    assert (found["status"], found["value"]) == ("failed", None)
    assert found["why"] == (
        "no slice of origin can be judged: none has 200 test rows, of two classes or more where the label has classes"
    )


def test_gate_on_an_undefined_metric_fails() -> None:
    assert judge("f1 >= 0")["why"] == "f1 is undefined on the test rows"


def test_champion_gate_without_a_champion_is_skipped() -> None:
    found = judge("roc_auc >= champion.roc_auc - 0.002")

    assert (found["status"], found["value"], found["bound"]) == ("skipped", 0.76, None)
    assert found["why"] == "there is no champion yet"


def test_champion_gate_is_judged_on_the_same_test_rows() -> None:
    assert judge("roc_auc >= champion.roc_auc - 0.002", CHAMPION)["status"] == "passed"
    assert judge("roc_auc >= champion.roc_auc + 0.01", CHAMPION)["status"] == "failed"
    assert judge("roc_auc >= champion.roc_auc", CHAMPION)["bound"] == 0.755


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"overlap": 12}, "the champion trees@3 was trained on 12 of the test rows"),
        ({"overlap": None}, "on which rows the champion trees@3 was trained is not known"),
        ({"why": "the dataset lacks its inputs a"}, "the champion trees@3 cannot be scored on the test rows: the dataset lacks its inputs a"),
        ({"metrics": {}}, "the champion trees@3 has no roc_auc on the test rows"),
    ],
)  # fmt: skip
def test_champion_that_cannot_be_compared_fails_its_gates_only(change: dict[str, Any], why: str) -> None:
    found = judge("roc_auc >= champion.roc_auc - 1", {**CHAMPION, **change})

    assert (found["status"], found["why"]) == ("failed", why)
    assert judge("roc_auc >= 0.7", {**CHAMPION, **change})["status"] == "passed"


def test_baseline_gate_compares_with_the_best_baseline_on_test_rows() -> None:
    assert judge("roc_auc >= baseline.roc_auc + 0.05")["bound"] == pytest.approx(0.71)
    assert judge("roc_auc >= baseline.roc_auc + 0.11")["status"] == "failed"
    found = validate([parse_gate("roc_auc > baseline.roc_auc")], EVALUATION, None, {})
    assert found["gates"][0]["why"] == "no baseline has a roc_auc on the test rows"


def test_verdict_passes_only_if_no_gate_failed() -> None:
    gates = [parse_gate(text) for text in ("roc_auc >= 0.7", "roc_auc >= champion.roc_auc", "f1 > 0")]

    assert validate(gates[:2], EVALUATION, None, BASELINES)["passed"]
    assert not validate(gates, EVALUATION, None, BASELINES)["passed"]
    assert validate([], EVALUATION, None, BASELINES) == {"passed": True, "gates": []}


def test_champion_is_scored_on_the_candidates_test_rows() -> None:
    table, parts, roles, y = make_dataset()
    classes = (False, True)

    found = champion_metrics(Echo("q"), table, parts, roles, CONFIG, y=y, classes=classes, inputs=["q"])

    q = table["q"].to_numpy()[parts == 3]
    wanted = score(y[parts == 3], q, "binary", CONFIG["metrics"])
    assert found == {"metrics": wanted, "missing": [], "why": ""}


def test_champion_that_cannot_read_the_dataset_says_why() -> None:
    table, parts, roles, y = make_dataset()

    class Refusing:
        def predict(self, rows: pa.Table) -> Any:
            raise StepError(Problem("TR712", 'input "p" has another type', why="it is string here"))

    missing = champion_metrics(Echo("p"), table, parts, roles, CONFIG, y=y, classes=(0, 1), inputs=["p", "r", "s"])
    other = champion_metrics(Echo("p"), table, parts, roles, CONFIG, y=y, classes=(0, 1), champion_classes=("a", "b"))
    refused = champion_metrics(Refusing(), table, parts, roles, CONFIG, y=y, classes=(0, 1))

    assert missing == {"metrics": {}, "missing": ["r", "s"], "why": "the dataset lacks its inputs r, s"}
    assert other["why"] == "it knows the classes ['a', 'b'], and the labels are [0, 1]"
    assert refused["why"] == 'input "p" has another type; it is string here'


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MemoryError("Unable to allocate 3 GiB"), "MemoryError: Unable to allocate 3 GiB"),
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (OSError(errno.EMFILE, "Too many open files"), "OSError: [Errno 24] Too many open files"),
        (TransientError(Problem("TR710", "the worker of linear died")), None),
    ],
    ids=["memory", "space", "files", "transient"],
)
def test_champion_is_not_judged_by_what_may_pass(error: Exception, why: str | None) -> None:
    """A verdict stands for good: the step fails instead, and is tried again."""
    table, parts, roles, y = make_dataset()

    with pytest.raises(TransientError) as found:
        champion_metrics(Failing(error), table, parts, roles, CONFIG, y=y, classes=(0, 1))

    told = Problem("TR716", "the champion's model cannot predict", why=why or "", fix="run the same command again")
    assert found.value.problems == ((told,) if why else error.problems)  # type: ignore[attr-defined]


def test_champion_that_fails_for_good_stops_no_successor() -> None:
    table, parts, roles, y = make_dataset()
    errors = (ValueError("X has 3 features"), FileNotFoundError(errno.ENOENT, "No such file or directory", "words.txt"))

    said = [
        champion_metrics(Failing(error), table, parts, roles, CONFIG, y=y, classes=(0, 1))["why"] for error in errors
    ]

    assert said == [
        "its model raised ValueError: X has 3 features",
        "its model raised FileNotFoundError: [Errno 2] No such file or directory: 'words.txt'",
    ]


def test_overlap_counts_test_rows_among_trained_keys() -> None:
    test = pa.chunked_array([[1, 2], [3]])

    assert count_overlap(test, pa.chunked_array([[3, 4, 1]])) == 2
    assert count_overlap(test, pa.chunked_array([pa.array([3, 9], pa.int16())])) == 1
    assert count_overlap(test, pa.chunked_array([["2"]])) == 1
    assert count_overlap(test, pa.chunked_array([], pa.int64())) == 0


@settings(max_examples=50)
@given(seed=_SEED)
def test_no_random_verdict_warns_or_holds_nan(seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(4, 40)) * 4
    table, parts, roles, _ = make_dataset(n)
    y = random.integers(0, 2, n) * random.integers(0, 2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, info = evaluate(Echo("p"), table, parts, roles, {**CONFIG, "metrics": BINARY}, y=y, classes=(False, True))

    json.dumps(info, allow_nan=False)
