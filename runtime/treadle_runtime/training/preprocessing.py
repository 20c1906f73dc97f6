"""What stands between the inputs and an estimator: imputing, scaling, categories as numbers.

All of it is scikit-learn's own, fitted on training rows only and saved in one pipeline with the estimator.
A missing category counts as a category of its own; one that training never saw counts as none of the known
ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from treadle.errors import Problem, StepError
from treadle_runtime.training.contract import Inputs
from treadle_runtime.training.estimators import Needs

# A dense one-hot matrix of many categories fills memory: the rarest beyond these share one column.
MAX_DENSE_CATEGORIES = 256

_DEFAULTS: dict[Needs, dict[str, str]] = {
    "native": {"numeric": "none", "categorical": "ordinal", "impute": "none"},
    "trees": {"numeric": "none", "categorical": "ordinal", "impute": "median"},
    "counts": {"numeric": "none", "categorical": "one_hot", "impute": "zero"},
    "scaled": {"numeric": "standardize", "categorical": "one_hot", "impute": "median"},
}


@dataclass(frozen=True)
class Preparation:
    """What is done to the inputs, every choice made.

    Attributes:
        numeric: standardize or none.
        categorical: one_hot or ordinal.
        impute: mean, median, zero or none; of numeric inputs.
        min_frequency: categories in fewer training rows share one code.
        max_categories: how many codes an input has at most; None for no limit.
        native: an unknown category is NaN, which the estimator reads as missing.
        sparse: the estimator takes a sparse matrix.
    """

    numeric: str
    categorical: str
    impute: str
    min_frequency: int = 1
    max_categories: int | None = None
    native: bool = False
    sparse: bool = False

    @property
    def takes_infinity(self) -> bool:
        """Whether infinite values may reach the estimator."""
        return self.native and self.numeric == "none" and self.impute == "none"


def prepare(asked: Mapping[str, Any], needs: Needs, *, sparse: bool, max_bins: int = 255) -> Preparation:
    """Return the choices that a model's `preprocess` makes, completed by what the estimator needs.

    Args:
        asked: keys of `preprocess` in the model's file; absent or None: as the estimator needs it.
        needs: see `estimators.needs_of`.
        sparse: whether the estimator takes a sparse matrix.
        max_bins: how many categories an estimator with native categories takes.
    """
    chosen = {key: asked.get(key) or default for key, default in _DEFAULTS[needs].items()}
    native = needs == "native" and chosen["categorical"] == "ordinal"
    limit = max_bins if native else None
    if chosen["categorical"] == "one_hot" and not sparse:
        limit = MAX_DENSE_CATEGORIES
    return Preparation(
        **chosen,
        min_frequency=int(asked.get("min_frequency") or 1),
        max_categories=limit,
        native=native or needs == "native",
        sparse=sparse,
    )


def make_transformer(preparation: Preparation, inputs: Inputs) -> ColumnTransformer:
    """Return the unfitted transformer: numeric inputs first, then the categorical ones."""
    parts: list[tuple[str, Any, list[str]]] = []
    if inputs.numeric:
        parts.append(("numeric", _numeric(preparation), list(inputs.numeric)))
    if inputs.categorical:
        parts.append(("categorical", _categorical(preparation), list(inputs.categorical)))
    return ColumnTransformer(parts, sparse_threshold=0.3 if preparation.sparse else 0.0)


def filled_inputs(rows: pa.Table, inputs: Inputs) -> tuple[Inputs, tuple[str, ...]]:
    """Return the inputs that hold a value in some row, and the names of those that hold none."""
    empty = tuple(column.name for column in inputs.columns if _is_empty(rows.column(column.name)))
    return Inputs(tuple(column for column in inputs.columns if column.name not in empty)), empty


def to_frame(rows: pa.Table) -> pl.DataFrame:
    """Return rows in normal form as the frame that the transformer reads; numbers are not copied."""
    return pl.DataFrame(pl.from_arrow(rows))


def check_finite(rows: pa.Table, inputs: Inputs) -> None:
    """Refuse infinite numbers.

    Raises:
        StepError: TR712, names every input with infinite values and how many.
    """
    problems = []
    for name in inputs.numeric:
        if count := int(np.isinf(rows.column(name).to_numpy()).sum()):
            problems.append(
                Problem(
                    "TR712",
                    f'input "{name}" is infinite in {count} of {rows.num_rows} rows',
                    why="this trainer needs finite numbers",
                    fix=f"write NULL for them, such as case when isfinite({name}) then {name} end, "
                    "or use sklearn.hist_gradient_boosting without preprocessing",
                )
            )
    if problems:
        raise StepError(problems)


def _is_empty(column: pa.ChunkedArray) -> bool:
    if pa.types.is_floating(column.type):
        return bool(np.isnan(column.to_numpy()).all())
    return bool(column.null_count == len(column))


def _numeric(preparation: Preparation) -> Any:
    steps: list[tuple[str, Any]] = []
    if preparation.impute == "zero":
        steps.append(("impute", SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True)))
    elif preparation.impute != "none":
        steps.append(("impute", SimpleImputer(strategy=preparation.impute, keep_empty_features=True)))
    if preparation.numeric == "standardize":
        steps.append(("scale", StandardScaler()))
    return Pipeline(steps) if steps else "passthrough"


def _categorical(preparation: Preparation) -> Any:
    rare = preparation.min_frequency if preparation.min_frequency > 1 else None
    if preparation.categorical == "one_hot":
        return OneHotEncoder(
            handle_unknown="infrequent_if_exist",
            min_frequency=rare,
            max_categories=preparation.max_categories,
            sparse_output=preparation.sparse,
        )
    return OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan if preparation.native else -1,
        min_frequency=rare,
        max_categories=preparation.max_categories,
    )
