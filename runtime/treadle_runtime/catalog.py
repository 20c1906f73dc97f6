"""The catalog of an environment: views by the features' own names, in `.treadle/<env>.duckdb`.

It is the face of the feature tables (`duckdb -readonly .treadle/dev.duckdb "from carrier_history"`) and a
cache: it can be deleted and made again at any time. Beside it stands `<env>.catalog.json`, which says what
the catalog holds, so that a build which changed nothing does not open it.

Flow, under a lock: what is wanted against what stands -> nothing to do, or: copy the file (or start anew) ->
change the copy -> rename it over the old one. Who has the old one open for reading keeps reading it.

Paths go through a macro `store()`, which returns the store's folder: only it changes when the project moves.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from treadle.errors import Problem, StoreError
from treadle_runtime import disk
from treadle_runtime.engine import Connection, escape_glob, is_disk_full, view_sql
from treadle_runtime.lock import hold_lock
from treadle_runtime.oldcatalogs import kept_for_readers
from treadle_runtime.types import quote_name, quote_text
from treadle_runtime.version import Version

_Config = dict[str, str | bool | int | float | list[str]]
_CONFIG: _Config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}


@dataclass(frozen=True)
class Query:
    """A view over other names: an inlined feature, or a source that is read where it lies.

    Attributes:
        fingerprint: of the step.
        sql: its text.
    """

    fingerprint: str
    sql: str


Views = Mapping[str, Version | Query]


@dataclass(frozen=True)
class _Stamp:
    """What a catalog holds, and by which it is recognised as the file that was written here.

    Attributes:
        file: inode, size and time of change in ns of the catalog's file.
        store: the folder that `store()` returns.
        views: name -> fingerprint of a version or a query.
        queries: fingerprint -> text.
    """

    file: tuple[int, ...]
    store: str
    views: Mapping[str, str]
    queries: Mapping[str, str]


def write_catalog(
    path: Path, find_views: Callable[[Mapping[str, str]], Views], store_root: Path, *, anew: bool = False
) -> bool:
    """Make the catalog show these versions; changes only what differs from what stands.

    Args:
        path: the catalog's file, `.treadle/<env>.duckdb`.
        find_views: returns name -> the version or query that stands for it now. Called under the catalog's
            lock, so that who writes last has looked last; with fingerprint -> text of the queries that the
            catalog was last written with. A query that cannot be bound, because a name in it has no version
            yet or its files are gone, gets no view; nor does a version without Parquet parts.
        store_root: the folder that holds the versions' folders, `.treadle/store`.
        anew: make it from nothing, whatever stands.

    Returns:
        Whether anything changed.

    Raises:
        StoreError: TR806 another program has it open for writing, TR803 disk full, TR805 not writable.
    """
    path = path.absolute()
    store = str(store_root.absolute())
    name = f"catalog-{path.stem}"  # lock and work are named as the store names a claim and its draft
    work = path.parent / "tmp" / name
    with hold_lock(path.parent / "claims" / f"{name}.lock"), _write_errors(path):
        last = _read_stamp(path)
        views = find_views(last.queries if last else {})
        wanted = {name: view.fingerprint for name, view in sorted(views.items())}
        queries = {view.fingerprint: view.sql for view in views.values() if isinstance(view, Query)}
        stamp = last if last and _describes(last, path) and not anew else None
        if stamp is not None and (stamp.store, stamp.views, stamp.queries) == (store, wanted, queries):
            return False
        _refuse_writer(path)
        disk.remove(work)  # of a killed process
        work.mkdir(parents=True)
        try:
            _change(work / path.name, path, stamp, views, store)
            disk.sync(work / path.name)
            path.with_name(path.name + ".wal").unlink(missing_ok=True)  # a killed writer's, for the old file
            with kept_for_readers(path, _stamp_path(path)):
                os.replace(work / path.name, path)
            _write_stamp(path, _Stamp(_identify(path), store, wanted, queries))
        finally:
            disk.remove(work)
    return True


def open_catalog(path: Path, *, read_only: bool = True) -> Connection:
    """Open a catalog; times with a zone are shown in UTC.

    Raises:
        StoreError: TR807 there is none yet, TR806 another program holds it in a way that excludes this.
    """
    if not path.exists():
        problem = Problem(
            "TR807", f"there is no catalog at {path}", why="nothing was built yet", fix="run `treadle build`"
        )
        raise StoreError(problem)
    try:
        con = duckdb.connect(str(path), read_only=read_only, config=_CONFIG)
    except (duckdb.IOException, duckdb.ConnectionException) as error:
        raise StoreError(_held(path, error)) from error
    con.execute("set TimeZone='UTC'; set enable_progress_bar=false")
    return con


# changing the copy


def _change(work: Path, old: Path, stamp: _Stamp | None, views: Views, store: str) -> None:
    """Write the new catalog at `work`: from `old` if a stamp describes it, or else from nothing."""
    standing: Mapping[str, str] = {}
    if stamp is not None:
        shutil.copyfile(old, work)
        standing = stamp.views
    versions = {name: view for name, view in sorted(views.items()) if isinstance(view, Version)}
    kept = {name for name, version in versions.items() if standing.get(name) == version.fingerprint}
    with duckdb.connect(str(work), config=_CONFIG) as con:
        con.execute("begin")
        con.execute(f"create or replace macro store() as {quote_text(escape_glob(store))}")
        for name in sorted(standing.keys() - kept):
            con.execute(f"drop view if exists {quote_name(name)}")
        for name in sorted(versions.keys() - kept):
            version = versions[name]
            if sql := view_sql(version, f"store() || {quote_text('/' + version.fingerprint)}"):
                con.execute(f"create view {quote_name(name)} as {sql}")
        con.execute("commit")
        _create_queries(con, {name: view.sql for name, view in views.items() if isinstance(view, Query)})


def _create_queries(con: Connection, queries: Mapping[str, str]) -> None:
    """Create views over other views, those first on which others stand: a view is bound when it is made."""
    waiting = dict(sorted(queries.items()))
    while waiting:
        before = len(waiting)
        for name, sql in list(waiting.items()):
            try:
                con.execute(f"create view {quote_name(name)} as (\n{sql}\n)")
            except (duckdb.CatalogException, duckdb.BinderException):
                continue
            except duckdb.IOException as error:
                if is_disk_full(error):
                    raise
                continue  # the files that it reads are gone
            del waiting[name]
        if len(waiting) == before:
            return


# who holds the file, and what goes wrong


def _refuse_writer(path: Path) -> None:
    """Refuse while another has the catalog open for writing: its changes would go nowhere."""
    configs: tuple[_Config, ...] = (_CONFIG, {})  # a reader in this process may have set others
    for config in configs:
        if not path.exists():
            return
        try:
            duckdb.connect(str(path), read_only=True, config=config).close()
            return
        except duckdb.ConnectionException as error:
            if config is configs[-1]:
                raise StoreError(_held(path, error)) from error
        except duckdb.IOException as error:
            if "lock" in str(error):
                raise StoreError(_held(path, error)) from error
            return
        except duckdb.Error:
            return  # not readable: it is made again


def _held(path: Path, error: duckdb.Error) -> Problem:
    why = str(error).splitlines()[0]
    if isinstance(error, duckdb.ConnectionException):
        why = f"this process (pid {os.getpid()}) has it open in another mode"
    return Problem(
        "TR806",
        f"the catalog {path.name} is held open by another program",
        why=why,
        fix=f"close it there, and open it with `duckdb -readonly {path}` next time",
    )


@contextmanager
def _write_errors(path: Path) -> Generator[None]:
    with disk.storage_errors(path):
        try:
            yield
        except duckdb.Error as error:
            why = str(error).splitlines()[0]
            if is_disk_full(error):
                raise StoreError(disk.disk_full(path, why)) from error
            raise StoreError(Problem("TR805", f"the catalog {path} cannot be written", why=why)) from error


# the stamp


def _stamp_path(path: Path) -> Path:
    return path.with_suffix(".catalog.json")


def _identify(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read_stamp(path: Path) -> _Stamp | None:
    """Return with what the catalog was last written here, or None."""
    try:
        body = json.loads(_stamp_path(path).read_bytes())
        return _Stamp(tuple(body["file"]), body["store"], dict(body["views"]), dict(body["queries"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _describes(stamp: _Stamp, path: Path) -> bool:
    """Return whether the catalog is still the file that the stamp was written for."""
    try:
        return stamp.file == _identify(path)
    except OSError:
        return False


def _write_stamp(path: Path, stamp: _Stamp) -> None:
    body = {
        "file": stamp.file,
        "store": stamp.store,
        "views": dict(stamp.views),
        "queries": dict(stamp.queries),
    }
    new = _stamp_path(path).with_suffix(".new")
    new.write_text(json.dumps(body, sort_keys=True, indent=1), encoding="utf-8")
    os.replace(new, _stamp_path(path))
