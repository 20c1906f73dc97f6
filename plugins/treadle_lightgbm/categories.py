"""Text columns as category numbers, learned from training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Categories:
    """What the numbers of one column stand for.

    Attributes:
        values: the text behind 0, 1, ..., sorted; rows with NULL take the number after the last, if training
            had any.
        has_null: whether training had NULL.
        has_rare: whether training had values too rare for a number of their own; they share one, and so do
            values that training never saw.
    """

    values: tuple[str, ...]
    has_null: bool
    has_rare: bool

    @classmethod
    def learn(cls, column: pa.ChunkedArray, *, min_frequency: int = 1) -> Categories:
        """Return the categories of a string column."""
        counts = column.drop_null().value_counts()
        pairs = zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)
        kept = sorted(value for value, n in pairs if n >= min_frequency)
        return cls(tuple(kept), column.null_count > 0, len(kept) < len(counts))

    def encode(self, column: pa.ChunkedArray) -> pa.Array:
        """Return the numbers as float64; NaN for what training never saw."""
        options = pc.SetLookupOptions(value_set=pa.array(self.values, pa.string()))
        found = pc.call_function("index_in", [column], options)
        codes = found.to_numpy().astype(np.float64)  # NULL and unknown alike are NaN here
        missing = column.is_null().to_numpy()
        if self.has_rare:
            codes[np.isnan(codes) & ~missing] = len(self.values) + 1
        if self.has_null:
            codes[missing] = len(self.values)
        return pa.array(codes)

    def to_json(self) -> dict[str, Any]:
        """Return the categories as JSON."""
        return {"values": list(self.values), "has_null": self.has_null, "has_rare": self.has_rare}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Categories:
        """Return what `to_json` wrote."""
        return cls(tuple(value["values"]), value["has_null"], value["has_rare"])
