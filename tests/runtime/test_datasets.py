from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pytest

from treadle.errors import Location, StepError, TreadleError, UsageError
from treadle_runtime.arrowfile import BATCH_ROWS, map_arrow_file, write_arrow_file
from treadle_runtime.datasets import build

if TYPE_CHECKING:
    from pathlib import Path

FLIGHTS = """
    SELECT * FROM (VALUES
        (3, 'UA', 'EWR', TIMESTAMP '2013-01-02 10:00:00', 10, true,  TIMESTAMP '2013-01-02 12:30:00'),
        (1, 'UA', 'JFK', TIMESTAMP '2013-01-01 10:00:00', 10, false, TIMESTAMP '2013-01-01 11:30:00'),
        (2, 'AA', 'EWR', TIMESTAMP '2013-01-01 10:00:00', 10, NULL,  NULL),
        (4, 'ZZ', 'LGA', NULL, NULL, false, TIMESTAMP '2013-01-03 11:30:00')
    ) v(flight_id, carrier, origin, departure, hour, is_late, arrived_at)"""
WEATHER = """
    SELECT * FROM (VALUES
        ('EWR', TIMESTAMP '2013-01-01 08:00:00', 5.0, 9),
        ('EWR', TIMESTAMP '2013-01-02 07:00:00', 7.0, NULL),
        ('EWR', TIMESTAMP '2013-01-02 09:00:00', 99.0, 99),
        ('JFK', TIMESTAMP '2013-01-01 09:00:00', 88.0, 88)
    ) v(airport, hour, wind, visibility)"""
CARRIERS = "SELECT * FROM (VALUES ('UA', 2.5::DECIMAL(4,1)), ('AA', 3.5)) v(carrier, size)"
WHERE = Location("models/arrivals.yml", 2, text="- name: arrivals")


def config(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rows": "flights",
        "key": "flight_id",
        "columns": ["hour"],
        "keep": ["carrier"],
        "at": "departure - interval 2 hours",
        "label": {"column": "is_late", "known_at": "arrived_at"},
        "features": [weather()],
    }
    return found | changes


def weather(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "feature": "weather",
        "prefix": "weather",
        "keys": [["airport", "origin"]],
        "columns": [],
        "event_time": "hour",
        "known_at": None,
        "static": False,
        "ttl_us": None,
    }
    return found | changes


SIZE: dict[str, Any] = {
    "feature": "carriers",
    "prefix": "size",
    "keys": [["carrier", "carrier"]],
    "columns": ["size"],
    "event_time": None,
    "known_at": None,
    "static": True,
    "ttl_us": None,
}


def connect(**tables: str) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": 1})
    for name, query in {"flights": FLIGHTS, "weather": WEATHER, "carriers": CARRIERS, **tables}.items():
        con.execute(f'CREATE VIEW "{name}" AS {query}')
    return con


def fail(changes: dict[str, Any] | None = None, **tables: str) -> str:
    with pytest.raises(StepError) as caught:
        build(connect(**tables), config(**(changes or {})), name="arrivals", where=WHERE)
    return str(caught.value)


def test_dataset_holds_key_time_label_context_and_inputs_by_time_and_key() -> None:
    found = build(connect(), config(features=[weather(), SIZE]), name="arrivals", where=WHERE)
    day = datetime(2013, 1, 1)
    assert found.table.to_pydict() == {
        "flight_id": [1, 2, 3, 4],
        "_at": [*[day + timedelta(hours=8)] * 2, day + timedelta(days=1, hours=8), None],
        "_label": [False, None, True, False],
        "_label_known_at": [
            day + timedelta(hours=11.5),
            None,
            day + timedelta(days=1, hours=12.5),
            day + timedelta(days=2, hours=11.5),
        ],
        "carrier": ["UA", "AA", "UA", "ZZ"],
        "origin": ["JFK", "EWR", "EWR", "LGA"],
        "hour": [10, 10, 10, None],
        "weather__wind": [None, 5.0, 7.0, None],
        "weather__visibility": [None, 9, None, None],
        "size__size": [2.5, 3.5, 2.5, None],
    }
    assert found.table.schema.field("_at").type == pa.timestamp("us")
    assert found.table.schema.field("size__size").type == pa.float64()
    assert found.info == {
        "roles": {
            "key": "flight_id",
            "at": True,
            "label": "is_late",
            "label_known_at": True,
            "inputs": ["hour", "weather__wind", "weather__visibility", "size__size"],
            "context": ["carrier", "origin"],
        },
        "rows_in": 4,
        "label_null": 1,
        "at_null": 1,
        "features": {"weather": 2, "size": 3},
    }


def test_dataset_without_time_and_label_is_ordered_by_key() -> None:
    changes = {"at": None, "label": None, "features": [SIZE], "keep": []}
    found = build(connect(), config(**changes), name="arrivals", where=WHERE)
    assert found.table.column_names == ["flight_id", "carrier", "hour", "size__size"]
    assert found.table["flight_id"].to_pylist() == [1, 2, 3, 4]
    assert found.info["roles"]["at"] is False
    assert found.info["roles"]["label"] is None
    assert found.info["label_null"] == 0


def test_a_column_that_is_kept_and_an_input_is_stored_once() -> None:
    found = build(connect(), config(columns=["hour", "carrier"]), name="arrivals", where=WHERE)
    assert found.table.column_names.count("carrier") == 1
    assert found.info["roles"]["inputs"][:2] == ["hour", "carrier"]
    assert found.info["roles"]["context"] == ["carrier", "origin"]


def test_a_feature_is_read_in_two_roles() -> None:
    rows = FLIGHTS.replace("SELECT *", "SELECT *, 'EWR' AS dest")
    uses = [weather(prefix="here"), weather(prefix="there", keys=[["airport", "dest"]], columns=["wind"])]
    found = build(connect(flights=rows), config(features=uses), name="arrivals", where=WHERE)
    assert found.table["here__wind"].to_pylist() == [None, 5.0, 7.0, None]
    assert found.table["there__wind"].to_pylist() == [5.0, 5.0, 7.0, None]


def test_a_value_older_than_the_ttl_is_not_taken() -> None:
    uses = [weather(ttl_us=3_600_000_000)]
    assert build(connect(), config(features=uses), name="a", where=None).info["features"] == {"weather": 2}
    uses = [weather(ttl_us=3_599_999_999)]
    assert build(connect(), config(features=uses), name="a", where=None).info["features"] == {"weather": 1}


def test_types_become_numbers_booleans_and_strings() -> None:
    rows = """SELECT 1::HUGEINT AS id, 2::HUGEINT AS big, 1.5::DECIMAL(9,2) AS dec,
        'x'::ENUM('x', 'y') AS word, true AS yes,
        1::UTINYINT AS small, 1.5::FLOAT AS f, 9::HUGEINT AS total, uuid() AS kept,
        TIMESTAMPTZ '2013-01-01 00:00:00+02' AS moment, 7.25::DECIMAL(9,2) AS price"""
    changes = {
        "key": "id",
        "columns": ["big", "dec", "word", "yes", "small", "f"],
        "keep": ["kept", "moment", "price"],
        "at": None,
        "label": {"column": "total", "known_at": None},
        "features": [],
    }
    table = build(connect(flights=rows), config(**changes), name="arrivals", where=WHERE).table
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "int64",
        "_label": "int64",
        "kept": "string",
        "moment": "timestamp[us]",
        "price": "decimal128(9, 2)",
        "big": "double",
        "dec": "double",
        "word": "string",
        "yes": "bool",
        "small": "uint8",
        "f": "float",
    }
    assert table["moment"].to_pylist() == [datetime(2012, 12, 31, 22)]


@pytest.mark.parametrize("sign", ["2013-01-01", "1969-12-31"])
def test_nanoseconds_are_compared_in_full_and_stored_without_showing_more(sign: str) -> None:
    rows = f"SELECT 1 AS id, TIMESTAMP_NS '{sign} 00:00:00.000001500' AS t, true AS y"
    facts = (
        f"SELECT 1 AS k, unnest([1, 2]) AS value, unnest([TIMESTAMP_NS '{sign} 00:00:00.000001400',"
        f" TIMESTAMP_NS '{sign} 00:00:00.000001501']) AS e"
    )
    changes = {
        "key": "id",
        "columns": [],
        "keep": [],
        "at": "t",
        "label": {"column": "y", "known_at": "t"},
        "features": [weather(feature="facts", prefix="p", keys=[["k", "id"]], event_time="e")],
    }
    table = build(connect(flights=rows, facts=facts), config(**changes), name="arrivals", where=WHERE).table
    moment = datetime.fromisoformat(sign)
    assert table.select(["_at", "_label_known_at", "p__value"]).to_pylist() == [
        {
            "_at": moment + timedelta(microseconds=1),
            "_label_known_at": moment + timedelta(microseconds=2),
            "p__value": 1,
        }
    ]


def test_one_row_comes_with_the_times_of_its_values() -> None:
    found = build(connect(), config(), name="arrivals", where=WHERE, only_key="3", provenance=True)
    assert found.table.num_rows == 1
    assert found.info["rows_in"] == 4
    names = found.info["provenance"]["weather"]
    assert names == {
        "feature": "weather",
        "columns": ["weather__wind", "weather__visibility"],
        "event_time": "weather___event_time",
        "known_at": "weather___known_at",
    }
    row = found.table.to_pylist()[0]
    assert row["weather__wind"] == 7.0
    assert row["weather___event_time"] == row["weather___known_at"] == datetime(2013, 1, 2, 7)


def test_one_row_equals_that_row_of_the_whole_dataset() -> None:
    con = connect()
    whole = build(con, config(), name="arrivals", where=WHERE).table.to_pylist()
    for key in (1, 2, 3, 4):
        part = build(con, config(), name="arrivals", where=WHERE, only_key=key).table.to_pylist()
        assert part == [row for row in whole if row["flight_id"] == key]


def test_unknown_row_error_shows_the_range_of_the_key() -> None:
    with pytest.raises(UsageError) as caught:
        build(connect(), config(), name="arrivals", where=WHERE, only_key="it's")
    assert str(caught.value) == (
        'error[TR603]: dataset "arrivals" has no row it\'s\n'
        "  models/arrivals.yml:2   - name: arrivals\n"
        "  flight_id runs from 1 to 4\n"
        "  fix: give a value of flight_id"
    )


HEAD = "\n  models/arrivals.yml:2   - name: arrivals\n"
ROWS_COLUMNS = "  its columns: flight_id, carrier, origin, departure, hour, is_late, arrived_at\n"


def test_missing_column_error() -> None:
    assert fail({"columns": ["huor"]}) == (
        f'error[TR706]: "flights" has no column "huor"{HEAD}{ROWS_COLUMNS}'
        "  did you mean: hour\n"
        '  fix: name one of its columns, or add "huor" to "flights"'
    )


def test_missing_label_error() -> None:
    assert fail({"label": {"column": "late", "known_at": None}}) == (
        f'error[TR403]: the label "late" of dataset "arrivals" is no column of "flights"{HEAD}{ROWS_COLUMNS}'
        "  did you mean: is_late\n"
        '  fix: name one of its columns, or add "late" to "flights"'
    )


def test_key_that_repeats_error_shows_three_examples() -> None:
    rows = f"SELECT * REPLACE (flight_id // 2 AS flight_id) FROM ({FLIGHTS} UNION ALL {FLIGHTS})"
    assert fail(flights=rows) == (
        f'error[TR704]: the key "flight_id" of dataset "arrivals" is not unique in "flights"{HEAD}'
        "  flight_id 0: 2 rows\n"
        "  flight_id 1: 4 rows\n"
        "  flight_id 2: 2 rows\n"
        "  fix: name a column that identifies each row, or keep one row for each value"
    )


def test_key_that_is_null_error_counts_the_rows() -> None:
    assert fail(flights=FLIGHTS.replace("(2, 'AA'", "(NULL, 'AA'")) == (
        f'error[TR704]: the key "flight_id" of dataset "arrivals" is NULL in "flights"{HEAD}'
        "  1 row has no flight_id\n"
        "  fix: name a column that identifies each row, or keep one row for each value"
    )


def test_time_expression_that_fails_error_shows_the_candidates() -> None:
    assert fail({"at": "departur - interval 2 hours"}) == (
        f'error[TR702]: `at` of dataset "arrivals" cannot be computed from the rows of "flights"{HEAD}'
        "  departur - interval 2 hours\n"
        '  Binder Error: Referenced column "departur" not found in FROM clause!\n'
        '  Candidate bindings: "departure", "carrier", "arrived_at", "is_late"\n'
        '  fix: write a SQL expression over the columns of "flights"'
    )


def test_time_expression_of_another_type_error() -> None:
    assert fail({"at": "hour + 1"}) == (
        f'error[TR712]: `at` of dataset "arrivals" is no time{HEAD}'
        "  hour + 1 is an INTEGER; a time is a DATE or a TIMESTAMP\n"
        "  fix: cast it: cast(hour + 1 as timestamp)"
    )
    assert fail({"label": {"column": "is_late", "known_at": "carrier"}}).startswith(
        'error[TR712]: `label: known_at` of dataset "arrivals" is no time'
    )


def test_infinite_time_error_shows_the_expression() -> None:
    assert fail({"at": "case when flight_id = 2 then 'infinity'::timestamp else departure end"}) == (
        f'error[TR712]: `at` of dataset "arrivals" is an infinite time for some rows{HEAD}'
        "  case when flight_id = 2 then 'infinity'::timestamp else departure end is infinity\n"
        '  fix: write NULL for it in "flights"'
    )


def test_time_expression_that_multiplies_rows_error() -> None:
    assert fail({"at": "unnest([departure, departure])"}) == (
        'error[TR702]: `at` or `known_at` of dataset "arrivals" gives more or fewer than one value for a row'
        f'{HEAD}  4 rows of "flights" became 8\n'
        "  fix: write an expression with one value for each row"
    )


def test_input_of_a_type_that_does_not_fit_errors() -> None:
    assert fail({"columns": ["departure"]}) == (
        f'error[TR712]: "departure" of "flights" is a TIMESTAMP and cannot be an input of "arrivals"{HEAD}'
        "  an input is a number, a boolean or a string\n"
        "  fix: derive a number from it in a feature, such as date_part('hour', departure), or leave it out"
    )
    assert fail(weather="SELECT 'EWR' AS airport, TIMESTAMP '2013-01-01' AS hour, [1] AS wind") == (
        f'error[TR712]: "wind" of "weather" is an INTEGER[] and cannot be an input of "arrivals"{HEAD}'
        "  an input is a number, a boolean or a string\n"
        '  fix: derive a number or a string from it in "weather", or leave it out'
    )
    assert fail(weather="SELECT 'EWR' AS airport, TIMESTAMP '2013-01-01' AS hour, uuid() AS wind") == (
        f'error[TR712]: "wind" of "weather" is a UUID and cannot be an input of "arrivals"{HEAD}'
        "  an input is a number, a boolean or a string\n"
        "  fix: cast it in a feature: cast(wind as varchar) as wind, or leave it out"
    )


def test_context_of_a_type_that_does_not_fit_error() -> None:
    assert fail({"keep": ["parts"]}, flights=FLIGHTS.replace("SELECT *", "SELECT *, [1] AS parts")) == (
        f'error[TR712]: "parts" of "flights" is an INTEGER[] and cannot be carried in "arrivals"{HEAD}'
        "  a key or column to keep is a number, a boolean, a string, a date or a timestamp\n"
        '  fix: derive a number or a string from it in "flights", or leave it out'
    )


def test_label_of_a_type_that_does_not_fit_error() -> None:
    assert fail({"label": {"column": "departure", "known_at": None}}) == (
        f'error[TR712]: the label "departure" of dataset "arrivals" is a TIMESTAMP{HEAD}'
        "  a label is a number, a boolean or a string\n"
        '  fix: make one of it in "flights"'
    )


def test_feature_key_that_the_rows_do_not_have_error() -> None:
    assert fail({"features": [weather(keys=[["airport", "airport"]])]}) == (
        f'error[TR405]: "weather" cannot be matched with "flights": "flights" has no column "airport"{HEAD}'
        f"{ROWS_COLUMNS}"
        "  fix: name the columns that match: weather: {on: {airport: <column of flights>}}"
    )


def test_feature_key_of_another_type_error_names_both_types() -> None:
    assert fail({"features": [weather(keys=[["airport", "hour"]])]}) == (
        f'error[TR405]: rows of "flights" and "weather" cannot be matched: their keys are of two types{HEAD}'
        '  "airport" of "weather" is VARCHAR, "hour" of "flights" is INTEGER\n'
        "  fix: cast one of them where it is made: cast(airport as integer) as airport"
    )


def test_feature_column_and_empty_feature_errors() -> None:
    assert fail({"features": [weather(columns=["gust"])]}) == (
        f'error[TR706]: "weather" has no column "gust"{HEAD}'
        "  its columns: airport, hour, wind, visibility\n"
        '  fix: name one of its columns, or add "gust" to "weather"'
    )
    assert fail(weather="SELECT 'EWR' AS airport, TIMESTAMP '2013-01-01' AS hour") == (
        f'error[TR706]: "weather" has no column besides its keys and times{HEAD}'
        "  its columns: airport, hour\n"
        "  fix: add the column that the dataset is to read"
    )


def test_names_that_are_taken_errors() -> None:
    assert fail({"keep": ["_at"]}, flights=FLIGHTS.replace("SELECT *", "SELECT *, 1 AS _at")) == (
        f'error[TR102]: dataset "arrivals" cannot hold a column named "_at"{HEAD}'
        "  _at, _label, _label_known_at are columns of every dataset\n"
        '  fix: rename it in "flights"'
    )
    assert 'two columns would both be named "weather__wind"' in fail({"features": [weather(), weather()]})


def test_a_column_of_the_rows_named_as_one_of_ours_may_be_used_in_expressions() -> None:
    rows = FLIGHTS.replace("SELECT *", "SELECT *, TIMESTAMP '2013-01-01' AS _at")
    changes = {
        "at": "_at - interval 1 day",
        "label": {"column": "is_late", "known_at": "_at"},
        "features": [],
    }
    table = build(connect(flights=rows), config(**changes), name="arrivals", where=WHERE).table
    assert set(table["_at"].to_pylist()) == {datetime(2012, 12, 31)}
    assert set(table["_label_known_at"].to_pylist()) == {datetime(2013, 1, 1)}


def test_all_problems_of_columns_are_told_at_once() -> None:
    with pytest.raises(StepError) as caught:
        build(
            connect(),
            config(
                columns=["huor", "departure"],
                label={"column": "late"},
                features=[weather(columns=["w"])],
            ),
            name="arrivals",
            where=WHERE,
        )
    assert [problem.code for problem in caught.value.problems] == ["TR706", "TR403", "TR712", "TR706"]


def test_a_whole_number_that_does_not_fit_is_an_error() -> None:
    rows = FLIGHTS.replace("SELECT *", "SELECT *, 170141183460469231731687303715884105727::HUGEINT AS n")
    text = fail({"label": {"column": "n", "known_at": None}}, flights=rows)
    assert text.startswith('error[TR703]: a value of dataset "arrivals" cannot be stored')
    assert "170141183460469231731687303715884105727" in text


def test_build_leaves_nothing_behind_after_success_and_error() -> None:
    con = connect()
    before = con.execute("SHOW ALL TABLES").fetchall()
    build(con, config(), name="arrivals", where=WHERE)
    with pytest.raises(TreadleError):
        build(con, config(at="'infinity'::timestamp"), name="arrivals", where=WHERE)
    assert con.execute("SHOW ALL TABLES").fetchall() == before


def test_empty_rows_give_an_empty_table_with_the_same_columns() -> None:
    full = build(connect(), config(), name="arrivals", where=WHERE).table
    empty = build(connect(flights=FLIGHTS + " WHERE false"), config(), name="arrivals", where=WHERE)
    assert empty.table.schema == full.schema
    assert empty.info["rows_in"] == 0


def test_arrow_file_comes_back_equal_and_mapped(tmp_path: Path) -> None:
    table = pa.table(
        {
            "i": pa.array([1, None, 3], pa.int32()),
            "b": pa.array([True, None, False]),
            "s": pa.array(["x", None, ""]),
            "t": pa.array([None, 5, 6], pa.timestamp("us")),
            "d": pa.array([None, math.pi, math.nan]),
        }
    )
    write_arrow_file(table, tmp_path / "data.arrow")
    before = pa.total_allocated_bytes()
    found = map_arrow_file(tmp_path / "data.arrow")
    assert pa.total_allocated_bytes() == before
    assert found.schema == table.schema
    assert str(found.to_pydict()) == str(table.to_pydict())


@pytest.mark.parametrize("n", [0, 1, BATCH_ROWS + 1])
def test_arrow_file_holds_batches_of_one_size_whatever_the_chunks(tmp_path: Path, n: int) -> None:
    table = pa.table({"i": pa.array(range(n), pa.int64())})
    chunked = pa.concat_tables([table.slice(0, n // 3), table.slice(n // 3)])
    write_arrow_file(table, tmp_path / "one.arrow")
    write_arrow_file(chunked, tmp_path / "two.arrow")
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()
    assert map_arrow_file(tmp_path / "two.arrow").equals(table)
    assert map_arrow_file(tmp_path / "two.arrow")["i"].num_chunks == -(-n // BATCH_ROWS)


def test_arrow_file_does_not_depend_on_what_stands_behind_null(tmp_path: Path) -> None:
    validity = pa.array([True, False, True]).buffers()[1]
    schema = pa.schema([("x", pa.int64())], metadata={"made": "by chance"})
    for name, hidden in (("one", 7), ("two", 8)):
        values = pa.Array.from_buffers(pa.int64(), 3, [validity, pa.array([1, hidden, 3]).buffers()[1]])
        write_arrow_file(pa.Table.from_arrays([values], schema=schema), tmp_path / f"{name}.arrow")
        schema = schema.remove_metadata()
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()


def test_two_builds_write_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_arrow_file(build(connect(), config(), name="a", where=None).table, tmp_path / f"{name}.arrow")
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "two.arrow").read_bytes()


def test_time_expression_that_fails_on_a_value_error() -> None:
    text = fail({"at": "cast(carrier as timestamp)"})
    assert text.startswith(
        'error[TR702]: `at` or `label: known_at` of dataset "arrivals" cannot be computed from the rows of'
        f' "flights"{HEAD}  cast(carrier as timestamp)\n  arrived_at\n  Conversion Error: '
    )
