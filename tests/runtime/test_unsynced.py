"""Versions that reach the disk together: what the loss of power may leave, and what a killed run leaves."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from treadle_runtime import disk
from treadle_runtime.lock import hold_lock

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

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
    return orders.select("user", boot=pl.lit(open(".treadle/unsynced/" + note).read()))
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
        [(boot,)] = con.execute("select distinct boot from looking").fetchall()
    assert boot == BOOT.read_text().strip()
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
