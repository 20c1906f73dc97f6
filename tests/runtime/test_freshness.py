"""`treadle freshness`: the newest moment of each source against now, found once for each content."""

from __future__ import annotations

import hashlib
import json
import os
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from treadle_runtime.freshness import Freshness, check_freshness, judge

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

NOW = datetime(2024, 2, 1, 12, tzinfo=UTC)


def source(freshness: str, *, name: str = "events", path: str = "data/events.csv", more: str = "") -> str:
    return f"  - {{name: {name}, path: {path}, freshness: {{{freshness}}}{more}}}\n"


def events(*moments: str) -> str:
    return "id,at\n" + "".join(f"{n},{moment}\n" for n, moment in enumerate(moments))


def project_of(make: MakeProject, *sources: str, data: str = "") -> ProjectFolder:
    return make(
        {"treadle.yml": "name: p\n", "features/s.yml": "sources:\n" + "".join(sources), "data/events.csv": data}
    )


def check(project: ProjectFolder, now: datetime = NOW) -> dict[str, Freshness]:
    with project.open() as workspace:
        steps = [step for step in workspace.graph if "freshness" in step.settings]
        found = check_freshness(
            steps,
            root=workspace.root,
            allow_paths=workspace.compiled.allow_paths,
            store=workspace.store,
            state=workspace.state,
            now=now,
        )
    return {each.step.name: each for each in found}


# the level


@pytest.mark.parametrize(
    ("limits", "age", "level"),
    [
        ("warn_after: 12h, error_after: 1d", timedelta(hours=12), "fresh"),
        ("warn_after: 12h, error_after: 1d", timedelta(hours=12, microseconds=1), "warn"),
        ("warn_after: 12h, error_after: 1d", timedelta(days=1), "warn"),
        ("warn_after: 12h, error_after: 1d", timedelta(days=1, microseconds=1), "error"),
        ("warn_after: 12h", timedelta(days=300), "warn"),
        ("error_after: 90m", timedelta(minutes=91), "error"),
        ("error_after: 90m", timedelta(minutes=-5), "fresh"),
    ],
)
def test_age_beyond_a_limit_is_its_level(make_project: MakeProject, limits: str, age: timedelta, level: str) -> None:
    moment = (NOW - age).replace(tzinfo=None).isoformat(sep=" ")
    kind = ", columns: [{name: at, type: TIMESTAMP}]"
    data = events("2020-01-01", moment, "2021-01-01")
    project = project_of(make_project, source(f"column: at, {limits}", more=kind), data=data)
    found = check(project)["events"]
    assert (found.level, found.newest, found.age) == (level, NOW - age, age)


@pytest.mark.parametrize(
    ("limits", "level"), [("warn_after: 1d", "warn"), ("warn_after: 1d, error_after: 2d", "error")]
)
def test_source_without_a_moment_is_beyond_its_last_limit(make_project: MakeProject, limits: str, level: str) -> None:
    project = project_of(
        make_project, source(f"column: at, {limits}", more=", columns: [{name: at, type: TIMESTAMP}]"), data="id,at\n"
    )
    found = check(project)["events"]
    assert (found.level, found.newest, found.age) == (level, None, None)


# the newest moment


def test_newest_value_equals_a_plain_maximum(make_project: MakeProject) -> None:
    """Random moments, in every format and form of time, read from the file and from the built version."""
    rng = random.Random(5)
    moments = [datetime(2023, 1, 1) + timedelta(seconds=rng.randrange(40_000_000)) for _ in range(500)]
    texts = [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments]
    files = ("csv", "json", "parquet", "duckdb")
    kinds = ("TIMESTAMP", "TIMESTAMPTZ", "DATE", "TIMESTAMP_S", "TIMESTAMP_NS")
    columns = ", ".join(f"{{name: {kind.lower()}, type: {kind}}}" for kind in kinds)
    sources = [
        source(
            f"column: {kind.lower()}, warn_after: 1d",
            name=f"{form}_{kind.lower()}",
            path=f"data/t.{form}",
            more=f", columns: [{columns}]",
        )
        for form in files
        for kind in kinds
    ]
    project = project_of(make_project, *sources)
    casts = ", ".join(f"cast(x as {kind}) as {kind.lower()}" for kind in kinds)
    table = f"select {casts} from (select unnest({texts!r}) as x)"
    data = project.root / "data"
    with duckdb.connect() as con:
        con.execute("set TimeZone = 'UTC'")
        for form in files[:3]:
            con.execute(f"copy ({table}) to '{data}/t.{form}'")
        con.execute(f"attach '{data}/t.duckdb' as d; create table d.t as {table}")
    newest = max(moments).replace(tzinfo=UTC)
    for is_built in (False, True):
        if is_built:
            project.build()
            with project.open() as workspace, workspace.state.transaction() as con_state:
                con_state.execute("DELETE FROM freshness")
        for name, found in check(project).items():
            expected = newest.replace(hour=0, minute=0, second=0) if name.endswith("_date") else newest
            assert found.newest == expected, (name, found.problems)


def test_without_a_column_the_newest_file_counts(make_project: MakeProject) -> None:
    project = project_of(make_project, source("warn_after: 1h", path="data/*.csv"), data=events("1999-01-01"))
    project.write("data/older.csv", events("1999-01-01"))
    for name, hours in (("events", 2), ("older", 30)):
        seconds = (NOW - timedelta(hours=hours)).timestamp()
        os.utime(project.root / f"data/{name}.csv", (seconds, seconds))
    found = check(project)["events"]
    assert (found.level, found.age) == ("warn", timedelta(hours=2))


def test_infinity_is_no_moment(make_project: MakeProject) -> None:
    data = events("2024-02-01 11:00:00", "infinity", "-infinity")
    kind = ", columns: [{name: at, type: TIMESTAMP}]"
    project = project_of(make_project, source("column: at, warn_after: 1d", more=kind), data=data)
    assert check(project)["events"].age == timedelta(hours=1)


# what is remembered


def test_unchanged_source_is_not_read_again(make_project: MakeProject) -> None:
    project = project_of(make_project, source("column: at, warn_after: 1d"), data=events("2024-02-01 11:00:00"))
    first = check(project)["events"]
    file = project.root / "data/events.csv"
    stat = file.stat()
    with project.open() as workspace:  # what is remembered is what is answered
        assert workspace.state.read("SELECT count(*) FROM freshness")[0][0] == 1
        with workspace.state.transaction() as con:
            con.execute("UPDATE freshness SET newest_us = newest_us + 1000000")
    second = check(project)["events"]
    assert first.newest is not None
    assert second.newest == first.newest + timedelta(seconds=1)
    file.write_text(events("2024-02-01 11:30:00"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check(project)["events"].newest == datetime(2024, 2, 1, 11, 30, tzinfo=UTC)


def test_source_without_rows_is_remembered_too(make_project: MakeProject) -> None:
    kind = ", columns: [{name: at, type: TIMESTAMP}]"
    project = project_of(make_project, source("column: at, warn_after: 1d", more=kind), data="id,at\n")
    assert check(project)["events"].newest is None
    with project.open() as workspace:
        assert workspace.state.read("SELECT newest_us FROM freshness")[0][0] is None
    assert check(project)["events"].level == "warn"


def test_freshness_enters_no_fingerprint(make_project: MakeProject) -> None:
    project = project_of(make_project, source("column: at, warn_after: 1d"), data=events("2024-02-01"))
    project.build()
    project.edit("features/s.yml", "warn_after: 1d", "warn_after: 2d, error_after: 9d")
    assert project.reasons() == {}
    project.write("features/s.yml", "sources: [{name: events, path: data/events.csv}]\n")
    assert project.reasons() == {}


# the command


def ages(project: ProjectFolder, **hours: float) -> None:
    """Write a source for each name whose newest row is so many hours old."""
    for name, n in hours.items():
        moment = datetime.now(UTC) - timedelta(hours=n)
        project.write(f"data/{name}.csv", events(f"{moment:%Y-%m-%d %H:%M:%S}"))
    limits = "column: at, warn_after: 12h, error_after: 1d"
    text = "".join(source(limits, name=name, path=f"data/{name}.csv") for name in hours)
    project.write("features/s.yml", f"sources:\n{text}")


def test_command_shows_a_table_and_writes_it_down(make_project: MakeProject) -> None:
    project = make_project({"treadle.yml": "name: p\n"})
    ages(project, new=1.01, old=13.01)
    lines = project.treadle("freshness").stdout.splitlines()
    assert lines[0].split() == ["source", "newest", "(UTC)", "age", "limit", "level"]
    assert [line.split()[0] for line in lines[1:]] == ["new", "old"]
    assert [line.split()[-1] for line in lines[1:]] == ["fresh", "warn"]
    assert "  1 h  " in lines[1]
    assert "  13 h  " in lines[2]
    ages(project, new=1.01, older=50.01)
    result = project.treadle("freshness", code=1)
    assert " 2 d 2 h " in result.stdout
    assert "error_after 1d  error" in result.stdout
    found = project.json("freshness", code=1)
    assert json.loads((project.root / "target/freshness.json").read_text()) == found
    assert (found["freshness_version"], found["environment"]) == (1, "dev")
    assert datetime.fromisoformat(found["checked_at"]).tzinfo is not None
    [new, older] = found["sources"]
    assert (new["name"], new["level"], new["problems"]) == ("new", "fresh", [])
    assert {key: older[key] for key in ("level", "column", "warn_after", "error_after")} == {
        "level": "error",
        "column": "at",
        "warn_after": "12h",
        "error_after": "1d",
    }
    assert 50 * 3600 < older["age_seconds"] < 51 * 3600


def test_selection_takes_sources_and_what_selected_steps_read(make_project: MakeProject) -> None:
    project = make_project({"treadle.yml": "name: p\n", "features/top.sql": "select * from {{ ref('old') }}"})
    ages(project, new=1, old=99)
    assert [s["name"] for s in project.json("freshness", "--select", "new")["sources"]] == ["new"]
    assert [s["name"] for s in project.json("freshness", "--select", "top", code=1)["sources"]] == ["old"]
    assert "TR601" in project.treadle("freshness", "--select", "nwe", code=2).stderr


def test_nothing_to_check_says_what_to_write(make_project: MakeProject) -> None:
    project = make_project("features")
    assert project.treadle("freshness").stdout.splitlines() == [
        "no source says how fresh it must be",
        "next: add `freshness: {warn_after: 1d}` to one, in features/",
    ]
    assert project.json("freshness")["sources"] == []


# what is wrong


def problem(project: ProjectFolder) -> list[str]:
    result = project.treadle("freshness", code=1)
    assert result.stdout.splitlines()[1].split()[-1] == "unknown"
    return result.stderr.splitlines()


def test_missing_column_is_named(make_project: MakeProject) -> None:
    project = project_of(make_project, source("column: att, warn_after: 1d"), data=events("2024-02-01"))
    assert problem(project) == [
        'error[TR706]: source "events" has no column "att", which tells how fresh it is',
        "  features/s.yml:2:6   - {name: events, path: data/events.csv, freshness: {column: att, warn_after: 1d}}",
        "  its columns: id, at",
        "  did you mean: at",
    ]


def test_column_that_is_no_time_is_named(make_project: MakeProject) -> None:
    project = project_of(make_project, source("column: id, warn_after: 1d"), data=events("2024-02-01"))
    assert problem(project) == [
        'error[TR712]: column "id" of source "events" is no time, and cannot tell how fresh it is',
        "  features/s.yml:2:6   - {name: events, path: data/events.csv, freshness: {column: id, warn_after: 1d}}",
        "  its type is BIGINT",
        "  fix: declare its type in `columns`, as in {name: id, type: TIMESTAMP}, or name another column",
    ]


def test_source_that_cannot_be_read_leaves_the_others(make_project: MakeProject) -> None:
    project = make_project({"treadle.yml": "name: p\n"})
    ages(project, new=1, old=1)
    (project.root / "data/old.csv").unlink()
    found: Any = project.json("freshness", code=1)
    assert [(s["name"], s["level"], len(s["problems"])) for s in found["sources"]] == [
        ("new", "fresh", 0),
        ("old", "unknown", 1),
    ]
    assert found["sources"][1]["problems"][0]["code"] == "TR713"


@pytest.mark.parametrize("harm", ["flipped", "cut"])
def test_damaged_version_is_named_and_leaves_the_others(make_project: MakeProject, harm: str) -> None:
    kind = ", columns: [{name: at, type: TIMESTAMP}]"
    project = project_of(
        make_project,
        source("column: at, warn_after: 1d", more=kind),
        source("column: at, warn_after: 1d", name="others", path="data/others.csv", more=kind),
    )
    for name in ("events", "others"):
        moments = (f"2024-01-{day:02} {hour:02}:00:00" for day in range(1, 29) for hour in range(24))
        project.write(f"data/{name}.csv", events(*moments).replace("id", f"{name}_id"))
    project.build()
    with project.open() as workspace:
        folder = workspace.store.folder_of(workspace.state.environment("dev")["events"])
    part = folder / "part-0.parquet"
    content = part.read_bytes()
    part.chmod(0o644)
    part.write_bytes(content[:-1] if harm == "cut" else content[:4] + bytes(len(content) - 12) + content[-8:])
    result = project.run("freshness", code=1)
    found = result.stdout.splitlines()
    assert [line.split()[0] + " " + line.split()[-1] for line in found[1:]] == ["events unknown", "others warn"]
    why = {
        "cut": f"part-0.parquet has {len(content) - 1} bytes, {len(content)} were written",
        "flipped": f"part-0.parquet has sha256 {hashlib.sha256(part.read_bytes()).hexdigest()[:12]}..., "
        f"{hashlib.sha256(content).hexdigest()[:12]}... was written",
    }
    assert result.stderr == (
        f'error[TR804]: the stored version "{folder.name[:12]}" is damaged\n'
        f"  {folder}\n"
        f"  {why[harm]}\n"
        "  fix: run `treadle verify --repair`, then the same command: what was damaged is made again\n"
    )


@pytest.mark.parametrize(
    ("freshness", "why"),
    [
        ("column: at", "give warn_after, error_after or both, such as 12h"),
        ("warn_after: 2d, error_after: 1d", "warn_after 2d is not shorter than error_after 1d"),
        ("warn_after: 0s", "it is no time at all; write one such as 10m, or leave it out"),
        ("warn_after: soon", "'soon' is no duration"),
        ("warn_after: 1d, by: at", '"by" is no key here'),
    ],
)
def test_wrong_limit_is_told(make_project: MakeProject, freshness: str, why: str) -> None:
    stderr = project_of(make_project, source(freshness), data=events("2024-02-01")).treadle("freshness", code=2).stderr
    assert stderr.startswith("error[TR00")
    assert why in stderr


def test_judge_is_told_of_no_moment(make_project: MakeProject) -> None:
    project = project_of(make_project, source("error_after: 1d"), data=events("2024-02-01"))
    with project.open() as workspace:
        step = workspace.graph["events"]
    assert judge(step, None, NOW).level == "error"
    assert judge(step, int(NOW.timestamp() * 1e6), NOW).level == "fresh"
