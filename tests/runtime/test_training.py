from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from treadle.errors import ProjectError, StepError, StoreError
from treadle_runtime.training import fit_model, load_model
from treadle_runtime.training.labels import encode_labels

TASKS = ("binary", "multiclass", "regression")
TRAINERS = {
    "sklearn.hist_gradient_boosting": {"max_iter": 5},
    "sklearn.random_forest": {"n_estimators": 7},
    "sklearn.k_neighbors": {},
    "sklearn.mlp": {"max_iter": 5, "hidden_layer_sizes": [4]},
    "sklearn.gradient_boosting": {"n_estimators": 4},
}
INPUTS = ["x", "whole", "flag", "price", "city", "nothing", "constant"]


def rows(task: str, n: int = 200, seed: int = 0) -> pa.Table:
    """Return rows as a dataset version holds them: NULLs, an empty input, a constant one, unused columns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    city = rng.choice(["Basel", "Bern", "Genf"], n)
    signal = x + (city == "Bern") + rng.normal(size=n) / 4
    labels = {
        "binary": pa.array(signal > 0.3),
        "multiclass": pa.array(np.array(["high", "low", "mid"])[np.digitize(signal, [0, 1])]),
        "regression": pa.array(signal),
    }
    return pa.table(
        {
            "id": pa.array(range(n)),
            "_label": labels[task],
            "x": pa.array(x, mask=rng.random(n) < 0.1),
            "whole": pa.array(rng.integers(0, 9, n), pa.int32()),
            "flag": pa.array(x > 1),
            "price": pa.array(np.round(x, 2)).cast(pa.decimal128(10, 2), safe=False),
            "city": pa.array(city, mask=rng.random(n) < 0.1),
            "nothing": pa.nulls(n, pa.float64()),
            "constant": pa.array([3.5] * n),
        }
    )


def fit(table: pa.Table, folder: Path, *, validation: pa.Table | None = None, **config: Any) -> dict[str, Any]:
    inputs = config.pop("inputs", INPUTS)
    whole = {"trainer": "sklearn.hist_gradient_boosting", "task": "binary"} | config
    return fit_model(table, validation, config=whole, roles={"inputs": inputs}, folder=folder)


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("threads", [1, 2])
def test_repeated_predictions_of_a_forest_are_bit_equal(threads: int, tmp_path: Path) -> None:
    table = rows("regression", 1000)
    config = {"trainer": "sklearn.random_forest", "task": "regression", "params": {"n_estimators": 40}}
    fit(table, tmp_path / "m", threads=threads, **config)
    model = load_model(tmp_path / "m")
    assert len({model.predict(table).tobytes() for _ in range(10)}) == 1


def test_threads_do_not_change_the_trees_of_a_boosting(tmp_path: Path) -> None:
    found = set()
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        fit(rows("binary"), folder, threads=threads, params={"max_iter": 5})
        found.add(load_model(folder).predict(rows("binary")).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_model_survives_its_folder_and_two_fits_are_equal_bytes(trainer: str, task: str, tmp_path: Path) -> None:
    table = rows(task)
    config = {"trainer": trainer, "task": task, "params": TRAINERS[trainer], "seed": 7}
    first = fit(table, tmp_path / "a", **config)
    second = fit(table, tmp_path / "b", **config)
    assert first == second == json.loads(json.dumps(first))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    found = load_model(tmp_path / "a").predict(table)
    assert found.dtype == np.float64
    assert found.shape == ((200, 3) if task == "multiclass" else (200,))
    assert np.isfinite(found).all()
    assert (load_model(tmp_path / "b").predict(table) == found).all()
    if task == "multiclass":
        assert np.allclose(found.sum(axis=1), 1)
    assert 'input "nothing" has no value in the training rows and is left out' in first["notes"]


def test_predictions_before_saving_and_after_loading_are_bit_equal(tmp_path: Path) -> None:
    from treadle_runtime.training.contract import FitContext, Inputs
    from treadle_runtime.training.trainers import load_trainer

    table = rows("binary")
    inputs = Inputs.from_schema(table.schema, INPUTS)
    y, classes = encode_labels(table.column("_label"), "binary")
    X = inputs.normalise(table)
    for name in (*TRAINERS, "sklearn.logistic_regression", "sklearn.svc", "sklearn.gaussian_process"):
        trainer = load_trainer(name)
        model = trainer.fit((X, y), None, TRAINERS.get(name, {}), FitContext("binary", classes, 0, 1, inputs, {}))
        folder = tmp_path / name
        folder.mkdir()
        model.save(folder)
        assert (trainer.load(folder).predict(X) == model.predict(X)).all(), name


def test_a_model_is_equal_bytes_in_another_process(tmp_path: Path) -> None:
    for i, hash_seed in enumerate(("1", "2")):
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import test_training as t; from pathlib import Path\n"
            "t.fit(t.rows('binary'), Path(sys.argv[2]), seed=1, trainer='sklearn.random_forest', "
            "params={'n_estimators': 3})"
        )
        here = str(Path(__file__).parent)
        subprocess.run(
            [sys.executable, "-c", code, here, str(tmp_path / str(i))],
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
        )
    assert digests(tmp_path / "0") == digests(tmp_path / "1")


def test_another_seed_gives_another_forest(tmp_path: Path) -> None:
    for seed in (0, 1):
        fit(rows("binary"), tmp_path / str(seed), trainer="sklearn.random_forest", seed=seed)
    assert digests(tmp_path / "0") != digests(tmp_path / "1")


def test_a_single_row_no_row_another_order_and_extra_columns_predict(tmp_path: Path) -> None:
    for task in TASKS:
        for trainer, params in TRAINERS.items():
            folder = tmp_path / task / trainer
            fit(rows(task), folder, task=task, trainer=trainer, params=params)
            model, table = load_model(folder), rows(task, 50, seed=3)
            whole = model.predict(table)
            assert np.allclose(model.predict(table.slice(4, 1)), whole[4:5], rtol=1e-12, atol=0)
            assert model.predict(table.slice(0, 0)).shape == ((0, 3) if task == "multiclass" else (0,))
            turned = table.select(table.column_names[::-1]).append_column("more", pa.array([None] * 50))
            assert (model.predict(turned) == whole).all()


def test_unseen_categories_and_rows_of_nulls_predict(tmp_path: Path) -> None:
    table = rows("binary", 3)
    table = table.set_column(table.column_names.index("city"), "city", pa.array(["Zug", None, ""]))
    empty = pa.table({name: pa.nulls(2, table.schema.field(name).type) for name in INPUTS})
    untyped = pa.table({name: pa.nulls(2) for name in INPUTS})
    for trainer, params in TRAINERS.items():
        fit(rows("binary"), tmp_path / trainer, trainer=trainer, params=params)
        model = load_model(tmp_path / trainer)
        assert np.isfinite(model.predict(table)).all()
        assert (model.predict(empty) == model.predict(untyped)).all()


def test_inputs_are_never_changed(tmp_path: Path) -> None:
    table = rows("binary")
    before = pa.Table.from_batches(
        [pa.ipc.open_stream(_stream(table)).read_next_batch()]
    )  # a copy that shares no memory
    fit(table, tmp_path / "m", validation=table, params={"max_iter": 3})
    load_model(tmp_path / "m").predict(table)
    assert table.equals(before)


def _stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def test_missing_input_is_named(tmp_path: Path) -> None:
    fit(rows("binary"), tmp_path / "m", inputs=["x", "whole"], params={"max_iter": 2})
    with pytest.raises(StepError) as caught:
        load_model(tmp_path / "m").predict(rows("binary").select(["x", "city"]))
    assert str(caught.value) == (
        'error[TR706]: input "whole" is missing\n'
        "  the rows hold x, city\n"
        "  fix: give the rows every column that the model was trained on; extra ones are ignored"
    )


def test_input_of_another_type_is_named(tmp_path: Path) -> None:
    fit(rows("binary"), tmp_path / "m", inputs=["x", "city"], params={"max_iter": 2})
    with pytest.raises(StepError) as caught:
        load_model(tmp_path / "m").predict(pa.table({"x": ["a"], "city": ["b"]}))
    assert str(caught.value) == (
        'error[TR712]: input "x" has another type than in training\n'
        "  it is string here (text), and was a number in training\n"
        "  fix: cast it to double"
    )


def test_input_that_is_neither_number_nor_text_is_named(tmp_path: Path) -> None:
    table = rows("binary", 5).append_column("when", pa.array([1] * 5, pa.timestamp("us")))
    with pytest.raises(StepError) as caught:
        fit(table, tmp_path / "m", inputs=["when"])
    assert str(caught.value) == (
        'error[TR712]: input "when" is neither a number nor text\n'
        "  its type is timestamp[us]\n"
        "  fix: write what matters of it as a number, such as extract(hour from when)"
    )


def test_infinite_inputs_are_counted_where_the_estimator_needs_finite_numbers(tmp_path: Path) -> None:
    table = rows("binary").append_column("big", pa.array([np.inf, -np.inf] + [1.0] * 198))
    with pytest.raises(StepError) as caught:
        fit(table, tmp_path / "m", inputs=["x", "big"], trainer="sklearn.logistic_regression")
    assert str(caught.value) == (
        'error[TR712]: input "big" is infinite in 2 of 200 rows\n'
        "  this trainer needs finite numbers\n"
        "  fix: write NULL for them, such as case when isfinite(big) then big end, "
        "or use sklearn.hist_gradient_boosting without preprocessing"
    )
    fit(table, tmp_path / "m", inputs=["x", "big"], params={"max_iter": 2})
    assert np.isfinite(load_model(tmp_path / "m").predict(table)).all()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda t: t.slice(0, 0),
            "error[TR707]: there is nothing to train on\n  the training part has no rows\n  fix: widen the split",
        ),
        (
            lambda t: t.drop_columns("_label"),
            "error[TR706]: the dataset has no label\n  fix: give it one, as in label: is_late",
        ),
        (
            lambda t: t.set_column(1, "_label", pa.array([True] * 200)),
            (
                "error[TR708]: the labels do not fit the task\n  every label is true\n"
                "  fix: train on rows of at least two classes: a longer training part, or another label"
            ),
        ),
    ],
)
def test_rows_that_cannot_train_are_explained(change: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        fit(change(rows("binary")), tmp_path / "m")
    assert str(caught.value) == text


def test_dataset_without_inputs_or_with_empty_ones_is_explained(tmp_path: Path) -> None:
    for inputs, why in (([], "the dataset has no inputs"), (["nothing"], "every input is NULL")):
        with pytest.raises(StepError, match=r"TR707") as caught:
            fit(rows("binary"), tmp_path / "m", inputs=inputs)
        assert why in str(caught.value)


def test_failing_fit_says_why_and_nothing_of_the_inside(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        fit(
            rows("binary"),
            tmp_path / "m",
            trainer="sklearn.logistic_regression",
            preprocess={"impute": "none"},
        )
    assert str(caught.value) == (
        'error[TR716]: trainer "sklearn.logistic_regression" could not be fitted\n'
        "  Input X contains NaN.\n"
        "  fix: set preprocess: {impute: median} in the model"
    )
    assert not (tmp_path / "m").exists()


def test_warnings_become_notes_and_reach_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = fit(rows("binary"), tmp_path / "m", trainer="sklearn.logistic_regression", params={"max_iter": 1})
    assert any("lbfgs failed to converge" in note for note in told["notes"])
    assert capfd.readouterr() == ("", "")


def test_boosting_stops_early_on_the_validation_rows_only_when_asked(tmp_path: Path) -> None:
    train, held = rows("binary", 300), rows("binary", 100, seed=5)
    params = {"early_stopping": True, "max_iter": 100, "learning_rate": 0.9, "n_iter_no_change": 3}
    fit(train, tmp_path / "a", validation=held, params=params)
    fit(train, tmp_path / "b", validation=rows("binary", 100, seed=6), params=params)
    without = fit(train, tmp_path / "c", params=params)
    trees = [load_model(tmp_path / name).model.pipeline[-1].n_iter_ for name in "abc"]  # type: ignore[attr-defined]
    assert max(trees) < 100
    assert digests(tmp_path / "a") != digests(tmp_path / "b")
    assert "early_stopping held out a random share of the training rows" in without["notes"]
    params = {"max_iter": 3}
    fit(train, tmp_path / "d", validation=held, params=params)
    fit(train, tmp_path / "e", params=params)
    assert digests(tmp_path / "d") == digests(tmp_path / "e")


def test_validation_rows_of_a_class_that_training_never_saw_decide_nothing(tmp_path: Path) -> None:
    train = rows("multiclass")
    held = rows("multiclass").set_column(1, "_label", pa.array(["new"] * 200))
    told = fit(train, tmp_path / "m", task="multiclass", validation=held, params={"max_iter": 2})
    assert told["rows"] == {"train": 200, "validation": 200}


def test_class_weights_name_the_labels(tmp_path: Path) -> None:
    table = rows("multiclass")
    fit(table, tmp_path / "m", task="multiclass", params={"class_weight": {"mid": 1000, "low": 1, "high": 1}})
    model = load_model(tmp_path / "m")
    assert (model.predict(table).argmax(axis=1) == model.classes.index("mid")).mean() > 0.6
    with pytest.raises(StepError, match="class_weight names 'middle', which is no class of the label"):
        fit(table, tmp_path / "n", task="multiclass", params={"class_weight": {"middle": 2}})


def test_a_damaged_or_newer_folder_is_refused(tmp_path: Path) -> None:
    fit(rows("binary"), tmp_path / "m", trainer="sklearn.decision_tree")
    whole = json.loads((tmp_path / "m/model.json").read_text())
    (tmp_path / "m/model.json").write_text(json.dumps(whole | {"format": 2}))
    with pytest.raises(StoreError) as caught:
        load_model(tmp_path / "m")
    assert str(caught.value) == (
        "error[TR801]: a stored model was written by another version of Treadle\n"
        "  its format is 2, and this version reads 1\n"
        "  fix: upgrade Treadle, or build the model again"
    )
    (tmp_path / "m/model.json").write_text("{")
    with pytest.raises(StoreError, match="TR804"):
        load_model(tmp_path / "m")


def test_only_public_estimators_are_imported(tmp_path: Path) -> None:
    for name in ("sklearn.os.System", "sklearn.tests.test_base.MyEstimator", "sklearn.svm._classes.SVC", "os.path"):
        with pytest.raises(ProjectError, match="TR501"):
            fit(rows("binary"), tmp_path / "m", trainer=name)


@pytest.mark.parametrize(
    ("values", "task", "y", "classes"),
    [
        ([True, False], "binary", [1, 0], (False, True)),
        ([0, 1, 1], "binary", [0, 1, 1], (0, 1)),
        (["yes", "no"], "binary", [1, 0], ("no", "yes")),
        (["b", "a", "c"], "multiclass", [1, 0, 2], ("a", "b", "c")),
        ([30, 10], "multiclass", [1, 0], (10, 30)),
        ([1, 2], "regression", [1.0, 2.0], ()),
    ],
)
def test_labels_are_encoded(values: list[Any], task: str, y: list[float], classes: tuple[Any, ...]) -> None:
    for label in (pa.chunked_array([values]), pa.chunked_array([values[:1], values[1:]])):
        found, names = encode_labels(label, task)
        assert found.tolist() == y
        assert names == classes


@pytest.mark.parametrize(
    ("values", "task", "why"),
    [
        ([1, 2], "binary", "the integers 1, 2 do not say which class is the positive one"),
        (["a", "b", "c"], "binary", "a binary task has two classes, and 3 were found: 'a', 'b', 'c'"),
        ([1.0, float("nan")], "multiclass", "a label is NaN"),
        ([0.5, 1.0], "binary", "the labels are double, such as 0.5"),
        (["a", "a"], "multiclass", "every label is 'a'"),
        ([1.0, float("inf")], "regression", "1 of 2 labels are NaN or infinite"),
        (["1", "2"], "regression", "the labels are string, and regression needs numbers"),
        ([True, False], "regression", "the labels are booleans, and regression needs numbers"),
        ([1, None], "regression", "1 labels are NULL"),
    ],
)
def test_labels_that_do_not_fit_are_explained(values: list[Any], task: str, why: str) -> None:
    with pytest.raises(StepError) as caught:
        encode_labels(pa.chunked_array([values]), task)
    assert str(caught.value).splitlines()[:2] == [
        "error[TR708]: the labels do not fit the task",
        f"  {why}",
    ]


def test_labels_of_other_rows_follow_the_classes_of_the_model() -> None:
    found, _ = encode_labels(pa.chunked_array([["b", "b"]]), "binary", ("a", "b"))
    assert found.tolist() == [1, 1]
    with pytest.raises(StepError, match="'z' is no label of the training rows, which are 'a', 'b'"):
        encode_labels(pa.chunked_array([["z"]]), "binary", ("a", "b"))


def test_importing_the_front_door_loads_no_library_that_trains() -> None:
    code = (
        "import sys, treadle_runtime.training, treadle_runtime.training.parameters as p; p.trainers.registered();"
        "print([m for m in ('sklearn', 'lightgbm', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
