"""An open project: sources of every kind through a build, the catalog, notebooks, environments, moving the folder."""

from __future__ import annotations

import ast
import gzip
import json
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import duckdb
import pytest

import treadle
from treadle.errors import ProjectError, UsageError
from treadle.events import Published
from treadle_runtime.housekeeping import Terms, find_unused

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder


def query(project: ProjectFolder, sql: str, env: str = "dev") -> list[tuple[object, ...]]:
    """Ask the catalog, as `duckdb -readonly` does."""
    with duckdb.connect(str(project.root / f".treadle/{env}.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


# sources


def rewrite_orders(project: ProjectFolder, kind: str) -> None:
    """Write the orders in another format and let the source read that."""
    csv, path = project.root / "data/orders.csv", f"data/orders.{kind}"
    with duckdb.connect() as con:
        con.execute(f"create table orders as from read_csv('{csv}')")
        match kind:
            case "parquet":
                con.execute(f"copy orders to '{project.root / path}' (format parquet)")
            case "jsonl":
                con.execute(f"copy orders to '{project.root / path}' (format json)")
            case "csv.gz":
                (project.root / path).write_bytes(gzip.compress(csv.read_bytes(), mtime=0))
            case "duckdb":
                con.execute(f"attach '{project.root / path}' as other; create table other.orders as from orders")
    csv.unlink()
    table = "\n    table: orders" if kind == "duckdb" else ""
    project.edit("features/orders.yml", "path: data/orders.csv", f"path: {path}{table}")


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv.gz", "duckdb"])
def test_source_of_any_kind_gives_the_same_features(make_project: MakeProject, kind: str) -> None:
    csv, other = make_project("features"), make_project("features", "profile")
    csv.build()
    rewrite_orders(other, kind)
    done = other.build()
    assert done.outcome.published, done.problems
    assert done.statuses["orders"] == ("inlined" if kind == "parquet" else "built")
    with csv.open() as one, other.open() as two:
        expected, found = one.step("spend").table(), two.step("spend").table()
        assert found.column("total").to_pylist() == pytest.approx(expected.column("total").to_pylist())
        assert found.column("user").to_pylist() == expected.column("user").to_pylist()
        assert two.step("profile").inputs["orders"].num_rows == 300
    assert query(other, "select count(*) from orders") == [(300,)]
    assert not other.build().of("built")


def test_glob_reads_files_in_order(make_project: MakeProject) -> None:
    project = make_project("features")
    header, *rows = (project.root / "data/orders.csv").read_text().splitlines()
    (project.root / "data/orders.csv").unlink()
    for n in range(3):
        project.write(f"data/orders-{n}.csv", "\n".join([header, *rows[n * 100 : n * 100 + 100]]) + "\n")
    project.edit("features/orders.yml", "path: data/orders.csv", "path: data/orders-*.csv")
    project.build()
    with project.open() as workspace:
        assert workspace.step("orders").table().column("id").to_pylist() == list(range(300))


# views


def test_view_is_part_of_its_readers(make_project: MakeProject) -> None:
    view = {
        "features/recent.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where id >= 200",
        "features/above.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('recent') }} where id < 250",
        "features/by_user.sql": "select user, count(*) as n from {{ ref('above') }} group by user",
        "features/first.py": """\
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def first(above: pl.LazyFrame) -> pl.LazyFrame:
    return above.group_by("user").agg(pl.col("id").min())
""",
    }
    project = make_project("features", view)
    done = project.build()
    assert done.of("inlined") == {"recent", "above"}
    assert query(project, "select sum(n) from by_user") == [(50,)]
    assert query(project, "select count(*), min(id) from above") == [(50, 200)]
    assert query(project, "select min(id) from first") == [(200,)]
    project.edit("features/recent.sql", "200", "201")
    assert set(project.reasons()) == {"by_user", "first"}
    project.build()
    assert query(project, "select count(*), min(id) from above") == [(49, 201)]
    assert project.json("show", "above", "--limit", "0")["rows"] == 49


# the catalog


def test_catalog_shows_tables_by_name(churn: ProjectFolder) -> None:
    names = {name for (name,) in query(churn, "select view_name from duckdb_views() where not internal")}
    assert names == {"orders", "spend", "profile"}
    [(n,)] = query(churn, "select count(*) from spend")
    assert n == churn.json("show", "spend")["rows"]


def test_catalog_is_read_while_a_build_runs_and_does_not_stop_it(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1000 as n")
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        before = con.execute("select max(n) from spend").fetchall()
        project.run("build")
        assert con.execute("select max(n) from spend").fetchall() == before
    assert query(project, "select max(n) > 1000 from spend") == [(True,)]


def test_feature_that_left_the_project_leaves_the_catalog(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    (project.root / "features/spend.sql").unlink()
    project.edit("features/orders.yml", "features:\n  - {name: spend, description: what a user spent so far}\n", "")
    project.build()
    names = {name for (name,) in query(project, "select view_name from duckdb_views() where not internal")}
    assert names == {"orders"}


def test_moved_folder_works_after_the_next_build(churn: ProjectFolder) -> None:
    moved = type(churn)(churn.root.with_name("elsewhere [1]"))
    churn.root.rename(moved.root)
    assert moved.reasons() == {}
    assert moved.json("show", "spend")["rows"] > 0
    assert not moved.build().of("built")
    assert query(moved, "select count(*) from orders") == [(300,)]


def test_environments_are_apart_and_share_versions(make_project: MakeProject) -> None:
    project = make_project("features", {"treadle.yml": "name: shop\nenvironments:\n  dev: {}\n  production: {}\n"})
    project.build()
    with project.open(environment="production") as workspace:
        assert workspace.state.environment("production") == {}
        done = workspace.build()
        assert {result.status for result in done.run.results.values()} == {"reused"}
        assert workspace.state.environment("production") == workspace.state.environment("dev")
    assert query(project, "select count(*) from orders", "production") == [(300,)]


# notebooks


def test_open_gives_steps_with_their_inputs(churn: ProjectFolder) -> None:
    with treadle.open(churn.root / "features") as workspace:
        spend = workspace.step("spend")
        assert list(spend.inputs) == ["orders"]
        assert spend.inputs["orders"].num_rows == 300
        assert spend.table().column_names == ["user", "ts", "total", "n"]
        assert spend.version is not None
        assert spend.fingerprint == spend.version.fingerprint
        rows = workspace.step("rows")
        assert list(rows.inputs) == ["orders", "spend", "profile"]
        row, info = rows.dataset_row("17")
        assert row["id"] == 17
        assert set(info["provenance"]) == {"spend", "profile"}
        evaluated = workspace.step("churn.linear.evaluate")
        assert evaluated.inputs["rows"].num_rows == 300
        assert workspace.step("rows").table().num_rows == 300
        assert "prediction" in workspace.step("test:probabilities").inputs["linear"].column_names


def test_open_step_that_is_not_built_or_not_there(make_project: MakeProject) -> None:
    project = make_project("churn")
    with treadle.open(project.root) as workspace:
        for name, code in (("spnd", "TR601"), ("churn", "TR603")):
            with pytest.raises(UsageError) as caught:
                workspace.step(name)
            assert caught.value.problems[0].code == code
        with pytest.raises(UsageError) as caught:
            workspace.step("spend").table()
        assert caught.value.problems[0].code == "TR807"
        with pytest.raises(UsageError) as caught:
            _ = workspace.step("spend").inputs
        assert caught.value.problems[0].fix == "run `treadle build --select orders`"
        assert workspace.step("spend").version is None


def test_open_outside_a_project() -> None:
    with pytest.raises(ProjectError) as caught:
        treadle.open("/")
    assert caught.value.problems[0].code == "TR001"


def test_vars_and_as_of_reach_the_build(make_project: MakeProject) -> None:
    files = {
        "treadle.yml": "name: shop\nvars: {least: 50}\n",
        "features/large.sql": "select id from {{ ref('orders') }} where amount > {{ var('least') }}",
    }
    project = make_project("features", files)
    project.build()
    [(few,)] = query(project, "select count(*) from large")
    result = json.loads(project.treadle("build", "--vars", "{least: 0}", "--json").stdout)
    assert [step["id"] for step in result["steps"] if step["status"] == "built"] == ["large"]
    assert query(project, "select count(*) from large") == [(300,)]
    assert few < 300


def test_open_project_sees_files_that_change(make_project: MakeProject) -> None:
    project = make_project("features")
    with project.open() as workspace:
        workspace.build()
        project.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
        assert {p.step.id for p in workspace.plan() if p.action == "build"} == {"spend"}
        assert workspace.build().run.results["spend"].status == "built"


# publishing


def test_catalog_that_is_held_open_is_a_warning_and_the_next_build_writes_it(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1000 as n")
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb")):
        done = project.build()
        assert done.outcome.published
        [event] = [event for event in done.events if isinstance(event, Published)]
        assert [problem.code for problem in event.warnings] == ["TR806"]
        result = project.treadle("build")
        assert "warning[TR806]: the catalog dev.duckdb is held open by another program" in result.stderr
    with project.open() as workspace:
        assert {run.status for run in workspace.state.runs()} == {"passed"}
    assert query(project, "select max(n) > 1000 from spend") == [(False,)]
    assert not project.build().of("built")
    assert query(project, "select max(n) > 1000 from spend") == [(True,)]


def test_build_of_a_part_keeps_the_published_text_of_the_other_views(make_project: MakeProject) -> None:
    view = "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where id >= 200"
    over = "{{ config(materialized='view') }}\nselect * from {{ ref('recent') }} where id < 250"
    project = make_project("features", {"features/recent.sql": view, "features/above.sql": over})
    project.build()
    project.edit("features/recent.sql", "200", "201")
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1000 as n")
    for _ in range(2):
        project.build("spend")
        assert query(project, "select max(n) > 1000 from spend") == [(True,)]
        assert query(project, "select min(id), max(id) from above") == [(200, 249)]
    project.build()
    assert query(project, "select min(id), max(id) from above") == [(201, 249)]


def test_file_of_a_source_in_place_that_was_renamed_is_read_by_its_new_name(make_project: MakeProject) -> None:
    project = make_project("features")
    rewrite_orders(project, "parquet")
    project.build()
    assert query(project, "select count(*) from orders") == [(300,)]
    (project.root / "data/orders.parquet").rename(project.root / "data/sold.parquet")
    project.edit("features/orders.yml", "data/orders.parquet", "data/sold.parquet")
    assert not project.build().of("built")
    assert query(project, "select count(*) from orders") == [(300,)]


LOADED = """
import sys
from treadle.cli import main
try:
    main(["build"])
finally:
    print(sorted({"duckdb", "pyarrow", "polars", "numpy", "sqlglot", "jinja2"} & set(sys.modules)))
"""


def test_build_with_nothing_to_do_loads_no_engine_although_there_are_views(make_project: MakeProject) -> None:
    view = "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where id >= 200"
    project = make_project("features", {"features/recent.sql": view})
    rewrite_orders(project, "parquet")
    project.run("build")
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("0 built, 1 reused")
    assert done.stdout.splitlines()[-1] == "[]"


def test_build_of_queries_loads_neither_polars_nor_arrow(make_project: MakeProject) -> None:
    spend = "{{ config(entity='user', static=true) }}\nselect user, sum(amount) as total from {{ ref('orders') }} group by 1"
    project = make_project("features", {"features/spend.sql": spend})
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("2 built")
    assert not {"polars", "pyarrow", "numpy"} & set(ast.literal_eval(done.stdout.splitlines()[-1]))


def test_build_of_the_refit_alone_registers_its_model(make_project: MakeProject) -> None:
    project = make_project("churn")
    done = project.build("churn.refit")
    assert done.outcome.published, done.problems
    assert done.outcome.candidates == {"churn": 1}
    with project.open() as workspace:
        [version] = workspace.registry.versions("churn", env="dev")
        published = workspace.state.environment("dev")
        assert (version.shipped, version.validate) == (published["churn.refit"], published["churn.validate"])
        assert not find_unused(workspace.store, workspace.state, Terms(timedelta(0))).versions
