"""scikit-learn's estimators by name: the short names, the dotted ones, and what each needs of its rows.

A dotted name is checked against the public modules before anything is imported, so that no name in a model's
file can import what is not a public estimator of scikit-learn. Importing this module imports no scikit-learn.
"""

from __future__ import annotations

import importlib
import re
from typing import Any, Literal

from treadle.errors import Problem, ProjectError

PREFIX = "sklearn."
CLASSIFICATION = ("binary", "multiclass")

Needs = Literal["native", "trees", "counts", "scaled"]

# short name -> (classifier, regressor), each below `sklearn.`
ALIASES: dict[str, tuple[str, str]] = {
    "ada_boost": ("ensemble.AdaBoostClassifier", "ensemble.AdaBoostRegressor"),
    "bagging": ("ensemble.BaggingClassifier", "ensemble.BaggingRegressor"),
    "bayesian_ridge": ("", "linear_model.BayesianRidge"),
    "bernoulli_nb": ("naive_bayes.BernoulliNB", ""),
    "decision_tree": ("tree.DecisionTreeClassifier", "tree.DecisionTreeRegressor"),
    "dummy": ("dummy.DummyClassifier", "dummy.DummyRegressor"),
    "elastic_net": ("", "linear_model.ElasticNet"),
    "extra_trees": ("ensemble.ExtraTreesClassifier", "ensemble.ExtraTreesRegressor"),
    "gamma": ("", "linear_model.GammaRegressor"),
    "gaussian_nb": ("naive_bayes.GaussianNB", ""),
    "gaussian_process": (
        "gaussian_process.GaussianProcessClassifier",
        "gaussian_process.GaussianProcessRegressor",
    ),
    "gradient_boosting": ("ensemble.GradientBoostingClassifier", "ensemble.GradientBoostingRegressor"),
    "hist_gradient_boosting": (
        "ensemble.HistGradientBoostingClassifier",
        "ensemble.HistGradientBoostingRegressor",
    ),
    "huber": ("", "linear_model.HuberRegressor"),
    "k_neighbors": ("neighbors.KNeighborsClassifier", "neighbors.KNeighborsRegressor"),
    "lasso": ("", "linear_model.Lasso"),
    "linear_discriminant_analysis": ("discriminant_analysis.LinearDiscriminantAnalysis", ""),
    "linear_regression": ("", "linear_model.LinearRegression"),
    "linear_svr": ("", "svm.LinearSVR"),
    "logistic_regression": ("linear_model.LogisticRegression", ""),
    "mlp": ("neural_network.MLPClassifier", "neural_network.MLPRegressor"),
    "poisson": ("", "linear_model.PoissonRegressor"),
    "quadratic_discriminant_analysis": ("discriminant_analysis.QuadraticDiscriminantAnalysis", ""),
    "quantile": ("", "linear_model.QuantileRegressor"),
    "random_forest": ("ensemble.RandomForestClassifier", "ensemble.RandomForestRegressor"),
    "ridge": ("", "linear_model.Ridge"),
    "sgd": ("linear_model.SGDClassifier", "linear_model.SGDRegressor"),
    "svc": ("svm.SVC", ""),
    "svr": ("", "svm.SVR"),
    "tweedie": ("", "linear_model.TweedieRegressor"),
}

# What Treadle sets where a model's file says nothing. Boosting would hold out a random share of the training
# rows.
DEFAULTS: dict[str, dict[str, Any]] = {
    "HistGradientBoostingClassifier": {"early_stopping": False},
    "HistGradientBoostingRegressor": {"early_stopping": False},
    "SGDClassifier": {"loss": "log_loss"},
}

# Classifiers with decision values only, whose probabilities come from a calibration over folds of the
# training rows.
CALIBRATED = frozenset({"SVC", "NuSVC"})

# They take n_jobs, and say that it does nothing.
NO_JOBS = frozenset({"LogisticRegression"})

_NATIVE = frozenset({"HistGradientBoostingClassifier", "HistGradientBoostingRegressor"})
_COUNTS = frozenset({"MultinomialNB", "ComplementNB"})
_TREES = re.compile(
    r"(DecisionTree|ExtraTree|ExtraTrees|RandomForest|GradientBoosting|AdaBoost|Bagging)(Classifier|Regressor)"
)
_DOTTED = re.compile(r"sklearn\.([a-z][a-z_]*)\.([A-Z][A-Za-z]*)")
_MODULES = frozenset(
    [
        "calibration",
        "cross_decomposition",
        "discriminant_analysis",
        "dummy",
        "ensemble",
        "gaussian_process",
        "isotonic",
        "kernel_ridge",
        "linear_model",
        "naive_bayes",
        "neighbors",
        "neural_network",
        "semi_supervised",
        "svm",
        "tree",
    ]
)


def resolve(name: str, task: str) -> str:
    """Return the dotted name behind a short name, or `name`; empty where the short name has none for the
    task."""
    pair = ALIASES.get(name.removeprefix(PREFIX))
    if pair is None:
        return name
    found = pair[0] if task in CLASSIFICATION else pair[1]
    return PREFIX + found if found else ""


def needs_of(class_name: str) -> Needs:
    """Return what an estimator needs of its rows.

    `native` reads missing values and categories itself, `trees` need no scaling, `counts` take nothing below
    zero.
    """
    if class_name in _NATIVE:
        return "native"
    if class_name in _COUNTS:
        return "counts"
    return "trees" if _TREES.fullmatch(class_name) else "scaled"


def load_estimator(name: str, task: str) -> type[Any]:
    """Return the class of an estimator; imports the part of scikit-learn that it stands in.

    Raises:
        ProjectError: TR501, no public estimator has this name.
    """
    match = _DOTTED.fullmatch(resolve(name, task))
    if match is not None and match[1] in _MODULES:
        from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

        found = getattr(importlib.import_module(f"sklearn.{match[1]}"), match[2], None)
        kinds = (ClassifierMixin, RegressorMixin)
        if isinstance(found, type) and issubclass(found, BaseEstimator) and issubclass(found, kinds):
            return found
    raise ProjectError(
        Problem(
            "TR501",
            f'trainer "{name}" is not known',
            why=f"scikit-learn has no public estimator of this name for a {task} task",
            fix="name one of scikit-learn's estimators, such as sklearn.hist_gradient_boosting",
        )
    )
