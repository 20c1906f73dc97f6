"""Python features: what they are given, what they may return, whose fault an error is, and what is seen of what they touch."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Built, MakeProject, ProjectFolder

HEAD = """\
import os, socket, subprocess, sys, tempfile
import polars as pl
import pyarrow as pa
from treadle import feature


@feature(entity="user", static=True)
"""


def feature(body: str, signature: str = "orders: pl.LazyFrame") -> dict[str, str]:
    """Return a feature `made` with a body, which may say `result` for a table of users."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return {"features/made.py": f"{HEAD}def made({signature}):\n{indented}"}


def build_one(project: ProjectFolder) -> Built:
    return project.build("made", tests="without")


RESULT = 'pl.DataFrame({"user": ["a", "b"], "x": [1, 2]})'


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("orders", "LazyFrame"),
        ("orders: pl.LazyFrame", "LazyFrame"),
        ("orders: pl.DataFrame", "DataFrame"),
        ("orders: pa.Table", "Table"),
        ("orders: 'pa.Table'", "Table"),
    ],
)
def test_parameter_is_given_as_annotated(make_project: MakeProject, signature: str, expected: str) -> None:
    body = 'return pl.DataFrame({"user": ["a"], "kind": [type(orders).__name__]})'
    project = make_project("features", feature(body, signature))
    done = build_one(project)
    assert not done.problems
    with project.open() as workspace:
        assert workspace.step("made").table().column("kind").to_pylist() == [expected]


@pytest.mark.parametrize(
    "result", [f"{RESULT}.lazy()", RESULT, f"{RESULT}.to_arrow()", f"{RESULT}.to_arrow().to_reader()"]
)
def test_result_may_be_any_table(make_project: MakeProject, result: str) -> None:
    project = make_project("features", feature(f"return {result}"))
    assert not build_one(project).problems
    with project.open() as workspace:
        assert workspace.step("made").table().to_pylist() == [{"user": "a", "x": 1}, {"user": "b", "x": 2}]


def test_results_are_equal_whatever_their_form_and_order(make_project: MakeProject) -> None:
    shuffled = 'pl.DataFrame({"user": ["b", "a"], "x": [2, 1]}).lazy()'
    digests = set()
    for result in (f"{RESULT}.to_arrow()", shuffled):
        project = make_project("features", feature(f"return {result}"))
        build_one(project)
        with project.open() as workspace:
            version = workspace.step("made").version
            assert version is not None
            digests.add(version.parts[0].digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("result", "found"), [("None", "NoneType"), ("orders.collect().to_dicts()", "list"), ("3", "int")]
)
def test_result_that_is_no_table_is_an_error(make_project: MakeProject, result: str, found: str) -> None:
    project = make_project("features", feature(f"return {result}"))
    problem = build_one(project).problems["made"]
    assert problem.to_text().splitlines() == [
        'error[TR714]: feature "made" returned no table',
        f"  {problem.where}   {problem.where.text}".rstrip() if problem.where else "",
        f"  it returned a {found}",
        "  fix: return a polars LazyFrame or DataFrame, or an Arrow table",
    ]
    assert problem.where is not None
    assert problem.where.path == "features/made.py"


def test_missing_key_column_is_an_error(make_project: MakeProject) -> None:
    project = make_project("features", feature('return pl.DataFrame({"usr": ["a"]})'))
    assert build_one(project).problems["made"].code == "TR706"


def test_reads_types_that_parquet_bends(make_project: MakeProject) -> None:
    """A HUGEINT is stored as a decimal and cast back; what the function sees is a number all the same."""
    wide = {"features/wide.sql": "select 'a' as user, 170141183460469231731687::hugeint as h, 'x'::enum('x', 'y') as e"}
    body = 'return wide.select("user", (pl.col("h") - 1).cast(pl.String).alias("h"), pl.col("e").cast(pl.String))'
    project = make_project("features", wide, feature(body, "wide: pl.LazyFrame"))
    done = build_one(project)
    assert not done.problems
    with project.open() as workspace:
        [row] = workspace.step("made").table().to_pylist()
    assert row["e"] == "x"
    assert float(row["h"]) == pytest.approx(1.70141183460469231731686e23)


def test_type_that_polars_cannot_read_is_an_error(make_project: MakeProject) -> None:
    wide = {"features/wide.sql": "select 'a' as user, interval 3 hours as i"}
    project = make_project("features", wide, feature('return wide.select("user")', "wide: pl.LazyFrame"))
    problem = build_one(project).problems["made"]
    assert (problem.code, problem.why) == ("TR712", "i (month_day_nano_interval)")
    project.edit("features/made.py", "wide: pl.LazyFrame", "wide: pa.Table")
    project.edit("features/made.py", 'select("user")', 'select(["user"])')
    assert not build_one(project).problems


# helpers


def test_helpers_are_imported_by_either_form(make_project: MakeProject) -> None:
    files = {
        "features/made.py": HEAD.replace("\n\n@", "\nfrom .helping import one\nfrom features.helping import two\n\n\n@")
        + 'def made(orders: pl.LazyFrame):\n    return pl.DataFrame({"user": ["a"], "n": [one() + two()]})\n',
        "features/helping.py": "def one():\n    return 1\n\n\ndef two():\n    return 2\n",
    }
    project = make_project("features", files)
    assert not build_one(project).problems
    with project.open() as workspace:
        assert workspace.step("made").table().column("n").to_pylist() == [3]


def test_project_folder_shadows_no_library_that_treadle_needs(make_project: MakeProject) -> None:
    project = make_project(
        "features", feature(f"return {RESULT}"), {"queue.py": "raise SystemExit", "sklearn/x.py": ""}
    )
    assert not build_one(project).problems


def test_global_state_does_not_reach_the_next_function(make_project: MakeProject) -> None:
    counted = """\
import polars as pl
from treadle import feature

from .counting import seen


@feature(entity="user", static=True)
def {name}(orders: pl.LazyFrame) -> pl.LazyFrame:
    seen.append(1)
    return pl.LazyFrame({{"user": ["a"], "n": [len(seen)]}})
"""
    files = {f"features/{name}.py": counted.format(name=name) for name in ("one", "two")}
    project = make_project("features", files, {"features/counting.py": "seen = []\n"})
    assert not project.build("one", "two", tests="without", threads=1).problems
    with project.open() as workspace:
        assert [workspace.step(name).table()["n"].to_pylist() for name in ("one", "two")] == [[1], [1]]


def test_project_folder_wins_over_an_installed_package_of_its_name(
    make_project: MakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "lib/features"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(installed.parent))
    assert not build_one(
        make_project("features", feature(f"from features.two import n\nreturn {RESULT}"), TWO)
    ).problems


TWO = {"features/two.py": "n = 2\n"}


# errors of the user's code


@pytest.mark.parametrize(
    ("body", "what", "why"),
    [
        ('raise ValueError("odd\\nlines\\nof\\ntext")', "ValueError", "ValueError: odd"),
        ("sys.exit(0)", "SystemExit", "SystemExit: 0"),
        ("import nothing_of_this_name", "ModuleNotFoundError", "ModuleNotFoundError: No module named"),
        ('return orders.select("usr")', "ColumnNotFoundError", ""),
        ('open("missing.txt")', "FileNotFoundError", "FileNotFoundError: "),
    ],
)
def test_exception_is_told_with_the_users_line(make_project: MakeProject, body: str, what: str, why: str) -> None:
    project = make_project("features", feature(body))
    problem = build_one(project).problems["made"]
    assert problem.code == "TR701"
    assert problem.what == f'feature "made" raised {what}'
    assert problem.why.startswith(why)
    assert len(problem.to_text().splitlines()) <= 15
    if "select" not in body:  # a lazy frame raises when it is collected, after the function returned
        assert problem.frames[-1].splitlines()[0] == "features/made.py:9 in made"
        assert problem.frames[-1].splitlines()[1].strip() == body


def test_exception_while_a_long_frame_is_written_is_told_as_well(make_project: MakeProject) -> None:
    body = """\
def fail(x):
    if (x > 250_000).any():
        raise LookupError("far down")
    return x

frame = pl.LazyFrame({"user": range(300_000)})
return frame.with_columns(x=pl.col("user").map_batches(fail, return_dtype=pl.Int64, is_elementwise=True))"""
    problem = build_one(make_project("features", feature(body))).problems["made"]
    assert problem.code == "TR701"
    assert "far down" in problem.why


def test_long_frame_comes_back_as_it_was_whatever_its_order(make_project: MakeProject) -> None:
    body = """\
frame = pl.LazyFrame({"user": range(300_000)}).with_columns(x=pl.col("user") * 7 % 1000)
return {frame}"""
    digests = set()
    for frame in ("frame", "frame.reverse()", "pl.concat([frame.slice(1), frame.head(1)])", "frame.collect()"):
        project = make_project("features", feature(body.replace("{frame}", frame)))
        assert not build_one(project).problems
        with project.open() as workspace:
            version = workspace.step("made").version
            assert version is not None
            assert version.rows == 300_000
            digests.add(version.parts[0].digest)
            table = workspace.step("made").table()
            assert table["user"].to_pylist() == list(range(300_000))
    assert len(digests) == 1


def test_error_at_import_names_the_line(make_project: MakeProject) -> None:
    project = make_project("features", feature(f"return {RESULT}"))
    project.edit("features/made.py", "import pyarrow as pa", "import pyarrow as pa\nLIMIT = 1 / 0")
    problem = build_one(project).problems["made"]
    assert problem.code == "TR701"
    assert problem.frames == ("features/made.py:4 in <module>\n      LIMIT = 1 / 0",)


# what is printed and touched


def test_prints_go_to_the_steps_log(make_project: MakeProject) -> None:
    body = f'print("from python")\nos.write(1, b"from below\\n")\nsubprocess.run(["echo", "from a program"])\nreturn {RESULT}'
    project = make_project("features", feature(body))
    result = project.treadle("build")
    assert "from" not in result.stdout
    assert "from python" not in result.stderr
    [log] = (project.root / ".treadle/logs").rglob("*.log")
    run_id = project.json("runs")[0]["id"]
    assert log.relative_to(project.root / ".treadle/logs").as_posix() == f"{run_id}/made.log"
    assert sorted(log.read_text().splitlines()) == ["from a program", "from below", "from python"]


def test_silent_steps_leave_no_logs(make_project: MakeProject) -> None:
    project = make_project("features", feature(f"return {RESULT}"))
    build_one(project)
    assert list((project.root / ".treadle/logs").glob("*")) == []


def test_undeclared_file_is_noted(make_project: MakeProject) -> None:
    project = make_project(
        "features", feature(f'open("data/extra.txt").close()\nreturn {RESULT}'), {"data/extra.txt": "x"}
    )
    [note] = build_one(project).notes("made")
    assert (
        note
        == f"it opens {project.root}/data/extra.txt, which is no declared source: a change there will not re-run it"
    )
    project.edit("features/made.py", "extra.txt", "orders.csv")  # declared, and yet not what it was given
    result = project.treadle("build")
    assert "note: it opens" in result.stderr


def test_declared_and_temporary_files_are_not_noted(make_project: MakeProject) -> None:
    body = f"""\
import json, uuid
with tempfile.TemporaryFile("w+") as file:
    file.write("x")
with open(tempfile.mkstemp()[1], "w") as file:
    file.write("x")
open(file.name).close()
orders.collect()
return {RESULT}"""
    project = make_project("features", feature(body))
    assert build_one(project).notes("made") == ()


def test_socket_and_program_are_noted(make_project: MakeProject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        body = f'socket.create_connection({address!r}).close()\nsubprocess.run(["true"])\nreturn {RESULT}'
        notes = build_one(make_project("features", feature(body))).notes("made")
    assert notes == (
        f"it connects to {address!r}, which its fingerprint cannot know",
        "it runs 'true', which its fingerprint cannot know",
    )


def test_changed_folder_does_not_reach_the_next_step(make_project: MakeProject) -> None:
    more = {
        "features/other.py": feature(f'open("data/orders.csv").close()\nreturn {RESULT}')["features/made.py"].replace(
            "made", "other"
        )
    }
    project = make_project("features", feature(f'os.chdir("/")\nreturn {RESULT}'), more)
    done = project.build(tests="without", threads=1)
    assert done.of("built") >= {"made", "other"}
