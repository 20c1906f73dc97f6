"""Gates: the conditions in a pipeline that a model has to meet before it may be published.

    gate      = [ "slice(" column ")." ] metric op sum          op: >= <= > <
    sum       = product { ("+" | "-") product }
    product   = factor { "*" factor }                           at most one factor is a reference
    factor    = [ "-" ] number | reference
    reference = ("champion" | "baseline") "." metric

The right side is linear, so a parsed gate is a metric, a comparison and a coefficient per reference.
References are to the gate's own metric: a gate never compares two different ones.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from treadle.errors import Location, Problem
from treadle.metrics import Metric, metric
from treadle.names import close_match

if TYPE_CHECKING:
    from collections.abc import Sequence

Op = Literal[">=", "<=", ">", "<"]
Reference = Literal["champion", "baseline", ""]

_REFERENCES: tuple[Reference, ...] = ("champion", "baseline", "")
_TOKEN = re.compile(r"(?P<number>(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<sign>>=|<=|[-><+*.()])")


class GateError(ValueError):
    """A gate does not parse.

    Attributes:
        reason: what is wrong, without the position.
        position: column in the gate's text, from 1.
    """

    def __init__(self, reason: str, position: int) -> None:
        self.reason = reason
        self.position = position
        super().__init__(f"column {position}: {reason}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, self.position)


@dataclass(frozen=True)
class Term:
    """A part of the right side: `coefficient` times a reference, or alone when `of` is empty."""

    coefficient: float
    of: Reference = ""


@dataclass(frozen=True)
class Gate:
    """A condition on one metric of the chosen model on test rows.

    Attributes:
        text: the canonical form, equal for all spellings of one condition: layout, the way numbers are
            written and the order of the terms do not count.
        metric: the metric's name.
        slice: the column over whose values the worst slice is judged; None: all test rows.
        op: the comparison.
        terms: the right side, at most one term per reference; their sum is the bound.
    """

    text: str
    metric: str
    slice: str | None
    op: Op
    terms: tuple[Term, ...]

    @property
    def needs_champion(self) -> bool:
        """Whether the bound depends on the champion."""
        return any(term.of == "champion" for term in self.terms)

    @property
    def needs_baseline(self) -> bool:
        """Whether the bound depends on the best free baseline."""
        return any(term.of == "baseline" for term in self.terms)

    @property
    def wants_more(self) -> bool:
        """Whether a greater value is nearer to holding; the worst slice is then the least one."""
        return self.op in (">=", ">")

    def bound(self, champion: float | None = None, baseline: float | None = None) -> float:
        """Return the number that the metric is compared with.

        Args:
            champion: the champion's value of the metric on the same test rows.
            baseline: the best free baseline's value on them.

        Raises:
            ValueError: the gate needs one of them and it is None.
        """
        values = {"champion": champion, "baseline": baseline, "": 1.0}
        total = 0.0
        for term in self.terms:
            value = values[term.of]
            if value is None:
                raise ValueError(f"the {term.of} has no {self.metric}")
            total += term.coefficient * value
        return total

    def holds(self, value: float | None, champion: float | None = None, baseline: float | None = None) -> bool:
        """Return whether `value` meets the gate; an undefined value (None, NaN) never does.

        Raises:
            ValueError: the gate needs a champion or a baseline and has none.
        """
        bound = self.bound(champion, baseline)
        if value is None:
            return False
        match self.op:
            case ">=":
                return value >= bound
            case "<=":
                return value <= bound
            case ">":
                return value > bound
            case _:
                return value < bound


def parse_gate(text: str) -> Gate:
    """Return the gate that `text` says.

    Raises:
        GateError: it does not parse; a ValueError with `reason` and `position`.
    """
    return _Parser(text).gate()


def check_gate(
    gate: Gate, *, task: str, metrics: Sequence[str], slices: Sequence[str], where: Location | None = None
) -> Problem | None:
    """Return what keeps a gate from being judged in its pipeline, or None.

    Args:
        gate: the parsed gate.
        task: the task of the pipeline's models.
        metrics: what the pipeline's `evaluate` computes.
        slices: the columns by which it is sliced.
        where: the place to name in the problem.
    """
    found = metric(gate.metric, task, where=where)
    if isinstance(found, Problem):
        return found
    if gate.metric not in metrics:
        return Problem(
            "TR504",
            f'gate "{gate.text}" is on a metric that is not computed',
            where,
            f"evaluate computes {', '.join(metrics)}",
            close_match(gate.metric, metrics) or "",
            f"add {gate.metric} to the pipeline's `evaluate: {{metrics: [...]}}`",
        )
    if gate.slice is not None and gate.slice not in slices:
        return Problem(
            "TR509",
            f'gate "{gate.text}" is on a slice that is not computed',
            where,
            f"evaluate slices by {', '.join(slices) or 'no column'}",
            close_match(gate.slice, slices) or "",
            f"add {gate.slice} to the pipeline's `evaluate: {{slices: [...]}}`",
        )
    return None


def is_better(value: float | None, than: float | None, measure: Metric) -> bool:
    """Return whether `value` beats `than` by a metric; an undefined one (None, NaN) loses to every other."""
    if value is None or math.isnan(value):
        return False
    if than is None or math.isnan(than):
        return True
    return value > than if measure.higher_is_better else value < than


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def _read_tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise GateError(f"{text[at]!r} has no meaning in a gate", at + 1)
        tokens.append(_Token(str(match.lastgroup), match[0], at + 1))
        at = match.end()
    return [*tokens, _Token("end", "the end", len(text) + 1)]


class _Parser:
    """Recursive descent over the tokens of one gate."""

    def __init__(self, text: str) -> None:
        self._tokens = _read_tokens(text)
        self._next = 0
        self._metric = ""

    def gate(self) -> Gate:
        column = None
        if self._peek().text == "slice" and self._tokens[self._next + 1].text == "(":
            self._next += 2
            column = self._name("a column").text
            self._sign(")")
            self._sign(".")
        self._metric = self._name("a metric, as in roc_auc >= 0.75").text
        op = self._take()
        if op.text not in (">=", "<=", ">", "<"):
            raise GateError(f"expected >=, <=, > or <, found {op.text}", op.position)
        sums = self._sum()
        if self._peek().kind != "end":
            raise GateError(f"expected +, - or the end, found {self._peek().text}", self._peek().position)
        terms = tuple(Term(sums[of], of) for of in _REFERENCES if sums[of]) or (Term(0.0),)
        left = f"slice({column}).{self._metric}" if column else self._metric
        text = f"{left} {op.text} {_to_text(terms, self._metric)}"
        return Gate(text, self._metric, column, cast("Op", op.text), terms)

    def _sum(self) -> dict[Reference, float]:
        sums: dict[Reference, float] = dict.fromkeys(_REFERENCES, 0.0)
        sign = 1.0
        while True:
            start = self._peek().position
            coefficient, of = self._product()
            sums[of] += sign * coefficient
            if not math.isfinite(sums[of]):
                raise GateError("the number is too large", start)
            if self._peek().text not in ("+", "-"):
                return sums
            sign = 1.0 if self._take().text == "+" else -1.0

    def _product(self) -> tuple[float, Reference]:
        coefficient, of = self._factor()
        while self._peek().text == "*":
            self._take()
            start = self._peek().position
            factor, more = self._factor()
            if of and more:
                raise GateError(f"a {of} cannot be multiplied by a {more}", start)
            coefficient, of = coefficient * factor, of or more
        return coefficient, of

    def _factor(self) -> tuple[float, Reference]:
        token = self._take()
        if token.text == "-":
            coefficient, of = self._factor()
            return -coefficient, of
        if token.kind == "number":
            return float(token.text), ""
        if token.kind == "name":
            return 1.0, self._reference(token)
        raise GateError(
            f"expected a number, champion.{self._metric} or baseline.{self._metric}, found {token.text}",
            token.position,
        )

    def _reference(self, token: _Token) -> Reference:
        if token.text not in ("champion", "baseline"):
            guess = close_match(token.text, ("champion", "baseline"))
            hint = f"; did you mean {guess}" if guess else ""
            raise GateError(f"{token.text} is neither champion nor baseline{hint}", token.position)
        self._sign(".")
        name = self._name("a metric")
        if name.text != self._metric:
            wanted = f"{token.text}.{self._metric}"
            raise GateError(f"compare {self._metric} with {wanted}, not with {name.text}", name.position)
        return cast("Reference", token.text)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _name(self, expected: str) -> _Token:
        token = self._take()
        if token.kind != "name":
            raise GateError(f"expected {expected}, found {token.text}", token.position)
        return token

    def _sign(self, text: str) -> None:
        token = self._take()
        if token.text != text:
            raise GateError(f"expected {text}, found {token.text}", token.position)


def _to_text(terms: tuple[Term, ...], name: str) -> str:
    text = ""
    for term in terms:
        size = abs(term.coefficient)
        number = repr(size).removesuffix(".0")
        part = number if not term.of else f"{term.of}.{name}" + ("" if size == 1 else f" * {number}")
        if not text:
            text = f"-{part}" if term.coefficient < 0 else part
        else:
            text += f" {'-' if term.coefficient < 0 else '+'} {part}"
    return text
