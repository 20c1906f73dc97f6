"""A build or a plan that found nothing to do is told again, until anything changes of what it follows from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from conftest import MakeProject, ProjectFolder, orders_csv
from treadle_runtime.answers import Answers
from treadle_runtime.registry import Registry

Change = Callable[[ProjectFolder], object]


def is_known(project: ProjectFolder, command: str) -> bool:
    """Return whether the command would answer from what it kept."""
    with project.open() as workspace:
        return Answers(workspace, command, object).find() is not None


def test_idle_build_is_told_again_as_a_run_of_its_own(churn: ProjectFolder) -> None:
    first, before = churn.treadle("build"), churn.results()
    assert is_known(churn, "build")
    second, after = churn.treadle("build"), churn.results()
    assert first.stdout.splitlines()[:-3] == second.stdout.splitlines()[:-3]  # the time is told in the third last line
    assert first.stdout.splitlines()[-2:] == second.stdout.splitlines()[-2:]
    assert before["run_id"] != after["run_id"]
    for results in (before, after):
        del results["run_id"], results["seconds"]
    assert before == after
    runs = churn.json("runs")
    assert [run["status"] for run in runs[:2]] == ["passed", "passed"]
    assert json.loads(churn.treadle("build", "--json").stdout) == churn.results()


def test_idle_plan_is_told_again(churn: ProjectFolder) -> None:
    first = churn.treadle("plan").stdout
    assert is_known(churn, "plan")
    assert churn.treadle("plan").stdout == first
    assert "nothing to do" in first
    assert "unchanged" in churn.treadle("plan", "--all").stdout


def _lose_version(project: ProjectFolder) -> None:
    shutil.rmtree(project.root / ".treadle/store" / project.plan().identities["spend"].fingerprint)


def _promote(project: ProjectFolder) -> None:
    with project.open() as workspace:
        Registry(workspace.state).promote("churn", 1, env="dev")


CHANGES: dict[str, Change] = {
    "a query": lambda project: project.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n"),
    "a helper": lambda project: project.edit("features/shares.py", "> 50", "> 60"),
    "data": lambda project: project.write("data/orders.csv", orders_csv(seed=2)),
    "a setting": lambda project: project.edit("pipelines/churn.yml", "roc_auc >= 0.6", "roc_auc >= 0.61"),
    "a file": lambda project: project.write("features/more.sql", "select 1 as id"),
    "a lost version": _lose_version,
    "a champion": _promote,
    "the map": lambda project: project.treadle("env", "drop", "dev", "--yes"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_any_change_is_noticed(churn: ProjectFolder, what: str) -> None:
    for command in ("plan", "build"):
        churn.treadle(command)
        assert is_known(churn, command)
    CHANGES[what](churn)
    for command in ("plan", "build"):
        assert not is_known(churn, command), command


def test_touched_data_changes_nothing(churn: ProjectFolder) -> None:
    churn.treadle("plan")
    (churn.root / "data/orders.csv").touch()
    assert is_known(churn, "plan")


def test_catalog_that_was_lost_is_written_again(churn: ProjectFolder) -> None:
    churn.treadle("build")
    (churn.root / ".treadle/dev.duckdb").unlink()
    churn.treadle("build")
    assert (churn.root / ".treadle/dev.duckdb").exists()


def test_what_changes_with_the_clock_is_not_kept(make_project: MakeProject) -> None:
    project = make_project("features", {"features/today.sql": "{{ config(volatile='day') }}select current_date as day"})
    for command in ("build", "build", "plan"):
        project.treadle(command)
    assert not is_known(project, "build")
    assert not is_known(project, "plan")


def test_tests_that_warn_are_told_each_time(make_project: MakeProject) -> None:
    severe = "{{ config(severity='warn') }}select * from {{ ref('orders') }} where amount > 90"
    project = make_project("features", {"tests/cheap.sql": severe})
    project.treadle("build")
    told = [project.treadle("build") for _ in range(2)]
    assert all("warning: " in each.stderr and "1 warned" in each.stdout for each in told)


def test_answer_that_cannot_be_read_is_found_again(churn: ProjectFolder) -> None:
    churn.treadle("plan")
    (churn.root / ".treadle/cache/plan-dev.answer").write_bytes(b"\x81")
    assert "nothing to do" in churn.treadle("plan").stdout
    assert is_known(churn, "plan")


def test_other_variables_are_another_question(make_project: MakeProject) -> None:
    project = make_project("features", {"treadle.yml": "name: shop\nvars: {least: 1}\n"})
    project.write("features/some.sql", "select * from {{ ref('orders') }} where amount > {{ var('least') }}")
    for command in ("build", "build", "plan"):
        project.treadle(command)
    assert "1 to build" in project.treadle("plan", "--vars", "least: 2").stdout
    assert "1 built" in project.treadle("build", "--vars", "least: 2").stdout
