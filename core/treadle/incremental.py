"""Incremental features: what their configuration must say, and what of it counts.

Such a feature is computed interval by interval of its event_time; how, is `treadle_runtime.incremental`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from treadle.errors import Location, Problem
from treadle.names import moment_text, parse_duration_us, parse_moment_us
from treadle.spec import FeatureConfig
from treadle.step import Step

KEYS = ("interval", "lookback", "begin", "on_schema_change")
_CODE = "TR411"


def counted(config: FeatureConfig) -> dict[str, Any]:
    """Return what of the configuration enters the fingerprint of an incremental feature; nothing for any other."""
    if config.materialized != "incremental":
        return {}
    return {
        "interval": config.interval,
        "lookback": config.lookback or "0d",
        "begin": config.begin,
        "on_schema_change": config.on_schema_change or "rebuild",
    }


def check_config(
    name: str, config: FeatureConfig, where: Location, *, own: Collection[str], is_python: bool
) -> list[Problem]:
    """Return what is wrong with the configuration of a feature as far as it concerns intervals.

    Args:
        own: the keys that the feature gives itself; those of its folder may be meant for others.
        is_python: whether it is a function.
    """

    def problem(what: str, why: str, fix: str) -> Problem:
        return Problem(_CODE, f'feature "{name}" {what}', where, why, fix=fix)

    if config.materialized != "incremental":
        return [
            problem(f"has {key} and is not incremental", "only an incremental feature is computed by intervals", fix)
            for key in KEYS
            if key in own and getattr(config, key) is not None
            for fix in [f"set materialized='incremental', or remove {key}"]
        ]
    found = []
    if is_python:
        why = "only SQL can be computed by intervals so far"
        found.append(problem("cannot be incremental", why, "remove materialized, or write it in SQL"))
    if config.volatile:
        why = "an interval is kept for as long as its data stays, and volatile says that it changes without that"
        found.append(problem("is both incremental and volatile", why, "remove one of the two"))
    if not config.event_time:
        why = "an interval holds the rows whose event_time lies in it"
        found.append(problem("is incremental and has no event_time", why, "set event_time to the column of that time"))
    if config.interval is None:
        why = "nothing says how long the intervals are that it is computed by"
        found.append(problem("is incremental and has no interval", why, "set interval, as in interval='1d'"))
    elif not (length := parse_duration_us(config.interval)):
        found.append(problem("has an interval of no length", f"found '{config.interval}'", "write it as in '1d'"))
    elif config.begin is not None and (rest := parse_moment_us(config.begin) % length):
        before = parse_moment_us(config.begin) - rest
        why = f"intervals of {config.interval} count from 1970-01-01 in UTC, and none begins at {config.begin}"
        fix = f"begin='{moment_text(before)}' or begin='{moment_text(before + length)}'"
        found.append(problem("begins within an interval", why, fix))
    return found


def check_inputs(steps: Iterable[Step], *, is_certain: Callable[[str], bool]) -> list[Problem]:
    """Return a problem for each incremental feature that reads no table with a time, itself or through views.

    Args:
        steps: of the whole graph, without cycles.
        is_certain: whether all is known that the files say of a feature.
    """
    by_id = {step.id: step for step in steps}
    found = []
    for step in by_id.values():
        if step.config.get("materialized") == "incremental" and not _reads_timed(step, by_id, is_certain):
            why = f"it reads {', '.join(step.inputs) or 'no table'}; event_time tells which rows an interval needs"
            fix = "set event_time of the source or feature that its rows come from; of a view, that of what it reads"
            what = f'incremental feature "{step.name}" reads no table with an event_time'
            found.append(Problem(_CODE, what, step.where, why, fix=fix))
    return found


def _reads_timed(step: Step, by_id: Mapping[str, Step], is_certain: Callable[[str], bool]) -> bool:
    """Return whether a step reads a table with a time, or one that may have it as far as is known."""
    for parent in (by_id[name] for name in step.inputs if name in by_id):
        is_view = parent.query is not None and parent.is_inline
        if not is_certain(parent.id):
            return True
        if _reads_timed(parent, by_id, is_certain) if is_view else parent.config.get("event_time"):
            return True
    return False
