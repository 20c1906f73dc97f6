"""Training: from rows of a dataset to a model in a folder, and back.

    fit_model   rows, configuration -> a folder and what the step tells
    load_model  a folder -> a model that predicts

Importing this package imports no library that trains: checking parameters at plan time must stay cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from treadle_runtime.training.model import TrainedModel


def fit_model(
    train: pa.Table,
    validation: pa.Table | None,
    *,
    config: Mapping[str, Any],
    roles: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Fit a model on rows of a dataset and write it into a folder; see `fit.fit_model`."""
    from treadle_runtime.training import fit

    return fit.fit_model(train, validation, config=config, roles=roles, folder=folder)


def load_model(folder: Path) -> TrainedModel:
    """Read a model from its folder; see `model.load_model`."""
    from treadle_runtime.training import model

    return model.load_model(folder)
