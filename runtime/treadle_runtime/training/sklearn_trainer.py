"""scikit-learn's estimators as trainers: one pipeline of preparation and estimator, fitted and saved."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from treadle.errors import Problem, StepError
from treadle_runtime.training import skops_form
from treadle_runtime.training.contract import Batch, FitContext, InputColumn, Inputs
from treadle_runtime.training.estimators import CALIBRATED, DEFAULTS, NO_JOBS, load_estimator, needs_of
from treadle_runtime.training.preprocessing import (
    Preparation,
    check_finite,
    filled_inputs,
    make_transformer,
    prepare,
    to_frame,
)

_FILE = "estimator.skops"
MAX_NOTES = 10


@dataclass(frozen=True)
class SklearnModel:
    """A fitted pipeline.

    Attributes:
        pipeline: preparation and estimator.
        task: binary, multiclass or regression.
        inputs: those it reads; inputs that were empty in training are not among them.
        takes_infinity: whether infinite values may reach it.
        notes: what the fit had to say.
    """

    pipeline: Pipeline
    task: str
    inputs: Inputs
    takes_infinity: bool
    notes: tuple[str, ...] = ()

    def predict(self, X: pa.Table) -> np.ndarray:
        """Predict rows in normal form; see `contract.Model`."""
        if not self.takes_infinity:
            check_finite(X, self.inputs)
        frame = to_frame(X)
        if self.task == "regression":
            return np.asarray(self.pipeline.predict(frame), dtype=np.float64).reshape(-1)  # (n,)
        found = np.asarray(self.pipeline.predict_proba(frame), dtype=np.float64)  # (n, K)
        return found[:, 1] if self.task == "binary" else found

    def save(self, folder: Path) -> None:
        """Write the pipeline."""
        whole = {"pipeline": self.pipeline, "task": self.task, "takes_infinity": self.takes_infinity}
        skops_form.save(whole, folder / _FILE)


class SklearnTrainer:
    """One estimator of scikit-learn, by its short or dotted name."""

    capabilities = frozenset[str]()
    libraries = ("scikit-learn", "numpy", "scipy", "skops")

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(
        self, train: Batch, validation: Batch | None, params: Mapping[str, Any], context: FitContext
    ) -> SklearnModel:
        """Fit preparation and estimator on the training rows; see `contract.Trainer`.

        The validation part is read only where the estimator takes one, and only with `early_stopping`.
        """
        rows, _ = train
        inputs, empty = filled_inputs(rows, context.inputs)
        if not inputs.columns:
            raise StepError(
                Problem("TR707", "there is nothing to train on", why="every input is NULL in every training row")
            )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator = self._make(params, context)
            preparation = _prepare(estimator, context)
            if not preparation.takes_infinity:
                check_finite(rows, inputs)
            pipeline, more = _fit(estimator, preparation, inputs, train, validation)
        notes = [f'input "{name}" has no value in the training rows and is left out' for name in empty]
        notes += [*more, *_to_notes(caught)]
        return SklearnModel(pipeline, context.task, inputs, preparation.takes_infinity, tuple(notes))

    def load(self, folder: Path) -> SklearnModel:
        """Read what `SklearnModel.save` wrote."""
        found = skops_form.load(folder / _FILE)
        pipeline = found["pipeline"]
        return SklearnModel(pipeline, found["task"], _inputs_of(pipeline), bool(found["takes_infinity"]))

    def _make(self, params: Mapping[str, Any], context: FitContext) -> Any:
        """Return the unfitted estimator with the model's parameters, seed and threads."""
        kind = load_estimator(self.name, context.task)
        chosen = {**DEFAULTS.get(kind.__name__, {}), **params}
        if isinstance(weights := chosen.get("class_weight"), Mapping):
            chosen["class_weight"] = _by_number(weights, context.classes)
        estimator = kind(**chosen)
        known = estimator.get_params(deep=False)
        if "random_state" in known and "random_state" not in params:
            estimator.set_params(random_state=context.seed)
        if "n_jobs" in known and kind.__name__ not in NO_JOBS:
            estimator.set_params(n_jobs=context.threads)
        return estimator


def _by_number(weights: Mapping[Any, Any], classes: Sequence[Any]) -> dict[int, Any]:
    """Return weights of classes keyed by the numbers under which the estimator knows them."""
    strange = [name for name in weights if name not in classes]
    if strange:
        raise StepError(
            Problem(
                "TR716",
                f"class_weight names {strange[0]!r}, which is no class of the label",
                why=f"the classes are {', '.join(map(repr, classes))}",
                fix="name the classes as the label holds them",
            )
        )
    return {classes.index(name): weight for name, weight in weights.items()}


def _prepare(estimator: Any, context: FitContext) -> Preparation:
    name = type(estimator).__name__
    sparse = bool(estimator.__sklearn_tags__().input_tags.sparse)
    max_bins = int(getattr(estimator, "max_bins", 255))
    return prepare(context.preprocess, needs_of(name), sparse=sparse, max_bins=max_bins)


def _fit(
    estimator: Any, preparation: Preparation, inputs: Inputs, train: Batch, validation: Batch | None
) -> tuple[Pipeline, list[str]]:
    """Return the fitted pipeline and notes; the transformer sees training rows only."""
    rows, y = train
    transformer = make_transformer(preparation, inputs)
    X = transformer.fit_transform(to_frame(rows))  # (n, inputs), dense or sparse
    extra: dict[str, Any] = {}
    notes: list[str] = []
    if "categorical_features" in estimator.get_params(deep=False):
        ordinal = preparation.categorical == "ordinal" and inputs.categorical
        first = len(inputs.numeric)
        categories = list(range(first, first + len(inputs.categorical))) if ordinal else None
        estimator.set_params(categorical_features=categories)
        if estimator.early_stopping and validation is not None:
            extra = {"X_val": transformer.transform(to_frame(validation[0])), "y_val": validation[1]}
    if getattr(estimator, "early_stopping", False) and not extra:
        notes.append("early_stopping held out a random share of the training rows")
    if type(estimator).__name__ in CALIBRATED:
        estimator = CalibratedClassifierCV(estimator).set_params(ensemble=False)
    estimator.fit(X, y, **extra)
    if needs_of(type(estimator).__name__) == "trees" and "n_jobs" in estimator.get_params(deep=False):
        estimator.set_params(n_jobs=1)  # a forest adds its trees up in the order in which threads end
    return Pipeline([("inputs", transformer), ("estimator", estimator)]), notes


def _inputs_of(pipeline: Pipeline) -> Inputs:
    parts = {name: columns for name, _, columns in pipeline.named_steps["inputs"].transformers}
    numeric = [InputColumn(name, "numeric") for name in parts.get("numeric", [])]
    return Inputs((*numeric, *(InputColumn(name, "categorical") for name in parts.get("categorical", []))))


def _to_notes(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    """Return the first line of each different warning, but not what later versions of a library will do."""
    said = [w for w in caught if not issubclass(w.category, (FutureWarning, DeprecationWarning))]
    texts = [str(warning.message).strip().splitlines() for warning in said]
    return list(dict.fromkeys(lines[0] for lines in texts if lines))[:MAX_NOTES]
