"""What computing a step once more tells: whether the first result, which stands, can be had again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from treadle_runtime.version import Version, to_meta

if TYPE_CHECKING:
    from treadle.plan import PlannedStep
    from treadle.step import Step

_TRAINING = ("train", "refit", "baseline")


Again = tuple[Version, Version]
"""What stands of a fingerprint, and what a second computation made of it."""


def tell_refresh(planned: PlannedStep, whole: Again | None, pieces: Sequence[Again] = ()) -> Sequence[str]:
    """Return what to tell of a step that was computed although it stood; nothing where nothing of it did.

    Args:
        planned: the step.
        whole: its version; None where only pieces were computed, or none stood.
        pieces: those that it is put together from. Its version is made of links to the first ones, so that it is the
            same whatever the second ones are.
    """
    differing = [each for each in pieces if _differ(*each)]
    if differing:
        word = "intervals" if "start" in differing[0][0].info else "files"
        which = f", such as {differing[0][0].info['start']}" if word == "intervals" else ""
        what = f"{len(differing):,} of {len(pieces):,} {word} differ{which}"
        return _not_reproducible(planned, what, differing[0][0])
    if whole is not None and _differ(*whole):
        return _not_reproducible(planned, _what_differs(*whole), whole[0])
    return ("computed again, with the same bytes",) if whole is not None or pieces else ()


def _not_reproducible(planned: PlannedStep, what: str, first: Version) -> Sequence[str]:
    return (
        f"a second build of {planned.fingerprint[:12]} gave other bytes: it is not reproducible; the first stays",
        f"{what}; {_likely_reason(planned.step, first)}",
    )


def _differ(first: Version, second: Version) -> bool:
    return _content(first) != _content(second)


def _content(version: Version) -> bytes:
    parts = tuple(replace(part, times=None) for part in version.parts)  # which older versions do not tell
    return to_meta(replace(version, parts=parts, reproducible=True))


def _what_differs(first: Version, second: Version) -> str:
    if first.columns != second.columns:
        return "its columns differ"
    if first.rows != second.rows:
        return f"{first.rows:,} rows first, {second.rows:,} now"
    differing = sorted({part.name for part in {*first.parts} ^ {*second.parts}})
    return f"{', '.join(differing[:3])} differs" if differing else "what it tells of itself differs"


def _likely_reason(step: Step, first: Version) -> str:
    if step.config.get("volatile"):
        return "it is volatile"
    if step.function is not None:
        reason = "its Python may draw random numbers, read the clock, or go by the order of a set or of files"
        return reason if first.reproducible else f"{reason}; polars adds the floats of a lazy frame in any order"
    if int(step.config.get("threads", 1)) > 1:
        return f"it runs on {step.config['threads']} threads, which changes the order of rows and the last bits of sums"
    if not first.reproducible:
        return "it, or what it reads, runs on several threads or spilled to disk"
    if step.kind in _TRAINING:
        return "its trainer may draw random numbers that no seed fixes"
    return "rows that tie in an order by, any_value() or first() may come out otherwise"
