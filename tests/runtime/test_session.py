"""The connection that a worker keeps: shared by the jobs of a run, closed to what none of them reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl
import pytest

from treadle_runtime.job import Job
from treadle_runtime.session import OwnSession

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

READER = """\
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def {name}({table}: pl.LazyFrame) -> pl.LazyFrame:
    return {table}.group_by("user").agg(n=pl.len())
"""
FILES = {
    "features/recent.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where amount > 50",
    "features/more.yml": "sources:\n  - {name: visits, path: data/visits.parquet}\n",
    "features/of_view.py": READER.format(name="of_view", table="recent"),
    "features/of_file.py": READER.format(name="of_file", table="visits"),
    "features/of_version.py": READER.format(name="of_version", table="of_view"),
}


@pytest.fixture
def project(make_project: MakeProject) -> ProjectFolder:
    project = make_project("features", FILES)
    pl.DataFrame({"user": ["b", "a", "b"]}).write_parquet(project.root / "data/visits.parquet")
    return project


def jobs(project: ProjectFolder, folder: Path, *names: str) -> list[Job]:
    """Return the jobs of built steps, as a run would make them."""
    (folder / "scratch").mkdir(parents=True)
    found = []
    with project.open() as workspace:
        for name in names:
            handle = workspace.step(name)
            (folder / name).mkdir()
            found.append(handle.jobs.job(handle.plan, handle.step, folder / name, folder / "scratch"))
    return found


def test_views_files_and_versions_are_read_by_one_worker(project: ProjectFolder) -> None:
    done = project.build(tests="without", threads=1)
    assert not done.problems
    with project.open() as workspace:
        found = {name: workspace.step(name).table().to_pylist() for name in ("of_file", "of_version")}
        orders = pl.DataFrame(pl.from_arrow(workspace.step("orders").table()))
    assert found["of_file"] == [{"user": "a", "n": 1}, {"user": "b", "n": 2}]
    users = orders.filter(pl.col("amount") > 50)["user"].unique().sort()
    assert found["of_version"] == [{"user": user, "n": 1} for user in users]


def test_connection_is_kept_until_a_job_reads_other_files(project: ProjectFolder, tmp_path: Path) -> None:
    project.build(tests="without")
    of_view, of_file = jobs(project, tmp_path / "tmp", "of_view", "of_file")
    session = OwnSession()
    with session.lend(of_view) as first:
        n = first.execute("select count(*) from recent").fetchall()
    with session.lend(of_view) as again:
        assert again is first
        with pytest.raises(duckdb.PermissionException):
            again.execute(f"from '{project.root}/data/visits.parquet'")
    with session.lend(of_file) as other:
        assert other is not first
        assert other.execute("select count(*) from visits").fetchall() == [(3,)]
    with session.lend(of_view) as last:
        assert last is other
        assert last.execute("select count(*) from recent").fetchall() == n
        with pytest.raises(duckdb.PermissionException):
            last.execute(f"from '{project.root}/data/orders.csv'")


def test_connection_that_met_an_error_is_replaced(project: ProjectFolder, tmp_path: Path) -> None:
    project.build(tests="without")
    [job] = jobs(project, tmp_path / "tmp", "of_view")
    session = OwnSession()
    with pytest.raises(duckdb.CatalogException), session.lend(job) as first:
        first.execute("from nothing")
    with session.lend(job) as other:
        assert other is not first
        assert other.execute("select count(*) > 0 from recent").fetchall() == [(True,)]
