"""Splits: bounds, labels known in time, hashes, what is left out and why, and that growth moves no row."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import StepError
from treadle_runtime.splits import (
    CODES,
    LEFT_OUT,
    REASONS,
    TEST,
    TRAIN,
    VALIDATION,
    Split,
    from_iso,
    hash_share,
    restrict,
    split,
    to_iso,
)

DAY = 86_400_000_000
START = from_iso("2013-01-01")

Row = tuple[int | None, int | None, int | None]  # at, label, known_at; times in hours since 2013-01-01


def dataset(rows: list[Row], *, known: bool = True) -> tuple[pa.Table, dict[str, Any]]:
    """Build a dataset of (at, label, known_at)."""

    def times(position: int) -> pa.Array:
        us = [None if row[position] is None else START + row[position] * DAY // 24 for row in rows]
        return pa.array(us, pa.int64()).cast(pa.timestamp("us"))

    columns: dict[str, Any] = {
        "id": pa.array(range(len(rows)), pa.int64()),
        "_at": times(0),
        "_label": pa.array([row[1] for row in rows], pa.int64()),
        "_label_known_at": times(2),
    }
    roles = {"key": "id", "at": True, "label": "y", "label_known_at": known, "inputs": [], "context": []}
    return pa.table(columns if known else {k: v for k, v in columns.items() if k != "_label_known_at"}), roles


def daily(days: int, *, delay: int = 0) -> list[Row]:
    """One row at noon of every day, its label known `delay` hours later."""
    return [(24 * day + 12, day % 2, 24 * day + 12 + delay) for day in range(days)]


def by_time(test: str, validation: str, *, as_of: str = "newest", gap_us: int | None = None) -> dict[str, Any]:
    """Return the configuration of a split by time."""
    return {
        "by": "time", "test": test, "validation": validation, "entity_columns": [],
        "gap_us": gap_us, "seed": 0, "as_of": as_of,
    }  # fmt: skip


def by_share(by: str, *, entity: tuple[str, ...] = (), seed: int = 0, as_of: str = "newest") -> dict[str, Any]:
    """Return the configuration of a split by entity or at random: a fifth each for test and validation."""
    return {
        "by": by, "test": 0.2, "validation": 0.2, "entity_columns": list(entity),
        "gap_us": None, "seed": seed, "as_of": as_of,
    }  # fmt: skip


def test_relative_parts_count_back_from_newest_known_label() -> None:
    table, roles = dataset(daily(30, delay=6))

    found = split(table, roles, by_time("last 5d", "10d"))

    # as_of is 2013-01-30T18:00; the test part begins at 2013-01-25T18:00, validation ten days earlier.
    assert found.info["as_of"] == "2013-01-30T18:00:00Z"
    assert found.info["bounds"] == {
        "validation": "2013-01-15T18:00:00Z",
        "test": "2013-01-25T18:00:00Z",
        "as_of": "2013-01-30T18:00:00Z",
    }
    assert found.parts.dtype == np.int8
    # The labels of days 15 and 25 become known at the very moment at which the next part begins: too late.
    first, second = [TRAIN] * 14 + [LEFT_OUT], [VALIDATION] * 9 + [LEFT_OUT]
    assert found.parts.tolist() == first + second + [TEST] * 5
    assert found.info["counts"] == {"train": 14, "validation": 9, "test": 5}
    assert found.info["left_out"] == {"label_known_late": 2}


def test_dates_are_utc_midnights_and_parts_are_half_open() -> None:
    rows: list[Row] = [(0, 0, 0), (23, 0, 23), (24, 1, 24), (47, 0, 47), (48, 1, 48), (72, 0, 72)]
    table, roles = dataset(rows)

    found = split(table, roles, by_time("2013-01-03", "2013-01-02"))

    assert found.parts.tolist() == [TRAIN, TRAIN, VALIDATION, VALIDATION, TEST, TEST]


def test_dates_with_an_offset_are_converted_to_utc() -> None:
    table, roles = dataset(daily(10))

    found = split(table, roles, by_time("2013-01-06T01:00:00+02:00", "2013-01-03"))

    assert found.info["bounds"]["test"] == "2013-01-05T23:00:00Z"


def test_row_trains_only_if_its_label_is_known_before_validation_begins() -> None:
    table, roles = dataset([(0, 1, 5), (10, 1, 23), (11, 1, 24), (12, 0, 30), (25, 1, 50), (26, 0, 30), (50, 1, 60)])

    found = split(table, roles, by_time("2013-01-03", "2013-01-02"))

    assert found.parts.tolist() == [TRAIN, TRAIN, LEFT_OUT, LEFT_OUT, LEFT_OUT, VALIDATION, TEST]
    assert found.info["left_out"] == {"label_known_late": 3}


def test_gap_widens_what_is_left_out() -> None:
    table, roles = dataset(daily(10))
    plain = split(table, roles, by_time("2013-01-09", "2013-01-06"))
    wide = split(table, roles, by_time("2013-01-09", "2013-01-06", gap_us=DAY))

    assert plain.info["counts"] == {"train": 5, "validation": 3, "test": 2}
    assert wide.info["counts"] == {"train": 4, "validation": 2, "test": 2}
    assert wide.info["left_out"] == {"in_gap": 2}


def test_gap_stands_for_the_delay_where_labels_have_no_known_at() -> None:
    table, roles = dataset(daily(10), known=False)

    found = split(table, roles, by_time("2013-01-09", "2013-01-06", gap_us=DAY))

    assert found.info["counts"] == {"train": 4, "validation": 2, "test": 2}
    assert found.info["as_of"] == "2013-01-10T12:00:00Z"


def test_rows_left_out_are_counted_by_reason() -> None:
    rows = daily(10)
    rows += [(None, 1, 0), (24 * 20, 1, None), (30, None, 30), (31, 1, None), (24 * 9, 1, 24 * 15)]
    table, roles = dataset(rows)

    found = split(table, roles, by_time("last 2d", "3d", as_of="2013-01-10T12:00:00"))

    assert found.info["left_out"] == {"at_null": 1, "after_as_of": 1, "label_null": 1, "label_not_known": 2}
    assert found.parts[10:].tolist() == [LEFT_OUT] * 5
    assert list(found.info["left_out"]) == [reason for reason in REASONS if reason in found.info["left_out"]]


def test_newest_ignores_known_at_of_rows_without_label() -> None:
    table, roles = dataset([*daily(10), (24 * 40, None, 24 * 50)])

    found = split(table, roles, by_time("last 2d", "3d"))

    assert found.info["as_of"] == "2013-01-10T12:00:00Z"


def test_empty_part_error_names_part_bounds_and_range() -> None:
    table, roles = dataset([*daily(10), (30, None, 30)])

    with pytest.raises(StepError) as caught:
        split(table, roles, by_time("2014-01-01", "2013-06-01"))

    assert str(caught.value) == (
        "error[TR707]: the validation and the test parts of the split are empty\n"
        "  validation begins at 2013-06-01T00:00:00Z, test at 2014-01-01T00:00:00Z,"
        " as_of is 2013-01-10T12:00:00Z\n"
        "  `at` of the dataset runs from 2013-01-01T12:00:00Z to 2013-01-10T12:00:00Z\n"
        "  of 11 rows: 10 train, 0 validation, 0 test\n"
        "  left out, label is NULL: 1\n"
        "  fix: change `test` and `validation` of the pipeline's `split`, or bring more rows"
    )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_each_empty_part_is_an_error(part: str) -> None:
    bounds = {
        "train": ("2013-01-05", "2013-01-01"),
        "validation": ("2013-01-05", "1h"),
        "test": ("2013-02-01", "30d"),
    }
    table, roles = dataset(daily(10))

    with pytest.raises(StepError, match=f"the {part} part of the split is empty") as caught:
        split(table, roles, by_time(*bounds[part]))

    assert caught.value.problems[0].code == "TR707"


@pytest.mark.parametrize("rows", [[], [(None, 1, None)]])
def test_dataset_without_moments_cannot_be_split_by_time(rows: list[Row]) -> None:
    table, roles = dataset(rows)

    with pytest.raises(StepError, match="no row has a moment of prediction"):
        split(table, roles, by_time("last 2d", "3d"))


def test_time_split_needs_a_dataset_with_time() -> None:
    table, roles = dataset(daily(10))

    with pytest.raises(StepError) as caught:
        split(table, {**roles, "at": False, "label_known_at": False}, by_time("last 2d", "3d"))

    assert caught.value.problems[0].code == "TR507"


def test_validation_after_test_and_impossible_dates_are_errors() -> None:
    table, roles = dataset(daily(10))

    with pytest.raises(StepError, match="begins after the test part"):
        split(table, roles, by_time("2013-01-05", "2013-01-06"))
    with pytest.raises(StepError, match="`test` of the split cannot be read\n  '2013-02-30' is no date"):
        split(table, roles, by_time("2013-02-30", "2013-01-06"))


def test_iso_round_trip() -> None:
    for text in ("2013-11-01T00:00:00Z", "2013-11-01T06:07:08.000009Z", "1969-12-31T23:59:59Z"):
        assert to_iso(from_iso(text)) == text
    moment = datetime(2013, 11, 1, 6, tzinfo=UTC)
    assert from_iso("2013-11-01T06:00") == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


# properties of splits by time

_HOUR = st.integers(0, 24 * 20)
_ROWS = st.lists(
    st.tuples(st.none() | _HOUR, st.none() | st.integers(0, 1), st.none() | st.integers(0, 24 * 30)),
    max_size=60,
)


def reference(rows: list[Row], as_of: int, validation: int, test: int, gap: int) -> list[int]:
    """Decide row by row, times in hours."""
    parts = []
    for at, label, known in rows:
        if at is None or at > as_of or label is None or known is None or known > as_of:
            parts.append(LEFT_OUT)
        elif at >= test:
            parts.append(TEST)
        elif at >= validation:
            parts.append(VALIDATION if max(at, known) < test - gap else LEFT_OUT)
        else:
            parts.append(TRAIN if max(at, known) < validation - gap else LEFT_OUT)
    return parts


def try_split(rows: list[Row], config: dict[str, Any]) -> Split | None:
    """Split, or return None when a part is empty."""
    table, roles = dataset(rows)
    try:
        return split(table, roles, config)
    except StepError as error:
        if error.problems[0].code != "TR707":
            raise
        return None


@given(rows=_ROWS, gap=st.integers(0, 30))
def test_time_split_equals_a_row_by_row_reference(rows: list[Row], gap: int) -> None:
    config = by_time("2013-01-12", "5d", as_of="2013-01-17T06:00", gap_us=gap * DAY // 24)
    wanted = reference(rows, 24 * 16 + 6, 24 * 6, 24 * 11, gap)

    found = try_split(rows, config)

    if found is None:
        assert not {TRAIN, VALIDATION, TEST} <= set(wanted)
    else:
        assert found.parts.tolist() == wanted
        assert sum(found.info["left_out"].values()) == wanted.count(LEFT_OUT)
        assert sum(found.info["counts"].values()) == len(rows) - wanted.count(LEFT_OUT)


@given(rows=_ROWS)
def test_no_label_of_a_part_is_known_at_or_after_the_first_moment_of_the_next(rows: list[Row]) -> None:
    found = try_split(rows, by_time("last 4d", "4d"))
    if found is None:
        return
    at = {part: [r[0] for r, p in zip(rows, found.parts, strict=True) if p == part] for part in (1, 2, 3)}
    known = {part: [r[2] for r, p in zip(rows, found.parts, strict=True) if p == part] for part in (1, 2)}

    for part in (TRAIN, VALIDATION):
        first = min(moment for moment in at[part + 1] if moment is not None)
        assert all(moment is not None and moment < first for moment in known[part])
        assert all(moment is not None and moment < first for moment in at[part])


@given(rows=_ROWS, more=_ROWS)
def test_more_rows_move_no_row_between_fixed_dates(rows: list[Row], more: list[Row]) -> None:
    config = by_time("2013-01-12", "2013-01-07", as_of="2013-01-18")
    before, after = try_split(rows, config), try_split(rows + more, config)

    if before is not None:
        assert after is not None
        assert after.parts[: len(rows)].tolist() == before.parts.tolist()


@given(rows=_ROWS, later=st.integers(1, 24 * 10))
def test_a_later_as_of_moves_no_row_backwards_to_an_earlier_part_with_fixed_dates(rows: list[Row], later: int) -> None:
    early, late = START + 16 * DAY, START + 16 * DAY + later * DAY // 24
    before = try_split(rows, by_time("2013-01-12", "2013-01-07", as_of=to_iso(early)))
    after = try_split(rows, by_time("2013-01-12", "2013-01-07", as_of=to_iso(late)))

    if before is not None and after is not None:
        kept = before.parts != LEFT_OUT
        assert (before.parts[kept] == after.parts[kept]).all()


# splits by hash


def entities(n: int) -> tuple[pa.Table, dict[str, Any]]:
    """n rows of 40 customers in 7 shops, every 25th without a customer."""
    customer = [None if i % 25 == 0 else f"c{i * 7919 % 40}" for i in range(n)]
    table = pa.table({"id": range(n), "customer": customer, "shop": [i % 7 for i in range(n)], "_label": [1] * n})
    roles = {"key": "id", "at": False, "label": "y", "label_known_at": False}
    return table, roles


def test_entity_split_keeps_an_entity_in_one_part() -> None:
    table, roles = entities(2000)

    found = split(table, roles, by_share("entity", entity=("customer",)))

    parts: dict[str, set[int]] = {}
    for name, part in zip(table["customer"].to_pylist(), found.parts.tolist(), strict=True):
        if name is None:
            assert part == LEFT_OUT
        else:
            parts.setdefault(name, set()).add(part)
    assert all(len(part) == 1 for part in parts.values())
    assert found.info["left_out"] == {"entity_null": 80}
    assert found.info["as_of"] is None


def test_entity_of_two_columns_is_told_apart() -> None:
    columns = [pa.chunked_array([["ab", "a", "ab"]]), pa.chunked_array([["c", "bc", "c"]])]

    one, other, again = hash_share(columns, names=["x", "y"], seed=0)

    assert one == again != other


def test_hash_is_stable_across_versions_and_integer_widths() -> None:
    texts = hash_share([pa.chunked_array([["7", "8"]])], names=["k"], seed=3)

    bits = [int.from_bytes(hashlib.sha256(f"treadle split 3;1:{key}".encode()).digest()[:8]) for key in "78"]
    assert texts.tolist() == [(value >> 11) / 2**53 for value in bits]
    assert texts.tolist() == [0.9232973072679864, 0.2981739952618414]
    for kind in (pa.int16(), pa.int64()):
        numbers = pa.chunked_array([pa.array([7, 8], kind)])
        assert hash_share([numbers], names=["k"], seed=3).tolist() == texts.tolist()


def test_random_split_draws_the_shares_and_growth_moves_no_row() -> None:
    small, roles = entities(5000)
    large, _ = entities(9000)

    before = split(small, roles, by_share("random"))
    after = split(large, roles, by_share("random"))

    counts = before.info["counts"]
    assert abs(counts["test"] - 1000) < 5 * 28  # five standard deviations of a binomial draw
    assert abs(counts["validation"] - 1000) < 5 * 28
    assert after.parts[:5000].tolist() == before.parts.tolist()
    assert split(small, roles, by_share("random", seed=1)).parts.tolist() != before.parts.tolist()


def test_a_greater_test_share_only_adds_to_the_test_part() -> None:
    table, roles = entities(3000)
    small = split(table, roles, by_share("random"))
    large = split(table, roles, {**by_share("random"), "test": 0.4})

    assert (large.parts[small.parts == TEST] == TEST).all()
    assert (large.parts[small.parts == VALIDATION] == VALIDATION).all()


def test_random_split_of_a_dataset_with_time_obeys_as_of() -> None:
    table, roles = dataset(daily(400, delay=12))

    found = split(table, roles, by_share("random", as_of="2013-12-01T18:00"))

    assert found.info["as_of"] == "2013-12-01T18:00:00Z"
    assert found.info["left_out"] == {"after_as_of": 65, "label_not_known": 1}
    assert set(found.parts[:334].tolist()) == {TRAIN, VALIDATION, TEST}


def test_key_of_a_type_without_text_is_an_error() -> None:
    table, roles = entities(10)
    lists = table.append_column("tags", pa.array([[{"a": i}] for i in range(10)]))

    with pytest.raises(StepError, match='column "tags" cannot decide the part of a row'):
        split(lists, roles, by_share("entity", entity=("tags",)))


# parts that a project's function gave


def test_restricted_parts_hold_no_row_of_the_future_and_no_unknown_label() -> None:
    rows: list[Row] = [(0, 1, 1), (24, None, 25), (48, 1, None), (72, 0, 97), (96, 1, 97), (120, 0, 121), (144, 1, 999)]
    table, roles = dataset([*rows, (200, 1, 201), (6, 1, 7)])
    given = np.array([1, 1, 1, 1, 2, 3, 3, 3, 0], np.int8)

    found = restrict(table, roles, given, "2013-01-08T00:00:00Z")

    assert found.parts.tolist() == [1, 0, 0, 0, 2, 3, 0, 0, 0]
    reasons = ["", "label_null", "label_not_known", "label_known_late", "", "", "label_not_known", "after_as_of"]
    assert found.reasons.tolist() == [CODES.get(reason, 0) for reason in [*reasons, "not_given"]]
    assert found.info["as_of"] == "2013-01-08T00:00:00Z"
    assert found.info["counts"] == {"train": 1, "validation": 1, "test": 1}
    assert sum(found.info["left_out"].values()) == 6


def test_restricted_parts_take_the_newest_label_for_now() -> None:
    table, roles = dataset(daily(6, delay=6))
    given = np.array([1, 1, 2, 2, 3, 3], np.int8)
    found = restrict(table, roles, given, "newest")
    assert found.info["as_of"] == "2013-01-06T18:00:00Z"
    assert found.parts.tolist() == given.tolist()


def test_restricted_parts_that_overlap_in_time_have_no_boundary() -> None:
    table, roles = dataset(daily(6, delay=30))
    given = np.array([1, 2, 1, 2, 3, 3], np.int8)
    found = restrict(table, roles, given, "newest")
    # training and validation overlap; the test part begins after both, and the last row's label is known after it.
    assert found.parts.tolist() == [1, 2, 1, 0, 3, 3]
    assert found.info["left_out"] == {"label_known_late": 1}


def test_reasons_stand_beside_the_parts_and_count_alike() -> None:
    table, roles = dataset(daily(40, delay=30))
    found = split(table, roles, by_time("last 5d", "10d", gap_us=DAY))
    assert set(found.info["left_out"]) >= {"label_known_late", "in_gap"}
    assert {name: int((found.reasons == code).sum()) for name, code in CODES.items() if code in found.reasons} == (
        found.info["left_out"]
    )
    assert ((found.reasons != 0) == (found.parts == LEFT_OUT)).all()
