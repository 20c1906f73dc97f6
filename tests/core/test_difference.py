"""Where two configurations differ: leaf by leaf, and short enough for a line."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.difference import MAX_WIDTH, Leaf, cut_to_difference, find_leaves
from treadle.fingerprint import to_canonical_json

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b", "ü"]) | st.just(1.5)
KEYS = st.sampled_from(["a", "b", "two words", "x_1"])
DICTS = st.recursive(SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=4),
    max_leaves=10,
)


def steps(path: str) -> list[Any]:
    """Return the keys and places that a path goes through."""
    found = re.findall(r'\.([A-Za-z_]\w*)|\[(\d+)\]|\[("[^"]*")\]', path.removeprefix("x"))
    return [word or (int(place) if place else json.loads(quoted)) for word, place, quoted in found]


def at(value: Any, path: str) -> str:
    for step in steps(path):
        value = value[step]
    return to_canonical_json(value)


def leaves(before: Any, after: Any) -> tuple[Leaf, ...]:
    return find_leaves("x", to_canonical_json(before), to_canonical_json(after))


@given(VALUES, VALUES)
def test_leaves_are_where_they_say_and_equal_values_have_none(before: Any, after: Any) -> None:
    found = leaves(before, after)
    assert (found == ()) == (to_canonical_json(before) == to_canonical_json(after))
    for leaf in found:
        assert leaf.before != leaf.after
        if leaf.after is not None:
            assert at(after, leaf.path) == leaf.after
        else:
            assert at(before, leaf.path) == leaf.before


@given(DICTS, DICTS)
def test_leaves_applied_to_the_earlier_value_give_the_later(before: Any, after: Any) -> None:
    holder = {"x": json.loads(json.dumps(before))}
    for leaf in leaves(before, after):
        *way, last = ["x", *steps(leaf.path)]
        inner: Any = holder
        for step in way:
            inner = inner[step]
        if leaf.after is None:
            del inner[last]
        else:
            inner[last] = json.loads(leaf.after)
    assert to_canonical_json(holder["x"]) == to_canonical_json(after)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"max_iter": 50}, {"max_iter": 60}, ["x.max_iter: 50 -> 60"]),
        ({"max_iter": 50}, {}, ["x.max_iter: 50 -> nothing"]),
        ([{"ttl_us": None}, {"ttl_us": None}], [{"ttl_us": None}, {"ttl_us": 9}], ["x[1].ttl_us: null -> 9"]),
        (["a", "c"], ["a", "b", "c"], ['x[1]: nothing -> "b"']),
        (["a", "b", "c"], ["a", "c"], ['x[1]: "b" -> nothing']),
        (["a", "b"], ["b", "a"], ['x[0]: "a" -> "b"', 'x[1]: "b" -> "a"']),
        (["a", "b", "z"], ["c", "z"], ['x[0]: "a" -> nothing', 'x[1]: "b" -> nothing', 'x[0]: nothing -> "c"']),
        ([["a", "b"]], [["a", "c"]], ['x[0][1]: "b" -> "c"']),
        ({"two words": 1}, {"two words": 2}, ['x["two words"]: 1 -> 2']),
        (1, 1.0, ["x: 1 -> 1.0"]),
        (1, True, ["x: 1 -> true"]),
        ({}, [], ["x: {} -> []"]),
    ],
)
def test_leaf_reads_as_a_path_and_two_values(before: Any, after: Any, expected: list[str]) -> None:
    assert [leaf.to_text() for leaf in leaves(before, after)] == expected


def test_value_that_is_absent_or_no_json_counts_as_a_whole() -> None:
    assert find_leaves("x", None, "[1]") == (Leaf("x", None, "[1]"),)
    assert find_leaves("x", "[1]", None) == (Leaf("x", "[1]", None),)
    assert find_leaves("x", "source/1", "source/2") == (Leaf("x", "source/1", "source/2"),)
    assert find_leaves("x", "a", "a") == find_leaves("x", None, None) == ()


@given(st.text("ab", max_size=150), st.text("ab", max_size=150), st.text("ab", max_size=150))
def test_long_values_are_cut_so_that_the_difference_is_seen(common: str, before: str, after: str) -> None:
    shown = cut_to_difference(common + before, common + after)
    assert max(map(len, shown)) <= MAX_WIDTH
    if before != after:
        assert shown[0] != shown[1]
    if max(len(common + before), len(common + after)) <= MAX_WIDTH:
        assert shown == (common + before, common + after)
