"""DuckDB connections that serve many SQL steps, one after another: opening one takes as long as five small steps.

    Sessions.lend(job) -> the thread's own connection, on which the names of the job's relations are views

A connection is locked: it reads the store, the drafts and the sources that lie in place, and no other file. It is
closed after what could make a difference to the next step: an error, spilling to disk, many views.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import duckdb

from treadle_runtime import engine
from treadle_runtime.engine import Connection
from treadle_runtime.job import Job, Relation
from treadle_runtime.types import quote_name

MAX_VIEWS = 256


class Lend(Protocol):
    """Lends a connection for as long as one thing is done with it."""

    def __call__(self, job: Job, *, bare: bool = False) -> AbstractContextManager[Connection]:
        """Return a connection on which a job's relations are views; a bare one has none, and may read any file."""
        ...


@contextmanager
def lend_new(job: Job, *, bare: bool = False) -> Iterator[Connection]:
    """Lend a connection that is opened for this and closed afterwards."""
    with engine.connect(temp_directory=job.scratch, threads=threads_of(job)) as con:
        if not bare:
            create_relations(con, job)
        yield con


class Sessions:
    """The connections of a run, one for each thread that asks; close it when all of them have ended.

    Args:
        scratch: an existing folder for what the engine spills.
        allowed: files and folders that steps may read and write.
    """

    def __init__(self, scratch: Path, allowed: Sequence[Path]) -> None:
        self.scratch, self.allowed = scratch, allowed
        self._local = threading.local()
        self._open: set[Connection] = set()

    @contextmanager
    def lend(self, job: Job, *, bare: bool = False) -> Iterator[Connection]:
        """Lend the thread's connection; to a step that asks for a bare one, or for threads, one of its own."""
        if bare or threads_of(job) > 1:
            with lend_new(job, bare=bare) as con:
                self._open.add(con)
                try:
                    yield con
                finally:
                    self._open.discard(con)
            return
        session = self._session()
        try:
            session.show(job.relations)
            yield session.connection
        except BaseException:
            self._local.session = None
            self._close(session)
            raise

    def _session(self) -> _Session:
        session: _Session | None = getattr(self._local, "session", None)
        if session is not None and session.is_worn:
            self._close(session)
            session = None
        if session is None:
            session = self._local.session = _Session(self.scratch, self.allowed)
            self._open.add(session.connection)
        return session

    def close(self) -> None:
        """Close all connections; no thread may use one any more."""
        for connection in tuple(self._open):
            connection.close()
        self._open.clear()

    def _close(self, session: _Session) -> None:
        self._open.discard(session.connection)
        session.connection.close()


class OwnSession:
    """The connection of a process that runs one job at a time, and learns from each what may be read.

    It is opened anew for a job that reads, in place, files of which no earlier one has told.
    """

    def __init__(self) -> None:
        self._allowed: frozenset[Path] = frozenset()
        self._sessions: Sessions | None = None

    def lend(self, job: Job, *, bare: bool = False) -> AbstractContextManager[Connection]:
        """Lend the connection, as `Sessions.lend` does."""
        allowed = self._allowed | _folders_of(job)
        if self._sessions is None or allowed != self._allowed:
            if self._sessions is not None:
                self._sessions.close()
            self._allowed = allowed
            self._sessions = Sessions(job.scratch, sorted(allowed))
        return self._sessions.lend(job, bare=bare)


def _folders_of(job: Job) -> set[Path]:
    """Return where a job, and others of its run, read and write: folders of versions, files in place."""
    folders = {job.folder.parent, job.scratch}
    for relation in job.relations:
        folders |= {relation.version.folder.parent} if relation.version is not None else set(relation.paths)
    return folders


class _Session:
    def __init__(self, scratch: Path, allowed: Sequence[Path]) -> None:
        self.connection = engine.connect(temp_directory=scratch)
        engine.lock_down(self.connection, allowed)
        self._views: dict[str, Relation] = {}

    @property
    def is_worn(self) -> bool:
        return len(self._views) > MAX_VIEWS or engine.has_spilled(self.connection)

    def show(self, relations: Sequence[Relation]) -> None:
        """Make each name a view of what it stands for now, unless it is one already."""
        changed = False
        for relation in relations:
            # A view over a name that has changed since is bound to what that was.
            if not changed and self._views.get(relation.name) == relation:
                continue
            if relation.name in self._views:
                changed = True
                self.connection.execute(f"drop view if exists {quote_name(relation.name)}")
            create_relation(self.connection, relation)
            self._views[relation.name] = relation


def threads_of(job: Job) -> int:
    """Return how many threads a step's query may use."""
    return int(job.step.config.get("threads", 1)) if job.step.query is not None else 1


def create_relations(con: Connection, job: Job) -> None:
    """Make every name that the step may use a view, and close the connection to all other files."""
    allowed = [job.folder, job.scratch]
    for relation in job.relations:
        create_relation(con, relation)
        allowed += [relation.version.folder] if relation.version else list(relation.paths)
    engine.lock_down(con, allowed)


def create_relation(con: Connection, relation: Relation) -> None:
    """Make one name a view: of a stored version, or of a SELECT over earlier ones."""
    if relation.version is not None:
        engine.create_view(con, relation.name, relation.version)
        return
    try:
        con.execute(f"create view {quote_name(relation.name)} as {relation.sql}")
    except duckdb.Error as error:
        kind = "source" if relation.paths else "feature"
        raise engine.sql_error(error, f'{kind} "{relation.name}"', None) from error
