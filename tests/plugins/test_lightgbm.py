from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("lightgbm")

import treadle_lightgbm
from treadle import plugins
from treadle.errors import ProjectError, StepError, StoreError
from treadle_lightgbm.categories import Categories
from treadle_lightgbm.table import TABLE
from treadle_lightgbm.trainer import LightgbmTrainer
from treadle_runtime.training.contract import Batch, FitContext, Inputs
from treadle_runtime.training.parameters import explain

RULES = TABLE["trainers"]["lightgbm"]
CLASSES: dict[str, tuple[Any, ...]] = {"binary": (False, True), "multiclass": ("a", "b", "c"), "regression": ()}


def table(n: int = 400, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "x": pa.array(rng.normal(size=n), mask=rng.random(n) < 0.1),
            'c"[]{}:,': pa.array(rng.choice(["p", "q", "r"], n), mask=rng.random(n) < 0.1),
            "whole": pa.array(rng.integers(0, 5, n)),
            "nothing": pa.nulls(n, pa.float64()),
        }
    )


def batch(task: str, n: int = 400, seed: int = 0) -> tuple[Batch, Inputs]:
    rows = table(n, seed)
    inputs = Inputs.from_schema(rows.schema, rows.column_names)
    X = inputs.normalise(rows)
    signal = np.nan_to_num(X.column("x").to_numpy()) + X.column("whole").to_numpy() / 3
    y = {
        "binary": (signal > 0.7).astype(np.int64),
        "multiclass": np.digitize(signal, [0.3, 1.0]).astype(np.int64),
        "regression": signal,
    }
    return (X, y[task]), inputs


def fit(task: str = "binary", *, validation: Batch | None = None, threads: int = 1, **params: Any) -> Any:
    train, inputs = batch(task)
    context = FitContext(task, CLASSES[task], 5, threads, inputs, params.pop("preprocess", {}))
    return LightgbmTrainer().fit(train, validation, {"n_estimators": 20} | params, context)


def saved(model: Any, folder: Path) -> dict[str, str]:
    folder.mkdir()
    model.save(folder)
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("task", CLASSES)
def test_a_model_survives_its_folder_bit_by_bit(task: str, tmp_path: Path) -> None:
    (X, _), _ = batch(task)
    model = fit(task)
    assert saved(model, tmp_path / "a") == saved(fit(task), tmp_path / "b")
    found = model.predict(X)
    assert found.shape == ((400, 3) if task == "multiclass" else (400,))
    assert found.dtype == np.float64
    loaded = LightgbmTrainer().load(tmp_path / "a")
    assert (loaded.predict(X) == found).all()
    assert (loaded.predict(X.slice(7, 1)) == found[7:8]).all()
    assert saved(loaded, tmp_path / "c") == saved(model, tmp_path / "d")


def test_threads_do_not_change_predictions() -> None:
    (X, _), _ = batch("regression")
    assert (fit("regression", threads=1).predict(X) == fit("regression", threads=3).predict(X)).all()


def test_unseen_categories_and_rows_of_nulls_predict() -> None:
    (_X, _), inputs = batch("binary")
    strange = inputs.normalise(
        pa.table({"x": [None, 1.0], 'c"[]{}:,': ["new", None], "whole": [1, 2], "nothing": [4.0, None]})
    )
    assert np.isfinite(fit().predict(strange)).all()


def test_early_stopping_reads_the_validation_rows() -> None:
    held, _ = batch("binary", 100, seed=3)
    model = fit(validation=held, n_estimators=500, learning_rate=0.5, early_stopping_rounds=5)
    assert model.booster.num_trees() < 500
    assert model.notes == (f"stopped after {model.booster.num_trees()} of 500 rounds by the validation rows",)


def test_early_stopping_without_validation_rows_says_so() -> None:
    model = fit(n_estimators=30, early_stopping_rounds=5)
    assert model.booster.num_trees() == 30
    assert model.notes == (
        "there are no validation rows: all rounds were trained, and early_stopping_rounds did nothing",
    )


def test_without_early_stopping_validation_rows_change_nothing() -> None:
    held, _ = batch("binary", 100, seed=3)
    assert fit(validation=held).text == fit().text


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    fit(min_child_samples=300, subsample=0.5, reg_alpha=1.0)
    assert capfd.readouterr() == ("", "")


def test_objective_of_another_task_is_refused() -> None:
    with pytest.raises(StepError) as caught:
        fit("binary", objective="poisson")
    assert str(caught.value) == (
        "error[TR508]: objective poisson does not fit a binary task\n  fix: use one of binary, cross_entropy"
    )


def test_preprocessing_that_it_does_not_need_is_refused() -> None:
    with pytest.raises(StepError) as caught:
        fit(preprocess={"numeric": "standardize"})
    assert str(caught.value) == (
        'error[TR508]: trainer "lightgbm" takes no numeric: standardize in preprocess\n'
        "  it reads missing values and categories itself, and its trees need no scaling\n"
        "  fix: take numeric out of the model's preprocess"
    )


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    saved(fit(), tmp_path / "m")
    (tmp_path / "m" / "categories.json").write_text("{}")
    with pytest.raises(StoreError, match="TR804"):
        LightgbmTrainer().load(tmp_path / "m")


def test_categories_number_null_rare_and_unseen_values() -> None:
    column = pa.chunked_array([["b", "a", "a", None, "b", "odd"]])
    found = Categories.learn(column, min_frequency=2)
    assert found == Categories.from_json(found.to_json())
    codes = found.encode(pa.chunked_array([["a", "b", None, "odd", "new"]])).to_pylist()
    assert codes == [0, 1, 2, 3, 3]
    plain = Categories.learn(pa.chunked_array([["b", "a"]]))
    assert np.isnan(plain.encode(pa.chunked_array([["new", None]])).to_numpy()).all()


def test_every_parameter_of_the_table_is_known_to_the_library() -> None:
    import lightgbm as lgb

    known = lgb.basic._ConfigAliases._get_all_param_aliases()
    names = set(known) | {alias for aliases in known.values() for alias in aliases}
    assert set(RULES["parameters"]) - names == set()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("num_leaves", 1, "an int in the range [2, 131072]"),
        ("learning_rate", 0, "a float in the range (0.0, inf)"),
        ("feature_fraction", 1.5, "a float in the range (0.0, 1.0]"),
        ("boosting", "best", "one of gbdt, rf, dart"),
        ("extra_trees", 1, "true or false"),
        ("max_depth", "deep", "an int in the range (-inf, inf)"),
    ],
)
def test_values_are_explained(name: str, value: Any, why: str) -> None:
    assert explain(value, RULES["parameters"][name]) == why


def test_the_plugin_registers_one_trainer_through_the_hook() -> None:
    found: list[tuple[str, Any]] = []

    def register(name: str, *, load: Any, table: Any) -> None:
        found.append((name, load(name)))
        assert table(Path()) is TABLE

    plugins.Plugins((treadle_lightgbm,)).call("register_trainers", register=register)
    assert [(name, type(trainer)) for name, trainer in found] == [("lightgbm", LightgbmTrainer)]


def test_importing_the_plugin_does_not_import_the_library() -> None:
    code = "import sys, treadle_lightgbm; print([m for m in ('lightgbm', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treadle_lightgbm, "find_spec", lambda name: None)
    with pytest.raises(ProjectError) as caught:
        treadle_lightgbm._table(Path())
    assert str(caught.value) == (
        'error[TR501]: trainer "lightgbm" needs a library that is not installed\n'
        "  LightGBM is an extra of Treadle\n"
        "  fix: pip install 'treadle[lightgbm]'"
    )
