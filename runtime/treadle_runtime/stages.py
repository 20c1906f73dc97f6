"""The stages of a pipeline as steps: split, baseline, train, evaluate, choose, validate, refit.

Each reads versions, calls what `splits`, `training` and `evaluation` compute, and writes its own files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from treadle.gates import parse_gate
from treadle.metrics import METRICS
from treadle_runtime import splits
from treadle_runtime.arrowfile import map_arrow_file, write_arrow_file
from treadle_runtime.evaluation import baselines, evaluate, verdict
from treadle_runtime.job import Job, Made, Opponent
from treadle_runtime.store import Column, Version
from treadle_runtime.training import fit_model, load_model
from treadle_runtime.training.labels import encode_labels
from treadle_runtime.training.model import TrainedModel

DATA, PARTS, PREDICTIONS, MODEL = "data.arrow", "parts.arrow", "predictions.parquet", "model"

Parts = npt.NDArray[np.int8]


def run_split(job: Job) -> Made:
    """Assign the dataset's rows to parts: parts.arrow, the part and why there is none, an int8 a row each."""
    dataset, roles = read_dataset(_input(job, "dataset"))
    found = splits.split(dataset, roles, {**job.step.config, "as_of": job.as_of})
    write_arrow_file(splits.to_table(found), job.folder / PARTS)
    return Made(info=found.info)


def run_baseline(job: Job) -> Made:
    """Score what comes for free beside the metrics of the pipeline."""
    dataset, roles, parts = _rows(job)
    y, classes = _labels(dataset, parts, str(job.step.config["task"]), TRAINABLE)
    return Made(info={"baselines": baselines.baselines(dataset, parts, roles, job.step.config, y=y, classes=classes)})


def run_train(job: Job) -> Made:
    """Fit the held-out twin: a model of the training rows, in model/."""
    dataset, roles, parts = _rows(job)
    return _fit(job, dataset, roles, parts == splits.TRAIN, parts == splits.VALIDATION, job.step.config)


def run_evaluate(job: Job) -> Made:
    """Score a model on validation and test rows: predictions.parquet and metrics."""
    dataset, roles, parts = _rows(job)
    model = read_model(_input(job, "train"))
    y, classes = _labels(dataset, parts, str(job.step.config["task"]), SCORED, model.classes)
    table, info = evaluate.evaluate(model, dataset, parts, roles, job.step.config, y=y, classes=classes)
    pq.write_table(table, job.folder / PREDICTIONS, compression="zstd", store_schema=False)
    return Made(
        columns=tuple(Column(name, _duckdb_type(table.schema.field(name).type)) for name in table.column_names),
        info=info,
    )


def run_choose(job: Job) -> Made:
    """Choose the model that is best on validation rows by the first metric."""
    config = job.step.config
    infos = {name: _input(job, f"{name}.evaluate").info for name in config["models"]}
    found = verdict.choose(infos, METRICS[config["metric"]])
    found["test"] = dict(infos[found["chosen"]]["test"])  # type: ignore[arg-type]
    return Made(info=found)


def run_validate(job: Job) -> Made:
    """Hold the chosen model's test metrics against the gates."""
    choice = _input(job, "choose").info
    evaluation = _input(job, f"{choice['chosen']}.evaluate").info
    free = _input(job, "baseline").info["baselines"]
    gates = [parse_gate(text) for text in job.step.config["gates"]]
    champion = _score_champion(job, job.opponent) if job.opponent is not None else None
    found = verdict.validate(gates, evaluation, champion, free)  # type: ignore[arg-type]
    return Made(info={**found, "chosen": choice["chosen"], "test": evaluation["test"]})


def run_refit(job: Job) -> Made:
    """Train the chosen model on every row of the split, and on those left out because a part begins after them."""
    dataset, roles = read_dataset(_input(job, "dataset"))
    chosen = str(_input(job, "choose").info["chosen"])
    split = _input(job, "split")
    as_of = split.info["as_of"]
    known = _refit_rows(split)
    made = _fit(job, dataset, roles, known, np.zeros(len(known), dtype=bool), job.step.config["models"][chosen])
    return Made(info={**made.info, "model": chosen, "as_of": as_of}, notes=made.notes)


def read_dataset(version: Version) -> tuple[pa.Table, Mapping[str, Any]]:
    """Return a dataset's mapped table and the roles of its columns."""
    roles: Any = version.info["roles"]
    return map_arrow_file(version.folder / DATA), roles


def read_parts(version: Version) -> Parts:
    """Return the part of every row of the dataset that was split, int8 of shape (n,)."""
    column = map_arrow_file(version.folder / PARTS).column("part")
    return np.asarray(column.to_numpy(), dtype=np.int8)


def read_model(version: Version) -> TrainedModel:
    """Return the model of a train or refit step."""
    return load_model(version.folder / MODEL)


TRAINABLE = (splits.TRAIN, splits.VALIDATION, splits.TEST)
SCORED = (splits.VALIDATION, splits.TEST)


def _input(job: Job, name: str) -> Version:
    """Return the version of the input of a kind (`dataset`, `split`), or of `<model>.<kind>`."""
    pipeline = job.step.pipeline
    wanted = {f"{pipeline}.{name}", f"{pipeline}.{job.step.model}.{name}"}
    for step_id, version in job.versions.items():
        if step_id in wanted or (name == "dataset" and version.kind == "dataset"):
            return version
    raise KeyError(name)


def _rows(job: Job) -> tuple[pa.Table, Mapping[str, Any], Parts]:
    dataset, roles = read_dataset(_input(job, "dataset"))
    return dataset, roles, read_parts(_input(job, "split"))


def _labels(
    dataset: pa.Table, parts: Parts, task: str, which: Sequence[int], classes: Sequence[Any] = ()
) -> tuple[npt.NDArray[Any], tuple[Any, ...]]:
    """Return y of shape (n,) and the classes; what stands in rows of other parts is 0."""
    rows = np.flatnonzero(np.isin(parts, which))
    found, known = encode_labels(dataset.column("_label").take(rows), task, classes)
    y = np.zeros(len(parts), dtype=found.dtype)
    y[rows] = found
    return y, known


def _fit(
    job: Job,
    dataset: pa.Table,
    roles: Mapping[str, Any],
    train: npt.NDArray[np.bool_],
    validation: npt.NDArray[np.bool_],
    config: Mapping[str, Any],
) -> Made:
    folder = job.folder / MODEL
    folder.mkdir()
    held_out = dataset.filter(pa.array(validation)) if validation.any() else None
    info = fit_model(dataset.filter(pa.array(train)), held_out, config=config, roles=roles, folder=folder)
    notes: Any = info.get("notes", ())
    return Made(info=info, notes=tuple(notes))


def _refit_rows(split: Version) -> npt.NDArray[np.bool_]:
    """Return which rows have a part, or have none only because a later part begins, of shape (n,)."""
    reasons = np.asarray(map_arrow_file(split.folder / PARTS).column("left_out").to_numpy())
    found: npt.NDArray[np.bool_] = np.isin(reasons, [0, *(splits.CODES[reason] for reason in splits.BOUNDARY)])
    return found


def _score_champion(job: Job, opponent: Opponent) -> dict[str, Any]:
    """Return the metrics of the champion's twin on the candidate's test rows, as `verdict.validate` reads them."""
    dataset, roles, parts = _rows(job)
    theirs, their_roles = read_dataset(opponent.dataset)
    tested = dataset.column(roles["key"]).filter(pa.array(parts == splits.TEST))
    seen = np.isin(read_parts(opponent.split), (splits.TRAIN, splits.VALIDATION))  # validation chose the twin
    known = {
        "name": f"version {opponent.number}",
        "overlap": verdict.count_overlap(tested, theirs.column(their_roles["key"]).filter(pa.array(seen))),
    }
    y, classes = _labels(dataset, parts, str(job.step.config["task"]), TRAINABLE)
    rows = dataset
    if not opponent.is_same_definition:
        found = _find_keys(tested, theirs.column(their_roles["key"]))
        if found.null_count:
            lacks = f"its own dataset lacks {found.null_count} of the test rows"
            why = f"its features are defined differently now, and {lacks}"
            return {**known, "metrics": {}, "missing": [], "why": why}
        rows, y = theirs.take(found), y[parts == splits.TEST]
        parts = np.full(rows.num_rows, splits.TEST, dtype=np.int8)
    model = read_model(opponent.twin)
    scored = verdict.champion_metrics(
        model,
        rows,
        parts,
        roles,
        job.step.config,
        y=y,
        classes=classes,
        inputs=[column.name for column in model.inputs.columns],
        champion_classes=model.classes,
    )
    return {**known, **scored}


def _find_keys(wanted: pa.ChunkedArray, keys: pa.ChunkedArray) -> pa.Array:
    """Return where each wanted key stands, NULL where it does not; compared as text if the types differ."""
    if wanted.type != keys.type:
        wanted, keys = pc.cast(wanted, pa.string()), pc.cast(keys, pa.string())
    values = pc.SetLookupOptions(value_set=keys.combine_chunks())
    return pc.call_function("index_in", [wanted.combine_chunks()], values)


def _duckdb_type(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "VARCHAR"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP"
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    return {"int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT", "float": "FLOAT"}.get(
        str(kind), "DOUBLE" if pa.types.is_floating(kind) else "BIGINT"
    )


STAGES: Mapping[str, Callable[[Job], Made]] = {
    "split": run_split,
    "baseline": run_baseline,
    "train": run_train,
    "evaluate": run_evaluate,
    "choose": run_choose,
    "validate": run_validate,
    "refit": run_refit,
}
