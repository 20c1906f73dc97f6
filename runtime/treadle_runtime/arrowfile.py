"""An uncompressed Arrow IPC file: written with bytes that its values decide, read by mapping it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from pathlib import Path

BATCH_ROWS = 1 << 20  # one batch for most datasets: a column of one batch is mapped as one array


def write_arrow_file(table: pa.Table, path: Path) -> None:
    """Write a table as an uncompressed Arrow IPC file whose bytes depend on its schema and values alone."""
    schema = table.schema.remove_metadata()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, table.num_rows, BATCH_ROWS):
            part = table.slice(start, BATCH_ROWS)
            columns = [_normalise(part.column(i)) for i in range(part.num_columns)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def map_arrow_file(path: Path) -> pa.Table:
    """Return the table of an Arrow IPC file, mapped: values are read from disk when they are looked at."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _normalise(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array without what stood in memory behind its NULLs."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if array.null_count == 0 or not _has_fixed_width(array.type):
        return array
    values = pc.fill_null(array, pa.scalar(0, pa.int64()).cast(array.type))
    validity = array.is_valid()
    return pa.Array.from_buffers(array.type, len(array), [validity.buffers()[1], values.buffers()[1]])


def _has_fixed_width(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))
