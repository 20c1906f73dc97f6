"""Equal projects give equal bytes: two builds in two folders, in any order, with any number of threads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

MORE = {
    "features/joined.sql": """\
select o.id, o.user, s.total, p.large_share, o.amount / s.n as ratio
from {{ ref('orders') }} o
join {{ ref('spend') }} s on s.user = o.user and s.ts = o.ts
left join {{ ref('profile') }} p on p.user = o.user
""",
    "features/recent.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where ts > '2024-01-20'",
    "features/by_user.sql": "select user, avg(amount) as mean, stddev(amount) as sd from {{ ref('recent') }} group by user",
    "features/ranked.py": """\
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def ranked(orders: pl.LazyFrame) -> pl.LazyFrame:
    return orders.group_by("user").agg(pl.col("amount").sum().alias("total"), pl.col("id").max())
""",
}


def files(project: ProjectFolder) -> dict[str, str]:
    """Return path -> sha256 of every file of the store."""
    store = project.root / ".treadle/store"
    found = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_two_builds_in_two_folders_are_equal(make_project: MakeProject) -> None:
    one = make_project("churn", MORE, name="one")
    other = make_project("churn", MORE, name="a longer folder's name")
    one.build(threads=1)
    other.build("ranked", "spend")  # in another order, in two runs, with other neighbours
    done = other.build(threads=3)
    assert done.outcome.published, done.problems
    assert one.metas() == other.metas()
    assert files(one) == files(other)
    kinds = {path.suffix for path in map(Path, files(one))}
    assert kinds == {".json", ".parquet", ".arrow", ".skops"}


def test_nothing_of_a_version_tells_when_or_where_it_was_built(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        run_id = workspace.state.runs()[0].id.encode()
    for fingerprint, meta in churn.metas().items():
        assert run_id not in meta
        for path in (churn.root / ".treadle/store" / fingerprint).rglob("*.*"):
            content = path.read_bytes() if path.is_file() else b""
            assert str(churn.root).encode() not in content
            assert run_id not in content
