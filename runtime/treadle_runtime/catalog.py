"""The catalog of an environment: views by the features' own names, in `.treadle/<env>.duckdb`.

It is the face of the feature tables (`duckdb -readonly .treadle/dev.duckdb "from carrier_history"`) and a
cache: it can be deleted and made again at any time. Beside it stands `<env>.catalog.json`, which says what
the catalog holds, so that a build which changed nothing does not open it.

Flow, under a lock: what is wanted against what stands -> nothing to do, or: copy the file (or start anew) ->
change the copy -> rename it over the old one. Who has the old one open for reading keeps reading it.

Paths go through a macro `store()`, which returns the store's folder: only it changes when the project moves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb

from treadle.errors import Problem, StoreError
from treadle_runtime import disk
from treadle_runtime.diskfull import is_disk_full
from treadle_runtime.lock import hold_lock
from treadle_runtime.oldcatalogs import kept_for_readers, may_have_writer
from treadle_runtime.stamp import (
    Query,
    Stamp,
    Unread,
    describes,
    identify,
    identity_of,
    read_stamp,
    stamp_path,
    write_stamp,
)
from treadle_runtime.types import quote_name, quote_text
from treadle_runtime.version import Version, damaged
from treadle_runtime.viewsql import escape_glob, view_sql

_Config = dict[str, str | bool | int | float | list[str]]
_CONFIG: _Config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}

Views = Mapping[str, Version | Query | Unread]
_MANY = 100
"""Views that change at once: a new catalog costs 1 ms each, and the old one is worth keeping."""

_THREADS = 2
"""That create many views: half of the time goes to opening their files, and the engine's threads do not share it."""


def write_catalog(
    path: Path,
    find_views: Callable[[Mapping[str, str]], Views],
    store_root: Path,
    *,
    like: Path | None = None,
    anew: bool = False,
    owner: str = "treadle",
    on_wait: Callable[[str], None] | None = None,
) -> bool:
    """Make the catalog show these versions; changes only what differs from what stands.

    Args:
        path: the catalog's file, `.treadle/<env>.duckdb`.
        find_views: returns name -> the version or query that stands for it now. Called under the catalog's
            lock, so that who writes last has looked last; with fingerprint -> text of the queries that the
            catalog was last written with. A query that cannot be bound, because a name in it has no version
            yet or its files are gone, gets no view; nor does a version without Parquet parts.
        store_root: the folder that holds the versions' folders, `.treadle/store`.
        like: the catalog of another environment; if it shows the same, it is copied.
        anew: make it from nothing, whatever stands.
        owner, on_wait: for those who wait for this process, and for whom this one waits, see `hold_lock`.

    Returns:
        Whether anything changed.

    Raises:
        StoreError: TR806 another program has it open for writing, TR803 disk full, TR805 not writable, TR804 a version
            cannot be opened.
    """
    path = path.absolute()
    store = str(store_root.absolute())
    name = f"catalog-{path.stem}"  # lock and work are named as the store names a claim and its draft
    work = path.parent / "tmp" / name
    lock = path.parent / "claims" / f"{name}.lock"
    with hold_lock(lock, owner=owner, on_wait=on_wait), _write_errors(path):
        last = read_stamp(path)
        other = read_stamp(like) if like else None
        views = find_views({**(other.queries if other else {}), **(last.queries if last else {})})
        wanted = {name: view.fingerprint for name, view in sorted(views.items())}
        queries = {view.fingerprint: view.sql for view in views.values() if isinstance(view, Query)}
        stamp = last if last and describes(last, path) and not anew else None
        if stamp is not None and (stamp.store, stamp.views, stamp.queries) == (store, wanted, queries):
            return False
        _refuse_writer(path)
        disk.remove(work)  # of a killed process
        work.mkdir(parents=True)
        try:
            new = Stamp((), store, wanted, queries)
            if anew or not any(_copy(source, new, work / path.name) for source in (like, _kept(path)) if source):
                _change(work / path.name, path, stamp, views, store)
            disk.sync(work / path.name)
            path.with_name(path.name + ".wal").unlink(missing_ok=True)  # a killed writer's, for the old file
            if stamp is not None and _n_different(stamp.views, wanted) > _MANY:
                _keep(path, stamp)
            with kept_for_readers(path, stamp_path(path)):
                os.replace(work / path.name, path)
            write_stamp(path, replace(new, file=identify(path)))
        finally:
            disk.remove(work)
    return True


def remove_catalog(path: Path, *, owner: str = "treadle", on_wait: Callable[[str], None] | None = None) -> None:
    """Delete a catalog; who has it open keeps reading it. `owner` and `on_wait` as in `write_catalog`.

    Raises:
        StoreError: TR805 not writable.
    """
    path = path.absolute()
    lock = path.parent / "claims" / f"catalog-{path.stem}.lock"
    with hold_lock(lock, owner=owner, on_wait=on_wait), disk.storage_errors(path):
        kept = _kept(path)
        for file in (path, path.with_name(path.name + ".wal"), stamp_path(path), kept, stamp_path(kept)):
            file.unlink(missing_ok=True)


def open_catalog(path: Path, *, read_only: bool = True) -> duckdb.DuckDBPyConnection:
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


def _copy(source: Path, wanted: Stamp, target: Path) -> bool:
    """Copy another catalog that shows what is wanted; return whether there is one.

    It may be replaced meanwhile and is never changed, so that the file that was opened is compared with its stamp.
    """
    stamp = read_stamp(source)
    if stamp is None or replace(wanted, file=stamp.file) != stamp:
        return False
    try:
        with source.open("rb") as file:
            if identity_of(os.fstat(file.fileno())) != stamp.file:
                return False
            with target.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
    except FileNotFoundError:
        return False
    return True


def _kept(path: Path) -> Path:
    """Return where the catalog stands that was replaced when many views changed at once."""
    return path.parent / "cache" / "catalogs" / path.name


def _keep(path: Path, stamp: Stamp) -> None:
    """Keep a catalog that is to be replaced: a promotion that is taken back wants it again, view by view."""
    kept = _kept(path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    link = kept.with_suffix(".new")
    link.unlink(missing_ok=True)
    os.link(path, link)
    os.replace(link, kept)
    write_stamp(kept, stamp)


def _n_different(one: Mapping[str, str], other: Mapping[str, str]) -> int:
    return sum(one.get(name) != other.get(name) for name in {*one, *other})


def _change(work: Path, old: Path, stamp: Stamp | None, views: Views, store: str) -> None:
    """Write the new catalog at `work`: from `old` if a stamp describes it, or else from nothing."""
    standing: Mapping[str, str] = {}
    wanted = {name: view.fingerprint for name, view in views.items()}
    if stamp is not None and 2 * _n_different(stamp.views, wanted) <= len(wanted):  # else anew is faster
        shutil.copyfile(old, work)
        standing = stamp.views
    versions = {name: view for name, view in sorted(views.items()) if not isinstance(view, Query)}
    kept = {name for name, version in versions.items() if standing.get(name) == version.fingerprint}
    with duckdb.connect(str(work), config=_CONFIG) as con:
        con.execute("begin")
        con.execute(f"create or replace macro store() as {quote_text(escape_glob(store))}")
        for name in sorted(standing.keys() - kept):
            con.execute(f"drop view if exists {quote_name(name)}")
        con.execute("commit")
        new = sorted(versions.keys() - kept)
        n_threads = min(_THREADS, -(-len(new) // _MANY))
        with ThreadPoolExecutor(max(n_threads, 1), thread_name_prefix="catalog") as pool:
            list(pool.map(lambda k: _create_views(con, versions, new[k::n_threads]), range(n_threads)))
        _create_queries(con, {name: view.sql for name, view in views.items() if isinstance(view, Query)})


def _create_views(
    database: duckdb.DuckDBPyConnection, versions: Mapping[str, Version | Unread], names: Sequence[str]
) -> None:
    """Create views over versions, in a transaction of their own."""
    with database.cursor() as con:
        con.execute("begin")
        for name in names:
            found = versions[name]
            version = found.read() if isinstance(found, Unread) else found
            if version and (sql := view_sql(version, f"store() || {quote_text('/' + version.fingerprint)}")):
                try:
                    con.execute(f"create view {quote_name(name)} as {sql}")
                except duckdb.Error as error:
                    if is_disk_full(error):
                        raise
                    raise StoreError(damaged(version.folder, str(error).splitlines()[0])) from error
        con.execute("commit")


def _create_queries(con: duckdb.DuckDBPyConnection, queries: Mapping[str, str]) -> None:
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
    if not may_have_writer(path):
        return  # connecting to find out would load all of its views
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
