"""The parameters of LightGBM that a model may set, with their bounds, as a parameter table.

Bounds are those of LightGBM's documentation (docs/Parameters.rst), names its main ones and their usual
aliases.
"""

from __future__ import annotations

from typing import Any

# What a model gives under one of these names is the number of trees.
ROUNDS = ("num_iterations", "n_estimators", "num_boost_round", "num_trees", "max_iter")
STOPPING = ("early_stopping_rounds", "early_stopping_round", "n_iter_no_change")

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "binary": ("binary", "cross_entropy"),
    "multiclass": ("multiclass", "multiclassova"),
    "regression": (
        "regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie",
    ),
}  # fmt: skip

_SET = {
    "num_threads": "it comes from the model's `threads`: write threads: 2 beside params",
    "n_jobs": "it comes from the model's `threads`: write threads: 2 beside params",
    "categorical_feature": "text columns are categories: cast a column to text to make it one",
    "num_class": "it comes from the label",
    "device_type": "models are trained on the processor, where equal inputs give equal bits",
    "deterministic": "it is always on",
    "verbosity": "nothing is printed",
}


def _int(left: int | None = None, right: int | None = None) -> list[dict[str, Any]]:
    low = "(-inf" if left is None else f"[{left}"
    high = "inf)" if right is None else f"{right}]"
    closed = {(False, False): "both", (False, True): "left", (True, False): "right"}.get(
        (left is None, right is None), "neither"
    )
    text = f"an int in the range {low}, {high}"
    return [{"kind": "interval", "numbers": "int", "left": left, "right": right, "closed": closed, "text": text}]


def _real(left: float, right: float | None = None, *, open_left: bool = False) -> list[dict[str, Any]]:
    low = f"({left}" if open_left else f"[{left}"
    closed = ("right" if open_left else "both") if right is not None else ("neither" if open_left else "left")
    text = f"a float in the range {low}, " + ("inf)" if right is None else f"{right}]")
    return [{"kind": "interval", "numbers": "real", "left": left, "right": right, "closed": closed, "text": text}]


def _one_of(*values: str) -> list[dict[str, Any]]:
    return [{"kind": "options", "values": list(values), "shown": list(values)}]


_BOOLEAN = [{"kind": "boolean"}]
_SHARE = _real(0.0, 1.0, open_left=True)

_MAIN: dict[str, list[dict[str, Any]] | None] = {
    "objective": _one_of(*(name for names in OBJECTIVES.values() for name in names)),
    "boosting": _one_of("gbdt", "rf", "dart"),
    "data_sample_strategy": _one_of("bagging", "goss"),
    "num_iterations": _int(1),
    "early_stopping_rounds": _int(1),
    "early_stopping_min_delta": _real(0.0),
    "learning_rate": _real(0.0, open_left=True),
    "num_leaves": _int(2, 131072),
    "max_depth": _int(),
    "min_data_in_leaf": _int(0),
    "min_sum_hessian_in_leaf": _real(0.0),
    "bagging_fraction": _SHARE,
    "bagging_freq": _int(0),
    "pos_bagging_fraction": _SHARE,
    "neg_bagging_fraction": _SHARE,
    "feature_fraction": _SHARE,
    "feature_fraction_bynode": _SHARE,
    "extra_trees": _BOOLEAN,
    "lambda_l1": _real(0.0),
    "lambda_l2": _real(0.0),
    "linear_lambda": _real(0.0),
    "linear_tree": _BOOLEAN,
    "min_gain_to_split": _real(0.0),
    "drop_rate": _real(0.0, 1.0),
    "max_drop": _int(),
    "skip_drop": _real(0.0, 1.0),
    "top_rate": _real(0.0, 1.0),
    "other_rate": _real(0.0, 1.0),
    "min_data_per_group": _int(1),
    "max_cat_threshold": _int(1),
    "cat_l2": _real(0.0),
    "cat_smooth": _real(0.0),
    "max_cat_to_onehot": _int(1),
    "path_smooth": _real(0.0),
    "max_bin": _int(2),
    "min_data_in_bin": _int(1),
    "bin_construct_sample_cnt": _int(1),
    "is_unbalance": _BOOLEAN,
    "scale_pos_weight": _real(0.0, open_left=True),
    "boost_from_average": _BOOLEAN,
    "sigmoid": _real(0.0, open_left=True),
    "alpha": _real(0.0, open_left=True),
    "fair_c": _real(0.0, open_left=True),
    "poisson_max_delta_step": _real(0.0, open_left=True),
    "tweedie_variance_power": _real(1.0, 2.0),
    "metric": [{"kind": "text"}, {"kind": "list"}],
    "seed": _int(0),
}

_ALIASES = {
    "early_stopping_rounds": STOPPING,
    "num_iterations": ROUNDS,
    "learning_rate": ("eta", "shrinkage_rate"),
    "num_leaves": ("max_leaf_nodes", "max_leaves"),
    "min_data_in_leaf": ("min_child_samples", "min_samples_leaf"),
    "min_sum_hessian_in_leaf": ("min_child_weight",),
    "bagging_fraction": ("subsample",),
    "bagging_freq": ("subsample_freq",),
    "feature_fraction": ("colsample_bytree",),
    "feature_fraction_bynode": ("colsample_bynode",),
    "lambda_l1": ("reg_alpha",),
    "lambda_l2": ("reg_lambda", "l2_regularization"),
    "min_gain_to_split": ("min_split_gain",),
    "max_bin": ("max_bins",),
    "boosting": ("boosting_type",),
    "seed": ("random_state",),
}

_PARAMETERS = _MAIN | {alias: _MAIN[name] for name, aliases in _ALIASES.items() for alias in aliases}

TABLE: dict[str, Any] = {
    "format": 1,
    "version": "4.6",
    "aliases": {},
    "trainers": {
        "lightgbm": {
            "title": "lightgbm",
            "tasks": ["binary", "multiclass", "regression"],
            "refusal": "",
            "instead": "",
            "only": {},
            "set": _SET,
            "parameters": _PARAMETERS | dict.fromkeys(_SET),
        }
    },
}
