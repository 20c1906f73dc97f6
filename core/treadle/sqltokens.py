"""The tokens of a query, each with its exact text, and the digest of them that is the query's identity.

Comments and layout are in no token, and a keyword counts in upper case: what differs only in these is the same query.
This runs for every token of a project. Most are read in one piece; only what may need a second look gets one.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from treadle.sqlwords import KEYWORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlglot.tokenizer_core import Token as RawToken

_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?$:]+")
_GAP = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*", re.DOTALL)
_WORD = re.compile(r"\S+")
_PLAIN = frozenset("()[]{},;")
_FOLDED = KEYWORDS | {"PARTITION", "OVER", "INTERVAL", "RECURSIVE"}


class Token(NamedTuple):
    """A token with its exact text; `upper` is the same in upper case."""

    text: str
    start: int
    end: int
    upper: str

    @property
    def is_word(self) -> bool:
        return self.text[0].isalpha() or self.text[0] == "_"

    @property
    def name(self) -> str:
        """The name that an identifier stands for, in lower case; the token's text for all else."""
        text = self.text
        return text[1:-1].replace('""', '"').lower() if text[0] == '"' else text.lower()


_to_token = partial(tuple.__new__, Token)  # as Token._make, in a third of the time


def split_tokens(text: str, raw: Sequence[RawToken]) -> list[Token]:
    """Return the words of sqlglot's tokens, which takes `GROUP BY` for one."""
    starts, ends = [one.start for one in raw], [one.end + 1 for one in raw]
    parts = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    tokens = list(map(_to_token, zip(parts, starts, ends, map(str.upper, parts), strict=True)))
    groups = [number for number, part in enumerate(parts) if not part.isalnum() and _is_group(part)]
    for number in reversed(groups):
        start = starts[number]
        tokens[number : number + 1] = [
            Token(found[0], start + found.start(), start + found.end(), found[0].upper())
            for found in _WORD.finditer(parts[number])
        ]
    return tokens


def _is_group(part: str) -> bool:
    """Return whether a token of sqlglot is several words."""
    return part[0].isalpha() and part[-1] not in "'\"" and any(map(str.isspace, part))


def digest_tokens(text: str, tokens: Sequence[Token]) -> str:
    """Return the SHA-256 of tokens, as hex.

    Each token counts with its exact text, but a keyword in upper case. Whether two tokens touch counts where
    that can change what DuckDB reads (`1_000` and `1 _000`, `<->` and `< ->`).
    """
    parts = [f"{end - start}:{word}\n" for word, start, end, _ in tokens]
    for number in [number for number, token in enumerate(tokens) if token[3] in _FOLDED]:
        word, start, end, upper = tokens[number]
        if upper != word and _is_keyword(tokens, number):
            parts[number] = f"{end - start}:{upper}\n"
    gaps = [text[before[2] : after[1]] for before, after in pairwise(tokens)]
    for number in [number for number, gap in enumerate(gaps, 1) if gap != " "]:
        left, right, gap = tokens[number - 1][0], tokens[number][0], gaps[number - 1]
        if gap or (right not in _PLAIN and left not in _PLAIN):
            parts[number] = _glue(gap, left, right) + parts[number]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _glue(gap: str, left: str, right: str) -> str:
    """Return what of the gap between two tokens is part of the query's meaning."""
    if gap:
        return "" if gap.isspace() or _GAP.fullmatch(gap) else gap
    last, first = left[-1], right[0]
    if right == ".":
        return "+" if last.isdigit() else ""
    if left == ".":
        return "+" if first.isdigit() else ""
    wordish = _is_wordish(last) and _is_wordish(first)
    number = (last == "." and first.isdigit()) or (last.isdigit() and first == ".")
    parameter = last in "#$?@" and _is_wordish(first)
    operator = _OPERATOR.fullmatch(left + right) is not None and not (
        right in ("-", "+") and not re.search(r"[~!@#%^&|`?$]", left)
    )
    return "+" if wordish or number or parameter or operator else ""


def _is_wordish(character: str) -> bool:
    return character.isalnum() or character in "_'\"$"


def _is_keyword(tokens: Sequence[Token], number: int) -> bool:
    """Return whether a word is surely a keyword, so that its case means nothing."""
    word = tokens[number].upper
    before = tokens[number - 1].upper if number else ""
    after = tokens[number + 1].upper if number + 1 < len(tokens) else ""
    if before in ("AS", ".") or after in (":=", "=>"):
        return False
    if word in KEYWORDS:
        return True
    if word == "PARTITION":
        return after == "BY"
    if word == "OVER":
        second, third = ([token.upper for token in tokens[number + 2 : number + 4]] + ["", ""])[:2]
        opens = second in ("ORDER", ")") or (second, third) == ("PARTITION", "BY")
        return before == ")" and after == "(" and opens
    if word == "INTERVAL":
        return after[:1].isdigit() or after[:1] == "'"
    if word == "RECURSIVE":
        return before == "WITH" and after not in ("AS", "(", "USING", ",")
    return False
