"""The catalog shows an environment's versions, changes in one step, and can be made again at any time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import duckdb
import pytest

from treadle.errors import StoreError
from treadle_runtime import catalog
from treadle_runtime.catalog import Query, Unread, open_catalog
from treadle_runtime.engine import connect, write_query
from treadle_runtime.store import Store, Version

Views = dict[str, Version | str]

OPEN = """
import duckdb, sys, time
con = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("open", flush=True)
for line in sys.stdin:
    print(con.execute(line).fetchall(), flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / ".treadle", durable=False)


@pytest.fixture
def path(store: Store) -> Path:
    return store.root / "dev.duckdb"


def built(store: Store, fingerprint: str, sql: str) -> Version:
    with (
        store.scratch() as spill,
        connect(temp_directory=spill) as con,
        store.draft(fingerprint, kind="feature") as draft,
    ):
        columns, _, _ = write_query(con, sql, draft.folder)
        return draft.publish(columns, {})


def write_catalog(path: Path, views: Mapping[str, Version | str], store_root: Path) -> bool:
    """Write a catalog of versions and of texts of queries."""
    found = {name: view if isinstance(view, Version) else query(view) for name, view in views.items()}
    return catalog.write_catalog(path, lambda _: found, store_root)


def query(sql: str) -> Query:
    return Query(hashlib.sha256(sql.encode()).hexdigest(), sql)


def shown(path: Path, sql: str) -> list[tuple[object, ...]]:
    with open_catalog(path) as con:
        return con.execute(sql).fetchall()


def names(path: Path) -> list[str]:
    rows = shown(path, "select view_name from duckdb_views() where not internal order by 1")
    return [str(row[0]) for row in rows]


def opened(path: Path, mode: str) -> subprocess.Popen[str]:
    """Start another process that has the catalog open and answers queries, one a line."""
    command = [sys.executable, "-c", OPEN, str(path), mode]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def asked(process: subprocess.Popen[str], sql: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(sql + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_features_are_read_by_their_own_names_and_types(store: Store, path: Path) -> None:
    version = built(store, "f1", "select 1::hugeint as total, interval 1 month as gap, [] as nothing")
    assert write_catalog(path, {"select": version}, store.root / "store")
    assert shown(path, 'select total::varchar, gap::varchar from "select"') == [("1", "1 month")]
    types = shown(path, 'select typeof(total), typeof(gap), typeof(nothing) from "select"')
    assert types == [("HUGEINT", "INTERVAL", '"NULL"[]')]
    command = [sys.executable, "-c", OPEN, os.path.relpath(path, "/"), "read"]
    found = subprocess.run(command, input='from "select"\n', capture_output=True, text=True, cwd="/", check=True)
    assert found.stdout.startswith("open\n[(1, ")


def test_nothing_is_written_when_nothing_changed(store: Store, path: Path) -> None:
    views: Views = {"a": built(store, "f1", "select 1 as x"), "b": 'select x + 1 as y from "a"'}
    assert write_catalog(path, views, store.root / "store")
    before = path.stat()
    assert not write_catalog(path, views, store.root / "store")
    assert path.stat() == before
    assert sorted(os.listdir(store.root)) == ["claims", "dev.catalog.json", "dev.duckdb", "store", "tmp"]
    assert os.listdir(store.root / "tmp") == os.listdir(store.root / "claims") == []


def test_views_come_go_and_change_their_columns(store: Store, path: Path) -> None:
    one, two = built(store, "f1", "select 1 as x"), built(store, "f2", "select 'a' as x, 2 as z")
    root = store.root / "store"
    write_catalog(path, {"a": one, "b": one, "c": 'from "a"'}, root)
    assert write_catalog(path, {"a": two, "d": one, "c": 'from "a"'}, root)
    assert names(path) == ["a", "c", "d"]
    assert shown(path, "from c") == shown(path, "from a") == [("a", 2)]
    assert write_catalog(path, {"a": two, "d": one, "c": 'select z from "a"'}, root)
    assert shown(path, "from c") == [(2,)]
    assert write_catalog(path, {}, root)
    assert names(path) == []


def test_inlined_features_stand_on_each_other_in_any_order(store: Store, path: Path) -> None:
    views: Views = {
        "a": 'select x * 2 as x from "b" -- twice',
        "b": 'select x + 1 as x from "z"',
        "lost": 'from "not_built_yet"',
        "over_lost": 'from "lost"',
        "z": built(store, "f1", "select 1 as x"),
    }
    write_catalog(path, views, store.root / "store")
    assert shown(path, "from a") == [(4,)]
    assert names(path) == ["a", "b", "z"]


def test_an_environments_own_names_do_not_meet_those_of_the_engine(store: Store, path: Path) -> None:
    version = built(store, "f1", "select 1 as x")
    odd = ["main", "dev", "duckdb_views", "sqlite_master", 'a"b', "store", "pragma_database_list"]
    write_catalog(path, dict.fromkeys(odd, version), store.root / "store")
    for name in odd:
        assert shown(path, f'from "{name.replace(chr(34), chr(34) * 2)}"') == [(1,)]


@pytest.mark.parametrize("name", ["moved", "mo[v]ed*", "run=5", "quo'te"])
def test_a_moved_project_is_rewritten_by_the_next_command(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "here" / ".treadle", durable=False)
    views: Views = {"a": built(store, "f1", "select 1 as x"), "b": 'from "a"'}
    write_catalog(store.root / "dev.duckdb", views, store.root / "store")
    (tmp_path / "here").rename(tmp_path / name)
    moved = Store(tmp_path / name / ".treadle")
    version = moved.read("f1")
    assert version is not None
    path = moved.root / "dev.duckdb"
    with pytest.raises(duckdb.IOException):
        shown(path, "from a")
    assert write_catalog(path, {"a": version, "b": 'from "a"'}, moved.root / "store")
    assert shown(path, "from a union all from b") == [(1,), (1,)]


@pytest.mark.parametrize("damage", ["deleted", "garbage", "no stamp", "changed by hand", "another file"])
def test_a_catalog_can_be_made_again_at_any_time(store: Store, path: Path, damage: str) -> None:
    views = {"a": built(store, "f1", "select 1 as x")}
    write_catalog(path, views, store.root / "store")
    if damage == "deleted":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"garbage" * 10_000)
    elif damage == "no stamp":
        (store.root / "dev.catalog.json").write_text("{")
    elif damage == "changed by hand":
        with duckdb.connect(str(path)) as con:
            con.execute("create or replace view a as select 666 as x; checkpoint")
    else:
        path.unlink()
        duckdb.connect(str(path)).close()
    assert write_catalog(path, views, store.root / "store")
    assert shown(path, "from a") == [(1,)]


def test_a_reader_goes_on_while_the_catalog_changes(store: Store, path: Path) -> None:
    root = store.root / "store"
    write_catalog(path, {"a": built(store, "f1", "select 1 as x")}, root)
    reader = opened(path, "read")
    assert write_catalog(path, {"a": built(store, "f2", "select 2 as x")}, root)
    assert asked(reader, "from a") == "[(1,)]"
    assert shown(path, "from a") == [(2,)]
    reader.kill()
    reader.communicate()


def test_who_has_it_open_for_writing_is_named(store: Store, path: Path) -> None:
    root = store.root / "store"
    write_catalog(path, {"a": built(store, "f1", "select 1 as x")}, root)
    writer = opened(path, "write")
    with pytest.raises(StoreError) as caught:
        write_catalog(path, {"a": built(store, "f2", "select 2 as x")}, root)
    (problem,) = caught.value.problems
    assert problem.code == "TR806"
    assert problem.what == "the catalog dev.duckdb is held open by another program"
    assert str(writer.pid) in problem.why
    assert problem.fix == f"close it there, and open it with `duckdb -readonly {path}` next time"
    with pytest.raises(StoreError, match="TR806"):
        open_catalog(path)
    asked(writer, "create table of_the_writer as select 1 as x")
    writer.send_signal(signal.SIGKILL)  # leaves a log of changes behind, which belongs to the old file
    writer.communicate()
    assert write_catalog(path, {"a": built(store, "f2", "select 2 as x")}, root)
    assert shown(path, "from a") == [(2,)]
    assert names(path) == ["a"]


def test_a_notebook_of_the_same_process_may_read_and_is_told_when_it_writes(store: Store, path: Path) -> None:
    root = store.root / "store"
    write_catalog(path, {"a": built(store, "f1", "select 1 as x")}, root)
    with duckdb.connect(str(path), read_only=True) as con:
        assert write_catalog(path, {"a": built(store, "f2", "select 2 as x")}, root)
        assert con.execute("from a").fetchall() == [(1,)]
    with duckdb.connect(str(path)), pytest.raises(StoreError, match="this process"):
        write_catalog(path, {}, root)


def test_a_catalog_that_was_never_written_says_how_to_get_one(path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        open_catalog(path)
    assert caught.value.problems[0].code == "TR807"
    assert caught.value.problems[0].fix == "run `treadle build`"


def test_versions_without_a_table_have_no_view(store: Store, path: Path) -> None:
    with store.draft("m1", kind="train") as draft:
        (draft.folder / "weights.bin").write_bytes(b"w")
        model = draft.publish([], {})
    assert write_catalog(path, {"net": model}, store.root / "store")
    assert names(path) == []
    assert not write_catalog(path, {"net": model}, store.root / "store")


def test_times_with_a_zone_are_shown_in_utc(store: Store, path: Path) -> None:
    version = built(store, "f1", "select timestamptz '2020-01-01 00:00:00+02' as moment")
    write_catalog(path, {"a": version}, store.root / "store")
    assert shown(path, "select moment::varchar from a") == [("2019-12-31 22:00:00+00",)]


def test_queries_are_told_to_who_writes_next_even_when_the_file_is_lost(store: Store, path: Path) -> None:
    version, view = built(store, "f1", "select 1 as x"), query('select x + 1 as y from "a"')
    catalog.write_catalog(path, lambda told: {"a": version, "b": view} if not told else {}, store.root / "store")
    path.unlink()

    def find_views(told: Mapping[str, str]) -> dict[str, Version | Query]:
        assert told == {view.fingerprint: view.sql}
        return {"a": version, "b": Query(view.fingerprint, told[view.fingerprint])}

    assert catalog.write_catalog(path, find_views, store.root / "store")
    assert shown(path, "from b") == [(2,)]
    assert not catalog.write_catalog(path, find_views, store.root / "store")


def test_who_writes_last_has_looked_last(store: Store, path: Path) -> None:
    one, two = built(store, "f1", "select 1 as x"), built(store, "f2", "select 2 as x")
    root, published, looked, go_on = store.root / "store", [one], threading.Event(), threading.Event()

    def find_first(_: Mapping[str, str]) -> dict[str, Version | Query]:
        found = published[-1]
        looked.set()
        go_on.wait(30)
        return {"a": found}

    first = threading.Thread(target=catalog.write_catalog, args=(path, find_first, root))
    first.start()
    assert looked.wait(30)
    published.append(two)
    second = threading.Thread(target=catalog.write_catalog, args=(path, lambda _: {"a": published[-1]}, root))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    first.join(30)
    second.join(30)
    assert shown(path, "from a") == [(2,)]


def test_query_over_files_that_are_gone_has_no_view(store: Store, path: Path) -> None:
    views: Views = {"a": built(store, "f1", "select 1 as x"), "b": "from read_parquet('/nowhere/b.parquet')"}
    assert write_catalog(path, views, store.root / "store")
    assert names(path) == ["a"]


# copies


def test_a_catalog_that_shows_the_same_is_copied(store: Store, path: Path) -> None:
    views: Views = {"a": built(store, "f1", "select 1 as x"), "b": 'select x + 1 as y from "a"', "c": 'from "b"'}
    root, other = store.root / "store", store.root / "production.duckdb"
    write_catalog(path, views, root)
    found = {name: view if isinstance(view, Version) else query(view) for name, view in views.items()}
    assert catalog.write_catalog(other, lambda _: found, root, like=path)
    assert other.read_bytes() == path.read_bytes()
    assert shown(other, "from c") == [(2,)]
    assert not catalog.write_catalog(other, lambda _: found, root, like=path)
    assert write_catalog(other, {**views, "a": built(store, "f2", "select 5 as x")}, root)
    assert shown(other, "from c") == [(6,)]
    assert shown(path, "from c") == [(2,)]


@pytest.mark.parametrize("damage", ["other views", "other text", "garbage", "changed by hand", "gone", "no stamp"])
def test_a_catalog_that_shows_something_else_is_not_copied(store: Store, path: Path, damage: str) -> None:
    root, other = store.root / "store", store.root / "production.duckdb"
    one, two = built(store, "f1", "select 1 as x"), built(store, "f2", "select 2 as x")
    text = "select x + 1 as y from a" if damage != "other text" else "select x + 1 as y from a -- now"
    write_catalog(path, {"a": two if damage == "other views" else one, "b": text}, root)
    match damage:
        case "garbage":
            path.write_bytes(b"garbage" * 10_000)
        case "changed by hand":
            with duckdb.connect(str(path)) as con:
                con.execute("create or replace view a as select 666 as x; checkpoint")
        case "gone":
            path.unlink()
        case "no stamp":
            (store.root / "dev.catalog.json").unlink()
    wanted = {"a": one, "b": Query(query("select x + 1 as y from a").fingerprint, "select x + 1 as y from a")}
    assert catalog.write_catalog(other, lambda _: wanted, root, like=path)
    assert shown(other, "select x, y from a, b") == [(1, 2)]


def test_a_catalog_in_which_many_views_change_is_kept_and_wanted_again(store: Store, path: Path) -> None:
    root, names_of_many = store.root / "store", [f"v{n}" for n in range(150)]
    one, two = built(store, "f1", "select 1 as x"), built(store, "f2", "select 2 as x")
    first: Views = dict.fromkeys(names_of_many, one)
    write_catalog(path, first, root)
    before = path.read_bytes()
    write_catalog(path, dict.fromkeys(names_of_many, two), root)
    assert shown(path, "from v149") == [(2,)]
    write_catalog(path, first, root)
    assert path.read_bytes() == before
    assert shown(path, "from v149") == [(1,)]
    write_catalog(path, dict.fromkeys(names_of_many[:149], two), root)  # shown by nothing that is kept
    assert names(path) == sorted(names_of_many[:149])
    assert shown(path, "from v148") == [(2,)]
    catalog.remove_catalog(path)
    assert not list(store.root.rglob("dev.*"))
    catalog.remove_catalog(path)


def test_only_versions_whose_views_change_are_opened(store: Store, path: Path) -> None:
    opened: list[str] = []

    def read(fingerprint: str) -> Version | None:
        opened.append(fingerprint)
        return store.read(fingerprint)

    for n in range(1, 4):
        built(store, f"f{n}", f"select {n} as x")
    root = store.root / "store"
    views = {
        name: Unread(fingerprint, partial(read, fingerprint))
        for name, fingerprint in (("a", "f1"), ("b", "f2"), ("lost", "f9"))
    }
    catalog.write_catalog(path, lambda _: views, root)
    assert sorted(opened) == ["f1", "f2", "f9"]
    opened.clear()
    catalog.write_catalog(path, lambda _: {**views, "b": Unread("f3", partial(read, "f3"))}, root)
    assert opened == ["f3"]
    assert shown(path, "from a union all from b order by 1") == [(1,), (3,)]
    assert names(path) == ["a", "b"]
