"""The next command that is told: pasted, it works, as it carries the options that were given."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

FILES = {
    "treadle.yml": "name: shop\nenvironments: {production: {}, staging: {}}\nvars: {least: 0}\n",
    "features/recent.sql": "select * from {{ ref('spend') }} where total >= {{ var('least') }}",
}


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    """A project in a folder whose name a shell would take apart."""
    return make_project("features", FILES, name="my shop")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("build", "show recent"),
        ("build --env production", "show recent --env production"),
        ("build --select 'spend orders' --env production --threads 1", "show spend --env production"),
        ("build --vars '{least: 5}' --as-of 2024-02-01", "show recent --vars '{least: 5}' --as-of 2024-02-01T00:00:00+00:00"),
        ("run spend --defer production --json --select recent", None),
        ("run spend --defer production", "show spend --defer production"),
        ("test --env production", "show orders --env production"),
        ("compile --env production", "plan --env production"),
        ("plan --env production --all", "build --env production"),
        ("plan --select 'recent spend' --exclude spend --exclude orders", "build --select 'recent spend' --exclude spend --exclude orders"),
        ("plan --select state:new --state production --defer production", "build --select state:new --state production --defer production"),
        ("plan --state production", "build"),
        ("why recent --state production --vars '{least: 7}'", "build --select recent --vars '{least: 7}'"),
        ("models --env production", "build --env production"),
        ("env show staging", "build --env staging"),
        ("env diff dev production", None),
    ],
)  # fmt: skip
def test_next_command_carries_what_it_takes(project: ProjectFolder, command: str, expected: str | None) -> None:
    result = project.treadle(*shlex.split(command))
    found = [line for line in result.stdout.splitlines() if line.startswith("next: ")]
    assert found == ([] if expected is None else [f"next: treadle {expected}"])


def test_pasted_command_means_the_same_project_and_environment(project: ProjectFolder) -> None:
    """From the folder above, as a shell would run it."""
    above = project.root.parent

    def paste(line: str) -> list[str]:
        text = line.removeprefix("next: ").replace("treadle ", f"{shlex.quote(sys.executable)} -m treadle ", 1)
        done = subprocess.run(text, shell=True, cwd=above, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    options = "--project 'my shop' --env production --vars '{least: 5}'"
    line = f"treadle compile {options}"
    for verb in ("compile", "plan", "build", "show recent"):
        assert line.startswith(f"treadle {verb} --project 'my shop' --env production --vars '{{least: 5}}'")
        *rest, line = paste(line)
        line = line.removeprefix("next: ")
    assert rest[0].split() == ["user", "ts", "total", "n"]
    *_, line = paste(f"treadle env promote production staging --project {shlex.quote('my shop')} --yes")
    assert line == "next: treadle env show staging --history --project 'my shop'"
    assert paste(line)[0].startswith("publication")


def test_retry_carries_the_options_of_the_run_that_it_goes_on_with(project: ProjectFolder) -> None:
    project.edit("features/recent.sql", "*", "nothing")
    asked = ("--vars", "{least: 2}", "--as-of", "2024-02-01", "--defer", "production", "--select", "recent")
    project.treadle("build", "--env", "staging", *asked, code=1)
    project.edit("features/recent.sql", "nothing", "*")
    *_, line = project.treadle("retry", "--env", "staging").stdout.splitlines()
    given = """--vars '{"least": 2}' --as-of 2024-02-01T00:00:00+00:00 --defer production"""
    assert line == f"next: treadle show recent --env staging {given}"
    assert project.treadle(*shlex.split(line.removeprefix("next: treadle "))).stdout.split()[:2] == ["user", "ts"]


def test_retry_of_a_run_without_options_tells_none(project: ProjectFolder) -> None:
    project.edit("features/recent.sql", "*", "nothing")
    project.treadle("build", code=1)
    project.edit("features/recent.sql", "nothing", "*")
    assert project.treadle("retry").stdout.splitlines()[-1] == "next: treadle show recent"


def test_verify_tells_a_repair_of_what_it_looked_at(project: ProjectFolder) -> None:
    project.treadle("build", "--env", "production")
    with project.open(environment="production") as workspace:
        part = workspace.step("spend").version.folder / "part-0.parquet"  # type: ignore[union-attr]
    part.chmod(0o644)
    part.write_bytes(b"")
    result = project.treadle("verify", "--env", "production", "--select", "spend", "--exclude", "test:*", code=1)
    assert result.stdout.splitlines()[-1] == (
        "next: treadle verify --repair --env production --select spend --exclude 'test:*'"
        " && treadle build --select spend --env production"
    )
