"""Incremental features equal the plain query and a rebuild from nothing, and compute only what new data meets."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from treadle.errors import StoreError
from treadle.names import parse_moment_us
from treadle_runtime import attempts
from treadle_runtime.engine import view_sql
from treadle_runtime.intervals import Window, find_pieces
from treadle_runtime.store import Store
from treadle_runtime.timelimit import TimeLimit
from treadle_runtime.version import from_meta, to_meta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Built, MakeProject, ProjectFolder
    from treadle_runtime.store import Version

HEAD = "user,ts,amount"
ORDERS = "{{ ref('orders') }}"
SOURCE = """\
sources:
  - {name: orders, path: 'data/orders-*.csv', event_time: ts}
entities:
  - {name: user}
"""
CONFIG = "materialized='incremental', entity='user', event_time='ts', interval='1d'"
PLAIN = "user, ts, amount * 2 as double, upper(user) as name from {{ ref('orders') }} where amount <> 3"
DAILY = "user, date_trunc('day', ts) as ts, count(*) as n, sum(amount) as total from {{ ref('orders') }} group by all"
WINDOWED = """\
user, ts, sum(amount) over last_day as total, count(*) over last_day as n, amount from {{ ref('orders') }}
window last_day as (partition by user order by ts range between interval 24 hours preceding and current row)"""

JOINED = """\
o.user, o.ts, o.amount, count(*) as n from {{ ref('orders') }} o join {{ ref('orders') }} e
on e.user = o.user and e.ts <= o.ts and e.ts >= o.ts - interval 36 hours group by all"""


def feature(select: str, more: str = "", *, config: str = CONFIG) -> str:
    return f"{{{{ config({config}{', ' if more else ''}{more}) }}}}\nselect {select}\n"


def day_csv(day: int, rows: list[tuple[str, str, Any]]) -> str:
    lines = [f"{user},2024-01-{day:02} {time},{amount}" for user, time, amount in rows]
    return "\n".join([HEAD, *lines]) + "\n"


def some_day(day: int, *, seed: int = 0, n: int = 12) -> str:
    rng = random.Random(seed * 1_000 + day)
    moments = sorted({rng.randrange(86_400) for _ in range(n)})
    rows = [(f"u{rng.randrange(3)}", str(timedelta(seconds=at)).zfill(8), rng.randrange(100)) for at in moments]
    return day_csv(day, rows)


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    """Four days of orders, and an incremental feature over them."""
    project = make_project({"treadle.yml": "name: shop\n", "features/orders.yml": SOURCE})
    project.write("features/daily.sql", feature(DAILY))
    for day in range(1, 5):
        project.write(f"data/orders-{day:02}.csv", some_day(day))
    return project


def version(built: Built, name: str = "daily") -> Version:
    assert built.outcome.published, built.problems
    found = built.outcome.run.results[name].version
    assert found is not None
    return found


def computed(built: Built, name: str = "daily") -> tuple[int, int] | None:
    assert built.outcome.published, built.problems
    return built.outcome.run.results[name].pieces


def rows(found: Version, order: str = "") -> list[tuple[Any, ...]]:
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute("set TimeZone='UTC'")
        sql = view_sql(found, f"'{found.folder}'")
        return con.execute(f"from ({sql}) {order}").fetchall()


def digests(found: Version) -> dict[str, str]:
    return {part.name: part.digest for part in found.parts}


def rebuild(project: ProjectFolder) -> Built:
    """Build the same files in a project of their own, from nothing."""
    copy = type(project)(project.root.with_name(f"{project.root.name}-copy"))
    shutil.rmtree(copy.root, ignore_errors=True)
    shutil.copytree(project.root, copy.root, ignore=shutil.ignore_patterns(".treadle"))
    return copy.build()


def plain(project: ProjectFolder, select: str) -> list[tuple[Any, ...]]:
    """Run a query over all files at once."""
    files = sorted(str(file) for file in (project.root / "data").glob("orders-*.csv"))
    with duckdb.connect(config={"threads": 1}) as con:
        con.execute(f"create view orders as from read_csv({files})")
        if "ref('days')" in select:
            con.execute(f"create view days as from read_csv('{project.root / 'data/days.csv'}')")
        query = re.sub(r"{{ ref\('(\w+)'\) }}", r"\1", select)
        return con.execute(f"select {query} order by all").fetchall()


def add_days(project: ProjectFolder, first: str = "2023-12-30", n: int = 40) -> None:
    """Add a table without a time: some days from a first one on."""
    start = datetime.fromisoformat(first)
    lines = ["day", *(str(start + timedelta(days=n)) for n in range(n))]
    project.write("data/days.csv", "\n".join(lines) + "\n")
    project.edit("features/orders.yml", "entities:", "  - {name: days, path: data/days.csv}\nentities:")


def parts_span(found: Version) -> tuple[datetime, datetime]:
    """Return where the first interval of days begins, and where the last one ends."""
    starts = [datetime.fromisoformat(start) for start, _ in found.info["intervals"]]  # type: ignore[union-attr,misc]
    return min(starts), max(starts) + timedelta(days=1)


# what is computed


def test_one_new_day_computes_one_interval(project: ProjectFolder) -> None:
    assert computed(project.build()) == (4, 4)
    project.write("data/orders-05.csv", some_day(5))
    built = project.build()
    assert computed(built) == (1, 5)
    assert list(digests(version(built))) == [f"part-2024-01-0{day}T00-00.parquet" for day in range(1, 6)]


def test_nothing_new_computes_nothing(project: ProjectFolder) -> None:
    project.build()
    assert project.build().of("built") == set()
    assert project.reasons() == {}


def test_restated_day_computes_that_day_and_those_that_look_back_on_it(project: ProjectFolder) -> None:
    project.write("features/windowed.sql", feature(WINDOWED, "lookback='1d'"))
    project.build()
    project.write("data/orders-02.csv", some_day(2, seed=7))
    built = project.build()
    assert computed(built, "daily") == (1, 4)
    assert computed(built, "windowed") == (2, 4)


def test_late_rows_in_a_new_file_recompute_their_day(project: ProjectFolder) -> None:
    before = version(project.build())
    project.write("data/orders-99.csv", day_csv(2, [("u9", "10:00:00", 1)]))
    built = project.build()
    assert computed(built) == (1, 4)
    changed = {name for name, digest in digests(version(built)).items() if digests(before)[name] != digest}
    assert changed == {"part-2024-01-02T00-00.parquet"}


def test_changed_code_computes_all_and_a_comment_nothing(project: ProjectFolder) -> None:
    project.build()
    project.write("features/daily.sql", "-- once a day\n" + feature(DAILY))
    assert project.build().of("built") == set()
    project.write("features/daily.sql", feature(DAILY.replace("total", "sum_of_amounts")))
    assert computed(project.build()) == (4, 4)


def test_other_time_of_what_is_read_computes_all_as_a_rebuild_does(project: ProjectFolder) -> None:
    # One file, of the same two days by either time: only its rows lie elsewhere, none of them where nobody looks.
    for day in range(1, 5):
        (project.root / f"data/orders-{day:02}.csv").unlink()
    lines = [
        "user,ts,seen,amount",
        "a,2024-01-01 10:00,2024-01-01 09:00,1",
        "b,2024-01-02 10:00,2024-01-01 09:00,2",
        "c,2024-01-02 10:00,2024-01-02 09:00,3",
    ]
    project.write("data/orders-01.csv", "\n".join(lines) + "\n")
    summed = feature("user, ts, sum(amount) over (order by seen) as amount from {{ ref('orders') }}", "lookback='1d'")
    project.write("features/daily.sql", summed)
    before = version(project.build())
    project.edit("features/orders.yml", "event_time: ts", "event_time: seen")
    built = project.build()
    after = version(built)
    assert computed(built) == (2, 2)
    assert digests(after) == digests(version(rebuild(project)))
    assert before.rows == after.rows == 3


def test_history_that_comes_back_is_not_computed_again(project: ProjectFolder) -> None:
    project.build()
    project.write("data/orders-02.csv", some_day(2, seed=7))
    project.build()
    project.write("data/orders-02.csv", some_day(2))
    project.write("data/orders-05.csv", some_day(5))
    assert computed(project.build()) == (1, 5)


def test_untimed_input_that_changes_computes_all(project: ProjectFolder) -> None:
    project.write("data/rates.csv", "user,rate\nu0,2\nu1,3\nu2,5\n")
    project.edit("features/orders.yml", "entities:", "  - {name: rates, path: data/rates.csv}\nentities:")
    project.write(
        "features/daily.sql",
        feature("o.user, o.ts, amount * rate as x from {{ ref('orders') }} o join {{ ref('rates') }} using (user)"),
    )
    assert computed(project.build()) == (4, 4)
    project.write("data/orders-05.csv", some_day(5))
    assert computed(project.build()) == (1, 5)
    project.write("data/rates.csv", "user,rate\nu0,2\nu1,3\nu2,7\n")
    assert computed(project.build()) == (5, 5)


def test_incremental_features_stand_on_each_other(project: ProjectFolder) -> None:
    project.write(
        "features/weekly.sql",
        feature(
            "user, max(ts) as ts, sum(total) as total from {{ ref('daily') }} group by user",
            config=CONFIG.replace("1d", "7d"),
        ),
    )
    project.write("features/shares.sql", feature("user, ts, total / n as mean from {{ ref('daily') }}"))
    built = project.build()
    assert computed(built, "shares") == (4, 4)
    project.write("data/orders-05.csv", some_day(5))
    built = project.build()
    assert computed(built, "shares") == (1, 5)
    assert computed(built, "weekly") == (1, 2), "a week begins on Thursday, the fourth"


def test_views_between_are_part_of_the_query(project: ProjectFolder) -> None:
    project.write(
        "features/staged.sql", "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where amount > 5"
    )
    project.write("features/daily.sql", feature(DAILY.replace("orders", "staged")))
    assert computed(project.build()) == (4, 4)
    project.write("data/orders-05.csv", some_day(5))
    built = project.build()
    assert computed(built) == (1, 5)
    assert rows(version(built), "order by all") == plain(project, DAILY.replace(" group", " where amount > 5 group"))
    project.edit("features/staged.sql", "> 5", "> 6")
    assert computed(project.build()) == (5, 5)


def test_view_with_a_time_is_restricted_like_a_table(project: ProjectFolder) -> None:
    """The view moves its rows by a day: an interval sees those that lie in it now."""
    project.write(
        "features/moved.sql",
        "{{ config(materialized='view', event_time='ts') }}\nselect user, ts + interval 1 day as ts from {{ ref('orders') }}",
    )
    project.write(
        "features/seen.sql",
        feature(
            "user, date_trunc('day', max(ts)) as ts, count(*) as n, min(ts) as first from {{ ref('moved') }} group by user",
            "lookback='1d'",
        ),
    )
    found = rows(version(project.build(), "seen"), "order by all")
    assert found
    for _, ts, _, first in found:
        assert first >= ts - timedelta(days=1)


def test_begin_leaves_earlier_intervals_out_and_later_ones_as_they_are(project: ProjectFolder) -> None:
    project.write("features/daily.sql", feature(DAILY, "begin='2024-01-03'"))
    built = project.build()
    assert computed(built) == (2, 2)
    assert next(iter(digests(version(built)))) == "part-2024-01-03T00-00.parquet"
    project.write("features/daily.sql", feature(DAILY, "begin='2024-01-01'"))
    assert computed(project.build()) == (2, 4)


def test_gap_without_rows_leaves_no_part_and_is_known(project: ProjectFolder) -> None:
    project.write("data/orders-08.csv", some_day(8))
    built = project.build()
    assert computed(built) == (8, 8)
    assert len(version(built).parts) == 5
    assert len(version(built).info["intervals"]) == 8
    project.write("data/orders-09.csv", some_day(9))
    assert computed(project.build()) == (1, 9)


def test_defaults_of_a_folder_and_yaml_configure_too(make_project: MakeProject) -> None:
    project = make_project(
        {
            "treadle.yml": "name: shop\ndefaults:\n  features/daily: {materialized: incremental, interval: 1d}\n",
            "features/orders.yml": SOURCE
            + "features:\n  - {name: daily, event_time: ts, entity: user, lookback: 1d}\n",
            "features/daily/daily.sql": f"select {PLAIN}",
            "features/daily/view.sql": "{{ config(materialized='view') }} select * from {{ ref('orders') }}",
            "data/orders-01.csv": some_day(1),
        }
    )
    assert computed(project.build()) == (1, 1)


def test_dbt_habits_compile_and_the_blocks_are_left_out(project: ProjectFolder) -> None:
    block = "{% if is_incremental() %} where ts > (select max(ts) from {{ this }}) {% endif %}"
    project.write("features/daily.sql", feature("user, ts, amount from {{ ref('orders') }} " + block))
    assert version(project.build()).rows == len(plain(project, "* from orders"))


# no rows at all


def test_table_without_rows_keeps_its_columns(project: ProjectFolder) -> None:
    project.write("features/daily.sql", feature(DAILY.replace("group by all", "where amount > 1000 group by all")))
    found = version(project.build())
    assert (found.rows, len(found.parts)) == (0, 1)
    assert [column.name for column in found.columns] == ["user", "ts", "n", "total"]
    assert rows(found) == []


def test_source_without_rows_gives_a_table_without_rows(project: ProjectFolder) -> None:
    columns = ", columns: [{name: user, type: VARCHAR}, {name: ts, type: TIMESTAMP}, {name: amount, type: BIGINT}]"
    project.edit("features/orders.yml", ", event_time: ts", ", event_time: ts" + columns)
    for day in range(1, 5):
        project.write(f"data/orders-{day:02}.csv", HEAD + "\n")
    built = project.build()
    assert computed(built) == (0, 0)
    assert rows(version(built)) == []
    project.write("data/orders-02.csv", some_day(2))
    assert computed(project.build()) == (1, 1)


# equal to the plain query, and to a rebuild from nothing

SPINE = """\
coalesce(min(user), 'nobody') as user, day as ts, count(user) as n from {{ ref('days') }}
left join {{ ref('orders') }} on date_trunc('day', ts) = day group by all"""
QUERIES = {
    "plain": (PLAIN, ""),
    "spine": (SPINE, ""),
    "daily": (DAILY, ""),
    "windowed": (WINDOWED, "lookback='1d'"),
    "joined": (JOINED, "lookback='36h'"),
}


@pytest.mark.parametrize("seed", range(4))
def test_random_history_equals_the_plain_query_and_a_rebuild_after_each_step(project: ProjectFolder, seed: int) -> None:
    rng = random.Random(seed)
    add_days(project)
    for name, (select, more) in QUERIES.items():
        project.write(f"features/{name}.sql", feature(select, more))
    for step in range(4):
        kind = rng.choice(["new day", "late rows", "restated", "gone", "far", "two days in one file"])
        files = sorted((project.root / "data").glob("orders-*.csv"))
        day = max(int(file.stem[-2:]) for file in files if int(file.stem[-2:]) < 50) + 1
        if kind == "new day":
            project.write(f"data/orders-{day:02}.csv", some_day(day, seed=seed))
        elif kind == "far":
            project.write(f"data/orders-{day + 2:02}.csv", some_day(day + 2, seed=seed))
        elif kind == "late rows":
            project.write(f"data/orders-{50 + step}.csv", some_day(rng.randrange(1, 6), seed=50 + step, n=3))
        elif kind == "two days in one file":
            both = some_day(1, seed=60 + step, n=2) + some_day(3, seed=61 + step, n=2).partition("\n")[2]
            project.write(f"data/orders-{60 + step}.csv", both)
        elif kind == "restated":
            file = rng.choice(files)
            file.write_text(some_day(rng.randrange(1, 6), seed=step + 70))
        elif len(files) > 2:
            rng.choice(files).unlink()
        built = project.build(threads=1 + step % 2)
        again = rebuild(project)
        for name, (select, _) in QUERIES.items():
            found = version(built, name)
            expected = plain(project, select)
            if name == "spine":  # days beyond what is read are left out
                expected = [row for row in expected if parts_span(found)[0] <= row[1] < parts_span(found)[1]]
            assert rows(found, "order by all") == expected, (kind, name)
            assert digests(version(again, name)) == digests(found), (kind, name)
            assert version(again, name).fingerprint == found.fingerprint


def test_rows_stand_in_the_order_of_time_by_interval_and_in_total_order_within(project: ProjectFolder) -> None:
    project.write("features/daily.sql", feature(PLAIN))
    found = rows(version(project.build()))
    assert found == sorted(found, key=lambda row: (row[1].date(), row[0], row[1]))


@pytest.mark.parametrize("threads", [1, 3])
def test_bytes_do_not_depend_on_threads(project: ProjectFolder, threads: int) -> None:
    project.write("features/windowed.sql", feature(WINDOWED, "lookback='1d'"))
    found = version(project.build(threads=threads), "windowed")
    assert digests(found) == digests(version(rebuild(project), "windowed"))
    assert found.reproducible


def test_threads_of_the_engine_make_it_not_reproducible(project: ProjectFolder) -> None:
    project.write("features/daily.sql", feature(DAILY, "threads=2"))
    built = project.build(threads=2)
    assert computed(built) == (4, 4)
    assert not version(built).reproducible


# the edges of what an interval reads


@pytest.mark.parametrize(("lookback", "expected"), [("10s", 2), ("9s", 1), ("9999ms", 1), ("10001ms", 2)])
def test_lookback_reads_rows_up_to_its_length_before(project: ProjectFolder, lookback: str, expected: int) -> None:
    for day in range(1, 5):
        (project.root / f"data/orders-{day:02}.csv").unlink()
    project.write("data/orders-01.csv", day_csv(1, [("u", "23:59:50", 1)]))
    project.write("data/orders-02.csv", day_csv(2, [("u", "00:00:00", 1)]))
    project.write(
        "features/daily.sql",
        feature("user, max(ts) as ts, count(*) as n from {{ ref('orders') }} group by user", f"lookback='{lookback}'"),
    )
    assert [row[2] for row in rows(version(project.build()))] == [1, expected]


def test_row_at_the_end_belongs_to_the_next_interval(project: ProjectFolder) -> None:
    for day in range(1, 5):
        (project.root / f"data/orders-{day:02}.csv").unlink()
    project.write("data/orders-01.csv", day_csv(1, [("u", "23:59:59.999999", 1)]) + "u,2024-01-02 00:00:00,1\n")
    project.write("features/daily.sql", feature("user, ts, count(*) over () as n from {{ ref('orders') }}"))
    assert [row[2] for row in rows(version(project.build()))] == [1, 1]


def test_days_are_those_of_utc_whatever_the_zone_of_a_row(project: ProjectFolder) -> None:
    """Clocks went forward in Berlin on 2024-03-31: the interval still has 24 hours."""
    for day in range(1, 5):
        (project.root / f"data/orders-{day:02}.csv").unlink()
    lines = [
        "u,2024-03-31 00:30:00+01:00,1",
        "u,2024-03-31 03:30:00+02:00,1",
        "u,2024-04-01 01:59:59+02:00,1",
        "u,2024-04-01 02:00:00+02:00,1",
    ]
    project.write("data/orders-01.csv", "\n".join([HEAD, *lines]) + "\n")
    project.write("features/daily.sql", feature("user, ts, count(*) over () as n from {{ ref('orders') }}"))
    found = version(project.build())
    assert list(digests(found)) == [f"part-2024-{day}T00-00.parquet" for day in ("03-30", "03-31", "04-01")]
    assert [row[2] for row in rows(found)] == [1, 2, 2, 1]


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ"])
def test_every_type_of_time_can_be_read_and_written_by(project: ProjectFolder, kind: str) -> None:
    project.write(
        "features/typed.sql",
        f"{{{{ config(event_time='moment') }}}}\nselect user, cast(ts as {kind}) as moment, amount from {{{{ ref('orders') }}}}",
    )
    project.write(
        "features/daily.sql",
        feature(
            "user, moment, amount, count(*) over () as n from {{ ref('typed') }}",
            config=CONFIG.replace("'ts'", "'moment'"),
        ),
    )
    found = version(project.build())
    assert len(found.parts) == 4
    per_day = [len((project.root / f"data/orders-{day:02}.csv").read_text().splitlines()) - 1 for day in range(1, 5)]
    assert [part.rows for part in found.parts] == per_day
    assert sorted({row[3] for row in rows(found)}) == sorted(set(per_day))


def test_intervals_of_seconds(project: ProjectFolder) -> None:
    for day in range(1, 5):
        (project.root / f"data/orders-{day:02}.csv").unlink()
    project.write("data/orders-01.csv", day_csv(1, [("u", f"00:00:{s:02}", s) for s in range(0, 60, 7)]))
    project.write(
        "features/daily.sql", feature("user, ts, amount from {{ ref('orders') }}", config=CONFIG.replace("1d", "30s"))
    )
    assert list(digests(version(project.build()))) == [
        f"part-2024-01-01T00-00-{s}.000000.parquet" for s in ("00", "30")
    ]


# what fits into no interval


def problem(project: ProjectFolder) -> str:
    """Build, and return the text of why the feature failed, without its place."""
    found = project.build().problems["daily"]
    assert str(found.where) == "features/daily.sql:1"
    lines = found.to_text().splitlines()
    return "\n".join([lines[0], *lines[2:]])


def test_row_without_a_time_is_an_error_with_an_example(project: ProjectFolder) -> None:
    project.write(
        "features/daily.sql", feature("user, case when amount <> 50 then ts end as ts, amount from {{ ref('orders') }}")
    )
    project.write("data/orders-03.csv", day_csv(3, [("u1", "10:00:00", 1), ("u2", "11:00:00", 50)]))
    assert problem(project) == (
        'error[TR731]: a row of feature "daily", interval 2024-01-03 has no "ts"\n'
        "  user=u2, ts=None, amount=50\n"
        "  fix: leave such rows out of the query: where ts is not null"
    )


def test_row_at_an_infinite_time_is_an_error(project: ProjectFolder) -> None:
    project.write(
        "features/daily.sql", feature("user, 'infinity'::timestamp as ts from {{ ref('orders') }}", "lookback='1d'")
    )
    assert 'error[TR731]: a row of feature "daily", interval 2024-01-01 lies at an infinite time\n' in problem(project)


def test_row_that_no_interval_would_hold_is_an_error_without_a_lookback(project: ProjectFolder) -> None:
    project.write("features/daily.sql", feature("user, ts - interval 1 day as ts from {{ ref('orders') }}"))
    text = problem(project)
    assert 'error[TR731]: a row of feature "daily", interval 2024-01-01 lies outside of it\n' in text
    assert "it is made from rows of 2024-01-01 up to 2024-01-02, which its own interval does not read\n" in text
    assert "fix: no interval reads what lies after it" in text


RATES = "  - {name: rates, path: data/rates.csv}\nentities:"


@pytest.mark.parametrize(
    ("select", "more", "why", "fix"),
    [
        (
            "user, ts + interval 1 day as ts from {{ ref('orders') }} join {{ ref('rates') }} using (user)",
            "",
            "it is made from rows of 2024-01-01 up to 2024-01-02, which its own interval does not read",
            "set lookback to how far back an interval has to read",
        ),
        (
            "user, ts + interval 3 days as ts from {{ ref('orders') }}",
            "lookback='1d'",
            "it is made from rows of 2023-12-31 up to 2024-01-02, which its own interval does not read",
            "set lookback to how far back an interval has to read",
        ),
        (
            "user, date_trunc('month', ts) as ts, sum(amount) as total from {{ ref('orders') }} group by all",
            "lookback='1d'",
            "it is made from rows of 2024-01-02 up to 2024-01-04, which its own interval does not read",
            "no interval reads what lies after it: date a row by the newest that it is made from, or lengthen the intervals",
        ),
        (
            "'u' as user, day as ts, 'x' as x from {{ ref('days') }} union all select user, ts + interval 1 day, 'y' from {{ ref('orders') }}",
            "",
            "it is made from rows of 2024-01-01 up to 2024-01-02, which its own interval does not read",
            "set lookback to how far back an interval has to read",
        ),
    ],
    ids=["with a table without a time", "further than lookback", "a month by days", "among rows without a time"],
)  # fmt: skip
def test_row_that_no_interval_holds_is_never_lost_silently(
    project: ProjectFolder, select: str, more: str, why: str, fix: str
) -> None:
    add_days(project)
    project.write("data/rates.csv", "user,rate\nu0,2\nu1,3\nu2,5\n")
    project.edit("features/orders.yml", "entities:", RATES)
    project.write("features/daily.sql", feature(select, more))
    text = problem(project)
    assert 'error[TR731]: a row of feature "daily", interval 2024-01-0' in text
    assert "lies outside of it\n" in text
    assert f"\n  {why}\n  fix: {fix}" in text


@pytest.mark.parametrize(
    ("lookback", "last", "interval", "reads"),
    [
        ("1d", ["2024-01-02 03:00:00"], "2024-01-03", "2024-01-02 up to 2024-01-04"),
        ("2d", ["2024-01-02 03:00:00"], "2024-01-04", "2024-01-02 up to 2024-01-05"),
        ("36h", ["2024-01-02 13:00:00"], "2024-01-04", "2024-01-02T12:00 up to 2024-01-05"),
        ("2d", ["2024-01-02 03:00:00", "2024-01-03 18:00:00"], "2024-01-04", "2024-01-02 up to 2024-01-05"),
    ],
)
def test_row_of_the_newest_data_is_not_lost_until_newer_data_finds_it(
    project: ProjectFolder, lookback: str, last: list[str], interval: str, reads: str
) -> None:
    for day in range(1, 5):
        (project.root / f"data/orders-{day:02}.csv").unlink()
    project.write("data/orders-01.csv", day_csv(1, [("u", "18:00:00", 1)]))
    select = "user, ts - interval 15 hours as ts, amount from {{ ref('orders') }}"
    project.write("features/daily.sql", feature(select, f"lookback='{lookback}'"))
    assert version(project.build()).rows == 1
    project.write("data/orders-02.csv", f"{HEAD}\n" + "".join(f"v,{moment},2\n" for moment in last))
    text = problem(project)
    assert f'error[TR731]: a row of feature "daily", coming interval {interval} lies outside of it\n' in text
    assert f"\n  it is made from rows of {reads}, which its own interval does not read\n" in text
    assert "user=v, ts=2024-01-01 " in text
    project.write("data/orders-02.csv", day_csv(2, [("v", "18:00:00", 2)]))
    assert rows(version(project.build())) == [("u", datetime(2024, 1, 1, 3), 1), ("v", datetime(2024, 1, 2, 3), 2)]


def test_rows_outside_of_all_intervals_are_counted(project: ProjectFolder) -> None:
    add_days(project)
    project.write("features/daily.sql", feature(SPINE))
    built = project.build()
    assert version(built).rows == 4
    assert built.notes("daily") == (
        "2 rows before 2024-01-01 are left out: no interval lies there, unless begin is set",
        "34 rows from 2024-01-05 on are left out: the intervals end there, until newer rows are read",
    )
    project.write("features/daily.sql", feature(SPINE, "begin='2023-12-31'"))
    built = project.build()
    assert version(built).rows == 5
    assert [note.split(" are ")[0] for note in built.notes("daily")] == ["34 rows from 2024-01-05 on"]


def test_row_that_waits_for_its_interval_is_counted_until_that_is_there(project: ProjectFolder) -> None:
    for day in range(1, 5):
        (project.root / f"data/orders-{day:02}.csv").unlink()
    project.write("data/orders-01.csv", day_csv(1, [("u", "10:00:00", 1)]))
    project.write(
        "features/daily.sql", feature("user, ts + interval 1 day as ts from {{ ref('orders') }}", "lookback='1d'")
    )
    built = project.build()
    assert (version(built).rows, len(built.notes("daily"))) == (0, 1)
    assert built.notes("daily")[0].startswith("1 row from 2024-01-02 on is left out: ")
    project.write("data/orders-02.csv", day_csv(2, [("u", "11:00:00", 1)]))
    assert rows(version(project.build())) == [("u", datetime(2024, 1, 2, 10))]


def test_rows_without_any_interval_are_counted(project: ProjectFolder) -> None:
    columns = ", columns: [{name: user, type: VARCHAR}, {name: ts, type: TIMESTAMP}, {name: amount, type: BIGINT}]"
    project.edit("features/orders.yml", ", event_time: ts", ", event_time: ts" + columns)
    for day in range(1, 5):
        project.write(f"data/orders-{day:02}.csv", HEAD + "\n")
    add_days(project)
    project.write("features/daily.sql", feature(SPINE))
    built = project.build()
    assert version(built).rows == 0
    assert built.notes("daily") == (
        "40 rows are left out: no table with a time has rows, and so there are no intervals",
    )


def test_failing_query_is_told_with_its_interval(project: ProjectFolder) -> None:
    project.write("data/orders-03.csv", day_csv(3, [("u1", "10:00:00", 0)]))
    project.write(
        "features/daily.sql",
        feature("user, ts, cast(if(amount = 0, 'x', '1') as integer) as one from {{ ref('orders') }}"),
    )
    assert 'error[TR702]: SQL failed in feature "daily", interval 2024-01-03\n' in problem(project)


@pytest.mark.parametrize(
    ("select", "code", "text"),
    [
        ("user, tz from {{ ref('orders') }}", "TR702", 'Referenced column "tz" not found'),
        ("user, amount from {{ ref('orders') }}", "TR706", 'feature "daily" has no column "ts", which is its event_time'),
        ("user, ts::varchar as ts from {{ ref('orders') }}", "TR712", 'it is VARCHAR; a time is a DATE or a TIMESTAMP'),
    ],
)  # fmt: skip
def test_query_is_checked_before_any_interval(project: ProjectFolder, select: str, code: str, text: str) -> None:
    project.write("features/daily.sql", feature(select))
    found = project.build().problems["daily"]
    assert found.code == code
    assert text in found.to_text()
    assert "interval 2024" not in found.to_text()


def test_wrong_time_in_a_source_is_named(project: ProjectFolder) -> None:
    project.write("features/daily.sql", feature(PLAIN, config=CONFIG.replace("1d", "1m")))
    project.write("data/orders-05.csv", f"{HEAD}\nu1,2924-01-05 00:00:00,1\n")
    text = problem(project)
    assert 'error[TR733]: feature "daily" has too many intervals\n' in text
    assert '"orders" has rows from 2024-01-01T' in text
    assert "through 2924-01-05\n" in text
    n_minutes = (datetime(2924, 1, 5) - datetime(2024, 1, 1)) // timedelta(minutes=1)
    assert 0 <= n_minutes + 1 - int(re.search(r"would be ([\d,]+) intervals of 1m", text)[1].replace(",", "")) < 1440  # type: ignore[index]
    assert "at most 100,000 are kept" in text


@pytest.mark.parametrize("day", ["9999-12-31", "290000-01-01 (BC)"])
def test_day_beyond_the_calendar_is_named(project: ProjectFolder, day: str) -> None:
    project.write("data/orders-05.csv", f"{HEAD}\nu1,{day} 00:00:00,1\n")
    text = problem(project)
    assert 'error[TR733]: feature "daily" has too many intervals\n' in text
    assert "\n  an interval ends in the years 1 to 9999\n" in text


# rows of what is read that no interval would find


@pytest.mark.parametrize(
    ("time", "why"), [("", '2 rows without "ts"'), ("infinity", "2 rows at an infinite time")], ids=["none", "infinite"]
)
@pytest.mark.parametrize(("form", "step"), [("csv", "orders"), ("parquet", "daily")])
def test_row_of_a_source_that_no_interval_would_find_is_an_error(
    project: ProjectFolder, time: str, why: str, form: str, step: str
) -> None:
    project.write("data/orders-05.csv", f"{HEAD}\nu1,{time},1\nu1,2024-01-05 00:00:00,1\nu2,{time},2\n")
    project.edit("features/orders.yml", "event_time: ts", "event_time: ts, columns: [{name: ts, type: TIMESTAMP}]")
    if form == "parquet":
        project.edit("features/orders.yml", "csv", form)
        for file in sorted((project.root / "data").glob("*.csv")):
            select = f"select user, ts::timestamp as ts, amount from read_csv('{file}', types={{'ts': 'VARCHAR'}})"
            duckdb.sql(f"copy ({select}) to '{file.with_suffix('.parquet')}'")
    text = project.build().problems[step].to_text()
    assert text.startswith('error[TR731]: source "orders" has rows that lie in no interval\n')
    assert text.endswith(
        f"  data/orders-05.{form}: {why}\n"
        "  fix: give each a time; or read such files as a source without event_time, and filter them in a feature"
    )


@pytest.mark.parametrize(
    ("time", "why", "condition"),
    [
        ("NULL", '1 row without "moment"', "moment is not null"),
        ("'infinity'", "1 row at an infinite time", "isfinite(moment)"),
    ],
    ids=["none", "infinite"],
)
def test_row_of_a_feature_that_no_interval_would_find_is_an_error(
    project: ProjectFolder, time: str, why: str, condition: str
) -> None:
    select = f"select *, case when amount <> 1000 then ts else {time} end as moment from {ORDERS}\n"
    project.write("features/dated.sql", "{{ config(entity='user', event_time='moment') }}\n" + select)
    project.write("features/daily.sql", feature("user, moment as ts, amount from {{ ref('dated') }}"))
    built = project.build()
    assert built.outcome.published, built.problems
    project.write("data/orders-03.csv", day_csv(3, [("u1", "10:00:00", 1), ("u2", "11:00:00", 1000)]))
    assert project.build().problems["daily"].to_text() == (
        'error[TR731]: "dated" has rows that lie in no interval\n'
        f"  {why}\n"
        f"  fix: leave them out of it: where {condition}"
    )


# the schema of the inputs changes


def orders_parquet(project: ProjectFolder, day: int, **more: Any) -> None:
    start = datetime(2024, 1, day)
    columns: dict[str, Any] = {
        "user": ["u1", "u2"],
        "ts": [start, start + timedelta(hours=5)],
        "amount": [day, day + 1],
        **more,
    }
    file = project.root / f"data/orders-{day:02}.parquet"
    pq.write_table(pa.table(columns), file)


@pytest.fixture
def parquet(make_project: MakeProject) -> ProjectFolder:
    """Orders as Parquet files that are read where they lie, and a feature of all their columns."""
    project = make_project({"treadle.yml": "name: shop\n", "features/orders.yml": SOURCE.replace("csv", "parquet")})
    (project.root / "data").mkdir()
    for day in range(1, 4):
        orders_parquet(project, day)
    project.write("features/daily.sql", feature("* from {{ ref('orders') }}"))
    return project


def test_parquet_source_is_read_where_it_lies_by_the_files_that_are_needed(parquet: ProjectFolder) -> None:
    assert computed(parquet.build()) == (3, 3)
    orders_parquet(parquet, 4)
    assert computed(parquet.build()) == (1, 4)
    orders_parquet(parquet, 2, amount=[5, 6])
    built = parquet.build()
    assert computed(built) == (1, 4)
    assert [row[2] for row in rows(version(built))] == [1, 2, 5, 6, 3, 4, 4, 5]


def test_parquet_file_with_a_declared_type_is_read_by_its_cast_times(parquet: ProjectFolder) -> None:
    parquet.edit("features/orders.yml", "event_time: ts}", "event_time: ts, columns: [{name: ts, type: TIMESTAMP}]}")
    for day in range(1, 4):
        orders_parquet(parquet, day, ts=[f"2024-01-{day:02} 00:00:00", f"2024-01-{day:02} 05:00:00"])
    assert computed(parquet.build()) == (3, 3)
    orders_parquet(parquet, 4, ts=["2024-01-04 00:00:00", "2024-01-04 05:00:00"])
    assert computed(parquet.build()) == (1, 4)


def test_rebuild_computes_all_when_an_input_has_other_columns(parquet: ProjectFolder) -> None:
    parquet.build()
    orders_parquet(parquet, 4, note=["x", "y"])
    built = parquet.build()
    assert computed(built) == (4, 4)
    assert [column.name for column in version(built).columns] == ["user", "ts", "amount", "note"]
    assert [row[3] for row in rows(version(built))] == [None] * 6 + ["x", "y"]


def test_fail_says_which_intervals_differ_in_which_columns(parquet: ProjectFolder) -> None:
    parquet.write("features/daily.sql", feature("* from {{ ref('orders') }}", "on_schema_change='fail'"))
    parquet.build()
    orders_parquet(parquet, 4, note=["x", "y"])
    assert problem(parquet) == (
        'error[TR732]: the intervals of feature "daily" differ in their columns\n'
        '  2024-01-04 has "note" besides, compared with 2024-01-01\n'
        "  fix: set on_schema_change='rebuild' (compute all again) or 'append' (NULL where a column is missing)"
    )


def test_append_keeps_old_intervals_and_fills_with_null(parquet: ProjectFolder) -> None:
    parquet.write("features/daily.sql", feature("* from {{ ref('orders') }}", "on_schema_change='append'"))
    parquet.write("features/reader.sql", "select count(*) as n, count(note) as notes from {{ ref('daily') }}")
    parquet.write("features/next.sql", feature("user, ts, note from {{ ref('daily') }}", "on_schema_change='append'"))
    parquet.edit("features/reader.sql", "count(note)", "0")
    parquet.edit("features/next.sql", "ts, note", "ts")
    before = version(parquet.build())
    orders_parquet(parquet, 4, note=["x", "y"])
    parquet.edit("features/reader.sql", "0 as", "count(note) as")
    parquet.edit("features/next.sql", "ts from", "ts, note from")
    built = parquet.build()
    assert computed(built) == (1, 4)
    found = version(built)
    assert digests(before).items() <= digests(found).items()
    assert [row[3] for row in rows(found)] == [None] * 6 + ["x", "y"]
    assert rows(version(built, "reader")) == [(8, 2)]
    assert [row[2] for row in rows(version(built, "next"))] == [None] * 6 + ["x", "y"]
    shown = parquet.treadle("show", "daily", "--limit", "8").stdout
    assert shown.count("NULL") == 6


def test_append_refuses_a_column_of_another_type(parquet: ProjectFolder) -> None:
    parquet.write("features/daily.sql", feature("* from {{ ref('orders') }}", "on_schema_change='append'"))
    parquet.build()
    orders_parquet(parquet, 4, amount=[1.5, 2.5])
    text = problem(parquet)
    assert "error[TR732]" in text
    assert '"amount" is DOUBLE in 2024-01-04, and BIGINT before' in text


# kills, builds at once, backfill


def pieces_of(project: ProjectFolder) -> set[str]:
    return {fp for fp, meta in project.metas().items() if json.loads(meta)["kind"] == "interval"}


def parts_of_pieces(project: ProjectFolder) -> dict[str, bytes]:
    """Return fingerprint -> the bytes of its part, of all intervals."""
    folder = project.root / ".treadle/store"
    return {fingerprint: (folder / fingerprint / "part-0.parquet").read_bytes() for fingerprint in pieces_of(project)}


SLOW_QUERY = "user, ts, (select count(*) from range(4000) a, range(4000) b where a.range * b.range % 7 = amount % 7) as n from {{ ref('orders') }}"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_the_intervals_that_are_done_stay(project: ProjectFolder, end: signal.Signals) -> None:
    project.write("features/daily.sql", feature(SLOW_QUERY))
    process = project.start("build", "--threads", "2")
    project.wait_for(lambda: len(pieces_of(project)) >= 1 or process.poll() is not None)
    process.send_signal(end)
    process.communicate()
    done = pieces_of(project)
    assert done
    assert "daily" not in {step["id"] for step in project.json("list") if step.get("status") == "built"}
    built = project.build(threads=2)
    assert computed(built) == (4 - len(done), 4)
    assert done <= find_pieces(version(built).info)
    assert project.leftovers() == []


def test_builds_at_once_compute_each_interval_once(project: ProjectFolder) -> None:
    """Three features of other names and the same text would be three; one feature in three builds is one."""
    project.write("features/windowed.sql", feature(WINDOWED, "lookback='1d'"))
    builds = [project.start("build", "--json", "--threads", "2", stderr=subprocess.DEVNULL) for _ in range(3)]
    results = [json.loads(build.communicate(timeout=120)[0]) for build in builds]
    assert [build.returncode for build in builds] == [0, 0, 0]
    steps = [step for result in results for step in result["steps"]]
    for name in ("daily", "windowed"):
        assert sum(step["pieces"][0] for step in steps if step["id"] == name and step["pieces"]) == 4
    assert len(pieces_of(project)) == 8
    assert project.leftovers() == []


def test_waiting_for_the_interval_of_another_build_takes_no_time_of_the_timeout(
    project: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands while anything is computed, and goes on by an hour whenever the step waits."""
    piece = sorted(find_pieces(version(project.build()).info))[0]
    shutil.rmtree(project.root / ".treadle/store")
    project.write("features/daily.sql", feature(DAILY, "timeout='2s'"))
    now_s, has_waited = 0.0, threading.Event()

    class Hourly(TimeLimit):
        @contextmanager
        def waiting(self) -> Iterator[None]:
            nonlocal now_s
            with super().waiting():
                now_s += 3600
                has_waited.set()
                yield

    monkeypatch.setattr(attempts, "TimeLimit", lambda seconds: Hourly(seconds, clock=lambda: now_s))
    with ThreadPoolExecutor(1) as pool:
        with Store(project.root / ".treadle", owner="treadle run").claim(piece):
            built = pool.submit(project.build)
            assert has_waited.wait(timeout=60)
        assert computed(built.result()) == (4, 4)


def test_builds_of_other_data_share_the_intervals_that_are_the_same(project: ProjectFolder) -> None:
    """Two environments whose features differ in `begin`: what both need is computed by one of them."""
    project.write(
        "treadle.yml",
        "name: shop\nvars: {begin: '2024-01-01'}\nenvironments: {dev: {}, late: {vars: {begin: '2024-01-03'}}}\n",
    )
    project.write("features/daily.sql", feature(DAILY, "begin=var('begin')"))
    builds = [project.start("build", "--json", "--env", env, stderr=subprocess.DEVNULL) for env in ("dev", "late")]
    results = [json.loads(build.communicate(timeout=120)[0]) for build in builds]
    n_computed = sum(step["pieces"][0] for result in results for step in result["steps"] if step["id"] == "daily")
    assert n_computed == 4
    assert {len(step["pieces"]) for result in results for step in result["steps"] if step["id"] == "daily"} == {2}


def test_backfill_computes_a_window_and_publishes_nothing(project: ProjectFolder) -> None:
    project.write("features/reader.sql", "select count(*) as n from {{ ref('daily') }}")
    printed = project.treadle("build", "--start", "2024-01-02", "--end", "2024-01-03T01:00")
    assert "2 of 4 intervals of daily are there; treadle build computes the rest" in printed.stdout
    assert len(pieces_of(project)) == 2
    assert project.plan().n("reuse") == 1, "the source alone is built"
    with project.open() as workspace:
        assert workspace.state.environment("dev") == {}
    built = project.build()
    assert computed(built) == (2, 4)
    assert built.of("built") >= {"daily", "reader"}


def test_backfill_of_what_is_there(project: ProjectFolder) -> None:
    project.treadle("run", "daily", "--start", "2024-01-01")
    printed = project.treadle("run", "daily", "--start", "2024-01-03")
    assert "4 of 4 intervals of daily are there; treadle build computes none of them again" in printed.stdout
    assert computed(project.build()) == (0, 4)
    assert "all intervals of daily are there" in project.treadle("run", "--end", "2024-01-03").stdout


def test_backfill_leaves_out_what_stands_on_another(project: ProjectFolder) -> None:
    project.write("features/shares.sql", feature("user, ts, total / n as mean from {{ ref('daily') }}"))
    steps = project.json("build", "--end", "2024-01-02")["steps"]
    assert [(step["id"], step["status"], step["pieces"]) for step in steps] == [
        ("orders", "built", [4, 4]),
        ("daily", "backfilled", [1, 4]),
    ]


def test_backfill_needs_an_incremental_feature_and_a_window(project: ProjectFolder) -> None:
    printed = project.treadle("build", "--select", "orders", "--start", "2024-01-02", code=2)
    assert printed.stderr == (
        "error[TR603]: --start and --end are for incremental features, and none is selected\n"
        "  incremental here: daily\n"
        "  fix: select one, or leave --start and --end out\n"
    )
    printed = project.treadle("build", "--start", "2024-01-02", "--end", "2024-01-02", code=2)
    assert printed.stderr.startswith("error[TR603]: --start must lie before --end\n")
    assert "found 'soon'" in project.treadle("build", "--start", "soon", code=2).stderr
    assert not (project.root / ".treadle/store").exists()


@pytest.mark.parametrize("option", ["--start", "--end"])
def test_backfill_from_the_first_moment_is_no_build_of_all(project: ProjectFolder, option: str) -> None:
    project.write("features/daily.sql", "select 1 as one")
    project.treadle("build"), project.treadle("build")
    printed = project.treadle("build", option, "1970-01-01", code=2)
    assert printed.stderr.startswith("error[TR603]: --start and --end are for incremental features")


# what else looks at such a version


def test_build_and_plan_tell_of_intervals(project: ProjectFolder) -> None:
    assert "new; by intervals of 1d" in project.treadle("plan").stdout
    printed = project.treadle("build")
    assert "    4 of 4 intervals computed" in printed.stderr
    assert "    4 of 4 files read" in printed.stderr


def test_catalog_and_show_read_all_parts(project: ProjectFolder) -> None:
    found = version(project.build())
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        assert con.execute("from daily").fetchall() == rows(found)
    assert f"{found.rows} rows x 4" in project.treadle("show", "daily").stdout


def test_dataset_joins_an_incremental_feature_as_of(project: ProjectFolder) -> None:
    project.write("features/windowed.sql", feature(WINDOWED, "lookback='1d'"))
    project.write(
        "features/events.sql", "select row_number() over (order by ts, user) as id, user, ts from {{ ref('orders') }}"
    )
    model = "datasets:\n  - {name: rows, rows: events, key: id, at: ts, features: [windowed]}\n"
    project.write("models/rows.yml", model)
    built = project.build()
    joined = built.outcome.run.results["rows"].version
    assert joined is not None, built.problems
    assert joined.info["features"] == {"windowed": joined.rows}


def test_clean_keeps_the_pieces_of_what_is_published(project: ProjectFolder) -> None:
    project.build()
    project.write("data/orders-02.csv", some_day(2, seed=7))
    current = version(project.build())
    assert len(pieces_of(project)) == 5
    project.treadle("clean", "--older-than", "0s", "--yes")
    assert len(pieces_of(project)) == 5, "the version before can be rolled back to"
    printed = project.treadle("clean", "--older-than", "0s", "--keep", "0", "--yes").stdout
    assert "8 that these are put together from" in printed, "four intervals, four files"
    assert pieces_of(project) == find_pieces(current.info)
    project.write("data/orders-05.csv", some_day(5))
    assert computed(project.build()) == (1, 5)


def test_clean_leaves_the_pieces_of_a_build_in_work(project: ProjectFolder) -> None:
    """A backfill is published nowhere; a build that counts on its intervals has said so before it looks for them."""
    project.write("features/daily.sql", feature(SLOW_QUERY))
    project.treadle("run", "daily", "--end", "2024-01-04")
    done = pieces_of(project)
    assert len(done) == 3
    build = project.start("build", "--json", stderr=subprocess.DEVNULL)
    project.wait_for(
        lambda: any(fp in lock.read_text() for lock in project.root.glob(".treadle/runs/*.lock") for fp in done)
    )
    project.treadle("clean", "--older-than", "0s", "--yes")
    assert done <= pieces_of(project)
    steps = json.loads(build.communicate(timeout=60)[0])["steps"]
    assert [step["pieces"] for step in steps if step["id"] == "daily"] == [[1, 4]]


def flip(project: ProjectFolder, found: Version, number: int) -> None:
    """Change a bit in a part of a table, which is a part of an interval too."""
    part = found.folder / found.parts[number].name
    part.chmod(0o644)
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    assert [each["status"] for each in project.json("verify", code=1)["wrong"]][:3].count("damaged") == 2


@pytest.mark.parametrize("select", [(), ("--select", "daily")])
def test_verify_takes_a_damaged_interval_away_with_its_table(project: ProjectFolder, select: tuple[str, ...]) -> None:
    before = version(project.build())
    flip(project, before, 2)
    wrong = project.json("verify", "--repair", *select)["wrong"]
    assert [(each["status"], each["step"], each["is_withdrawn"]) for each in wrong] == [("damaged", "daily", True)] * 2
    built = project.build()
    assert computed(built) == (1, 4)
    assert digests(version(built)) == digests(before)
    project.json("verify")


def test_interval_reads_no_damaged_part(project: ProjectFolder) -> None:
    built = project.build()
    flip(project, version(built, "orders"), 2)
    project.write("data/orders-05.csv", some_day(5))
    assert computed(project.build()) == (1, 5)
    project.edit("features/daily.sql", "count(*) as n", "count(*) + 1 as n")
    with pytest.raises(StoreError, match="is damaged"):
        project.build()
    project.treadle("verify", "--repair")
    project.build()
    project.json("verify")


def test_intervals_computed_from_damage_are_computed_again(project: ProjectFolder) -> None:
    built = project.build()
    before, metas = version(built), project.metas()
    flip(project, version(built, "orders"), 2)
    wrong = project.json("verify", "--repair")["wrong"]
    assert {each["step"] for each in wrong if each["status"] == "suspect"} == {"daily"}
    assert sum(each["status"] == "suspect" for each in wrong) == 5
    built = project.build()
    assert computed(built) == (4, 4)
    assert digests(version(built)) == digests(before)
    assert project.metas() == metas


def test_intervals_that_no_table_has_yet_may_be_computed_from_damage(project: ProjectFolder) -> None:
    built = project.build("orders")
    project.build("daily", window=Window())
    flip(project, version(built, "orders"), 2)
    wrong = project.json("verify", "--repair")["wrong"]
    assert [each["step"] for each in wrong if each["status"] == "suspect"] == [""] * 4
    assert computed(project.build()) == (4, 4)
    project.json("verify")


LEAF = "{{ config(materialized='table') }}\nselect count(*) as n from {{ ref('others') }}\n"


def test_damage_of_what_no_incremental_feature_reads_leaves_backfills_alone(project: ProjectFolder) -> None:
    project.write("data/others.csv", "user\nu1\nu2\n")
    project.edit("features/orders.yml", "entities:", "  - {name: others, path: data/others.csv}\nentities:")
    project.write("features/leaf.sql", LEAF)
    project.write("features/below.sql", LEAF.replace("'others'", "'leaf'"))
    built = project.build("orders", "below")
    project.build("daily", window=Window())
    pieces = pieces_of(project)
    part = version(built, "leaf").folder / "part-0.parquet"
    part.chmod(0o644)
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    wrong = project.json("verify", "--repair")["wrong"]
    assert [(each["status"], each["step"]) for each in wrong] == [("damaged", "leaf"), ("suspect", "below")]
    assert pieces_of(project) == pieces
    assert computed(project.build()) == (0, 4)
    project.json("verify")


def test_damaged_table_that_is_deleted_is_not_made_from_the_damaged_interval(project: ProjectFolder) -> None:
    before = version(project.build())
    flip(project, before, 2)
    shutil.rmtree(before.folder)
    pieces = parts_of_pieces(project)
    with pytest.raises(StoreError, match="is damaged"):
        project.build()
    assert parts_of_pieces(project) == pieces, "damage is not replaced in passing"
    project.treadle("verify", "--repair")
    built = project.build()
    assert digests(version(built)) == digests(before)
    project.json("verify")


def test_full_refresh_does_not_replace_a_damaged_table(project: ProjectFolder) -> None:
    before = version(project.build())
    flip(project, before, 2)
    pieces = parts_of_pieces(project)
    with pytest.raises(StoreError, match="is damaged"):
        project.build("daily", full_refresh=True)
    assert parts_of_pieces(project) == pieces, "damage is not replaced in passing"
    project.treadle("verify", "--repair")
    built = project.build("daily", full_refresh=True)
    assert digests(version(built)) == digests(before)
    project.json("verify")


def test_table_stands_although_its_pieces_are_gone(project: ProjectFolder) -> None:
    found = version(project.build())
    with project.open() as workspace:
        workspace.store.remove(find_pieces(found.info))
        assert workspace.store.verify(found) == []
    project.write("data/orders-05.csv", some_day(5))
    built = project.build()
    assert computed(built) == (5, 5)
    assert digests(found).items() <= digests(version(built)).items()


def test_parts_are_links_to_the_pieces(project: ProjectFolder) -> None:
    found = version(project.build())
    store = project.root / ".treadle/store"
    for start, piece in dict(found.info["intervals"]).items():  # type: ignore[call-overload]
        part = found.folder / f"part-{start}T00-00.parquet"
        assert part.samefile(store / piece / "part-0.parquet")
        assert not part.stat().st_mode & 0o222


def test_full_refresh_computes_all_intervals_and_keeps_the_first_results(project: ProjectFolder) -> None:
    project.build()
    before = project.metas()
    built = project.build("daily", full_refresh=True)
    assert computed(built) == (4, 4)
    assert project.metas() == before


def other_rows(project: ProjectFolder, found: Version, number: int) -> None:
    """Let an interval of a table have come out otherwise when it was computed first."""
    old = found.parts[number]
    file = found.folder / old.name
    file.chmod(0o644)
    with duckdb.connect() as con:
        con.execute(f"create table t as from '{file}'; update t set n = n + 1")
        file.write_bytes(b"")  # in place: the piece is the same file
        con.execute(f"copy t to '{file}' (format parquet, use_tmp_file false)")
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    piece = dict(found.info["intervals"])[old.name[5:15]]  # type: ignore[call-overload]
    for folder in (found.folder, found.folder.with_name(piece)):
        meta = folder / "meta.json"
        meta.chmod(0o644)
        version = from_meta(meta.read_bytes(), folder)
        parts = (replace(p, digest=digest, bytes=len(content)) if p.digest == old.digest else p for p in version.parts)
        meta.write_bytes(to_meta(replace(version, parts=tuple(parts))))
    assert project.json("verify")["sound"]


def test_full_refresh_tells_of_intervals_that_come_out_otherwise(project: ProjectFolder) -> None:
    found = version(project.build())
    other_rows(project, found, 1)
    before = project.metas()
    said = f"a second build of {found.fingerprint[:12]} gave other bytes: it is not reproducible; the first stays"
    reason = "rows that tie in an order by, any_value() or first() may come out otherwise"
    assert project.build("daily", full_refresh=True).notes("daily") == (
        said,
        f"1 of 4 intervals differ, such as 2024-01-02; {reason}",
    )
    window = Window(parse_moment_us("2024-01-02"), parse_moment_us("2024-01-04"))
    assert project.build("daily", full_refresh=True, window=window).notes("daily") == (
        said,
        f"1 of 2 intervals differ, such as 2024-01-02; {reason}",
    )
    assert project.metas() == before


def test_full_refresh_says_that_intervals_come_out_the_same(project: ProjectFolder) -> None:
    project.build()
    assert project.build("daily", full_refresh=True).notes("daily") == ("computed again, with the same bytes",)


def test_debugger_runs_an_incremental_feature_and_stores_nothing(project: ProjectFolder) -> None:
    project.build("orders")
    before = project.metas()
    assert "daily ran: 4 columns; nothing was stored" in project.treadle("run", "daily", "--pdb").stdout
    assert project.metas() == before


def test_nothing_of_an_interval_tells_when_it_was_built(project: ProjectFolder) -> None:
    project.build()
    metas = project.metas()
    again = version(rebuild(project))
    copy = {file.parent.name: file.read_bytes() for file in again.folder.parent.glob("*/meta.json")}
    assert copy == metas
    for fingerprint in find_pieces(again.info):
        meta = json.loads(copy[fingerprint])
        assert sorted(meta["info"]) == ["end", "start"]
        file = again.folder.parent / fingerprint / "part-0.parquet"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == meta["parts"][0]["digest"]


def test_two_columns_of_one_name_are_refused(project: ProjectFolder) -> None:
    project.write("features/daily.sql", feature(PLAIN.replace("user, ts,", "user, ts, amount, amount,")))
    problem = project.build().problems["daily"]
    assert (problem.code, problem.what) == ("TR715", 'feature "daily" has two columns of one name')
    assert problem.why == 'columns 3 and 4 are both called "amount"'
