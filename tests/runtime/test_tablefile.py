"""What functions return becomes a part: the same bytes in whatever form, order and pieces it comes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from treadle.errors import StepError
from treadle_runtime import tablefile
from treadle_runtime.engine import GROUP_ROWS, PART, Connection, Written, connect, lock_down
from treadle_runtime.returned import to_tables
from treadle_runtime.tablefile import FEW_ROWS, write_tables

N = 2 * GROUP_ROWS + 12_345
SIZES = [0, 1, FEW_ROWS, FEW_ROWS + 1, GROUP_ROWS, GROUP_ROWS + 1, N]


@pytest.fixture
def con(tmp_path: Path) -> Generator[Connection]:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "drafts").mkdir()
    connection = connect(temp_directory=tmp_path / "scratch")
    lock_down(connection, [tmp_path / "scratch", tmp_path / "drafts"])
    yield connection
    connection.close()


@pytest.fixture
def write(con: Connection, tmp_path: Path) -> Callable[[object], tuple[Written, Path]]:
    """Return what writes a result into a new folder."""
    numbers = itertools.count()

    def write_result(result: object) -> tuple[Written, Path]:
        folder = tmp_path / f"drafts/{next(numbers)}"
        folder.mkdir()
        tables = to_tables(result, "feature", None)
        written = write_tables(
            con, tables, folder, tmp_path / "scratch", order_by=["id"], what="the feature", where=None
        )
        assert [path.name for path in folder.iterdir()] == [PART]
        assert list((tmp_path / "scratch").glob("*.parquet")) == []
        return written, folder / PART

    return write_result


Write = Callable[[object], tuple[Written, Path]]


def rows(n: int) -> pl.DataFrame:
    """Return rows in order, with ties in `id`, NULLs, NaN and text."""
    i = pl.int_range(n, eager=True)
    return pl.DataFrame(
        {
            "x": (i * 7919 % 1000).cast(pl.Float64) / 7,
            "id": i // 2,
            "text": pl.Series([None if k % 11 == 0 else f"t{k % 300}" for k in range(n)], dtype=pl.String),
            "part": pl.Series(["a", "b"] * (n // 2) + ["a"] * (n % 2), dtype=pl.String),
        }
    ).sort("id", "x", "text", "part", nulls_last=True)


def forms(frame: pl.DataFrame) -> Iterator[object]:
    yield frame
    yield frame.lazy()
    yield frame.to_arrow()
    yield frame.to_arrow().to_reader(max_chunksize=10_007)
    yield pl.concat([part.lazy() for part in frame.iter_slices(9_999)]) if frame.height else frame
    yield pa.concat_tables([frame.to_arrow().slice(0, 777), frame.to_arrow().slice(777)])


@pytest.mark.parametrize("n", SIZES)
def test_bytes_depend_on_the_rows_alone(write: Write, n: int) -> None:
    frame = rows(n)
    late = pl.concat([frame.head(n - 2), frame.tail(2).reverse()]) if n > 1 else frame
    written, path = write(frame.sample(fraction=1, shuffle=True, seed=1))
    assert written.rows == n
    assert [(c.name, c.type) for c in written.columns] == [
        ("x", "DOUBLE"),
        ("id", "BIGINT"),
        ("text", "VARCHAR"),
        ("part", "VARCHAR"),
    ]
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    for given in (frame, late):
        for form in forms(given):
            again, path = write(form)
            assert again == written
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected
    assert pl.read_parquet(path).equals(frame)


def test_types_that_are_not_plain_are_written_in_order_too(write: Write) -> None:
    n = GROUP_ROWS + 5
    frame = pl.DataFrame({"id": range(n), "of": [[i] for i in range(n)]}).with_columns(
        kind=pl.col("id").cast(pl.String).str.slice(0, 1).cast(pl.Categorical), at=pl.duration(seconds=pl.col("id"))
    )
    digests = set()
    for result in (frame, frame.reverse().lazy(), frame.lazy(), frame.to_arrow().to_reader()):
        written, path = write(result)
        digests.add(path.read_bytes())
    assert len(digests) == 1
    assert [c.type for c in written.columns] == ["BIGINT", "BIGINT[]", written.columns[2].type, "INTERVAL"]


def test_result_without_rows_keeps_its_types(write: Write) -> None:
    frame = pl.DataFrame({"id": [1], "at": [None]}, schema={"id": pl.Int8, "at": pl.Datetime("us", "UTC")})
    for result in (frame.lazy().filter(pl.col("id") > 1), frame.clear(), frame.clear().to_arrow().to_reader()):
        written, _ = write(result)
        assert (written.rows, [c.type for c in written.columns]) == (0, ["TINYINT", "TIMESTAMP WITH TIME ZONE"])


def test_lazy_frame_without_rows_is_computed_once(write: Write) -> None:
    computed: list[int] = []

    def noted(frame: pl.DataFrame) -> pl.DataFrame:
        computed.append(frame.height)
        return frame

    frame = pl.LazyFrame({"id": [1, 2], "kind": ["a", None]}).cast({"kind": pl.Categorical}).map_batches(noted)
    written, _ = write(frame.filter(pl.col("id") > 2).with_columns(at=pl.lit(None, pl.Time)))
    assert computed == [2]
    full, _ = write(frame.with_columns(at=pl.lit(None, pl.Time)))
    assert written.columns == full.columns


def test_missing_column_of_the_order_is_an_error(write: Write) -> None:
    for n in (3, N):
        with pytest.raises(StepError) as caught:
            write(pl.DataFrame({"it": range(n)}))
        assert [problem.code for problem in caught.value.problems] == ["TR706"]


@pytest.mark.parametrize("is_sorted", [True, False])
def test_error_of_a_later_batch_is_raised_as_it_is(con: Connection, tmp_path: Path, *, is_sorted: bool) -> None:
    def tables() -> Iterator[pa.Table]:
        ids = pa.array(range(GROUP_ROWS) if is_sorted else reversed(range(GROUP_ROWS)), pa.int64())
        yield from [pa.table({"id": ids})] * 2
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        tablefile.write_tables(
            con, tables(), tmp_path / "drafts", tmp_path / "scratch", order_by=["id"], what="x", where=None
        )
