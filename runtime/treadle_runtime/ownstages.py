"""A project's own stages: call the function, and give what it returns the form that later stages read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from treadle.errors import Problem, StepError
from treadle_runtime import splits
from treadle_runtime.arrowfile import map_arrow_file, write_arrow_file
from treadle_runtime.features import name_of
from treadle_runtime.functions import call_function
from treadle_runtime.job import Job, Made
from treadle_runtime.session import lend_new


def run_own_split(job: Job) -> Made:
    """Split by the project's function: it returns a table of the dataset's key and `part`."""
    table, notes = call_function(job, lend_new)
    what = name_of(job.step)
    version = next(v for v in job.versions.values() if v.kind == "dataset")
    roles: Any = version.info["roles"]
    dataset = map_arrow_file(version.folder / "data.arrow")
    given = _parts(table, dataset, roles["key"], what, job)
    found = splits.restrict(dataset, roles, given, job.as_of)
    if empty := [name for name, n in found.info["counts"].items() if not n]:
        why = _why_empty(empty, given, found.info["left_out"])
        raise StepError(Problem("TR707", f"{what} leaves a part empty", job.step.where, why))
    write_arrow_file(splits.to_table(found), job.folder / "parts.arrow")
    return Made(info=found.info, notes=notes)


def run_own_choose(job: Job) -> Made:
    """Choose by the project's function: it gets predictions and returns a model's name."""
    chosen, notes = call_function(job, lend_new, is_table=False)
    models = job.step.config["models"]
    if chosen not in models:
        what = f"{name_of(job.step)} chose no model"
        why = f"it returned {chosen!r}; the models are {', '.join(models)}"
        raise StepError(Problem("TR714", what, job.step.where, why, fix="return one of these names"))
    metric = job.step.config["metric"]
    infos: dict[str, Any] = {name: job.versions[f"{job.step.pipeline}.{name}.evaluate"].info for name in models}
    values = {name: info["validation"].get(metric) for name, info in infos.items()}
    stage = job.step.function.name if job.step.function else ""
    info = {"chosen": chosen, "by": metric, "stage": stage, "values": values, "test": infos[chosen]["test"]}
    return Made(info=info, notes=notes)


def _why_empty(empty: Sequence[str], given: npt.NDArray[np.int8], left_out: Mapping[str, int]) -> str:
    never = [name for name in empty if not (given == splits.PARTS[name]).any()]
    if never:
        return f"no row of the dataset was given to {', '.join(never)}"
    lines = [f"every row that was given to {', '.join(empty)} is left out"]
    return "\n".join(lines + [f"left out, {splits.REASONS[reason]}: {n}" for reason, n in left_out.items()])


def _parts(table: pa.Table, dataset: pa.Table, key: str, what: str, job: Job) -> Any:
    """Return the part of every row of the dataset, int8 of shape (n,); rows that the table lacks are left out."""
    missing = [name for name in (key, "part") if name not in table.column_names]
    if missing:
        why = f"its columns are {', '.join(table.column_names)}"
        fix = f"return {key} and part, which is train, validation or test"
        raise StepError(Problem("TR706", f"{what} returned no column {missing[0]}", job.step.where, why, fix=fix))
    given = dict(zip(table.column(key).to_pylist(), table.column("part").to_pylist(), strict=True))
    unknown = set(given.values()) - {*splits.PARTS, None}
    if unknown:
        why = f"it returned {sorted(map(str, unknown))[0]!r}; a part is train, validation or test"
        raise StepError(Problem("TR714", f"{what} returned an unknown part", job.step.where, why))
    keys = dataset.column(key).to_pylist()
    return np.array([splits.PARTS.get(str(given.get(value)), splits.LEFT_OUT) for value in keys], dtype=np.int8)


OWN_STAGES: Mapping[str, Callable[[Job], Made]] = {"split": run_own_split, "choose": run_own_choose}
