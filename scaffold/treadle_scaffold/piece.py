"""One more piece of a project: `treadle new KIND NAME`. It compiles at once, as it leans on what the project has.

names and kinds checked -> a writer per kind: Project -> the files to write -> written, unless one would be overwritten
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from treadle.errors import Problem, UsageError
from treadle.names import close_match, is_identifier
from treadle.project import Located, Project, read_project
from treadle.spec import DatasetSpec, ModelSpec, PipelineSpec, Unique
from treadle_scaffold.folder import to_identifier

_METRICS = {"binary": "roc_auc, brier", "multiclass": "accuracy, log_loss", "regression": "mae, r2"}
_FUNCTION = re.compile(r"^(?:async )?def (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class _File:
    """A file to write; `edits` one that exists."""

    path: str
    text: str
    edits: bool = False


def new(root: Path, kind: str, name: str, *, python: bool = False) -> Path:
    """Add a piece to a project.

    Args:
        root: the folder that holds treadle.yml.
        kind: feature, dataset, model, pipeline or test.
        name: letters, digits and underscores.
        python: write a feature as a Python function.

    Returns:
        the file in which the piece stands. A new model joins the pipeline of its dataset, and a new pipeline brings
        a model along.

    Raises:
        UsageError: TR101, a bad name; TR102, it is taken; TR603, the project lacks what the piece stands on.
    """
    if kind not in _WRITERS:
        suggestion, fix = close_match(kind, _WRITERS) or "", f"take one of {', '.join(_WRITERS)}"
        raise UsageError(Problem("TR603", f'there is no kind "{kind}"', suggestion=suggestion, fix=fix))
    if python and kind != "feature":
        raise UsageError(Problem("TR603", f"a {kind} is not written in Python here", fix="leave --python out"))
    project = read_project(root)
    _check_name(project, kind, name)
    written = (_python_feature if python else _WRITERS[kind])(project, name)
    for file in written:
        if not file.edits and (root / file.path).exists():
            raise UsageError(Problem("TR603", f'"{file.path}" exists already', fix="take another name"))
    for file in written:
        path = root / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
    return root / written[0].path


def _check_name(project: Project, kind: str, name: str) -> None:
    if not is_identifier(name):
        fix = f"write {to_identifier(name, default=kind)}"
        why = "a name is letters, digits and underscores, and does not start with a digit"
        raise UsageError(Problem("TR101", f'"{name}" is no name', why=why, fix=fix))
    taken = _names(project, kind)
    if name in taken:
        raise UsageError(
            Problem("TR102", f'the name "{name}" is taken', why=f"it is a {taken[name]}", fix="take another name")
        )


def _names(project: Project, kind: str) -> dict[str, str]:
    """Return name -> kind of what shares a space of names with pieces of this kind."""
    if kind == "pipeline":
        return dict.fromkeys(project.pipelines, "pipeline")
    if kind == "test":
        return {PurePosixPath(path).stem: "test" for path in project.sql_tests}
    return {
        **dict.fromkeys(project.models, "model"),
        **dict.fromkeys(project.datasets, "dataset"),
        **dict.fromkeys(_features(project), "feature"),
        **dict.fromkeys(project.sources, "source"),
    }


def _features(project: Project) -> list[str]:
    found = [PurePosixPath(path).stem for path in project.sql_features]
    for path, text in project.python.items():
        if path.startswith("features/"):
            found += [name for name in _FUNCTION.findall(text) if not name.startswith("_")]
    return found


# features and tests


def _first_table(project: Project) -> str:
    found = next(iter(project.sources), None) or next(iter(_features(project)), None)
    if found is None:
        fix = "name a file below `sources:` in features/sources.yml: {name: raw_orders, path: data/orders.csv}"
        raise UsageError(Problem("TR603", "this project has no table to read", fix=fix))
    return found


def _sql_feature(project: Project, name: str) -> list[_File]:
    table = _first_table(project)
    text = f"""-- What does a row say, and of whom? With an entity, datasets can read it; with event_time, as of then:
-- config(entity='customer', event_time='happened_at', ttl='30d')
select *
from {{{{ ref('{table}') }}}}
"""
    return [_File(f"features/{name}.sql", text)]


def _python_feature(project: Project, name: str) -> list[_File]:
    table = _first_table(project)
    text = f'''"""What does a row say, and of whom?"""

import polars as pl

from treadle import feature


@feature
def {name}({table}: pl.LazyFrame) -> pl.LazyFrame:
    """A parameter's name is the table that it reads."""
    return {table}
'''
    return [_File(f"features/{name}.py", text)]


def _test(project: Project, name: str) -> list[_File]:
    table = next(iter(_features(project)), None) or _first_table(project)
    text = f"""-- Rows that a test returns are failures. Here: the table is empty.
select count(*) as found
from {{{{ ref('{table}') }}}}
having count(*) = 0
"""
    return [_File(f"tests/{name}.sql", text)]


# datasets


def _dataset(project: Project, name: str) -> list[_File]:
    like = next(iter(project.datasets.values()), None)
    body: dict[str, Any] = {"rows": _first_table(project), "key": "id"}
    if like is not None:
        spec = like.spec
        label = spec.label.model_dump(exclude_none=True) if spec.label else None
        body = {"rows": spec.rows, "key": spec.key, "at": spec.at, "label": label, "columns": list(spec.columns)}
    elif (found := _keyed_table(project)) is not None:
        body = dict(zip(("rows", "key"), found, strict=True))
    lines = [f"    {key}: {json.dumps(value)}" for key, value in body.items() if value]
    return [_File(f"models/{name}.yml", "\n".join(["datasets:", f"  - name: {name}", *lines]) + "\n")]


def _keyed_table(project: Project) -> tuple[str, str] | None:
    """Return (table, column) of the first column that is tested to be unique."""
    for located in (*project.features.values(), *project.sources.values()):
        for column in located.spec.columns:
            if any(isinstance(test.parsed(), Unique) for test in column.tests):
                return located.spec.name, column.name
    return None


# models and pipelines


def _model(project: Project, name: str) -> list[_File]:
    dataset = _labelled_dataset(project)
    task = _task(project, dataset)
    model = _File(f"models/{name}.yml", "models:\n" + _model_text(name, dataset.spec.name, task))
    for pipeline in project.pipelines.values():
        first = project.models.get(pipeline.spec.models[0])
        if first is not None and (first.spec.dataset, first.spec.task) == (dataset.spec.name, task):
            joined = _join(project, pipeline, name)
            if joined is not None:
                return [model, joined]
    return [model, _File(f"pipelines/{name}.yml", _pipeline_text(project, name, name, dataset, task))]


def _pipeline(project: Project, name: str) -> list[_File]:
    dataset = _labelled_dataset(project)
    task = _task(project, dataset)
    taken, model, n = _names(project, "model"), f"{name}_trees", 2
    while model in taken:
        model, n = f"{name}_trees_{n}", n + 1
    return [
        _File(f"pipelines/{name}.yml", _pipeline_text(project, name, model, dataset, task)),
        _File(f"models/{model}.yml", "models:\n" + _model_text(model, dataset.spec.name, task)),
    ]


def _labelled_dataset(project: Project) -> Located[DatasetSpec]:
    for dataset in project.datasets.values():
        if dataset.spec.label is not None:
            return dataset
    what = "this project has no dataset with a label" if project.datasets else "this project has no dataset"
    fix = "add `label: COLUMN` to one in models/" if project.datasets else "`treadle new dataset NAME` adds one"
    raise UsageError(Problem("TR603", what, fix=fix))


def _task(project: Project, dataset: Located[DatasetSpec]) -> str:
    models: Mapping[str, Located[ModelSpec]] = project.models
    return next((model.spec.task for model in models.values() if model.spec.dataset == dataset.spec.name), "binary")


def _model_text(name: str, dataset: str, task: str) -> str:
    return f"""  - name: {name}
    dataset: {dataset}
    task: {task}
    trainer: sklearn.hist_gradient_boosting
    params: {{max_iter: 200, learning_rate: 0.05}}
"""


def _pipeline_text(project: Project, name: str, model: str, dataset: Located[DatasetSpec], task: str) -> str:
    """Return a pipeline that splits as another one of the same dataset does."""
    alike = [p.spec for p in project.pipelines.values() if _dataset_of(project, p) == dataset.spec.name]
    if alike:
        split: dict[str, Any] = alike[0].split.model_dump(exclude_none=True, exclude_defaults=True)
    else:
        split = {"by": "time", "test": "last 30d", "validation": "30d"} if dataset.spec.at else {}
        split = split or {"by": "random", "test": 0.2, "validation": 0.2}
    metrics = _METRICS[task]
    first = metrics.split(",", maxsplit=1)[0]
    sign = "<=" if first == "mae" else ">="
    return f"""pipelines:
  - name: {name}
    models: [{model}]
    split: {json.dumps(split)}
    evaluate: {{metrics: [{metrics}]}}
    gates:
      - {first} {sign} champion.{first}
"""


def _dataset_of(project: Project, pipeline: Located[PipelineSpec]) -> object:
    model = project.models.get(pipeline.spec.models[0])
    return model.spec.dataset if model is not None else None


def _join(project: Project, pipeline: Located[PipelineSpec], name: str) -> _File | None:
    """Return the pipeline's file with one more name in its list of models, or None where its form is not known."""
    last = pipeline.at("models", len(pipeline.spec.models) - 1)
    path = project.root / last.path
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    line = lines[last.line - 1]
    before, after = line[: last.column - 1], line[last.column - 1 :]
    item = pipeline.spec.models[-1]
    if not after.startswith(item):
        return None
    if before.strip() == "-":
        end = "" if line.endswith("\n") else "\n"
        lines[last.line - 1] = f"{line}{end}{before}{name}\n"
    else:
        lines[last.line - 1] = f"{before}{item}, {name}{after.removeprefix(item)}"
    return _File(last.path, "".join(lines), edits=True)


_WRITERS: Mapping[str, Callable[[Project, str], list[_File]]] = {
    "feature": _sql_feature,
    "dataset": _dataset,
    "model": _model,
    "pipeline": _pipeline,
    "test": _test,
}
