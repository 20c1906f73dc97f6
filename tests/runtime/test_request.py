"""Selections as commands take them: by name, by default, by how the last run ended, with the tests that are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

SELECTORS = """\
selectors:
  - name: light
    default: {default}
    definition:
      union: ["kind:source", {{method: name, value: spend}}]
      exclude: ["kind:test"]
"""


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    more = {"features/more.sql": "select user, max(amount) as most from {{ ref('orders') }} group by user"}
    return make_project("features", more, {"selectors.yml": SELECTORS.format(default="false")})


def planned(project: ProjectFolder, *arguments: str) -> set[str]:
    return {step["id"] for step in project.json("plan", *arguments) if step["action"] == "build"}


def test_named_selector_is_a_selection(project: ProjectFolder) -> None:
    assert {step["id"] for step in project.json("list", "--selector", "light")} == {"orders", "spend"}
    tables = {"orders", "spend", "more"}
    assert {step["id"] for step in project.json("list")} >= tables
    assert planned(project, "--selector", "light") & tables == {"orders", "spend"}
    result = project.treadle("build", "--selector", "light")
    assert "2 built" in result.stdout
    assert result.stdout.endswith("next: treadle show spend\n")
    assert planned(project) & tables == {"more"}


def test_selector_is_the_default_of_a_command_that_selects_nothing(project: ProjectFolder) -> None:
    project.write("selectors.yml", SELECTORS.format(default="true"))
    tables = {"orders", "spend", "more"}
    assert {step["id"] for step in project.json("list")} == {"orders", "spend"}
    assert planned(project) & tables == {"orders", "spend"}
    for _ in range(2):
        project.treadle("build")
    assert "1 built" in project.treadle("build", "--select", "more").stdout
    assert "more" not in project.treadle("build").stdout


def test_unknown_selector_says_what_there_is(project: ProjectFolder) -> None:
    assert project.treadle("plan", "--selector", "ligth", code=2).stderr == (
        'error[TR609]: "ligth" is no selector of the project\n'
        "  selectors.yml has light\n"
        "  did you mean: light\n"
        "  fix: define it in selectors.yml, beside treadle.yml\n"
    )


def test_selection_by_how_the_last_run_ended(project: ProjectFolder) -> None:
    project.write("features/bad.sql", "select nothing from {{ ref('orders') }}")
    project.write("features/on_bad.sql", "select * from {{ ref('bad') }}")
    project.write("tests/cheap.sql", "{{ config(severity='warn') }}select * from {{ ref('orders') }} where amount > 90")
    project.treadle("build", code=1)

    def ended(result: str) -> set[str]:
        return {step["id"] for step in project.json("list", "--select", f"result:{result}")}

    assert ended("error") == {"bad"}
    assert ended("skipped") >= {"on_bad"}
    assert ended("success") == {"orders", "spend", "more"}
    assert ended("warn") == {"test:cheap"}
    assert ended("pass") == {"test:not_null_orders_id", "test:unique_orders_id"}
    project.write("features/bad.sql", "select 1 as one")
    assert planned(project, "--select", "result:error+") == {"bad", "on_bad"}


def test_tests_come_along_as_asked(project: ProjectFolder) -> None:
    project.write("tests/both.sql", "select * from {{ ref('spend') }} join {{ ref('more') }} using (user) where false")
    project.build("orders", "spend", "more", tests="without")
    found = {
        how: planned(project, "--select", "spend", "--indirect-selection", how)
        for how in ("eager", "buildable", "cautious", "empty")
    }
    assert found["eager"] >= {"test:both"}
    assert "test:both" not in found["buildable"] | found["cautious"]
    assert found["empty"] == set()
