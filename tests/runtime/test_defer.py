"""`--defer ENV`: work on one step, and read what it stands on from another environment instead of building it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pytest

from treadle_runtime.state import State

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

FILES = {
    "treadle.yml": "name: shop\nenvironments: {production: {}}\n",
    "features/recent.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('spend') }} where n > 0",
    "features/top.sql": "select user, max(total) as top from {{ ref('recent') }} group by user",
}
OF_ORDERS = ("test:not_null_orders_id", "test:unique_orders_id")


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    """A chain orders -> spend -> recent (a view) -> top, built in production; by now `spend` and `top` have changed."""
    found = make_project("features", FILES)
    found.build()
    found.treadle("env", "promote", "dev", "production", "--yes")
    found.treadle("env", "drop", "dev", "--yes")
    found.edit("features/spend.sql", "sum(sum(amount))", "1e6 + sum(sum(amount))")
    found.edit("features/top.sql", "max(total)", "-max(total)")
    return found


def published(project: ProjectFolder, env: str) -> dict[str, str]:
    with State(project.root / ".treadle/state.db") as state:
        return state.environment(env)


def top(project: ProjectFolder) -> float:
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        [(least,)] = con.execute("select max(top)::double from top").fetchall()
        assert isinstance(least, float)
        return least


def test_unbuilt_parent_is_read_from_the_other_environment(project: ProjectFolder) -> None:
    lines = [
        line.split(maxsplit=3)
        for line in project.treadle("plan", "--select", "top", "--defer", "production").stdout.splitlines()
    ]
    assert lines[0] == ["reuse", "feature", "spend", "deferred to production"]
    assert lines[1][:3] == ["build", "feature", "top"]
    found = {step["id"]: step for step in project.json("plan", "--select", "top", "--defer", "production")}
    assert {step_id: (step["action"], step["reason"]) for step_id, step in found.items()} == {
        "spend": ("reuse", "deferred to production"),
        "recent": ("inline", "new"),
        "top": ("build", "new"),
    }
    assert found["spend"]["fingerprint"] == published(project, "production")["spend"]

    result = project.treadle("build", "--select", "top", "--defer", "production")
    assert result.stdout.splitlines()[0] == "deferred to production: spend"
    assert "1 built, 1 reused" in result.stdout
    assert set(published(project, "dev")) == {"recent", "top"}
    assert published(project, "dev")["top"] == found["top"]["fingerprint"]
    assert published(project, "dev")["recent"] == published(project, "production")["recent"]
    assert -1e6 < top(project) < 0
    again = project.json("build", "--select", "top", "--defer", "production")
    assert {step["status"] for step in again["steps"]} == {"reused"}

    project.build("+top")
    assert set(published(project, "dev")) >= {"orders", "spend", "recent", "top"}
    assert top(project) < -1e6


def test_parent_that_is_built_as_it_stands_is_used(project: ProjectFolder) -> None:
    project.build("spend")
    result = project.treadle("run", "top", "--defer", "production")
    assert "deferred" not in result.stdout
    assert top(project) < -1e6
    assert published(project, "dev")["spend"] != published(project, "production")["spend"]


def test_parent_that_is_nowhere_is_built(project: ProjectFolder) -> None:
    project.write("features/more.sql", "select user, 5 as more from {{ ref('orders') }} group by user")
    project.write("features/both.sql", "select * from {{ ref('more') }} join {{ ref('spend') }} using (user)")
    found = {step["id"]: step for step in project.json("plan", "--select", "both", "--defer", "production")}
    assert {step_id: step["action"] for step_id, step in found.items()} == {
        "spend": "reuse",
        "more": "build",
        "both": "build",
        **dict.fromkeys(OF_ORDERS, "reuse"),  # `orders` is new in this environment
    }
    assert found["more"]["reason"] == "new; needed by both"
    project.treadle("run", "both", "--defer", "production")
    assert set(published(project, "dev")) == {"orders", "more", "both"}


def test_data_that_changed_is_read_as_it_was_published(project: ProjectFolder) -> None:
    text = (project.root / "data/orders.csv").read_text()
    project.write("data/orders.csv", text + "9999,u00,2024-02-01 00:00:00,5000.0,0\n")
    result = project.treadle("run", "spend", "--defer", "production")
    assert result.stdout.splitlines()[0] == "deferred to production: orders"
    assert published(project, "dev").keys() == {"spend"}
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        assert con.execute("select count(*) from spend where user = 'u00' and ts > '2024-01-31'").fetchall() == [(0,)]
    project.treadle("run", "+spend")
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        assert con.execute("select count(*) from spend where user = 'u00' and ts > '2024-01-31'").fetchall() == [(1,)]


def test_tests_of_the_selection_look_at_the_selection(project: ProjectFolder) -> None:
    project.write("tests/small.sql", "select * from {{ ref('spend') }} where total >= 1e6")
    passed = project.json("test", "--select", "small", "--defer", "production")
    assert [(s["id"], s["reason"]) for s in passed["steps"]] == [
        ("spend", "deferred to production"),
        ("test:small", "new"),
    ]
    assert set(published(project, "dev")) == {"test:small"}
    failed = project.json("test", "--select", "spend", "--defer", "production", code=1)
    assert {s["id"]: s["status"] for s in failed["steps"]} == {
        "spend": "built",
        "test:small": "built",
        **dict.fromkeys(OF_ORDERS, "reused"),
    }


def test_defer_refuses_what_does_not_hold(project: ProjectFolder) -> None:
    for command in ("plan", "build", "run", "test"):
        assert project.treadle(command, "--defer", "production", code=2).stderr == (
            "error[TR603]: --defer needs a selection\n"
            "  all steps are selected\n"
            "  fix: name what you work on, as in `treadle build --select NAME --defer ENV`\n"
        )
        assert project.treadle(command, "--select", "top", "--defer", "live", code=2).stderr == (
            'error[TR109]: environment "live" is not defined\n'
            "  treadle.yml:2:1   environments: {production: {}}\n"
            "  fix: add `live: {}` below `environments:`, or use one of dev, production\n"
        )
    assert project.treadle("run", "top", "--pdb", "--defer", "production", code=2).stderr == (
        "error[TR603]: --pdb takes no --defer\n  fix: leave --defer out: what the step reads is built\n"
    )
    assert [run["command"] for run in project.json("runs") if "--defer" in run["command"]] == []


def test_pipeline_is_trained_on_features_of_the_other_environment(churn: ProjectFolder) -> None:
    churn.write("treadle.yml", FILES["treadle.yml"])
    churn.treadle("env", "promote", "dev", "production", "--yes")
    churn.edit("features/shares.py", "50", "60")
    churn.edit("models/churn.yml", "max_depth: 2", "max_depth: 3")
    before = published(churn, "production")
    done = churn.json("build", "--select", "churn.tree.train", "--defer", "production")
    assert {s["id"]: s["status"] for s in done["steps"]} == {"churn.tree.train": "built"}
    now = published(churn, "dev")
    assert now["churn.tree.train"] != before["churn.tree.train"]
    assert {step for step in before if now.get(step) != before[step]} == {"churn.tree.train"}


def test_changed_steps_alone_are_built_on_the_environment_that_they_are_compared_with(project: ProjectFolder) -> None:
    options = ("--select", "state:modified,top", "--state", "production", "--defer", "production")
    project.treadle("build", *options)
    assert published(project, "dev").keys() == {"recent", "top"}


def test_show_finds_what_was_built_on_the_other_environment(project: ProjectFolder) -> None:
    result = project.treadle("run", "top", "--defer", "production")
    assert result.stdout.splitlines()[-1] == "next: treadle show top --defer production"
    assert "20 rows x 2" in project.treadle("show", "top", "--defer", "production").stdout
    assert "error[TR807]" in project.treadle("show", "top", code=2).stderr
