"""Leases of readers that have ended are removed where that is possible, and hold nothing in any case."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from treadle_runtime.leases import held_by_readers
from treadle_runtime.lock import hold_lock

FOUND = """
import os
from pathlib import Path
from treadle_runtime.leases import held_by_readers
os.setuid(65534)
print([holder.name for holder in held_by_readers(Path())])
"""


@pytest.fixture
def lease(tmp_path: Path) -> Path:
    """The lease of a reader that was killed."""
    lease = tmp_path / "leases/a.lock"
    lease.parent.mkdir()
    lease.write_text(f"pid 1, treadle show spend\n{'a' * 64}\n")
    return lease


def test_lease_of_a_process_that_ended_is_removed(tmp_path: Path, lease: Path) -> None:
    with hold_lock(lease.with_name("b.lock"), owner="treadle show spend"):
        assert [holder.name for holder in held_by_readers(tmp_path)] == [f"pid {os.getpid()}, treadle show spend"]
        assert [path.name for path in lease.parent.iterdir()] == ["b.lock"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o777, 0o644), (0o755, 0o666)])
def test_lease_of_another_user_that_ended_is_passed_over(tmp_path: Path, lease: Path, folder: int, file: int) -> None:
    tmp_path.chmod(0o755)
    lease.parent.chmod(folder)
    lease.chmod(file)
    found = subprocess.run([sys.executable, "-c", FOUND], cwd=tmp_path, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")
    assert lease.exists()
