from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from treadle.errors import StoreError
from treadle_runtime.training import skops_form, table
from treadle_runtime.training.estimators import load_estimator
from treadle_runtime.training.threads import limited_threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with limited_threads(1):
        yield


def data(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    return X, (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64)


def fitted(kind: Any, **params: Any) -> Any:
    X, y = data()
    return kind(**params).fit(X, y)


def rewritten(path: Path, change: Any) -> Path:
    """Return a copy of a model file whose schema or arrays were changed."""
    with zipfile.ZipFile(path) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    change(entries)
    copy = path.with_suffix(".changed")
    with zipfile.ZipFile(copy, "w") as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return copy


def change_array(entries: dict[str, bytes], field: str, index: int, value: int) -> None:
    for name, content in entries.items():
        if name.endswith(".npy"):
            array = np.load(io.BytesIO(content))
            if array.dtype.names and field in array.dtype.names and len(array) > index:
                array[field][index] = value
                out = io.BytesIO()
                np.save(out, array)
                entries[name] = out.getvalue()
                return
    raise AssertionError("no such array")


@pytest.mark.filterwarnings("ignore")  # of estimators that do not converge on so few rows, or will be dropped
@pytest.mark.parametrize("dotted", sorted(d for d, r in table.build("")["trainers"].items() if r["tasks"]))
def test_every_estimator_is_equal_bytes_twice_and_predicts_equal_bits_after_loading(
    dotted: str, tmp_path: Path
) -> None:
    title = dotted.rpartition(".")[2]
    X, y = data()
    X = np.abs(X) if title.endswith("NB") else X[:, :1] if title == "IsotonicRegression" else X
    target: np.ndarray = y if issubclass_of_classifier(dotted) else np.abs(X[:, 0]) + y + 0.1
    kind = load_estimator(dotted, "binary")
    estimators = [kind() for _ in range(2)]
    for i, estimator in enumerate(estimators):
        if "random_state" in estimator.get_params(deep=False):
            estimator.set_params(random_state=3)
        estimator.fit(X, target)
        skops_form.save(estimator, tmp_path / str(i))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    loaded = skops_form.load(tmp_path / "0")
    predict = "predict_proba" if hasattr(loaded, "predict_proba") else "predict"
    X = X.copy()  # a kernel treats the very array that it was fitted on apart
    assert getattr(loaded, predict)(X).tobytes() == getattr(estimators[0], predict)(X).tobytes()


def issubclass_of_classifier(dotted: str) -> bool:
    from sklearn.base import ClassifierMixin

    return issubclass(load_estimator(dotted, "binary"), ClassifierMixin)


def test_plain_dumps_differ_where_the_normal_form_does_not() -> None:
    first, second = (fitted(RandomForestClassifier, n_estimators=3, random_state=0) for _ in range(2))
    plain = skops.io.dumps(first), skops.io.dumps(second)
    assert plain[0] != plain[1]
    assert skops_form.normalise(plain[0]) == skops_form.normalise(plain[1])


def test_sets_have_one_order_in_every_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from treadle_runtime.training import skops_form\n"
        "skops_form.save({'names': {'a', 'b', 'c', 'd', 'e', 'f'}, 'n': {3, 1.5, None, (1, 2)}}, Path(sys.argv[1]))"
    )
    for seed in ("1", "2", "3"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env={"PYTHONHASHSEED": seed})
    assert len({(tmp_path / seed).read_bytes() for seed in ("1", "2", "3")}) == 1
    assert skops_form.load(tmp_path / "1")["n"] == {3, 1.5, None, (1, 2)}


def test_nothing_of_time_or_memory_stands_in_a_file(tmp_path: Path) -> None:
    skops_form.save(fitted(HistGradientBoostingClassifier, max_iter=2), tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "m") as found:
        assert {info.date_time for info in found.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        schema = found.read("schema.json").decode()
        assert {name for name in found.namelist() if len(name) > 8} == {"schema.json"}
    assert max([0, *ids(json.loads(schema))]) < 100


def ids(node: Any) -> list[int]:
    values = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    own = [node["__id__"]] if isinstance(node, dict) and "__id__" in node else []
    return own + [found for value in values for found in ids(value)]


def test_arrays_shared_in_memory_stay_shared(tmp_path: Path) -> None:
    shared = np.arange(5.0)
    skops_form.save({"a": shared, "b": shared, "c": shared.copy()}, tmp_path / "m")
    found = skops_form.load(tmp_path / "m")
    assert found["a"] is found["b"]
    assert found["a"] is not found["c"]
    with zipfile.ZipFile(tmp_path / "m") as source:
        assert source.namelist() == ["0.npy", "schema.json"]


def test_a_type_that_is_not_trusted_is_named(tmp_path: Path) -> None:
    skops_form.save(fitted(DecisionTreeClassifier), tmp_path / "m")

    def change(entries: dict[str, bytes]) -> None:
        entries["schema.json"] = entries["schema.json"].replace(
            b'"DecisionTreeClassifier","__module__":"sklearn.tree._classes"', b'"system","__module__":"os"'
        )

    with pytest.raises(StoreError) as caught:
        skops_form.load(rewritten(tmp_path / "m", change))
    assert str(caught.value) == (
        "error[TR804]: a stored model cannot be read\n"
        "  m.changed: it holds types that are not trusted: ['os.system']\n"
        "  fix: delete the folder of its version in .treadle/store, then build again"
    )


def test_trust_is_no_wider_than_what_estimators_need() -> None:
    assert not [name for name in skops_form.TRUSTED if not name.startswith(("sklearn.", "numpy.dtype", "functools."))]


@pytest.mark.parametrize(
    ("kind", "field", "index", "value"),
    [
        (DecisionTreeClassifier, "left_child", 0, 10_000),
        (DecisionTreeClassifier, "right_child", 0, 0),
        (DecisionTreeClassifier, "feature", 0, 99),
        (DecisionTreeClassifier, "feature", 0, -7),
        (HistGradientBoostingClassifier, "left", 0, 10_000),
        (HistGradientBoostingClassifier, "feature_idx", 0, 99),
        (KNeighborsClassifier, "idx_end", 0, 10_000),
    ],
)
def test_a_tree_that_points_outside_itself_is_refused(
    kind: Any, field: str, index: int, value: int, tmp_path: Path
) -> None:
    skops_form.save(fitted(kind), tmp_path / "m")
    skops_form.load(tmp_path / "m")
    changed = rewritten(tmp_path / "m", lambda entries: change_array(entries, field, index, value))
    with pytest.raises(StoreError, match="TR804"):
        skops_form.load(changed)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    skops_form.save(fitted(DecisionTreeClassifier), tmp_path / "m")
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:500])
    with pytest.raises(StoreError, match="TR804"):
        skops_form.load(tmp_path / "m")
