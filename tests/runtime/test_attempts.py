"""Retries and timeouts: what may pass by itself is tried again, what takes too long is ended, nothing else changes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from treadle.errors import StepError, TransientError
from treadle.events import StepRetries
from treadle_runtime import engine

if TYPE_CHECKING:
    from conftest import Built, MakeProject, ProjectFolder

ENDLESS = "select count(*) as n from range(300000) a, range(300000) b where a.range * b.range % 7 = 3"
SPINS = "while True: pass"


def flaky(code: str, *, fails: int = 1, arguments: str = "retries=2") -> dict[str, str]:
    """Return a feature whose first tries run some code that fails, and leave half a table and a program behind."""
    return {
        "features/flaky.py": f"""\
import os, pathlib, subprocess, time
import polars as pl
from treadle import feature


@feature(entity="user", static=True, {arguments})
def flaky(orders: pl.LazyFrame) -> pl.LazyFrame:
    tries = pathlib.Path("tries")
    n = int(tries.read_text()) if tries.exists() else 0
    tries.write_text(str(n + 1))
    if n < {fails}:
        {code}
    return orders.select("user").unique()
"""
    }


def retries(done: Built) -> list[tuple[str, int, int, float, str]]:
    events = [event for event in done.events if isinstance(event, StepRetries)]
    return [(e.step_id, e.attempt, e.n_attempts, e.pause_s, e.problem.code) for e in events]


def attempts(project: ProjectFolder) -> dict[str, int]:
    """Return step -> tries, as the state remembers the last run."""
    [run, *_] = project.json("runs")
    return {step["step"]: step["attempts"] for step in project.json("runs", run["id"])["steps"]}


# what is tried again


def test_feature_that_raises_is_tried_again(make_project: MakeProject) -> None:
    project = make_project("features", flaky("raise OSError('no route')", fails=2))
    done = project.build()
    assert done.outcome.published
    assert retries(done) == [("flaky", 1, 3, 1.0, "TR701"), ("flaky", 2, 3, 2.0, "TR701")]
    assert attempts(project) == {"flaky": 3} | dict.fromkeys(attempts(project).keys() - {"flaky"}, 1)
    assert project.leftovers() == []


def test_worker_that_died_is_tried_again(make_project: MakeProject) -> None:
    project = make_project("features", "profile", flaky("os._exit(3)"))
    done = project.build()
    assert done.outcome.published
    assert retries(done) == [("flaky", 1, 3, 1.0, "TR710")]
    assert project.leftovers() == []


def test_last_failure_is_told_and_each_before_it_on_a_line(make_project: MakeProject) -> None:
    project = make_project("features", flaky("raise OSError('no route')", fails=9, arguments="retries=1"))
    result = project.treadle("build", code=1)
    assert "flaky: try 1 of 2 failed (TR701: OSError: no route), again in 1 s" in result.stderr.splitlines()
    assert 'error[TR701]: feature "flaky" raised OSError' in result.stderr
    assert attempts(project)["flaky"] == 2
    assert next(step["attempts"] for step in project.results()["steps"] if step["id"] == "flaky") == 2
    [run, *_] = project.json("runs")
    [line] = [line for line in project.treadle("runs", run["id"]).stdout.splitlines() if " flaky " in line]
    assert line.endswith('2 tries; feature "flaky" raised OSError')


def test_query_without_memory_may_be_tried_again(tmp_path: Path) -> None:
    query = "select list(range) as numbers from range(10000000)"
    with engine.connect(temp_directory=tmp_path, memory_limit="1MB") as con:
        con.execute("set max_temp_directory_size = '0MB'")
        with pytest.raises(TransientError) as caught:
            engine.write_query(con, query, tmp_path)
        assert caught.value.problems[0].code == "TR702"
        with pytest.raises(StepError) as wrong:
            engine.write_query(con, "select nothing", tmp_path)
    assert not isinstance(wrong.value, TransientError)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        (flaky("return 3"), "TR714"),
        ({"features/flaky.sql": "{{ config(retries=2) }}\nselect nothing from {{ ref('orders') }}"}, "TR702"),
        ({"features/flaky.sql": "{{ config(retries=2) }}\nselect cast('x' as integer) as x"}, "TR702"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(make_project: MakeProject, files: dict[str, str], code: str) -> None:
    project = make_project("features", files)
    done = project.build()
    assert done.problems["flaky"].code == code
    assert retries(done) == []
    assert attempts(project)["flaky"] == 1


def test_failed_test_is_not_tried_again(make_project: MakeProject) -> None:
    files = {
        "treadle.yml": "name: shop\ndefaults: {features: {retries: 2}}\n",
        "tests/none.sql": "select * from {{ ref('spend') }}",
    }
    done = make_project("features", files).build()
    assert done.info("test:none")["passed"] is False
    assert retries(done) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_pause_between_tries_can_be_interrupted(make_project: MakeProject) -> None:
    project = make_project("features", flaky("raise OSError('no route')", fails=99, arguments="retries=10"))
    process = project.start("build")
    assert process.stderr is not None
    while "try 3 of 11" not in (line := process.stderr.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-2:] == ["interrupted: what is built is kept", "next: treadle build"]
    assert project.leftovers() == []


# what takes too long


def test_query_that_takes_too_long_is_interrupted(make_project: MakeProject) -> None:
    sql = f"{{{{ config(timeout='1s') }}}}\n{ENDLESS}"
    project = make_project("features", {"features/endless.sql": sql, "features/on_it.sql": "from {{ ref('endless') }}"})
    result = project.treadle("build", code=1)
    at = result.stderr.index("error[")
    assert result.stderr[at:].splitlines() == [
        "error[TR709]: endless took longer than its timeout",
        "  features/endless.sql:1   {{ config(timeout='1s') }}",
        "  it was ended after 1s",
        "  fix: give it more time with `timeout`, or make less work of it",
    ]
    assert "not run: on_it" in result.stderr
    assert {step["id"] for step in project.results()["steps"] if step["status"] == "built"} >= {"orders", "spend"}
    assert project.leftovers() == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_function_that_takes_too_long_ends_with_what_it_started(make_project: MakeProject) -> None:
    code = f"subprocess.Popen(['sleep', '600'])\n        {SPINS}"
    project = make_project("features", flaky(code, fails=9, arguments="timeout='2s'"))
    # Another function takes the next worker, once the first is gone.
    project.write("features/later.py", (project.root / "features/flaky.py").read_text())
    project.edit("features/later.py", "def flaky(", "def later(")
    project.edit("features/later.py", "if n < 9", "if n < 0")
    project.edit("features/later.py", "timeout='2s'", "timeout='60s'")
    done = project.build(threads=1)
    assert done.problems["flaky"].code == "TR709"
    assert done.of("built") >= {"later", "spend"}
    assert project.leftovers() == []


def test_timeout_is_a_try_that_failed(make_project: MakeProject) -> None:
    project = make_project("features", flaky("time.sleep(600)", arguments="retries=1, timeout='4s'"))
    done = project.build()
    assert done.outcome.published
    assert retries(done) == [("flaky", 1, 2, 1.0, "TR709")]


def test_step_within_its_time_is_left_alone(make_project: MakeProject) -> None:
    project = make_project("features", "profile", {"treadle.yml": "name: shop\ndefaults: {features: {timeout: 10m}}\n"})
    assert project.build().outcome.published
    assert project.leftovers() == []


def test_training_that_takes_too_long_is_ended(churn: ProjectFolder) -> None:
    churn.edit("models/churn.yml", "{max_depth: 2}", "{max_depth: 3}, timeout: 1ms, retries: 1")
    done = churn.build()
    assert done.of("failed") == {"churn.tree.train"}
    problem = done.problems["churn.tree.train"]
    assert problem.code == "TR709"
    assert problem.where is not None
    assert problem.where.path == "models/churn.yml"
    assert retries(done) == [("churn.tree.train", 1, 2, 1.0, "TR709")]


# where they are said


def settings(project: ProjectFolder, step: str) -> dict[str, Any]:
    with project.open() as workspace:
        found = workspace.graph[step].settings
        return {key: found[key] for key in ("retries", "timeout") if key in found}


def test_limits_are_said_in_each_place_and_change_no_fingerprint(churn: ProjectFolder) -> None:
    churn.edit("treadle.yml", "name: shop", "name: shop\ndefaults: {features: {retries: 1}, models: {timeout: 1h}}")
    assert settings(churn, "spend") == {"retries": 1}
    churn.edit("features/orders.yml", "{name: spend,", "{name: spend, retries: 2, timeout: 5m,")
    assert settings(churn, "spend") == {"retries": 2, "timeout": "5m"}
    churn.edit("features/spend.sql", "event_time='ts'", "event_time='ts', retries=3")
    assert settings(churn, "spend") == {"retries": 3, "timeout": "5m"}
    churn.edit("features/profile.py", "static=True", 'static=True, timeout="90s"')
    assert settings(churn, "profile") == {"retries": 1, "timeout": "90s"}
    churn.edit("models/churn.yml", "{max_depth: 2}", "{max_depth: 2}, retries: 4, timeout: 2h")
    assert settings(churn, "churn.tree.train") == {"retries": 4, "timeout": "2h"}
    assert settings(churn, "churn.tree.evaluate") == {"retries": 4, "timeout": "2h"}
    assert settings(churn, "churn.linear.train") == {"timeout": "1h"}
    assert settings(churn, "churn.refit") == {"retries": 4, "timeout": "2h"}
    assert settings(churn, "churn.split") == {}
    assert churn.reasons() == {}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("retries=-1", ['"retries" of feature "spend" has a value of the wrong form', "-1"]),
        ("retries=11", ['"retries" of feature "spend" has a value of the wrong form', "11"]),
        ("timeout='soon'", ['"timeout" of feature "spend" has a value of the wrong form', "'soon' is no duration"]),
        ("timeout='0s'", ['"timeout" of feature "spend" has a value of the wrong form', "it is no time at all"]),
    ],
)
def test_wrong_limit_is_told(make_project: MakeProject, config: str, expected: list[str]) -> None:
    project = make_project("features")
    project.edit("features/spend.sql", "event_time='ts'", f"event_time='ts', {config}")
    stderr = project.treadle("build", code=2).stderr
    assert stderr.startswith("error[TR004]: ")
    for text in expected:
        assert text in stderr


def test_retry_in_json_leaves_stdout_alone(make_project: MakeProject) -> None:
    project = make_project("features", flaky("raise OSError('no route')"))
    process = project.start("build", "--json")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert stdout.startswith("{")
