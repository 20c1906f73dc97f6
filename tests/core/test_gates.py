"""Gates and metrics: the grammar, its canonical form, its errors, and what holds."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import Location, Problem
from treadle.gates import Gate, GateError, Term, check_gate, is_better, parse_gate
from treadle.metrics import METRICS, Metric, metric

CANONICAL = [
    ("roc_auc >= 0.75", "roc_auc >= 0.75"),
    ("roc_auc>=.750", "roc_auc >= 0.75"),
    ("mae <= 20.0", "mae <= 20"),
    ("mae < 2e1", "mae < 20"),
    ("roc_auc  >=\n champion . roc_auc-0.002", "roc_auc >= champion.roc_auc - 0.002"),
    ("roc_auc >= -0.002 + champion.roc_auc", "roc_auc >= champion.roc_auc - 0.002"),
    ("roc_auc >= 0.05 + baseline.roc_auc", "roc_auc >= baseline.roc_auc + 0.05"),
    ("mae <= 1.05*champion.mae", "mae <= champion.mae * 1.05"),
    ("mae <= champion.mae * 1.05", "mae <= champion.mae * 1.05"),
    ("slice( carrier ).roc_auc >= 0.6", "slice(carrier).roc_auc >= 0.6"),
    ("r2 > 0.5 * champion.r2 + 0.5 * baseline.r2", "r2 > champion.r2 * 0.5 + baseline.r2 * 0.5"),
    ("r2 > -champion.r2 * 2", "r2 > -champion.r2 * 2"),
    ("r2 > -0.5", "r2 > -0.5"),
    ("r2 > 0", "r2 > 0"),
    ("r2 > champion.r2 - champion.r2", "r2 > 0"),
    ("slice >= 1", "slice >= 1"),
]


@pytest.mark.parametrize(("text", "canonical"), CANONICAL)
def test_gate_has_one_canonical_text(text: str, canonical: str) -> None:
    gate = parse_gate(text)

    assert gate.text == canonical
    assert parse_gate(gate.text) == gate


ERRORS = [
    ("", 1, "expected a metric, as in roc_auc >= 0.75, found the end"),
    ("roc_auc", 8, "expected >=, <=, > or <, found the end"),
    ("roc_auc = 0.7", 9, "'=' has no meaning in a gate"),
    ("roc_auc >= ", 12, "expected a number, champion.roc_auc or baseline.roc_auc, found the end"),
    ("0.7 <= roc_auc", 1, "expected a metric, as in roc_auc >= 0.75, found 0.7"),
    ("roc_auc >= champ.roc_auc", 12, "champ is neither champion nor baseline; did you mean champion"),
    ("roc_auc >= 0.7 0.8", 16, "expected +, - or the end, found 0.8"),
    ("roc_auc >= champion", 20, "expected ., found the end"),
    ("roc_auc >= champion.mae", 21, "compare roc_auc with champion.roc_auc, not with mae"),
    ("mae <= champion.mae * baseline.mae", 23, "a champion cannot be multiplied by a baseline"),
    ("slice(carrier) roc_auc >= 1", 16, "expected ., found roc_auc"),
    ("slice(3).roc_auc >= 1", 7, "expected a column, found 3"),
    ("mae <= 1e999", 8, "the number is too large"),
]


@pytest.mark.parametrize(("text", "position", "reason"), ERRORS)
def test_gate_error_tells_reason_and_position(text: str, position: int, reason: str) -> None:
    with pytest.raises(GateError) as caught:
        parse_gate(text)

    assert (caught.value.position, caught.value.reason) == (position, reason)
    assert isinstance(caught.value, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == f"column {position}: {reason}"


def test_gate_parts() -> None:
    gate = parse_gate("slice(carrier).mae <= champion.mae * 1.05 - 2")

    assert gate == Gate(
        "slice(carrier).mae <= champion.mae * 1.05 - 2",
        "mae",
        "carrier",
        "<=",
        (Term(1.05, "champion"), Term(-2.0)),
    )
    assert gate.needs_champion
    assert not gate.needs_baseline
    assert not gate.wants_more


def test_gate_holds_against_numbers_champion_and_baseline() -> None:
    assert parse_gate("roc_auc >= 0.75").holds(0.75)
    assert not parse_gate("roc_auc > 0.75").holds(0.75)
    assert parse_gate("roc_auc >= champion.roc_auc - 0.002").holds(0.749, champion=0.75)
    assert not parse_gate("roc_auc >= champion.roc_auc - 0.002").holds(0.747, champion=0.75)
    assert parse_gate("mae <= champion.mae * 1.05").holds(10.4, champion=10.0)
    assert parse_gate("mae < baseline.mae").holds(9.0, baseline=10.0)
    assert not parse_gate("mae < baseline.mae").holds(10.0, baseline=10.0)


@pytest.mark.parametrize("value", [None, float("nan")])
def test_undefined_value_meets_no_gate(value: float | None) -> None:
    assert not parse_gate("roc_auc >= 0").holds(value)
    assert not parse_gate("mae <= 1e9").holds(value)


def test_gate_without_its_champion_raises() -> None:
    with pytest.raises(ValueError, match="the champion has no mae"):
        parse_gate("mae <= champion.mae").holds(1.0, baseline=2.0)


_NUMBER = st.floats(-1e6, 1e6, allow_nan=False)


@given(
    a=_NUMBER,
    b=_NUMBER,
    c=_NUMBER,
    op=st.sampled_from([">=", "<=", ">", "<"]),
    space=st.sampled_from(["", " "]),
)
def test_any_linear_gate_reads_back_as_itself(a: float, b: float, c: float, op: str, space: str) -> None:
    products = [f"{a!r}{space}*{space}champion.r2", f"baseline.r2{space}*{space}{b!r}", repr(c)]
    gate = parse_gate(f"r2{space}{op}{space}" + f"{space}+{space}".join(products))

    assert parse_gate(gate.text) == gate
    assert gate.bound(champion=3.0, baseline=-2.0) == a * 3.0 + b * -2.0 + c


@given(st.text(max_size=40))
def test_any_text_parses_or_raises_a_gate_error(text: str) -> None:
    try:
        gate = parse_gate(text)
    except GateError as error:
        position = error.position
    else:
        position = 1
        assert parse_gate(gate.text) == gate
    assert 1 <= position <= len(text) + 1


def test_check_gate_accepts_what_is_computed() -> None:
    gate = parse_gate("slice(carrier).roc_auc >= 0.6")

    assert check_gate(gate, task="binary", metrics=["roc_auc"], slices=["carrier"]) is None


def test_check_gate_names_what_is_not_computed() -> None:
    where = Location("pipelines/arrivals.yml", 7, text='gates: ["..."]')

    unknown = check_gate(parse_gate("rocauc >= 1"), task="binary", metrics=["roc_auc"], slices=[], where=where)
    absent = check_gate(parse_gate("brier <= 1"), task="binary", metrics=["roc_auc"], slices=[], where=where)
    sliced = check_gate(parse_gate("slice(b).brier < 1"), task="binary", metrics=["brier"], slices=[], where=where)

    assert unknown is not None
    assert (unknown.code, unknown.suggestion) == ("TR504", "roc_auc")
    assert absent is not None
    assert absent.to_text() == (
        'error[TR504]: gate "brier <= 1" is on a metric that is not computed\n'
        '  pipelines/arrivals.yml:7   gates: ["..."]\n'
        "  evaluate computes roc_auc\n"
        "  fix: add brier to the pipeline's `evaluate: {metrics: [...]}`"
    )
    assert sliced is not None
    assert sliced.to_text() == (
        'error[TR509]: gate "slice(b).brier < 1" is on a slice that is not computed\n'
        '  pipelines/arrivals.yml:7   gates: ["..."]\n'
        "  evaluate slices by no column\n"
        "  fix: add b to the pipeline's `evaluate: {slices: [...]}`"
    )


def test_metric_is_found_by_name_and_task() -> None:
    found = metric("mae", "regression")

    assert isinstance(found, Metric)
    assert (found.higher_is_better, found.needs, found.unit) == (False, "value", "label")
    assert all(name == known.name for name, known in METRICS.items())


def test_unknown_metric_problem_has_full_text() -> None:
    found = metric("roc_acu", "multiclass", where=Location("pipelines/a.yml", 3))

    assert isinstance(found, Problem)
    assert found.to_text() == (
        'error[TR504]: metric "roc_acu" is not known\n'
        "  pipelines/a.yml:3\n"
        "  the task is multiclass\n"
        "  did you mean: roc_auc\n"
        "  fix: take one of roc_auc, log_loss, accuracy, balanced_accuracy, f1"
    )


def test_metric_of_another_task_problem_has_full_text() -> None:
    found = metric("roc_auc", "regression")

    assert isinstance(found, Problem)
    assert found.to_text() == (
        'error[TR504]: metric "roc_auc" does not measure the task\n'
        "  roc_auc measures binary and multiclass, the task is regression\n"
        "  fix: take one of mae, rmse, median_absolute_error, mape, r2"
    )


def test_is_better_follows_the_metric_and_puts_undefined_last() -> None:
    up, down, nan = METRICS["roc_auc"], METRICS["mae"], float("nan")

    assert is_better(0.8, 0.7, up)
    assert not is_better(0.7, 0.7, up)
    assert is_better(1.0, 2.0, down)
    assert is_better(0.0, None, up)
    assert is_better(5.0, nan, down)
    assert not is_better(None, nan, up)
    assert not is_better(nan, 0.1, up)
