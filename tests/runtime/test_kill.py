"""Builds that are killed, interrupted or wait for each other: nothing half done, nothing left behind.

`test_kill_sweep` kills them at random moments.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from treadle_runtime.artifacts import write_artifact
from treadle_runtime.lock import hold_lock

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

SLEEPS = "time.sleep(600)"
SPINS = "while True: pass"
MATCHES = 're.match(r"(a+)+$", "a" * 60 + "b")'  # holds the interpreter's lock for years


def slow_feature(code: str) -> dict[str, str]:
    """Return a Python feature that starts a program and then never ends."""
    return {
        "features/slow.py": f"""\
import re, subprocess, time
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def slow(orders: pl.LazyFrame) -> pl.LazyFrame:
    subprocess.Popen(["sleep", "600"])
    {code}
    return orders.select("user").unique()
"""
    }


def start_slow(project: ProjectFolder, *arguments: str) -> subprocess.Popen[str]:
    """Start a build and wait until its slow feature is in the middle of it."""
    process = project.start(*(arguments or ("build",)))
    project.wait_for(lambda: any("sleep" in c for c in project.processes().values()), "the feature runs")
    return process


# the build is killed


@pytest.mark.parametrize("code", [SLEEPS, SPINS, MATCHES])
def test_workers_and_what_they_started_end_with_the_build(make_project: MakeProject, code: str) -> None:
    project = make_project("features", slow_feature(code))
    process = start_slow(project)
    assert project.workers()
    process.kill()
    process.communicate()
    project.wait_for(lambda: not project.processes(), "the worker and its program end")
    assert project.json("runs")[0]["status"] == "interrupted"
    project.write("features/slow.py", slow_feature("pass")["features/slow.py"])
    project.treadle("build")
    assert project.leftovers() == []


# Ctrl-C


def has_handlers(process: subprocess.Popen[str]) -> bool:
    """Return whether a process handles SIGTERM by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def end(process: subprocess.Popen[str], *signals: int) -> list[str]:
    """Send signals and return the lines of stderr, once the process ended as the first of them asks for."""
    for number in signals or (signal.SIGINT,):
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + (signals or (signal.SIGINT,))[0], stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr
    return stderr.splitlines()


@pytest.mark.parametrize("code", [SLEEPS, SPINS, MATCHES])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_build_says_how_to_go_on(make_project: MakeProject, code: str, number: int) -> None:
    project = make_project("features", slow_feature(code))
    process = start_slow(project, "build", "--threads", "2")
    project.wait_for(
        lambda: any(b'"feature"' in meta for meta in project.metas().values()), "the other feature is built"
    )
    lines = end(process, number)
    assert lines[-2:] == ["interrupted: what is built is kept", "next: treadle build --threads 2"]
    assert project.leftovers() == []
    assert project.json("runs")[0]["status"] == "interrupted"


def test_more_signals_change_nothing(make_project: MakeProject) -> None:
    project = make_project("features", slow_feature(SPINS))
    lines = end(start_slow(project), signal.SIGINT, signal.SIGTERM, *[signal.SIGINT] * 5)
    assert lines[-2:] == ["interrupted: what is built is kept", "next: treadle build"]
    assert project.leftovers() == []
    assert project.json("runs")[0]["status"] == "interrupted"


def test_interrupt_before_anything_runs(make_project: MakeProject) -> None:
    project = make_project("features")
    process = project.start("build", "--select", "+spend, *")
    project.wait_for(lambda: has_handlers(process), "the process has begun")
    [first, last] = [line for line in end(process) if line]
    assert first.startswith("interrupted")
    assert last == "next: treadle build --select '+spend, *'"
    assert project.leftovers() == []


def test_interrupt_while_workers_start(make_project: MakeProject) -> None:
    project = make_project("features", "profile")
    process = project.start("build", "--threads", "2")
    project.wait_for(project.workers, "a worker starts")
    assert "next: treadle build --threads 2" in end(process)
    assert project.leftovers() == []


def test_interrupt_ends_a_build_that_waits_for_the_state(make_project: MakeProject) -> None:
    """The main thread waits in C code, which no signal handler written in Python can break into."""
    project = make_project("features")
    project.build("orders")
    with project.open() as workspace, workspace.state.transaction():
        process = project.start("build")
        opened = Path(f"/proc/{process.pid}/fd")
        project.wait_for(lambda: any("state.db-wal" in os.readlink(f) for f in opened.glob("*") if f.exists()))
        assert end(process)[-2:] == ["interrupted: what is built is kept", "next: treadle build"]
    project.treadle("build")
    assert project.leftovers() == []


def test_interrupt_after_the_map_was_written(make_project: MakeProject) -> None:
    project = make_project("features")
    with hold_lock(project.root / ".treadle/claims/catalog-dev.lock"):
        process = project.start("build")
        project.wait_for(lambda: (project.root / ".treadle/state.db").exists())
        with project.open() as workspace:
            project.wait_for(lambda: workspace.state.environment("dev"), "the map is written")
        assert "next: treadle build" in end(process)
    assert project.json("runs")[0]["status"] == "interrupted"
    assert all(step["action"] != "build" for step in project.json("plan"))
    project.treadle("build")
    assert (project.root / ".treadle/dev.duckdb").exists()
    assert project.leftovers() == []


def test_debugger_lives_on_after_an_interrupt(make_project: MakeProject) -> None:
    project = make_project("features", "profile")
    project.edit("features/profile.py", "    return", "    raise ValueError\n    return")
    shown = project.root / "shown.txt"
    with shown.open("w") as out:
        process = project.start(
            *("run", "profile", "--pdb"),
            stdin=subprocess.PIPE,
            stdout=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def is_interrupted() -> bool:
        assert process.poll() is None, process.communicate()
        if "KeyboardInterrupt" in shown.read_text():
            return True
        # Python sees a signal that comes right before it waits for a line only when the line has come.
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        return False

    project.wait_for(lambda: "(Pdb)" in shown.read_text(), "the debugger asks what to do")
    project.wait_for(is_interrupted, "the debugger is interrupted")
    process.communicate("p 6 * 7\nq\n", timeout=60)
    assert "42" in shown.read_text()
    assert process.returncode == 1


def test_interrupt_stops_a_query(make_project: MakeProject) -> None:
    slow = {
        "features/slow.sql": "select count(*) as n from range(300000) a, range(300000) b where a.range * b.range % 7 = 3"
    }
    project = make_project("features", slow)
    process = project.start("build", "--threads", "2")
    project.wait_for(lambda: len(project.metas()) >= 4)
    assert "next: treadle build --threads 2" in end(process)
    assert project.leftovers() == []
    assert project.json("runs")[0]["status"] == "interrupted"


def test_interrupt_ends_a_build_that_waits_for_another(make_project: MakeProject) -> None:
    project = make_project("features", slow_feature(SLEEPS))
    first = start_slow(project)
    second = project.start("build")
    for line in second.stderr:
        if "waits" in line:
            assert "slow waits: pid" in line
            [run] = project.json("runs")[1:]
            assert f"pid {first.pid}, treadle build (run {run['id']}) computes it too" in line
            break
    assert "next: treadle build" in end(second)
    assert first.poll() is None
    end(first)
    assert project.leftovers() == []


# a worker is killed


def test_killed_worker_is_named_and_others_go_on(make_project: MakeProject) -> None:
    project = make_project("features", "profile", slow_feature(SLEEPS))
    project.edit(
        "features/profile.py",
        "    return orders",
        "    import os, time\n    while os.path.exists('wait'): time.sleep(0.02)\n    return orders",
    )
    (project.root / "wait").touch()
    process = start_slow(project, "build", "--threads", "2")
    [sleeper] = [pid for pid, command in project.processes().items() if command.startswith("sleep")]
    worker = int(Path(f"/proc/{sleeper}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    project.wait_for(lambda: sleeper not in project.processes(), "what the worker started ends with it")
    (project.root / "wait").unlink()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error[TR710]: the worker that computed slow died\n  it was ended by signal 9" in stderr
    assert "nothing was published" in stdout
    assert project.leftovers() == []
    results = {s["id"]: s["status"] for s in project.results()["steps"]}
    assert results["slow"] == "failed"
    assert results["profile"] == results["spend"] == "built"
    project.write("features/slow.py", slow_feature("pass")["features/slow.py"])
    project.treadle("build")


def test_worker_that_exits_by_itself_is_named(make_project: MakeProject) -> None:
    project = make_project("features", slow_feature("import os; os._exit(3)"))
    done = project.build()
    assert done.problems["slow"].code == "TR710"
    assert done.problems["slow"].why == "it ended with exit code 3"
    assert project.leftovers() == []


# side by side


def test_build_whose_catalog_is_written_by_another_says_so(make_project: MakeProject) -> None:
    project = make_project("features")
    with hold_lock(project.root / ".treadle/claims/catalog-dev.lock", owner="treadle build (run one)"):
        build = project.start("build")
        lines = [next(line for line in build.stderr if "catalog" in line)]
    stdout, stderr = build.communicate(timeout=60)
    lines += stderr.splitlines()
    assert build.returncode == 0, stdout + stderr
    assert lines == [f"the catalog of dev waits: pid {os.getpid()}, treadle build (run one) writes it\n"]
    assert project.leftovers() == []


@pytest.mark.parametrize("arguments", [("env", "rollback", "dev"), ("env", "drop", "dev", "--yes"), ("verify",)])
def test_command_whose_catalog_is_written_by_another_says_so(
    make_project: MakeProject, arguments: tuple[str, ...]
) -> None:
    project = make_project("features")
    project.build()
    project.edit("features/spend.sql", "count(*)", "2 * count(*)")
    project.build()
    with hold_lock(project.root / ".treadle/claims/catalog-dev.lock", owner="treadle build (run one)"):
        command = project.start(*arguments)
        line = next(iter(command.stderr))
    assert line == f"the catalog of dev waits: pid {os.getpid()}, treadle build (run one) writes it\n"
    stdout, stderr = command.communicate(timeout=60)
    assert command.returncode == 0, stdout + stderr


def test_who_waits_hears_the_name_that_is_about_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    with (tmp_path / "some.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def write(_: float) -> None:
            file.write("pid 7, treadle build\n")
            file.close() if heard else file.flush()

        monkeypatch.setattr(time, "sleep", write)  # who has the lock goes on while the other one waits
        with hold_lock(tmp_path / "some.lock", on_wait=heard.append):
            pass
    assert heard == ["pid 7, treadle build"]


# what a killed process was writing


@pytest.mark.parametrize("name", ["run_results.json", "manifest.json"])
def test_documents_that_were_half_written_are_replaced(make_project: MakeProject, name: str) -> None:
    project = make_project("features")
    project.write(f"target/.{name}.new", '{"half": ')
    project.treadle("build"), project.treadle("compile")
    assert "half" not in json.loads((project.root / "target" / name).read_text())
    assert project.leftovers() == []


def test_documents_are_whole_whoever_writes_them(tmp_path: Path) -> None:
    def write(n: int) -> None:
        for _ in range(20):
            write_artifact(tmp_path, "some.json", {"n": [n] * 10_000 * (n + 1)})

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, n) for n in range(4)]
        while not all(writer.done() for writer in writers):
            if (tmp_path / "target/some.json").exists():
                [found] = {*json.loads((tmp_path / "target/some.json").read_bytes())["n"]}
                assert found in range(4)
    assert [writer.result() for writer in writers] == [None] * 4
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["some.json"]
