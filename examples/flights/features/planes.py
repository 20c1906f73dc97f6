"""What the register says of a plane."""

import polars as pl

from treadle import feature


@feature(entity="tailnum", static=True)
def planes(raw_planes: pl.LazyFrame) -> pl.LazyFrame:
    """Age and size of every registered plane; one flight in seven is flown by one that is not."""
    return raw_planes.select("tailnum", "seats", age=2013 - pl.col("year"))
