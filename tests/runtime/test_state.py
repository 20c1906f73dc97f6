from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from records import forget, record_version

from treadle.errors import StoreError
from treadle_runtime.mapstate import Candidate
from treadle_runtime.schema import MIGRATIONS, SCHEMA
from treadle_runtime.state import SourcePart, State
from treadle_runtime.versionstate import Result, VersionFacts

N = len(MIGRATIONS)
MOUNTS = (
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    "40 27 0:40 / /home/team\\040share rw - nfs4 server:/export rw\n"
    "41 27 0:41 / /mnt rw master:1 - cifs //host/share rw\n"
    "42 41 254:1 / /mnt/local rw - ext4 /dev/vdb rw\n"
    "43 42 0:42 / /mnt/local rw - fuse.sshfs me@host: rw\n"
)


def open_state(folder: Path, **options: object) -> State:
    return State(folder / ".treadle" / "state.db", **options)  # type: ignore[arg-type]


def candidate(**values: object) -> Candidate:
    prints = {name: name for name in ("choose", "twin", "shipped", "validate", "evaluate", "split", "dataset")}
    return Candidate(**{"pipeline": "arrivals", "model": "trees", **prints, **values})  # type: ignore[arg-type]


def start_process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from pathlib import Path\n" + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == line


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)


def test_version_comes_back_as_recorded(tmp_path: Path) -> None:
    now = datetime(2026, 11, 23, 21, 16, 49, 5, UTC)
    facts = VersionFacts({"code": "abc"}, rows=3, bytes=7, reproducible=False)
    with open_state(tmp_path, clock=lambda: now) as state:
        assert not state.has_version("f1")
        run = state.start_run("dev", "build")
        state.record_results(run, [Result("flights", "feature", "built", "f1", 0.5, version=facts)])
        state.publish("dev", run, {"flights": "f1"})
    with open_state(tmp_path) as state:
        assert state.has_version("f1")
        assert state.identities(["f1"]) == {"f1": {"code": "abc"}}
        assert state.verdicts() == {"f1": None}
        [entry] = state.entries("dev")
    assert (entry.step, entry.fingerprint, entry.kind, entry.rows) == ("flights", "f1", "feature", 3)
    assert entry.created_at == "2026-11-23T21:16:49.000005+00:00"


def test_identities_leave_out_what_is_not_recorded_and_take_many(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        record_version(state, "f1", step="a", components={"code": "x"})
        assert state.identities(["f1", *(f"g{i}" for i in range(50_000))]) == {"f1": {"code": "x"}}
        forget(state, ["f1"])
        assert state.identities(["f1"]) == {}


TEXTS = {"code:features/a.sql": "select 'ü', \x01\n" * 3, "parts": '[["data/a.csv",3,"ab"]]'}


def test_texts_come_back_as_recorded(tmp_path: Path) -> None:
    now = datetime(2026, 11, 23, 21, 16, 49, 5, UTC)
    long = {"code:features/b.py:f": "".join(f"    x = {n}\n" for n in range(5000))}
    with open_state(tmp_path, clock=lambda: now) as state:
        record_version(state, "f1", step="a", components={"code": "x"}, run_id="r", texts=TEXTS)
        record_version(state, "f2", step="b", texts=long)
        record_version(state, "f3", step="c", kind="dataset")
    with open_state(tmp_path) as state:
        found = state.remembered(["f1", "f2", "f3", "f4"])
    assert {fingerprint: each.texts for fingerprint, each in found.items()} == {"f1": TEXTS, "f2": long, "f3": {}}
    assert (found["f1"].components, found["f1"].run_id) == ({"code": "x"}, "r")
    assert found["f1"].created_at == "2026-11-23T21:16:49.000005+00:00"


def test_what_is_inlined_has_an_identity_and_no_version(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        state.record_inlined("f1", step="view", components={"code": "x"}, run_id="r", texts=TEXTS)
        assert state.identities(["f1"]) == {"f1": {"code": "x"}}
        assert state.remembered(["f1"])["f1"].texts == TEXTS
        assert not state.has_version("f1")


def test_state_of_the_first_schema_is_migrated(tmp_path: Path) -> None:
    with open_state(tmp_path, migrations=(SCHEMA,)) as state, state.transaction() as con:
        values = ("f1", "a", "feature", '{"code":"x"}', 3, 7, 0.5, "r", "2026-11-23T21:16:49+00:00", "{}", 1)
        con.execute(f"INSERT INTO versions VALUES ({', '.join('?' * len(values))})", values)
    with open_state(tmp_path) as state:
        assert state.identities(["f1"]) == {"f1": {"code": "x"}}
        assert state.remembered(["f1"])["f1"].texts == {}
        assert state.remembered(["f1"])["f1"].run_id == "r"
        state.publish("dev", state.start_run("dev", "build"), {"a": "f1"})
        assert [(entry.rows, entry.kind) for entry in state.entries("dev")] == [(3, "feature")]


def test_publish_merges_drops_and_keeps_history(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        run = state.start_run("dev", "build")
        first = state.publish("dev", run, {"a": "1", "b": "2", "c": "3"})
        second = state.publish("dev", run, {"a": "1", "b": "9"}, drop=["c", "never"])
        third = state.publish("dev", run, {"a": "1"})
        assert first.changes == {"a": (None, "1"), "b": (None, "2"), "c": (None, "3")}
        assert second.changes == {"b": ("2", "9"), "c": ("3", None)}
        assert third.changes == {}
        assert state.environment("dev") == {"a": "1", "b": "9"}
        assert state.environment("production") == {}
        assert [entry.changes for entry in state.history("dev")] == [second.changes, first.changes]


def test_publish_fails_as_a_whole(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        run = state.start_run("dev", "build")
        state.publish("dev", run, {"a": "1"})
        with pytest.raises(sqlite3.IntegrityError):
            state.publish("dev", "no such run", {"a": "2"}, candidates=[candidate()])
        assert state.environment("dev") == {"a": "1"}
        state.publish("dev", run, {"a": "3"})
        assert state.environment("dev") == {"a": "3"}


def test_in_use_names_environments_and_model_versions(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        run = state.start_run("dev", "build")
        state.publish("dev", run, {"a": "1"}, candidates=[candidate()])
        state.publish("dev", run, {"a": "2"})
        assert state.in_use() == {
            *("2", "choose", "twin", "shipped", "validate", "evaluate", "split", "dataset"),
        }


KILLED_IN_TRANSACTION = """
from treadle_runtime.state import State
state = State(Path(sys.argv[1]))
with state.transaction(durable=True) as con:
    con.execute("UPDATE environments SET fingerprint = 'torn'")
    con.execute("INSERT INTO environments VALUES ('dev', 'new', 'torn')")
    print("inside", flush=True)
    sys.stdin.read()
"""


def test_process_killed_inside_a_transaction_leaves_the_old_map(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        state.publish("dev", state.start_run("dev", "build"), {"a": "1"})
        process = start_process(KILLED_IN_TRANSACTION, state.path)
        wait_for(process, "inside")
        assert state.environment("dev") == {"a": "1"}
        process.send_signal(signal.SIGKILL)
        end(process)
        assert state.environment("dev") == {"a": "1"}
        state.publish("dev", state.start_run("dev", "build"), {"a": "2"})
        assert state.environment("dev") == {"a": "2"}


PUBLISHER = """
from treadle_runtime.mapstate import Candidate
from treadle_runtime.state import State
path, name = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
with State(path) as state:
    run = state.start_run("dev", "build")
    for i in range(30):
        model = Candidate("p", "m", "c", "t", f"{name}{i}", f"{name}{i}", "e", "s", "d")
        state.publish("dev", run, {name: str(i), "shared": f"{name}{i}"}, candidates=[model])
    state.finish_run(run, "succeeded")
"""


def test_processes_publish_at_once_into_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / ".treadle" / "state.db"
    processes = [start_process(PUBLISHER, path, name) for name in ("x", "y", "z")]
    for process in processes:
        wait_for(process, "ready")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        end(process)
        assert process.returncode == 0
    with State(path) as state:
        found = state.environment("dev")
        assert {name: found[name] for name in "xyz"} == {"x": "29", "y": "29", "z": "29"}
        numbers = [row[0] for row in state.read("SELECT number FROM model_versions ORDER BY number")]
        assert numbers == list(range(1, 91))
        # Each publication starts from what the one before it left: the history can be replayed.
        replayed: dict[str, str | None] = {}
        for entry in reversed(state.history("dev", limit=1000)):
            for step, (before, after) in entry.changes.items():
                assert replayed.get(step) == before
                replayed[step] = after
        assert replayed == found
        assert {run.status for run in state.runs()} == {"succeeded"}


def test_threads_share_one_state(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        run = state.start_run("dev", "build")

        def work(name: int) -> None:
            for i in range(20):
                state.record_results(run, [Result(f"{name}.{i}", "feature", "built", "f")])
                state.publish("dev", run, {f"{name}.{i}": "f"})

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = state.run(run)
        assert found is not None
        assert len(found.steps) == len(state.environment("dev")) == 80


def test_run_keeps_its_steps_in_order(tmp_path: Path) -> None:
    now = datetime(2026, 11, 23, 21, 16, 49, tzinfo=UTC)
    with open_state(tmp_path, clock=lambda: now) as state:
        run = state.start_run("dev", "build", as_of="2013-12-31")
        assert re.fullmatch(r"20261123T211649-[0-9a-f]{4}", run)
        state.record_results(run, [Result("b", "feature", "built", "f", 1.5)])
        state.record_results(run, [Result("a", "feature", "failed", "g", message="boom")])
        now += timedelta(seconds=3)
        state.finish_run(run, "failed")
        found = state.run(run)
        assert found is not None
        assert (found.status, found.as_of, found.command, found.env) == (
            "failed",
            "2013-12-31",
            "build",
            "dev",
        )
        assert found.finished_at == "2026-11-23T21:16:52.000000+00:00"
        assert [(step.step, step.status, step.fingerprint, step.message) for step in found.steps] == [
            ("b", "built", "f", ""),
            ("a", "failed", "g", "boom"),
        ]
        assert state.run("other") is None
        assert list((tmp_path / ".treadle" / "runs").iterdir()) == []


def test_runs_of_one_moment_have_different_ids_newest_first(tmp_path: Path) -> None:
    with open_state(tmp_path, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC)) as state:
        ids = [state.start_run("dev", "build") for _ in range(50)]
        assert len(set(ids)) == 50
        assert [run.id for run in state.runs(limit=3)] == ids[:-4:-1]


RUNNING = """
from treadle_runtime.state import State
state = State(Path(sys.argv[1]))
state.start_run("dev", "build")
print("running", flush=True)
sys.stdin.read()
"""


def test_run_of_a_killed_process_is_interrupted(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        process = start_process(RUNNING, state.path)
        wait_for(process, "running")
        assert [run.status for run in state.runs()] == ["running"]
        process.send_signal(signal.SIGKILL)
        end(process)
        assert [run.status for run in state.runs()] == ["interrupted"]
        mine = state.start_run("dev", "build")
        assert [run.status for run in state.runs()] == ["running", "interrupted"]
        assert [file.stem for file in (tmp_path / ".treadle" / "runs").iterdir()] == [mine]


def test_run_left_open_at_close_is_interrupted(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        state.start_run("dev", "build")
    with open_state(tmp_path) as state:
        assert [run.status for run in state.runs()] == ["interrupted"]


def test_source_parts_come_back_as_recorded(tmp_path: Path) -> None:
    part = SourcePart("data/a.csv", 3, 2**62, 5, 2**60, "d")
    with open_state(tmp_path) as state:
        state.record_source_parts([part])
        assert state.source_parts(["data/a.csv", "data/b.csv"]) == {"data/a.csv": part}


def test_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    with open_state(tmp_path, migrations=(*MIGRATIONS, "CREATE TABLE later (x);")):
        pass
    with pytest.raises(StoreError) as caught:
        open_state(tmp_path)
    path = tmp_path / ".treadle" / "state.db"
    assert str(caught.value) == (
        "error[TR801]: the state was written by a newer Treadle\n"
        f"  {path} has schema version {N + 1}; this Treadle knows versions up to {N}\n"
        "  fix: upgrade with `pip install --upgrade treadle`, or use the older one in a copy of the project without .treadle"
    )


def test_state_migrated_by_another_process_is_refused_from_then_on(tmp_path: Path) -> None:
    with open_state(tmp_path) as old:
        with open_state(tmp_path, migrations=(*MIGRATIONS, "CREATE TABLE later (x);")):
            pass
        with pytest.raises(StoreError, match="TR801"):
            old.start_run("dev", "build")


def test_migration_keeps_the_data_and_a_backup(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        state.publish("dev", state.start_run("dev", "build"), {"a": "1"})
    script = "ALTER TABLE runs ADD COLUMN host TEXT;\nUPDATE runs\n  SET host = 'one; two';\n"
    with open_state(tmp_path, migrations=(*MIGRATIONS, script, "CREATE TABLE third (x);")) as state:
        assert state.environment("dev") == {"a": "1"}
        assert state.read("SELECT host FROM runs")[0][0] == "one; two"
        assert state.read("SELECT * FROM third") == []
    backup = sqlite3.connect(tmp_path / ".treadle" / f"state.db.v{N}.bak")
    assert backup.execute("PRAGMA user_version").fetchone() == (N,)
    assert backup.execute("SELECT fingerprint FROM environments").fetchall() == [("1",)]
    backup.close()


def test_runs_of_the_first_schema_are_read(tmp_path: Path) -> None:
    with open_state(tmp_path, migrations=MIGRATIONS[:1]) as state, state.transaction() as con:
        values = "(1, 'r1', 'dev', 'treadle build', NULL, '2026-01-01', '2026-01-01', 'failed')"
        con.execute(f"INSERT INTO runs VALUES {values}")
        con.execute("INSERT INTO run_steps VALUES ('r1', 'a', NULL, 'failed', 0.5, 'no')")
    with open_state(tmp_path) as state:
        run = state.last_run("dev")
        assert run is not None
        assert (run.id, run.options, state.last_run("production")) == ("r1", {}, None)
        assert [(step.step, step.message, step.attempts) for step in run.steps] == [("a", "no", 1)]


def test_failing_migration_leaves_the_old_version(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        state.publish("dev", state.start_run("dev", "build"), {"a": "1"})
    with pytest.raises(sqlite3.OperationalError):
        open_state(tmp_path, migrations=(*MIGRATIONS, "CREATE TABLE later (x);\nDROP TABLE nothing;"))
    with open_state(tmp_path) as state:
        assert state.environment("dev") == {"a": "1"}
        assert state.read("SELECT name FROM sqlite_master WHERE name = 'later'") == []


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/home/team share/project", "nfs4"), ("/mnt/x", "cifs"), ("/mnt/local/x", "fuse.sshfs")],
)
def test_network_file_system_is_refused(folder: str, kind: str) -> None:
    with pytest.raises(StoreError) as caught:
        State(Path(folder) / ".treadle" / "state.db", mounts=MOUNTS)
    assert str(caught.value) == (
        "error[TR802]: the state cannot be kept on a network file system\n"
        f"  {folder}/.treadle/state.db lies on {kind},"
        " where locks and shared memory do not hold between machines\n"
        "  fix: move the project to a local disk, or make .treadle a link to a folder on one"
    )
    assert not Path(folder).exists()


def test_local_folder_beside_a_network_mount_is_accepted(tmp_path: Path) -> None:
    near = MOUNTS + f"50 27 0:50 / {tmp_path}-share rw - nfs server:/x rw\n"
    with open_state(tmp_path, mounts=near) as state:
        assert state.environment("dev") == {}


def test_link_to_a_network_file_system_is_refused(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / ".treadle").symlink_to(tmp_path / "share")
    with pytest.raises(StoreError, match="lies on nfs,"):
        open_state(tmp_path, mounts=MOUNTS + f"50 27 0:50 / {tmp_path}/share rw - nfs server:/x rw\n")


def fill(folder: Path) -> Path:
    with open_state(folder) as state:
        for i in range(200):
            record_version(state, f"f{i}", step="a", components={"code": "x" * 500})
    return folder / ".treadle" / "state.db"


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_state_is_damaged(tmp_path: Path, kept: float) -> None:
    path = fill(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(StoreError, match="TR804"):
        open_state(tmp_path)


def test_damaged_state_says_how_to_go_on(tmp_path: Path) -> None:
    path = fill(tmp_path)
    with open_state(tmp_path, migrations=(*MIGRATIONS, "CREATE TABLE later (x);")):
        pass
    path.write_bytes(b"no database at all " * 1000)
    with pytest.raises(StoreError) as caught:
        open_state(tmp_path)
    assert str(caught.value) == (
        "error[TR804]: the state is damaged\n"
        f"  {path}: file is not a database\n"
        f"  fix: move state.db, state.db-wal and state.db-shm out of {path.parent},"
        " then run `treadle build`:\n"
        "  what the store holds is not built again; run history and model versions are lost\n"
        f"  or move them out and put the backup state.db.v{N}.bak in the place of state.db"
    )


def test_damage_found_while_reading_is_named(tmp_path: Path) -> None:
    path = fill(tmp_path)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with open_state(tmp_path) as state, pytest.raises(StoreError, match="TR804"):
        state.in_use()


def test_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".treadle").write_text("")
    with pytest.raises(StoreError, match="TR805") as caught:
        open_state(tmp_path)
    assert str(tmp_path / ".treadle" / "state.db") in str(caught.value)


def test_running_are_the_runs_that_live(tmp_path: Path) -> None:
    with open_state(tmp_path) as state:
        first, second, ended = (state.start_run("dev", "treadle build") for _ in range(3))
        state.finish_run(ended, "passed")
        with state.transaction():
            assert [run.id for run in state.running()] == [second, first]
    with open_state(tmp_path) as state:
        assert state.running() == []
