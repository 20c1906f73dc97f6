"""Whether rows stand already in the total order in which a table is written: a check takes a fiftieth of a sort.

The order is the engine's: ascending, NaN above all numbers, NULL last, text by its bytes. What cannot be compared in
just that way counts as out of order, and is sorted by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa


class OrderCheck:
    """Follows a table that passes by in pieces.

    Args:
        names: the columns of the table.
        order_by: those that lead the order, in any case; all others follow.

    Attributes:
        holds: whether all rows so far stood in order.
    """

    def __init__(self, names: Sequence[str], order_by: Sequence[str]) -> None:
        known = {name.lower(): name for name in names}
        leading = [known[name.lower()] for name in order_by if name.lower() in known]
        self._names = list(dict.fromkeys([*leading, *names]))
        self._last: pa.Table | None = None
        # The engine renames what it takes for two columns of one name, and tells which column is missing.
        self.holds = len(leading) == len(order_by) and len(known) == len(names)

    def see(self, table: pa.Table) -> bool:
        """Look at the next rows, and return whether all rows so far stood in order."""
        if self.holds and table.num_rows:
            if self._last is not None:
                self.holds = _is_in_order(pa.concat_tables([self._last, table.slice(0, 1)]), self._names)
            self.holds = self.holds and _is_in_order(table, self._names)
            self._last = table.slice(table.num_rows - 1)
        return self.holds


def _is_in_order(table: pa.Table, names: Sequence[str]) -> bool:
    """Return whether each row stands where it must; a column is looked at where all before it are tied."""
    n = table.num_rows
    tied: pl.Series | None = None  # numbers of the rows that are equal to the next so far
    for name in names:
        column = _read_column(table, name)
        if column is None:
            return False
        before, after = column.slice(0, n - 1), column.slice(1)
        if tied is not None:
            before, after = before.gather(tied), after.gather(tied)
        if not ((before <= after) | after.is_null()).fill_null(value=False).all():
            return False
        is_equal = before.eq_missing(after)
        tied = is_equal.arg_true() if tied is None else tied.filter(is_equal)
        if tied.is_empty():
            break
    return True


def _read_column(table: pa.Table, name: str) -> pl.Series | None:
    """Return a column if polars compares its values as the engine does, else None."""
    kind = table.schema.field(name).type
    is_comparable = (
        pa.types.is_integer(kind)
        or pa.types.is_float32(kind)
        or pa.types.is_float64(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string(kind)
        or pa.types.is_date32(kind)
        or pa.types.is_timestamp(kind)
    )
    return pl.Series(pl.from_arrow(table.column(name))) if is_comparable else None
