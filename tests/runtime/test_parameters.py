from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils._param_validation import InvalidParameterError, validate_parameter_constraints

from treadle.errors import Location, Problem
from treadle_runtime.training import table
from treadle_runtime.training.estimators import ALIASES, load_estimator
from treadle_runtime.training.parameters import ModelParameters, check_models, explain

MODEL = Location("models/arrivals.yml", 12, 5, "trainer: x")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    table.read_or_build(folder)
    return folder


def check(
    cache: Path, trainer: str, task: str = "binary", where: dict[str, Location] | None = None, **params: Any
) -> list[Problem]:
    model = ModelParameters("trees", trainer, task, params, MODEL, where or {})
    return check_models([model], cache=cache)


def texts(problems: list[Problem]) -> list[str]:
    return [problem.to_text() for problem in problems]


def test_right_parameters_pass(cache: Path) -> None:
    assert check(cache, "sklearn.hist_gradient_boosting", max_iter=150, learning_rate=0.1, max_depth=None) == []
    assert check(cache, "sklearn.ensemble.RandomForestClassifier", n_estimators=5, max_features="sqrt") == []
    assert check(cache, "sklearn.mlp", "regression", hidden_layer_sizes=[10, 5], alpha=0.001) == []


def test_unknown_trainer_has_a_close_match(cache: Path) -> None:
    assert texts(check(cache, "sklearn.hist_gradient_bosting")) == [
        (
            'error[TR501]: trainer "sklearn.hist_gradient_bosting" is not known\n'
            "  models/arrivals.yml:12:5   trainer: x\n"
            f"  the trainers of this installation are {families()}\n"
            "  did you mean: sklearn.hist_gradient_boosting\n"
            "  fix: name one of these, such as sklearn.hist_gradient_boosting, or install the plugin that brings it"
        )
    ]
    (problem,) = check(cache, "sklearn.ensemble.RandomForrestClassifier")
    assert problem.suggestion == "sklearn.ensemble.RandomForestClassifier"
    (problem,) = check(cache, "hist_gradient_boosting")
    assert problem.suggestion == "sklearn.hist_gradient_boosting"


def families() -> str:
    from treadle_runtime.training.trainers import registered

    return ", ".join(entry.name for entry in registered())


def test_unknown_parameter_has_a_close_match_and_its_own_place(cache: Path) -> None:
    place = Location("models/arrivals.yml", 14, 9, "max_itr: 5")
    assert texts(check(cache, "sklearn.lasso", "regression", {"max_itr": place}, max_itr=5)) == [
        (
            'error[TR502]: trainer "sklearn.lasso" has no parameter "max_itr"\n'
            "  models/arrivals.yml:14:9   max_itr: 5\n"
            "  Lasso takes alpha, copy_X, fit_intercept, max_iter, positive, precompute, random_state, selection, tol, "
            "warm_start\n"
            "  did you mean: max_iter\n"
            "  fix: rename it in the params of model trees, or take it out"
        )
    ]


def test_value_that_is_not_allowed_is_explained_in_the_words_of_the_library(cache: Path) -> None:
    assert texts(check(cache, "sklearn.hist_gradient_boosting", max_iter=-5)) == [
        (
            'error[TR503]: parameter "max_iter" of trainer "sklearn.hist_gradient_boosting" has a value that is not '
            "allowed\n"
            "  models/arrivals.yml:12:5   trainer: x\n"
            "  max_iter must be an int in the range [1, inf); got -5\n"
            "  fix: correct max_iter in the params of model trees, or take it out for the default"
        )
    ]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"max_iter": 2.5}, "max_iter must be an int in the range [1, inf); got 2.5"),
        ({"learning_rate": "fast"}, "learning_rate must be a float in the range (0.0, inf); got 'fast'"),
        ({"loss": "hinge"}, "loss must be one of log_loss; got 'hinge'"),
        ({"early_stopping": "yes"}, "early_stopping must be one of auto or true or false; got 'yes'"),
        ({"max_leaf_nodes": [3]}, "max_leaf_nodes must be an int in the range [2, inf) or null; got [3]"),
        ({"random_state": -1}, "random_state must be an int in the range [0, 4294967295] or null; got -1"),
    ],
)
def test_values_are_explained(params: dict[str, Any], why: str, cache: Path) -> None:
    (problem,) = check(cache, "sklearn.hist_gradient_boosting", **params)
    assert (problem.code, problem.why) == ("TR503", why)


@pytest.mark.parametrize(
    ("trainer", "task", "why", "fix"),
    [
        (
            "sklearn.ensemble.RandomForestRegressor",
            "binary",
            "it fits regression only",
            "use sklearn.ensemble.RandomForestClassifier",
        ),
        (
            "sklearn.svm.LinearSVC",
            "binary",
            "it gives no probabilities, and metrics and gates need them",
            "use sklearn.svc, or sklearn.logistic_regression for many rows",
        ),
        (
            "sklearn.ensemble.VotingClassifier",
            "multiclass",
            "it is built around another estimator, which a model's file cannot name",
            "use another trainer, such as sklearn.hist_gradient_boosting",
        ),
        (
            "sklearn.ridge",
            "binary",
            "it fits regression only",
            "use another trainer, such as sklearn.hist_gradient_boosting",
        ),
    ],
)
def test_trainer_that_does_not_fit_the_task(trainer: str, task: str, why: str, fix: str, cache: Path) -> None:
    assert texts(check(cache, trainer, task)) == [
        (
            f'error[TR508]: trainer "{trainer}" does not fit a {task} task\n'
            "  models/arrivals.yml:12:5   trainer: x\n"
            f"  {why}; model trees has task: {task}\n"
            f"  fix: {fix}"
        )
    ]


def test_loss_without_probabilities_does_not_fit(cache: Path) -> None:
    (problem,) = check(cache, "sklearn.sgd", loss="hinge")
    assert (problem.code, problem.fix) == ("TR508", "use loss: log_loss or modified_huber")
    assert check(cache, "sklearn.sgd", "regression", loss="squared_error") == []


def test_parameters_that_come_from_elsewhere_say_from_where(cache: Path) -> None:
    (problem,) = check(cache, "sklearn.random_forest", n_jobs=4)
    assert problem.to_text() == (
        'error[TR502]: parameter "n_jobs" of trainer "sklearn.random_forest" is not set by the model\'s params\n'
        "  models/arrivals.yml:12:5   trainer: x\n"
        "  fix: it comes from the model's `threads`: write threads: 2 beside params"
    )


def test_all_problems_of_all_models_are_reported(cache: Path) -> None:
    models = [
        ModelParameters("a", "sklearn.lasso", "regression", {"alpha": -1, "beta": 1}),
        ModelParameters("b", "nothing", "binary"),
    ]
    assert [problem.code for problem in check_models(models, cache=cache)] == ["TR503", "TR502", "TR501"]


def test_no_scikit_learn_is_imported_once_the_table_is_there(cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from treadle_runtime.training.parameters import *\n"
        "found = check_models([ModelParameters('m', 'sklearn.svc', 'binary', {'C': -1})], cache=Path(sys.argv[1]))\n"
        "print(found[0].why, 'sklearn' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(cache)], capture_output=True, text=True, check=True)
    assert done.stdout == "C must be a float in the range (0.0, inf]; got -1 False False\n"


def test_a_damaged_or_older_table_is_made_again(tmp_path: Path, cache: Path) -> None:
    (file,) = cache.iterdir()
    copy = tmp_path / file.name
    copy.with_name(f".{copy.name}.new").write_text("{")  # of a process that was killed while it wrote
    for content in ("{", "[]", json.dumps({"format": 0}), json.dumps({"format": 1, "version": "0.1"})):
        copy.write_text(content)
        assert table.read_or_build(tmp_path) == json.loads(file.read_text())
        assert copy.read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_every_alias_and_every_fitting_trainer_can_be_loaded(cache: Path) -> None:
    known = table.read_or_build(cache)
    for by_task in known["aliases"].values():
        for task, dotted in by_task.items():
            assert task in known["trainers"][dotted]["tasks"]
    assert set(known["aliases"]) == {f"sklearn.{name}" for name in ALIASES}
    for dotted, rules in known["trainers"].items():
        if rules["tasks"]:
            assert load_estimator(dotted, rules["tasks"][0]).__name__ == rules["title"]


TABLE = table.build("")["trainers"]
PARAMETERS = [
    (dotted, name) for dotted, rules in TABLE.items() if rules["tasks"] for name in sorted(rules["parameters"])
]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**32 - 1, 2**32, 255, 256]),
    st.floats(-2, 2),
    st.sampled_from([math.inf, -math.inf, math.nan, 0.0, 1.0]),
    st.sampled_from(["auto", "sqrt", "log2", "l1", "l2", "gini", "lbfgs", "nope", "", "balanced", "scale"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.integers(0, 1), st.integers(1, 2), max_size=2),
)


def sklearn_accepts(dotted: str, name: str, value: Any) -> bool:
    kind = load_estimator(dotted, TABLE[dotted]["tasks"][0])
    try:
        validate_parameter_constraints(kind._parameter_constraints, {name: value}, caller_name="x")
    except InvalidParameterError:
        return False
    return True


@settings(max_examples=1500)
@given(parameter=st.sampled_from(PARAMETERS), value=values)
def test_the_table_agrees_with_scikit_learn(parameter: tuple[str, str], value: Any) -> None:
    dotted, name = parameter
    ours = explain(value, TABLE[dotted]["parameters"][name]) is None
    assert ours == sklearn_accepts(dotted, name, value)


def test_every_option_of_every_parameter_is_known() -> None:
    for dotted, name in PARAMETERS:
        for constraint in TABLE[dotted]["parameters"][name] or ():
            for value in constraint.get("values", ()):
                assert sklearn_accepts(dotted, name, value)
                assert explain(value, TABLE[dotted]["parameters"][name]) is None
