"""Two values of a configuration -> the leaves in which they differ, each short enough for a line.

A list of features with one `ttl` changed is told as `features[2].ttl_us: null -> 604800000000`, not as two lists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_WIDTH = 60
_BEFORE_DIFFERENCE = 20
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Leaf:
    """One place in which two values differ.

    Attributes:
        path: `features[2].ttl_us`; a place in a list is that of the later value, where it stands there.
        before, after: the values there as JSON; None where there is none.
    """

    path: str
    before: str | None
    after: str | None

    def to_text(self) -> str:
        """Return `path: before -> after`, long values cut so that what differs is seen."""
        before, after = cut_to_difference(self.before or "nothing", self.after or "nothing")
        return f"{self.path}: {before} -> {after}"


def find_leaves(name: str, before: str | None, after: str | None) -> tuple[Leaf, ...]:
    """Return where two values differ, in the order of the later one.

    Args:
        name: what the value is called; the first word of each path.
        before, after: JSON, or any other text, which counts as a whole; None for no value.
    """
    if before is None or after is None:
        return (Leaf(name, before, after),) if before != after else ()
    try:
        values = json.loads(before), json.loads(after)
    except ValueError:
        return (Leaf(name, before, after),) if before != after else ()
    return tuple(_walk(name, *values))


def cut_to_difference(before: str, after: str) -> tuple[str, str]:
    """Cut two texts that are long at the same place, so that both show what differs, in at most 60 characters."""
    start = 0
    if max(len(before), len(after)) > MAX_WIDTH:
        pairs = enumerate(zip(before, after, strict=False))
        equal = next((i for i, (b, a) in pairs if b != a), min(len(before), len(after)))
        start = max(0, equal - _BEFORE_DIFFERENCE)
        start = start if start > len("...") else 0
    return _cut(before, start), _cut(after, start)


def _cut(text: str, start: int) -> str:
    text = f"...{text[start:]}" if start else text
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 3]}..."


def _walk(path: str, before: Any, after: Any) -> Iterator[Leaf]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in (*after, *(key for key in before if key not in after)):
            place = f"{path}.{key}" if _WORD.fullmatch(key) else f"{path}[{_text(key)}]"
            yield from _walk_key(place, key, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _walk_list(path, before, after)
    elif _text(before) != _text(after):
        yield Leaf(path, _text(before), _text(after))


def _walk_key(path: str, key: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[Leaf]:
    if key not in before:
        yield Leaf(path, None, _text(after[key]))
    elif key not in after:
        yield Leaf(path, _text(before[key]), None)
    else:
        yield from _walk(path, before[key], after[key])


def _walk_list(path: str, before: list[Any], after: list[Any]) -> Iterator[Leaf]:
    """Compare what stands between the equal items at both ends: one by one where it is as many, else all is told."""
    texts = [_text(item) for item in before], [_text(item) for item in after]
    shorter = min(len(before), len(after))
    first = next((i for i in range(shorter) if texts[0][i] != texts[1][i]), shorter)
    last = next((i for i in range(shorter - first) if texts[0][-1 - i] != texts[1][-1 - i]), shorter - first)
    if len(before) == len(after):
        for i in range(first, len(after) - last):
            yield from _walk(f"{path}[{i}]", before[i], after[i])
    else:
        yield from (Leaf(f"{path}[{i}]", texts[0][i], None) for i in range(first, len(before) - last))
        yield from (Leaf(f"{path}[{i}]", None, texts[1][i]) for i in range(first, len(after) - last))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
