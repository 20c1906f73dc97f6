"""examples/ as its README promises: built whole, on all of its data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import treadle

ROOT = Path(__file__).parent.parent


def build(folder: Path) -> dict[str, Any]:
    """Copy the example without what it has built, build it, and return step id -> info."""
    ignored = shutil.ignore_patterns(".treadle", "target")
    shutil.copytree(ROOT / "examples" / "flights", folder, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-m", "treadle", "build", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {step["id"]: step["info"] for step in json.loads(done.stdout)["steps"]}


def metas(folder: Path) -> dict[str, bytes]:
    """Return fingerprint -> meta.json, which holds the digest of every part."""
    return {path.parent.name: path.read_bytes() for path in (folder / ".treadle" / "store").glob("*/meta.json")}


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("examples") / "flights"
    return folder, build(folder)


def test_flights_reaches_its_figures_without_a_leak(flights: tuple[Path, dict[str, Any]]) -> None:
    _, info = flights
    auc = info["late_arrivals.trees.evaluate"]["test"]["roc_auc"]["value"]
    assert 0.75 <= auc <= 0.79, "far above is a leak: 0.874 comes from seeing a flight's own early departure"
    assert info["minutes_late.minutes.evaluate"]["test"]["mae"]["value"] <= 20.5
    assert info["late_arrivals.validate"]["passed"]


def test_flights_trains_on_nothing_after_october(flights: tuple[Path, dict[str, Any]]) -> None:
    folder, info = flights
    project = treadle.open(folder)
    dataset = project.step("arrivals").table()
    split = project.step("late_arrivals.split").version
    assert split is not None
    with pa.memory_map(str(split.folder / "parts.arrow")) as source:
        parts = pa.ipc.open_file(source).read_all()
        rows = pa.table(
            {"moment": dataset.column("_at"), "known": dataset.column("_label_known_at"), "part": parts["part"]}
        )
        with duckdb.connect() as con:
            con.register("rows", rows)
            query = (
                "select part, min(moment)::text, max(moment)::text, max(known)::text, count(*) from rows group by all"
            )
            found = {row[0]: row[1:] for row in con.execute(query).fetchall()}
    project.close()
    train, validation, test = (found[part] for part in (1, 2, 3))
    assert train[2] < "2013-09-02"
    assert validation[0] >= "2013-09-02"
    assert validation[2] < "2013-11-01"
    assert test[0] >= "2013-11-01"
    assert sum(row[3] for row in found.values()) == 336_776
    assert [row[3] for row in (train, validation, test)] == list(info["late_arrivals.split"]["counts"].values())


def test_two_builds_of_flights_are_equal_byte_for_byte(flights: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _ = flights
    build(tmp_path / "again")
    assert metas(tmp_path / "again") == metas(folder)
