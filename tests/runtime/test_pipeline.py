"""A pipeline from sources to a registered model: what a change re-runs and why, gates, tests, champions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from records import forget

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder
    from treadle_runtime.registry import ModelVersion

TAIL = {"churn.choose", "churn.validate", "churn.refit"}
AFTER_DATASET = {
    *("rows", "churn.split", "churn.baseline", "churn.linear.train", "churn.tree.train"),
    *("churn.linear.evaluate", "churn.tree.evaluate", "test:probabilities"),
    *TAIL,
}


# what a change re-runs


def test_second_build_runs_nothing_and_starts_no_worker(churn: ProjectFolder) -> None:
    done = churn.build()
    assert not done.of("built")
    assert set(done.statuses.values()) == {"reused"}
    assert not churn.reasons()
    stderr = churn.treadle("build").stderr
    assert stderr == ""  # no step, no line


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("features/orders.yml", "what a user spent so far", "another description"),
        ("features/spend.sql", "-- what a user spent so far", "-- another comment\n\n"),
        ("features/spend.sql", "select user, ts, sum", "SELECT user,\n  ts,\n  sum"),
        ("features/profile.py", 'return orders.group_by("user")', "# a comment\n    return orders.group_by('user')"),
        ("features/shares.py", "def large(amount):", 'def large(amount):\n    """Return the share."""'),
        (
            "pipelines/churn.yml",
            "    models: [linear, tree]",
            "    description: who leaves\n    models: [linear, tree]",
        ),
    ],
)
def test_cosmetic_change_runs_nothing(churn: ProjectFolder, path: str, old: str, new: str) -> None:
    churn.edit(path, old, new)
    assert churn.reasons() == {}
    assert not churn.build().of("built")


def test_changed_helper_reruns_its_feature_and_what_depends_on_it(churn: ProjectFolder) -> None:
    churn.edit("features/shares.py", "> 50", "> 40")
    reasons = churn.reasons()
    assert set(reasons) == {"profile"} | AFTER_DATASET
    assert reasons["profile"] == "code of features/shares.py:large changed"
    assert reasons["rows"] == "profile changed"
    assert churn.build().of("built") == set(reasons)


def test_changed_metric_reruns_from_evaluate_on(churn: ProjectFolder) -> None:
    churn.edit("pipelines/churn.yml", "[roc_auc, brier]", "[roc_auc, log_loss]")
    reasons = churn.reasons()
    expected = {"churn.linear.evaluate", "churn.tree.evaluate", "churn.baseline", "test:probabilities"} | TAIL
    assert set(reasons) == expected
    assert reasons["churn.linear.evaluate"] == 'metrics[1]: "brier" -> "log_loss"'
    assert churn.build().of("built") == expected


def test_changed_gate_reruns_validate_alone(churn: ProjectFolder) -> None:
    churn.edit("pipelines/churn.yml", "roc_auc >= 0.6", "roc_auc >= 0.61")
    reasons = churn.reasons()
    assert set(reasons) == {"churn.validate"}
    assert reasons["churn.validate"] == 'gates[0]: "roc_auc >= 0.6" -> "roc_auc >= 0.61"'
    assert churn.build().of("built") == {"churn.validate"}


def test_changed_model_leaves_the_other_alone(churn: ProjectFolder) -> None:
    churn.edit("models/churn.yml", "max_depth: 2", "max_depth: 3")
    reasons = churn.reasons()
    assert set(reasons) == {"churn.tree.train", "churn.tree.evaluate"} | TAIL
    assert reasons["churn.tree.train"] == "params.max_depth: 2 -> 3"


def test_changed_data_reruns_all_that_reads_it(churn: ProjectFolder) -> None:
    text = (churn.root / "data/orders.csv").read_text()
    churn.write("data/orders.csv", text.replace("\n7,u", "\n1007,u"))
    reasons = churn.reasons()
    assert reasons["orders"] == "its data changed"
    assert set(reasons) >= {"orders", "spend", "profile", "rows"}


def test_touched_source_runs_nothing(churn: ProjectFolder) -> None:
    (churn.root / "data/orders.csv").touch()
    assert churn.reasons() == {}


def test_reverted_change_is_built_before(churn: ProjectFolder) -> None:
    churn.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    churn.build("spend")
    churn.edit("features/spend.sql", "count(*) + 1 as n", "count(*) as n")
    assert churn.reasons() == {}
    assert not churn.build().of("built")


def test_version_without_a_record_is_recorded_when_it_is_reused(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        fingerprint = workspace.step("spend").fingerprint
        forget(workspace.state, [fingerprint])
    assert not churn.build().of("built")
    churn.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    assert churn.reasons()["spend"] == "code of features/spend.sql changed"


def test_full_refresh_computes_again_and_keeps_the_first_result(churn: ProjectFolder) -> None:
    before = churn.metas()
    done = churn.build("spend", tests="without", full_refresh=True)
    assert done.of("built") == {"spend"}
    assert churn.metas() == before


def test_as_of_reruns_from_split_on(churn: ProjectFolder) -> None:
    done = churn.build("+churn.split", as_of="2024-01-25T00:00:00+00:00", tests="without")
    assert done.of("built") == {"churn.split"}
    assert done.info("churn.split")["as_of"].startswith("2024-01-25")


# what is published


def test_build_publishes_a_candidate_and_documents(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        published = workspace.state.environment("dev")
        version = workspace.registry.version("churn", "candidate", env="dev")
        assert set(published) == set(workspace.graph.steps)
        assert (version.number, version.aliases) == (1, ("candidate",))
        assert set(version.metrics) == {"roc_auc", "brier"}
        assert workspace.store.read(version.shipped) is not None
        assert version.shipped == published["churn.refit"]
        assert version.twin == published[f"churn.{version.model}.train"]


def test_partial_build_publishes_what_it_built(make_project: MakeProject) -> None:
    project = make_project("churn")
    done = project.build("spend", tests="without")
    assert done.of("built") == {"orders", "spend"}
    with project.open() as workspace:
        assert set(workspace.state.environment("dev")) == {"orders", "spend"}


def test_step_that_left_the_project_leaves_the_environment(make_project: MakeProject) -> None:
    project = make_project("features", {"features/gone.sql": "select 1 as x"})
    project.build()
    (project.root / "features/gone.sql").unlink()
    project.build()
    with project.open() as workspace:
        assert "gone" not in workspace.state.environment("dev")


def test_refit_trains_on_all_rows_and_twin_on_none_of_the_test(churn: ProjectFolder) -> None:
    done = churn.build()
    counts = done.info("churn.split")["counts"]
    assert done.info("churn.linear.train")["rows"]["train"] == counts["train"]
    assert done.info("churn.refit")["rows"]["train"] == sum(counts.values())


def test_refit_takes_the_rows_that_only_a_boundary_left_out(churn: ProjectFolder) -> None:
    churn.edit("pipelines/churn.yml", "validation: 6d}", "validation: 6d, gap: 1d}")
    done = churn.build(as_of="2024-01-30T00:00:00+00:00", tests="without")
    split = done.info("churn.split")
    assert set(split["left_out"]) == {"after_as_of", "in_gap"}
    assert done.info("churn.refit")["rows"]["train"] == sum(split["counts"].values()) + split["left_out"]["in_gap"]


# gates


def test_red_gate_publishes_the_map_and_moves_no_alias(churn: ProjectFolder) -> None:
    churn.edit("pipelines/churn.yml", "roc_auc >= 0.6", "roc_auc >= 0.999")
    churn.edit("models/churn.yml", "max_depth: 2", "max_depth: 3")
    done = churn.build()
    assert done.of("skipped") == {"churn.refit"}
    assert not done.outcome.run.has_failed()
    assert done.outcome.run.is_rejected()
    assert done.outcome.published
    assert not done.outcome.candidates
    with churn.open() as workspace:
        assert workspace.state.environment("dev")["churn.validate"] == workspace.step("churn.validate").fingerprint
        versions = workspace.registry.versions("churn", env="dev")
        assert [(v.number, v.passed, v.aliases) for v in versions] == [(2, False, ()), (1, True, ("candidate",))]
        assert versions[0].shipped == versions[0].twin, "there is no refit of what its gates refuse"
        assert workspace.state.runs(1)[0].status == "rejected"
    assert done.outcome.rejected == {"churn": 2}
    churn.build()
    with churn.open() as workspace:
        assert len(workspace.registry.versions("churn", env="dev")) == 2, "the same again is no other version"
    printed = churn.treadle("models")
    assert "did not hold" in printed.stdout
    assert churn.treadle("models", "promote", "churn", "2", code=2).stderr.startswith("error[TR603]")
    churn.treadle("models", "promote", "churn", "2", "--force")
    assert "version 2 is the champion by force, although its gates did not hold" in churn.treadle("build").stdout
    churn.edit("models/churn.yml", "max_depth: 3", "max_depth: 4")
    churn.treadle("build", code=1)  # another model: nobody has decided on that


def test_red_gate_exits_1_new_and_cached(churn: ProjectFolder) -> None:
    churn.edit("pipelines/churn.yml", "roc_auc >= 0.6", "roc_auc >= 0.999")
    first = churn.treadle("build", code=1)
    assert "failed: roc_auc >= 0.999: " in first.stderr
    assert "the gates did not hold" in first.stdout
    again = churn.treadle("build", code=1)
    assert "[reused] validate churn" in again.stderr
    assert "failed: roc_auc >= 0.999: " in again.stderr
    assert "the candidate stays" in again.stdout
    assert churn.json("runs")[0]["status"] == "rejected"


def test_champion_is_compared_on_the_same_test_rows(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        workspace.registry.promote("churn", env="dev")
    assert churn.reasons() == {}  # its own verdict stands
    churn.edit("models/churn.yml", "columns: [amount]", "columns: []")
    done = churn.build()
    gate = done.info("churn.validate")["gates"][1]
    assert gate["status"] == "failed"  # without the amount there is little to learn
    assert gate["value"] < gate["bound"]
    assert done.outcome.run.is_rejected()
    churn.edit("models/churn.yml", "columns: []", "columns: [amount]")
    churn.edit(
        "models/churn.yml",
        "trainer: sklearn.logistic_regression}",
        "trainer: sklearn.logistic_regression, params: {C: 0.5}}",
    )
    done = churn.build()
    gate = done.info("churn.validate")["gates"][1]
    assert gate["status"] == "passed"
    assert done.outcome.candidates == {"churn": 3}, "the second was refused"
    with churn.open() as workspace:
        champion = workspace.registry.champion("churn", env="dev")
        assert champion is not None
        assert champion.number == 1
        candidate = workspace.registry.version("churn", "candidate", env="dev")
        assert candidate.champion_input == 1


def test_champion_that_trained_on_test_rows_fails_the_gate(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        workspace.registry.promote("churn", env="dev")
    churn.edit("pipelines/churn.yml", "test: last 9d", "test: last 16d")
    done = churn.build()
    gate = done.info("churn.validate")["gates"][1]
    assert gate["status"] == "failed"
    assert "trained on" in gate["why"]
    assert done.of("skipped") == {"churn.refit"}


IMPUTED = "trainer: sklearn.logistic_regression, preprocess: {impute: median}}"
TOTAL = "sum(sum(amount)) over (partition by user order by ts) as total"
SCALED = TOTAL.replace(" as total", " * -1000000 as total")


def test_champion_is_scored_on_its_own_features_when_they_are_redefined(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        champion = workspace.registry.promote("churn", env="dev")
    churn.edit("features/spend.sql", TOTAL, SCALED)
    gate = churn.build().info("churn.validate")["gates"][1]
    assert gate["bound"] == pytest.approx(_roc_auc(champion) - 0.05)


def test_champion_is_scored_on_new_rows_only_while_features_are_defined_alike(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        workspace.registry.promote("churn", env="dev")
    text = (churn.root / "data/orders.csv").read_text()
    rows = [f"{300 + i},u0{i},2024-01-31 0{i}:00:00,{90 - 80 * (i % 2)},{1 - i % 2}\n" for i in range(10)]
    churn.write("data/orders.csv", text + "".join(rows))
    gate = churn.build().info("churn.validate")["gates"][1]
    assert gate["status"] == "passed"
    churn.edit("features/spend.sql", TOTAL, SCALED)
    done = churn.build()
    gate = done.info("churn.validate")["gates"][1]
    assert gate["status"] == "failed"
    assert gate["why"] == (
        "the champion version 1 cannot be scored on the test rows: its features are defined differently now, "
        "and its own dataset lacks 10 of the test rows"
    )
    assert done.of("skipped") == {"churn.refit"}


def test_champion_that_cannot_be_scored_stops_no_successor(churn: ProjectFolder) -> None:
    """New rows lack a value, which the champion's model cannot take: its successor is told to fill it in."""
    churn.edit("models/churn.yml", "trainer: sklearn.logistic_regression}", IMPUTED.replace("median", "none"))
    assert churn.build().outcome.candidates == {"churn": 2}
    with churn.open() as workspace:
        workspace.registry.promote("churn", env="dev")
    text = (churn.root / "data/orders.csv").read_text()
    churn.write(
        "data/orders.csv", text + "".join(f"{300 + i},u0{i},2024-01-31 0{i}:00:00,,{i % 2}\n" for i in range(4))
    )
    churn.edit("models/churn.yml", "impute: none", "impute: median")
    first = churn.treadle("build", code=1)
    why = "the champion version 2 cannot be scored on the test rows: its model raised ValueError: Input X contains NaN."
    assert why in first.stderr
    assert first.stdout.endswith(
        "churn: version 3 is registered and not promoted: it could not be compared with the champion\n"
        "next: treadle models promote churn 3 --force\n"
    )
    assert churn.treadle("models", "promote", "churn", "3", "--force").stdout.startswith("churn: version 3 ")
    again = churn.treadle("build", code=0)
    assert again.stdout.endswith(
        "\nchurn: version 3 is the champion by force, although its gates did not hold\nnext: treadle show churn\n"
    ), "a person has decided: nothing is left to do"
    assert "so the candidate stays" not in again.stdout
    assert why in again.stderr, "the verdict stands as it was given"
    churn.treadle("models", "promote", "churn", "2")
    churn.treadle("build", code=1)
    churn.treadle("models", "promote", "churn", "3", "--force")
    churn.edit("models/churn.yml", "impute: median", "impute: mean")
    done = churn.build()
    assert done.info("churn.validate")["gates"][1]["status"] == "passed", "the new champion can be scored"
    assert done.outcome.candidates == {"churn": 4}


def test_champion_that_was_chosen_on_test_rows_fails_the_gate(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        workspace.registry.promote("churn", env="dev")
    churn.edit("pipelines/churn.yml", "test: last 9d", "test: last 12d")  # three days of the champion's validation
    gate = churn.build().info("churn.validate")["gates"][1]
    assert gate["status"] == "failed"
    assert "of the test rows" in gate["why"]


def _roc_auc(version: ModelVersion) -> float:
    value = version.metrics["roc_auc"]
    return float(value["value"] if isinstance(value, dict) else value)


def test_champion_whose_version_is_gone_is_an_error(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        twin = workspace.registry.promote("churn", env="dev").twin
        workspace.store.remove([twin])
    churn.edit("models/churn.yml", "columns: [amount]", "columns: []")
    done = churn.build()
    assert done.problems["churn.validate"].code == "TR807"
    assert not done.outcome.published


# tests


FAILING_TEST = {"tests/cheap.sql": "select id, amount from {{ ref('orders') }} where amount > 90"}


def test_failing_test_blocks_what_depends_on_the_table_and_the_publication(make_project: MakeProject) -> None:
    project = make_project("features", FAILING_TEST, {"features/other.sql": "select 1 as x"})
    done = project.build()
    assert done.statuses["test:cheap"] == "built"
    assert done.of("skipped") == {"spend"}
    assert done.statuses["other"] == "built"
    assert not done.outcome.published
    with project.open() as workspace:
        assert workspace.state.environment("dev") == {}
    result = project.treadle("build", code=1)
    assert "[reused] test     cheap" in result.stderr
    assert "failed: " in result.stderr
    assert "amount=9" in result.stderr
    assert "nothing was published" in result.stdout


def test_failing_test_of_severity_warn_blocks_nothing(make_project: MakeProject) -> None:
    warn = {"tests/cheap.sql": "{{ config(severity='warn') }}\n" + FAILING_TEST["tests/cheap.sql"]}
    project = make_project("features", warn)
    done = project.build()
    assert not done.of("skipped")
    assert done.info("test:cheap")["passed"] is False
    assert done.outcome.published
    assert "warning: " in project.treadle("build").stderr


def test_run_skips_tests_and_test_runs_only_them(make_project: MakeProject) -> None:
    project = make_project("features", FAILING_TEST)
    assert project.build(tests="without").of("built") == {"orders", "spend"}
    done = project.build(tests="only")
    assert done.of("built") == {"test:not_null_orders_id", "test:unique_orders_id", "test:cheap"}
    assert done.outcome.run.has_failed()
