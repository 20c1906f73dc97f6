"""What went wrong in a template, as a `Problem` with the line of the innermost template that was running."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError, TemplateSyntaxError, UndefinedError
from jinja2.filters import FILTERS
from jinja2.runtime import Undefined

from treadle.errors import Location, Problem
from treadle.guard import LimitError
from treadle.names import close_match

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType, TracebackType

    from jinja2.environment import Template

    from treadle.sandbox import Sandbox

_UNDEFINED = re.compile(r"'(?P<name>\w+)' is undefined")
_NO_FILTER = re.compile(r"No (?P<kind>filter|test) named '(?P<name>\w+)'")
_CHANGES = re.compile(r'^"(?:append|clear|extend|insert|pop|remove|reverse|setdefault|sort|update)"')
_ATTRIBUTE = re.compile(r"'(?P<kind>\w+) object' has no (?:attribute|element) (?P<name>.+)")
_PLAIN_WORDS = (
    (re.compile(r"(?:\w+\._)?(\w+\(\)) missing \d+ required positional arguments?: (.+)"), r"\1 needs \2"),
    (re.compile(r"(?:\w+\._)?(\w+\(\)) takes .+ positional arguments? but .+"), r"\1 is given too many values"),
    (re.compile(r"(?:\w+\._)?(\w+\(\)) got an unexpected keyword argument (.+)"), r"\1 takes no \2"),
)
_KINDS = {"dict": "the mapping", "list": "the list", "tuple": "the list", "str": "the text"}


class CallError(Exception):
    """A function of Treadle refuses its arguments; where it was called is found from the traceback."""

    def __init__(self, code: str, what: str, *, why: str = "", suggestion: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.why, self.suggestion, self.fix = code, what, why, suggestion, fix


def explain(error: Exception, *, path: str, sources: Mapping[str, str], sandbox: Sandbox) -> Problem:
    """Return an error of Jinja, of the sandbox or of an expression in plain words.

    Args:
        error: with its traceback, which names the templates that were running.
        path: the file that was rendered.
        sources: path -> text of that file and of the macro files.
        sandbox: knows the names that could have been meant.
    """
    if isinstance(error, TemplateSyntaxError):
        return _explain_syntax(error, _locate(path, error.lineno, sources), sandbox)
    frames = _running(error.__traceback__)
    at, line = frames[-1] if frames else (path, 0)
    called = f"called from {path}:{frames[0][1]}" if frames and frames[0][0] == path != at else ""
    where = _locate(at, line, sources)
    if isinstance(error, CallError):
        return Problem(error.code, error.what, where, _both(error.why, called), error.suggestion, error.fix)
    if limit := _limit(error, is_running=bool(frames)):
        fix = "write less with loops and macros, or make a Python feature of it"
        return Problem("TR203", "the template goes beyond its limits", where, _both(limit, called), fix=fix)
    if isinstance(error, SecurityError):
        grows = _CHANGES.search(str(error))
        fix = "make a new value, as in {% set names = names + ['x'] %}" if grows else "write it without"
        return Problem("TR203", str(error).rstrip("."), where, called, fix=fix)
    message = str(error).rstrip(".")
    if isinstance(error, UndefinedError) and (match := _UNDEFINED.search(message)):
        return _explain_undefined(match["name"], where, line_at(sources.get(at, ""), line), called, sandbox)
    if match := _NO_FILTER.search(message):  # in a branch, found when it runs
        return _explain_filter(match["kind"], match["name"], where, sandbox)
    why = _both(_in_plain_words(message), called)
    return Problem("TR202", "a template expression fails", where, why, fix="correct the expression")


def _explain_undefined(name: str, where: Location, line: str, called: str, sandbox: Sandbox) -> Problem:
    spots = [match.start() + 1 for match in re.finditer(rf"\b{name}\b", line)]
    return Problem(
        "TR202",
        f'"{name}" is not defined',
        Location(where.path, where.line, spots[0] if len(spots) == 1 else 0, where.text),
        called,
        close_match(name, sandbox.globals) or "",
        "use a function of Treadle, a macro of macros/, or a name set in this file",
    )


def _explain_syntax(error: TemplateSyntaxError, where: Location, sandbox: Sandbox) -> Problem:
    message = (error.message or "").rstrip(".")
    if match := _NO_FILTER.search(message):
        return _explain_filter(match["kind"], match["name"], where, sandbox)
    if message.endswith("cannot be used in a template"):
        fix = "macros of macros/ are there without import" if "import" in message else "write it without"
        return Problem("TR203", message, where, fix=fix)
    why = message[:1].lower() + message[1:]
    fix = "correct the {{ }}, {% %} or {# #} there"
    return Problem("TR201", "the template does not parse", where, why, fix=fix)


def _explain_filter(kind: str, name: str, where: Location, sandbox: Sandbox) -> Problem:
    known = sandbox.filters if kind == "filter" else sandbox.tests
    near = close_match(name, (one for one in known if not one.startswith("_"))) or ""
    if kind == "filter" and name in FILTERS:
        fix = "use another filter, a macro or a Python feature"
        return Problem("TR203", f'filter "{name}" cannot be used in a template', where, "", near, fix)
    return Problem("TR202", f'{kind} "{name}" is not defined', where, "", near, f"use a {kind} that Jinja has")


def _limit(error: Exception, *, is_running: bool) -> str:
    """Return which limit an error stands for, or nothing when it stands for none."""
    if isinstance(error, LimitError):
        return str(error)
    if isinstance(error, (RecursionError, MemoryError, SyntaxError)):
        return "it is nested too deeply, or calls itself without end"
    return "a number is too long" if isinstance(error, ValueError) and not is_running else ""


def _in_plain_words(message: str) -> str:
    if match := _ATTRIBUTE.fullmatch(message):
        return f"{_KINDS.get(match['kind'], 'the value')} has no {match['name']}"
    for pattern, words in _PLAIN_WORDS:
        if match := pattern.fullmatch(message):
            return match.expand(words)
    return message


def _both(first: str, second: str) -> str:
    return "\n".join(filter(None, (first, second)))


def _locate(path: str, line: int, sources: Mapping[str, str]) -> Location:
    return Location(path, line, 0, line_at(sources.get(path, ""), line).strip())


# lines and frames


def line_at(text: str, number: int) -> str:
    """Return a line of a text, from 1; nothing when there is none."""
    lines = text.split("\n")
    return lines[number - 1] if 0 < number <= len(lines) else ""


def line_table(template: Template) -> tuple[list[int], list[int]]:
    """Return lines of a template's file, and for each the first line of generated code that it stands for."""
    table = template.debug_info
    return [1, *(line for line, _ in table)], [0, *(start for _, start in table)]


def calling_line() -> int:
    """Return the line of the file being rendered that is running now, whatever macros it has called."""
    frame: FrameType | None = sys._getframe(1)
    line = 0
    while frame is not None:
        if template := frame.f_globals.get("__jinja_template__"):
            line = _file_line(template, frame.f_lineno)
            if frame.f_code.co_name == "root":
                break
        frame = frame.f_back
    return line


def _running(traceback: TracebackType | None) -> list[tuple[str, int]]:
    """Return (file, line) of the templates that were running, the outermost first."""
    found = []
    while traceback is not None:
        if template := traceback.tb_frame.f_globals.get("__jinja_template__"):
            found.append((template.filename, _file_line(template, traceback.tb_lineno)))
        traceback = traceback.tb_next
    return found


def _file_line(template: Template, code_line: int) -> int:
    lines, starts = line_table(template)
    return lines[bisect_right(starts, code_line) - 1]


def shown(value: Any) -> str:
    """Return a value as an error shows it."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 80 else f"'{value[:77]}...'"
    if isinstance(value, Undefined):
        return "an undefined name"
    is_data = value is None or isinstance(value, (int, float, bool, list, dict))
    return str(value)[:80] if is_data else "a function"
