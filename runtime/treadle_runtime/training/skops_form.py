"""scikit-learn models as files: skops in a normal form, read back with a reviewed list of types.

Two plain skops dumps of one model differ: entries carry the time, ids are memory addresses, sets follow the
hash seed, and records of trees hold uninitialised padding. The normal form has none of that:

    plain dump -> schema: ids dropped, shared objects numbered, sets sorted
               -> arrays: named by first use, equal ones once, padding zeroed
               -> one uncompressed zip with a fixed time

Reading trusts only the types below. Tree nodes are checked before they are used, for scikit-learn follows
their indices without looking: https://github.com/scikit-learn/scikit-learn/pull/34558
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from treadle.errors import Problem, StepError, StoreError
from treadle_runtime.training.tree_check import check_trees

# Types of scikit-learn's own fitted estimators that skops does not trust by itself, each looked at: they hold
# numbers and text and run nothing when they are made. Collected by dumping every estimator; a test does it
# again.
TRUSTED: tuple[str, ...] = (
    "functools.partial",  # of a function that is trusted itself
    "numpy.dtype",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.metrics._dist_metrics.ChebyshevDistance64",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
)

_TIME = (1980, 1, 1, 0, 0, 0)
# Objects whose identity means something: shared in memory, they are stored once. The others are values.
_SHARED = frozenset(
    {"ObjectNode", "NdArrayNode", "TreeNode", "RandomStateNode", "RandomGeneratorNode", "SparseMatrixNode"}
)


def save(estimator: object, path: Path) -> None:
    """Write an estimator; equal estimators give equal bytes, in any process.

    Raises:
        StepError: TR716, a part of the estimator has no form in a file.
    """
    try:
        plain = skops.io.dumps(estimator)
    except Exception as e:
        raise StepError(
            Problem(
                "TR716",
                "the fitted model cannot be saved",
                why=str(e).splitlines()[0],
                fix="use another trainer",
            )
        ) from e
    path.write_bytes(normalise(plain))


def load(path: Path) -> Any:
    """Read an estimator that `save` wrote.

    Raises:
        StoreError: TR804, the file is damaged, holds a type that is not trusted, or a tree that points
            outside itself.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of estimators that a later version drops
            estimator = skops.io.load(path, trusted=list(TRUSTED))
    except UntrustedTypesFoundException as e:
        names = str(e).splitlines()[0].partition(": ")[2].rstrip(".")
        raise _damaged(path, f"it holds types that are not trusted: {names}") from e
    except Exception as e:
        raise _damaged(path, str(e).splitlines()[0] if str(e) else type(e).__name__) from e
    try:
        check_trees(estimator)
    except ValueError as e:
        raise _damaged(path, str(e)) from e
    return estimator


def normalise(plain: bytes) -> bytes:
    """Return a skops dump in normal form."""
    with zipfile.ZipFile(io.BytesIO(plain)) as source:
        schema = json.loads(source.read("schema.json"))
        entries = {name: source.read(name) for name in source.namelist() if name != "schema.json"}
    counts: Counter[int] = Counter()
    _count_shared(schema, counts)
    names: dict[bytes, str] = {}
    schema = _Renumber({id_ for id_, n in counts.items() if n > 1}, entries, names).visit(schema)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for content, name in names.items():
            target.writestr(_entry(name), content)
        target.writestr(_entry("schema.json"), json.dumps(schema, separators=(",", ":")))
    return out.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIME)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    return info


def _is_shared(node: dict[str, Any]) -> bool:
    loader = node.get("__loader__")
    if loader == "NdArrayNode":  # a scalar of numpy has this loader too, and is a value
        return node.get("__class__") == "ndarray"
    return loader in _SHARED


def _count_shared(node: Any, counts: Counter[int]) -> None:
    if isinstance(node, dict):
        if "__id__" in node and _is_shared(node):
            counts[node["__id__"]] += 1
        for value in node.values():
            _count_shared(value, counts)
    elif isinstance(node, list):
        for value in node:
            _count_shared(value, counts)


class _Renumber:
    """Rewrites a schema: ids of shared objects and names of arrays by first use, sets in sorted order."""

    def __init__(self, shared: set[int], entries: dict[str, bytes], names: dict[bytes, str]) -> None:
        self.shared = shared
        self.entries = entries
        self.names = names
        self.ids: dict[int, int] = {}

    def visit(self, node: Any) -> Any:
        """Return the node in normal form."""
        if isinstance(node, list):
            return [self.visit(value) for value in node]
        if not isinstance(node, dict):
            return node
        node = dict(node)
        id_ = node.pop("__id__", None) if "__loader__" in node else None
        if node.get("__loader__") == "SetNode":
            node["content"] = sorted(node["content"], key=_value_of)
        if "file" in node and "__loader__" in node:
            node["file"] = self._rename(node["file"])
        found = {key: self.visit(value) for key, value in node.items()}
        if id_ in self.shared and _is_shared(node):
            found["__id__"] = self.ids.setdefault(id_, len(self.ids) + 1)
        return found

    def _rename(self, file: str) -> str:
        content = self.entries[file]
        if file.endswith(".npy"):
            content = _without_padding(content)
        return self.names.setdefault(content, f"{len(self.names)}{Path(file).suffix}")


def _value_of(node: Any) -> str:
    """Return a sort key of a member of a set that no address enters."""
    if isinstance(node, dict):
        kept = {key: _value_of(value) for key, value in node.items() if key not in ("__id__", "file")}
        return json.dumps(kept, sort_keys=True)
    return json.dumps(node, sort_keys=True)


def _without_padding(content: bytes) -> bytes:
    """Return a .npy file whose records have zeros between their fields."""
    array = np.load(io.BytesIO(content), allow_pickle=False)
    names = array.dtype.names
    if names is None or sum(array.dtype[name].itemsize for name in names) == array.dtype.itemsize:
        return content
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in names:
        clean[name] = array[name]
    out = io.BytesIO()
    np.save(out, clean, allow_pickle=False)
    return out.getvalue()


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(
        Problem(
            "TR804",
            "a stored model cannot be read",
            why=f"{path.name}: {why}",
            fix="delete the folder of its version in .treadle/store, then build again",
        )
    )
