"""What computing a step once more tells: whether the first result, which stands, can be had again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from treadle_runtime.version import Version, to_meta

if TYPE_CHECKING:
    from treadle.step import Step
    from treadle_runtime.store import Draft

_TRAINING = ("train", "refit", "baseline")


def tell_refresh(step: Step, standing: Version, draft: Draft) -> Sequence[str]:
    """Return what to tell of a step that was computed although a version of it stood; nothing for any other.

    Args:
        step: the step.
        standing: the version that stands now.
        draft: of the version that was computed.
    """
    if draft.damage:
        return (f"the stored version was damaged and is replaced: {draft.damage[0].why.splitlines()[-1]}",)
    if draft.dropped is None:
        return ()
    if _content(draft.dropped) == _content(standing):
        return ("computed again, with the same bytes",)
    return (
        f"a second build of {standing.fingerprint[:12]} gave other bytes: it is not reproducible; the first stays",
        f"{_what_differs(standing, draft.dropped)}; {_likely_reason(step, standing)}",
    )


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
