"""What a person wants to know of a finished step, in one line or a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from treadle.events import StepFinished

if TYPE_CHECKING:
    from treadle.step import Graph

LEFT_OUT_SHOWN = 3


def tell(event: StepFinished) -> list[str]:
    """Return the text of a step that ended, without its place and name."""
    if event.status == "failed":
        return ["failed"]
    if event.status == "backfilled" and event.pieces is not None:
        return [f"{event.pieces[0]:,} of {event.pieces[1]:,} intervals are there"]
    lines = _TELLERS.get(event.kind, _tell_table)(event)
    lines[0] = f"{lines[0]:<44} {seconds(event.seconds)}" if event.status == "built" else lines[0]
    return lines


def seconds(value: float) -> str:
    """Return a duration for people."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def number(value: float | None) -> str:
    """Return a metric's value for people: four significant digits."""
    return "undefined" if value is None else f"{value:.4g}"


def interval(found: Mapping[str, Any]) -> str:
    """Return a metric's value with its 95 % interval."""
    if found.get("low") is None:
        return number(found.get("value"))
    return f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]"


def in_order(metrics: Mapping[str, Any], graph: Graph, pipeline: str) -> dict[str, Any]:
    """Return metric -> value as the pipeline orders its metrics; those that it does not name any more come last."""
    named = next((s.config["metrics"] for s in graph if s.kind == "evaluate" and s.pipeline == pipeline), ())
    return {name: metrics[name] for name in (*named, *metrics) if name in metrics}


def mebibytes(size: int) -> str:
    """Return a size for people."""
    return f"{size / 2**20:,.1f} MiB"


def shape(event: StepFinished) -> str:
    """Return `3,912 rows x 24`."""
    return f"{event.rows:,} rows x {event.n_columns}"


def _tell_table(event: StepFinished) -> list[str]:
    if event.pieces is None:
        return [shape(event)]
    what = "intervals computed" if event.kind == "feature" else "files read"
    return [f"{shape(event)}    {event.pieces[0]:,} of {event.pieces[1]:,} {what}"]


def _tell_dataset(event: StepFinished) -> list[str]:
    lines = [shape(event)]
    if null := event.info.get("label_null"):
        lines.append(f"{null:,} rows without a label: they are kept, and left out of training")
    matched = event.info.get("features", {})
    for name, rows in matched.items():
        if event.rows and rows < 0.5 * event.rows:
            lines.append(f"{name} was found for {rows / event.rows:.1%} of the rows")
    return lines


def _tell_split(event: StepFinished) -> list[str]:
    from treadle_runtime.splits import REASONS

    counts = event.info["counts"]
    lines = [", ".join(f"{name} {counts[name]:,}" for name in ("train", "validation", "test"))]
    left_out = sorted(event.info.get("left_out", {}).items(), key=lambda item: -item[1])
    lines += [f"{n:,} left out: {REASONS.get(reason, reason)}" for reason, n in left_out[:LEFT_OUT_SHOWN]]
    return lines


def _tell_baseline(event: StepFinished) -> list[str]:
    return [f"{', '.join(sorted(event.info['baselines']))} scored"]


def _tell_train(event: StepFinished) -> list[str]:
    return [f"{event.info['rows']['train']:,} rows x {event.info['inputs']} inputs"]


def _tell_evaluate(event: StepFinished) -> list[str]:
    name, found = next(iter(event.info["test"].items()))
    return [f"{name} {interval(found)}"]


def _tell_choose(event: StepFinished) -> list[str]:
    values = ", ".join(f"{name} {number(value)}" for name, value in event.info["values"].items())
    by = f"{event.info['stage']}()" if "stage" in event.info else f"validation {event.info['by']}"
    return [f"{event.info['chosen']}, by {by}: {values}"]


def _tell_validate(event: StepFinished) -> list[str]:
    gates = event.info["gates"]
    count = {status: sum(gate["status"] == status for gate in gates) for status in ("passed", "failed", "skipped")}
    if not gates:
        return ["no gates"]
    parts = [f"{count['passed']} {'gate' if count['passed'] == 1 else 'gates'} passed"]
    parts += [f"{count[status]} {status}" for status in ("failed", "skipped") if count[status]]
    lines = [", ".join(parts)]
    lines += [f"{g['status']}: {g['gate']}: {g['why']}" for g in gates if g["status"] != "passed"]
    return lines


def _tell_refit(event: StepFinished) -> list[str]:
    as_of = event.info.get("as_of")
    through = f" through {str(as_of)[:10]}" if as_of else ""
    return [f"{event.info['model']} on {event.info['rows']['train']:,} rows{through}"]


def _tell_test(event: StepFinished) -> list[str]:
    if event.info.get("passed"):
        return ["passed"]
    n = event.info.get("failures", 0)
    word = "failed" if event.severity == "error" else "warning"
    lines = [f"{word}: {n:,} {'row' if n == 1 else 'rows'}"]
    columns = event.info.get("columns", [])
    for row in event.info.get("examples", [])[:2]:
        lines.append(", ".join(f"{name}={value}" for name, value in zip(columns, row, strict=False))[:140])
    return lines


_TELLERS = {
    "dataset": _tell_dataset,
    "split": _tell_split,
    "baseline": _tell_baseline,
    "train": _tell_train,
    "evaluate": _tell_evaluate,
    "choose": _tell_choose,
    "validate": _tell_validate,
    "refit": _tell_refit,
    "test": _tell_test,
}
