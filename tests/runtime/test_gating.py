"""A build of a part publishes what the part stands on: the tests of that run too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

FILES = {
    "treadle.yml": "name: shop\nenvironments: {production: {}}\n",
    "data/users.csv": "user,country\nu01,de\nu02,fr\n",
    "features/users.yml": """\
sources:
  - name: users
    path: data/users.csv
    columns:
      - {name: user, tests: [unique]}
""",
    "features/top.sql": "select user, max(total) as top from {{ ref('spend') }} group by user",
    "tests/known.sql": "select * from {{ ref('orders') }} where user not in (select user from {{ ref('users') }}) and false",
}
OF_ORDERS = {"test:not_null_orders_id", "test:unique_orders_id"}


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    """orders -> spend -> top, and a source beside them; orders and users have tests, and one test reads both."""
    return make_project("features", FILES)


def twice(project: ProjectFolder) -> None:
    """Let the source hold one more row twice, which a test of it forbids."""
    rows = (project.root / "data/orders.csv").read_text().splitlines()
    project.write("data/orders.csv", "\n".join([*rows, rows[-1]]) + "\n")


def named_tests(project: ProjectFolder, *selectors: str, **options: str) -> set[str]:
    with project.open() as workspace:
        return {p.step.id for p in workspace.plan(selectors, **options) if p.step.kind == "test"}  # type: ignore[arg-type]


def test_source_that_is_loaded_for_a_selection_is_tested(project: ProjectFolder) -> None:
    twice(project)
    built = project.build("top")
    assert built.of("failed") == set()
    assert built.of("skipped") == {"spend", "top"}
    assert not built.outcome.published
    assert not built.outcome.run.results["test:unique_orders_id"].has_passed


def test_tests_that_join_are_those_of_what_is_published_anew(project: ProjectFolder) -> None:
    assert named_tests(project, "top") == OF_ORDERS
    project.build("top")
    assert named_tests(project, "top") == set()
    project.edit("features/top.sql", "max(total)", "-max(total)")
    assert named_tests(project, "top") == set()
    twice(project)
    assert named_tests(project, "top") == OF_ORDERS


def test_what_another_environment_built_is_tested_where_it_is_published(project: ProjectFolder) -> None:
    project.build(tests="without")
    with project.open(environment="production") as workspace:
        plan = {p.step.id: p.action for p in workspace.plan(["spend"])}
    assert plan == {"spend": "reuse", **dict.fromkeys(OF_ORDERS, "build")}


def test_test_that_reads_what_the_selection_does_not_is_left_out(project: ProjectFolder) -> None:
    assert named_tests(project, "top", "users") == {*OF_ORDERS, "test:unique_users_user", "test:known"}
    assert "test:known" not in named_tests(project, "top")


def test_excluded_tests_and_runs_without_tests_stay_without(project: ProjectFolder) -> None:
    with project.open() as workspace:
        found = {p.step.id for p in workspace.plan(["top"], ["test:unique*"]) if p.step.kind == "test"}
    assert found == OF_ORDERS - {"test:unique_orders_id"}
    assert named_tests(project, "top", tests="without") == set()
    project.edit("features/users.yml", "[unique]", "[unique, not_null]")
    assert named_tests(project, "test:unique_users_user", tests="only") == {
        "test:unique_users_user",
        "test:not_null_users_user",
    }


def test_full_refresh_computes_no_test_again_that_only_joins(project: ProjectFolder) -> None:
    project.build()
    with project.open(environment="production") as workspace:
        plan = workspace.plan(("top",), full_refresh=True)
    joined = {p.step.id: (p.action, p.reason, p.is_selected) for p in plan if p.step.kind == "test"}
    assert joined == dict.fromkeys(OF_ORDERS, ("reuse", "built before", False))
    with project.open(environment="production") as workspace:
        done = workspace.build(("top",), full_refresh=True, threads=1)
    assert done.published
    assert {i: r.status for i, r in done.run.results.items()} == {"top": "built", **dict.fromkeys(OF_ORDERS, "reused")}
