"""The distribution as people get it: a wheel, installed in an environment of its own, used outside the tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(command: list[str | Path], cwd: Path) -> str:
    """Run a command without this checkout's environment and return what it printed on stdout."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, install it with its base dependencies alone, and return the environment's bin folder."""
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], folder)
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    wheel = next(folder.glob("*.whl"))
    python = folder / "venv" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "-c", ROOT / "ci" / "constraints.txt", wheel], folder)
    return python.parent


def test_wheel_brings_templates_and_commands(installed: Path, tmp_path: Path) -> None:
    run([installed / "treadle", "init", "first"], tmp_path)
    run([installed / "treadle", "build"], tmp_path / "first")
    models = json.loads(run([installed / "treadle", "models", "--json"], tmp_path / "first"))
    assert [model["number"] for model in models] == [1]
    assert models[0]["aliases"] == ["candidate"]


def test_wheel_installs_no_heavy_library(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(run([installed / "python", "-m", "pip", "list", "--format", "json"], tmp_path))
    names = {entry["name"].lower() for entry in listed}
    assert "treadle" in names
    assert not names & {"torch", "lightgbm", "xgboost", "pandas", "docker", "pytest"}


def test_wheel_has_types(installed: Path, tmp_path: Path) -> None:
    shown = run([installed / "python", "-c", "import treadle; print(treadle.__file__)"], tmp_path)
    assert (Path(shown.strip()).parent / "py.typed").exists()
    assert str(ROOT) not in shown
