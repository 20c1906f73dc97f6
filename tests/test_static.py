"""What can be told without running Treadle: style, types, and which way imports point."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        [BIN / "ruff", "check", "."],
        [BIN / "ruff", "format", "--check", "."],
        [BIN / "mypy"],
        [BIN / "pyright", "--pythonpath", sys.executable],
        [BIN / "lint-imports", "--no-cache"],
    ],
    ids=["ruff", "format", "mypy", "pyright", "imports"],
)
def test_tool_finds_nothing(command: list[str | Path]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_contract_is_enforced(tmp_path: Path) -> None:
    """A contract that cannot fail would be worse than none: a core module that imports the runtime is found."""
    for name in ("core", "runtime", "scaffold", "plugins"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "core").unlink()
    copy = tmp_path / "core" / "treadle"
    copy.mkdir(parents=True)
    for file in (ROOT / "core" / "treadle").glob("*.py"):
        (copy / file.name).write_text(file.read_text())
    (copy / "names.py").write_text((copy / "names.py").read_text() + "\nimport treadle_runtime.store\nimport duckdb\n")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    paths = ":".join(str(tmp_path / name) for name in ("core", "runtime", "scaffold", "plugins"))
    done = subprocess.run(
        [BIN / "lint-imports", "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": paths, "PATH": str(BIN)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "treadle.names -> treadle_runtime.store" in done.stdout
    assert "treadle.names -> duckdb" in done.stdout
