from __future__ import annotations

import os
import random
from functools import cache
from typing import Any

import asof_reference as reference
import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.errors import Location, StepError
from treadle_runtime.asof import Read, join
from treadle_runtime.columns import common_key_type

EXAMPLES = int(os.environ.get("TREADLE_TEST_EXAMPLES", "100"))
DAY = 86_400_000_000_000  # ns
BASE = 15_706 * DAY  # 2013-01-01

# arrow type -> nanoseconds a tick
TIMES: dict[pa.DataType, int] = {
    pa.date32(): DAY,
    pa.timestamp("s"): 10**9,
    pa.timestamp("ms"): 10**6,
    pa.timestamp("us"): 10**3,
    pa.timestamp("ns"): 1,
    pa.timestamp("us", tz="UTC"): 10**3,
    pa.timestamp("us", tz="America/New_York"): 10**3,
    pa.timestamp("ns", tz="UTC"): 1,
}
KEYS: dict[pa.DataType, list[Any]] = {
    pa.string(): ["a", "b", "c", "A", ""],
    pa.int64(): [0, 1, 2, -1, 2**53 + 1],
}


@cache
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def write(con: duckdb.DuckDBPyConnection, name: str, rows: list[dict[str, Any]], types: dict[str, pa.DataType]) -> None:
    """Write rows whose times are nanoseconds as a table of the given types."""
    columns = {}
    for column, kind in types.items():
        values = [row[column] for row in rows]
        if kind in TIMES:
            ticks = [None if value is None else value // TIMES[kind] for value in values]
            columns[column] = pa.array(ticks, pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
        else:
            columns[column] = pa.array(values, kind)
    con.register("arrow_input", pa.table(columns))
    con.execute(f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM arrow_input')
    con.unregister("arrow_input")


def read_rows(con: duckdb.DuckDBPyConnection, columns: list[str]) -> list[dict[str, Any]]:
    chosen = ", ".join(f'"{column}"' for column in columns)
    return con.sql(f'SELECT {chosen} FROM "out"').to_arrow_table().to_pylist()


def draw_time(rng: random.Random, kind: pa.DataType) -> int | None:
    """A few days around one midnight, and the ticks just before and after each; now and then NULL."""
    if rng.random() < 0.05:
        return None
    ticks = 0 if kind == pa.date32() else rng.choice([-1, 0, 0, 0, 1])
    return BASE + rng.randrange(5) * DAY + ticks * TIMES[kind]


def draw_table(
    rng: random.Random, prefix: str, roles: list[str], at_kind: pa.DataType
) -> tuple[Any, dict[str, pa.DataType], int | None]:
    """Return a table to read in its reference form, its types, and the ttl in us."""
    kind = rng.choice(list(KEYS))
    e_kind, k_kind = (rng.choice([at_kind, *TIMES]) for _ in "ek")
    keys = [f"key{i}" for i in range(rng.choice([1, 1, 2]))]
    static, restated = rng.random() < 0.15, rng.random() < 0.6
    event_time, known_at = (None, None) if static else ("e", "k" if restated else None)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(rng.choice([0, 1, 5, 20, 40])):
        row: dict[str, Any] = {key: None if rng.random() < 0.05 else rng.choice(KEYS[kind][:2]) for key in keys}
        row |= {"e": draw_time(rng, e_kind), "k": draw_time(rng, k_kind)}
        row["value"] = None if rng.random() < 0.15 else rng.randrange(1000)
        rows[tuple(row[column] for column in (*keys, event_time, known_at) if column)] = row
    ttl_us = rng.choice([None, 0, 1, DAY // 1000 - 1, DAY // 1000, 2 * DAY // 1000])
    suffix = "s" if kind == pa.string() else "i"
    table = reference.Table(
        rows=list(rows.values()),
        prefix=prefix,
        keys=[(key, rng.choice(roles) + suffix) for key in keys],
        columns=["value"],
        event_time=event_time,
        known_at=known_at,
        ttl_ns=None if ttl_us is None or static else ttl_us * 1000,
    )
    return table, {**dict.fromkeys(keys, kind), "e": e_kind, "k": k_kind, "value": pa.int64()}, ttl_us


def draw_spine(rng: random.Random, roles: list[str], at_kind: pa.DataType) -> list[dict[str, Any]]:
    """Return rows with two keys of each role, a moment and their number; some repeat."""
    drawn = []
    for _ in range(rng.choice([0, 1, 10, 30])):
        row: dict[str, Any] = {"t": draw_time(rng, at_kind)}
        for role in roles:
            for suffix, kind in (("s", pa.string()), ("i", pa.int64())):
                known = KEYS[kind][:2] if rng.random() < 0.9 else [*KEYS[kind], None]
                row[role + suffix] = rng.choice(known)
        drawn.append(row)
    drawn += rng.sample(drawn, k=min(5, len(drawn)))
    return [{**row, "n": n} for n, row in enumerate(drawn)]


def to_read(name: str, table: Any, ttl_us: int | None) -> Read:
    return Read(
        table=name,
        prefix=table.prefix,
        keys=tuple(table.keys),
        columns=tuple(table.columns),
        event_time=table.event_time,
        known_at=table.known_at,
        ttl_us=ttl_us,
    )


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1))
def test_join_equals_the_reference_on_random_tables(seed: int) -> None:
    rng = random.Random(seed)
    roles, at_kind = ["one", "two"], rng.choice(list(TIMES))
    spine = draw_spine(rng, roles, at_kind)
    found = [draw_table(rng, f"p{i}", roles, at_kind) for i in range(rng.choice([1, 2, 3]))]

    con = connection()
    types = {"n": pa.int64(), "t": at_kind}
    types |= {f"{role}s": pa.string() for role in roles} | {f"{role}i": pa.int64() for role in roles}
    write(con, "spine", spine, types)
    reads = []
    for i, (table, table_types, ttl_us) in enumerate(found):
        write(con, f"table {i}", table.rows, table_types)
        reads.append(to_read(f"table {i}", table, ttl_us))
    expected = reference.join(spine, "t", [table for table, _, _ in found])
    columns = ["n", *(f"{table.prefix}__value" for table, _, _ in found)]
    # Below the threshold DuckDB joins by a nested loop, a wholly different operator.
    for threshold in (64, 0):
        con.execute(f"SET asof_loop_join_threshold = {threshold}")
        con.execute('DROP TABLE IF EXISTS "out"')
        matched = join(con, spine="spine", at="t", reads=reads, into="out", provenance=threshold == 0)
        assert read_rows(con, columns) == [{column: row[column] for column in columns} for row in expected]
        assert matched == {table.prefix: reference.matches(spine, "t", table) for table, _, _ in found}


H = 3_600 * 10**9


def one(
    rows: list[tuple[Any, ...]],
    spine: list[tuple[Any, ...]],
    *,
    known: bool = False,
    ttl_us: int | None = None,
) -> list[Any]:
    """Join (key, event hour, [known hour,] value) to (key, hour) and return the values."""
    con = duckdb.connect(config={"threads": 1})
    names = ["key", "e", "k", "value"] if known else ["key", "e", "value"]
    hours = ("e", "k", "t")
    kinds = {"key": pa.string(), "value": pa.int64(), **dict.fromkeys(hours, pa.timestamp("us"))}

    def load(table: str, columns: list[str], values: list[tuple[Any, ...]]) -> None:
        found = [dict(zip(columns, row, strict=True)) for row in values]
        for row in found:
            row.update({c: BASE + row[c] * H for c in hours if row.get(c) is not None})
        write(con, table, found, {column: kinds[column] for column in columns})

    load("events", names, rows)
    load("spine", ["key", "t"], spine)
    read = Read("events", "p", (("key", "key"),), ("value",), "e", "k" if known else None, ttl_us)
    join(con, spine="spine", at="t", reads=[read], into="out")
    return [row["p__value"] for row in read_rows(con, ["p__value"])]


def test_a_row_is_seen_from_its_event_time_on() -> None:
    assert one([("a", 2, 7)], [("a", 1), ("a", 2), ("a", 3)]) == [None, 7, 7]


def test_the_ttl_includes_its_last_moment() -> None:
    assert one([("a", 2, 7)], [("a", 2), ("a", 4), ("a", 5)], ttl_us=2 * H // 1000) == [7, 7, None]


def test_a_ttl_of_zero_takes_only_the_moment_itself() -> None:
    assert one([("a", 2, 7)], [("a", 1), ("a", 2), ("a", 3)], ttl_us=0) == [None, 7, None]


def test_null_in_the_newest_row_stays_null() -> None:
    assert one([("a", 1, 7), ("a", 2, None)], [("a", 1), ("a", 2)]) == [7, None]


def test_a_restated_row_answers_from_when_it_is_known() -> None:
    rows = [("a", 1, 1, 7), ("a", 1, 4, 8)]
    assert one(rows, [("a", 1), ("a", 3), ("a", 4)], known=True) == [7, 7, 8]


def test_a_late_row_about_the_past_does_not_replace_a_newer_one() -> None:
    rows = [("a", 1, 9, 7), ("a", 5, 5, 8)]
    assert one(rows, [("a", 1), ("a", 5), ("a", 9), ("a", 20)], known=True) == [None, 8, 8, 8]


def test_a_row_known_long_after_its_event_time_can_be_too_old_at_once() -> None:
    assert one([("a", 1, 100, 7)], [("a", 2), ("a", 100)], known=True, ttl_us=10 * H // 1000) == [None, None]


def test_rows_without_event_time_or_known_at_are_never_seen() -> None:
    assert one([("a", None, 1, 7), ("a", 1, None, 8)], [("a", 50)], known=True) == [None]


def test_null_and_unknown_keys_and_null_moments_come_back_empty() -> None:
    assert one([("a", 1, 7), (None, 1, 8)], [(None, 5), ("z", 5), ("a", None), ("a", 5)]) == [
        None,
        None,
        None,
        7,
    ]


def test_repeated_spine_rows_come_back_as_often() -> None:
    assert one([("a", 1, 7)], [("a", 5), ("b", 5), ("a", 5), ("a", 5)]) == [7, None, 7, 7]


def test_an_empty_table_and_an_empty_spine() -> None:
    assert one([], [("a", 5)]) == [None]
    assert one([("a", 1, 7)], []) == []


def test_unsorted_tables_of_some_size_equal_the_reference() -> None:
    rng = random.Random(0)
    con = duckdb.connect(config={"threads": 1})
    kinds = {"airport": pa.int64(), "e": pa.timestamp("us"), "k": pa.timestamp("ns"), "value": pa.float64()}
    rows: list[dict[str, Any]] = []
    for airport in range(12):
        for e in rng.sample(range(400), 80):
            for delay in rng.sample(range(60), rng.choice([1, 1, 1, 2, 3])):
                value = None if rng.random() < 0.1 else rng.random()
                rows.append({"airport": airport, "e": BASE + e * H, "k": BASE + (e + delay) * H, "value": value})
    rng.shuffle(rows)
    spine = [
        {"origin": rng.randrange(14), "dest": rng.randrange(14), "t": BASE + rng.randrange(450) * H} for _ in range(400)
    ]
    write(con, "weather", rows, kinds)
    write(con, "spine", spine, {"origin": pa.int32(), "dest": pa.int64(), "t": pa.timestamp("us")})
    ttl_us = 30 * H // 1000
    roles = [
        reference.Table(rows, role, [("airport", role)], ["value"], "e", "k", ttl_us * 1000)
        for role in ("origin", "dest")
    ]
    reads = [to_read("weather", table, ttl_us) for table in roles]
    matched = join(con, spine="spine", at="t", reads=reads, into="out")
    columns = ["origin", "dest", "origin__value", "dest__value"]
    expected = [{c: row[c] for c in columns} for row in reference.join(spine, "t", roles)]
    assert read_rows(con, columns) == expected
    assert matched == {table.prefix: reference.matches(spine, "t", table) for table in roles}
    assert 0 < matched["origin"] < 400


@pytest.mark.parametrize("threads", [1, 4])
def test_rows_come_back_in_order_and_in_number_with_several_threads(threads: int) -> None:
    con = duckdb.connect(config={"threads": threads})
    n = 400_000
    con.execute(
        "CREATE TABLE spine AS SELECT i AS id, i * 7919 % 1000 AS k,"
        f" TIMESTAMP '2013-01-01' + to_minutes(i) AS t FROM range({n}) r(i)"
    )
    con.execute(
        "CREATE TABLE events AS SELECT i % 900 AS k, TIMESTAMP '2013-01-01' + to_hours(i // 900) AS e,"
        " i % 900 AS value FROM range(900 * 50) r(i)"
    )
    con.execute("CREATE TABLE facts AS SELECT i AS k, -i AS value FROM range(950) r(i)")
    reads = [
        Read("events", "events", (("k", "k"),), ("value",), "e", None, None),
        Read("facts", "facts", (("k", "k"),), ("value",), None, None, None),
    ]
    matched = join(con, spine="spine", at="t", reads=reads, into="out")
    checks = con.execute(
        "SELECT count(*), count(*) FILTER (id = i), count(*) FILTER (events__value = k),"
        " count(*) FILTER (facts__value = -k), count(*) FILTER (k >= 900 AND events__value IS NULL)"
        " FROM (SELECT *, row_number() OVER () - 1 AS i FROM out)"
    ).fetchone()
    assert checks == (n, n, n * 9 // 10, n * 95 // 100, n // 10)
    assert matched == {"events": n * 9 // 10, "facts": n * 95 // 100}


def test_provenance_names_the_times_of_each_value_and_keeps_their_types() -> None:
    con = duckdb.connect(config={"threads": 1})
    con.execute("CREATE TABLE spine AS SELECT 'a' AS key, TIMESTAMP '2013-01-05' AS t")
    con.execute(
        "CREATE TABLE events AS SELECT 'a' AS key, DATE '2013-01-02' AS e, 1 AS value, 5 AS event_time,"
        " TIMESTAMP_NS '2013-01-03 00:00:00.000000001' AS k"
    )
    con.execute("CREATE TABLE facts AS SELECT 'a' AS key, 2 AS value")
    reads = [
        Read("events", "p", (("key", "key"),), ("value", "event_time"), "e", "k", None),
        Read("facts", "q", (("key", "key"),), ("value",), None, None, None),
    ]
    join(con, spine="spine", at="t", reads=reads, into="out", provenance=True)
    assert [row[:2] for row in con.execute("DESCRIBE out").fetchall()] == [
        ("key", "VARCHAR"),
        ("t", "TIMESTAMP"),
        ("p__value", "INTEGER"),
        ("p__event_time", "INTEGER"),
        ("p___event_time", "DATE"),
        ("p___known_at", "TIMESTAMP_NS"),
        ("q__value", "INTEGER"),
    ]
    row = con.execute("SELECT CAST(p___event_time AS VARCHAR), CAST(p___known_at AS VARCHAR) FROM out").fetchone()
    assert row == ("2013-01-02", "2013-01-03 00:00:00.000000001")


def test_dates_beyond_the_reach_of_timestamps_are_compared() -> None:
    con = duckdb.connect(config={"threads": 1})
    con.execute("CREATE TABLE spine AS SELECT 1 AS key, TIMESTAMP '290000-01-01' AS t")
    con.execute(
        "CREATE TABLE events AS SELECT 1 AS key, * FROM"
        " (VALUES (DATE '0044-03-15 (BC)', 1), (DATE '500000-01-01', 2)) v(e, value)"
    )
    join(
        con,
        spine="spine",
        at="t",
        reads=[Read("events", "p", (("key", "key"),), ("value",), "e", None, None)],
        into="o",
    )
    assert con.execute("SELECT p__value FROM o").fetchall() == [(1,)]


def test_join_leaves_no_table_behind_but_its_own() -> None:
    con = duckdb.connect(config={"threads": 1})
    con.execute("CREATE TABLE spine AS SELECT 1 AS key")
    con.execute("CREATE TABLE facts AS SELECT 1 AS key, 2 AS value UNION ALL SELECT 1, 3")
    read = Read("facts", "p", (("key", "key"),), ("value",), None, None, None)
    with pytest.raises(StepError):
        join(con, spine="spine", at=None, reads=[read], into="out")
    assert {row[0] for row in con.execute("SHOW ALL TABLES").fetchall()} == {"memory"}
    assert {row[2] for row in con.execute("SHOW ALL TABLES").fetchall()} == {"spine", "facts"}


def fail(spine: str, table: str, read: Read, *, at: str | None = "t") -> str:
    con = duckdb.connect(config={"threads": 1})
    con.execute(f"CREATE TABLE flights AS {spine}")
    con.execute(f"CREATE TABLE weather AS {table}")
    with pytest.raises(StepError) as caught:
        join(con, spine="flights", at=at, reads=[read], into="out", where=Location("models/a.yml", 3))
    return str(caught.value)


WEATHER = Read("weather", "weather", (("airport", "origin"),), ("wind",), "hour", None, None)
FLIGHTS = "SELECT 'EWR' AS origin, TIMESTAMP '2013-01-01' AS t"
HOURS = "SELECT 'EWR' AS airport, TIMESTAMP '2013-01-01' AS hour, 1.0 AS wind"


def test_missing_column_error_lists_the_columns_and_suggests_one() -> None:
    assert fail(FLIGHTS, HOURS.replace("wind", "win"), WEATHER) == (
        'error[TR706]: "weather" has no column "wind"\n'
        "  models/a.yml:3\n"
        "  its columns: airport, hour, win\n"
        "  did you mean: win\n"
        '  fix: name one of its columns, or add "wind" to "weather"'
    )


def test_key_type_error_names_both_types() -> None:
    assert fail(FLIGHTS.replace("'EWR'", "7"), HOURS, WEATHER) == (
        'error[TR405]: rows of "flights" and "weather" cannot be matched: their keys are of two types\n'
        "  models/a.yml:3\n"
        '  "airport" of "weather" is VARCHAR, "origin" of "flights" is INTEGER\n'
        "  fix: cast one of them where it is made: cast(airport as integer) as airport"
    )


def test_time_type_error_names_the_type() -> None:
    assert fail(FLIGHTS, HOURS.replace("TIMESTAMP ", ""), WEATHER) == (
        'error[TR712]: "hour" of "weather" is no time\n'
        "  models/a.yml:3\n"
        "  it is VARCHAR; a time is a DATE or a TIMESTAMP\n"
        "  fix: cast it where it is made: cast(hour as timestamp) as hour"
    )


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_NS", "TIMESTAMPTZ", "TIMESTAMPTZ_NS"])
def test_infinite_time_error_shows_the_value(kind: str) -> None:
    assert fail(FLIGHTS, HOURS.replace("TIMESTAMP '2013-01-01'", f"'infinity'::{kind}"), WEATHER) == (
        'error[TR712]: "hour" of "weather" holds an infinite time\n'
        "  models/a.yml:3\n"
        "  infinity is neither before nor after the moment of a row\n"
        "  fix: write NULL for it: case when isfinite(hour) then hour end as hour"
    )


def test_infinite_moment_of_the_spine_is_an_error() -> None:
    assert '"t" of "flights" holds an infinite time' in fail(FLIGHTS.replace("2013-01-01", "-infinity"), HOURS, WEATHER)


def test_equal_rows_of_a_state_table_are_an_error_with_three_examples() -> None:
    rows = "SELECT unnest(['D', 'A', 'C', 'B', 'E']) AS airport, TIMESTAMP '2013-01-01' AS hour, 1 AS wind"
    assert fail(FLIGHTS, f"{rows} UNION ALL {rows}", WEATHER) == (
        'error[TR705]: "weather" has several rows for one entity at one time\n'
        "  models/a.yml:3\n"
        "  airport A, hour 2013-01-01 00:00:00: 2 rows\n"
        "  airport B, hour 2013-01-01 00:00:00: 2 rows\n"
        "  airport C, hour 2013-01-01 00:00:00: 2 rows\n"
        "  fix: keep one of them, or tell the later one apart by its known_at"
    )


def test_repeated_key_of_a_static_table_is_an_error_with_examples() -> None:
    read = Read("weather", "weather", (("airport", "origin"),), ("wind",), None, None, None)
    assert fail(FLIGHTS, f"{HOURS} UNION ALL {HOURS} UNION ALL {HOURS}", read) == (
        'error[TR704]: "weather" is static and has several rows for one key\n'
        "  models/a.yml:3\n"
        "  airport EWR: 3 rows\n"
        "  fix: keep one row for each airport, or give the table an event_time"
    )


def test_rows_with_null_keys_may_repeat() -> None:
    assert one([(None, 1, 7), (None, 1, 8), ("a", 1, 9)], [("a", 2)]) == [9]


def test_colliding_columns_are_an_error() -> None:
    assert fail(FLIGHTS + ", 1 AS WEATHER__wind", HOURS, WEATHER) == (
        'error[TR102]: two columns would both be named "weather__wind"\n'
        "  models/a.yml:3\n"
        "  a feature's columns are named prefix__column beside those of the rows\n"
        "  fix: give the feature another prefix with `as:`, or rename the column"
    )


def test_a_timed_table_without_a_moment_is_an_error() -> None:
    assert fail(FLIGHTS, HOURS, WEATHER, at=None) == (
        'error[TR402]: "weather" changes over time, and the dataset does not say when it predicts\n'
        "  models/a.yml:3\n"
        '  its rows are true from "hour" on\n'
        "  fix: add `at` to the dataset: the moment of prediction"
    )


def test_all_errors_of_a_join_are_told_at_once() -> None:
    text = fail(FLIGHTS.replace("'EWR'", "7"), "SELECT 'EWR' AS airport, 'x' AS hour", WEATHER)
    assert [line[6:11] for line in text.splitlines() if line.startswith("error")] == [
        "TR706",
        "TR405",
        "TR712",
    ]


@pytest.mark.parametrize(
    ("one_type", "other", "common"),
    [
        ("INTEGER", "BIGINT", "BIGINT"),
        ("UBIGINT", "INTEGER", "HUGEINT"),
        ("UHUGEINT", "HUGEINT", "HUGEINT"),
        ("FLOAT", "DOUBLE", "DOUBLE"),
        ("ENUM('a', 'b')", "VARCHAR", "VARCHAR"),
        ("UUID", "UUID", "UUID"),
        ("INTEGER", "DOUBLE", None),
        ("VARCHAR", "INTEGER", None),
        ("DATE", "TIMESTAMP", None),
        ("DECIMAL(18,2)", "DECIMAL(18,3)", None),
    ],
)
def test_keys_match_without_a_lossy_cast(one_type: str, other: str, common: str | None) -> None:
    assert common_key_type(one_type, other) == common
    assert common_key_type(other, one_type) == common


def test_a_key_beyond_the_reach_of_the_other_type_matches_nothing() -> None:
    con = duckdb.connect(config={"threads": 1})
    con.execute(
        "CREATE TABLE spine AS SELECT unnest(['340282366920938463463374607431768211455', '5'])::UHUGEINT AS key"
    )
    con.execute("CREATE TABLE facts AS SELECT unnest([-1, 5]::HUGEINT[]) AS key, 9 AS value")
    read = Read("facts", "p", (("key", "key"),), ("value",), None, None, None)
    join(con, spine="spine", at=None, reads=[read], into="out")
    assert con.execute("SELECT p__value FROM out").fetchall() == [(None,), (9,)]
