"""Intervals as values: which there are, what meets them, what they are named, and when two are the same."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.names import parse_moment_us
from treadle_runtime.intervals import (
    Input,
    Interval,
    Window,
    count_intervals,
    find_pieces,
    identify_interval,
    list_intervals,
    rule_of,
    span,
    unite_columns,
)
from treadle_runtime.store import Column

if TYPE_CHECKING:
    from treadle_runtime.store import Times

DAY = 86_400_000_000
HOUR = DAY // 24

moments = st.integers(-5_000, 5_000)
lengths = st.integers(1, 500)
ranges = st.one_of(st.none(), st.just(()), st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair))))


def day(text: str) -> Interval:
    start = parse_moment_us(text)
    return Interval(start, start + DAY)


# which there are


@given(moments, moments, lengths)
def test_intervals_tile_time_and_hold_the_first_and_the_last_moment(first: int, last: int, length: int) -> None:
    found = list_intervals(first, last, length)
    assert len(found) == count_intervals(first, last, length)
    if last < first - first % length:
        assert found == []
        return
    assert all(interval.start % length == 0 and interval.end == interval.start + length for interval in found)
    assert [interval.end for interval in found[:-1]] == [interval.start for interval in found[1:]]
    assert found[0].start <= first < found[0].end
    assert found[-1].start <= last < found[-1].end


def test_days_are_those_of_utc_and_weeks_begin_on_thursdays() -> None:
    first, last = parse_moment_us("2024-03-30T23:59"), parse_moment_us("2024-04-01T02:00+03:00")
    assert [str(each) for each in list_intervals(first, last, DAY)] == ["2024-03-30", "2024-03-31"]
    [week] = list_intervals(first, first, 7 * DAY)
    assert datetime.fromisoformat(str(week)).weekday() == 3


def test_intervals_outside_of_the_calendar_are_not_counted() -> None:
    assert count_intervals(parse_moment_us("0001-01-01"), parse_moment_us("9999-12-30"), DAY) == 3_652_058
    assert count_intervals(parse_moment_us("0001-01-01") - 1, 0, DAY) is None
    assert count_intervals(0, parse_moment_us("9999-12-31"), DAY) is None


# what meets them


@given(st.lists(moments, min_size=1), moments, lengths, st.integers(0, 1_000))
def test_interval_meets_rows_exactly_if_their_span_does(times: list[int], at: int, length: int, lookback: int) -> None:
    interval = Interval(at, at + length)
    lower, upper = at - lookback, at + length
    has_row = any(lower <= time < upper for time in times)
    spans = min(times) < upper and max(times) >= lower
    assert interval.meets((min(times), max(times)), lookback=lookback) == spans
    assert spans or not has_row, "no row is missed"


def test_rows_without_a_time_meet_nothing_and_rows_of_unknown_times_everything() -> None:
    assert not Interval(0, 10).meets(())
    assert Interval(0, 10).meets(None)


def test_edges_of_lookback_and_end() -> None:
    interval = Interval(100, 200)
    assert interval.meets((90, 90), lookback=10)
    assert not interval.meets((89, 89), lookback=10)
    assert interval.meets((199, 199))
    assert not interval.meets((200, 200))


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(None, None, True), (0, 10, False), (199, None, True), (200, None, False), (None, 100, False), (None, 101, True)],
)
def test_window_meets_what_it_overlaps(start: int | None, end: int | None, expected: bool) -> None:
    assert Window(start, end).meets(Interval(100, 200)) == expected


def test_span_is_that_of_all_inputs() -> None:
    def table(*times: Times | None) -> Input:
        return Input("t", "f", {}, parts=tuple(("d", each) for each in times))

    assert span([table((3, 5), ()), table((1, 2)), Input("u", "f", {})]) == (1, 5)
    assert span([table(()), Input("u", "f", {})]) == ()


# names


@given(
    st.lists(st.integers(-10_000, 40_000), min_size=2, max_size=9), st.sampled_from([DAY, 7 * DAY, HOUR, 15_000_000])
)
def test_names_of_parts_sort_as_intervals_do(numbers: list[int], length: int) -> None:
    found = [Interval(n * length, (n + 1) * length) for n in numbers]
    assert sorted(found) == sorted(found, key=lambda interval: interval.part)
    assert len({interval.part for interval in found}) == len(set(numbers))


def test_name_of_a_part_is_its_start() -> None:
    assert day("2024-01-05").part == "part-2024-01-05T00-00.parquet"
    assert Interval(5 * HOUR, 6 * HOUR).part == "part-1970-01-01T05-00.parquet"
    assert Interval(1_500_000, 2_000_000).part == "part-1970-01-01T00-00-01.500000.parquet"


def test_interval_is_shown_as_its_start() -> None:
    assert str(day("2024-01-05")) == "2024-01-05"
    assert str(Interval(5 * HOUR, 6 * HOUR)) == "1970-01-01T05:00"


# identity

COMPONENTS = {
    "code:features/f.sql": "abc",
    "config:interval": '"1d"',
    "config:begin": "null",
    "input:t": "1",
    "with:duckdb": "2",
}


def identify(interval: Interval, *parts: tuple[str, Times | None], lookback: int = 0, **changes: str) -> str:
    table = Input("t", "whole", {}, (Column("a", "BIGINT"),), parts)
    return identify_interval(COMPONENTS | changes, interval, [table], lookback=lookback, is_schema_counted=True)


@given(ranges, ranges, st.integers(0, 300), st.sampled_from("ab"))
def test_identity_changes_exactly_with_the_parts_that_are_met(
    before: Times | None, after: Times | None, lookback: int, digest: str
) -> None:
    interval = Interval(0, 100)
    same = [("x", (10, 20))]
    one = identify(interval, *same, ("a", before), lookback=lookback)
    other = identify(interval, *same, (digest, after), lookback=lookback)
    read = [
        ["a"] if interval.meets(before, lookback=lookback) else [],
        [digest] if interval.meets(after, lookback=lookback) else [],
    ]
    assert (one == other) == (read[0] == read[1])


def test_identity_counts_bounds_order_code_and_configuration_and_no_begin() -> None:
    base = identify(day("2024-01-01"), ("a", None), ("b", None))
    others = [
        identify(day("2024-01-02"), ("a", None), ("b", None)),
        identify(day("2024-01-01"), ("b", None), ("a", None)),
        identify(day("2024-01-01"), ("a", None), ("b", None), **{"code:features/f.sql": "abd"}),
        identify(day("2024-01-01"), ("a", None), ("b", None), **{"with:duckdb": "3"}),
    ]
    assert len({base, *others}) == 5
    free = {"config:begin": '"2024-01-01"', "input:t": "2", "parts": "3"}
    assert identify(day("2024-01-01"), ("a", None), ("b", None), **free) == base


def test_identity_counts_columns_where_it_is_told_to() -> None:
    def one(column: str, counted: bool) -> str:
        table = Input("t", "whole", {}, (Column(column, "BIGINT"),), (("a", None),))
        return identify_interval(COMPONENTS, day("2024-01-01"), [table], lookback=0, is_schema_counted=counted)

    assert one("a", True) != one("b", True)
    assert one("a", False) == one("b", False)


def test_identity_counts_an_untimed_table_whole_and_a_view_by_its_rule() -> None:
    def one(table: Input) -> str:
        return identify_interval(COMPONENTS, day("2024-01-01"), [table], lookback=0, is_schema_counted=True)

    assert one(Input("t", "1", {})) != one(Input("t", "2", {}))
    assert one(Input("v", "1", {"code": "x"}, is_view=True)) == one(Input("v", "2", {"code": "x"}, is_view=True))
    assert one(Input("v", "1", {"code": "x"}, is_view=True)) != one(Input("v", "1", {"code": "y"}, is_view=True))


def test_rule_of_a_table_is_all_of_its_identity_but_data() -> None:
    components = {"kind": "source/1", "config:format": "csv", "parts": "1", "input:a": "2"}
    assert rule_of(components) == {"kind": "source/1", "config:format": "csv"}
    assert rule_of(components, without=["kind"]) == {"config:format": "csv"}


# what a version was put together from


def test_pieces_are_found_in_what_a_version_tells() -> None:
    assert find_pieces({"intervals": [["2024-01-01", "a"], ["2024-01-02", "b"]]}) == {"a", "b"}
    assert find_pieces({"files": [["part-0", "c"]], "passed": True}) == {"c"}
    assert find_pieces({"intervals": 3}) == set()


def test_columns_are_united_by_name_in_the_order_of_their_first_use() -> None:
    a, b, c = Column("a", "BIGINT"), Column("b", "DATE"), Column("c", "VARCHAR")
    assert unite_columns([[a, b], [Column("B", "DATE"), c, a]]) == (a, b, c)


def test_moments_are_written_as_they_are_read() -> None:
    for text in ("2024-01-31", "2024-01-31T06:00", "2024-01-31T06:00:05", "2024-01-31T06:00:00.000001"):
        assert str(Interval(parse_moment_us(text), 0)) == text
    assert str(Interval(parse_moment_us("9999-12-31") + DAY, 0)) == "253402300800000000 us since 1970"
    assert parse_moment_us("2024-01-31T02:00+02:00") == parse_moment_us("2024-01-31")
    assert timedelta(microseconds=parse_moment_us("1969-12-31")) == timedelta(days=-1)
