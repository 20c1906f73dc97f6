"""selectors.yml: every form of dbt's, and what is wrong in it with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from treadle.errors import ProjectError
from treadle.select import Intersection, Selectors, Union, Without
from treadle.selectors import read_selectors

FORMS = """\
selectors:
  - name: text
    description: as on the command line
    definition: "tag:nightly +orders,kind:feature"
  - name: key
    default: true
    definition: {tag: nightly}
  - name: full
    definition: {method: tag, value: nightly, parents: true, parents_depth: 2, children: true}
  - name: around
    definition: {method: name, value: orders, childrens_parents: true}
  - name: sets
    definition:
      union:
        - intersection: [{kind: feature}, "tag:nightly"]
        - {method: config.enabled, value: true, exclude: ["tag:slow"]}
        - exclude: [{method: selector, value: key}]
"""


def read(root: Path, text: str) -> Selectors:
    (root / "selectors.yml").write_text(text)
    return read_selectors(root)


def test_all_forms(tmp_path: Path) -> None:
    found = read(tmp_path, FORMS)
    assert found.named == {
        "text": Union(("tag:nightly", Intersection(("+orders", "kind:feature")))),
        "key": Union(("tag:nightly",)),
        "full": "2+tag:nightly+",
        "around": "@orders",
        "sets": Without(
            Union(
                (
                    Intersection((Union(("kind:feature",)), Union(("tag:nightly",)))),
                    Without("config.enabled:true", Union((Union(("tag:slow",)),))),
                )
            ),
            Union(("selector:key",)),
        ),
    }
    assert found.default == "key"
    assert found.descriptions["text"] == "as on the command line"


def test_project_without_the_file_has_none(tmp_path: Path) -> None:
    assert read_selectors(tmp_path) == Selectors({}, {})


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("{metod: tag, value: x}", "expected text, {method: ..., value: ...}, union: [...] or intersection: [...]"),
        ("{method: tag, valu: x}", '"valu" is no key here'),
        ("{method: tag}", '"value" is missing'),
        ("{method: tag, value: [a]}", "expected text, found a list"),
        ("{method: tag, value: x, parents: yes}", 'expected true or false, found the text "yes"'),
        ("{method: tag, value: x, children_depth: two}", 'expected a whole number, found the text "two"'),
        ("{union: tag:x}", "expected text, {method"),
        ('{union: ["tag:x"], exclude: tag:y}', "expected a list"),
        ("[a, b]", "found a list"),
        ('""', "a selector is empty"),
    ],
)
def test_wrong_definitions_are_placed(tmp_path: Path, definition: str, expected: str) -> None:
    with pytest.raises(ProjectError) as raised:
        read(tmp_path, f"selectors:\n  - name: one\n    definition: {definition}\n")
    [problem] = raised.value.problems
    assert expected in problem.to_text()
    assert problem.where is not None
    assert (problem.where.path, problem.where.line) == ("selectors.yml", 3)


def test_names_and_defaults_are_unique(tmp_path: Path) -> None:
    text = "selectors:\n" + "  - {name: one, default: true, definition: a}\n" * 2 + "  - {name: two}\n  - three\n"
    with pytest.raises(ProjectError) as raised:
        read(tmp_path, text)
    assert [(each.code, each.where.line) for each in raised.value.problems if each.where] == [
        ("TR102", 3),
        ("TR006", 4),
        ("TR004", 5),
        ("TR609", 1),
    ]
