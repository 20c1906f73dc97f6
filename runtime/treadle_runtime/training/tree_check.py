"""A structural check of loaded trees: scikit-learn follows the indices in them without looking.

A node that points outside its tree reads foreign memory or ends the process; see
https://github.com/scikit-learn/scikit-learn/pull/34558.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree._tree import Tree


def check_trees(value: object) -> None:
    """Check every tree below a loaded value.

    Raises:
        ValueError: a tree points outside itself or reads inputs that its model does not have.
    """
    _check(value, seen=set())


def _check(value: Any, *, seen: set[int]) -> None:
    if id(value) in seen or value is None or isinstance(value, (str, bytes, int, float, type)):
        return
    seen.add(id(value))
    if isinstance(value, Tree):
        _check_tree(value)
    elif isinstance(value, TreePredictor):
        _check_predictor(value)
    elif isinstance(value, (KDTree, BallTree)):
        _check_neighbors(value)
    elif isinstance(value, np.ndarray):
        _check_all(value.ravel() if value.dtype == object else (), seen)
    elif isinstance(value, dict):
        _check_all(value.values(), seen)
    elif isinstance(value, (list, tuple, set)):
        _check_all(value, seen)
    elif hasattr(value, "__dict__"):
        _check_boosting(value)
        _check_all(vars(value).values(), seen)


def _check_all(values: Any, seen: set[int]) -> None:
    for value in values:
        _check(value, seen=seen)


def _check_tree(tree: Tree) -> None:
    nodes = tree.__getstate__()["nodes"]
    leaf = nodes["left_child"] == -1
    _check_children(nodes["left_child"], nodes["right_child"], leaf)
    _check_range(nodes["feature"][~leaf], tree.n_features, "input")


def _check_predictor(tree: TreePredictor) -> None:
    nodes = tree.nodes
    leaf = nodes["is_leaf"] != 0
    _check_children(nodes["left"], nodes["right"], leaf)
    categorical = ~leaf & (nodes["is_categorical"] != 0)
    _check_range(nodes["bitset_idx"][categorical], len(tree.raw_left_cat_bitsets), "set of categories")


def _check_boosting(value: Any) -> None:
    """Check the inputs that the trees of a histogram boosting read: they do not know how many there are."""
    for iteration in vars(value).get("_predictors") or ():
        for tree in iteration:
            if not isinstance(tree, TreePredictor):
                raise ValueError("a boosting holds something that is no tree")
            inner = tree.nodes[tree.nodes["is_leaf"] == 0]
            _check_range(inner["feature_idx"], value.n_features_in_, "input")


def _check_neighbors(tree: Any) -> None:
    """Check a tree of neighbours: its nodes stand in levels, the children of i at 2i + 1 and 2i + 2."""
    data, rows, nodes, bounds = tree.__getstate__()[:4]
    n, size = len(data), len(nodes)
    _check_range(rows, n, "row")
    _check_range(nodes["idx_start"], n + 1, "row")
    _check_range(nodes["idx_end"], n + 1, "row")
    _check_range(2 * np.flatnonzero(nodes["is_leaf"] == 0) + 2, size, "node")
    if len(rows) != n or tree.__getstate__()[6] != size or bounds.shape[1:] != (size, data.shape[1]):
        raise ValueError("the parts of a tree of neighbours differ in length")


def _check_children(left: np.ndarray, right: np.ndarray, leaf: np.ndarray) -> None:
    """Check that children stand behind their parents and inside the tree, so that every walk ends."""
    if not len(left):
        raise ValueError("a tree has no nodes")
    positions = np.arange(len(left))[~leaf]
    for children in (left, right):
        inner = children[~leaf].astype(np.int64)
        if ((inner <= positions) | (inner >= len(left))).any():
            raise ValueError("a node of a tree points outside the tree")


def _check_range(index: np.ndarray, size: int, what: str) -> None:
    found = index.astype(np.int64)
    if len(found) and (found.min() < 0 or found.max() >= size):
        raise ValueError(f"a tree points to {what} {int(found.max())} of {size}")
