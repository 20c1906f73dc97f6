"""`treadle compile`: whatever happened before, the manifest is the one that a first compilation writes."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from conftest import MakeProject, ProjectFolder

EDITS = [
    ("features/spend.sql", "\n-- {n}\n"),
    ("features/spend.sql", "\nlimit {n}"),
    ("features/more.sql", "select {n} as n"),
    ("treadle.yml", "# {n}\n"),
    ("target/manifest.json", "{n}"),
]
CALLS: list[tuple[str, ...]] = [(), (), (), ("--env", "production"), ("--as-of", "2024-01-02"), ("--vars", "{late: 2}")]


def compiled_anew(project: ProjectFolder, call: tuple[str, ...]) -> str:
    """Return the manifest of a copy that was never compiled."""
    copy = ProjectFolder(project.root.parent / "anew")
    shutil.rmtree(copy.root, ignore_errors=True)
    shutil.copytree(project.root, copy.root, ignore=shutil.ignore_patterns(".treadle", "target"))
    copy.treadle("compile", *call)
    return (copy.root / "target/manifest.json").read_text()


@pytest.mark.parametrize("seed", range(4))
def test_manifest_is_that_of_a_first_compilation(make_project: MakeProject, seed: int) -> None:
    rng = random.Random(seed)
    project = make_project("churn", {"treadle.yml": "name: churn\nenvironments: {production: {vars: {late: 1}}}\n"})
    manifest = project.root / "target/manifest.json"
    originals = {path: (project.root / path).read_text() for path in ("features/spend.sql", "treadle.yml")}
    n_kept, call = 0, ()
    for _ in range(12):
        for path, more in rng.sample(EDITS, rng.choice([0, 0, 0, 1, 2])):
            project.write(path, originals.get(path, "") + more.format(n=rng.randrange(9)))
        if rng.random() < 0.1:
            manifest.unlink(missing_ok=True)
        before = manifest.stat().st_ino if manifest.exists() else None
        call = rng.choice(CALLS) if rng.random() < 0.4 else call
        printed = project.treadle("compile", *call)
        assert manifest.read_text() == compiled_anew(project, call)
        is_kept = manifest.stat().st_ino == before
        assert is_kept == ("target/manifest.json is up to date" in printed.stdout.splitlines())
        n_kept += is_kept
    assert 0 < n_kept < 12


def test_nothing_changed_leaves_the_manifest_alone_and_says_so(make_project: MakeProject) -> None:
    project = make_project("churn")
    first = project.treadle("compile")
    assert first.stdout.splitlines()[1:] == ["wrote target/manifest.json", "next: treadle plan"]
    manifest = project.root / "target/manifest.json"
    before = manifest.stat()
    second = project.treadle("compile")
    assert second.stdout.splitlines() == [
        first.stdout.splitlines()[0],
        "target/manifest.json is up to date",
        "next: treadle plan",
    ]
    assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert project.json("compile") == json.loads(manifest.read_text())


def test_warnings_and_wrong_trainers_are_told_each_time(make_project: MakeProject) -> None:
    code = "from treadle import feature\n\n\n@feature\ndef p(orders):\n    return globals()[orders.name](orders)\n"
    project = make_project("churn", {"features/p.py": code})
    assert [project.treadle("compile").stderr.count("TR305") for _ in range(3)] == [1, 1, 1]
    project.edit("models/churn.yml", "max_depth: 2", "max_deep: 2")
    assert [project.treadle("compile", code=2).stderr.count("TR502") for _ in range(2)] == [1, 1]
