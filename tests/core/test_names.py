"""Names and durations that people write."""

from __future__ import annotations

import difflib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.names import close_match, is_identifier, parse_duration_us


@pytest.mark.parametrize("name", ["a", "_", "carrier_history", "F1", "_1"])
def test_letters_digits_and_underscores_are_a_name(name: str) -> None:
    assert is_identifier(name)


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "a.b", "é", "a\n", "名", "a²", "ａ"])
def test_anything_else_is_none(name: str) -> None:
    assert not is_identifier(name)


@given(st.text(max_size=5))
def test_identifier_is_what_both_python_and_ascii_take(name: str) -> None:
    assert is_identifier(name) == (name.isidentifier() and name.isascii())


def test_close_match_finds_a_slip_and_nothing_far() -> None:
    known = ["carrier_history", "plane_age", "weather"]
    assert close_match("carier_history", known) == "carrier_history"
    assert close_match("wether", known) == "weather"
    assert close_match("schedule", known) is None
    assert close_match("x", []) is None


@given(st.text("abc", max_size=6), st.lists(st.text("abc", min_size=1, max_size=6), max_size=6))
def test_close_match_is_the_nearest_and_does_not_depend_on_order(name: str, known: list[str]) -> None:
    found = close_match(name, known)
    assert found == close_match(name, reversed(known))
    ratios = {other: difflib.SequenceMatcher(None, other, name).ratio() for other in known}
    best = max(ratios.values(), default=0.0)
    assert (found is None) == (best < 0.6)
    assert found is None or ratios[found] == best


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1us", 1),
        ("5ms", 5_000),
        ("2s", 2_000_000),
        ("90m", 5_400_000_000),
        ("12h", 43_200_000_000),
        ("30d", 2_592_000_000_000),
        ("1w", 604_800_000_000),
        (" 3 d ", 259_200_000_000),
        ("0d", 0),
    ],
)
def test_duration_is_a_number_and_a_unit(text: str, us: int) -> None:
    assert parse_duration_us(text) == us


@pytest.mark.parametrize("text", ["", "d", "30", "1.5d", "-1d", "1 month", "1y", "1d 2h", "30D"])
def test_what_is_no_duration_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is no duration; write a whole number and us, ms")):
        parse_duration_us(text)
