"""What a function of the project returned, as Arrow tables of a row group each.

A lazy frame is computed while its rows are written, so that a large one is never in memory as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import polars as pl
import pyarrow as pa

from treadle.errors import Location, Problem, StepError
from treadle_runtime.engine import GROUP_ROWS


def to_tables(result: object, what: str, where: Location | None) -> Iterator[pa.Table]:
    """Return a result in its order: one table or more, each of GROUP_ROWS rows, the last of fewer.

    A table whose types are not plain comes as one, however long it is.

    Args:
        result: a polars frame, an Arrow table or a reader of one.
        what: the step, for the error.
        where: the step's place in the project.

    Raises:
        StepError: TR714 it is none.
    """
    match result:
        case pl.LazyFrame():
            return _from_lazy(result)
        case pl.DataFrame():
            return _from_arrow(result.to_arrow())
        case pa.Table():
            return _from_arrow(result)
        case pa.RecordBatchReader():
            return _from_reader(result)
    why = f"it returned a {type(result).__name__}"
    fix = "return a polars LazyFrame or DataFrame, or an Arrow table"
    raise StepError(Problem("TR714", f"{what} returned no table", where, why, fix=fix))


def is_plain(schema: pa.Schema) -> bool:
    """Return whether a batch can be written without the others: flat types that Parquet keeps as they are."""
    return all(_is_plain(field.type) for field in schema)


def _is_plain(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_time = pa.types.is_date32(kind) or (pa.types.is_timestamp(kind) and kind.unit in ("us", "ns"))
    return bool(is_number or is_text or is_time or pa.types.is_boolean(kind))


def _from_lazy(frame: pl.LazyFrame) -> Iterator[pa.Table]:
    frames = iter(frame.collect_batches(chunk_size=GROUP_ROWS, maintain_order=True))
    first = next(frames, None)
    if first is None:  # without rows there is no batch to tell the types
        yield pl.DataFrame(schema=frame.collect_schema()).to_arrow()
        return
    head = first.to_arrow()
    if is_plain(head.schema):
        yield from _grouped(itertools.chain([head], (frame.to_arrow() for frame in frames)))
    else:
        yield pl.concat([first, *frames]).to_arrow()


def _from_arrow(table: pa.Table) -> Iterator[pa.Table]:
    yield from _grouped([table]) if is_plain(table.schema) else [table]


def _from_reader(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    if is_plain(reader.schema):
        batches = (pa.Table.from_batches([batch]) for batch in reader)
        yield from _grouped(itertools.chain([reader.schema.empty_table()], batches))
    else:
        yield reader.read_all()


def _grouped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut and join tables of one schema into tables of GROUP_ROWS rows, each in one piece.

    A row group is closed after a whole batch: only batches of its size give files that are equal to those which the
    engine writes when it has sorted the rows itself.
    """
    waiting: list[pa.Table] = []
    n_waiting = 0
    is_first = True
    for table in tables:
        left = table
        while n_waiting + left.num_rows >= GROUP_ROWS:
            n = GROUP_ROWS - n_waiting
            yield pa.concat_tables([*waiting, left.slice(0, n)]).combine_chunks()
            left, waiting, n_waiting, is_first = left.slice(n), [], 0, False
        if left.num_rows or is_first:
            waiting.append(left)
            n_waiting += left.num_rows
    if waiting and (n_waiting or is_first):
        yield pa.concat_tables(waiting).combine_chunks()
