"""`treadle retry`: what failed in the last run is run again, with its flags; what was killed is the same command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

BROKEN = {
    "features/broken.sql": "select id, {{ var('factor', 1) }} as factor, nothing from {{ ref('orders') }}",
    "features/on_broken.sql": "select * from {{ ref('broken') }}",
    "features/apart.sql": "select 1 as x",
}
MENDED = "select id, {{ var('factor', 1) }} as factor from {{ ref('orders') }}"


def built(project: ProjectFolder) -> set[str]:
    """Return the steps that the last run built."""
    return {step["id"] for step in project.results()["steps"] if step["status"] == "built"}


def options(project: ProjectFolder) -> Any:
    return project.json("runs")[0]["options"]


def published(project: ProjectFolder) -> set[str]:
    with project.open() as workspace:
        return set(workspace.state.environment("dev"))


# what failed


def test_failed_and_skipped_steps_are_run_and_all_is_published(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN)
    project.treadle("build", "--threads", "1", code=1)
    assert published(project) == set()
    run = project.json("runs")[0]
    project.write("features/broken.sql", MENDED)
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    result = project.treadle("retry")
    assert result.stderr.splitlines()[0] == (
        f"retry of {run['id']}, treadle build --threads 1: 2 that failed or were skipped"
    )
    assert built(project) == {"broken", "on_broken"}
    # What succeeded before is published too; what was changed besides is neither run nor published.
    assert published(project) >= {"orders", "apart", "broken", "on_broken", "test:unique_orders_id"}
    assert "spend" not in published(project)
    assert project.treadle("build").stdout.startswith("1 built, ")


def test_retry_that_fails_can_be_retried(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN)
    project.treadle("build", code=1)
    project.write("features/broken.sql", "select still_nothing from {{ ref('orders') }}")
    project.treadle("retry", code=1)
    assert project.json("retry", code=1)["status"] == "failed"
    project.write("features/broken.sql", MENDED)
    project.treadle("retry")
    assert built(project) == {"broken", "on_broken"}
    assert "apart" in published(project)


def test_steps_that_are_no_more_are_forgotten(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN)
    project.treadle("build", code=1)
    for name in ("broken", "on_broken"):
        (project.root / f"features/{name}.sql").unlink()
    project.treadle("retry")
    assert built(project) == set()
    assert "apart" in published(project)


def test_failed_test_is_judged_again(make_project: MakeProject) -> None:
    project = make_project("features", {"tests/dear.sql": "select * from {{ ref('spend') }} where n > 1000"})
    project.edit("tests/dear.sql", "1000", "0")
    project.treadle("build", code=1)
    project.treadle("retry", code=1)
    assert built(project) == set()
    project.edit("tests/dear.sql", "> 0", "> 1000")
    project.treadle("retry")
    assert built(project) == {"test:dear"}
    assert "spend" in published(project)


def test_warning_is_no_failure(make_project: MakeProject) -> None:
    test = "{{ config(severity='warn') }}\nselect * from {{ ref('spend') }}"
    project = make_project("features", {"tests/warns.sql": test})
    project.treadle("build")
    assert project.treadle("retry").stdout.startswith("nothing failed in ")


def test_red_gates_are_judged_again(churn: ProjectFolder) -> None:
    churn.edit("pipelines/churn.yml", "roc_auc >= 0.6", "roc_auc >= 0.999")
    churn.treadle("build", code=1)
    churn.treadle("retry", code=1)
    churn.edit("pipelines/churn.yml", "roc_auc >= 0.999", "roc_auc >= 0.61")
    churn.treadle("retry")
    assert built(churn) == {"churn.validate"}


# the run's own flags


def test_retry_has_the_flags_of_the_run(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN, {"features/other.sql": "select missing from {{ ref('orders') }}"})
    flags = ["--vars", "{factor: 7}", "--as-of", "2024-03-01", "--threads", "1", "--exclude", "other"]
    project.treadle("run", *flags, "--select", "+on_broken other", code=1)
    before = options(project)
    assert before == {
        "select": ["+on_broken other"],
        "exclude": ["other"],
        "tests": "without",
        "full_refresh": False,
        "threads": 1,
        "defer": None,
        "state": None,
        "indirect": "eager",
        "window": None,
        "vars": {"factor": 7},
    }
    project.write("features/broken.sql", MENDED)
    project.treadle("retry")
    [row] = project.json("show", "broken", "--limit", "1", "--vars", "{factor: 7}")["sample"]
    assert row["factor"] == "7"
    found = project.json("runs")[0]
    assert found["options"] == {**before, "retry_of": project.json("runs")[1]["id"]}
    assert found["as_of"] == "2024-03-01T00:00:00+00:00"
    assert published(project) == {"orders", "broken", "on_broken"}  # no test was run, nor what was left out


def test_threads_may_be_fewer(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN)
    project.treadle("build", "--threads", "2", code=1)
    project.treadle("retry", "--threads", "1", code=1)
    assert options(project)["threads"] == 2  # the run's own stays


def test_retry_of_tests_runs_tests(make_project: MakeProject) -> None:
    project = make_project("features", {"tests/rows.sql": "select * from {{ ref('spend') }}"})
    project.treadle("test", code=1)
    project.edit("tests/rows.sql", "select *", "select 1 where exists (select 1")
    project.edit("tests/rows.sql", "ref('spend') }}", "ref('spend') }} where n < 0)")
    project.treadle("retry")
    assert built(project) == {"test:rows"}


def test_full_refresh_is_for_what_failed(make_project: MakeProject) -> None:
    project = make_project("features", {"features/flaky.sql": "select 1 as x"})
    project.build()
    project.write(
        "features/late.py",
        """\
import pathlib
import polars as pl
from treadle import feature


@feature
def late(flaky: pl.LazyFrame) -> pl.LazyFrame:
    if pathlib.Path("data/stop").exists():
        raise ValueError("stop")
    return flaky
""",
    )
    project.build()
    (project.root / "data/stop").touch()
    project.treadle("build", "--full-refresh", code=1)
    (project.root / "data/stop").unlink()
    project.treadle("retry")
    assert built(project) == {"late"}


def test_last_run_is_that_of_the_environment(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN, {"treadle.yml": "name: shop\nenvironments: {production: {}}\n"})
    project.treadle("build", "--env", "production", code=1)
    project.treadle("build", "--select", "apart")
    assert "nothing failed" in project.treadle("retry").stdout
    project.write("features/broken.sql", MENDED)
    project.treadle("retry", "--env", "production")
    assert project.json("runs")[0]["env"] == "production"


# what was interrupted


def test_killed_run_is_the_same_command_again(make_project: MakeProject) -> None:
    slow = "select count(*) as n from range(300000) a, range(300000) b where a.range * b.range % 7 = 3"
    project = make_project("features", {"features/slow.sql": slow, "features/apart.sql": "select 1 as x"})
    process = project.start("build", "--select", "spend slow", "--threads", "2")
    project.wait_for(lambda: len(project.metas()) >= 4, "all but the slow one are built")
    process.kill()
    process.communicate()
    project.write("features/slow.sql", "select 1 as n")
    result = project.treadle("retry")
    assert result.stderr.splitlines()[0].endswith(
        ", treadle build --select 'spend slow' --threads 2: the whole command"
    )
    assert built(project) == {"slow"}
    assert published(project) >= {"spend", "slow"}
    assert "apart" not in published(project)


def test_interrupted_retry_goes_back_to_what_failed_first(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN)
    project.treadle("build", code=1)
    slow = "select count(*) as n from range(300000) a, range(300000) b where a.range * b.range % 7 = 3"
    project.write("features/broken.sql", slow)
    process = project.start("retry")
    project.wait_for(lambda: project.json("runs")[0]["status"] == "running")
    project.wait_for(lambda: list((project.root / ".treadle/tmp").glob("*")), "the slow one runs")
    process.kill()
    process.communicate()
    project.write("features/broken.sql", MENDED)
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    project.treadle("retry")
    assert built(project) == {"broken", "on_broken"}


# nothing to do


def test_nothing_failed(make_project: MakeProject) -> None:
    project = make_project("features")
    assert project.treadle("retry").stdout == "nothing was run in dev yet\n"
    assert project.json("retry") == {"retry_of": None, "steps": []}
    project.treadle("build")
    run = project.json("runs")[0]["id"]
    assert project.treadle("retry").stdout == f"nothing failed in {run}, treadle build\n"
    assert project.json("retry") == {"retry_of": run, "steps": []}
    assert len(project.json("runs")) == 1


def test_run_in_work_is_not_retried(make_project: MakeProject) -> None:
    project = make_project("features")
    with project.open() as workspace:
        run_id = workspace.state.start_run("dev", "treadle build", options={"select": []})
        assert project.treadle("retry", code=2).stderr.splitlines() == [
            "error[TR603]: the last run in dev is still in work",
            f"  run {run_id}: treadle build",
            "  fix: wait for its end",
        ]


def test_run_of_an_older_treadle_is_not_guessed(make_project: MakeProject) -> None:
    project = make_project("features")
    with project.open() as workspace:
        run_id = workspace.state.start_run("dev", "treadle build --select spend")
        workspace.state.finish_run(run_id, "failed")
    assert project.treadle("retry", code=2).stderr.splitlines() == [
        "error[TR603]: what the last run in dev was called with is not known",
        f"  run {run_id}: treadle build --select spend, of an older Treadle",
        "  fix: run that command again",
    ]
