"""Trainer parameters, checked at plan time against a table and without the library that trains.

The rules of a parameter are scikit-learn's own (`sklearn.utils._param_validation`), cut down to what YAML can
hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match
from treadle_runtime.training import trainers

_TYPES: dict[str, tuple[type, ...]] = {
    "none": (type(None),),
    "boolean": (bool,),
    "text": (str,),
    "list": (list, tuple),
    "mapping": (dict,),
}
_WORDS = {
    "none": "null",
    "boolean": "true or false",
    "text": "text",
    "list": "a list",
    "mapping": "a mapping",
}


@dataclass(frozen=True)
class ModelParameters:
    """What of a model is checked.

    Attributes:
        name: of the model.
        trainer: as the file gives it.
        task: binary, multiclass or regression.
        params: as the file gives them.
        where: where the model, or its trainer, is written.
        param_where: where single parameters are written; those absent are reported at `where`.
    """

    name: str
    trainer: str
    task: str
    params: Mapping[str, Any] = field(default_factory=dict)
    where: Location | None = None
    param_where: Mapping[str, Location] = field(default_factory=dict)


def check_models(models: Iterable[ModelParameters], *, cache: Path) -> list[Problem]:
    """Return what is wrong with the trainers and parameters of models, in the order of the models.

    Args:
        models: see there.
        cache: a folder of the project's own (`.treadle/cache`), where tables are kept.

    Returns:
        problems TR501 (trainer), TR502 (parameter), TR503 (value), TR508 (task) and TR510 (plugin).
    """
    problems: list[Problem] = []
    tables: dict[str, Mapping[str, Any]] = {}
    for model in models:
        try:
            problems += _check(model, cache, tables)
        except ProjectError as e:
            problems += [replace(problem, where=problem.where or model.where) for problem in e.problems]
    return problems


def _check(model: ModelParameters, cache: Path, tables: dict[str, Mapping[str, Any]]) -> list[Problem]:
    entry = trainers.find_trainer(model.trainer)
    if entry is None:
        known = _known_names(cache, tables)
        return [replace(trainers.unknown_trainer(model.trainer, known), where=model.where)]
    if entry.name not in tables:
        tables[entry.name] = entry.table(cache)
    table = tables[entry.name]
    by_task = table.get("aliases", {}).get(model.trainer)
    dotted = model.trainer if by_task is None else by_task.get(model.task, "")
    if not dotted:
        return [_wrong_task(model, f"it fits {' and '.join(by_task or ())} only", "")]
    rules = table["trainers"].get(dotted)
    if rules is None:
        return [replace(trainers.unknown_trainer(model.trainer, _names(table)), where=model.where)]
    return _check_task(model, rules, table) or _check_params(model, rules)


def _known_names(cache: Path, tables: dict[str, Mapping[str, Any]]) -> list[str]:
    names: list[str] = []
    for entry in trainers.registered():
        try:
            if entry.name not in tables:
                tables[entry.name] = entry.table(cache)
            names += _names(tables[entry.name])
        except ProjectError:  # its library is missing: it can be meant all the same
            names.append(entry.name)
    return names


def _names(table: Mapping[str, Any]) -> list[str]:
    return [*table.get("aliases", {}), *table["trainers"]]


def _check_task(model: ModelParameters, rules: Mapping[str, Any], table: Mapping[str, Any]) -> list[Problem]:
    if rules.get("refusal"):
        return [_wrong_task(model, rules["refusal"], rules.get("instead", ""))]
    if model.task not in rules["tasks"]:
        twin = _twin(rules["title"], model.task, table)
        return [_wrong_task(model, f"it fits {' and '.join(rules['tasks'])} only", twin)]
    for name, values in rules.get("only", {}).items():
        if name in model.params and model.params[name] not in values:
            allowed = " or ".join(map(str, values))
            return [
                _wrong_task(
                    model,
                    f"with {name}: {model.params[name]} it gives no probabilities",
                    f"{name}: {allowed}",
                )
            ]
    return []


def _twin(title: str, task: str, table: Mapping[str, Any]) -> str:
    """Return the trainer of the same kind that fits the task, such as the classifier beside a regressor."""
    wanted = (
        title.replace("Regressor", "Classifier") if task != "regression" else title.replace("Classifier", "Regressor")
    )
    for name, rules in table["trainers"].items():
        if rules["title"] == wanted and task in rules["tasks"]:
            return str(name)
    return ""


def _check_params(model: ModelParameters, rules: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name, value in model.params.items():
        where = model.param_where.get(name, model.where)
        if name in rules.get("set", {}):
            problems.append(
                Problem(
                    "TR502",
                    f'parameter "{name}" of trainer "{model.trainer}" is not set by the model\'s params',
                    where,
                    fix=rules["set"][name],
                )
            )
        elif name not in rules["parameters"]:
            problems.append(_no_such_parameter(model, name, rules, where))
        elif (wrong := explain(value, rules["parameters"][name])) is not None:
            problems.append(
                Problem(
                    "TR503",
                    f'parameter "{name}" of trainer "{model.trainer}" has a value that is not allowed',
                    where,
                    why=f"{name} must be {wrong}; got {_shown(value)}",
                    fix=f"correct {name} in the params of model {model.name}, or take it out for the default",
                )
            )
    return problems


def _no_such_parameter(model: ModelParameters, name: str, rules: Mapping[str, Any], where: Location | None) -> Problem:
    known = sorted(set(rules["parameters"]) - set(rules.get("set", {})))
    return Problem(
        "TR502",
        f'trainer "{model.trainer}" has no parameter "{name}"',
        where,
        why=f"{rules['title']} takes {', '.join(known) if known else 'no parameters'}",
        suggestion=close_match(name, known) or "",
        fix=f"rename it in the params of model {model.name}, or take it out",
    )


def _wrong_task(model: ModelParameters, why: str, instead: str) -> Problem:
    return Problem(
        "TR508",
        f'trainer "{model.trainer}" does not fit a {model.task} task',
        model.where,
        why=f"{why}; model {model.name} has task: {model.task}",
        fix=f"use {instead or 'another trainer, such as sklearn.hist_gradient_boosting'}",
    )


def explain(value: Any, constraints: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return what a value must be, in scikit-learn's words, or None when it is allowed.

    Args:
        value: as YAML gives it.
        constraints: of the table; one of them must hold; None allows anything.
    """
    if constraints is None or any(_holds(value, constraint) for constraint in constraints):
        return None
    texts = [_text(constraint) for constraint in constraints if not constraint.get("hidden")]
    shown = list(dict.fromkeys(text for text in texts if text))
    if not shown:
        return "left to its default: its other values cannot be written in YAML"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _holds(value: Any, constraint: Mapping[str, Any]) -> bool:
    kind = constraint["kind"]
    if kind == "interval":
        return _in_interval(value, constraint)
    if kind == "options":
        return any(type(value) is type(option) and value == option for option in constraint["values"])
    return isinstance(value, _TYPES.get(kind, ()))


def _in_interval(value: Any, constraint: Mapping[str, Any]) -> bool:
    """Return whether a number lies in an interval; as in scikit-learn, true is 1 and NaN lies in none."""
    kind = constraint["numbers"]
    if not isinstance(value, int if kind == "int" else float if kind == "float" else (int, float)):
        return False
    if isinstance(value, float) and math.isnan(value):
        return bool(kind == "any")
    left = -math.inf if constraint["left"] is None else constraint["left"]
    right = math.inf if constraint["right"] is None else constraint["right"]
    closed = constraint["closed"]
    above = value >= left if closed in ("left", "both") else value > left
    below = value <= right if closed in ("right", "both") else value < right
    return bool(above and below)


def _text(constraint: Mapping[str, Any]) -> str:
    if constraint["kind"] == "interval":
        return str(constraint["text"])
    if constraint["kind"] == "options":
        return f"one of {', '.join(map(str, constraint['shown']))}" if constraint["shown"] else ""
    return _WORDS.get(constraint["kind"], "")


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
