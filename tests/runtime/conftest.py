"""A small project on disk, and the means to edit, build and look at it."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from treadle.cli import main
from treadle.errors import Problem
from treadle.events import Event
from treadle.plan import Plan
from treadle_runtime.building import Outcome
from treadle_runtime.store import Store
from treadle_runtime.workspace import Workspace

WAIT_S = 60.0


def orders_csv(n: int = 300, *, seed: int = 1) -> str:
    """Return orders of 20 users in 30 days; the more one spends, the likelier one churns."""
    rng = random.Random(seed)
    start = datetime(2024, 1, 1)
    lines = ["id,user,ts,amount,churned"]
    for i in range(n):
        amount = round(rng.uniform(1, 99), 2)
        moment = start + timedelta(hours=i * 720 // n, minutes=rng.randrange(60))
        churned = int(rng.random() < (0.85 if amount > 50 else 0.15))
        lines.append(f"{i},u{rng.randrange(20):02},{moment:%Y-%m-%d %H:%M:%S},{amount},{churned}")
    return "\n".join(lines) + "\n"


FEATURES: Mapping[str, str] = {
    "treadle.yml": "name: shop\n",
    "data/orders.csv": orders_csv(),
    "features/orders.yml": """\
sources:
  - name: orders
    path: data/orders.csv
    columns:
      - {name: id, tests: [not_null, unique]}
entities:
  - {name: user}
features:
  - {name: spend, description: what a user spent so far}
""",
    "features/spend.sql": """\
{{ config(entity='user', event_time='ts') }}
-- what a user spent so far
select user, ts, sum(sum(amount)) over (partition by user order by ts) as total, count(*) as n
from {{ ref('orders') }}
group by user, ts
""",
}
"""A source and a SQL feature: no step of it needs a worker."""

PROFILE: Mapping[str, str] = {
    "features/shares.py": "def large(amount):\n    return (amount > 50).mean()\n",
    "features/profile.py": """\
import polars as pl
from treadle import feature

from .shares import large


@feature(entity="user", static=True)
def profile(orders: pl.LazyFrame) -> pl.LazyFrame:
    return orders.group_by("user").agg(large(pl.col("amount")).alias("large_share"))
""",
}
"""A Python feature with a helper in another module."""

CHURN: Mapping[str, str] = {
    **FEATURES,
    **PROFILE,
    "models/churn.yml": """\
datasets:
  - name: rows
    rows: orders
    key: id
    columns: [amount]
    at: ts
    label: churned
    features: [spend, profile]
models:
  - {name: linear, dataset: rows, task: binary, trainer: sklearn.logistic_regression}
  - {name: tree, dataset: rows, task: binary, trainer: sklearn.decision_tree, params: {max_depth: 2}}
""",
    "pipelines/churn.yml": """\
pipelines:
  - name: churn
    models: [linear, tree]
    split: {by: time, test: last 9d, validation: 6d}
    evaluate: {metrics: [roc_auc, brier]}
    gates: ["roc_auc >= 0.6", "roc_auc >= champion.roc_auc - 0.05"]
    refit: all
""",
    "tests/probabilities.sql": "select * from {{ ref('linear') }} where prediction not between 0 and 1\n",
}
"""A whole pipeline: 17 steps, four of them tests."""


@dataclass(frozen=True)
class Built:
    """What a build in this process came to, and the events that it told."""

    outcome: Outcome
    events: tuple[Event, ...]
    store: Store

    @property
    def statuses(self) -> dict[str, str]:
        """Step id -> how it ended."""
        return {step_id: result.status for step_id, result in self.outcome.run.results.items()}

    def of(self, status: str) -> set[str]:
        """Return the ids of the steps that ended so."""
        return {step_id for step_id, found in self.statuses.items() if found == status}

    @property
    def problems(self) -> dict[str, Problem]:
        """Step id -> why it failed."""
        return {k: r.problems[0] for k, r in self.outcome.run.results.items() if r.status == "failed"}

    def info(self, step_id: str) -> Mapping[str, Any]:
        result = self.outcome.run.results[step_id]
        version = result.version or self.store.read(result.planned.fingerprint)
        assert version is not None
        return version.info

    def notes(self, step_id: str) -> tuple[str, ...]:
        return self.outcome.run.results[step_id].notes


@dataclass(frozen=True)
class Printed:
    """What a command printed, and its exit code."""

    code: int
    stdout: str
    stderr: str

    def checked(self, code: int) -> Printed:
        assert self.code == code, f"exit code {self.code}\n{self.stdout}\n{self.stderr}"
        return self


def _communicate(process: subprocess.Popen[str], answers: str) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(answers, timeout=WAIT_S)
    return process.returncode, stdout, stderr


@dataclass(frozen=True)
class ProjectFolder:
    """A project in a folder of its own."""

    root: Path

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert text.count(old) == 1, f"{path} holds {old!r} {text.count(old)} times"
        self.write(path, text.replace(old, new))

    def open(self, **options: Any) -> Workspace:
        return Workspace(self.root, **options)

    def build(self, *selectors: str, as_of: str | None = None, threads: int = 1, **options: Any) -> Built:
        """Build in this process; with one thread, as the second worker costs a second to load scikit-learn."""
        events: list[Event] = []
        with self.open(as_of=as_of) as workspace:
            return Built(
                workspace.build(selectors, emit=events.append, threads=threads, **options),
                tuple(events),
                workspace.store,
            )

    def plan(self, *selectors: str) -> Plan:
        with self.open() as workspace:
            return workspace.plan(selectors)

    def reasons(self, *selectors: str) -> dict[str, str]:
        """Return step id -> why it would run, of the steps that would."""
        return {p.step.id: p.reason for p in self.plan(*selectors) if p.action == "build"}

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "treadle", *arguments]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, cwd=self.root, text=True, **options)

    def treadle(self, *arguments: str, code: int = 0, answers: str = "") -> Printed:
        """Run a command in this process, as its front door does, and check how it ends; `answers` is what is typed."""
        stdout, stderr = io.StringIO(), io.StringIO()
        given, command = sys.stdin, sys.argv
        try:
            sys.stdin, sys.argv = io.StringIO(answers), ["treadle", *arguments]
            with chdir(self.root), redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as end:
                main(list(arguments))
        finally:
            sys.stdin, sys.argv = given, command
        return Printed(int(end.value.code or 0), stdout.getvalue(), stderr.getvalue()).checked(code)

    def run(self, *arguments: str, code: int = 0, answers: str = "") -> Printed:
        """Run a command in a process of its own, and check how it ends."""
        process = self.start(*arguments, stdin=subprocess.PIPE)
        return Printed(*_communicate(process, answers)).checked(code)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.treadle(*arguments, "--json", code=code).stdout)

    def results(self) -> Any:
        return json.loads((self.root / "target/run_results.json").read_text())

    def metas(self) -> dict[str, bytes]:
        """Return fingerprint -> the bytes of its meta.json, which hold the digest of every part."""
        return {file.parent.name: file.read_bytes() for file in (self.root / ".treadle/store").glob("*/meta.json")}

    def leftovers(self) -> list[str]:
        """Return what a command that ended should not have left."""
        found = [
            f"{name}/{p.name}" for name in ("tmp", "claims", "runs") for p in (self.root / ".treadle" / name).glob("*")
        ]
        found += [f"empty: {p}" for p in (self.root / ".treadle/logs").rglob("*.log") if not p.stat().st_size]
        found += [f"target/{p.name}" for p in (self.root / "target").glob(".*")]
        return found + [f"process {pid}: {command}" for pid, command in self.processes().items()]

    def processes(self) -> dict[int, str]:
        """Return pid -> command line of the processes that work in the project's folder; only Linux tells."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                is_here = os.readlink(entry / "cwd") == str(self.root)
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                command = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if is_here and state != "Z" and int(entry.name) != os.getpid():
                found[int(entry.name)] = command
        return found

    def workers(self) -> list[int]:
        return [pid for pid, command in self.processes().items() if "treadle_runtime.worker" in command]

    def wait_for(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait until a condition holds; fail after a minute."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain{': ' if what else ''}{what}"
            time.sleep(0.02)


KITS = {"features": FEATURES, "profile": PROFILE, "churn": CHURN}
MakeProject = Callable[..., ProjectFolder]


@pytest.fixture
def make_project(tmp_path: Path) -> MakeProject:
    """Return what writes a project into a new folder: files by path, or a kit's name; later ones win."""
    folders = (tmp_path.resolve() / f"p{n}" for n in range(100))

    def make(*files: str | Mapping[str, str], name: str = "") -> ProjectFolder:
        project = ProjectFolder(tmp_path.resolve() / name if name else next(folders))
        for each in files:
            for path, text in (KITS[each] if isinstance(each, str) else each).items():
                project.write(path, text)
        return project

    return make


@pytest.fixture(scope="session")
def churn_built_once(tmp_path_factory: pytest.TempPathFactory) -> ProjectFolder:
    """The churn project, built; it is copied and never changed."""
    project = ProjectFolder(tmp_path_factory.mktemp("churn").resolve() / "project")
    for path, text in CHURN.items():
        project.write(path, text)
    done = project.build()
    assert done.outcome.published, done.problems
    return project


@pytest.fixture
def churn(churn_built_once: ProjectFolder, tmp_path: Path) -> ProjectFolder:
    """A built churn project of the test's own."""
    project = ProjectFolder(tmp_path.resolve() / "churn")
    shutil.copytree(churn_built_once.root, project.root)
    return project
