"""An incremental feature: its query once for each interval of its event_time, and the table put together from them.

    survey the inputs -> which intervals there are -> the fingerprint of each -> compute those that the store does not
    hold, several at once -> link the part of each interval that has rows

The table is by definition the union over all intervals of the query, in which each table with an event_time is
restricted to start - lookback <= event_time < end and every other table is whole, restricted to the rows whose own
event_time lies in the interval. So it does not matter when an interval is computed: a table that grew by intervals
equals one that is computed from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from treadle.errors import Problem, StepError
from treadle.names import moment_text
from treadle.step import Step
from treadle_runtime.engine import PART
from treadle_runtime.intervals import (
    MAX_INTERVALS,
    NOTHING,
    Input,
    Interval,
    Setting,
    count_intervals,
    list_intervals,
    span,
    unite_columns,
)
from treadle_runtime.job import Job, Made
from treadle_runtime.pieces import Pieces, link_part
from treadle_runtime.session import Lend
from treadle_runtime.store import Column, Version
from treadle_runtime.windowed import IntervalQuery


def run_incremental(job: Job, lend: Lend, pieces: Pieces) -> Made:
    """Compute the intervals of an incremental feature that are missing, and put its table together.

    Args:
        job: of an incremental SQL feature; with a window, only the intervals in it are computed, and nothing is made.
        lend: where connections come from.
        pieces: computes intervals, and knows those that are there.

    Raises:
        StepError: the query failed, or its rows do not fit into intervals.
    """
    setting = Setting.of(job.step)
    with ExitStack() as stack:
        query = IntervalQuery(job, setting, lend, stack, pieces.check)
        intervals = _intervals(job.step, setting, query.inputs)
        wanted = [query.piece(interval) for interval in intervals]
        # A DuckDB of several threads is enough for all of them.
        n_helpers = None if query.threads == 1 else 0
        if (window := job.window) is not None:
            within = [piece for interval, piece in zip(intervals, wanted, strict=True) if window.meets(interval)]
            pieces.compute(within, kind="interval", anew=job.anew, n_helpers=n_helpers)
            return Made(pieces=(pieces.n_built(wanted), len(wanted)), is_whole=False)
        versions, n_new = pieces.compute(wanted, kind="interval", anew=job.anew, n_helpers=n_helpers)
        if not versions:
            columns, notes = query.write(NOTHING, job.folder).columns, query.count_left_out(NOTHING, NOTHING)
            return Made(columns, info={"intervals": []}, notes=notes, times={PART: ()}, pieces=(0, 0))
        query.check_coming(intervals[-1])
        notes = query.count_left_out(intervals[0], intervals[-1])
    return replace(_assemble(job, setting, intervals, versions), notes=notes, pieces=(n_new, len(versions)))


def _intervals(step: Step, setting: Setting, inputs: Sequence[Input]) -> list[Interval]:
    """Return the intervals from the feature's begin, or its inputs' first row, through their last row."""
    found = span(inputs)
    if not found:
        return []
    first, last = found[0] if setting.begin is None else setting.begin, found[-1]
    n = count_intervals(first, last, setting.length)
    if n is not None and n <= MAX_INTERVALS:
        return list_intervals(first, last, setting.length)
    said = [f'"{each.name}" has rows from {_shown(span([each]))}' for each in inputs if each.parts]
    many = "an interval ends in the years 1 to 9999"
    if n is not None:
        many = f"that would be {n:,} intervals of {step.config['interval']}; at most {MAX_INTERVALS:,} are kept"
    why = "\n".join((*said[:3], many))
    fix = "leave rows of a wrong time out of what it reads, set begin, or make the intervals longer"
    raise StepError(Problem("TR733", f'feature "{step.name}" has too many intervals', step.where, why, fix=fix))


def _shown(times: Sequence[int]) -> str:
    return f"{moment_text(times[0])} through {moment_text(times[-1])}" if times else "no time"


def _assemble(job: Job, setting: Setting, intervals: Sequence[Interval], versions: Sequence[Version]) -> Made:
    columns = unite_columns(version.columns for version in versions)
    if setting.on_schema_change == "append":
        _check_types(job.step, columns, intervals, versions)
    else:
        _check_same(job.step, intervals, versions)
    pairs = list(zip(intervals, versions, strict=True))
    # A table without rows is one empty part, in which its columns stand.
    kept = [(interval, version) for interval, version in pairs if version.rows] or pairs[-1:]
    parts = [link_part(version, interval.part, job.folder) for interval, version in kept]
    info: dict[str, Any] = {"intervals": [[str(interval), version.fingerprint] for interval, version in pairs]}
    if any(version.columns != columns for _, version in kept):
        info["union_by_name"] = True
    is_reproducible = all(version.reproducible for version in versions)
    return Made(columns, info=info, reproducible=is_reproducible, linked={part.name: part for part in parts})


def _check_same(step: Step, intervals: Sequence[Interval], versions: Sequence[Version]) -> None:
    """Raise TR732 where intervals differ in their columns."""
    newest = versions[-1].columns
    for interval, version in zip(intervals, versions, strict=True):
        if version.columns != newest:
            why = f"{intervals[-1]} has {_difference(newest, version.columns)}, compared with {interval}"
            fix = "set on_schema_change='rebuild' (compute all again) or 'append' (NULL where a column is missing)"
            raise StepError(_differ(step, why, fix))


def _check_types(
    step: Step, columns: Sequence[Column], intervals: Sequence[Interval], versions: Sequence[Version]
) -> None:
    """Raise TR732 where columns of one name differ in their type."""
    types = {column.name.casefold(): column.type for column in columns}
    for interval, version in zip(intervals, versions, strict=True):
        for column in version.columns:
            if types[column.name.casefold()] != column.type:
                why = f'"{column.name}" is {column.type} in {interval}, and {types[column.name.casefold()]} before'
                raise StepError(_differ(step, why, "cast the column in the query, or set on_schema_change='rebuild'"))


def _differ(step: Step, why: str, fix: str) -> Problem:
    return Problem("TR732", f'the intervals of feature "{step.name}" differ in their columns', step.where, why, fix=fix)


def _difference(new: Sequence[Column], old: Sequence[Column]) -> str:
    before, after = ({column.name: column.type for column in columns} for columns in (old, new))
    said = [f'"{name}" besides' for name in after if name not in before]
    said += [f'no "{name}"' for name in before if name not in after]
    said += [
        f'"{name}" as {kind}, not {before[name]}' for name, kind in after.items() if before.get(name, kind) != kind
    ]
    return " and ".join(said) or "its columns in another order"
