"""Arrow tables that pass by -> part-0.parquet, in total order and within bounded memory.

Sorting takes longer than all else, and most functions keep the order of what they read: rows that stand in order are
written as they come, any others are sorted by the engine. The bytes are the same either way.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import polars as pl
import pyarrow as pa

from treadle.errors import Location
from treadle_runtime import engine
from treadle_runtime.engine import PART, Connection, Written
from treadle_runtime.ordering import OrderCheck
from treadle_runtime.returned import is_plain, to_tables

FEW_ROWS = 5_000  # so many are sorted as fast as they are checked


def write_tables(
    con: Connection,
    tables: Iterator[pa.Table],
    folder: Path,
    scratch: Path,
    *,
    order_by: Sequence[str],
    what: str,
    where: Location | None,
) -> Written:
    """Write tables, one after another, as `part-0.parquet`.

    Args:
        con: may write to `folder`, and write and read below `scratch`.
        tables: as `returned.to_tables` gives them; what they raise is raised.
        folder: the draft's.
        scratch: for rows that turn out to be out of order late.
        order_by: columns by which rows are sorted first, then by all others; empty for the first column.
        what: the step, for errors.
        where: the step's place in the project.

    Raises:
        StepError: TR703 a column's type cannot be stored, TR706 a column of `order_by` is missing.
        StoreError: TR803 the disk is full.
    """
    head = list(islice(tables, 2))
    schema = head[0].schema
    order_by = order_by or schema.names[:1]
    check = OrderCheck(schema.names, order_by)
    is_few = head[0].num_rows <= FEW_ROWS
    is_sorted = not is_few and is_plain(schema) and all(check.see(table) for table in head)
    if len(head) == 1:
        return engine.write_arrow(con, head[0], folder, order_by, is_sorted=is_sorted, what=what, where=where)
    write = partial(_write_stream, con, folder=folder, order_by=order_by, what=what, where=where)
    written = write(chain(head, _checked(tables, check) if is_sorted else tables), is_sorted=is_sorted)
    if not is_sorted or check.holds:
        return written
    unsorted = scratch / f"unsorted-{uuid.uuid4().hex}.parquet"
    (folder / PART).rename(unsorted)
    try:
        # As Arrow again: rows that the engine reads from Parquet by itself are encoded in other pieces.
        return write(to_tables(pl.scan_parquet(unsorted, glob=False, hive_partitioning=False), what, where))
    finally:
        unsorted.unlink()


def _write_stream(
    con: Connection,
    tables: Iterator[pa.Table],
    *,
    folder: Path,
    order_by: Sequence[str],
    is_sorted: bool = False,
    what: str,
    where: Location | None,
) -> Written:
    first = next(tables)
    relay = _Relay(chain([first], tables))
    reader = pa.RecordBatchReader.from_batches(first.schema, relay.batches())
    try:
        return engine.write_arrow(con, reader, folder, order_by, is_sorted=is_sorted, what=what, where=where)
    finally:
        relay.raise_error()


def _checked(tables: Iterator[pa.Table], check: OrderCheck) -> Iterator[pa.Table]:
    for table in tables:
        check.see(table)
        yield table


class _Relay:
    """Hands tables to the engine, and keeps what they raise, which the engine would tell as an error of its own."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._error: BaseException | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for table in self._tables:
                yield from table.to_batches()
        except GeneratorExit:  # the engine needs no more: it failed
            raise
        except BaseException as error:
            self._error = error
            raise

    def raise_error(self) -> None:
        if self._error is not None:
            raise self._error
