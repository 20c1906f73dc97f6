"""A timed source of text files: a part for each, the same rows as without a time, each content read once."""

from __future__ import annotations

import json
import random
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from treadle_runtime.engine import view_sql

if TYPE_CHECKING:
    from conftest import Built, MakeProject, ProjectFolder
    from treadle_runtime.store import Version

HEAD = "id,ts,amount,note\n"
COLUMNS = ", columns: [{name: id, type: BIGINT}, {name: ts, type: TIMESTAMP}, {name: amount, type: DOUBLE}, {name: note, type: VARCHAR}]"


def source(path: str = "data/*.csv", more: str = "", *, event_time: str = "ts") -> str:
    timed = f", event_time: {event_time}" if event_time else ""
    return f"name: shop\n---\nsources:\n  - {{name: orders, path: '{path}'{timed}{more}}}\n"


def write_source(project: ProjectFolder, *args: str, **options: str) -> None:
    project.write("features/orders.yml", source(*args, **options).split("---\n")[1])


def version(built: Built) -> Version:
    assert built.outcome.published, built.problems
    found = built.outcome.run.results["orders"].version
    assert found is not None
    return found


def rows(built: Built) -> list[tuple[Any, ...]]:
    found = version(built)
    sql = view_sql(found, f"'{found.folder}'")
    with duckdb.connect() as con:
        con.execute("set TimeZone='UTC'")
        return con.execute(sql or "").fetchall()


def pieces(built: Built) -> tuple[int, int] | None:
    return built.outcome.run.results["orders"].pieces


def day_csv(day: int, n: int = 5, *, seed: int = 0) -> str:
    rng = random.Random(seed * 100 + day)
    lines = [
        f"{day * 100 + i},2024-01-{day:02} {i % 24:02}:00:00,{rng.randrange(999) / 4},n{rng.randrange(3)}"
        for i in range(n)
    ]
    return HEAD + "\n".join(lines) + "\n"


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    project = make_project({"treadle.yml": "name: shop\n"})
    write_source(project)
    for day in (1, 2, 3):
        project.write(f"data/{day}.csv", day_csv(day))
    return project


def test_each_file_is_a_part_with_its_times(project: ProjectFolder) -> None:
    found = version(project.build())
    assert [part.name for part in found.parts] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert [part.rows for part in found.parts] == [5, 5, 5]
    day = 86_400_000_000
    first = 1_704_067_200_000_000
    assert [part.times for part in found.parts] == [(first + n * day, first + n * day + day // 6) for n in range(3)]


def test_rows_are_those_of_the_source_without_a_time(project: ProjectFolder) -> None:
    timed = rows(project.build())
    write_source(project, event_time="")
    assert rows(project.build()) == timed
    assert len(timed) == 15


def test_only_new_content_is_read(project: ProjectFolder) -> None:
    assert pieces(project.build()) == (3, 3)
    project.write("data/4.csv", day_csv(4))
    assert pieces(project.build()) == (1, 4)
    project.write("data/2.csv", day_csv(2, seed=9))
    built = project.build()
    assert pieces(built) == (1, 4)
    assert [row[0] for row in rows(built)] == [day * 100 + i for day in (1, 2, 3, 4) for i in range(5)]


def test_equal_content_gives_equal_digests_wherever_it_stands(project: ProjectFolder) -> None:
    before = {part.digest for part in version(project.build()).parts}
    (project.root / "data/1.csv").rename(project.root / "data/9.csv")
    built = project.build()
    assert pieces(built) == (0, 3)
    assert {part.digest for part in version(built).parts} == before
    assert rows(built)[-1][0] == 104


def test_two_files_of_one_content_are_read_once_and_both_count(project: ProjectFolder) -> None:
    project.write("data/4.csv", day_csv(1))
    built = project.build()
    assert pieces(built) == (3, 3)
    assert [part.rows for part in version(built).parts] == [5, 5, 5, 5]
    assert [row[0] // 100 for row in rows(built)] == [1] * 5 + [2] * 5 + [3] * 5 + [1] * 5


def test_large_file_gives_the_same_bytes_alone_and_among_others(project: ProjectFolder) -> None:
    big = HEAD + "".join(f"{i},2024-02-01 00:00:{i % 60:02},{i / 8},x{i % 7}\n" for i in range(130_000))
    project.write("data/5.csv", big)
    among = {part.digest for part in version(project.build()).parts}
    for day in (1, 2, 3):
        (project.root / f"data/{day}.csv").unlink()
    project.write("data/0.csv", day_csv(1))
    assert version(project.build()).parts[1].digest in among


def test_types_are_those_of_all_files_together(project: ProjectFolder) -> None:
    first = version(project.build())
    assert [column.type for column in first.columns] == ["BIGINT", "TIMESTAMP", "DOUBLE", "VARCHAR"]
    project.write("data/4.csv", HEAD + "a1,2024-01-04 00:00:00,1,x\n")
    built = project.build()
    assert [column.type for column in version(built).columns] == ["VARCHAR", "TIMESTAMP", "DOUBLE", "VARCHAR"]
    assert pieces(built) == (4, 4), "the form of all files is another one"
    assert [row[0] for row in rows(built)][:2] == ["100", "101"]


def test_declared_types_keep_files_as_they_are(project: ProjectFolder) -> None:
    columns = ", columns: [{name: id, type: VARCHAR}, {name: ts, type: TIMESTAMP}, {name: amount, type: DOUBLE}, {name: note, type: VARCHAR}]"
    write_source(project, "data/*.csv", columns)
    assert pieces(project.build()) == (3, 3)
    project.write("data/4.csv", HEAD + "a1,2024-01-04 00:00:00,1,\n")
    built = project.build()
    assert pieces(built) == (1, 4)
    assert rows(built)[-1] == ("a1", rows(built)[-1][1], 1.0, None)


def test_first_file_tells_how_dates_are_written_in_all(project: ProjectFolder) -> None:
    """02/13/2024 can only be month first; alone, 01/02/2024 would be read as the first of February."""
    for day in (1, 2, 3):
        (project.root / f"data/{day}.csv").unlink()
    project.write("data/1.csv", "id,ts\n1,02/13/2024\n")
    project.write("data/2.csv", "id,ts\n2,01/02/2024\n")
    timed = rows(project.build())
    assert [f"{row[1]:%Y-%m-%d}" for row in timed] == ["2024-02-13", "2024-01-02"]
    write_source(project, event_time="")
    assert rows(project.build()) == timed


def test_header_is_that_of_all_files(project: ProjectFolder) -> None:
    for day in (1, 2, 3):
        project.write(f"data/{day}.csv", f"2024-01-0{day},{day}\n2024-01-0{day},7\n")
    write_source(project, event_time="column0")
    timed = rows(project.build())
    assert len(timed) == 6
    write_source(project, event_time="")
    assert rows(project.build()) == timed


def test_empty_files_and_files_of_a_header_are_no_trouble(project: ProjectFolder) -> None:
    project.write("data/0.csv", "")
    project.write("data/2.csv", HEAD)
    built = project.build()
    assert [part.times for part in version(built).parts][1] == ()
    assert [row[0] // 100 for row in rows(built)] == [1] * 5 + [3] * 5
    assert built.notes("orders") == ("1 of 4 files is empty, without a header line: data/0.csv",)


def test_columns_in_another_order_are_put_into_the_first_ones(project: ProjectFolder) -> None:
    project.write("data/2.csv", "note,ts,id,amount\nx,2024-01-02 00:00:00,7,1.5\n")
    timed = rows(project.build())
    assert (str(timed[5][0]), timed[5][3]) == ("7", "x")
    write_source(project, event_time="")
    assert rows(project.build()) == timed


def test_declared_types_hold_whatever_the_order_in_a_file(project: ProjectFolder) -> None:
    write_source(project, "data/*.csv", COLUMNS)
    project.write("data/2.csv", "note,ts,id,amount\nx,2024-01-02 00:00:00,7,1.5\n")
    assert rows(project.build())[5] == (7, datetime(2024, 1, 2), 1.5, "x")


@pytest.mark.parametrize("declared", [False, True])
def test_file_with_other_columns_is_refused(project: ProjectFolder, declared: bool) -> None:
    write_source(project, "data/*.csv", COLUMNS if declared else "")
    project.build()
    project.write("data/4.csv", "id,ts,amount,remark\n1,2024-01-04,1,x\n")
    problem = project.build().problems["orders"]
    assert problem.code == "TR713"
    assert problem.why == 'data/4.csv lacks "note" and has "remark" besides, compared with data/1.csv'


def test_value_that_does_not_parse_is_shown_with_its_line(project: ProjectFolder) -> None:
    write_source(project, "data/*.csv", COLUMNS)
    project.write("data/4.csv", HEAD + "1,2024-01-04 00:00:00,1,x\n2,2024-01-04 00:00:00,much,x\n")
    problem = project.build().problems["orders"]
    assert problem.code == "TR713"
    assert str(problem.where) == "data/4.csv:3"
    assert 'column "amount": "much" is no DOUBLE' in problem.why


@pytest.mark.parametrize(("column", "code"), [("when", "TR706"), ("note", "TR712")])
def test_event_time_must_be_a_time_of_the_source(project: ProjectFolder, column: str, code: str) -> None:
    write_source(project, event_time=column)
    problem = project.build().problems["orders"]
    assert problem.code == code
    assert f'"{column}"' in problem.what
    assert 'source "orders"' in problem.what
    assert str(problem.where) == "features/orders.yml:2:6"


def test_json_lines_are_kept_by_file_too(project: ProjectFolder) -> None:
    for day in (1, 2):
        record = {"id": day, "ts": f"2024-01-0{day} 10:00:00", **({"extra": [day]} if day == 2 else {})}
        project.write(f"data/{day}.jsonl", json.dumps(record) + "\n")
    write_source(project, "data/*.jsonl")
    built = project.build()
    assert pieces(built) == (2, 2)
    timed = rows(built)
    assert [row[2] for row in timed] == [None, [2]]
    write_source(project, "data/*.jsonl", event_time="")
    assert rows(project.build()) == timed


def test_untimed_source_stays_one_part_and_its_fingerprint_what_it_was(project: ProjectFolder) -> None:
    write_source(project, event_time="")
    found = version(project.build())
    assert [part.name for part in found.parts] == ["part-0.parquet"]
    assert found.parts[0].times is None
    assert found.info == {}


def test_python_feature_reads_all_parts(project: ProjectFolder) -> None:
    project.write(
        "features/total.py",
        "import polars as pl\nfrom treadle import feature\n\n\n@feature(event_time='ts')\n"
        "def total(orders: pl.LazyFrame) -> pl.LazyFrame:\n    return orders.select('ts', pl.len().alias('n'))\n",
    )
    built = project.build()
    result = built.outcome.run.results["total"].version
    assert result is not None, built.problems
    assert result.rows == 15
    assert result.parts[0].times is not None


@pytest.mark.parametrize("seed", range(8))
def test_random_files_give_the_rows_of_the_source_without_a_time(project: ProjectFolder, seed: int) -> None:
    rng = random.Random(seed)
    heads = [HEAD, '"id","ts","amount","note"\n']
    declared = COLUMNS if seed % 2 else ""
    write_source(project, "data/*.csv", declared)
    forms = ["2024-01-{:02} 10:00:00", "2024-01-{:02}T10:00:00", "2024-01-{:02} 10:00:00.25"]
    for day in range(1, 6):
        quoted = rng.random() < 0.5
        lines = []
        for i in range(rng.randrange(4)):
            note = rng.choice(["", '"a,b"' if quoted else "a", "é", '"x ""y"""' if quoted else "x"])
            lines.append(
                f"{rng.choice(['', i, 2**40])},{rng.choice(forms).format(day)},{rng.choice(['', 1, '1.5', '1e3'])},{note}"
            )
        text = rng.choice(heads) + "".join(line + "\n" for line in lines)
        if rng.random() < 0.3:
            text = text.replace("\n", "\r\n")
        (project.root / f"data/{day}.csv").write_bytes(rng.choice([b"", b"\xef\xbb\xbf"]) + text.encode())
    project.write("data/6.csv", HEAD + "1,2024-01-09 00:00:00,1,z\n")
    timed = rows(project.build())
    write_source(project, "data/*.csv", declared, event_time="")
    assert rows(project.build()) == timed
