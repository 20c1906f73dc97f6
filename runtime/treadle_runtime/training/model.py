"""A trained model in a folder: `model.json` says what it is, beside it stands what its trainer wrote.

Nothing in the folder tells a time, a place or a machine, so that two fits of the same rows give the same
bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.errors import Problem, StoreError
from treadle_runtime.training.contract import Inputs, Model
from treadle_runtime.training.labels import Label
from treadle_runtime.training.threads import limited_threads
from treadle_runtime.training.trainers import load_trainer

FORMAT = 1
_FILE = "model.json"


@dataclass(frozen=True)
class TrainedModel:
    """A model with what is known about it.

    Attributes:
        trainer: its name.
        task: binary, multiclass or regression.
        classes: the labels in the order of the predicted columns; binary: the second is the positive one.
        inputs: the columns that `predict` needs.
        seed, threads: of the fit; predictions use as many threads.
        libraries: distribution -> version, of the fit.
        model: what the trainer gave.
    """

    trainer: str
    task: str
    classes: tuple[Label, ...]
    inputs: Inputs
    seed: int
    threads: int
    libraries: Mapping[str, str]
    model: Model

    def predict(self, X: pa.Table) -> np.ndarray:
        """Predict rows.

        Args:
            X: holds the inputs; other columns are ignored, and their order does not matter.

        Returns:
            float64: regression (n,), binary (n,) the probability of the positive class between 0.0 and 1.0,
            multiclass (n, K) in the order of `classes`.

        Raises:
            StepError: TR706, an input is missing; TR712, it has another type than in training.
        """
        rows = self.inputs.normalise(X)
        if not X.num_rows:
            return np.empty((0, len(self.classes)) if self.task == "multiclass" else 0)
        with limited_threads(self.threads):
            found = self.model.predict(rows)
        return np.ascontiguousarray(found)

    def save(self, folder: Path) -> None:
        """Write the model into a folder, which is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).write_text(json.dumps(self.to_json(), sort_keys=True, indent=1) + "\n", "utf-8")
        self.model.save(folder)

    def to_json(self) -> dict[str, Any]:
        """Return all but the model itself."""
        return {
            "format": FORMAT,
            "trainer": self.trainer,
            "task": self.task,
            "classes": list(self.classes),
            "inputs": self.inputs.to_json(),
            "seed": self.seed,
            "threads": self.threads,
            "libraries": dict(self.libraries),
        }


def load_model(folder: Path) -> TrainedModel:
    """Read a model from its folder.

    Raises:
        StoreError: TR801, a newer Treadle wrote it; TR804, it is damaged.
        ProjectError: TR501, its trainer is not installed here.
    """
    try:
        found = json.loads((folder / _FILE).read_text("utf-8"))
        known = found["format"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StoreError(
            Problem("TR804", "a stored model cannot be read", why=f"{_FILE}: {e}", fix="build it again")
        ) from e
    if known != FORMAT:
        raise StoreError(
            Problem(
                "TR801",
                "a stored model was written by another version of Treadle",
                why=f"its format is {known}, and this version reads {FORMAT}",
                fix="upgrade Treadle, or build the model again",
            )
        )
    return TrainedModel(
        trainer=found["trainer"],
        task=found["task"],
        classes=tuple(found["classes"]),
        inputs=Inputs.from_json(found["inputs"]),
        seed=found["seed"],
        threads=found["threads"],
        libraries=found["libraries"],
        model=load_trainer(found["trainer"]).load(folder),
    )


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of each distribution."""
    return {name: importlib.metadata.version(name) for name in names}
