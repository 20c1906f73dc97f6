"""A file is replaced as a whole, whoever else writes it, and whoever was killed while they did."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from treadle.replacing import replace_file

WRITE = """
import sys
from pathlib import Path
from treadle.replacing import replace_file
while True:
    replace_file(Path(sys.argv[1]), sys.argv[2].encode() * int(sys.argv[3]))
    print("written", flush=True)
"""


def started(path: Path, letter: str, n: int) -> subprocess.Popen[str]:
    """Start a process that goes on writing the file."""
    command = [sys.executable, "-c", WRITE, str(path), letter, str(n)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def test_content_is_replaced_and_its_stat_returned(tmp_path: Path) -> None:
    path = tmp_path / "a/b/some.json"
    for content in (b"long content", b"short", b""):
        found = replace_file(path, content)
        assert path.read_bytes() == content
        now = path.stat()
        assert (found.st_ino, found.st_size, found.st_mtime_ns) == (now.st_ino, now.st_size, now.st_mtime_ns)
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_one_content_of_several_that_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    writers = [started(path, letter, n) for letter, n in (("a", 3_000_000), ("b", 20), ("c", 500_000))]
    seen = set()
    for _ in range(300):
        content = path.read_bytes()
        seen.add((len(content), *{*content}))
    for writer in writers:
        assert writer.poll() is None
        writer.kill()
        writer.communicate()
    assert seen <= {(3_000_000, ord("a")), (20, ord("b")), (500_000, ord("c"))}


def test_what_a_killed_process_leaves_is_used_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    for _ in range(8):
        writer = started(path, "a", 20_000_000)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        assert {*tmp_path.iterdir()} <= {path, tmp_path / ".some.json.new"}
        replace_file(path, b"b")
        assert path.read_bytes() == b"b"
        assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    replace_file(path, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace_file(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
