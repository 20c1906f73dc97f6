"""The split that a new project begins with: tried on the file, so that every part has rows and every class.

Shares of the rows are tried in turn, and seeds where rows are drawn; the split is the build's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from treadle.errors import Problem, StepError, UsageError
from treadle_runtime import splits
from treadle_runtime.types import quote_name
from treadle_scaffold.guess import Design

_SHARES = ((0.2, 0.2), (0.25, 0.25), (0.3, 0.3))
_SEEDS = range(20)
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


@dataclass(frozen=True)
class Parts:
    """A split that holds.

    Attributes:
        config: `split` of a pipeline, as it is written.
        rows: part -> its rows.
        classes: class -> its rows in the test part; empty for regression.
    """

    config: dict[str, str | int | float]
    rows: dict[str, int]
    classes: dict[str, int]


def choose_split(design: Design) -> Parts:
    """Return the first split under which every part has rows, and every class where there are classes.

    Raises:
        UsageError: TR707, there is none.
    """
    table = _read_rows(design)
    label = table.column("_label").to_pylist()
    roles = {"key": design.key_name, "at": design.time is not None, "label": "_label", "label_known_at": False}
    for config in _configs(design, table):
        full: dict[str, Any] = {**config, "entity_columns": ["_entity"], "as_of": "newest"}
        try:
            parts = splits.split(table, roles, full).parts
        except StepError:
            continue
        if (found := _judge(parts, label, design.label.task != "regression")) is not None:
            return Parts(config, *found)
    where = "each with every class of the label" if design.label.task != "regression" else "each with rows"
    how = "time" if design.time else "entity" if design.entity else "chance"
    what = f'"{design.profile.file.name}" cannot be split by {how} into three parts, {where}'
    fix = "leave --time out to split otherwise, or take more rows" if design.time else "take a file with more rows"
    raise UsageError(Problem("TR707", what, why=f"it holds {design.profile.rows} rows", fix=fix))


def _read_rows(design: Design) -> pa.Table:
    columns = [f"{design.key_expression} as {quote_name(design.key_name)}", f"{design.label.expression} as _label"]
    if design.time is not None:
        columns.append(f"{quote_name(design.time)}::timestamp as _at")
    if design.entity is not None:
        columns.append(f"{quote_name(design.entity)} as _entity")
    return design.profile.con.sql(f"select {', '.join(columns)} from rows").to_arrow_table()


def _configs(design: Design, table: pa.Table) -> Iterator[dict[str, str | int | float]]:
    if design.time is not None:
        at = table.filter(table.column("_label").is_valid()).column("_at").drop_null()
        seconds = np.sort(at.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()) / 1e6
        for test, validation in _SHARES:
            if len(seconds):
                ends = np.quantile(seconds, [1 - test, 1 - test - validation])
                last = to_duration(seconds[-1] - ends[0])
                yield {"by": "time", "test": f"last {last}", "validation": to_duration(ends[0] - ends[1])}
        return
    by: dict[str, str | int | float] = {"by": "random"}
    if design.entity is not None:
        by = {"by": "entity", "entity": design.names[design.entity]}
    for test, validation in _SHARES:
        for seed in _SEEDS:
            yield {**by, "test": test, "validation": validation, **({"seed": seed} if seed else {})}


def to_duration(seconds: float) -> str:
    """Return a length of time as a whole number of the largest unit of which it has at least two, rounded up."""
    for unit, size in _UNITS:
        if seconds >= 2 * size or size == 1:
            return f"{max(1, int(-(-seconds // size)))}{unit}"
    raise AssertionError("the last unit fits all")


def _judge(parts: np.ndarray, label: list[Any], has_classes: bool) -> tuple[dict[str, int], dict[str, int]] | None:
    rows = {name: int((parts == code).sum()) for name, code in splits.PARTS.items()}
    if not has_classes:
        return rows, {}
    values = np.array([str(value) for value in label])
    classes = set(values[[value is not None for value in label]])
    held = {name: values[parts == code] for name, code in splits.PARTS.items()}
    if any(set(found) != classes for found in held.values()):
        return None
    return rows, {str(name): int((held["test"] == name).sum()) for name in sorted(classes)}
