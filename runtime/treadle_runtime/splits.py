"""Splits: which rows of a dataset train, validate and test a model, and which are left out and why.

    as_of -> bounds or shares -> a part for every row -> rows left out, each with one reason

By time, the parts are half-open: training before `validation`, validation up to `test`, the test part from
there to as_of, both ends included. Dates are UTC midnights. A row trains, or validates, only if its label was
known before the next part begins, less the gap. "Begins" is the part's bound, not its first row: the bound is
never later than that row, so it is the stricter of the two, and rows that arrive later cannot move it.

By entity and at random, a row's part is a pure function of its key, the seed and the shares: rows that arrive
later move no other row, and a greater test share only adds to the test part.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from treadle.errors import Problem, StepError
from treadle.names import parse_duration_us

if TYPE_CHECKING:
    from collections.abc import Mapping

LEFT_OUT, TRAIN, VALIDATION, TEST = 0, 1, 2, 3
PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}

REASONS = {
    "at_null": "the moment of prediction is NULL",
    "after_as_of": "the moment of prediction is after as_of",
    "label_null": "label is NULL",
    "label_not_known": "label not known by as_of",
    "label_known_late": "label known only after the next part begins",
    "in_gap": "label known within the gap before the next part",
    "entity_null": "the entity's key is NULL",
    "not_given": "the project's function gave no part",
}
CODES = {reason: code for code, reason in enumerate(REASONS, start=1)}
"""Reason -> what stands for it in `Split.reasons`; 0 is none."""

BOUNDARY = ("label_known_late", "in_gap")
"""Reasons that hold only as long as a later part is to be predicted: a refit takes these rows."""

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """The parts of a dataset's rows.

    Attributes:
        parts: int8 of shape (n,), in the order of the dataset: 0 left out, 1 train, 2 validation, 3 test.
        reasons: int8 of shape (n,): why a row is left out, one of `CODES`; 0 for a row that has a part.
        info: JSON: `by`, `as_of` (ISO 8601, UTC; None without time), `counts` per part, `left_out` per reason
            (keys of `REASONS`), `bounds` (by time: where validation and test begin, and as_of).
    """

    parts: npt.NDArray[np.int8]
    reasons: npt.NDArray[np.int8]
    info: dict[str, Any]


@dataclass
class _Rows:
    """What a split looks at, times as int64 microseconds since 1970 UTC.

    `parts` and `reasons` are filled in on the way.
    """

    at: Int64 | None
    has_at: Bool
    known_at: Int64 | None
    is_known: Bool
    labelled: Bool
    parts: npt.NDArray[np.int8]
    reasons: npt.NDArray[np.int8]

    def drop(self, rows: Bool, reason: str) -> None:
        """Leave out those of `rows` that still belong to a part, for a reason of `REASONS`."""
        dropped = rows & (self.parts != LEFT_OUT)
        self.parts[dropped] = LEFT_OUT
        self.reasons[dropped] = CODES[reason]

    def count(self) -> dict[str, dict[str, int]]:
        """Return `counts` per part and `left_out` per reason that occurs."""
        left_out = {reason: int((self.reasons == code).sum()) for reason, code in CODES.items()}
        return {
            "counts": {name: int((self.parts == part).sum()) for name, part in PARTS.items()},
            "left_out": {reason: n for reason, n in left_out.items() if n},
        }


def split(table: pa.Table, roles: Mapping[str, Any], config: Mapping[str, Any]) -> Split:
    """Assign every row of a dataset to a part.

    Args:
        table: a dataset (key column, `_at`, `_label`, `_label_known_at`, context, inputs).
        roles: the dataset's roles: `key`, `at`, `label`, `label_known_at`.
        config: `by` (time, entity, random), `test`, `validation`, `entity_columns`, `gap_us`, `seed` and
            `as_of` (ISO 8601, or `newest`: the newest known_at of a label, or the newest `at` where labels
            have none).

    Returns:
        the parts and what to tell about them.

    Raises:
        StepError: TR707, a part is empty; TR507, the split does not fit the dataset; TR712, a key cannot be
            hashed.
    """
    rows = _read_rows(table, roles)
    as_of = _resolve_as_of(rows, str(config.get("as_of") or "newest"))
    bounds: dict[str, Any] = {}
    if config["by"] == "time":
        test, validation = _time_bounds(config, as_of, rows)
        bounds = {"validation": to_iso(validation), "test": to_iso(test), "as_of": to_iso(as_of or 0)}
        _drop_unusable(rows, as_of)
        _assign_by_time(rows, validation, test, int(config.get("gap_us") or 0))
    else:
        bounds = {"test_share": float(config["test"]), "validation_share": float(config["validation"])}
        _drop_unusable(rows, as_of)
        _assign_by_hash(rows, table, roles, config)
    info = {"by": config["by"], "as_of": None if as_of is None else to_iso(as_of), **rows.count(), "bounds": bounds}
    _check_parts(info, rows)
    return Split(rows.parts, rows.reasons, info)


def restrict(table: pa.Table, roles: Mapping[str, Any], given: npt.NDArray[np.int8], as_of: str) -> Split:
    """Leave out of given parts what no part may hold: the rules of `split` for parts that a function made.

    Of two parts that follow each other in time, the earlier holds no row whose label was known only after the
    later began. Parts that overlap in time have no such bound.

    Args:
        table, roles: a dataset and its roles, as for `split`.
        given: int8 of shape (n,): the part of every row; `LEFT_OUT` where it was given none.
        as_of: ISO 8601, or `newest`.

    Returns:
        the parts that remain, any of which may be empty; `by` is `own` and there are no `bounds`.
    """
    rows = _read_rows(table, roles)
    moment = _resolve_as_of(rows, as_of)
    rows.drop(given == LEFT_OUT, "not_given")
    rows.parts[given != LEFT_OUT] = given[given != LEFT_OUT]
    _drop_unusable(rows, moment)
    if rows.at is not None:
        _drop_known_late(rows, rows.at)
    info = {"by": "own", "as_of": None if moment is None else to_iso(moment), **rows.count(), "bounds": {}}
    return Split(rows.parts, rows.reasons, info)


def to_table(found: Split) -> pa.Table:
    """Return the table of parts.arrow: `part` and `left_out`, the code of the reason, a row per row of the dataset."""
    return pa.table({"part": found.parts, "left_out": found.reasons})


def to_iso(us: int) -> str:
    """Return microseconds since 1970 UTC as ISO 8601 with Z, such as 2013-11-01T00:00:00Z."""
    moment = np.datetime64(us, "us")
    return str(moment.astype("datetime64[s]") if us % 1_000_000 == 0 else moment) + "Z"


def from_iso(text: str) -> int:
    """Return a date (its UTC midnight) or a moment (UTC unless it has an offset) in microseconds since 1970.

    Raises:
        ValueError: `text` is neither.
    """
    moment = datetime.fromisoformat(text.strip())
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return int(np.datetime64(moment, "us").astype(np.int64))


def _read_rows(table: pa.Table, roles: Mapping[str, Any]) -> _Rows:
    everyone = np.ones(table.num_rows, bool)
    at, has_at = _read_times(table, "_at") if roles.get("at") else (None, everyone)
    known_at, is_known = _read_times(table, "_label_known_at") if roles.get("label_known_at") else (None, everyone)
    labelled = _is_valid(table.column("_label")) if roles.get("label") is not None else everyone
    parts = np.full(table.num_rows, TRAIN, np.int8)
    return _Rows(at, has_at, known_at, is_known, labelled, parts, np.zeros(table.num_rows, np.int8))


def _read_times(table: pa.Table, name: str) -> tuple[Int64, Bool]:
    column = table.column(name)
    us = pc.fill_null(pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64()), 0)
    return us.to_numpy().astype(np.int64, copy=False), _is_valid(column)


def _is_valid(column: pa.ChunkedArray) -> Bool:
    valid: Bool = column.is_valid().to_numpy().astype(bool, copy=False)
    return valid


def _resolve_as_of(rows: _Rows, as_of: str) -> int | None:
    if as_of != "newest":
        return _read_moment(as_of, "as_of")
    if rows.known_at is not None and (found := rows.labelled & rows.is_known).any():
        return int(rows.known_at[found].max())
    if rows.at is not None and rows.has_at.any():
        return int(rows.at[rows.has_at].max())
    return None


def _time_bounds(config: Mapping[str, Any], as_of: int | None, rows: _Rows) -> tuple[int, int]:
    """Return where test and validation begin, in microseconds since 1970 UTC."""
    if rows.at is None:
        raise StepError(
            Problem(
                "TR507",
                "a split by time needs a dataset with `at`",
                why="this dataset does not say when it predicts",
                fix="give the dataset `at`, or split `by: random` or `by: entity`",
            )
        )
    if as_of is None:
        raise StepError(
            Problem(
                "TR707",
                "there is nothing to split: no row has a moment of prediction",
                why=f"the dataset has {len(rows.parts)} rows",
                fix="look at the dataset's `rows` and `at`",
            )
        )
    test_text, validation_text = str(config["test"]), str(config["validation"])
    if test_text.startswith("last "):
        test = as_of - parse_duration_us(test_text.removeprefix("last "))
    else:
        test = _read_moment(test_text, "test")
    if _is_date(validation_text):
        validation = _read_moment(validation_text, "validation")
    else:
        validation = test - parse_duration_us(validation_text)
    if validation >= test:
        raise StepError(
            Problem(
                "TR507",
                "the validation part of the split begins after the test part",
                why=f"validation begins at {to_iso(validation)}, test at {to_iso(test)}",
                fix="write an earlier `validation`, or a duration such as 60d",
            )
        )
    return test, validation


def _read_moment(text: str, name: str) -> int:
    try:
        return from_iso(text)
    except ValueError as error:
        why = f"{text!r} is no date and no moment: {error}"
        fix = "write it as 2013-11-01 or 2013-11-01T06:00:00Z"
        raise StepError(Problem("TR507", f"`{name}` of the split cannot be read", why=why, fix=fix)) from error


def _is_date(text: str) -> bool:
    return len(text) >= 10 and text[4] == text[7] == "-"


def _drop_unusable(rows: _Rows, as_of: int | None) -> None:
    """Leave out the rows that no part may hold, whatever the split."""
    rows.drop(~rows.has_at, "at_null")
    if rows.at is not None and as_of is not None:
        rows.drop(rows.at > as_of, "after_as_of")
    rows.drop(~rows.labelled, "label_null")
    rows.drop(~rows.is_known, "label_not_known")
    if rows.known_at is not None and as_of is not None:
        rows.drop(rows.known_at > as_of, "label_not_known")


def _drop_known_late(rows: _Rows, at: Int64) -> None:
    """Leave out of each part the labels known only after a part begins that lies wholly later."""
    known = at if rows.known_at is None else np.maximum(at, rows.known_at)
    times = {part: at[rows.parts == part] for part in PARTS.values()}
    for part, later in ((TRAIN, VALIDATION), (TRAIN, TEST), (VALIDATION, TEST)):
        if len(times[part]) and len(times[later]) and times[part].max() < (begins := times[later].min()):
            rows.drop((rows.parts == part) & (known >= begins), "label_known_late")


def _assign_by_time(rows: _Rows, validation: int, test: int, gap: int) -> None:
    if rows.at is None:
        return
    # A label counts as known at `at` where the dataset says nothing else: the gap then stands for its delay.
    known = rows.at if rows.known_at is None else np.maximum(rows.at, rows.known_at)
    stays = rows.parts != LEFT_OUT
    rows.parts[stays & (rows.at >= validation)] = VALIDATION
    rows.parts[stays & (rows.at >= test)] = TEST
    for part, end in ((TRAIN, validation), (VALIDATION, test)):
        inside = rows.parts == part
        rows.drop(inside & (known >= end), "label_known_late")
        rows.drop(inside & (known >= end - gap), "in_gap")


def _assign_by_hash(rows: _Rows, table: pa.Table, roles: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    by_entity = config["by"] == "entity"
    names: list[str] = list(config.get("entity_columns") or ()) if by_entity else [str(roles["key"])]
    if by_entity:
        for name in names:
            # Rows without a key may be one entity: in two parts they would leak, in one they would be a lump.
            rows.drop(~_is_valid(table.column(name)), "entity_null")
    share = hash_share([table.column(name) for name in names], names=names, seed=int(config.get("seed") or 0))
    stays = rows.parts != LEFT_OUT
    rows.parts[stays & (share >= 1.0 - float(config["validation"]))] = VALIDATION
    rows.parts[stays & (share < float(config["test"]))] = TEST


def hash_share(columns: list[pa.ChunkedArray], *, names: list[str], seed: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) per row that depends on the row's values and the seed alone.

    The values are hashed as text (SHA-256), so that 7 as INTEGER and 7 as BIGINT fall into one part.

    Args:
        columns: one or more columns of length n.
        names: their names, for errors.
        seed: another seed, another draw.

    Returns:
        float64 of shape (n,).
    """
    texts = [_to_texts(column, name) for column, name in zip(columns, names, strict=True)]
    start = hashlib.sha256(f"treadle split {seed};".encode())
    digests = bytearray()
    for values in zip(*texts, strict=True):
        digest = start.copy()
        for value in values:
            # The length in front keeps ("ab", "c") and ("a", "bc") apart.
            digest.update(f"{len(value)}:{value}".encode())
        digests += digest.digest()[:8]
    bits = np.frombuffer(bytes(digests), dtype=">u8")
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _to_texts(column: pa.ChunkedArray, name: str) -> list[str]:
    try:
        return [value or "" for value in pc.cast(column, pa.string()).to_pylist()]
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise StepError(
            Problem(
                "TR712",
                f'column "{name}" cannot decide the part of a row',
                why=f"its type is {column.type}",
                fix="use a key of numbers, text, dates or times",
            )
        ) from error


def _check_parts(info: Mapping[str, Any], rows: _Rows) -> None:
    empty = [name for name, count in info["counts"].items() if count == 0]
    if not empty:
        return
    lines = []
    if info["by"] == "time":
        bounds = info["bounds"]
        begins = f"validation begins at {bounds['validation']}, test at {bounds['test']}"
        lines.append(f"{begins}, as_of is {bounds['as_of']}")
    if rows.at is not None and rows.has_at.any():
        times = rows.at[rows.has_at]
        lines.append(f"`at` of the dataset runs from {to_iso(int(times.min()))} to {to_iso(int(times.max()))}")
    counts = [f"{count} {name}" for name, count in info["counts"].items()]
    lines.append(f"of {len(rows.parts)} rows: {', '.join(counts)}")
    lines += [f"left out, {REASONS[reason]}: {count}" for reason, count in info["left_out"].items()]
    which = " and the ".join(empty)
    plural = "parts" if len(empty) > 1 else "part"
    verb = "are" if len(empty) > 1 else "is"
    raise StepError(
        Problem(
            "TR707",
            f"the {which} {plural} of the split {verb} empty",
            why="\n".join(lines),
            fix="change `test` and `validation` of the pipeline's `split`, or bring more rows",
        )
    )
