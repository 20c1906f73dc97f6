"""Jinja: the text of a SQL file, with the names it refers to and the configuration it gives itself.

    Renderer(macros, variables, environ, as_of)  ->  .render(source, path, name)  ->  Rendered

What a template may call stands here; what it may not, and how much it may take, stands in `treadle.sandbox`.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
from jinja2.runtime import Macro, Undefined

from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match
from treadle.sandbox import KNOWN_FILTERS, Door, LimitError, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

FUNCTIONS = ("ref", "source", "var", "env_var", "config", "this", "as_of")

_NEWLINE = re.compile(r"\r\n|\r")
_UNDEFINED = re.compile(r"'(?P<name>\w+)' is undefined")
_NO_FILTER = re.compile(r"No (?P<kind>filter|test) named '(?P<name>\w+)'")
_CHANGES = re.compile(r'^"(?:append|clear|extend|insert|pop|remove|reverse|setdefault|sort|update)"')
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
        line_of: for each line of `text`, the line of the file that it comes from; what a macro wrote comes from
            the macro's call.
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
        ours = _line(self.source, at)
        theirs = _line(self.text, line)
        same = 0 < column <= len(ours) + 1 and ours[:column] == theirs[:column]
        return Location(self.path, at, column if same else 0, ours.strip())

    def locate_ref(self, name: str) -> Location:
        """Return where the file first uses one of `refs`."""
        at = self.ref_lines[self.refs.index(name)]
        return Location(self.path, at, 0, _line(self.source, at).strip())


class _CallError(Exception):
    """A function of Treadle refuses its arguments; where it was called is found from the traceback."""

    def __init__(self, code: str, what: str, *, why: str = "", suggestion: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.suggestion, self.fix = code, what, why, suggestion, fix


@dataclass
class _Rendering:
    """What the functions note down while one file is rendered."""

    name: str
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
        self._as_of_text = None if as_of is None else _to_timestamp(as_of)
        self._sources = {path: _NEWLINE.sub("\n", text) for path, text in (macros or {}).items()}
        self._local = threading.local()
        self._sandbox = Sandbox()
        for name in FUNCTIONS:
            self._sandbox.globals[name] = Door(name, getattr(self, f"_{name}"))
        self._macro_names: tuple[str, ...] = ()
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
        if _CODE.search(source):
            self._local.rendering = rendering
            text, line_of = self._run(source, path)
        else:
            text, line_of = source, tuple(range(1, source.count("\n") + 2))
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

    def _run(self, source: str, path: str) -> tuple[str, tuple[int, ...]]:
        try:
            with self._sandbox.limited():
                template = self._compile(source, path)
                pieces = list(self._pieces(template))
        except Exception as error:
            raise ProjectError(self._problem(error, source, path)) from error
        return "".join(text for text, _, _ in pieces), _map_lines(pieces)

    def _compile(self, source: str, path: str) -> Template:
        tree = self._sandbox._parse(source, None, path)
        code = self._sandbox.compile(tree, None, path)
        return Template.from_code(self._sandbox, code, self._sandbox.globals)

    def _pieces(self, template: Template) -> Iterator[tuple[str, int, bool]]:
        """Yield each output at the top level: its text, its line, and whether the file holds it as it is."""
        lines, starts = _line_table(template)
        outputs = cast("Any", template.root_render_func(template.new_context()))
        for text in outputs:
            at = lines[bisect_right(starts, outputs.gi_frame.f_lineno) - 1]
            yield self._sandbox.text(text), at, self._sandbox.is_data

    # macros

    def _load_macros(self) -> None:
        """Make every macro of every file a global; they are bound when called, so files may stand in any order."""
        found: dict[str, Macro] = {}
        owners: dict[str, str] = {}
        problems: list[Problem] = []
        trees = {}
        for path in sorted(self._sources):
            try:
                with self._sandbox.limited():
                    trees[path] = self._sandbox._parse(self._sources[path], None, path)
                problems += self._claim(trees[path], path, owners)
            except Exception as error:
                problems.append(self._problem(error, self._sources[path], path))
        self._macro_names = tuple(owners)
        for name in owners:
            self._sandbox.globals[name] = Door(name, _late(found, name))
        for path, tree in trees.items():
            try:
                with self._sandbox.limited():
                    self._local.rendering = _Rendering("")
                    code = self._sandbox.compile(tree, None, path)
                    module = Template.from_code(self._sandbox, code, self._sandbox.globals).module
                    found |= {name: value for name, value in vars(module).items() if isinstance(value, Macro)}
            except Exception as error:
                problems.append(self._problem(error, self._sources[path], path))
        if problems:
            raise ProjectError(problems)

    def _claim(self, tree: nodes.Template, path: str, owners: dict[str, str]) -> Iterator[Problem]:
        for macro in tree.body:
            if not isinstance(macro, nodes.Macro) or macro.name.startswith("_"):
                continue
            where = self._locate(path, macro.lineno, self._sources[path])
            if macro.name in self._sandbox.globals:
                yield Problem(
                    "TR102",
                    f'macro "{macro.name}" has the name of a function that Treadle offers',
                    where,
                    fix="give it another name",
                )
            elif macro.name in owners:
                why = f"it stands in {owners[macro.name]} too"
                yield Problem(
                    "TR102", f'macro "{macro.name}" is defined twice', where, why, fix="rename one of them"
                )
            owners.setdefault(macro.name, path)

    # what templates may call

    def _ref(self, *names: Any) -> str:
        if len(names) == 2:
            raise _CallError(
                "TR104",
                "ref() with two names is reserved for other projects",
                why=f"found ref({', '.join(map(_shown, names))})",
                fix=f"write ref({_shown(names[1])})",
            )
        return self._refer("ref", names)

    def _source(self, *names: Any) -> str:
        return self._refer("source", names[1:] if len(names) == 2 else names)

    def _refer(self, function: str, names: tuple[Any, ...]) -> str:
        if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
            raise _CallError(
                "TR202",
                f"{function}() takes the name of a table, in quotes",
                why=f"found {function}({', '.join(map(_shown, names))})",
                fix=f"write {{{{ {function}('flights') }}}}",
            )
        rendering = self._rendering
        if names[0] not in rendering.refs:
            rendering.refs[names[0]] = _calling_line()
        return quote(names[0])

    def _var(self, name: Any, default: Any = _MISSING) -> Any:
        if isinstance(name, str) and name in self._variables:
            return self._variables[name]
        if default is not _MISSING:
            return default
        raise _CallError(
            "TR210",
            f"variable {_shown(name)} is not defined",
            suggestion=close_match(str(name), self._variables) or "",
            fix=f"define it under vars: in treadle.yml, or give a default: var({_shown(name)}, 0)",
        )

    def _env_var(self, name: Any, default: Any = _MISSING) -> Any:
        if not isinstance(name, str) or not name.startswith("TREADLE_"):
            raise _CallError(
                "TR209",
                f"environment variable {_shown(name)} cannot be read",
                why="a template reads only variables whose names begin with TREADLE_",
                fix=f"set TREADLE_{str(name).upper()} and read that",
            )
        if name.startswith("TREADLE_SECRET_"):
            raise _CallError(
                "TR209",
                f"environment variable {_shown(name)} cannot be read",
                why="secrets are read inside connections only: they never stand in SQL, logs or packages",
                fix="move it to a connection, or use a variable without SECRET in its name",
            )
        if name in self._environ:
            return self._environ[name]
        if default is not _MISSING:
            return default
        raise _CallError(
            "TR211",
            f"environment variable {_shown(name)} is not set",
            suggestion=close_match(name, (known for known in self._environ if known.startswith("TREADLE_")))
            or "",
            fix=f"export {name}=..., or give a default: env_var({_shown(name)}, '')",
        )

    def _config(self, *args: Any, **values: Any) -> str:
        if args:
            raise _CallError("TR202", "config() takes named values", fix="write config(entity='carrier')")
        config = self._rendering.config
        for key, value in values.items():
            if key.startswith("_"):  # what the compiler passes along inside a loop or block
                continue
            found = _to_json(key, value)
            if config.setdefault(key, found) != found:
                raise _CallError(
                    "TR005",
                    f'config() gives "{key}" twice',
                    why=f"first {_shown(config[key])}, then {_shown(found)}",
                    fix="keep one of them",
                )
        return ""

    def _this(self) -> str:
        return quote(self._rendering.name)

    def _as_of(self) -> str:
        self._rendering.uses_as_of = True
        if self._as_of_text is None:
            raise _CallError(
                "TR202",
                '"as_of" is not fixed',
                why="the template reads as_of, and this run does not say what now is",
                fix="pass --as-of, for example --as-of 2013-11-01",
            )
        return self._as_of_text

    @property
    def _rendering(self) -> _Rendering:
        return cast("_Rendering", self._local.rendering)

    # errors

    def _locate(self, path: str, line: int, source: str, column: int = 0) -> Location:
        return Location(path, line, column, _line(source, line).strip())

    def _problem(self, error: Exception, source: str, path: str) -> Problem:
        """Return what went wrong, in plain words, with the line of the innermost template."""
        if isinstance(error, TemplateSyntaxError):
            return self._syntax_problem(error, source, path)
        frames = _template_frames(error.__traceback__)
        at, line = frames[-1] if frames else (path, 0)
        text = source if at == path else self._sources.get(at, "")
        called = (
            f"called from {path}:{frames[0][1]}" if at != path and frames and frames[0][0] == path else ""
        )
        where = self._locate(at, line, text)
        if isinstance(error, _CallError):
            why = "\n".join(filter(None, (error.why, called)))
            return Problem(error.code, error.what, where, why, error.suggestion, error.fix)
        if limit := _limit(error, is_running=bool(frames)):
            why = "\n".join(filter(None, (limit, called)))
            fix = "write less with loops and macros, or make a Python feature of it"
            return Problem("TR203", "the template goes beyond its limits", where, why, fix=fix)
        if isinstance(error, SecurityError):
            grows = _CHANGES.search(str(error))
            fix = "make a new value, as in {% set names = names + ['x'] %}" if grows else "write it without"
            return Problem("TR203", str(error).rstrip("."), where, called, fix=fix)
        if isinstance(error, UndefinedError) and (match := _UNDEFINED.search(str(error))):
            return self._undefined_problem(match["name"], where, _line(text, line), called)
        why = "\n".join(filter(None, (_in_plain_words(error), called)))
        return Problem("TR202", "a template expression fails", where, why, fix="correct the expression")

    def _undefined_problem(self, name: str, where: Location, line: str, called: str) -> Problem:
        spots = [match.start() + 1 for match in re.finditer(rf"\b{name}\b", line)]
        place = Location(where.path, where.line, spots[0] if len(spots) == 1 else 0, where.text)
        return Problem(
            "TR202",
            f'"{name}" is not defined',
            place,
            called,
            close_match(name, self._sandbox.globals) or "",
            "use a function of Treadle, a macro of macros/, or a name set in this file",
        )

    def _syntax_problem(self, error: TemplateSyntaxError, source: str, path: str) -> Problem:
        message = (error.message or "").rstrip(".")
        where = self._locate(path, error.lineno, source)
        if match := _NO_FILTER.search(message):
            kind, name = match["kind"], match["name"]
            known = self._sandbox.filters if kind == "filter" else self._sandbox.tests
            near = close_match(name, (one for one in known if not one.startswith("_"))) or ""
            if kind == "filter" and name in KNOWN_FILTERS:
                fix = "use another filter, a macro or a Python feature"
                return Problem("TR203", f'filter "{name}" cannot be used in a template', where, "", near, fix)
            return Problem(
                "TR202", f'{kind} "{name}" is not defined', where, "", near, f"use a {kind} that Jinja has"
            )
        if message.endswith("cannot be used in a template"):
            fix = "macros of macros/ are there without import" if "import" in message else "write it without"
            return Problem("TR203", message, where, fix=fix)
        why = message[:1].lower() + message[1:]
        return Problem(
            "TR201", "the template does not parse", where, why, fix="correct the {{ }}, {% %} or {# #} there"
        )


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


def _late(macros: Mapping[str, Macro], name: str) -> Any:
    return lambda *args, **kwargs: macros[name](*args, **kwargs)


def _line(text: str, number: int) -> str:
    lines = text.split("\n")
    return lines[number - 1] if 0 < number <= len(lines) else ""


def _line_table(template: Template) -> tuple[list[int], list[int]]:
    """Return the file's lines and the lines of generated code from which on they hold."""
    table = template.debug_info
    return [1, *(line for line, _ in table)], [0, *(start for _, start in table)]


def _template_line(frame: Any) -> tuple[str, int] | None:
    template = frame.f_globals.get("__jinja_template__")
    if template is None:
        return None
    lines, starts = _line_table(template)
    return template.filename, lines[bisect_right(starts, frame.f_lineno) - 1]


def _template_frames(traceback: TracebackType | None) -> list[tuple[str, int]]:
    """Return (file, line) of the templates that were running, the outermost first."""
    found = []
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            lines, starts = _line_table(template)
            found.append((template.filename, lines[bisect_right(starts, traceback.tb_lineno) - 1]))
        traceback = traceback.tb_next
    return found


def _calling_line() -> int:
    """Return the line of the file being rendered that is running now."""
    frame, line = sys._getframe(1), 0
    while frame is not None:
        if place := _template_line(frame):
            line = place[1]
            if frame.f_code.co_name == "root":
                break
        frame = frame.f_back  # type: ignore[assignment]  # the loop ends at None
    return line


def _limit(error: Exception, *, is_running: bool) -> str:
    """Return which limit an error stands for, or nothing when it stands for none."""
    if isinstance(error, LimitError):
        return str(error)
    if isinstance(error, (RecursionError, MemoryError, SyntaxError)):
        return "it is nested too deeply, or calls itself without end"
    return "a number is too long" if isinstance(error, ValueError) and not is_running else ""


def _in_plain_words(error: Exception) -> str:
    text = re.sub(r"\b(Renderer|Sandbox)\._", "", str(error).rstrip("."))
    match = re.fullmatch(r"'(\w+) object' has no (?:attribute|element) (.+)", text)
    if match is None:
        return text
    kind = {"dict": "the mapping", "list": "the list", "tuple": "the list", "str": "the text"}.get(
        match[1], "the value"
    )
    return f"{kind} has no {match[2]}"


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


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 80 else f"'{value[:77]}...'"
    if isinstance(value, Undefined):
        return "an undefined name"
    return (
        str(value)[:80]
        if isinstance(value, (int, float, bool, list, dict)) or value is None
        else "a function"
    )


def _to_json(key: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_to_json(key, item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _to_json(key, item) for name, item in value.items()}
    if (
        value is None
        or isinstance(value, (str, bool, int))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise _CallError(
        "TR202",
        f'config() cannot keep the value of "{key}"',
        why=f"found {_shown(value)}",
        fix="give a text, a number, true, false, none, a list or a mapping",
    )


def _to_timestamp(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return f"TIMESTAMP '{moment.isoformat(sep=' ')}'"
