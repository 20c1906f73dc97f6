"""From the rows of a dataset to a model in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.errors import Problem, StepError, TransientError, TreadleError
from treadle_runtime.training.contract import Batch, FitContext, Inputs, Model, Trainer
from treadle_runtime.training.labels import encode_labels, positions
from treadle_runtime.training.model import TrainedModel, library_versions
from treadle_runtime.training.threads import limited_threads
from treadle_runtime.training.trainers import load_trainer

LABEL = "_label"


def fit_model(
    train: pa.Table,
    validation: pa.Table | None,
    *,
    config: Mapping[str, Any],
    roles: Mapping[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Fit a model on rows of a dataset and write it into a folder.

    Args:
        train: rows of the dataset version, with `_label`; the model is fitted on them and on nothing else.
        validation: rows that may decide when to stop; None or empty where there are none.
        config: {"trainer", "task"} and optionally "params", "preprocess", "seed" (0) and "threads" (1).
        roles: info["roles"] of the dataset version; its "inputs" are what the model reads.
        folder: of the model; made where it is missing.

    Returns:
        what the step tells, as JSON: equal for equal rows and configuration.

    Raises:
        StepError: TR706 and TR712 (inputs), TR707 (no rows), TR708 (labels), TR716 (the fit failed).
    """
    inputs = _check_rows(train, roles)
    trainer = load_trainer(config["trainer"])
    y, classes = encode_labels(train.column(LABEL), config["task"])
    context = FitContext(
        task=config["task"],
        classes=classes,
        seed=int(config.get("seed") or 0),
        threads=int(config.get("threads") or 1),
        inputs=inputs,
        preprocess=config.get("preprocess") or {},
    )
    held = _validation_batch(validation, context)
    model = _fit(trainer, (inputs.normalise(train), y), held, config.get("params") or {}, context)
    libraries = library_versions(trainer.libraries)
    trained = TrainedModel(
        config["trainer"], context.task, classes, inputs, context.seed, context.threads, libraries, model
    )
    trained.save(folder)
    return trained.to_json() | {
        "rows": {"train": train.num_rows, "validation": validation.num_rows if validation is not None else 0},
        "inputs": len(inputs.columns),
        "notes": list(model.notes),
    }


def _check_rows(train: pa.Table, roles: Mapping[str, Any]) -> Inputs:
    if not train.num_rows:
        raise StepError(
            Problem(
                "TR707",
                "there is nothing to train on",
                why="the training part has no rows",
                fix="widen the split",
            )
        )
    if LABEL not in train.column_names:
        raise StepError(Problem("TR706", "the dataset has no label", fix="give it one, as in label: is_late"))
    if not roles["inputs"]:
        raise StepError(
            Problem(
                "TR707",
                "there is nothing to train on",
                why="the dataset has no inputs",
                fix="name columns or features in the dataset",
            )
        )
    return Inputs.from_schema(train.schema, roles["inputs"])


def _validation_batch(rows: pa.Table | None, context: FitContext) -> Batch | None:
    """Return validation rows of classes that training knows; the others can decide nothing."""
    if rows is None:
        return None
    label = rows.column(LABEL)
    known = positions(label, context.classes).is_valid() if context.classes else label.is_valid()
    found = rows.filter(known)
    if not found.num_rows:
        return None
    y, _ = encode_labels(found.column(LABEL), context.task, context.classes)
    return context.inputs.normalise(found), y


def _fit(
    trainer: Trainer, train: Batch, validation: Batch | None, params: Mapping[str, Any], context: FitContext
) -> Model:
    try:
        with limited_threads(context.threads), np.errstate(all="ignore"):
            return trainer.fit(train, validation, params, context)
    except TreadleError:
        raise
    except Exception as e:
        kind = TransientError if isinstance(e, MemoryError) else StepError
        raise kind(
            Problem(
                "TR716",
                f'trainer "{trainer.name}" could not be fitted',
                why=_short(e),
                fix="set preprocess: {impute: median} in the model" if "NaN" in str(e) else "see `params` of the model",
            )
        ) from e


def _short(error: Exception) -> str:
    """Return the first line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
