"""Jinja: the text of a SQL file, with the names it refers to and the configuration it gives itself.

    Renderer(macros, variables, environ, as_of)  ->  .render(source, path, name)  ->  Rendered

What a template may call stands here; what it may not in `treadle.guard`, how much it may take in
`treadle.sandbox`, and how its errors read in `treadle.blame`.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.runtime import Macro

from treadle.blame import CallError, calling_line, explain, line_at, line_table, shown
from treadle.errors import Location, Problem, ProjectError
from treadle.guard import CALLED_NAMES, TEST_PREFIX
from treadle.literal import Call, Text, read_literal
from treadle.names import close_match
from treadle.sandbox import Door, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jinja2.runtime import Context

FUNCTIONS = ("ref", "source", "var", "env_var", "config", "this", "as_of", "is_incremental")

_NEWLINE = re.compile(r"\r\n|\r")
_CODE = re.compile(r"\{[{%#]")

_MISSING: Any = object()


@dataclass(frozen=True)
class Rendered:
    """A SQL file after rendering.

    Attributes:
        text: the rendered text.
        path: the file, relative to the project's root.
        source: the file's own text, with `\\n` as its only line end.
        refs: the logical names given to ref() and source(), in the order of their first use, each once.
        ref_lines: for each of `refs`, the line of the file that first uses it, itself or through a macro.
        config: what config() was given.
        line_of: for each line of `text`, the line of the file that it comes from; for what a macro wrote,
            that of the macro's call.
        uses_as_of: whether the text depends on as_of.
    """

    text: str
    path: str
    source: str
    refs: tuple[str, ...]
    ref_lines: tuple[int, ...]
    config: Mapping[str, Any]
    line_of: tuple[int, ...]
    uses_as_of: bool

    def locate(self, line: int, column: int = 0) -> Location:
        """Return the place in the file of a place in the rendered text, both from 1.

        The column is kept when the line was not changed by rendering up to there, and left out otherwise.
        """
        at = self.line_of[min(max(line, 1), len(self.line_of)) - 1]
        ours = line_at(self.source, at)
        theirs = line_at(self.text, line)
        same = 0 < column <= len(ours) + 1 and ours[:column] == theirs[:column]
        return Location(self.path, at, column if same else 0, ours.strip())

    def locate_ref(self, name: str) -> Location:
        """Return where the file first uses one of `refs`."""
        at = self.ref_lines[self.refs.index(name)]
        return Location(self.path, at, 0, line_at(self.source, at).strip())


@dataclass
class _Rendering:
    """What the functions note down while one file is rendered; `line` is of the call that runs, where it is known."""

    name: str
    line: int = 0
    refs: dict[str, int] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    uses_as_of: bool = False


class Renderer:
    """Renders the SQL files of one project; threads can share it.

    Args:
        macros: path -> text of the files in macros/; each `{% macro %}` in them can be called everywhere.
        variables: what var() finds.
        environ: what env_var() finds.
        as_of: the moment that `as_of` stands for, in ISO 8601, UTC by default; None when not fixed.

    Attributes:
        tests: name of each `{% test %}` -> its file.
        read_environ: name -> value of the environment variables that were asked for; None for those not set.
        read_variables: the names that var() was asked for.

    Raises:
        ProjectError: a macro file does not parse or defines what is defined elsewhere.
    """

    def __init__(
        self,
        *,
        macros: Mapping[str, str] | None = None,
        variables: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        as_of: str | None = None,
    ) -> None:
        self._variables = variables or {}
        self._environ = environ or {}
        self.read_environ: dict[str, str | None] = {}
        self.read_variables: set[str] = set()
        self._as_of_text = None if as_of is None else _to_timestamp(as_of)
        self._sources = {path: _NEWLINE.sub("\n", text) for path, text in (macros or {}).items()}
        self._local = threading.local()
        self._sandbox = Sandbox()
        self.tests: dict[str, str] = {}
        for name in FUNCTIONS:
            self._sandbox.globals[name] = Door(name, getattr(self, f"_{name}"))
        if self._sources:
            self._load_macros()

    def render(self, source: str, *, path: str, name: str) -> Rendered:
        """Render one SQL file.

        Args:
            source: the file's text.
            path: the file, relative to the project's root.
            name: what the file defines; `this` stands for it.

        Raises:
            ProjectError: the template is wrong, or asks for more than it may have.
        """
        source = _NEWLINE.sub("\n", source)
        rendering = _Rendering(name)
        if not _CODE.search(source):
            text, line_of = source, tuple(range(1, source.count("\n") + 2))
        elif (written := self._render_literal(source, rendering)) is not None:
            text, line_of = written
        else:
            rendering = _Rendering(name)
            self._local.rendering = rendering
            text, line_of = self._run(source, path)
        return Rendered(
            text=text,
            path=path,
            source=source,
            refs=tuple(rendering.refs),
            ref_lines=tuple(rendering.refs.values()),
            config=rendering.config,
            line_of=line_of,
            uses_as_of=rendering.uses_as_of,
        )

    def _render_literal(self, source: str, rendering: _Rendering) -> tuple[str, tuple[int, ...]] | None:
        """Render a template that only makes literal calls, without compiling it; None when it is not one, or fails.

        What fails is rendered again by Jinja, which finds the same error and knows where it is.
        """
        calls = read_literal(source)
        if calls is None:
            return None
        self._local.rendering = rendering
        try:
            with self._sandbox.limited():
                pieces = [self._write(piece, rendering) for piece in calls]
        except Exception:
            return None
        return "".join(text for text, _, _ in pieces), _map_lines(pieces)

    def _write(self, piece: Call | Text, rendering: _Rendering) -> tuple[str, int, bool]:
        if isinstance(piece, Text):
            return self._sandbox.emit(piece.text, True), piece.line, True
        function = self._sandbox.globals[piece.name]
        if piece.is_called == (piece.name in CALLED_NAMES) or not isinstance(function, Door):
            raise KeyError(piece.name)
        rendering.line = piece.line
        value = self._sandbox.call(self._context, function, *piece.args, **piece.kwargs)
        return self._sandbox.emit(value, False), piece.line, False

    @cached_property
    def _context(self) -> Context:
        with self._sandbox.limited():
            return self._compile("", "").new_context()

    def _run(self, source: str, path: str) -> tuple[str, tuple[int, ...]]:
        try:
            with self._sandbox.limited():
                template = self._compile(source, path)
                pieces = list(self._pieces(template))
        except Exception as error:
            raise ProjectError(self._explain(error, path, source)) from error
        return "".join(text for text, _, _ in pieces), _map_lines(pieces)

    def _compile(self, source: str, path: str) -> Template:
        tree = self._sandbox._parse(source, None, path)
        code = self._sandbox.compile(tree, None, path)
        return Template.from_code(self._sandbox, code, self._sandbox.globals)

    def _pieces(self, template: Template) -> Iterator[tuple[str, int, bool]]:
        """Yield each output at the top level: its text, its line, and whether the file holds it as it is."""
        lines, starts = line_table(template)
        outputs = cast("Any", template.root_render_func(template.new_context()))
        for text in outputs:
            at = lines[bisect_right(starts, outputs.gi_frame.f_lineno) - 1]
            yield self._sandbox.text(text), at, self._sandbox.is_data

    def _explain(self, error: Exception, path: str, source: str) -> Problem:
        return explain(error, path=path, sources=self._sources | {path: source}, sandbox=self._sandbox)

    # macros

    def _load_macros(self) -> None:
        """Make every macro of every file a global, bound when it is called: files may stand in any order.

        Those of a folder in macros/ are a package: `money.cents()` is that of macros/money/. By its name alone a macro
        is found where no other package has one of that name, or where it stands in none.
        """
        found: dict[str, dict[str, Macro]] = {}
        owners: dict[tuple[str, str], str] = {}
        problems: list[Problem] = []
        trees = {}
        for path in sorted(self._sources):
            try:
                with self._sandbox.limited():
                    trees[path] = self._sandbox._parse(self._sources[path], None, path)
                problems += self._claim(trees[path], path, owners)
            except Exception as error:
                problems.append(self._explain(error, path, self._sources[path]))
        self._offer(found, owners)
        for path, tree in trees.items():
            try:
                with self._sandbox.limited():
                    self._local.rendering = _Rendering("")
                    code = self._sandbox.compile(tree, None, path)
                    module = Template.from_code(self._sandbox, code, self._sandbox.globals).module
                    found[path] = {name: value for name, value in vars(module).items() if isinstance(value, Macro)}
            except Exception as error:
                problems.append(self._explain(error, path, self._sources[path]))
        if problems:
            raise ProjectError(problems)

    def _offer(self, found: Mapping[str, Mapping[str, Macro]], owners: Mapping[tuple[str, str], str]) -> None:
        """Make macros globals, and packages of them."""
        packages: dict[str, dict[str, Door]] = {}
        homes: dict[str, list[str]] = {}
        for (package, name), path in owners.items():
            packages.setdefault(package, {})[name] = Door(name, _late(found, path, name))
            homes.setdefault(name, []).append(package)
        for name, where in homes.items():
            if "" in where or len(where) == 1:
                home = "" if "" in where else where[0]
                self._sandbox.globals[name] = packages[home][name]
                if name.startswith(TEST_PREFIX):
                    self.tests[name.removeprefix(TEST_PREFIX)] = owners[home, name]
        for package, macros in packages.items():
            if package:
                self._sandbox.globals.setdefault(package, macros)

    def _claim(self, tree: nodes.Template, path: str, owners: dict[tuple[str, str], str]) -> Iterator[Problem]:
        for macro in tree.body:
            if not isinstance(macro, nodes.Macro) or macro.name.startswith("_"):
                continue
            where = Location(path, macro.lineno, 0, line_at(self._sources[path], macro.lineno).strip())
            home = _package_of(path), macro.name
            if macro.name in self._sandbox.globals:
                yield Problem(
                    "TR102",
                    f'macro "{macro.name}" has the name of a function that Treadle offers',
                    where,
                    fix="give it another name",
                )
            elif home in owners:
                why = f"it stands in {owners[home]} too"
                yield Problem("TR102", f'macro "{macro.name}" is defined twice', where, why, fix="rename one of them")
            owners.setdefault(home, path)

    # what templates may call

    def _ref(self, *names: Any) -> str:
        if len(names) == 2:
            raise CallError(
                "TR104",
                "ref() with two names is reserved for other projects",
                why=f"found ref({', '.join(map(shown, names))})",
                fix=f"write ref({shown(names[1])})",
            )
        return self._refer("ref", names)

    def _source(self, *names: Any) -> str:
        return self._refer("source", names[1:] if len(names) == 2 else names)

    def _refer(self, function: str, names: tuple[Any, ...]) -> str:
        if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
            raise CallError(
                "TR202",
                f"{function}() takes the name of a table, in quotes",
                why=f"found {function}({', '.join(map(shown, names))})",
                fix=f"write {{{{ {function}('flights') }}}}",
            )
        rendering = self._rendering
        if names[0] not in rendering.refs:
            rendering.refs[names[0]] = rendering.line or calling_line()
        return quote(names[0])

    def _var(self, name: Any, default: Any = _MISSING) -> Any:
        if isinstance(name, str):
            self.read_variables.add(name)
            if name in self._variables:
                return self._variables[name]
        if default is not _MISSING:
            return default
        raise CallError(
            "TR210",
            f"variable {shown(name)} is not defined",
            suggestion=close_match(str(name), self._variables) or "",
            fix=f"define it under vars: in treadle.yml, or give a default: var({shown(name)}, 0)",
        )

    def _env_var(self, name: Any, default: Any = _MISSING) -> Any:
        if not isinstance(name, str) or not name.startswith("TREADLE_"):
            raise CallError(
                "TR209",
                f"environment variable {shown(name)} cannot be read",
                why="a template reads only variables whose names begin with TREADLE_",
                fix=f"set TREADLE_{str(name).upper()} and read that",
            )
        if name.startswith("TREADLE_SECRET_"):
            raise CallError(
                "TR209",
                f"environment variable {shown(name)} cannot be read",
                why="secrets are read inside connections only: they never stand in SQL, logs or packages",
                fix="move it to a connection, or use a variable without SECRET in its name",
            )
        self.read_environ[name] = self._environ.get(name)
        if name in self._environ:
            return self._environ[name]
        if default is not _MISSING:
            return default
        raise CallError(
            "TR211",
            f"environment variable {shown(name)} is not set",
            suggestion=close_match(name, self._readable_environment()) or "",
            fix=f"export {name}=..., or give a default: env_var({shown(name)}, '')",
        )

    def _readable_environment(self) -> list[str]:
        names = [name for name in self._environ if name.startswith("TREADLE_")]
        return [name for name in names if not name.startswith("TREADLE_SECRET_")]

    def _config(self, *args: Any, **values: Any) -> str:
        if args:
            raise CallError("TR202", "config() takes named values", fix="write config(entity='carrier')")
        config = self._rendering.config
        for key, value in values.items():
            if key.startswith("_"):  # what the compiler passes along inside a loop or block
                continue
            found = _to_json(key, value)
            if config.setdefault(key, found) != found:
                raise CallError(
                    "TR005",
                    f'config() gives "{key}" twice',
                    why=f"first {shown(config[key])}, then {shown(found)}",
                    fix="keep one of them",
                )
        return ""

    def _this(self) -> str:
        return quote(self._rendering.name)

    def _is_incremental(self) -> bool:
        """Return False: a query never restricts itself to new rows, as its inputs are restricted for it."""
        return False

    def _as_of(self) -> str:
        self._rendering.uses_as_of = True
        if self._as_of_text is None:
            raise CallError(
                "TR202",
                '"as_of" is not fixed',
                why="the template reads as_of, and this run does not say what now is",
                fix="pass --as-of, for example --as-of 2013-11-01",
            )
        return self._as_of_text

    @property
    def _rendering(self) -> _Rendering:
        return cast("_Rendering", self._local.rendering)


def render(
    source: str,
    *,
    path: str,
    name: str,
    variables: Mapping[str, Any],
    environ: Mapping[str, str],
    macros: Mapping[str, str],
    as_of: str | None = None,
) -> Rendered:
    """Render one file with a renderer of its own; for many files make one `Renderer`.

    Raises:
        ProjectError: the template or a macro file is wrong.
    """
    renderer = Renderer(macros=macros, variables=variables, environ=environ, as_of=as_of)
    return renderer.render(source, path=path, name=name)


def quote(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _late(macros: Mapping[str, Mapping[str, Macro]], path: str, name: str) -> Any:
    return lambda *args, **kwargs: macros[path][name](*args, **kwargs)


def _package_of(path: str) -> str:
    """Return the folder in macros/ that a file stands in; "" for none."""
    parts = path.split("/")
    return parts[1] if parts[0] == "macros" and len(parts) > 2 else ""


def _map_lines(pieces: list[tuple[str, int, bool]]) -> tuple[int, ...]:
    """Return the file's line of each line of the output: that of the first piece on it that is not blank."""
    found, current, solid = [], 0, False
    for text, line, is_data in pieces:
        parts = text.split("\n")
        for offset, part in enumerate(parts):
            if offset:
                found.append(current)
                current, solid = 0, False
            if not current or (part.strip() and not solid):
                current = line + offset if is_data else line
                solid = bool(part.strip())
    found.append(current or 1)
    return tuple(found)


def _to_json(key: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_to_json(key, item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _to_json(key, item) for name, item in value.items()}
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise CallError(
        "TR202",
        f'config() cannot keep the value of "{key}"',
        why=f"found {shown(value)}",
        fix="give a text, a number, true, false, none, a list or a mapping",
    )


def _to_timestamp(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return f"TIMESTAMP '{moment.isoformat(sep=' ')}'"
