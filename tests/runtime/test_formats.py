"""What each earlier Treadle left behind opens today, and what a later one left is refused.

Each folder in tests/fixtures/formats holds what the Treadle of its time wrote; see format_fixture.py.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import duckdb
import pytest
from format_fixture import FORMATS, NUMBERS, answers

from conftest import ProjectFolder
from treadle.fingerprint import to_canonical_json

NAMES = sorted(path.name for path in FORMATS.iterdir())


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def old(name: str, tmp_path: Path) -> ProjectFolder:
    """A copy of a project as an earlier Treadle left it."""
    root = tmp_path.resolve() / "shop"
    shutil.copytree(FORMATS / name / "project", root)
    shutil.copytree(FORMATS / name / "treadle", root / ".treadle")
    shutil.copytree(FORMATS / name / "documents", root / "target")
    return ProjectFolder(root)


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FORMATS / name / "format.json").read_text())
    return found


def test_every_format_number_has_a_folder() -> None:
    found = [recorded(name)["numbers"] for name in NAMES]
    fix = "run tests/runtime/format_fixture.py with a new name and commit the folder"
    assert NUMBERS in found, fix


def test_files_say_the_numbers_that_are_recorded(name: str, old: ProjectFolder) -> None:
    """The fixtures are what they claim to be: nobody brought them up to date."""
    con = sqlite3.connect(old.root / ".treadle/state.db")
    [version] = con.execute("PRAGMA user_version").fetchone()
    con.close()
    formats = {json.loads(content)["format"] for content in old.metas().values()}
    manifest = json.loads((old.root / "target/manifest.json").read_text())["manifest_version"]
    results = old.results()["results_version"]
    expected = recorded(name)["numbers"]
    assert version == expected["state"]
    assert max(formats) <= expected["store"]
    assert (manifest, results) == (expected["manifest"], expected["results"])


def test_old_project_says_what_it_said(name: str, old: ProjectFolder) -> None:
    with old.open() as workspace:
        found = json.loads(json.dumps(answers(workspace)))
        problems = [
            workspace.store.verify(version)
            for fingerprint in workspace.store.fingerprints()
            if (version := workspace.store.read(fingerprint)) is not None
        ]
    for key, expected in recorded(name).items():
        if key != "numbers":
            assert found[key] == expected, key
    assert problems == [[] for _ in found["versions"]]


def test_migration_keeps_a_backup_of_each_older_schema(name: str, old: ProjectFolder) -> None:
    before = recorded(name)["numbers"]["state"]
    with old.open() as workspace:
        assert workspace.state.read("PRAGMA user_version")[0][0] == NUMBERS["state"]
    backup = old.root / f".treadle/state.db.v{before}.bak"
    assert backup.exists() == (before < NUMBERS["state"])
    if backup.exists():  # it is the way back to the Treadle that wrote it
        con = sqlite3.connect(backup)
        assert con.execute("PRAGMA user_version").fetchone() == (before,)
        assert con.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert con.execute("SELECT count(*) FROM environments").fetchone()[0] == len(recorded(name)["environment"])
        con.close()


def test_fingerprints_are_the_same_where_what_computes_is_the_same(name: str, old: ProjectFolder) -> None:
    """Code, configuration and data are digested as they were: an upgrade alone makes nothing run again.

    The versions of the libraries, and Treadle's own revision of a kind of step, are taken as recorded: where
    they changed, steps do run again, and must.
    """
    known = recorded(name)
    plan = old.plan()
    fingerprints: dict[str, str] = {}
    n_compared = 0
    for step in plan.graph:
        before = known["components"].get(known["environment"].get(step.id, ""))
        components = dict(plan.identities[step.id].components)
        for key in components:
            if key.startswith("input:"):
                components[key] = fingerprints[key.removeprefix("input:")]
            elif before is not None and (key.startswith("with:") or key == "kind") and key in before:
                components[key] = before[key]
        fingerprints[step.id] = hashlib.sha256(to_canonical_json(components).encode()).hexdigest()
        if before is not None:
            assert components == before, step.id
            assert fingerprints[step.id] == known["environment"][step.id]
            n_compared += 1
    assert n_compared >= 9


def test_versions_with_the_same_fingerprint_are_reused(name: str, old: ProjectFolder) -> None:
    known = recorded(name)["environment"]
    before = old.metas()
    same = {p.step.id for p in old.plan() if p.fingerprint == known.get(p.step.id) and not p.step.is_inline}
    built = old.build()
    assert built.outcome.published
    assert same <= built.of("reused")
    assert before.items() <= old.metas().items()


def test_build_writes_the_catalog_over_an_old_stamp(old: ProjectFolder) -> None:
    old.build(tests="without")
    with duckdb.connect(str(old.root / ".treadle/dev.duckdb"), read_only=True) as con:
        assert con.sql("select count(*) from orders").fetchall() == [(120,)]
        assert con.sql("select count(*) from big").fetchall() == [(120,)]
        assert con.sql("select count(*) from spend").fetchall() == [(120,)]


def test_commands_read_an_old_project(name: str, old: ProjectFolder) -> None:
    known = recorded(name)
    assert [[run["id"], run["env"], run["status"]] for run in old.json("runs")] == known["runs"]
    assert [[m["pipeline"], m["number"]] for m in old.json("models")] == [m[:2] for m in known["models"]]
    assert old.json("show", "orders", "--limit", "1")["rows"] == 120


# newer


def test_newer_state_is_refused_by_every_command(old: ProjectFolder) -> None:
    path = old.root / ".treadle/state.db"
    newer = NUMBERS["state"] + 1
    con = sqlite3.connect(path)
    con.execute(f"PRAGMA user_version = {newer}")
    con.close()
    before = path.read_bytes()
    for command in ("build", "plan", "runs", "models", "clean", "debug"):
        result = old.treadle(command, code=1)
        assert result.stderr == (
            "error[TR801]: the state was written by a newer Treadle\n"
            f"  {path} has schema version {newer}; this Treadle knows versions up to {NUMBERS['state']}\n"
            "  fix: upgrade with `pip install --upgrade treadle`, or use the older one in a copy of the project without .treadle\n"
        ), command
    assert path.read_bytes() == before


def test_newer_version_in_the_store_is_refused(old: ProjectFolder) -> None:
    old.build(tests="without")
    with old.open() as workspace:
        fingerprint = workspace.state.environment("dev")["spend"]
    meta = old.root / ".treadle/store" / fingerprint / "meta.json"
    meta.chmod(0o644)
    meta.write_text(json.dumps({"format": NUMBERS["store"] + 1}))
    result = old.treadle("show", "spend", code=1)
    assert result.stderr.endswith(
        f'error[TR801]: the stored version "{fingerprint[:12]}" was written by a newer Treadle\n'
        f"  its format is {NUMBERS['store'] + 1}, this Treadle reads up to {NUMBERS['store']}\n"
        "  fix: upgrade treadle, or delete that folder\n"
    )
