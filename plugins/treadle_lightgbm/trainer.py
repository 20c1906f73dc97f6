"""The trainer `lightgbm`: Arrow in, LightGBM's own text model out.

Numbers reach LightGBM without a copy; missing ones are NaN, which it handles itself. Text columns become
categories.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa

from treadle.errors import Problem, StepError, StoreError
from treadle_lightgbm.categories import Categories
from treadle_lightgbm.table import OBJECTIVES, ROUNDS, STOPPING
from treadle_runtime.training.contract import Batch, FitContext

DEFAULT_ROUNDS = 100
_MODEL = "lightgbm.txt"
_CATEGORIES = "categories.json"


@dataclass(frozen=True)
class LightgbmModel:
    """A fitted booster with the categories of its text columns.

    Attributes:
        text: LightGBM's own form of the model.
        booster: what was read from `text`; a model that was loaded is the same as one that was just fitted.
        columns: the inputs in the booster's order.
        categories: those of the text columns.
        threads: of a prediction.
        notes: what the fit had to say.
    """

    text: str
    booster: lgb.Booster
    columns: tuple[str, ...]
    categories: Mapping[str, Categories]
    threads: int
    notes: tuple[str, ...] = ()

    def predict(self, X: pa.Table) -> np.ndarray:
        """Predict rows in normal form; see `contract.Model`."""
        rows = _to_numbers(X, self.columns, self.categories)
        return np.asarray(self.booster.predict(rows, num_threads=self.threads), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write the booster's text and the categories."""
        (folder / _MODEL).write_text(self.text, "utf-8")
        known = {name: found.to_json() for name, found in self.categories.items()}
        whole = {"columns": list(self.columns), "categories": known, "threads": self.threads}
        (folder / _CATEGORIES).write_text(json.dumps(whole, sort_keys=True) + "\n", "utf-8")


class LightgbmTrainer:
    """Gradient boosting by LightGBM."""

    name = "lightgbm"
    capabilities = frozenset({"arrow", "early_stopping"})
    libraries = ("lightgbm", "numpy", "pyarrow")

    def fit(
        self, train: Batch, validation: Batch | None, params: Mapping[str, Any], context: FitContext
    ) -> LightgbmModel:
        """Fit a booster; validation rows are read only with `early_stopping_rounds`."""
        _check_preprocess(context.preprocess)
        rows, y = train
        columns = tuple(column.name for column in context.inputs.columns)
        least = int(context.preprocess.get("min_frequency") or 1)
        names = context.inputs.categorical
        categories = {name: Categories.learn(rows.column(name), min_frequency=least) for name in names}
        chosen = dict(params)
        rounds = _take(chosen, ROUNDS) or DEFAULT_ROUNDS
        patience = _take(chosen, STOPPING)
        chosen = _complete(chosen, context)
        data = _dataset(_to_numbers(rows, columns, categories), y, columns, names, chosen)
        watched: list[lgb.Dataset] = []
        callbacks: list[Callable[..., Any]] = []
        notes: list[str] = []
        if patience and validation is not None:
            watched = [data.create_valid(_to_numbers(validation[0], columns, categories), validation[1])]
            least_gain = float(chosen.pop("early_stopping_min_delta", 0.0))
            callbacks = [lgb.early_stopping(patience, verbose=False, min_delta=least_gain)]
        elif patience:
            notes = ["there are no validation rows: all rounds were trained, and early_stopping_rounds did nothing"]
        booster = lgb.train(chosen, data, num_boost_round=rounds, valid_sets=watched, callbacks=callbacks)
        if callbacks and booster.best_iteration:
            notes = [f"stopped after {booster.best_iteration} of {rounds} rounds by the validation rows"]
        text = booster.model_to_string(num_iteration=booster.best_iteration or None)
        model = lgb.Booster(model_str=text)
        return LightgbmModel(text, model, columns, categories, context.threads, tuple(notes))

    def load(self, folder: Path) -> LightgbmModel:
        """Read what `LightgbmModel.save` wrote."""
        try:
            text = (folder / _MODEL).read_text("utf-8")
            whole = json.loads((folder / _CATEGORIES).read_text("utf-8"))
            known = {name: Categories.from_json(value) for name, value in whole["categories"].items()}
            booster = lgb.Booster(model_str=text)
        except (OSError, ValueError, KeyError, lgb.basic.LightGBMError) as e:
            raise StoreError(
                Problem("TR804", "a stored model cannot be read", why=f"{_MODEL}: {e}", fix="build it again")
            ) from e
        return LightgbmModel(text, booster, tuple(whole["columns"]), known, whole["threads"])


def _check_preprocess(asked: Mapping[str, Any]) -> None:
    for key, allowed in (("numeric", "none"), ("categorical", "ordinal"), ("impute", "none")):
        if (value := asked.get(key)) not in (None, allowed):
            raise StepError(
                Problem(
                    "TR508",
                    f'trainer "lightgbm" takes no {key}: {value} in preprocess',
                    why="it reads missing values and categories itself, and its trees need no scaling",
                    fix=f"take {key} out of the model's preprocess",
                )
            )


def _take(params: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """Remove a parameter under any of its names and return its value."""
    found = [params.pop(name) for name in names if name in params]
    return found[0] if found else None


def _complete(params: dict[str, Any], context: FitContext) -> dict[str, Any]:
    """Return parameters with what the task, the seed and the threads decide."""
    allowed = OBJECTIVES[context.task]
    objective = params.get("objective", allowed[0])
    if objective not in allowed:
        raise StepError(
            Problem(
                "TR508",
                f"objective {objective} does not fit a {context.task} task",
                fix=f"use one of {', '.join(allowed)}",
            )
        )
    seed = params.pop("random_state", params.pop("seed", context.seed))
    fixed = {
        "objective": objective,
        "seed": int(seed) % 2**31,
        "num_threads": context.threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    if context.task == "multiclass":
        fixed["num_class"] = len(context.classes)
    return params | fixed


def _dataset(
    rows: pa.Table,
    y: np.ndarray,
    columns: tuple[str, ...],
    categorical: tuple[str, ...],
    params: dict[str, Any],
) -> lgb.Dataset:
    positions = [columns.index(name) for name in categorical]
    return lgb.Dataset(
        rows, y, feature_name=list(rows.column_names), categorical_feature=positions, params=dict(params)
    )


def _to_numbers(rows: pa.Table, columns: tuple[str, ...], categories: Mapping[str, Categories]) -> pa.Table:
    """Return rows as float64 columns named f0, f1, ...: LightGBM refuses some characters in names."""
    arrays = [categories[n].encode(rows.column(n)) if n in categories else rows.column(n) for n in columns]
    return pa.table(arrays, names=[f"f{i}" for i in range(len(arrays))])
