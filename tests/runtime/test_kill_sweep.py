"""Builds that are killed at random moments, or started together: what stands in the end equals an undisturbed build.

TREADLE_SOAK=500 TREADLE_SEED=7 pytest tests/runtime/test_kill_sweep.py     # more kills; the seed of a failure
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from standing import Standing, find_differences, read_standing

from conftest import CHURN, ProjectFolder, orders_csv

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

N_KILLS = int(os.environ.get("TREADLE_SOAK", "60"))
CATALOG = ".treadle/dev.duckdb"
MAX_KILLS = 10
MAX_LATE_KILLS = 3
"""After so many, and so many when every step was done, a build is left in peace, so that the sweep goes on."""

PROJECT: Mapping[str, str] = {
    **CHURN,
    "features/edition.sql": "select 1 as edition, count(*) as n_orders from {{ ref('orders') }}\n",
    "features/totals.sql": """\
select user, edition, sum(amount) as total from {{ ref('orders') }}, {{ ref('edition') }} group by all
""",
    "features/profile.py": """\
import polars as pl
from treadle import feature

from .shares import large


@feature(entity="user", static=True)
def profile(orders: pl.LazyFrame, edition: pl.LazyFrame) -> pl.LazyFrame:
    shares = orders.group_by("user").agg(large(pl.col("amount")).alias("large_share"))
    return shares.join(edition.select("edition"), how="cross")
""",
    "features/large_orders.sql": """\
{{ config(materialized='view') }}
select id, edition from {{ ref('orders') }}, {{ ref('edition') }} where amount > 50
""",
    "features/spenders.sql": """\
{{ config(materialized='view') }}
select user, edition, total from {{ ref('totals') }} where total > 100
""",
    "features/events.yml": "sources:\n  - {name: events, path: data/events-*.csv, event_time: ts}\n",
    "data/events-1.csv": "user,ts,amount\na,2024-01-01 10:00:00,1.5\nb,2024-01-02 11:00:00,2.5\n",
    "data/events-2.csv": "user,ts,amount\na,2024-01-03 10:00:00,3.5\n",
    "features/daily.sql": """\
{{ config(materialized='incremental', entity='user', event_time='ts', interval='1d', lookback='1d') }}
select user, ts, sum(amount) over last_day as total from {{ ref('events') }}
window last_day as (partition by user order by ts range between interval 1 day preceding and current row)
""",
    "models/churn.yml": """\
datasets:
  - {name: rows, rows: orders, key: id, columns: [amount], at: ts, label: churned, features: [spend]}
models:
  - {name: tree, dataset: rows, task: binary, trainer: sklearn.decision_tree, params: {max_depth: 2}}
""",
    "pipelines/churn.yml": CHURN["pipelines/churn.yml"].replace("[linear, tree]", "[tree]"),
    "tests/probabilities.sql": "select * from {{ ref('tree') }} where prediction not between 0 and 1\n",
}
"""Sources, tables and views in SQL, an incremental one, a Python feature, a pipeline. Most tables show in which edition they were made."""

EDITIONS: tuple[Mapping[str, str], ...] = (
    PROJECT,
    {
        "features/edition.sql": PROJECT["features/edition.sql"].replace("1 as", "2 as"),
        "features/shares.py": "def large(amount):\n    return (amount > 60).mean()\n",
    },
    {
        "features/edition.sql": PROJECT["features/edition.sql"].replace("1 as", "3 as"),
        "data/orders.csv": orders_csv(330),
        "data/events-3.csv": "user,ts,amount\nb,2024-01-03 12:00:00,4.5\na,2024-01-04 10:00:00,5.5\n",
    },
)
"""The files that change from one build to the next: all, then code that no model stands on, then code and data."""


@dataclass(frozen=True)
class Undisturbed:
    """What the editions come to when nobody disturbs them.

    Attributes:
        standings: after each of them; after the last one and `treadle clean`.
        seconds: that each build took, and that a build takes which finds nothing to do.
        cache: what is known of scikit-learn's estimators, which takes longer to find out than all else.
    """

    standings: tuple[Standing, ...]
    seconds: tuple[float, ...]
    idle_s: float
    cache: Path


def edit(project: ProjectFolder, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        project.write(path, text)


def timed_build(project: ProjectFolder) -> float:
    started = time.monotonic()
    project.run("build")
    return time.monotonic() - started


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    project = ProjectFolder(tmp_path_factory.mktemp("undisturbed").resolve() / "project")
    standings, seconds = [], []
    for files in EDITIONS:
        edit(project, files)
        seconds.append(timed_build(project))
        standings.append(read_standing(project.root))
    idle_s = timed_build(project)
    project.treadle("clean", "--yes")
    [cache] = project.root.glob(".treadle/cache/sklearn-*.json")
    return Undisturbed((*standings[:-1], read_standing(project.root)), tuple(seconds), idle_s, cache)


# a reader of the catalog


@contextmanager
def reading(project: ProjectFolder) -> Iterator[Path]:
    """Read the project's catalog in another process throughout; the yielded file gets what it finds."""
    found = project.root.parent / f"{project.root.name}.found"
    command = [sys.executable, str(Path(__file__).parent / "catalog_reader.py"), str(project.root / CATALOG)]
    with found.open("w") as out:
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)
    try:
        yield found
    finally:
        reader.communicate(timeout=60)


# the sweep


@dataclass
class Sweep:
    """Kills builds of one project, edition after edition, and counts whom it killed, and when."""

    project: ProjectFolder
    undisturbed: Undisturbed
    rng: random.Random
    killed: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        """Bring every edition to its end through kills; then all must be as if there had been none."""
        with reading(self.project) as found:
            for n, files in enumerate(EDITIONS):
                edit(self.project, files)
                self.finish(n)
                assert self.project.leftovers() == []
                editions = "".join(f"{edition}\n" for edition in range(1, n + 2))
                self.project.wait_for(lambda: found.read_text() >= editions, f"edition {n + 1} is read")  # noqa: B023
                assert found.read_text() == editions
        self.project.treadle("clean", "--yes")  # drops the catalogs that the reader had open when they were replaced
        assert "\n".join(find_differences(read_standing(self.project.root), self.undisturbed.standings[-1])) == ""

    def finish(self, n: int) -> None:
        """Build an edition, again and again, until it is done."""
        wanted = self.undisturbed.standings[n].fingerprints
        n_all, n_late = self.n_left(wanted), 0
        for _ in range(MAX_KILLS):
            n_left = self.n_left(wanted)
            n_late += n_left == 0
            moment = self.draw_moment(self.undisturbed.seconds[n], n_left / n_all, n_left)
            if n_late > MAX_LATE_KILLS or self.survives(wanted, *moment):
                break
        self.project.run("build")

    def draw_moment(self, build_s: float, share_left: float, n_left: int) -> tuple[int, float]:
        """Return how many steps the build is to do, and how long it may go on then.

        Some moments follow the clock alone, over all that is left and a bit; the others what the build has done,
        since a machine that became slower would else never reach the end.
        """
        idle_s = self.undisturbed.idle_s
        if self.rng.random() < 0.4:
            return 0, self.rng.uniform(0, 1.1 * (idle_s + share_left * (build_s - idle_s)))
        return self.rng.randint(0, min(n_left, 4)), self.rng.uniform(0, idle_s)

    def survives(self, wanted: frozenset[str], n_steps: int, pause_s: float) -> bool:
        """Start the build and kill it, or a worker of it, at a moment; return whether it was done all the same."""
        n_before = self.n_left(wanted)
        is_for_worker = n_before > 0 and self.rng.random() < 0.4  # else a worker is seldom there to be killed
        process = self.project.start("build", "--threads", self.rng.choice("1112"))
        while process.poll() is None and self.n_left(wanted) > n_before - n_steps:
            time.sleep(0.01)
        while process.poll() is None and is_for_worker and not self.project.workers():
            time.sleep(0.05)
        try:
            process.wait(pause_s)
        except subprocess.TimeoutExpired:
            others = sorted(self.project.processes().keys() - {process.pid})
            pid = self.rng.choice(others) if others and is_for_worker else process.pid
            n_left = self.n_left(wanted)
            with suppress(ProcessLookupError):  # a worker that has just ended
                os.kill(pid, signal.SIGKILL)
            when = "after the last step" if n_left == 0 else "amid the steps" if n_left < n_before else "before a step"
            self.killed.update(["main" if pid == process.pid else "worker", when])
        stdout, stderr = process.communicate(timeout=60)
        self.project.wait_for(lambda: not self.project.processes(), "all processes of the build end")
        if process.returncode not in (0, -signal.SIGKILL):  # a worker was killed
            assert process.returncode == 1, stderr
            assert "error[TR710]: the worker that computed " in stderr
            assert "it was ended by signal 9" in stderr
            assert "nothing was published" in stdout
            assert "Traceback" not in stderr
        return process.returncode == 0

    def n_left(self, wanted: frozenset[str]) -> int:
        """Return how many of the wanted versions are not there yet."""
        store = self.project.root / ".treadle/store"
        return len(wanted.difference(os.listdir(store) if store.exists() else ()))


def test_killed_at_random_moments_builds_come_to_what_an_undisturbed_one_does(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    seed = int(os.environ.get("TREADLE_SEED") or random.randrange(10**6))
    print(f"TREADLE_SEED={seed}")
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    for n in range(N_KILLS):
        if killed["main"] + killed["worker"] >= N_KILLS:
            break
        project = ProjectFolder(tmp_path.resolve() / f"p{n}")
        if n:
            project.write(f".treadle/cache/{undisturbed.cache.name}", undisturbed.cache.read_text())
        Sweep(project, undisturbed, rng, killed).run()
    print(f"{n} projects, {dict(killed)}")
    assert killed["main"] + killed["worker"] >= N_KILLS
    assert len(killed) == 5, "nobody of main and worker is spared, nor before, amid and after the steps"


# side by side


def test_eight_builds_started_together_compute_everything_once(undisturbed: Undisturbed, tmp_path: Path) -> None:
    project = ProjectFolder(tmp_path.resolve() / "project")
    edit(project, PROJECT)
    project.write(f".treadle/cache/{undisturbed.cache.name}", undisturbed.cache.read_text())
    builds = [project.start("build", "--threads", "1") for _ in range(8)]
    waits = []
    for process in builds:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stdout + stderr
        assert "Traceback" not in stderr
        waits += [line for line in stderr.splitlines() if "waits" in line]
    assert waits
    names = r".+ waits: pid \d+, treadle build --threads 1 \(run \w+-\w+\) (computes it too|writes it)"
    assert [line for line in waits if not re.fullmatch(names, line)] == []
    with project.open() as workspace:
        runs = [workspace.state.run(run.id) for run in workspace.state.runs()]
        metas = [workspace.store.read(fingerprint) for fingerprint in undisturbed.standings[0].fingerprints]
    computed = Counter(step.fingerprint for run in runs if run for step in run.steps if step.status == "built")
    assert len(runs) == len(builds)
    steps = [version.fingerprint for version in metas if version and version.kind not in ("interval", "file")]
    assert computed == Counter(steps)
    assert project.leftovers() == []
    assert "\n".join(find_differences(read_standing(project.root), undisturbed.standings[0])) == ""
