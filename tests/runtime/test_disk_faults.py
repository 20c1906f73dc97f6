"""Disks that are full, read-only, remote or lie: a clear error, nothing wrong to be seen, and the way on that it names.

Real commands on real file systems: small tmpfs mounts, read-only mounts, lost permissions, flipped and cut files.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from treadle.errors import StoreError
from treadle_runtime.schema import MIGRATIONS
from treadle_runtime.state import State

if TYPE_CHECKING:
    from conftest import MakeProject, Printed, ProjectFolder

KIB = 1024
VARIANT = ("features/spend.sql", "count(*) as n", "count(*) + 1 as n")


def mount(*arguments: object) -> None:
    """Mount, or skip the test where that is not allowed."""
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting takes root: {done.stderr.strip()}")


class Disk:
    """A file system of a few MiB of its own, mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, *, but: int = 0) -> None:
        """Fill it, but for so many bytes."""
        found = os.statvfs(self.folder)
        (self.folder / "ballast").write_bytes(bytes(found.f_bavail * found.f_bsize - but))

    def free(self) -> None:
        """Free space there, as the errors say."""
        (self.folder / "ballast").unlink()

    def remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path.resolve() / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=6m", "tmpfs", folder)
    yield Disk(folder)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def on_disk(project: ProjectFolder, disk: Disk) -> ProjectFolder:
    """Let a project keep what it builds on that disk."""
    built = project.root / ".treadle"
    if built.exists():
        shutil.copytree(built, disk.folder, dirs_exist_ok=True)
        shutil.rmtree(built)
    built.symlink_to(disk.folder)
    return project


def environment(project: ProjectFolder) -> dict[str, str]:
    """Return the map as the state's file holds it, read by nothing of Treadle."""
    con = sqlite3.connect(project.root / ".treadle/state.db")
    try:
        return dict(con.execute("SELECT step, fingerprint FROM environments WHERE env = 'dev'").fetchall())
    finally:
        con.close()


def shown(project: ProjectFolder) -> list[tuple[object, ...]]:
    """Ask the catalog, as anybody may."""
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        return con.execute("select * from spend order by all").fetchall()


def said(result: Printed) -> str:
    """Check that a command ended with nothing but an error, and return its text."""
    assert "Traceback" not in result.stderr
    start = result.stderr.index("error[")
    return result.stderr[start:]


# a disk that fails after the system took what was written


@pytest.fixture
def thin_disk(disk: Disk, tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, as it believes, on a disk of 6: what it was given it may be unable to write later."""
    image, folder = disk.folder / "image", tmp_path.resolve() / "thin"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * KIB * KIB)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
    mount("-o", "loop", image, folder)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_what_the_disk_could_not_take_after_all_is_withdrawn(make_project: MakeProject, thin_disk: Path) -> None:
    project = on_disk(make_project("features"), Disk(thin_disk))
    project.build()
    before, standing = environment(project), project.metas()
    for n in range(10):  # each is soon done, so that it is waited for at the end, together with the others
        project.write(f"features/large{n}.sql", f"select i, md5((i + {n})::varchar) as h from range(60000) as t (i)")
    project.edit(*VARIANT)
    error = said(project.run("build", "--threads", "1", code=1))
    assert re.match(r"error\[TR80[35]\]: ", error)
    assert re.search(
        r"^  withdrawn is what was published and may not be on the disk: [1-9][0-9]* version", error, re.MULTILINE
    )
    assert sorted(os.listdir(thin_disk / "store")) == sorted(standing)
    assert environment(project) == before


# a full disk


def test_disk_that_is_full_at_any_moment(make_project: MakeProject, disk: Disk) -> None:
    """The room grows by a page a time, so that it ends at each write in turn: the state, a part, its meta, the map."""
    project = on_disk(make_project("features"), disk)
    project.build()
    project.edit(*VARIANT)
    before, rows = environment(project), shown(project)
    met: list[str] = []
    room = 0
    while True:
        disk.fill(but=room)
        result = project.start("build", "--threads", "1")
        stdout, stderr = result.communicate(timeout=60)
        assert shown(project) == rows
        disk.free()
        assert "Traceback" not in stderr
        if result.returncode == 0:
            break
        assert result.returncode == 1
        assert environment(project) == before
        error = stderr[stderr.index("error[") :]
        found = re.fullmatch(
            r"error\[TR803\]: the disk is full at (.*)\n  .*\n"
            r"  fix: free space there, then run the same command: what was built stays built\n",
            error,
        )
        assert found, error
        met.append(Path(found[1]).relative_to(project.root / ".treadle").parts[0])
        room += os.statvfs(disk.folder).f_bsize
    assert {"state.db", "tmp", "store"} <= set(met) <= {"state.db", "tmp", "store", "runs", "claims"}
    # The map is published and the catalog has no room: a warning, and the catalog shows what it showed.
    assert stderr.endswith(
        f"warning[TR803]: the disk is full at {project.root}/.treadle/dev.duckdb\n"
        f"  No space left on device: {project.root}/.treadle/dev.duckdb\n"
        "  fix: free space there, then run the same command: what was built stays built\n"
    )
    assert "next: treadle show spend" in stdout
    assert environment(project) != before
    project.run("build", "--threads", "1")
    assert shown(project) != rows
    assert project.json("verify")["sound"]
    assert project.leftovers() == []


@pytest.mark.parametrize("room", [60 * KIB, 110 * KIB])
def test_disk_that_is_full_while_models_are_trained(churn: ProjectFolder, disk: Disk, room: int) -> None:
    project = on_disk(churn, disk)
    project.edit("models/churn.yml", "trainer: sklearn.logistic_regression", "trainer: sklearn.hist_gradient_boosting")
    project.edit("models/churn.yml", "max_depth: 2", "max_depth: 3")
    before, rows, models = environment(project), shown(project), project.json("models")
    disk.fill(but=room)
    result = project.run("build", "--threads", "1", code=1)
    assert re.fullmatch(
        r"error\[TR803\]: the disk is full at .*\n.*\n  fix: free space there, then run .*\n", said(result)
    )
    assert shown(project) == rows
    disk.free()
    assert environment(project) == before
    assert project.json("models") == models
    project.run("build", "--threads", "1")
    assert project.json("verify")["sound"]
    assert len(project.json("models")) == 2


BIG = {
    "sql": {"features/big.sql": "select range as n, hash(range) as h from range(2000000)"},
    "python": {
        "features/big.py": """\
import polars as pl
from treadle import feature


@feature(entity="n", static=True)
def big(orders: pl.LazyFrame) -> pl.DataFrame:
    return pl.DataFrame({"n": range(2000000)}).with_columns(h=pl.col("n").hash())
""",
        "features/n.yml": "entities: [{name: n}]\n",
    },
}


@pytest.mark.parametrize("kind", list(BIG))
def test_part_that_is_larger_than_the_disk(make_project: MakeProject, disk: Disk, kind: str) -> None:
    project = on_disk(make_project("features", BIG[kind]), disk)
    # The engine meets the full disk first, or the state, when it notes at that moment what another step made.
    assert "error[TR803]: the disk is full at " in said(project.treadle("build", code=1))
    assert not any((disk.folder / "tmp").iterdir())
    assert environment(project) == {}
    assert project.json("runs")[0]["status"] in ("failed", "interrupted")
    disk.remount("size=64m")
    assert project.build().outcome.published


def test_file_that_is_larger_than_the_limit(make_project: MakeProject) -> None:
    """What a full disk is without root: `ulimit -f`."""
    project = make_project("features", BIG["sql"])
    command = f"ulimit -f 1000; exec {sys.executable} -m treadle build --threads 1"
    done = subprocess.run(["bash", "-c", command], cwd=project.root, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    folder = project.root / ".treadle/tmp"
    assert re.search(
        rf"^error\[TR803\]: the disk is full at {folder}/\w+\n  File too large: `ulimit -f` ", done.stderr, re.M
    )
    assert "Traceback" not in done.stderr
    assert environment(project) == {}
    project.run("build", "--threads", "1")


def test_documents_without_room(make_project: MakeProject, disk: Disk) -> None:
    project = make_project("features")
    (project.root / "target").symlink_to(disk.folder)
    disk.fill()
    for command, name in (("build", "run_results.json"), ("compile", "manifest.json")):
        assert said(project.treadle(command, code=1)).startswith(
            f"error[TR803]: the disk is full at {project.root}/target/{name}\n  No space left on device"
        )
    assert environment(project)  # the results are whole, and only what tells of them is missing
    disk.free()
    project.treadle("compile")
    project.treadle("build")
    assert project.results()["status"] == "passed"
    assert sorted(os.listdir(disk.folder)) == ["manifest.json", "run_results.json"]


def test_clean_makes_room_on_a_full_disk(make_project: MakeProject, disk: Disk) -> None:
    project = on_disk(make_project("features"), disk)
    project.build()
    project.edit(*VARIANT)
    project.build()
    disk.fill(but=64 * KIB)  # what opening the state takes
    project.run("clean", "--older-than", "0s", "--keep", "0", "--yes")
    assert len(project.metas()) == len(environment(project))


# a store that is read-only


READ_ONLY = "mount that disk writable, or copy .treadle to one that is and put a link to the copy in its place"


READING = (
    *("list", "compile", "plan --all", "why spend", "show spend", "show orders --limit 3", "runs", "models"),
    *("env list", "env show dev", "env show dev --history", "env diff dev production", "verify --select orders"),
    *("clean --dry-run", "list --select state:modified", "debug"),
)
WRITING = (
    *("build", "run", "test", "clean --yes", "verify --repair", "models promote x"),
    *("env promote dev production --yes", "env rollback dev", "env drop dev --yes"),
)


def test_read_only_disk(make_project: MakeProject, disk: Disk) -> None:
    project = on_disk(make_project("features", {"treadle.yml": "name: shop\nenvironments: {production: {}}\n"}), disk)
    project.build()
    before, rows = environment(project), shown(project)
    project.run("compile")
    written = {command: project.run(*command.split()) for command in READING}
    disk.remount("ro")
    for command, printed in written.items():
        assert project.run(*command.split()) == printed, command
    project.edit(*VARIANT)
    assert "build  feature  spend" in project.run("plan").stdout
    refused = (
        f"error[TR805]: {project.root}/.treadle cannot be written\n"
        f"  Read-only file system: {project.root}/.treadle\n"
        f"  fix: {READ_ONLY}\n"
    )
    for command in WRITING:
        assert said(project.run(*command.split(), code=1)) == refused, command
    assert shown(project) == rows
    # The second way first: the copy is a store of its own.
    copy = project.root.parent / "copy"
    shutil.copytree(disk.folder, copy)
    (project.root / ".treadle").unlink()
    (project.root / ".treadle").symlink_to(copy)
    assert project.build().of("built") == {"spend"}
    assert shown(project) != rows
    assert project.json("verify")["sound"]
    # The first way.
    (project.root / ".treadle").unlink()
    (project.root / ".treadle").symlink_to(disk.folder)
    disk.remount("rw")
    assert environment(project) == before
    assert project.build().of("built") == {"spend"}


def without_privilege(project: ProjectFolder, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command for which, as for any user, permissions count."""
    command = [sys.executable, "-m", "treadle", *arguments]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="permissions do not count for root")
@pytest.mark.parametrize(
    ("blocked", "expected"),
    [
        ("store", "error[TR805]: {root}/store/{new} cannot be written\n  Permission denied: {root}/tmp/{new}\n"),
        (
            "state.db",
            "error[TR805]: the state cannot be read or written\n  {root}/state.db: attempt to write a readonly database\n",
        ),
        ("claims", "error[TR805]: {root}/claims/"),
    ],
    ids=["store", "state", "claims"],
)
def test_folder_without_permission(make_project: MakeProject, blocked: str, expected: str) -> None:
    project = make_project("features")
    project.build()
    project.edit(*VARIANT)
    new = next(p.fingerprint for p in project.plan() if p.step.id == "spend")
    before, rows = environment(project), shown(project)
    path = project.root / ".treadle" / blocked
    mode = path.stat().st_mode
    path.chmod(mode & 0o555)
    done = without_privilege(project, "build", "--threads", "1")
    assert done.returncode == 1
    error = done.stderr[done.stderr.index("error[") :]
    assert error.startswith(expected.format(root=project.root / ".treadle", new=new)), error
    assert error.endswith(f"  fix: make {path} writable for this user\n"), error
    assert "Traceback" not in done.stderr
    assert (environment(project), shown(project)) == (before, rows)
    path.chmod(mode)
    assert without_privilege(project, "build", "--threads", "1").returncode == 0
    assert shown(project) != rows


def test_read_only_disk_on_which_a_log_was_left(make_project: MakeProject, disk: Disk) -> None:
    """As a killed command leaves it: what is published stands in the log of the state, not yet in its file."""
    project = on_disk(make_project("features"), disk)
    project.build()
    path = disk.folder / "state.db"
    con = sqlite3.connect(path)
    con.execute("UPDATE environments SET env = 'other'")
    con.commit()
    wal, shm = (path.with_name(f"state.db-{name}").read_bytes() for name in ("wal", "shm"))
    con.close()
    expected = project.run("env", "show", "other").stdout
    for files in ({"wal": wal, "shm": shm}, {"wal": wal}):
        with sqlite3.connect(path) as con:
            con.execute("UPDATE environments SET env = 'dev'")
        con.close()
        for name, content in files.items():
            path.with_name(f"state.db-{name}").write_bytes(content)
        disk.remount("ro")
        assert project.run("env", "show", "other").stdout == expected, list(files)
        disk.remount("rw")


def test_read_only_disk_whose_state_an_older_treadle_wrote(make_project: MakeProject, disk: Disk) -> None:
    project = on_disk(make_project("features"), disk)
    path = disk.folder / "state.db"
    State(path, migrations=MIGRATIONS[:1]).close()
    content = path.read_bytes()
    disk.remount("ro")
    assert project.run("runs").stdout.split() == ["run", "environment", "status", "started", "(UTC)", "command"]
    assert path.read_bytes() == content


def test_read_only_folder_without_a_state(make_project: MakeProject, disk: Disk) -> None:
    shutil.copytree(make_project("features").root, disk.folder, dirs_exist_ok=True)
    project = type(make_project("features"))(disk.folder)
    disk.remount("ro")
    assert "4 to build, 0 to reuse in dev" in project.run("plan").stdout
    assert "dev" in project.run("env", "list").stdout
    assert f"error[TR805]: {disk.folder}/.treadle cannot be written\n" in said(project.run("build", code=1))


def test_reader_of_a_read_only_mount_sees_what_a_build_elsewhere_publishes(
    make_project: MakeProject, tmp_path: Path
) -> None:
    """A mount of a folder that another process writes to at the same time."""
    project = make_project("features")
    view = tmp_path.resolve() / "view"
    view.mkdir()
    mount("--bind", project.root, view)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(view)], check=True)
        other = type(project)(view)
        with State(project.root / ".treadle/state.db") as state:
            assert "0 steps in dev" in other.run("env", "show", "dev").stdout
            project.build()
            assert "4 steps in dev" in other.run("env", "show", "dev").stdout
            assert state.environment("dev")
    finally:
        subprocess.run(["umount", "-l", str(view)], check=True)


# a state that is cut, newer or far away


@pytest.mark.parametrize("kept", ["nothing", "some bytes", "one page", "half", "all but a page"])
def test_truncated_state(churn: ProjectFolder, kept: str) -> None:
    path = churn.root / ".treadle/state.db"
    content, rows, before = path.read_bytes(), shown(churn), environment(churn)
    n = {"nothing": 0, "some bytes": 100, "one page": 4096, "half": len(content) // 2}.get(kept, len(content) - 4096)
    path.write_bytes(content[:n])
    folder = path.parent
    for command in ("build", "plan", "models", "verify", "clean"):
        error = said(churn.treadle(command, code=1))
        assert re.fullmatch(
            rf"error\[TR804\]: the state is damaged\n  {path}: .+\n"
            rf"  fix: move state.db, state.db-wal and state.db-shm out of {folder}, then run `treadle build`:\n"
            r"  what the store holds is not built again; run history and model versions are lost\n",
            error,
        ), error
    assert path.stat().st_size == n
    assert shown(churn) == rows
    away = churn.root.parent / "away"
    away.mkdir()
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        if (folder / name).exists():
            (folder / name).rename(away / name)
    result = churn.run("build")
    assert "0 built, 13 reused" in result.stdout
    assert environment(churn) == before
    assert shown(churn) == rows
    assert [(m["number"], m["aliases"]) for m in churn.json("models")] == [(1, ["candidate"])]
    assert churn.json("verify")["sound"]


def test_empty_state_beside_an_empty_store_is_a_new_one(tmp_path: Path) -> None:
    """As a process leaves it that was killed when it had just made the file."""
    (tmp_path / ".treadle/store").mkdir(parents=True)
    path = tmp_path / ".treadle/state.db"
    path.touch()
    with State(path) as state:
        assert state.environment("dev") == {}
    path.write_bytes(b"")
    (tmp_path / ".treadle/store" / ("a" * 64)).mkdir()
    with pytest.raises(StoreError, match="it is empty, and the store beside it is not"):
        State(path)


def test_newer_state(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    path = project.root / ".treadle/state.db"
    con = sqlite3.connect(path)
    con.execute("PRAGMA user_version = 99")
    con.close()
    rows = shown(project)
    assert "error[TR801]: the state was written by a newer Treadle\n" in said(project.run("build", code=1))
    assert shown(project) == rows
    # "use the older one in a copy of the project without .treadle"
    copy = project.root.parent / "copy"
    shutil.copytree(project.root, copy, ignore=shutil.ignore_patterns(".treadle"))
    other = type(project)(copy)
    other.run("build")
    assert shown(other) == rows


@pytest.mark.skipif(sys.platform != "linux", reason="shows the command another mount table")
def test_network_file_system(make_project: MakeProject) -> None:
    project = make_project("features")
    table = project.root.parent / "mountinfo"
    table.write_text(
        f"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n40 27 0:40 / {project.root} rw - nfs4 server:/export rw\n"
    )
    script = f"mount --bind {table} /proc/$$/mountinfo && exec {sys.executable} -m treadle build"

    def build() -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--mount", "sh", "-c", script]
        return subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)

    done = build()
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"another mount table takes root: {done.stderr.strip()}")
    assert done.returncode == 1
    assert done.stderr == (
        "error[TR802]: the state cannot be kept on a network file system\n"
        f"  {project.root}/.treadle/state.db lies on nfs4, where locks and shared memory do not hold between machines\n"
        "  fix: move the project to a local disk, or make .treadle a link to a folder on one\n"
    )
    assert not (project.root / ".treadle/state.db").exists()
    local = project.root.parent / "local"
    local.mkdir()
    shutil.rmtree(project.root / ".treadle")  # what compiling keeps there
    (project.root / ".treadle").symlink_to(local)
    done = build()
    assert done.returncode == 0, done.stderr
    assert len(shown(project)) == 300


# a disk that lies


def test_flipped_byte_in_a_part(make_project: MakeProject) -> None:
    """What `treadle verify` finds; that nothing learns from it is in test_verify."""
    project = make_project("features")
    project.build()
    rows, before = shown(project), project.metas()
    part = next((project.root / ".treadle/store" / environment(project)["spend"]).glob("*.parquet"))
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 4
    part.chmod(0o644)
    part.write_bytes(content)
    found = project.run("verify", code=1).stdout.splitlines()[-1]
    assert found == "next: treadle verify --repair && treadle build --select spend"
    for words in found.removeprefix("next: ").split(" && "):
        project.run(*words.split()[1:])
    assert project.metas() == before
    assert shown(project) == rows
    assert project.json("verify")["sound"]
