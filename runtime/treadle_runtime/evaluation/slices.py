"""Slices: the metrics among the rows that share a value of a column.

A slice is judged if it has at least `MIN_ROWS` rows and, for classification, rows of two classes or more; the
others are listed with the reason and have no metrics: on so few rows they would be noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from treadle_runtime.evaluation.metrics import Floats, score

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_ROWS = 200
MAX_OTHERS = 100


def score_slices(
    table: pa.Table,
    y: npt.NDArray[Any],
    prediction: Floats,
    *,
    task: str,
    metrics: Sequence[str],
    columns: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Return the metrics per value of each column.

    Args:
        table: n rows that hold the columns.
        y, prediction: labels and predictions of these rows, as for `metrics.score`.
        task: binary, multiclass or regression.
        metrics: names of the metrics.
        columns: the columns to slice by; NULL is a value of its own.

    Returns:
        column -> {"judged": [{value, n, metrics}], "others": [{value, n, why}], "unlisted": how many more
        others}. The largest slices come first; at most `MAX_OTHERS` others are listed.
    """
    return {column: _score_column(table.column(column), y, prediction, task, metrics) for column in columns}


def _score_column(
    column: pa.ChunkedArray, y: npt.NDArray[Any], prediction: Floats, task: str, metrics: Sequence[str]
) -> dict[str, Any]:
    judged, others = [], []
    for value, rows in _read_groups(column):
        why = _why_not(y[rows], task)
        if why:
            others.append({"value": value, "n": len(rows), "why": why})
        else:
            values = score(y[rows], prediction[rows], task, metrics)
            judged.append({"value": value, "n": len(rows), "metrics": values})
    return {"judged": judged, "others": others[:MAX_OTHERS], "unlisted": max(0, len(others) - MAX_OTHERS)}


def _why_not(y: npt.NDArray[Any], task: str) -> str:
    if len(y) < MIN_ROWS:
        return f"fewer than {MIN_ROWS} rows"
    if task != "regression" and y.min() == y.max():
        return "all rows are of one class"
    return ""


def _read_groups(column: pa.ChunkedArray) -> list[tuple[Any, npt.NDArray[np.int64]]]:
    """Return (value, positions of its rows): the most frequent first, equally frequent ones in order."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        return []
    codes = encoded.indices.to_numpy()
    values = [_to_json(value) for value in encoded.dictionary.to_pylist()]
    counts = np.bincount(codes, minlength=len(values))
    ends = np.cumsum(counts)
    rows = np.argsort(codes, kind="stable")
    order = sorted(range(len(values)), key=lambda code: (-counts[code], *_sort_key(values[code])))
    return [(values[code], rows[ends[code] - counts[code] : ends[code]]) for code in order]


def _to_json(value: Any) -> Any:
    is_plain = value is None or isinstance(value, (bool, int, str))
    is_number = isinstance(value, float) and math.isfinite(value)
    return value if is_plain or is_number else str(value)


def _sort_key(value: Any) -> tuple[int, float, str]:
    if isinstance(value, (bool, int, float)):
        return 0, float(value), ""
    return (2, 0.0, "") if value is None else (1, 0.0, value)
