"""Read YAML 1.2 with the position of every value, within bounds.

text -> events (depth is checked) -> composed tree of libyaml -> plain values and their marks -> a spec, or problems.
Only YAML 1.2's core types exist (`on` and `no` are words, dates are text); aliases and `<<` are allowed, within
`MAX_VALUES`; a key that is written twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml.resolver import BaseResolver

from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_VALUES = 200_000

SpecT = TypeVar("SpecT", bound=BaseModel)
Path = tuple[str | int, ...]

_PARSER: type[Any] = getattr(yaml.cyaml, "CParser", None) or yaml.SafeLoader


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
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), [*_first, *([""] if _tag == "null" else [])]
    )


class _Loader(_PARSER, _Resolver):
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
        value, found = self.value, ()
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
        if part in value:
            return (part,)
        if len(value) == 1:
            key, inner = next(iter(value.items()))
            if isinstance(inner, dict) and part in inner:
                return (key, part)
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
        raise ProjectError(
            Problem("TR007", "a YAML file is too large", Location(path), f"{len(text):,} characters; at most {MAX_BYTES:,}")
        )
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
    if why == "found character that cannot start any token" and where.text.startswith("\t"):
        return Problem("TR002", "YAML does not parse", where, "a line is indented by a tab", fix="indent by spaces")
    fix = "indentation shows what belongs together; put text that holds `: `, `#`, `{` or `[` in quotes"
    return Problem("TR002", "YAML does not parse", where, why, fix=fix)


def _check_depth(text: str, document: Document) -> None:
    """Refuse deep nesting before the recursive composer sees it."""
    if text.count("[") + text.count("{") + text.count("- ") + text.count(":") < MAX_DEPTH:
        return
    depth = 0
    parser = _Loader(text)
    while parser.check_event():
        event = parser.get_event()
        if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                where = document.location(event.start_mark.line + 1, event.start_mark.column + 1)
                why = f"more than {MAX_DEPTH} levels inside each other"
                raise ProjectError(Problem("TR007", "YAML is nested too deeply", where, why, fix="write it flatter"))
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            depth -= 1


class _Builder:
    """Turns composed nodes into plain values, counting them: an alias counts each time it is used."""

    def __init__(self, document: Document, marks: dict[Path, tuple[int, int]]) -> None:
        self.document, self.marks = document, marks
        self.n_values = 0
        self.open: set[int] = set()

    def problem(self, code: str, what: str, node: yaml.Node, why: str, fix: str) -> ProjectError:
        where = self.document.location(node.start_mark.line + 1, node.start_mark.column + 1)
        return ProjectError(Problem(code, what, where, why, fix=fix))

    def build(self, node: yaml.Node, path: Path = ()) -> Any:
        self.n_values += 1
        if self.n_values > MAX_VALUES:
            why = f"more than {MAX_VALUES:,} values once aliases (`*name`) are filled in"
            raise self.problem("TR007", "YAML expands too far", node, why, "use fewer aliases of aliases")
        self.marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if id(node) in self.open:
            raise self.problem("TR007", "YAML contains itself", node, "an alias stands inside its own anchor", "remove it")
        self.open.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            value: Any = [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        else:
            value = self.mapping(node, path)
        self.open.discard(id(node))
        return value

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                for part in self.merged(value_node, path):
                    merged = {**part, **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.problem("TR002", "a key is no text", key_node, "keys are single words or quoted text", "rename it")
            key = key_node.value
            if key in found:
                why = f'"{key}" stands here a second time'
                raise self.problem("TR005", "a key is written twice", key_node, why, "remove one of the two")
            self.marks[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            found[key] = self.build(value_node, (*path, key))
        return {**merged, **found} if merged else found

    def merged(self, node: yaml.Node, path: Path) -> Iterator[dict[str, Any]]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in nodes:
            if not isinstance(part, yaml.MappingNode):
                raise self.problem("TR002", "`<<` merges no mapping", node, "it takes `*name` or a list of them", "see above")
            yield self.build(part, path)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
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
            raise self.problem("TR002", "YAML does not parse", node, f"{text!r} is no {kind}", "correct it") from error
        raise self.problem("TR002", "YAML does not parse", node, f"the tag {node.tag} is not known here", "remove the tag")


def parse_spec(document: Document, spec: type[SpecT], *, path: Path = (), value: Any = None) -> tuple[SpecT | None, list[Problem]]:
    """Check a document (or the part of it at `path`, given as `value`) against a spec.

    Returns:
        (the spec, []) or (None, the problems, each with its place).
    """
    raw = document.value if value is None else value
    if not isinstance(raw, dict):
        why = f"expected keys and values, found {_shown(raw)}"
        return None, [Problem("TR004", "a value has the wrong form", document.locate(*path), why)]
    try:
        return spec.model_validate(raw), []
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if not _is_other_branch(detail, error)]
        return None, [_spec_problem(detail, document, spec, path) for detail in details]


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
    key = ".".join(str(part) for part in loc if not (isinstance(part, str) and re.search(r"[\[\]()-]|^[A-Z]", part)))
    match detail["type"]:
        case "extra_forbidden":
            known = _fields_at(spec, loc[:-1])
            fix = f"known here: {', '.join(sorted(known))}" if known else "remove it"
            suggestion = close_match(str(loc[-1]), known) or ""
            return Problem("TR003", f'"{loc[-1]}" is no key here', where, suggestion=suggestion, fix=fix)
        case "missing":
            return Problem("TR006", f'"{loc[-1]}" is missing', document.locate(*path, *loc[:-1]), fix=f"add `{loc[-1]}:`")
        case "value_error":
            why = detail["msg"].removeprefix("Value error, ")
        case "literal_error":
            why = f"expected {detail['ctx']['expected']}, found {_shown(detail['input'])}"
            choices = re.findall(r"'(\w+)'", str(detail["ctx"]["expected"]))
            suggestion = close_match(str(detail["input"]), choices) or ""
            return Problem("TR004", f'"{key}" has a value of the wrong form', where, why, suggestion=suggestion)
        case _:
            message = detail["msg"].removeprefix("Input should be ").partition(", ")[0]
            why = f"expected {_EXPECTED.get(message, message)}, found {_shown(detail['input'])}"
    return Problem("TR004", f'"{key}" has a value of the wrong form', where, why)


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


def _shown(value: Any) -> str:
    match value:
        case dict():
            return "keys and values"
        case list():
            return "a list"
        case None:
            return "nothing"
        case str():
            return f'the text "{value[:60]}"'
        case bool():
            return "true" if value else "false"
        case _:
            return repr(value)[:60]
