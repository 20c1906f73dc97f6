"""One more piece of a project: `treadle new KIND NAME`. It compiles at once, as it leans on what the project already has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from treadle.errors import Problem, UsageError
from treadle.names import close_match, is_identifier
from treadle.project import Located, Project, read_project
from treadle.spec import DatasetSpec, PipelineSpec, Table

KINDS = ("feature", "dataset", "model", "pipeline", "test")
_METRICS = {"binary": "roc_auc, brier", "multiclass": "accuracy, log_loss", "regression": "mae, r2"}
_LINEAR = {"binary": "logistic_regression", "multiclass": "logistic_regression", "regression": "ridge"}


def new(root: Path, kind: str, name: str, *, python: bool = False) -> Path:
    """Add a piece to a project.

    Args:
        root: the folder that holds treadle.yml.
        kind: feature, dataset, model, pipeline or test.
        name: letters, digits and underscores.
        python: write a feature as a Python function.

    Returns:
        the file in which the piece stands. A new model joins the pipeline of its dataset; a new pipeline brings a model
        along.

    Raises:
        UsageError: TR101, a bad name; TR102, it is taken; TR603, the project lacks what the piece stands on.
    """
    if kind not in KINDS:
        suggestion = close_match(kind, KINDS) or ""
        raise UsageError(Problem("TR603", f'there is no kind "{kind}"', suggestion=suggestion, fix=f"take one of {', '.join(KINDS)}"))
    if python and kind != "feature":
        raise UsageError(Problem("TR603", f"a {kind} is not written in Python", fix="leave --python out"))
    project = read_project(root)
    _check_name(project, kind, name)
    write: Callable[[Project, str], dict[str, str]] = _python_feature if python else _WRITERS[kind]
    files = write(project, name)
    for path in files:
        if (root / path).exists() and path not in _edited(project):
            raise UsageError(Problem("TR603", f'"{path}" exists already', fix="take another name"))
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root / next(iter(files))
