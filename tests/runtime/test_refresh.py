"""--full-refresh: what is selected is computed again and compared; the first result stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

NOISY = {
    "features/noisy.py": """\
import random

import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def noisy(orders: pl.LazyFrame) -> pl.LazyFrame:
    return orders.select("user").unique().sort("user").with_columns(noise=random.random())
""",
}


def fingerprint_of(project: ProjectFolder, name: str) -> str:
    with project.open() as workspace:
        return workspace.state.environment("dev")[name]


def built_by(project: ProjectFolder, name: str) -> str:
    return str(project.json("why", name)["built"]["run"])


def test_same_bytes_are_said_so_and_the_first_run_is_remembered(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    before, run = project.metas(), built_by(project, "spend")
    printed = project.treadle("run", "--select", "spend", "--full-refresh")
    assert printed.stderr.splitlines()[1].strip() == "note: computed again, with the same bytes"
    assert printed.stdout.startswith("1 built, 0 reused in ")
    assert project.metas() == before
    assert built_by(project, "spend") == run
    assert project.leftovers() == []


def test_only_what_is_selected_is_computed(make_project: MakeProject) -> None:
    project = make_project("features", {"features/top.sql": "select max(total) as most from {{ ref('spend') }}\n"})
    project.build()
    assert project.build("spend+", tests="without", full_refresh=True).of("built") == {"spend", "top"}
    assert project.build("top", tests="without", full_refresh=True).statuses == {"top": "built"}
    assert project.build("orders", full_refresh=True).of("built") == {
        "orders",
        "test:not_null_orders_id",
        "test:unique_orders_id",
    }


def test_other_bytes_are_warned_of_and_the_first_stay(make_project: MakeProject) -> None:
    project = make_project("features", NOISY)
    project.build()
    before, run = project.metas(), built_by(project, "noisy")
    printed = project.treadle("run", "--select", "noisy", "--full-refresh")
    notes = [line.strip() for line in printed.stderr.splitlines()[1:]]
    short = fingerprint_of(project, "noisy")[:12]
    assert notes == [
        f"note: a second build of {short} gave other bytes: it is not reproducible; the first stays",
        "note: part-0.parquet differs; its Python may draw random numbers, read the clock, or go by the order of a set or of files; polars adds the floats of a lazy frame in any order",
    ]
    assert project.metas() == before
    assert built_by(project, "noisy") == run


@pytest.mark.parametrize("damage", ["flipped", "shortened", "no meta"])
def test_damaged_version_is_not_replaced(make_project: MakeProject, damage: str) -> None:
    project = make_project("features")
    project.build()
    folder = project.root / ".treadle/store" / fingerprint_of(project, "spend")
    before = (folder / "meta.json").read_bytes()
    part = folder / json.loads(before)["parts"][0]["name"]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    for path in (part, folder / "meta.json"):
        path.chmod(0o644)
    if damage == "no meta":
        (folder / "meta.json").unlink()
    else:
        part.write_bytes(content if damage == "flipped" else content[:-1])
    printed = project.treadle("run", "--select", "spend", "--full-refresh", code=1)
    assert f'error[TR804]: the stored version "{folder.name[:12]}" is damaged' in printed.stderr
    assert "fix: run `treadle verify --repair`, then the same command" in printed.stderr
    project.treadle("verify", "--repair")
    project.treadle("run", "--select", "spend", "--full-refresh")
    assert (folder / "meta.json").read_bytes() == before, "the same step gives the same bytes"
    with project.open() as workspace:
        assert workspace.store.find_damage(folder.name) == []
    assert project.leftovers() == []
