"""A build or a plan that found nothing to do is told again, until anything changes of what it follows from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
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


def test_project_that_was_moved_shows_its_own_tables(churn: ProjectFolder, tmp_path: Path) -> None:
    for _ in range(2):
        churn.treadle("build")
    moved = ProjectFolder(tmp_path / "moved")
    churn.root.rename(moved.root)
    moved.treadle("build")
    with duckdb.connect(str(moved.root / ".treadle/dev.duckdb"), read_only=True) as con:
        assert con.execute("select count(*) > 0 from spend").fetchall() == [(True,)]


def test_file_read_in_place_that_was_renamed(make_project: MakeProject) -> None:
    project = make_project("features")
    with duckdb.connect() as con:
        con.execute(f"copy (select 1 as id) to '{project.root}/data/first.parquet'")
    project.write("features/lying.yml", "sources: [{name: lying, path: 'data/*.parquet'}]")
    for _ in range(2):
        project.treadle("build")
    (project.root / "data/first.parquet").rename(project.root / "data/second.parquet")
    project.treadle("build")
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        assert con.execute("from lying").fetchall() == [(1,)]


def test_library_that_is_upgraded_on_the_path_is_noticed(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    (library / "made-1.0.dist-info").mkdir(parents=True)
    (library / "made.py").write_text("")
    (library / "made-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 1.0\n")
    code = "import made\nimport polars as pl\nfrom treadle import feature\n\n\n@feature()\ndef count(orders: pl.LazyFrame):\n"
    project = make_project("features", {"features/count.py": f"{code}    made\n    return orders.select(pl.len())\n"})
    monkeypatch.setenv("PYTHONPATH", str(library))
    for command in ("build", "build", "plan"):
        project.run(command)
    assert "nothing to do" in project.run("plan").stdout
    (library / "made-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 2.0\n")
    (library / "made-1.0.dist-info").rename(library / "made-2.0.dist-info")
    assert "made 1.0 -> " in project.run("plan").stdout


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
