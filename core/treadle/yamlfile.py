"""Read YAML 1.2 with the position of every value, within bounds.

text -> events (depth is checked) -> composed tree of libyaml -> plain values and their marks -> a spec, or problems.
Only YAML 1.2's core types exist (`on` and `no` are words, dates are text); aliases and `<<` are allowed, within
`MAX_VALUES`; a key that is written twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.resolver import BaseResolver

from treadle import dbtforms
from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 200_000

_TOO_DEEP = f"more than {MAX_DEPTH} levels inside each other"
_NUMBERS = {"int": "whole number", "float": "number"}
_FLATTER = "write it flatter"
_TAG = "tag:yaml.org,2002:"

SpecT = TypeVar("SpecT", bound=BaseModel)
Path = tuple[str | int, ...]

_PARSER: Any = getattr(yaml.cyaml, "CParser", None) or yaml.SafeLoader


class _Resolver(BaseResolver):
    """The core schema of YAML 1.2 (chapter 10.3.2), and `<<` of 1.1."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("merge", r"<<", "<"),
):
    _Resolver.add_implicit_resolver(
        f"{_TAG}{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
    )


class _Loader(_PARSER, _Resolver):  # type: ignore[misc]  # libyaml's parser is chosen when this runs
    """libyaml's parser and composer with the resolver above."""

    def __init__(self, stream: str) -> None:
        _PARSER.__init__(self, stream)
        _Resolver.__init__(self)


@dataclass(frozen=True)
class Document:
    """A YAML file: its value, and where each part of it stands.

    Attributes:
        path: relative to the project's root.
        value: dicts with text keys, lists, text, numbers, booleans and None.
        marks: path of keys and indexes -> (line, column), from 1.
    """

    path: str
    value: Any
    marks: Mapping[Path, tuple[int, int]]
    lines: tuple[str, ...] = field(repr=False)

    def locate(self, *path: str | int) -> Location:
        """Return the place of a value; of the nearest one around it when it does not stand in the file."""
        value = self.value
        found: Path = ()
        for part in path:
            step = _descend(value, part)
            if step is None:
                continue
            for key in step:
                value = value[key]
                found = (*found, key)
        line, column = self.marks.get(found, (1, 1))
        return self.location(line, column)

    def location(self, line: int, column: int = 0) -> Location:
        """Return the place at a line and a column, with the line's text."""
        text = self.lines[line - 1].strip() if 0 < line <= len(self.lines) else ""
        return Location(self.path, line, column, text[:100])


def _descend(value: Any, part: str | int) -> Path | None:
    """Return the keys that lead to `part` from `value`: one, or two through the short form `{name: {part: ...}}`."""
    if isinstance(value, dict):
        if (path := dbtforms.find(value, part)) is not None:
            return path
        if len(value) == 1:
            key, inner = next(iter(value.items()))
            if isinstance(inner, dict) and (path := dbtforms.find(inner, part)) is not None:
                return (key, *path)
        if f"+{part}" in value:
            return (f"+{part}",)
    if isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value):
        return (part,)
    return None


def read_yaml(text: str, *, path: str) -> Document:
    """Parse one YAML document.

    Args:
        text: the file's text.
        path: the file, relative to the project's root, for errors.

    Returns:
        The document; an empty file is an empty mapping.

    Raises:
        ProjectError: TR002 (does not parse), TR005 (a key twice), TR007 (beyond the bounds).
    """
    lines = tuple(text.splitlines())
    if len(text) > MAX_BYTES:
        why = f"{len(text):,} characters; at most {MAX_BYTES:,}"
        fix = "split it into several files"
        raise ProjectError(Problem("TR007", "a YAML file is too large", Location(path), why, fix=fix))
    document = Document(path, {}, {}, lines)
    try:
        _check_depth(text, document)
        node = _Loader(text).get_single_node()
    except yaml.YAMLError as error:
        raise ProjectError(_syntax_problem(error, document)) from error
    if node is None:
        return document
    marks: dict[Path, tuple[int, int]] = {}
    value = _Builder(document, marks).build(node)
    return Document(path, value, marks, lines)


def _syntax_problem(error: yaml.YAMLError, document: Document) -> Problem:
    mark = getattr(error, "problem_mark", None)
    where = document.location(mark.line + 1, mark.column + 1) if mark is not None else Location(document.path)
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    fix = "indentation shows what belongs together; put text that holds `: `, `#`, `{` or `[` in quotes"
    if "cannot start any token" in why and _is_tab(document, mark):
        why, fix = "a tab stands where only spaces may stand", "indent by spaces"
    elif "another document" in why:
        why, fix = "a second document starts here", "remove the `---`, or make a file of its own of what follows"
    elif "undefined alias" in why:
        why, fix = (
            "`*name` repeats what `&name` marks, and nothing before it is marked so",
            "put text with a `*` in quotes",
        )
    return Problem("TR002", "YAML does not parse", where, why, fix=fix)


def _is_tab(document: Document, mark: Any) -> bool:
    if mark is None or mark.line >= len(document.lines):
        return False
    return bool(document.lines[mark.line][mark.column : mark.column + 1] == "\t")


def _check_depth(text: str, document: Document) -> None:
    """Refuse deep nesting before the recursive composer sees it."""
    if sum(map(text.count, "[{-?:")) < MAX_DEPTH:
        return
    depth = 0
    parser = _Loader(text)
    while parser.check_event():
        event = parser.get_event()
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                raise ProjectError(
                    _node_problem("TR007", "YAML is nested too deeply", event, document, _TOO_DEEP, _FLATTER)
                )
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            depth -= 1


def _node_problem(code: str, what: str, node: Any, document: Document, why: str, fix: str) -> Problem:
    where = document.location(node.start_mark.line + 1, node.start_mark.column + 1)
    return Problem(code, what, where, why, fix=fix)


class _Builder:
    """Turns composed nodes into plain values, counting them: an alias counts each time it is used."""

    def __init__(self, document: Document, marks: dict[Path, tuple[int, int]]) -> None:
        self.document, self.marks = document, marks
        self.n_values = 0
        self.open: set[int] = set()

    def problem(self, code: str, what: str, node: yaml.Node, why: str, fix: str) -> ProjectError:
        return ProjectError(_node_problem(code, what, node, self.document, why, fix))

    def build(self, node: yaml.Node, path: Path = ()) -> Any:
        self.n_values += 1
        if self.n_values > MAX_VALUES:
            why = f"more than {MAX_VALUES:,} values once aliases (`*name`) are filled in"
            raise self.problem("TR007", "YAML expands too far", node, why, "use fewer aliases of aliases")
        if len(self.open) > MAX_DEPTH:
            raise self.problem("TR007", "YAML is nested too deeply", node, _TOO_DEEP, _FLATTER)
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.problem(
                "TR007", "YAML contains itself", node, "an alias stands inside its own anchor", "remove it"
            )
        if node.tag not in (f"{_TAG}seq", f"{_TAG}map"):
            raise self.unknown_tag(node)
        self.open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            value: Any = self.mapping(node, path)
        else:
            value = [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        self.open.discard(id(node))
        return value

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                for part in self.merged(value_node, path):
                    merged = {**part, **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.problem(
                    "TR002", "a key is no text", key_node, "keys are single words or quoted text", "rename it"
                )
            key = key_node.value
            if key in found:
                why = f'"{word(key)}" stands here a second time'
                raise self.problem("TR005", "a key is written twice", key_node, why, "remove one of the two")
            self.marks[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            found[key] = self.build(value_node, (*path, key))
        return {**merged, **found} if merged else found

    def merged(self, node: yaml.Node, path: Path) -> Iterator[dict[str, Any]]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in nodes:
            if not isinstance(part, yaml.MappingNode):
                raise self.problem(
                    "TR002",
                    "`<<` merges no mapping",
                    node,
                    "it takes `*name` or a list of them",
                    "merge what `&name` marks",
                )
            yield self.build(part, path)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        try:
            match kind:
                case "str" | "merge":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
                case "float":
                    return float(re.sub(r"(?i)\.(inf|nan)", r"\1", text))
        except ValueError as error:
            raise self.problem(
                "TR002", "YAML does not parse", node, f'"{word(text)}" is no {_NUMBERS.get(kind, kind)}', "correct it"
            ) from error
        raise self.unknown_tag(node)

    def unknown_tag(self, node: yaml.Node) -> ProjectError:
        why = f"the tag {word(node.tag.replace(_TAG, '!!'))} is not known here"
        return self.problem(
            "TR002",
            "YAML does not parse",
            node,
            why,
            "remove the tag; values are plain text, numbers, lists and mappings",
        )


def parse_spec(
    document: Document, spec: type[SpecT], value: object, *, path: Path = (), is_part: bool = False
) -> tuple[SpecT | None, list[Problem]]:
    """Check a value, the part of the document at `path`, against a spec.

    Args:
        is_part: whether required keys may be missing, because they stand elsewhere.

    Returns:
        (the spec, []) or (None, the problems, each with its place).
    """
    if not isinstance(value, dict):
        why = f"expected keys and values, found {shown(value)}"
        return None, [
            Problem("TR004", "a value has the wrong form", document.locate(*path), why, fix="write `key: value`")
        ]
    try:
        return spec.model_validate(value), []
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _is_other_branch(detail, error)]
        if is_part:
            details = [detail for detail in details if detail["type"] != "missing" or len(detail["loc"]) > 1]
        problems = [_spec_problem(detail, document, spec, path) for detail in details]
        misspelt = {f'"{problem.suggestion}" is missing' for problem in problems if problem.code == "TR003"}
        return None, [problem for problem in problems if problem.what not in misspelt]


def _is_other_branch(detail: ErrorDetails, error: ValidationError) -> bool:
    """Return whether the detail only says that a list or a mapping is no text, where the spec takes either."""
    if detail["type"] != "string_type" or not isinstance(detail["input"], (dict, list)):
        return False
    place = detail["loc"][:-1]
    return any(
        other["loc"][: len(place)] == place and other["loc"] != detail["loc"]
        for other in error.errors(include_url=False)
    )


_EXPECTED = {
    "a valid string": "text",
    "a valid tuple": "a list",
    "a valid dictionary": "keys and values",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
}


def _spec_problem(detail: ErrorDetails, document: Document, spec: type[BaseModel], path: Path) -> Problem:
    loc = tuple(part for part in detail["loc"])
    where = document.locate(*path, *loc)
    key = ".".join(
        word(str(part)) for part in loc if not (isinstance(part, str) and re.search(r"[\[\]()-]|^[A-Z]", part))
    )
    match detail["type"]:
        case "extra_forbidden":
            return unknown_key(document, (*path, *loc), sorted(_fields_at(spec, loc[:-1])))
        case "missing":
            return Problem(
                "TR006", f'"{loc[-1]}" is missing', document.locate(*path, *loc[:-1]), fix=f"add `{loc[-1]}:`"
            )
    why, suggestion = explain_value(detail)
    return Problem("TR004", f'"{key}" has a value of the wrong form', where, why, suggestion)


def unknown_key(document: Document, path: Path, known: Sequence[str]) -> Problem:
    """Return the problem of a key that is not known where it stands."""
    key = str(path[-1])
    fix = f"known here: {', '.join(known)}" if known else "remove it"
    suggestion = close_match(key, known) or ""
    return Problem("TR003", f'"{word(key)}" is no key here', document.locate(*path), suggestion=suggestion, fix=fix)


def explain_value(detail: ErrorDetails) -> tuple[str, str]:
    """Return why a value does not fit its key, and what was probably meant."""
    found = shown(detail["input"])
    if detail["type"] == "value_error":
        return detail["msg"].removeprefix("Value error, "), ""
    if detail["type"] == "literal_error":
        expected = str(detail.get("ctx", {}).get("expected"))
        near = close_match(str(detail["input"]), re.findall(r"'(\w+)'", expected)) or ""
        return f"expected {expected}, found {found}", near
    message = detail["msg"].removeprefix("Input should be ").partition(", ")[0]
    return f"expected {_EXPECTED.get(message, message)}, found {found}", ""


def _fields_at(spec: type[BaseModel], loc: Path) -> list[str]:
    """Return the keys that the spec knows where `loc` leads."""
    current: Any = spec
    for part in loc:
        if isinstance(part, int):
            continue
        model = _model_of(current)
        if model is None:
            return []
        by_name = {(f.alias or name): f for name, f in model.model_fields.items()}
        if part in by_name:
            current = by_name[part].annotation
    model = _model_of(current)
    return [] if model is None else [f.alias or name for name, f in model.model_fields.items()]


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _model_of(inner)) is not None:
            return found
    return None


def word(text: str) -> str:
    """Return text as it can stand inside a line of an error."""
    plain = "".join(c if c.isprintable() else " " for c in text[:61])
    return plain if len(text) <= 60 else f"{plain[:57]}..."


def shown(value: Any) -> str:
    """Return a value as an error shows it."""
    match value:
        case dict():
            return "keys and values"
        case list():
            return "a list"
        case None:
            return "nothing"
        case str():
            return f'the text "{word(value)}"'
        case bool():
            return "true" if value else "false"
        case _:
            return repr(value)[:60]
