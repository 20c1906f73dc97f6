"""disk -> Graph, again: what was compiled before is read back, and what did not change is not compiled.

    nothing changed           one walk and a stat a file; the graph is decoded when somebody asks for it
    only queries changed      those files are read anew and put in the place of what they were
    anything else             the project is compiled, with the SQL files that did not change taken as they were read

The cache is one file of `.treadle/cache`: a small head, which says what the cache is for, and a body, whose parts are
decoded when they are used. All is msgpack of fixed types: who writes it can change what is compiled here, as by the
project's own files, and can run nothing. What cannot be read is made again; what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace as replace_fields

from treadle.errors import Problem, TreadleError
from treadle.files import Found, Stamp, digest_text, find_files
from treadle.fingerprint import to_own_text
from treadle.program import Parsed
from treadle.replacing import replace_file
from treadle.step import Graph, Step

if TYPE_CHECKING:
    from treadle.project import Project
    from treadle.render import Renderer

_RACY_NS = 2_000_000_000
_PACKAGE = Path(__file__).parent


class _Head(msgspec.Struct, frozen=True):
    """What a cache is for.

    Attributes:
        treadle: which Treadle wrote it, with which libraries beside it.
        signature: of the project's files, see `treadle.files.Found`.
        racy: files so young that they may have changed again without a trace in their stamps.
        allow_paths: of treadle.yml.
        read_environ: name -> sha256 of the value of each environment variable that templates asked for.
        read_variables: the names that they asked var() for.
        counts: kind -> number of steps.
        name: of the graph, see `Compiled`.
    """

    treadle: str
    signature: str
    racy: tuple[str, ...]
    allow_paths: tuple[str, ...]
    read_environ: Mapping[str, str]
    read_variables: frozenset[str]
    project: str
    environment: str
    counts: Mapping[str, int]
    name: str


_Parts = tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw, msgspec.Raw]
"""The head and the parts of the body."""


class _Rest(msgspec.Struct, frozen=True):
    """What only a new compilation asks for.

    Attributes:
        files: path -> (stamp, sha256 of its text).
        parsed: path -> what a SQL file says.
        macros: path -> text; with `variables`, what SQL files are rendered with.
    """

    files: Mapping[str, tuple[Stamp, str]]
    parsed: Mapping[str, Parsed]
    macros: Mapping[str, str]
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is to be compiled.

    Attributes:
        root: the project's folder.
        environment: None for the project's default.
        variables: values that win over those of treadle.yml.
        environ: the environment variables that templates may read.
        as_of: ISO 8601 in UTC; None: the newest that the labels know of.
    """

    root: Path
    environment: str | None
    variables: Mapping[str, Any]
    environ: Mapping[str, str]
    as_of: str | None

    @property
    def key(self) -> str:
        text = json.dumps([self.environment, dict(self.variables), self.as_of], sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Compiled:
    """A compiled project.

    Attributes:
        environment: the one that was compiled for.
        allow_paths: folders outside of the project whose files may be read.
        counts: kind -> number of steps, in the order of their first steps.
        name: of this graph, compiled with this Treadle and the libraries beside it; no other has it.
    """

    environment: str
    allow_paths: tuple[str, ...]
    counts: Mapping[str, int]
    name: str
    _graph: Callable[[], Graph]
    _sources: Callable[[], tuple[Step, ...]]
    _warnings: Callable[[], tuple[Problem, ...]]
    _files: Callable[[], Mapping[str, tuple[Stamp, str]]]

    @cached_property
    def graph(self) -> Graph:
        """The graph."""
        return self._graph()

    @cached_property
    def sources(self) -> tuple[Step, ...]:
        """The graph's sources, without reading all of it."""
        return self._sources()

    @cached_property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings of the graph, without reading all of it."""
        return self._warnings()

    @cached_property
    def python(self) -> Mapping[str, str]:
        """Path -> sha256 of the text of each Python file."""
        return {path: digest for path, (_, digest) in self._files().items() if path.endswith(".py")}


def load_compiled(asked: Asked, folder: Path) -> Compiled:
    """Return the project as compiled, from the cache as far as that holds.

    Args:
        asked: what is to be compiled.
        folder: `.treadle/cache`.

    Raises:
        ProjectError: all that is wrong with the project.
        UsageError: TR603, a variable is given that nothing reads.
    """
    cache = _Cache(asked, folder)
    found: Compiled | None = None
    with suppress(OSError, msgspec.MsgspecError, ValueError, KeyError):
        found = cache.read()
    found = found or cache.compile()
    if unread := [name for name in asked.variables if name not in cache.read_variables]:
        from treadle.projectfile import check_declared

        check_declared(asked.root, unread)
    return found


class _Cache:
    def __init__(self, asked: Asked, folder: Path) -> None:
        self.asked = asked
        self.file = folder / f"{asked.key}.graph"
        self.started_ns = time.time_ns()
        self.old: _Body | None = None
        self.read_environ: set[str] = set()
        self.read_variables: set[str] = set()

    def read(self) -> Compiled | None:
        """Return what is cached, brought up to date; None where the project has to be compiled.

        Raises:
            OSError, MsgspecError, KeyError: the cache is not there, or not whole.
        """
        encoded, *parts = msgspec.msgpack.decode(self.file.read_bytes(), type=_Parts)
        head = msgspec.msgpack.decode(encoded, type=_Head)
        if head.treadle != _treadle() or head.read_environ != self._digest_environ(head.read_environ):
            return None
        found = self._find(head)
        if found.problems:
            return None
        body = self.old = _Body(*parts)
        self.read_environ |= head.read_environ.keys()
        self.read_variables |= head.read_variables
        if found.signature == head.signature and not head.racy:
            return Compiled(
                *(head.environment, head.allow_paths, head.counts, head.name),
                lambda: body.to_graph(head),
                lambda: body.sources,
                lambda: body.warnings,
                lambda: body.rest.files,
            )
        changed = self._find_changed(found, head, body.rest)
        if changed is None:
            return None
        patched = self._patch(changed, body.to_graph(head)) if changed else body.to_graph(head)
        if patched is None:
            return None
        digests = {path: body.rest.files[path][1] for path in found.stamps} | {
            path: said.digest for path, said in changed.items()
        }
        files = {path: (stamp, digests[path]) for path, stamp in found.stamps.items()}
        parsed = {**body.rest.parsed, **changed}
        rest = replace_fields(body.rest, files=files, parsed=parsed)
        return self._keep(patched, rest, head.allow_paths, name="" if changed else head.name)

    def _find(self, head: _Head) -> Found:
        root = self.asked.root
        return find_files(root, (root.resolve(), *((root / path).resolve() for path in head.allow_paths)))

    def _find_changed(self, found: Found, head: _Head, rest: _Rest) -> dict[str, Parsed] | None:
        """Return path -> what it says now, of changed SQL files; None if more than their queries changed."""
        if found.stamps.keys() != rest.files.keys():
            return None
        racy = set(head.racy)
        changed: dict[str, Parsed] = {}
        for path, stamp in found.stamps.items():
            before, digest = rest.files[path]
            if stamp == before and path not in racy:
                continue
            text = (self.asked.root / path).read_bytes().decode("utf-8-sig")
            if digest_text(text) != digest:
                said = self._parse(path, text, rest)
                if said is None:
                    return None
                changed[path] = said
        return changed

    def _parse(self, path: str, text: str, rest: _Rest) -> Parsed | None:
        """Return what a changed SQL file says; None where it says more than another query, or is wrong."""
        before = rest.parsed.get(path)
        if before is None:
            return None
        from treadle.sqlfile import SqlReader

        try:
            reader = SqlReader(self._renderer(rest), {})
            file = reader.open(path, text)
            file.read_query(volatile=before.volatile)
        except TreadleError:
            return None
        self.read_environ |= reader.renderer.read_environ.keys()
        self.read_variables |= reader.renderer.read_variables
        said = reader.parsed[path]
        return said if said.says_the_same(before) else None

    def _renderer(self, rest: _Rest) -> Renderer:
        from treadle.render import Renderer

        asked = self.asked
        return Renderer(macros=rest.macros, variables=rest.variables, environ=asked.environ, as_of=asked.as_of)

    def _patch(self, changed: Mapping[str, Parsed], graph: Graph) -> Graph | None:
        """Return the graph with other queries in the place of those that changed."""
        steps, own_texts = dict(graph.steps), dict(graph.own_texts)
        for path, said in changed.items():
            stem = PurePosixPath(path).stem
            step = steps.get(stem if path.startswith("features/") else f"test:{stem}")
            if step is None or step.query is None or step.where.path != path:
                return None
            part = next(iter(step.code))
            new = replace_fields(step, query=said.query, code={part: said.query.tokens}, where=said.where)
            steps[step.id], own_texts[step.id] = new, to_own_text(new)
        return replace(graph, steps=steps, own_texts=own_texts)

    def compile(self) -> Compiled:
        """Compile the project and keep the result.

        Raises:
            ProjectError: all that is wrong with it.
        """
        from treadle.ahead import read_ahead
        from treadle.graph import compile_graph
        from treadle.project import read_project
        from treadle.sqlfile import SqlReader

        asked = self.asked
        project = read_project(asked.root, environment=asked.environment, variables=asked.variables)
        readers: list[SqlReader] = []

        def read_sql(renderer: Renderer) -> SqlReader:
            reader = SqlReader(renderer, self._known(project))
            readers.append(read_ahead(reader, {**project.sql_features, **project.sql_tests}))
            return readers[0]

        graph = compile_graph(project, environ=asked.environ, as_of=asked.as_of, read_sql=read_sql)
        own_texts = {step.id: to_own_text(step) for step in graph}
        self.read_environ |= readers[0].renderer.read_environ.keys()
        self.read_variables |= readers[0].renderer.read_variables
        rest = _Rest(project.files, readers[0].parsed, project.macros, project.variables)
        graph = replace(graph, own_texts=own_texts)
        return self._keep(graph, rest, project.spec.allow_paths)

    def _known(self, project: Project) -> Mapping[str, Parsed]:
        """Return what SQL files said that are rendered with the same macros and variables as before."""
        if self.old is None:
            return {}
        rest = self.old.rest
        is_same = rest.macros == project.macros and rest.variables == project.variables
        return rest.parsed if is_same else {}

    def _digest_environ(self, names: Iterable[str]) -> dict[str, str]:
        return {name: digest_text(repr(self.asked.environ.get(name))) for name in sorted(names)}

    def _keep(
        self,
        graph: Graph,
        rest: _Rest,
        allow_paths: tuple[str, ...],
        *,
        name: str = "",
    ) -> Compiled:
        """Write the cache; `name` is that of the graph if it is as it was."""
        counts: dict[str, int] = {}
        for step in graph:
            counts[step.kind] = counts.get(step.kind, 0) + 1
        stamps = {path: stamp for path, (stamp, _) in rest.files.items()}
        newest_ns = self.started_ns - _RACY_NS
        head = _Head(
            treadle=_treadle(),
            signature=Found(stamps, ()).signature,
            racy=tuple(path for path, stamp in stamps.items() if max(stamp[1], stamp[2]) > newest_ns),
            allow_paths=allow_paths,
            read_environ=self._digest_environ(self.read_environ),
            read_variables=frozenset(self.read_variables),
            project=graph.project,
            environment=graph.environment,
            counts=counts,
            name=name or os.urandom(16).hex(),
        )
        with suppress(OSError, TypeError):  # TypeError: a variable that is no JSON
            self._write(head, graph, rest)
        return Compiled(
            *(head.environment, head.allow_paths, head.counts, head.name),
            lambda: graph,
            lambda: _sources_of(graph),
            lambda: graph.warnings,
            lambda: rest.files,
        )

    def _write(self, head: _Head, graph: Graph, rest: _Rest) -> None:
        encode = msgspec.msgpack.encode
        steps, own_texts = list(graph.steps.values()), list(graph.own_texts.values())
        parts = (head, steps, own_texts, _sources_of(graph), graph.warnings, rest)
        replace_file(self.file, encode([msgspec.Raw(encode(part)) for part in parts]))


class _Body:
    """What stands behind the head: steps, their own texts, sources, warnings, the rest."""

    def __init__(self, *parts: msgspec.Raw) -> None:
        self._steps, self._own_texts, self._sources, self._warnings, self._rest = parts

    @cached_property
    def rest(self) -> _Rest:
        return msgspec.msgpack.decode(self._rest, type=_Rest)

    @cached_property
    def sources(self) -> tuple[Step, ...]:
        return msgspec.msgpack.decode(self._sources, type=tuple[Step, ...])

    @cached_property
    def warnings(self) -> tuple[Problem, ...]:
        return msgspec.msgpack.decode(self._warnings, type=tuple[Problem, ...])

    def to_graph(self, head: _Head) -> Graph:
        decode = msgspec.msgpack.decode
        steps = decode(self._steps, type=list[Step])
        ids = [step.id for step in steps]
        own_texts = dict(zip(ids, decode(self._own_texts, type=list[str]), strict=True))
        return Graph(head.project, head.environment, dict(zip(ids, steps, strict=True)), self.warnings, own_texts)


def _sources_of(graph: Graph) -> tuple[Step, ...]:
    return tuple(step for step in graph if step.kind == "source")


def _treadle() -> str:
    """Return which Treadle this is, with the libraries that are installed beside it."""
    with os.scandir(_PACKAGE) as entries:
        own = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.name.endswith(".py"))
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = [path for path in (*named, *(p for p in sys.path if p.endswith("-packages"))) if os.path.isdir(path)]
    beside = [(path, os.stat(path).st_mtime_ns) for path in folders]
    machine = sys.version_info[:3], sys.platform, os.uname().machine
    return hashlib.sha256(repr((machine, own, beside)).encode()).hexdigest()
