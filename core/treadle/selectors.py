"""selectors.yml: selections that have a name, in dbt's form.

    selectors:
      - name: nightly
        description: all but what is slow
        default: false
        definition:
          union: ["tag:nightly", {method: kind, value: source, children: true}]
          exclude: ["tag:slow"]

A definition is text as on the command line, one method as `{tag: nightly}` or in full, `union:` or `intersection:` of
definitions; `exclude:` takes away from the one that it stands in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from treadle import yamlfile
from treadle.errors import Problem, ProjectError, UsageError
from treadle.projectfile import read_text
from treadle.select import SELECTORS_FILE, Expression, Intersection, Selectors, Union, Without, parse

_KEYS = frozenset({"name", "description", "default", "definition"})
_GRAPH = {
    "parents": "whether all that it reads is meant too",
    "children": "whether all that reads it is meant too",
    "childrens_parents": "whether all that its readers need is meant too",
}
_DEPTHS = ("parents_depth", "children_depth")
_FULL = frozenset({"method", "value", "exclude", *_GRAPH, *_DEPTHS})
Place = tuple[str | int, ...]


def read_selectors(root: Path) -> Selectors:
    """Read a project's selectors.yml; without that file there are none.

    Raises:
        ProjectError: it is wrong: TR002 to TR007, TR102 a name twice, TR609 two are the default.
    """
    file = root / SELECTORS_FILE
    if not file.is_file():
        return Selectors({}, {})
    document = yamlfile.read_yaml(read_text(file, SELECTORS_FILE), path=SELECTORS_FILE)
    reader = _Reader(document)
    found = reader.read()
    if reader.problems:
        raise ProjectError(reader.problems)
    return found


class _Reader:
    def __init__(self, document: yamlfile.Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def read(self) -> Selectors:
        named: dict[str, Expression] = {}
        descriptions: dict[str, str] = {}
        defaults: list[str] = []
        for n, entry in enumerate(self._entries()):
            place: Place = ("selectors", n)
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                self._wrong(place, entry, "a selector with name and definition")
                continue
            name = entry["name"]
            self._check_keys(place, entry, _KEYS)
            if name in named:
                what = f'selector "{name}" is defined twice'
                self.problems.append(Problem("TR102", what, self.document.locate(*place, "name"), fix="rename one"))
            if "definition" not in entry:
                what, where = '"definition" is missing', self.document.locate(*place)
                self.problems.append(Problem("TR006", what, where, fix="add `definition:`"))
                continue
            named[name] = self._expression((*place, "definition"), entry["definition"])
            descriptions[name] = str(entry.get("description", ""))
            if entry.get("default") is True:
                defaults.append(name)
        if len(defaults) > 1:
            what, why = "several selectors are the default", ", ".join(defaults)
            where = self.document.locate("selectors")
            self.problems.append(Problem("TR609", what, where, why, fix="keep one `default: true`"))
        return Selectors(named, descriptions, defaults[0] if defaults else None)

    def _entries(self) -> Sequence[Any]:
        value = self.document.value
        self._check_keys((), value, frozenset({"selectors"}))
        entries = value.get("selectors", []) if isinstance(value, dict) else []
        if not isinstance(entries, list):
            self._wrong(("selectors",), entries, "a list of selectors")
            return []
        return entries

    def _expression(self, place: Place, value: Any) -> Expression:
        match value:
            case str():
                return self._text(place, value)
            case {"method": _}:
                return self._term(place, value)
            case {"union": list(parts), **rest}:
                return self._set(place, "union", parts, rest)
            case {"intersection": list(parts), **rest}:
                return self._set(place, "intersection", parts, rest)
            case dict() if len(value) == 1:
                [(method, of)] = value.items()
                if method not in ("union", "intersection", "exclude") and isinstance(of, (str, int, bool)):
                    return self._text(place, f"{method}:{_to_text(of)}")
        self._wrong(place, value, "text, {method: ..., value: ...}, union: [...] or intersection: [...]")
        return Union(())

    def _text(self, place: Place, text: str) -> Expression:
        try:
            return parse([text])
        except UsageError as error:
            where = self.document.locate(*place)
            self.problems += [Problem("TR004", each.what, where, each.why, fix=each.fix) for each in error.problems]
            return Union(())

    def _set(self, place: Place, how: str, parts: Sequence[Any], rest: Mapping[Any, Any]) -> Expression:
        self._check_keys(place, rest, frozenset({"exclude"}))
        taken = rest.get("exclude", [])
        members: list[Expression] = []
        for n, part in enumerate(parts):
            if isinstance(part, dict) and part.keys() == {"exclude"}:  # as dbt writes it: a member of its own
                taken = part["exclude"]
            else:
                members.append(self._expression((*place, how, n), part))
        base: Expression = Union(tuple(members)) if how == "union" else Intersection(tuple(members))
        return self._without(place, base, taken)

    def _without(self, place: Place, base: Expression, taken: Any) -> Expression:
        if not taken:
            return base
        if not isinstance(taken, list):
            self._wrong((*place, "exclude"), taken, "a list")
            return base
        minus = Union(tuple(self._expression((*place, "exclude", n), part) for n, part in enumerate(taken)))
        return Without(base, minus)

    def _term(self, place: Place, value: Mapping[str, Any]) -> Expression:
        self._check_keys(place, value, _FULL)
        for key in _GRAPH:
            if not isinstance(value.get(key, False), bool):
                self._wrong((*place, key), value[key], "true or false")
        for key in _DEPTHS:
            if not isinstance(value.get(key, 0), int) or isinstance(value.get(key), bool):
                self._wrong((*place, key), value[key], "a whole number")
        up = f"{value.get('parents_depth', '')}+" if value.get("parents") is True else ""
        down = f"+{value.get('children_depth', '')}" if value.get("children") is True else ""
        around = "@" if value.get("childrens_parents") is True else ""
        if "value" not in value:
            if value.keys() <= _FULL:  # else it is misspelt
                what, where = '"value" is missing', self.document.locate(*place)
                self.problems.append(Problem("TR006", what, where, fix="add `value:`"))
            return Union(())
        of = value["value"]
        if not isinstance(of, (str, int, bool)):
            self._wrong((*place, "value"), of, "text")
            return Union(())
        named = "" if value["method"] == "name" else f"{value['method']}:"
        return self._without(place, f"{around}{up}{named}{_to_text(of)}{down}", value.get("exclude"))

    def _check_keys(self, place: Place, value: Any, known: frozenset[str]) -> None:
        for key in value if isinstance(value, dict) else ():
            if key not in known:
                self.problems.append(yamlfile.unknown_key(self.document, (*place, key), sorted(known)))

    def _wrong(self, place: Place, value: Any, expected: str) -> None:
        why = f"expected {expected}, found {yamlfile.shown(value)}"
        self.problems.append(Problem("TR004", "a value has the wrong form", self.document.locate(*place), why))


def _to_text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
