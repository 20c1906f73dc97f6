"""Whether a catalog is open is told from outside, and asking is not noticed by who reads it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from treadle_runtime.oldcatalogs import is_open, may_have_writer

OPEN = """
import duckdb, sys
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("open", flush=True)
sys.stdin.read()
"""
ASK = """
import sys
from pathlib import Path
from treadle_runtime.oldcatalogs import is_open, may_have_writer
print("asks", flush=True)
while True:
    is_open(Path(sys.argv[1])), may_have_writer(Path(sys.argv[1]))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "dev.duckdb"
    duckdb.connect(str(path)).close()
    return path


def started(*command: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


@pytest.mark.parametrize(("mode", "is_writer"), [("read", False), ("write", True)])
def test_who_has_it_open_is_told_with_what_for(path: Path, mode: str, is_writer: bool) -> None:
    other = started(OPEN, str(path), mode)
    assert is_open(path)
    assert may_have_writer(path) == is_writer
    other.communicate(timeout=60)
    assert not is_open(path)
    assert not may_have_writer(path)


def test_what_this_process_has_open_keeps_its_lock(path: Path) -> None:
    with duckdb.connect(str(path)):
        assert is_open(path)
        assert may_have_writer(path)
        other = subprocess.run([sys.executable, "-c", OPEN, str(path), "read"], capture_output=True, text=True)
        assert "Could not set lock" in other.stderr


def test_asking_never_refuses_a_reader(path: Path) -> None:
    other = started(ASK, str(path))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for _ in range(200_000):  # as DuckDB does when it opens a file for reading
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
        assert other.poll() is None
    finally:
        os.close(descriptor)
        other.kill()
        other.communicate()


def test_a_catalog_that_is_not_there_is_not_open(tmp_path: Path) -> None:
    assert not is_open(tmp_path / "dev.duckdb")
    assert not may_have_writer(tmp_path / "dev.duckdb")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_catalog_that_cannot_be_read_counts_as_open(path: Path) -> None:
    path.chmod(0o600)
    path.parent.chmod(0o755)
    ask = "import os; from pathlib import Path; from treadle_runtime.oldcatalogs import is_open; os.setuid(65534)"
    command = [sys.executable, "-c", f"{ask}\nprint(is_open(Path('dev.duckdb')))"]
    found = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("True\n", "")
