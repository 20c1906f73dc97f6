from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from treadle_runtime.training.contract import FitContext, Inputs
from treadle_runtime.training.estimators import needs_of
from treadle_runtime.training.preprocessing import make_transformer, prepare, to_frame
from treadle_runtime.training.sklearn_trainer import SklearnTrainer

numbers = st.one_of(st.none(), st.floats(-1e6, 1e6))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "é"]))


def normal(table: pa.Table) -> tuple[pa.Table, Inputs]:
    inputs = Inputs.from_schema(table.schema, table.column_names)
    return inputs.normalise(table), inputs


def transformed(train: pa.Table, other: pa.Table, needs: Any, **asked: Any) -> np.ndarray:
    rows, inputs = normal(train)
    transformer = make_transformer(prepare(asked, needs, sparse=False), inputs)
    transformer.fit(to_frame(rows))
    return np.asarray(transformer.transform(to_frame(inputs.normalise(other))), dtype=float)


@settings(max_examples=100)
@given(
    train=st.lists(st.tuples(numbers, texts), min_size=1, max_size=20),
    other=st.lists(st.tuples(numbers, texts), min_size=1, max_size=5),
    impute=st.sampled_from(["mean", "median", "zero"]),
    categorical=st.sampled_from(["one_hot", "ordinal"]),
    numeric=st.sampled_from(["standardize", "none"]),
)
def test_preparation_equals_a_slow_reference_fitted_on_training_rows(
    train: list[Any], other: list[Any], impute: str, categorical: str, numeric: str
) -> None:
    assume(any(c is not None for _, c in train))  # a column without a value is left out before

    def table(rows: list[Any]) -> pa.Table:
        x, c = zip(*rows, strict=True)
        return pa.table({"c": pa.array(c, pa.string()), "x": pa.array(x, pa.float64())})

    asked = {"impute": impute, "categorical": categorical, "numeric": numeric}
    found = transformed(table(train), table(other), "scaled", **asked)

    known = [x for x, _ in train if x is not None]
    fill = 0.0
    if known and impute != "zero":
        fill = float(np.mean(known) if impute == "mean" else np.median(known))
    column = np.array([fill if x is None else x for x, _ in train])
    spread = column.std()
    if spread <= 10 * np.finfo(float).eps * max(abs(column.mean()), 1e-300) * len(column):
        spread = 1.0
    categories: list[str | None] = sorted({c for _, c in train if c is not None})
    if any(c is None for _, c in train):
        categories.append(None)
    for row, (x, c) in zip(found, other, strict=True):
        value = fill if x is None else x
        if numeric == "standardize":
            value = (value - column.mean()) / spread
        assert row[0] == pytest.approx(value, rel=1e-6, abs=1e-6)
        if categorical == "one_hot":
            assert row[1:].tolist() == [float(c == known_one) for known_one in categories]
        else:
            assert row[1] == (categories.index(c) if c in categories else -1)


def test_native_estimators_get_missing_numbers_and_codes() -> None:
    train = pa.table({"x": [1.0, None], "c": ["b", "a"]})
    found = transformed(train, pa.table({"x": [None, 5.0], "c": ["z", "b"]}), "native")
    assert np.isnan(found[0]).all()
    assert found[1].tolist() == [5.0, 1.0]


def test_rare_categories_share_a_code_with_those_that_training_never_saw() -> None:
    train = pa.table({"c": ["a"] * 5 + ["b"] * 5 + ["rare", "rarer"]})
    found = transformed(train, pa.table({"c": ["a", "rare", "rarer", "new"]}), "scaled", min_frequency=3)
    assert found[0].tolist() == [1, 0, 0]
    assert found[1].tolist() == found[2].tolist() == found[3].tolist() == [0, 0, 1]


def test_boosting_takes_more_categories_than_it_has_bins() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"c": [f"v{i}" for i in rng.integers(0, 600, 3000)]})
    rows, inputs = normal(table)
    y = rng.integers(0, 2, 3000)
    context = FitContext("binary", (False, True), 0, 1, inputs, {})
    for params in ({"max_iter": 2}, {"max_iter": 2, "max_bins": 20}):
        model = SklearnTrainer("sklearn.hist_gradient_boosting").fit((rows, y), None, params, context)
        assert len(model.predict(rows)) == 3000


def fitted_state(model: Any) -> str:
    """Return all that a preparation learned, as text."""
    found = []
    for _, part, _ in model.pipeline.named_steps["inputs"].transformers_:
        for step in [part, *([s for _, s in part.steps] if hasattr(part, "steps") else [])]:
            state = {k: v for k, v in vars(step).items() if k.endswith("_") and k != "steps"}
            found.append(repr(sorted(state.items(), key=lambda item: item[0])))
    return "\n".join(found)


def test_changed_validation_rows_change_nothing_that_is_fitted() -> None:
    rng = np.random.default_rng(0)

    def table(shift: float, n: int, names: list[str]) -> pa.Table:
        return pa.table({"x": rng.normal(size=n) + shift, "c": rng.choice(names, n)})

    train, inputs = normal(table(0, 100, ["a", "b"]))
    y = rng.integers(0, 2, 100)
    context = FitContext("binary", (False, True), 0, 1, inputs, {})
    for trainer in ("sklearn.logistic_regression", "sklearn.hist_gradient_boosting", "sklearn.random_forest"):
        states, predictions = set(), set()
        for shift in (0.0, 1000.0):
            held = inputs.normalise(table(shift, 50, ["q", "z"])), rng.integers(0, 2, 50)
            model = SklearnTrainer(trainer).fit((train, y), held, {}, context)
            states.add(fitted_state(model))
            predictions.add(model.predict(train).tobytes())
        assert len(states) == len(predictions) == 1, trainer


def test_a_sparse_and_a_dense_one_hot_give_equal_predictions() -> None:
    rng = np.random.default_rng(0)
    rows, inputs = normal(pa.table({"c": [f"v{i}" for i in rng.integers(0, 60, 500)], "x": rng.normal(size=500)}))
    matrices = []
    for sparse in (True, False):
        transformer = make_transformer(prepare({}, "scaled", sparse=sparse), inputs)
        found = transformer.fit_transform(to_frame(rows))
        matrices.append(found.toarray() if sparse else found)
    assert np.array_equal(matrices[0], matrices[1])


def test_each_kind_of_estimator_has_its_needs() -> None:
    assert needs_of("HistGradientBoostingRegressor") == "native"
    assert needs_of("RandomForestClassifier") == "trees"
    assert needs_of("MultinomialNB") == "counts"
    assert needs_of("SVR") == "scaled"
