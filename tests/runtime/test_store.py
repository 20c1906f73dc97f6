"""Versions are published whole or not at all, claimed by one process at a time, and checked when read."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from treadle.errors import StoreError
from treadle_runtime.store import Column, Store, Version, storage_errors

FP = "ab" * 32
OTHER = "cd" * 32

HOLD_CLAIM = """
import pathlib, sys, time
from treadle_runtime.store import Store
store = Store(pathlib.Path(sys.argv[1]), owner="treadle build --env dev")
with store.claim(sys.argv[2]), store.draft(sys.argv[2], kind="feature") as draft:
    (draft.folder / "half.bin").write_bytes(b"half")
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / ".treadle")


def publish(store: Store, fingerprint: str = FP, content: bytes = b"weights") -> Version:
    with store.claim(fingerprint), store.draft(fingerprint, kind="train") as draft:
        (draft.folder / "model").mkdir()
        (draft.folder / "model" / "weights.bin").write_bytes(content)
        (draft.folder / "card.json").write_bytes(b"{}")
        return draft.publish([], {"auc": 0.5, "nested": {"b": [1, None], "a": "ü"}})


def holder(store: Store, fingerprint: str = FP) -> subprocess.Popen[str]:
    """Start a process that holds a claim and an unpublished draft."""
    command = [sys.executable, "-c", HOLD_CLAIM, str(store.root), fingerprint]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# publishing and reading


def test_a_published_version_reads_back_equal(store: Store) -> None:
    version = publish(store)
    assert store.read(FP) == version
    assert version.folder == store.root / "store" / FP
    assert [part.name for part in version.parts] == ["card.json", "model/weights.bin"]
    assert version.bytes == len(b"weights") + 2
    assert store.verify(version) == []


def test_tables_count_their_rows(store: Store) -> None:
    table = pa.table({"x": [1, 2, 3]})
    with store.draft(FP, kind="dataset") as draft:
        pq.write_table(table, draft.folder / "part-0.parquet")
        pq.write_table(table.slice(0, 0), draft.folder / "part-1.parquet")
        with pa.ipc.new_file(str(draft.folder / "data.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        version = draft.publish([Column("x", "BIGINT")], {}, reproducible=False)
    rows = {part.name: part.rows for part in version.parts}
    assert rows == {"data.arrow": 3, "part-0.parquet": 3, "part-1.parquet": 0}
    assert version.rows == 6
    found = store.read(FP)
    assert found == version
    assert not version.reproducible


def test_two_stores_hold_equal_bytes_for_equal_results(tmp_path: Path) -> None:
    folders = []
    for name in ("a", "b"):
        time.sleep(0.01)
        folders.append(publish(Store(tmp_path / name)).folder)
    assert files(folders[0]) == files(folders[1]) == ["card.json", "meta.json", "model/weights.bin"]
    for name in files(folders[0]):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_the_first_published_version_stands(store: Store) -> None:
    first = publish(store, content=b"first")
    second = publish(store, content=b"second")
    assert second == first
    assert (first.folder / "model/weights.bin").read_bytes() == b"first"
    names = ["card.json", "meta.json", "model/weights.bin"]
    assert files(store.root) == [f"store/{FP}/{name}" for name in names]


def test_a_damaged_version_is_not_replaced_by_a_second_build(store: Store) -> None:
    first = publish(store, content=b"first")
    part = first.folder / "model/weights.bin"
    part.chmod(0o644)
    part.write_bytes(b"fIrst")  # of equal size: reading alone does not notice
    assert store.read(FP) == first
    assert [problem.code for problem in store.find_damage(FP)] == ["TR804"]
    with pytest.raises(StoreError, match="TR804"):
        publish(store, content=b"second")
    assert part.read_bytes() == b"fIrst"
    (first.folder / "meta.json").unlink()
    with pytest.raises(StoreError, match="TR804"):
        publish(store, content=b"second")
    store.remove([FP])
    assert publish(store, content=b"first") == first


def test_a_version_of_a_newer_treadle_is_not_replaced(store: Store) -> None:
    meta = publish(store).folder / "meta.json"
    meta.chmod(0o644)
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="TR801"):
        publish(store, content=b"second")
    assert meta.exists()


def test_a_draft_keeps_what_was_dropped(store: Store) -> None:
    first = publish(store, content=b"first")
    with store.claim(FP), store.draft(FP, kind="train") as draft:
        (draft.folder / "weights.bin").write_bytes(b"second")
        assert draft.publish([], {}) == first
    assert draft.dropped is not None
    assert [part.name for part in draft.dropped.parts] == ["weights.bin"]


def test_a_draft_that_fails_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.draft(FP, kind="train") as draft:
            (draft.folder / "half.bin").write_bytes(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert store.read(FP) is None
    assert files(store.root) == []
    assert os.listdir(store.root / "tmp") == []


def test_parts_cannot_be_written_in_passing_and_can_be_deleted(store: Store) -> None:
    version = publish(store)
    modes = {name: (version.folder / name).stat().st_mode & 0o222 for name in files(version.folder)}
    assert set(modes.values()) == {0}
    store.remove([FP, OTHER])
    assert store.read(FP) is None
    assert os.listdir(store.root / "tmp") == []


def test_built_lists_only_what_stands(store: Store) -> None:
    assert store.built([FP]) == frozenset()
    publish(store)
    assert store.built(iter([FP, OTHER])) == {FP}


def test_info_with_nan_is_refused_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(ValueError, match="JSON compliant"), store.draft(FP, kind="evaluate") as draft:
        draft.publish([], {"auc": float("nan")})
    assert store.read(FP) is None


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "x" * 300])
def test_a_name_that_leaves_the_store_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="is no fingerprint"):
        store.read(name)


# damage


def rewrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "meta.json cannot be read"),
        (b"[]", "meta.json cannot be read"),
        (b'{"format": 1}', "meta.json cannot be read"),
        (b"\xff\xfe\x00", "meta.json cannot be read"),
    ],
)
def test_a_damaged_meta_file_is_named(store: Store, content: bytes, why: str) -> None:
    version = publish(store)
    rewrite(version.folder / "meta.json", content)
    with pytest.raises(StoreError, match=why) as caught:
        store.read(FP)
    assert caught.value.problems[0].code == "TR804"


def test_any_changed_byte_of_the_meta_file_is_noticed(store: Store) -> None:
    version = publish(store)
    content = (version.folder / "meta.json").read_bytes()
    for i in range(0, len(content) - 1, 7):
        rewrite(version.folder / "meta.json", content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        with pytest.raises(StoreError):
            store.read(FP)


def test_a_version_of_a_newer_format_is_not_called_damaged(store: Store) -> None:
    version = publish(store)
    body = json.loads((version.folder / "meta.json").read_bytes())
    rewrite(version.folder / "meta.json", json.dumps({**body, "format": 99}).encode())
    with pytest.raises(StoreError) as caught:
        store.read(FP)
    assert caught.value.problems[0].code == "TR801"


def test_missing_and_shortened_parts_are_named(store: Store) -> None:
    version = publish(store)
    rewrite(version.folder / "card.json", b"{")
    with pytest.raises(StoreError, match=r"card.json has 1 bytes, 2 were written"):
        store.read(FP)
    (version.folder / "card.json").unlink()
    with pytest.raises(StoreError, match=r"card.json is missing"):
        store.read(FP)
    (version.folder / "meta.json").unlink()
    with pytest.raises(StoreError, match=r"meta.json is missing") as caught:
        store.read(FP)
    fix = "run `treadle verify --repair`, then the same command: what was damaged is made again"
    assert caught.value.problems[0].fix == fix


def test_verify_finds_a_changed_part_of_equal_size(store: Store) -> None:
    version = publish(store)
    rewrite(version.folder / "model/weights.bin", b"weighty")
    assert store.read(FP) == version
    (problem,) = store.verify(version)
    assert problem.code == "TR804"
    assert "model/weights.bin has sha256" in problem.why


# claims


def test_a_claim_waits_for_the_holder_and_says_who_it_is(store: Store) -> None:
    process = holder(store)
    told: list[str] = []
    killer = threading.Timer(0.3, stop, [process])
    killer.start()
    with store.claim(FP, on_wait=told.append):
        killer.join()
    assert told == [f"pid {process.pid}, treadle build --env dev"]


def test_threads_of_one_process_exclude_each_other(store: Store) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            with store.claim(FP):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert os.listdir(store.root / "claims") == []


COUNT_UP = """
import pathlib, sys
from treadle_runtime.store import Store
store = Store(pathlib.Path(sys.argv[1]))
counter = pathlib.Path(sys.argv[2])
for _ in range(60):
    with store.claim("counter"):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_processes_exclude_each_other_though_the_lock_file_comes_and_goes(store: Store, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNT_UP, str(store.root), str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert counter.read_text() == "180"


def test_first_versions_of_a_project_are_published_at_once(tmp_path: Path) -> None:
    """The store's folder stands only from the first version on: each of several threads may be the one that makes it."""
    for n in range(30):
        store = Store(tmp_path / str(n), durable=False)
        start = threading.Barrier(4, timeout=60)

        def publish(n: int, store: Store = store, start: threading.Barrier = start) -> Version:
            with store.draft(f"{n:064x}", kind="feature") as draft:
                start.wait()
                return draft.publish([], {})

        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(publish, range(4)))
        assert [store.read(f"{n:064x}") for n in range(4)] == versions


def test_a_claim_tells_nothing_of_a_holder_that_was_killed(store: Store) -> None:
    file = store.root / "claims" / f"{FP}.lock"
    file.parent.mkdir(parents=True)
    file.write_text("pid 12345, treadle build --select a_long_name+ of a process that was killed\n")
    with store.claim(FP):
        assert file.read_text() == f"pid {os.getpid()}, treadle\n"


def test_a_program_started_under_a_claim_does_not_inherit_it(store: Store) -> None:
    with store.claim(FP):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        waits: list[str] = []
        with store.claim(FP, on_wait=waits.append):
            pass
        assert waits == []
    finally:
        child.kill()
        child.wait()


def test_giving_up_waiting_leaves_the_holder_alone(store: Store) -> None:
    process = holder(store)

    def give_up(_: str) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError), store.claim(FP, on_wait=give_up):
        pass
    assert store.sweep() == []
    stop(process)


# sweeping


def test_sweep_removes_what_a_killed_process_left_and_nothing_that_is_held(store: Store) -> None:
    dead, alive = holder(store, FP), holder(store, OTHER)
    stop(dead)
    publish(store, "ef" * 32)
    assert store.sweep() == [f"tmp/{FP}"]
    assert files(store.root / "tmp") == [f"{OTHER}/half.bin"]
    stop(alive)
    assert store.sweep() == [f"tmp/{OTHER}"]
    assert os.listdir(store.root / "claims") == []
    assert store.built(["ef" * 32]) == {"ef" * 32}


def test_sweep_removes_locks_that_nobody_holds(store: Store) -> None:
    assert store.sweep() == []
    process = holder(store)
    (store.root / "tmp" / FP / "half.bin").unlink()
    (store.root / "tmp" / FP).rmdir()
    stop(process)
    assert store.sweep() == [f"claims/{FP}.lock"]


def test_the_same_step_starts_afresh_after_a_kill(store: Store) -> None:
    stop(holder(store))
    version = publish(store)
    assert "half.bin" not in {part.name for part in version.parts}
    assert store.sweep() == []


def test_scratch_space_is_its_own_and_goes(store: Store) -> None:
    with store.scratch() as one, store.scratch() as two:
        assert one != two
        (one / "x").write_bytes(b"x")
        assert store.sweep() == []
    assert os.listdir(store.root / "tmp") == []


# disks


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(StoreError) as caught, storage_errors(Path("/data/.treadle")):
        Path("/dev/full").write_bytes(b"x")
    (problem,) = caught.value.problems
    assert problem.code == "TR803"
    assert problem.what == "the disk is full at /data/.treadle"


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EROFS, "TR805"), (errno.EACCES, "TR805"), (errno.EDQUOT, "TR803"), (errno.ENOLCK, "TR802")],
)
def test_errors_of_the_disk_have_their_code(number: int, code: str) -> None:
    with pytest.raises(StoreError) as caught, storage_errors(Path("x")):
        raise OSError(number, os.strerror(number), "x/y")
    assert caught.value.problems[0].code == code
    assert "x/y" in caught.value.problems[0].why


def test_a_store_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    with pytest.raises(StoreError) as caught, store.claim(FP):
        pass
    assert caught.value.problems[0].code == "TR805"


def test_what_is_no_version_is_not_counted_as_one(store: Store) -> None:
    publish(store)
    (store.root / "store" / ".DS_Store").write_bytes(b"")
    (store.root / "store" / "notes").mkdir()
    (store.root / "store" / (FP + ".bak")).mkdir()
    assert store.fingerprints() == {FP}


def test_withdrawn_version_is_gone_at_once_and_its_files_are_swept(store: Store) -> None:
    version = publish(store)
    [folder] = store.withdraw([FP, OTHER])
    assert store.fingerprints() == frozenset()
    assert files(folder) == ["card.json", "meta.json", "model/weights.bin"]
    assert publish(store).folder == version.folder
    store.sweep()
    assert not folder.exists()
    assert store.read(FP) == version
