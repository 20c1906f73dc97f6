"""`treadle models`: what is promoted and shown stands in the store, and is as it was written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from treadle_runtime.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import ProjectFolder


def folder_of(project: ProjectFolder, part: str) -> Path:
    """Return where a part of the first version stands: `shipped` or `twin`."""
    with project.open() as workspace:
        version = Registry(workspace.state).version("churn", 1, env="dev")
    return project.root / ".treadle/store" / str(getattr(version, part))


def champion(project: ProjectFolder) -> int | None:
    with project.open() as workspace:
        found = workspace.registry.champion("churn", env="dev")
        return found.number if found else None


@pytest.mark.parametrize("part", ["shipped", "twin"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_version_whose_files_are_gone_is_not_promoted(churn: ProjectFolder, part: str, force: tuple[str, ...]) -> None:
    folder = folder_of(churn, part)
    shutil.rmtree(folder)
    what = "model" if part == "shipped" else "held-out twin"
    assert churn.treadle("models", "promote", "churn", "1", *force, code=2).stderr == (
        'error[TR807]: version 1 of "churn" is not in the store any more\n'
        f"  its {what} {folder.name[:12]} is gone\n"
        "  fix: promote another version, or run `treadle build --env dev`: it makes the version again if the files and the data"
        " are still those that it was made from\n"
    )
    assert champion(churn) is None
    churn.treadle("build", "--threads", "1")
    churn.treadle("models", "promote", "churn", "1", *force)
    assert champion(churn) == 1


@pytest.mark.parametrize("part", ["shipped", "twin"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_version_that_is_damaged_is_not_promoted(churn: ProjectFolder, part: str, damage: str) -> None:
    file = folder_of(churn, part) / "model/model.json"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.chmod(0o644)
    file.write_bytes(content[:-1] if damage == "cut" else content)
    for force in ((), ("--force",)):
        stderr = churn.treadle("models", "promote", "churn", *force, code=1).stderr
        assert stderr.startswith(f'error[TR804]: the stored version "{folder_of(churn, part).name[:12]}" is damaged\n')
        assert stderr.endswith(
            "  fix: promote another version, or run `treadle verify --repair` and the commands that it prints\n"
        )
    assert champion(churn) is None


def test_version_that_is_gone_is_marked_and_shown_as_such(churn: ProjectFolder) -> None:
    assert [version["in_store"] for version in churn.json("models")] == [True]
    assert "not in the store" not in churn.treadle("models").stdout
    shutil.rmtree(folder_of(churn, "shipped"))
    assert [version["in_store"] for version in churn.json("models")] == [False]
    assert churn.treadle("models").stdout.splitlines()[1].endswith("  not in the store")
    card = churn.json("show", "churn")
    assert (card["in_store"], card["trainer"]) == (False, None)
    text = churn.treadle("show", "churn").stdout
    assert "None" not in text
    assert text.startswith(
        f"churn version 1 (candidate): {card['model']}, not in the store any more\n"
        "fix: run `treadle build --env dev`: it makes the version again if the files and the data are still those that it was"
        " made from\n"
    )
