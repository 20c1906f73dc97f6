"""Templates that only call functions with values written out: read without compiling them.

    select {{ cents('amount') }} from {{ ref('orders') }}  ->  text, call, text, call

Compiling a template takes Jinja half a millisecond and more; most files of a project need none of its power. What is
not surely understood here gives None, and is Jinja's. What a call does is not decided here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SOURCE = 65_536
MAX_CALLS = 500

_BLOCK = re.compile(r"\{\{-?(?P<call>.*?)(?P<strip>-?)\}\}|\{#-?(?:.*?)(?P<end>-?)#\}|\{[{%#]", re.DOTALL)
_ONE_TEXT = re.compile(r"""\s*(\w+)\(\s*(?:'([^'"\\]*)'|"([^'"\\]*)")\s*\)\s*""")
_NAME = re.compile(r"\s*(\w+)\s*")
_OTHER_LITERAL = re.compile(r"\w['\"]|'''|\"\"\"|\\|#|\w\s+\(")
_WORDS: Mapping[str, object] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Call:
    """A call whose arguments are written out.

    Attributes:
        name: of a function or macro.
        is_called: whether it is followed by arguments, as in `ref('a')`; `this` is not.
        line: of the file, from 1.
    """

    name: str
    line: int
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_called: bool = True


@dataclass(frozen=True)
class Text:
    """Text that stands in the file as it is; `line` is where it begins."""

    text: str
    line: int


def read_literal(source: str) -> list[Call | Text] | None:
    """Return the pieces of a template in their order, or None when it holds more than literal calls.

    Args:
        source: with `\\n` as its only line end.
    """
    if len(source) > MAX_SOURCE:
        return None
    pieces: list[Call | Text] = []
    at, line, is_stripped = 0, 1, False
    for match in _BLOCK.finditer(source):
        text, start = source[at : match.start()], line
        line += text.count("\n")
        block = match[0]
        if len(block) == 2 or block[2] == "+" or block[-3] == "+":  # a statement, no end, or a mark of Jinja's own
            return None
        pieces += _to_text(text, start, lstrip=is_stripped, rstrip=block[2] == "-")
        if match["call"] is not None:
            call = _read_call(match["call"], line)
            if call is None or len(pieces) > MAX_CALLS:
                return None
            pieces.append(call)
        line += block.count("\n")
        is_stripped = bool(match["strip"] or match["end"])
        at = match.end()
    pieces += _to_text(source[at:], line, lstrip=is_stripped, rstrip=False)
    return pieces


def _to_text(text: str, line: int, *, lstrip: bool, rstrip: bool) -> list[Call | Text]:
    if lstrip:
        kept = text.lstrip()
        line += text[: len(text) - len(kept)].count("\n")
        text = kept
    if rstrip:
        text = text.rstrip()
    return [Text(text, line)] if text else []


def _read_call(text: str, line: int) -> Call | None:
    line += text[: len(text) - len(text.lstrip())].count("\n")
    if match := _ONE_TEXT.fullmatch(text):
        return Call(match[1], line, (match[2] if match[2] is not None else match[3],))
    if match := _NAME.fullmatch(text):
        return Call(match[1], line, is_called=False)
    if _OTHER_LITERAL.search(text):  # what Python and Jinja write differently
        return None
    try:
        found = ast.parse(text.strip(), mode="eval").body
        if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Name) or not text.isascii():
            return None
        args = tuple(_to_value(value) for value in found.args)
        kwargs = {keyword.arg: _to_value(keyword.value) for keyword in found.keywords if keyword.arg}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return Call(found.func.id, line, args, kwargs) if len(kwargs) == len(found.keywords) else None


def _to_value(expression: ast.expr) -> Any:
    """Return the value of a literal.

    Raises:
        ValueError: it is none.
    """
    match expression:
        case ast.Constant(value=bool() | str() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _WORDS:
            return _WORDS[name]
        case ast.List(elts=items):
            return [_to_value(item) for item in items]
        case ast.Dict(keys=keys, values=values) if all(isinstance(key, ast.Constant) for key in keys):
            return {_to_value(key): _to_value(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value is not True:
            return -value
    raise ValueError(ast.dump(expression))
