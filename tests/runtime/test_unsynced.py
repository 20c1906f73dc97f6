"""Versions that reach the disk together: what the loss of power may leave, and what a killed run leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from treadle.errors import StoreError
from treadle_runtime import disk
from treadle_runtime.lock import hold_lock

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder
    from treadle_runtime.store import Store

pytestmark = pytest.mark.skipif(not disk.HAS_SYNCFS, reason="every version is waited for by itself here")

RUN = "20260101T000000-ab12"
BOOT = Path("/proc/sys/kernel/random/boot_id")

LOOKING = """\
import os
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def looking(orders: pl.LazyFrame) -> pl.LazyFrame:
    [note] = os.listdir(".treadle/unsynced")
    open_there = [os.readlink(f"/proc/{os.getppid()}/fd/{name}") for name in os.listdir(f"/proc/{os.getppid()}/fd")]
    return orders.select(
        "user",
        boot=pl.lit(open(".treadle/unsynced/" + note).read()),
        is_watched=pl.lit(os.path.realpath(".treadle/store") in open_there),
    )
"""


def note(project: ProjectFolder, boot: str, *, age_s: float = 60.0) -> Path:
    """Write the note of a run that began to publish some time ago."""
    file = project.root / ".treadle/unsynced" / RUN
    file.parent.mkdir(exist_ok=True)
    file.write_text(boot)
    moment = time.time() - age_s
    os.utime(file, (moment, moment))
    return file


def part_of(project: ProjectFolder, step_id: str) -> Path:
    with project.open() as workspace:
        fingerprint = workspace.plan().identities[step_id].fingerprint
        return workspace.store.folder_of(fingerprint) / "part-0.parquet"


def lose(file: Path) -> None:
    """Leave a file as the loss of power does whose blocks were not written: its length, and zeros."""
    size = file.stat().st_size
    file.chmod(0o644)
    file.write_bytes(bytes(size))


def test_run_notes_itself_while_it_computes(make_project: MakeProject) -> None:
    project = make_project("features", {"features/looking.py": LOOKING})
    project.treadle("build")
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        found = con.execute("select distinct boot, is_watched from looking").fetchall()
    assert found == [(BOOT.read_text().strip(), True)]
    assert os.listdir(project.root / ".treadle/unsynced") == []


@pytest.mark.parametrize("loss", ["part", "meta", "folder"])
def test_what_the_loss_of_power_left_half_written_is_built_again(make_project: MakeProject, loss: str) -> None:
    project = make_project("features")
    project.build()
    part = part_of(project, "spend")
    whole = part.read_bytes()
    if loss == "part":
        lose(part)
    elif loss == "meta":
        lose(part.with_name("meta.json"))
    else:
        part.unlink()
    file = note(project, "the boot before")
    assert project.build().of("built") == {"spend"}
    assert part.read_bytes() == whole
    assert not file.exists()


def test_version_of_a_newer_treadle_keeps_nothing_from_being_looked_at(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    newer = project.root / ".treadle/store" / ("0" * 64)
    newer.mkdir()
    (newer / "meta.json").write_text('{"format": 99}')
    lose(part_of(project, "spend"))
    file = note(project, "the boot before")
    assert project.build().of("built") == {"spend"}
    assert newer.exists()
    assert not file.exists()


def test_what_stood_before_the_run_is_not_looked_at(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    lose(part_of(project, "spend"))
    note(project, "the boot before", age_s=-2 * 3600)
    assert project.build().of("built") == set()


def test_what_a_run_of_this_boot_published_stands(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    lose(part_of(project, "spend"))  # not by the loss of power: the machine never went down
    note(project, BOOT.read_text().strip())
    assert project.build().of("built") == set()


def test_note_of_a_killed_run_goes_when_another_has_waited(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    file = note(project, BOOT.read_text().strip())
    assert project.build().of("built") == set()
    assert not file.exists()


def test_note_of_a_run_in_work_stays(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    file = note(project, BOOT.read_text().strip())
    with hold_lock(project.root / ".treadle/runs" / f"{RUN}.lock"):
        project.build()
        assert file.exists()
    project.build()
    assert not file.exists()


def fail_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk fail while the system writes to it what it was given, which it tells at the next wait."""

    def fail(descriptor: int, path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(disk, "_sync_file_system", fail)


def test_what_did_not_reach_the_disk_is_withdrawn(make_project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make_project("features")
    project.build("orders")
    before, published = project.metas(), environment(project)
    time.sleep(0.02)  # a tick of the clock of files
    with monkeypatch.context() as faulty:
        fail_to_write(faulty)
        printed = project.treadle("build", code=1)
    assert printed.stderr.splitlines()[-4:] == [
        f"error[TR805]: {project.root}/.treadle/store cannot be written",
        f"  Input/output error: {project.root}/.treadle/store",
        "  withdrawn is what was published and may not be on the disk: 1 version",
        "  fix: see what the system tells of that disk (dmesg), then run the same command",
    ]
    assert project.metas() == before
    assert environment(project) == published
    assert os.listdir(project.root / ".treadle/unsynced") == []
    assert project.build().of("built") == {"spend"}
    assert project.leftovers() == []


def test_what_a_killed_run_published_is_withdrawn_too(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project("features")
    project.build()
    note(project, BOOT.read_text().strip())
    with monkeypatch.context() as faulty:
        fail_to_write(faulty)
        with pytest.raises(StoreError, match="TR805"):
            project.build()
    assert project.metas() == {}
    assert len(project.build().of("built")) == 4


def fingerprint_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def publish(store: Store, name: str) -> None:
    """Publish a version as a step of a run does."""
    fingerprint = fingerprint_of(name)
    with store.claim(fingerprint), store.draft(fingerprint, kind="feature") as draft:
        (draft.folder / "data.txt").write_text(name)
        draft.publish([], {})


def test_failed_wait_takes_nothing_that_another_run_has_waited_for(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project("features", {"treadle.yml": "name: shop\nenvironments: {dev: {}, prod: {}}\n"})
    with project.open() as workspace, hold_lock(project.root / ".treadle/runs" / f"{RUN}.lock"):
        store = workspace.store

        def run() -> None:
            with store.grouped(RUN):
                publish(store, "before")
                project.treadle("build", "--env", "prod")
                publish(store, "after")
                fail_to_write(monkeypatch)

        with pytest.raises(StoreError, match=r"may not be on the disk: 1 version\b"):
            run()
        monkeypatch.undo()
        published = workspace.state.environment("prod")
        assert len(published) == 4
        assert store.fingerprints() == {fingerprint_of("before"), *published.values()}
    with duckdb.connect(str(project.root / ".treadle/prod.duckdb"), read_only=True) as con:
        assert con.execute("select count(*) from spend").fetchall() == [(300,)]


@pytest.mark.parametrize("command", [("promote", "dev", "prod", "--yes"), ("rollback", "dev", "--to", "1")])
def test_environment_is_not_moved_to_what_the_loss_of_power_left_half_written(
    make_project: MakeProject, command: tuple[str, ...]
) -> None:
    project = make_project("features", {"treadle.yml": "name: shop\nenvironments: {dev: {}, prod: {}}\n"})
    project.build()
    lose(part_of(project, "spend"))
    note(project, "the boot before")
    printed = project.treadle("env", *command, code=2)
    assert "a version that is not in the store" in printed.stderr
    assert printed.stderr.splitlines()[0] == (
        "the loss of power left 1 version half written: it is removed, and `treadle build` makes it again"
    )
    assert project.build().of("built") == {"spend"}


@pytest.mark.parametrize("command", [("promote", "dev", "prod", "--yes"), ("rollback", "dev", "--to", "1")])
def test_environment_is_moved_to_what_is_on_the_disk(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """A version that was withdrawn, and made again by a run that was killed before it had waited."""
    project = make_project("features", {"treadle.yml": "name: shop\nenvironments: {dev: {}, prod: {}}\n"})
    project.build()
    file = note(project, BOOT.read_text().strip())
    with monkeypatch.context() as faulty:
        fail_to_write(faulty)
        assert "error[TR805]" in project.treadle("env", *command, code=1).stderr
    with project.open() as workspace:
        assert workspace.state.environment("prod") == {}
    project.build()
    file = note(project, BOOT.read_text().strip())
    project.treadle("env", *command)
    assert not file.exists()


@pytest.mark.parametrize("command", [("promote", "dev", "prod", "--yes"), ("rollback", "dev", "--to", "1")])
def test_nobody_waits_for_the_state_while_a_move_waits_for_the_disk(
    make_project: MakeProject, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    project = make_project("features", {"treadle.yml": "name: shop\nenvironments: {dev: {}, prod: {}}\n"})
    project.build()
    file = note(project, BOOT.read_text().strip())
    sync, later = disk._sync_file_system, file.with_name("20260101T000001-cd34")
    waits = 0

    def write_meanwhile(descriptor: int, path: Path) -> None:
        nonlocal waits
        waits += 1
        with closing(sqlite3.connect(project.root / ".treadle/state.db", timeout=0)) as con:
            con.execute("BEGIN IMMEDIATE")
        if waits == 1:  # a run that has begun meanwhile, and was killed
            later.write_text(BOOT.read_text().strip())
        sync(descriptor, path)

    monkeypatch.setattr(disk, "_sync_file_system", write_meanwhile)
    project.treadle("env", *command)
    assert waits == 2
    assert not file.exists()
    assert not later.exists()


@pytest.mark.parametrize(
    "command", [("build",), ("plan",), ("verify",), ("env", "list"), ("clean", "--dry-run"), ("show", "orders")]
)
def test_command_tells_what_the_loss_of_power_took(make_project: MakeProject, command: tuple[str, ...]) -> None:
    project = make_project("features")
    project.build()
    for step in ("spend", "test:unique_orders_id"):
        folder = part_of(project, step).parent
        lose(folder / "meta.json")
    note(project, "the boot before")
    code = 1 if command == ("verify",) else 0
    said = "the loss of power left 2 versions half written: they are removed, and `treadle build` makes them again"
    assert project.treadle(*command, code=code).stderr.splitlines()[0] == said
    assert said not in project.treadle("build").stderr


def environment(project: ProjectFolder) -> dict[str, str]:
    with project.open() as workspace:
        return workspace.state.environment("dev")
