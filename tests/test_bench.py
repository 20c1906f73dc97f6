"""What `ci/bench` measures: its projects are what they should be, and its floors do the work that they are a floor of."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from treadle_runtime.workspace import Workspace

CI = Path(__file__).parent.parent / "ci"


def python(*arguments: str | Path, cwd: Path = CI) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(con: duckdb.DuckDBPyConnection, table: str) -> list[tuple[object, ...]]:
    return sorted(con.execute(f"from {table}").fetchall())


def test_sql_project_has_ten_layers_and_two_tests_for_five_features(tmp_path: Path) -> None:
    python(CI / "generate.py", tmp_path / "project", "100")
    with Workspace(tmp_path / "project") as workspace:
        steps = list(workspace.graph)
    features = [step for step in steps if step.kind == "feature"]
    assert Counter(step.name.split("_")[0] for step in features) == {f"f{layer}": 10 for layer in range(10)}
    assert {len(step.inputs) for step in features} == {1, 2, 3}
    assert all(step.description for step in features)
    assert all({parent[:2] for parent in step.inputs} <= {f"f{int(step.name[1]) - 1}", "or"} for step in features)
    assert sum(step.kind == "test" for step in steps) == 40
    python(CI / "generate.py", tmp_path / "again", "100")
    texts = [[file.read_text() for file in sorted((tmp_path / n).rglob("*.*ml"))] for n in ("project", "again")]
    assert texts[0] == texts[1]


def test_floor_writes_the_tables_that_a_build_does(tmp_path: Path) -> None:
    python(CI / "generate.py", tmp_path / "project", "20")
    python("-m", "treadle", "build", cwd=tmp_path / "project")
    python("-m", "treadle", "compile", cwd=tmp_path / "project")
    said = python(CI / "benches/sql_floor.py", tmp_path / "project", tmp_path / "out")
    assert [float(text) > 0 for text in said.split()] == [True, True]
    with duckdb.connect(str(tmp_path / "project/.treadle/dev.duckdb"), read_only=True) as con:
        views = [view for (view,) in con.execute("select view_name from duckdb_views() where not internal").fetchall()]
        assert len(views) == 21
        for view in views:
            assert rows(con, view) == rows(con, f"'{tmp_path}/out/{view}.parquet'"), view


@pytest.mark.parametrize(("how", "is_chain"), [("pool", True), ("pool", False), ("stored", True), ("kept", True)])
def test_python_floor_calls_every_function(tmp_path: Path, how: str, is_chain: bool) -> None:
    project = tmp_path / "project"
    python(
        "-c", f"import generate, pathlib\ngenerate.write_python_project(pathlib.Path({str(project)!r}), 4, {is_chain=})"
    )
    said = python(CI / "benches/python_floor.py", project, tmp_path / "out", how)
    assert [float(text) > 0 for text in said.split()] == [True, True]
    found = [total(tmp_path / "out" / name) for name in ("orders", "step_0", "step_1", "step_2", "step_3")]
    added = [0, 1, 2, 3, 4] if is_chain else [0, 1, 1, 1, 1]
    assert found == ([found[0], *[None] * 4] if how == "kept" else [found[0] + 1000 * n for n in added])


def total(file: Path) -> object:
    return duckdb.sql(f"select sum(amount) from read_parquet('{file}')").fetchall()[0][0] if file.exists() else None


def test_bench_prints_a_table_and_writes_what_it_measured(tmp_path: Path) -> None:
    said = python(CI / "bench.py", "sizes", "--size", "20", "--runs", "1", "--json", tmp_path / "rows.json")
    found = duckdb.sql(f"select what, wall_s, floor_s, each_ms, n, runs from '{tmp_path}/rows.json'").fetchall()
    assert len(said.splitlines()) == 2 + len(found)
    first = {what: rest for what, *rest in found if what.startswith("first build")}
    assert len(first) == 2
    for wall_s, floor_s, each_ms, n, n_runs in first.values():
        assert (n, n_runs) == (20, 1)
        assert each_ms == pytest.approx((wall_s - floor_s) / 20 * 1000)
