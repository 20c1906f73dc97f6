"""A project's own stages: after a stage of a pipeline, or in the place of one."""

from __future__ import annotations

import pytest

from treadle.errors import ProjectError

AFTER = """\
import polars as pl
from treadle import stage


@stage(pipeline="churn", after="evaluate")
def error_by_day(tree: pl.LazyFrame) -> pl.LazyFrame:
    error = (pl.col("label") - pl.col("prediction")).abs().mean()
    return tree.group_by(day=pl.col("predicted_at").dt.day()).agg(error=error)
"""
CHOOSE = """\
import polars as pl
from treadle import stage


@stage(pipeline="churn", replaces="choose")
def simplest(linear: pl.DataFrame, tree: pl.DataFrame) -> str:
    return "tree" if linear.height == tree.height else "linear"
"""
SPLIT = """\
import polars as pl
from treadle import stage


@stage(pipeline="churn", replaces="split")
def by_parity(rows: pl.LazyFrame) -> pl.LazyFrame:
    part = pl.when(pl.col("id") % 3 == 0).then(pl.lit("test")).when(pl.col("id") % 3 == 1).then(pl.lit("validation"))
    return rows.filter(pl.col("id") < 200).select("id", part=part.otherwise(pl.lit("train")))
"""


def test_stage_after_evaluate_gives_a_table_of_its_own(churn):
    churn.write("pipelines/own.py", AFTER)
    done = churn.build()
    assert done.of("built") == {"churn.error_by_day"}
    with churn.open() as workspace:
        table = workspace.step("churn.error_by_day").table()
    assert table.column_names == ["day", "error"]
    assert table.num_rows > 5
    assert churn.build().of("built") == set()


def test_changed_stage_runs_itself_and_nothing_else(churn):
    churn.write("pipelines/own.py", AFTER)
    churn.build()
    churn.edit("pipelines/own.py", ".abs().mean()", ".abs().max()")
    assert set(churn.reasons()) == {"churn.error_by_day"}


def test_own_choose_decides_the_candidate(churn):
    churn.write("pipelines/own.py", CHOOSE)
    done = churn.build()
    assert done.info("churn.choose")["chosen"] == "tree"
    assert done.info("churn.refit")["model"] == "tree"
    assert done.of("built") == {"churn.choose", "churn.validate", "churn.refit"}


def test_own_choose_of_no_model_is_an_error(churn):
    churn.write("pipelines/own.py", CHOOSE.replace('"tree" if', '"trees" if'))
    problem = churn.build().problems["churn.choose"]
    assert problem.to_text() == (
        'error[TR714]: stage "simplest" chose no model\n'
        "  pipelines/own.py:6\n"
        "  it returned 'trees'; the models are linear, tree\n"
        "  fix: return one of these names"
    )


def test_own_split_gives_the_parts_and_leaves_out_the_rest(churn):
    churn.write("pipelines/own.py", SPLIT)
    info = churn.build().info("churn.split")
    assert info["counts"] == {"train": 66, "validation": 67, "test": 67}


@pytest.mark.parametrize(
    ("old", "new", "code", "why"),
    [
        ('"test"', '"tset"', "TR714", "it returned 'tset'; a part is train, validation or test"),
        ('"id", part', '"ts", part', "TR706", "its columns are"),
        ("< 200", "< 0", "TR707", "no row of the dataset was given to train, validation, test"),
    ],
    ids=["unknown part", "no key", "nothing"],
)
def test_own_split_that_is_none_is_an_error(churn, old, new, code, why):
    churn.write("pipelines/own.py", SPLIT.replace(old, new).replace('"ts", part', '"amount", part'))
    problem = churn.build().problems["churn.split"]
    assert problem.code == code
    assert why in problem.why


@pytest.mark.parametrize(
    ("old", "new", "code", "what"),
    [
        ('pipeline="churn"', 'pipeline="chrun"', "TR104", 'pipeline "chrun" is not defined'),
        ('after="evaluate"', 'after="evaluation"', "TR004", '"after" of stage "error_by_day" names no stage'),
        ('after="evaluate"', 'replaces="train"', "TR004", '"replaces" of stage "error_by_day" names no stage'),
        (', after="evaluate"', "", "TR004", 'stage "error_by_day" takes pipeline, and either after or replaces'),
        ("tree: pl", "trees: pl", "TR104", 'table "trees" is not defined'),
    ],
    ids=["pipeline", "after", "replaces", "neither", "parameter"],
)
def test_wrong_stage_is_a_compile_error(churn, old, new, code, what):
    churn.write("pipelines/own.py", AFTER.replace(old, new))
    with pytest.raises(ProjectError) as raised:
        churn.plan()
    assert [(problem.code, problem.what) for problem in raised.value.problems] == [(code, what)]


def test_own_split_leaves_out_what_as_of_does_not_know_and_the_refit_too(churn):
    churn.write("pipelines/own.py", SPLIT)
    done = churn.build(as_of="2024-01-15T00:00:00+00:00", tests="without")
    info = done.info("churn.split")
    kept = sum(info["counts"].values())
    assert info["as_of"] == "2024-01-15T00:00:00Z"
    assert 135 <= kept <= 141  # ten rows a day, of which the function gave parts to 200
    assert info["left_out"] == {"after_as_of": 200 - kept, "not_given": 100}
    if "churn.refit" not in done.of("skipped"):
        assert done.info("churn.refit")["rows"]["train"] == kept


def test_refit_takes_no_row_that_an_own_split_left_out(churn):
    churn.write("pipelines/own.py", SPLIT)
    churn.edit("pipelines/churn.yml", 'gates: ["roc_auc >= 0.6", "roc_auc >= champion.roc_auc - 0.05"]', "gates: []")
    assert churn.build().info("churn.refit")["rows"]["train"] == 200


def test_own_split_whose_part_is_all_after_as_of_is_an_error(churn):
    rule = 'part=pl.when(pl.col("id") < 50).then(pl.lit("train")).when(pl.col("id") < 100)'
    rule += '.then(pl.lit("validation")).otherwise(pl.lit("test"))'
    churn.write("pipelines/own.py", SPLIT.replace('part=part.otherwise(pl.lit("train"))', rule))
    problem = churn.build(as_of="2024-01-08T00:00:00+00:00", tests="without").problems["churn.split"]
    assert problem.code == "TR707"
    assert "every row that was given to test is left out" in problem.why
    assert "the moment of prediction is after as_of: " in problem.why
