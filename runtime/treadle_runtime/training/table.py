"""The table of scikit-learn's parameters: made once per version, read without importing scikit-learn.

    {"format", "version",
     "aliases": {short name: {task: dotted name}},
     "trainers": {dotted name: {
         "title":      the class name,
         "tasks":      those it fits,
         "refusal":    why it fits none of the others, "instead": what does,
         "only":       {parameter: [values]} without which it gives no probabilities,
         "set":        {parameter: where its value comes from}, for those that a model may not give,
         "parameters": {name: [constraint, ...] or null for anything}}}}

A constraint is {"kind": none | boolean | text | list | mapping | interval | options, ...}; see
`parameters`. What a YAML file cannot hold (functions, estimators, matrices) is {"kind": "object"}. Plugins
give the same form.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from treadle.replacing import replace_file
from treadle_runtime.training import estimators

FORMAT = 1

_SET = {
    "n_jobs": "it comes from the model's `threads`: write threads: 2 beside params",
    "categorical_features": "text columns are categories: cast a column to text to make it one",
    "probability": "probabilities are always given, calibrated over folds of the training rows",
}
_INSTEAD = {
    "LinearSVC": "sklearn.svc, or sklearn.logistic_regression for many rows",
    "RidgeClassifier": "sklearn.logistic_regression",
    "RidgeClassifierCV": "sklearn.linear_model.LogisticRegressionCV",
    "Perceptron": "sklearn.sgd with loss: modified_huber",
    "PassiveAggressiveClassifier": "sklearn.sgd with loss: modified_huber",
}
_WRAPPERS = frozenset({"SelfTrainingClassifier", "TransformedTargetRegressor"})
_ONLY = {"SGDClassifier": {"loss": ["log_loss", "modified_huber"]}}


def read_or_build(cache: Path) -> Mapping[str, Any]:
    """Return the table of the installed scikit-learn, from `cache` or made now."""
    version = importlib.metadata.version("scikit-learn")
    file = cache / f"sklearn-{version}.json"
    try:
        found = json.loads(file.read_text("utf-8"))
        if isinstance(found, dict) and found.get("format") == FORMAT and found.get("version") == version:
            return found
    except (OSError, ValueError):
        pass
    made = build(version)
    with suppress(OSError):  # it is a cache: on a full or read-only disk the next command makes it anew
        replace_file(file, json.dumps(made, sort_keys=True).encode())
    return made


def build(version: str) -> dict[str, Any]:
    """Return the table; imports all of scikit-learn."""
    from sklearn.utils.discovery import all_estimators

    trainers = {}
    for name, found in all_estimators(type_filter=["classifier", "regressor"]):
        trainers[f"{_public_module(found)}.{name}"] = _describe(found)
    return {"format": FORMAT, "version": version, "aliases": _aliases(), "trainers": trainers}


def _aliases() -> dict[str, dict[str, str]]:
    tasks = (*estimators.CLASSIFICATION, "regression")
    found = {name: {task: estimators.resolve(name, task) for task in tasks} for name in estimators.ALIASES}
    return {
        estimators.PREFIX + name: {task: dotted for task, dotted in by_task.items() if dotted}
        for name, by_task in found.items()
    }


def _public_module(found: type[Any]) -> str:
    parts = found.__module__.split(".")
    private = next((i for i, part in enumerate(parts) if part.startswith("_")), len(parts))
    return ".".join(parts[:private])


def _describe(found: type[Any]) -> dict[str, Any]:
    name = found.__name__
    signature = [p for p in inspect.signature(found).parameters.values() if p.kind != p.VAR_KEYWORD]
    constraints = getattr(found, "_parameter_constraints", {})
    refusal = _refusal(found, [p.name for p in signature if p.default is p.empty])
    native = estimators.needs_of(name) == "native"
    set_elsewhere = {p.name: _SET[p.name] for p in signature if p.name in _SET}
    if not native:
        set_elsewhere.pop("categorical_features", None)
    return {
        "title": name,
        "tasks": [] if refusal else _tasks(found),
        "refusal": refusal,
        "instead": _INSTEAD.get(name, ""),
        "only": _ONLY.get(name, {}),
        "set": set_elsewhere,
        "parameters": {p.name: _constraints(constraints.get(p.name, "no_validation")) for p in signature},
    }


def _tasks(found: type[Any]) -> list[str]:
    from sklearn.base import ClassifierMixin

    return list(estimators.CLASSIFICATION) if issubclass(found, ClassifierMixin) else ["regression"]


def _refusal(found: type[Any], required: list[str]) -> str:
    from sklearn.base import ClassifierMixin

    if required or found.__name__ in _WRAPPERS:
        return "it is built around another estimator, which a model's file cannot name"
    if found.__name__ == "CategoricalNB":
        return "it cannot predict rows with a category that training never saw"
    if found.__name__.startswith("MultiTask") or found.__name__ in ("CCA", "PLSCanonical"):
        return "it predicts several labels at once, and a model has one"
    probabilities = hasattr(found, "predict_proba") or found.__name__ in estimators.CALIBRATED
    if issubclass(found, ClassifierMixin) and not probabilities:
        return "it gives no probabilities, and metrics and gates need them"
    return ""


def _constraints(constraints: Any) -> list[dict[str, Any]] | None:
    from sklearn.utils._param_validation import make_constraint

    if isinstance(constraints, str):  # "no_validation"
        return None
    made = [make_constraint(constraint) for constraint in constraints]
    found: list[dict[str, Any]] = []
    for constraint in made:
        for part in _parts(constraint):
            found += [one | {"hidden": True} if constraint.hidden else one for one in _one(part)]
    return found


def _parts(constraint: Any) -> list[Any]:
    """Take apart scikit-learn's constraints that stand for several."""
    return list(getattr(constraint, "_constraints", [constraint]))


def _one(constraint: Any) -> list[dict[str, Any]]:
    from sklearn.utils import _param_validation as validation

    kind = type(constraint)
    if kind is validation._NoneConstraint:
        return [{"kind": "none"}]
    if kind is validation.Interval:
        return [_interval(constraint, validation)]
    if issubclass(kind, validation.Options):
        return _options(constraint)
    if kind is validation._ArrayLikes:
        return [{"kind": "list"}, {"kind": "mapping", "hidden": True}]
    if kind is validation._IterablesNotString:
        return [{"kind": "list"}, {"kind": "mapping", "hidden": True}]
    if kind is validation._InstancesOf:
        return [_instance(constraint.type)]
    return [{"kind": "object"}]


def _interval(constraint: Any, validation: Any) -> dict[str, Any]:
    from numbers import Integral

    numbers = {Integral: "int", validation.RealNotInt: "float"}.get(constraint.type, "real")
    bounds = [None if bound is None else _plain(bound) for bound in (constraint.left, constraint.right)]
    return {
        "kind": "interval",
        "numbers": numbers,
        "left": bounds[0],
        "right": bounds[1],
        "closed": constraint.closed,
        "text": str(constraint),
    }


def _options(constraint: Any) -> list[dict[str, Any]]:
    usable = [value for value in constraint.options if isinstance(value, (str, bool, int, float))]
    if not usable:
        return [{"kind": "object"}]
    shown = sorted((v for v in usable if v not in constraint.deprecated), key=str)
    return [{"kind": "options", "values": sorted(usable, key=str), "shown": shown}]


def _instance(kind: type[Any]) -> dict[str, Any]:
    from collections.abc import MutableMapping
    from numbers import Integral, Real

    names = {str: "text", bool: "boolean", list: "list", dict: "mapping", MutableMapping: "mapping"}
    if kind in (Integral, Real):
        text = "an int" if kind is Integral else "a number"
        whole = "int" if kind is Integral else "any"
        return {
            "kind": "interval",
            "numbers": whole,
            "left": None,
            "right": None,
            "closed": "both",
            "text": text,
        }
    return {"kind": names.get(kind, "object")}


def _plain(value: Any) -> float | int:
    return int(value) if isinstance(value, int) else float(value)
