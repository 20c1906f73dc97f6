"""Docs blocks: longer texts in Markdown files, which descriptions refer to, as in dbt.

features/orders.md     {% docs order_status %} ... {% enddocs %}
features/orders.yml    description: "{{ doc('order_status') }}"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from treadle.errors import Location, Problem
from treadle.names import close_match
from treadle.step import Step

MARKDOWN = ".md"
_BLOCK = re.compile(r"\{%-?\s*docs\s+(\w+)\s*-?%\}(.*?)\{%-?\s*enddocs\s*-?%\}", re.DOTALL)
_CALL = re.compile(r"\{\{-?\s*doc\(\s*(['\"])(\w+)\1\s*\)\s*-?\}\}")


def read_blocks(texts: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """Return name -> text of the blocks of Markdown files, and those that stand twice.

    Args:
        texts: path -> text.
    """
    found: dict[str, str] = {}
    places: dict[str, Location] = {}
    problems = []
    for path, text in texts.items():
        for match in _BLOCK.finditer(text):
            name, where = match[1], Location(path, text.count("\n", 0, match.start()) + 1)
            if name in found:
                why = f"it stands at {places[name]} too"
                problems.append(Problem("TR102", f'docs block "{name}" is defined twice', where, why, fix="rename one"))
            found[name], places[name] = match[2].strip(), where
    return found, problems


def describe(steps: Iterable[Step], blocks: Mapping[str, str]) -> tuple[list[Step], list[Problem]]:
    """Return steps with the texts of blocks in their descriptions, and the problems of blocks that are not there."""
    found, problems = [], []
    for step in steps:
        text = step.description
        if "doc" in text:
            for name in {match[2] for match in _CALL.finditer(text)} - blocks.keys():
                suggestion = close_match(name, blocks) or ""
                fix = f"write {{% docs {name} %}} ... {{% enddocs %}} in a file such as features/{name}.md"
                what = f'docs block "{name}" is not defined'
                problems.append(Problem("TR104", what, step.where, "", suggestion, fix))
            text = _CALL.sub(lambda match: blocks.get(match[2], ""), text)
        found.append(step if text == step.description else replace(step, description=text))
    return found, problems
