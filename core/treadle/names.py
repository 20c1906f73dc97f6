"""Names that people write: which are allowed, and which was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

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


def parse_moment_us(text: str) -> int:
    """Return a date or a time in ISO 8601, UTC unless it says otherwise, in microseconds since 1970.

    Raises:
        ValueError: `text` is neither.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        form = "a date or a time, as in 2024-01-31 or 2024-01-31T06:00"
        raise ValueError(f"expected {form}, found {text!r}") from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def moment_text(us: int) -> str:
    """Return microseconds since 1970 as ISO 8601 in UTC, no longer than needed: `2024-01-31`, `2024-01-31T06:00`."""
    try:
        moment = datetime(1970, 1, 1) + timedelta(microseconds=us)
    except OverflowError:
        return f"{us} us since 1970"
    if moment.time() == moment.min.time():
        return moment.date().isoformat()
    return moment.isoformat(timespec="auto" if moment.second or moment.microsecond else "minutes")
