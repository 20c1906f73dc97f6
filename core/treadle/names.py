"""Names that people write: which are allowed, and which was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DURATION = re.compile(r"(\d+)\s*(us|ms|s|m|h|d|w)")
_MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}


def is_identifier(name: str) -> bool:
    """Return whether `name` is letters, digits and underscores, not starting with a digit."""
    return _IDENTIFIER.fullmatch(name) is not None


def close_match(name: str, known: Iterable[str]) -> str | None:
    """Return the one of `known` that `name` most resembles, or None when none is near."""
    matches = difflib.get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    return matches[0] if matches else None


def parse_duration_us(text: str) -> int:
    """Return a fixed duration such as `30d`, `12h` or `90m` in microseconds.

    Raises:
        ValueError: `text` is no whole number followed by us, ms, s, m (minutes), h, d or w.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a whole number and us, ms, s, m, h, d or w, as in 30d")
    return int(match[1]) * _MICROSECONDS[match[2]]
