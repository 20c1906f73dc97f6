"""`treadle clean`: what nothing refers to goes, and nothing else, whatever runs and reads beside it."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from records import forget, record_version

import treadle
from treadle.errors import UsageError
from treadle_runtime.environments import Environments
from treadle_runtime.housekeeping import Terms, find_unused, remove_unused
from treadle_runtime.leases import plan_and_hold
from treadle_runtime.mapstate import Candidate
from treadle_runtime.state import State
from treadle_runtime.store import Store

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder
    from treadle.plan import Plan

NOW = ("clean", "--older-than", "0s", "--keep", "0", "--yes")
"""Clean with no grace: what is left is what something refers to at this moment."""


def vary(project: ProjectFolder, n: int) -> None:
    """Write the n-th variant of a feature."""
    project.write(
        "features/spend.sql",
        "{{ config(entity='user', event_time='ts') }}\n"
        f"select user, ts, sum(amount) + {n} as total from {{{{ ref('orders') }}}} group by user, ts\n",
    )


def built(project: ProjectFolder, n: int) -> str:
    """Build the n-th variant and return its fingerprint."""
    vary(project, n)
    assert project.build().outcome.published
    with project.open() as workspace:
        return workspace.state.environment("dev")["spend"]


def clean_now(project: ProjectFolder) -> set[str]:
    """Clean with no grace; return the fingerprints that went."""
    return set(project.json(*NOW)["versions"])


def start_reader(project: ProjectFolder, code: str) -> subprocess.Popen[str]:
    """Start a program in the project's folder, and wait until it says that it reads."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=project.root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reads\n"
    return process


def answer(process: subprocess.Popen[str], line: str = "") -> str:
    """Send a line to a program and return the line that it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


# what goes


def test_clean_removes_what_nothing_refers_to(make_project: MakeProject) -> None:
    project = make_project("features")
    old, new = built(project, 1), built(project, 2)
    before = project.metas()
    assert project.treadle("clean", "--older-than", "0s", "--keep", "0", "--dry-run").stdout == (
        "step   versions  size\n"
        "spend  1         0.0 MiB\n"
        "1 version that nothing refers to, 0.0 MiB\n"
        "kept: 4 in an environment or the registry\n"
    )
    assert project.treadle("clean", "--older-than", "0s", "--keep", "0", answers="n\n").stdout.endswith("[y/N]: ")
    assert project.metas() == before
    found = project.json("clean", "--older-than", "0s", "--keep", "0")
    assert (found["removed"], list(found["versions"])) == (False, [old])
    assert found["versions"][old]["step"] == "spend"
    assert found["bytes"] == found["versions"][old]["bytes"] > 0
    assert project.metas() == before
    result = project.treadle(*NOW)
    assert result.stdout.splitlines()[-1] == "removed 0.0 MiB"
    assert set(before) - set(project.metas()) == {old}
    with project.open() as workspace:
        assert not workspace.state.has_version(old)
        assert workspace.state.has_version(new)
    assert project.reasons() == {}
    assert project.leftovers() == []
    assert project.json(*NOW)["versions"] == {}


def test_clean_leaves_what_was_needed_lately(make_project: MakeProject) -> None:
    project = make_project("features")
    built(project, 1), built(project, 2)
    assert project.treadle("clean", "--keep", "0", "--yes").stdout == (
        "0 versions that nothing refers to, 0.0 MiB\n"
        "1 more, 0.0 MiB, not old enough: `--older-than 0s` takes them too\n"
        "kept: 4 in an environment or the registry\n"
    )
    assert project.json("clean", "--keep", "0")["recent"]["versions"] == 1


def test_clean_keeps_what_a_rollback_needs(make_project: MakeProject) -> None:
    project = make_project("features")
    prints = [built(project, n) for n in range(4)]
    found = project.json("clean", "--older-than", "0s", "--yes")
    assert list(found["versions"]) == [prints[0]]
    assert {each["reason"]: each["versions"] for each in found["kept"]} == {"published": 4, "history": 2}
    assert list(project.json("clean", "--older-than", "0s", "--keep", "1", "--yes")["versions"]) == [prints[1]]
    assert set(prints[2:]) <= set(project.metas())


def test_clean_keeps_the_way_back_and_forth(make_project: MakeProject) -> None:
    """Rollbacks are publications too, and a view stands in the map as a version does."""
    view = "{{{{ config(materialized='view') }}}}\nselect id, amount > {n} as big from {{{{ ref('orders') }}}}"
    project = make_project("features")
    totals = {}
    for n in range(1, 6):
        project.write("features/big.sql", view.format(n=n))
        built(project, n)
        totals[n] = total(project)

    def clean(keep: int) -> None:
        project.treadle("clean", "--older-than", "0s", "--keep", str(keep), "--yes")

    clean(2)
    for n in (4, 3):
        project.treadle("env", "rollback", "dev")
        assert total(project) == totals[n]
    assert "after publication 2 names" in project.treadle("env", "rollback", "dev", code=2).stderr
    clean(2)  # now the last two publications are the rollbacks
    project.treadle("env", "rollback", "dev", "--to", "5")
    assert total(project) == totals[5]
    clean(2)
    for n in (4, 3):
        project.treadle("env", "rollback", "dev")
        assert total(project) == totals[n]
    clean(0)
    assert "that are not in the store" in project.treadle("env", "rollback", "dev", "--to", "5", code=2).stderr
    assert project.json("verify")["sound"]


@pytest.mark.parametrize("seed", range(12))
def test_kept_publications_can_be_rolled_back(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = Store(tmp_path / ".treadle", durable=False)
    with State(tmp_path / ".treadle/state.db") as state:
        environments = Environments(state, store, command="treadle env rollback dev")
        versions = [make_version(store, state, f"v{n}") for n in range(25)]
        run = state.start_run("dev", "treadle build")
        state.publish("dev", run, {"keel": versions[0]})
        maps = [state.environment("dev")]
        for fingerprint in versions[1:]:
            if rng.random() < 0.4:
                with suppress(UsageError):  # there is nothing before the first
                    environments.rollback("dev", to=rng.choice([None, 1]))
            else:
                state.publish("dev", run, {rng.choice("abc"): fingerprint}, drop=rng.choices("abc", k=rng.randrange(2)))
            maps.append(state.environment("dev"))
        state.finish_run(run, "passed")
        keep = rng.randrange(1, 4)
        terms = Terms(timedelta(0), keep)
        remove_unused(store, state, find_unused(store, state, terms).versions, terms)
        for _ in range(keep):
            try:
                environments.rollback("dev")
            except UsageError as error:
                assert error.problems[0].code == "TR603", error  # noqa: PT017
                break
            assert state.environment("dev") in maps


def test_age_is_a_duration(make_project: MakeProject) -> None:
    project = make_project("features")
    result = project.treadle("clean", "--older-than", "soon", code=2)
    assert "'soon' is no duration; write a whole number and us, ms, s, m, h, d or w, as in 30d" in result.stderr


def test_clean_passes_over_files_of_others(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    project.write(".treadle/store/.DS_Store", "")
    assert project.treadle(*NOW).stdout.startswith("0 versions that nothing refers to, 0.0 MiB\n")
    assert (project.root / ".treadle/store/.DS_Store").exists()


# against a model of the rules, on random histories


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def make_version(store: Store, state: State, name: str) -> str:
    """Store a small version and record it; return its fingerprint."""
    fingerprint = hashlib.sha256(name.encode()).hexdigest()
    with store.draft(fingerprint, kind="feature") as draft:
        (draft.folder / "part").write_text(name)
        draft.publish((), {})
    record_version(state, fingerprint, step=name)
    return fingerprint


@pytest.mark.parametrize("seed", range(15))
def test_clean_agrees_with_the_rules_spelled_out(tmp_path: Path, seed: int) -> None:
    rng, clock = random.Random(seed), Clock()
    store = Store(tmp_path / ".treadle", durable=False)
    state = State(tmp_path / ".treadle/state.db", clock=clock)
    maps: dict[str, list[tuple[datetime, dict[str, str]]]] = {"dev": [], "prod": [], "pr": []}
    created: dict[str, datetime] = {}
    models: set[str] = set()
    for n in range(30):
        clock.now += timedelta(hours=rng.randrange(30))
        fingerprint = make_version(store, state, f"v{n}")
        created[fingerprint] = clock.now
        env = rng.choice(list(maps))
        before = maps[env][-1][1] if maps[env] else {}
        drop = [step for step in before if rng.random() < 0.2]
        mapping = {rng.choice("abcd"): rng.choice(list(created)) for _ in range(rng.randrange(3))}
        if env == "pr" and rng.random() < 0.3:
            drop, mapping = list(before), {}
        after = {step: fp for step, fp in before.items() if step not in drop} | mapping
        candidates = []
        if rng.random() < 0.1:
            fields = ("choose", "twin", "shipped", "validate", "evaluate", "split", "dataset")
            chosen = {name: rng.choice(list(created)) for name in fields}
            candidates, models = [Candidate("p", "m", **chosen)], models | set(chosen.values())
        run = state.start_run(env, "treadle build")
        state.publish(env, run, mapping, drop=drop, candidates=candidates)
        state.finish_run(run, "passed")
        if after != before:
            maps[env].append((clock.now, after))
    keep, older_than = rng.randrange(4), timedelta(hours=rng.choice([0, 24, 100]))
    clock.now += timedelta(hours=1)
    # A version is needed while a map that is current, or that one of the last publications replaced, holds it.
    needed, last = set(models), dict(created)
    for history in maps.values():
        if history and history[-1][1]:
            needed |= {fp for _, each in history[-keep - 1 :] for fp in each.values()}
        for (_, one), (at, other) in pairwise(history):
            for step, fp in one.items():
                if other.get(step) != fp:
                    last[fp] = max(last[fp], at)
    expected = {fp for fp in created if fp not in needed and last[fp] < clock.now - older_than}
    terms = Terms(older_than, keep)
    found = find_unused(store, state, terms)
    assert set(found.versions) == expected
    assert set(found.recent) == {fp for fp in created if fp not in needed} - expected
    assert set(remove_unused(store, state, found.versions, terms)) == expected
    assert store.fingerprints() == set(created) - expected
    state.close()


def test_version_that_was_never_recorded_goes_by_its_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / ".treadle", durable=False)
    with State(tmp_path / ".treadle/state.db") as state:
        fingerprint = make_version(store, state, "v")
        forget(state, [fingerprint])
        assert set(find_unused(store, state, Terms()).recent) == {fingerprint}
        assert set(find_unused(store, state, Terms(timedelta(0))).versions) == {fingerprint}


# beside builds


SLOW = """\
import time
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def slow(orders: pl.LazyFrame) -> pl.LazyFrame:
    open("started", "w").close()
    while not open("go").read():
        time.sleep(0.02)
    return orders.select("user").unique()
"""


def test_running_build_keeps_what_its_plan_refers_to(make_project: MakeProject) -> None:
    project = make_project("features")
    one, two, three = (built(project, n) for n in (1, 2, 3))
    project.write("features/slow.py", SLOW)
    project.write("go", "")
    vary(project, 1)  # unpublished by now: the plan reuses it, and only the plan refers to it
    process = project.start("build", "--threads", "1")
    project.wait_for((project.root / "started").exists, "the build is in the middle of it")
    found = project.json(*NOW)
    assert set(found["versions"]) == {two}
    [run] = [each for each in found["kept"] if each["reason"] == "run"]
    assert run["holder"] == f"treadle build --threads 1 ({project.json('runs')[0]['id']})"
    assert run["versions"] >= 1
    assert {one, three} <= set(project.metas())
    project.write("go", "now")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    assert "spend" not in stderr  # it was reused
    assert clean_now(project) == {three}
    assert project.reasons() == {}


def test_killed_build_keeps_nothing(make_project: MakeProject) -> None:
    project = make_project("features", {"features/slow.py": SLOW, "go": ""})
    process = project.start("build", "--threads", "1")
    project.wait_for((project.root / "started").exists, "the build is in the middle of it")
    assert clean_now(project) == set()
    assert project.metas() != {}
    process.kill()
    process.communicate()
    standing = set(project.metas())
    assert standing
    assert clean_now(project) == standing  # of the run that was killed, and published nothing


def test_version_removed_while_the_plan_was_made_is_planned_again(make_project: MakeProject) -> None:
    project = make_project("features")
    one = built(project, 1)
    built(project, 2)
    vary(project, 1)
    plans: list[Plan] = []
    with project.open() as workspace:

        def make_plan() -> Plan:
            plans.append(workspace.plan())
            if len(plans) == 1:
                assert clean_now(project) == {one}  # the plan stands on it, and has not said so yet
            return plans[-1]

        run_id = workspace.state.start_run("dev", "treadle build")
        plan = plan_and_hold(make_plan, run_id, workspace.store, workspace.state)
        actions = [{planned.step.id: planned.action for planned in each} for each in plans]
        assert [each["spend"] for each in actions] == ["reuse", "build"]
        assert plan is plans[-1]
        assert clean_now(project) == set()
        workspace.state.finish_run(run_id, "failed")


CLEANER = """
import sys
from datetime import timedelta
from pathlib import Path
from treadle_runtime.housekeeping import Terms, find_unused, remove_unused
from treadle_runtime.state import State
from treadle_runtime.store import Store

terms = Terms(timedelta(0), 0)
store = Store(Path(".treadle").resolve())
n = 0
print("reads", flush=True)
with State(Path(".treadle/state.db").resolve()) as state:
    while not Path("stop").exists():
        n += len(remove_unused(store, state, find_unused(store, state, terms).versions, terms))
print(n, flush=True)
"""


def test_builds_beside_one_that_cleans_without_end(make_project: MakeProject) -> None:
    above = {0: "spend", 1: "on_0", 2: "on_1", 3: "on_2"}  # what is built waits unpublished for those that read it
    chain = {f"features/on_{n}.sql": f"select * from {{{{ ref('{name}') }}}}" for n, name in above.items()}
    project = make_project("features", chain)
    built(project, 0)
    cleaner = start_reader(project, CLEANER)
    rng = random.Random(1)
    try:
        for _ in range(12):
            built(project, rng.randrange(3))
            with project.open() as workspace:
                published = set(workspace.state.environment("dev").values())
                assert published == workspace.store.built(published)
    finally:
        project.write("stop", "")
    stdout, _ = cleaner.communicate(timeout=60)
    assert cleaner.returncode == 0
    assert int(stdout) >= 5
    assert project.reasons() == {}
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        assert con.sql("select count(*) from spend").fetchall() == [(300,)]


# beside readers


HANDLE = """
import sys, treadle
handle = treadle.open(".").step("spend")
print("reads", flush=True)
for line in sys.stdin:
    print(handle.table().num_rows, flush=True)
"""


@pytest.mark.parametrize("way", ["ends", "is killed"])
def test_open_project_keeps_what_it_may_read(make_project: MakeProject, way: str) -> None:
    project = make_project("features")
    one = built(project, 1)
    reader = start_reader(project, HANDLE)
    built(project, 2)
    found = project.json(*NOW)
    assert found["versions"] == {}
    [kept] = [each for each in found["kept"] if each["reason"] == "reader"]
    assert kept["holder"] == f"pid {reader.pid}, -c"
    assert f"1 for a reader pid {reader.pid}, -c" in project.treadle(*NOW).stdout
    assert answer(reader) == "300"
    if way == "is killed":
        reader.send_signal(signal.SIGKILL)
    reader.communicate(timeout=60)
    assert clean_now(project) == {one}
    assert list((project.root / ".treadle/leases").iterdir()) == []


def test_lease_ends_with_the_handle_or_the_workspace(make_project: MakeProject) -> None:
    project = make_project("features")
    one = built(project, 1)
    handle = treadle.open(project.root).step("spend")
    built(project, 2)
    assert clean_now(project) == set()
    assert handle.table().num_rows == 300
    del handle
    assert clean_now(project) == {one}
    with treadle.open(project.root) as workspace:
        workspace.step("spend")
        three = built(project, 3)
        workspace.step("spend")  # what was read before may still be looked at
        built(project, 4)
        assert clean_now(project) == set()
        assert three in project.metas()
    assert three in clean_now(project)
    assert project.leftovers() == []


CATALOG = """
import sys, duckdb
con = duckdb.connect(".treadle/dev.duckdb", read_only=True)
print("reads", flush=True)
for line in sys.stdin:
    print(con.execute("select sum(total)::bigint from spend").fetchone()[0], flush=True)
"""


def total(project: ProjectFolder) -> int:
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        [row] = con.execute("select sum(total)::bigint from spend").fetchall()
        return int(row[0])


def test_readers_of_replaced_catalogs_keep_their_versions(make_project: MakeProject) -> None:
    project = make_project("features")
    one, expected = built(project, 1), total(project)
    first = start_reader(project, CATALOG)
    two = built(project, 2)
    second = start_reader(project, CATALOG)
    built(project, 3)
    assert clean_now(project) == set()
    assert (answer(first), answer(second)) == (str(expected), str(expected + 300))
    assert total(project) == expected + 600
    first.communicate(timeout=60)
    assert clean_now(project) == {one}
    assert answer(second) == str(expected + 300)
    second.kill()
    second.communicate()
    assert clean_now(project) == {two}
    assert not (project.root / ".treadle/catalogs").exists()


def test_replaced_catalogs_go_with_clean_when_no_version_does(make_project: MakeProject) -> None:
    project = make_project("features")
    built(project, 1)
    reader = start_reader(project, CATALOG)
    built(project, 2)
    assert (project.root / ".treadle/catalogs").exists()
    reader.communicate(timeout=60)
    project.treadle("clean", "--dry-run")
    assert (project.root / ".treadle/catalogs").exists()
    assert "0 versions that nothing refers to" in project.treadle("clean").stdout
    assert not (project.root / ".treadle/catalogs").exists()


def test_catalog_is_kept_after_a_kill_between_its_two_names(make_project: MakeProject) -> None:
    project = make_project("features")
    one = built(project, 1)
    reader = start_reader(project, CATALOG)
    project.write(".treadle/catalogs/dev-1.json", "{}")
    built(project, 2)
    assert one not in clean_now(project)
    reader.communicate(timeout=60)
    assert one in clean_now(project)
    assert not (project.root / ".treadle/catalogs").exists()


def test_catalog_that_nobody_has_open_is_not_kept(make_project: MakeProject) -> None:
    project = make_project("features")
    built(project, 1), built(project, 2)
    assert not (project.root / ".treadle/catalogs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for open files in /proc")
def test_catalog_that_the_building_process_has_open_is_kept(make_project: MakeProject) -> None:
    """A notebook: DuckDB's own lock on the file is dropped when the same process copies it."""
    project = make_project("features")
    one, expected = built(project, 1), total(project)
    con = duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True)
    for n in (2, 3, 4):
        built(project, n)
    assert one not in json.loads(project.run(*NOW, "--json").stdout)["versions"]
    assert con.execute("select sum(total)::bigint from spend").fetchall() == [(expected,)]
    con.close()
    assert one in clean_now(project)
    assert not (project.root / ".treadle/catalogs").exists()


def test_catalog_that_could_not_be_written_keeps_what_it_shows(make_project: MakeProject) -> None:
    project = make_project("features")
    one, expected = built(project, 1), total(project)
    writer = start_reader(project, CATALOG.replace(", read_only=True", ""))
    built(project, 2)  # the catalog is held: it still shows the first variant
    assert clean_now(project) == set()
    assert answer(writer) == str(expected)
    writer.communicate(timeout=60)
    project.build()
    assert clean_now(project) == {one}


# in time


def test_nothing_is_removed_that_came_into_use_while_it_asked(make_project: MakeProject) -> None:
    project = make_project("features")
    one, _ = built(project, 1), built(project, 2)
    terms = Terms(timedelta(0), 0)
    with project.open() as workspace:
        store, state = workspace.store, workspace.state
        assert set(find_unused(store, state, terms).versions) == {one}
        run_id = state.start_run("dev", "treadle build")
        state.publish("dev", run_id, {"spend": one})
        state.finish_run(run_id, "passed")
        assert remove_unused(store, state, [one], terms) == []
        assert store.read(one) is not None
        assert state.has_version(one)


def test_clean_that_was_killed_leaves_nothing_half(make_project: MakeProject) -> None:
    """Withdrawn folders stand in tmp/, where every build sweeps."""
    project = make_project("features")
    one = built(project, 1)
    built(project, 2)
    with project.open() as workspace:
        workspace.store.withdraw([one])
    assert any((project.root / ".treadle/tmp").iterdir())
    assert project.build().outcome.published
    assert project.leftovers() == []
    assert one not in project.metas()
