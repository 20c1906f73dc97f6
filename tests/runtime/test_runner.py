"""A run: what succeeds, what fails and how that is told, what goes on beside a failure, what a changed file does."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from treadle.errors import StoreError
from treadle_runtime.schedule import needs
from treadle_runtime.version import to_meta
from treadle_runtime.workers import WorkerPool

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

BROKEN = {
    "features/broken.py": """\
import polars as pl
from treadle import feature

from .arithmetic import divide


@feature(entity="user", static=True)
def broken(orders: pl.LazyFrame) -> pl.LazyFrame:
    rows = orders.collect().height
    divide(rows, rows - 300)
    return orders
""",
    "features/arithmetic.py": "def divide(a, b):\n    return a / b\n",
    "features/on_broken.sql": "select * from {{ ref('broken') }}",
    "features/apart.sql": "select 1 as x",
}


def after_failure(stderr: str) -> list[str]:
    """Return the lines from the error block on."""
    lines = stderr.splitlines()
    return lines[next(n for n, line in enumerate(lines) if line.startswith("error[")) :]


# failures


def test_failing_python_feature_ends_with_the_users_line(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN)
    result = project.treadle("build", code=1)
    block = after_failure(result.stderr)
    assert len(block) <= 15
    assert block[0] == 'error[TR701]: feature "broken" raised ZeroDivisionError'
    assert "  ZeroDivisionError: division by zero" in block
    assert "treadle build" in result.stderr
    assert block[-2:] == ["  features/arithmetic.py:2 in divide", "      return a / b"]
    assert "  features/broken.py:10 in broken" in block
    assert "Traceback" not in result.stderr
    assert "next: correct it and run the same command" in result.stdout
    failed_at = next(n for n, line in enumerate(result.stderr.splitlines()) if "feature  broken" in line)
    assert len(result.stderr.splitlines()) - failed_at <= 15 + 4  # the steps that ran beside it
    assert "not run: on_broken" in result.stderr


def test_independent_steps_run_beside_a_failure_and_are_not_repeated(make_project: MakeProject) -> None:
    project = make_project("features", BROKEN)
    done = project.build(threads=1)
    assert done.of("failed") == {"broken"}
    assert done.of("skipped") == {"on_broken"}
    assert done.of("built") >= {"orders", "spend", "apart"}
    assert not done.outcome.published
    project.edit("features/arithmetic.py", "a / b", "a / (b or 1)")
    again = project.build()
    assert again.of("built") == {"broken", "on_broken"}
    assert again.outcome.published


def test_failing_sql_is_located(make_project: MakeProject) -> None:
    project = make_project("features", {"features/bad.sql": "select id,\n  amont from {{ ref('orders') }}"})
    result = project.treadle("build", code=1)
    block = after_failure(result.stderr)
    assert len(block) <= 15
    assert block[0] == 'error[TR702]: SQL failed in feature "bad"'
    assert block[1].startswith("  features/bad.sql")
    assert any("amont" in line for line in block)
    assert '  Candidate bindings: "amount"' in block
    again = project.build()
    assert again.of("failed") == {"bad"}
    assert not again.of("built")


def test_many_failures_are_counted_not_listed(make_project: MakeProject) -> None:
    bad = {f"features/bad{n}.sql": "select nothing from {{ ref('orders') }}" for n in range(6)}
    readers = {f"features/reader{n}.sql": f"select * from {{{{ ref('bad{n % 6}') }}}}" for n in range(30)}
    result = make_project("features", bad, readers).treadle("build", code=1)
    assert result.stderr.count("error[TR702]") == 3
    assert "and 3 more: " in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("not run: ")]
    assert line.endswith(" and 24 more")
    assert "30 skipped" in result.stdout


def test_failure_in_the_middle_of_a_pipeline(churn: ProjectFolder) -> None:
    churn.edit("models/churn.yml", "label: churned", "label: user")
    done = churn.build()
    assert done.of("failed") == {"churn.linear.train", "churn.tree.train", "churn.baseline"}
    problem = done.problems["churn.linear.train"]
    assert problem.code == "TR708"
    assert problem.where is not None
    assert problem.where.path == "models/churn.yml"
    assert "churn.validate" in done.of("skipped")
    with churn.open() as workspace:
        assert workspace.registry.version("churn", "candidate", env="dev").number == 1
        assert workspace.state.runs(1)[0].status == "failed"


def test_wrong_selection_makes_no_run(make_project: MakeProject) -> None:
    project = make_project("features")
    result = project.treadle("build", "--select", "spent", code=2)
    assert result.stderr.startswith('error[TR601]: "spent" selects nothing\n  did you mean: spend')
    assert project.json("runs") == []


def test_failure_holds_back_readers_through_a_view(make_project: MakeProject) -> None:
    view = {
        "features/view.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('broken') }}",
        "features/on_view.sql": "select * from {{ ref('view') }}",
    }
    done = make_project("features", BROKEN, view).build()
    assert done.of("failed") == {"broken"}
    assert done.of("skipped") == {"on_broken", "on_view"}


def test_failing_test_holds_back_readers_through_a_view(make_project: MakeProject) -> None:
    files = {
        "tests/none.sql": "select * from {{ ref('orders') }}",
        "features/view.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }}",
        "features/on_view.sql": "select * from {{ ref('view') }}",
    }
    assert make_project("features", files).build().of("skipped") == {"spend", "on_view"}


def test_unexpected_failure_is_told_and_goes_no_further(churn: ProjectFolder) -> None:
    with churn.open() as workspace:
        version = workspace.step("rows").version
        assert version is not None
    content = b"?" * version.bytes
    part = replace(version.parts[0], digest=hashlib.sha256(content).hexdigest())  # written so, and no damage
    for name, text in (("data.arrow", content), ("meta.json", to_meta(replace(version, parts=(part,))))):
        (version.folder / name).chmod(0o644)
        (version.folder / name).write_bytes(text)
    churn.edit("pipelines/churn.yml", "validation: 6d", "validation: 5d")
    churn.write("features/apart.sql", "select 1 as x")
    done = churn.build()
    assert done.of("failed") == {"churn.split"}
    assert "apart" in done.of("built")
    problem = done.problems["churn.split"]
    [frame] = problem.frames
    assert frame.startswith("treadle_runtime/arrowfile.py:")
    assert problem.to_text().splitlines()[:4] == [
        "error[TR718]: churn.split failed in a way that Treadle did not expect",
        f"  {problem.where}   {problem.where.text}".rstrip() if problem.where else "",
        "  ArrowInvalid: Not an Arrow file",
        "  fix: please report it with this: `treadle run churn.split --pdb` shows where",
    ]


def test_model_that_cannot_predict_is_told(churn: ProjectFolder) -> None:
    churn.edit("models/churn.yml", "features: [spend, profile]", "features: []")
    churn.edit("models/churn.yml", "logistic_regression}", "logistic_regression, preprocess: {impute: none}}")
    header, *rows = (churn.root / "data/orders.csv").read_text().splitlines()
    last = [",".join([*row.split(",")[:3], "", row.split(",")[4]]) for row in rows[-20:]]
    churn.write("data/orders.csv", "\n".join([header, *rows[:-20], *last]) + "\n")
    done = churn.build()
    problem = done.problems["churn.linear.evaluate"]
    assert (problem.code, problem.what) == ("TR716", 'the model "linear" cannot predict')
    assert "NaN" in problem.why


def test_view_that_fails_is_named(make_project: MakeProject) -> None:
    files = {
        "features/view.sql": "{{ config(materialized='view') }}\nselect nothing from {{ ref('orders') }}",
        "features/on_view.sql": "select * from {{ ref('view') }}",
    }
    problem = make_project("features", files).build("on_view").problems["on_view"]
    assert (problem.code, problem.what) == ("TR702", 'SQL failed in feature "view"')


def test_diamonds_of_views_are_planned_at_once(make_project: MakeProject) -> None:
    def view(n: int, side: str) -> str:
        parents = [f"{{{{ ref('{other}{n - 1}') }}}}" for other in "ab"] if n else ["{{ ref('orders') }}"]
        return "{{ config(materialized='view') }}\n" + " union all ".join(
            f"(from {parent} limit 1)" for parent in parents
        )

    graph_files = {f"features/{side}{n}.sql": view(n, side) for n in range(30) for side in "ab"}
    with make_project("features", graph_files, {"features/top.sql": "from {{ ref('a29') }}"}).open() as workspace:
        inputs, after = needs(workspace.graph, workspace.graph["top"])
    assert len(inputs) == 2 * 29 + 1 + 1
    assert set(after) == {"test:not_null_orders_id", "test:unique_orders_id"}


# parallel


def test_steps_run_side_by_side_within_threads(make_project: MakeProject) -> None:
    """Each of two features waits for the other: that ends only when they run at once."""
    body = """\
import pathlib, time
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def {name}(orders: pl.LazyFrame) -> pl.LazyFrame:
    pathlib.Path("{mine}").touch()
    while not pathlib.Path("{theirs}").exists():
        time.sleep(0.01)
    return orders.select("user").unique()
"""
    files = {
        "features/left.py": body.format(name="left", mine="one", theirs="two"),
        "features/right.py": body.format(name="right", mine="two", theirs="one"),
    }
    project = make_project("features", files)
    assert project.build(threads=2).of("built") >= {"left", "right"}


def test_step_that_wants_more_threads_than_there_are_runs_alone(make_project: MakeProject) -> None:
    wide = {"features/wide.sql": "{{ config(threads=8) }}\nselect sum(amount) as total from {{ ref('orders') }}"}
    project = make_project("features", wide)
    done = project.build(threads=2)
    assert done.outcome.published
    with project.open() as workspace:
        version = workspace.step("wide").version
        assert version is not None
        assert not version.reproducible


def test_what_stands_on_an_unreproducible_step_is_unreproducible(make_project: MakeProject) -> None:
    files = {
        "features/wide.sql": "{{ config(threads=2) }}\nselect * from {{ ref('orders') }}",
        "features/between.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('wide') }}",
        "features/above.sql": "select user from {{ ref('between') }}",
    }
    project = make_project("features", files)
    project.build()
    with project.open() as workspace:
        version = workspace.step("above").version
        assert version is not None
        assert not version.reproducible


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("pl.LazyFrame", "orders.group_by('user').agg(pl.col('amount').cast(float).sum())", False),
        ("pl.LazyFrame", "orders.group_by('user').agg(pl.col('amount').cast(float).sum()).collect()", False),
        ("pl.LazyFrame", "orders.group_by('user').agg(pl.col('amount').cast(pl.Float32))", False),
        ("pl.LazyFrame", "orders.group_by('user').agg(pl.col('id').sum())", True),
        ("pl.DataFrame", "orders.select('user', pl.col('amount').cast(float)).unique('user')", True),
        ("pl.DataFrame", "orders.lazy().group_by('user').agg(pl.col('amount').mean())", False),
    ],
)
def test_floats_of_a_lazy_frame_are_not_reproducible(
    make_project: MakeProject, kind: str, body: str, *, expected: bool
) -> None:
    """Computed twelve times by one thread, the sums of a million floats by 200,000 keys came out in twelve ways."""
    signature = f"def shares(orders: {kind}) -> {kind}:\n    return {body}\n"
    head = "import polars as pl\nfrom treadle import feature\n\n\n@feature(entity='user', static=True)\n"
    project = make_project("features", {"features/shares.py": head + signature})
    assert project.build("shares").outcome.published
    with project.open() as workspace:
        version = workspace.step("shares").version
        assert version is not None
        assert version.reproducible is expected


def test_idle_worker_that_died_is_replaced(tmp_path: Path) -> None:
    pool = WorkerPool(tmp_path, 1)
    try:
        [first] = pool._all
        first.process.kill()
        first.process.wait()
        pool.replace_dead()
        [second] = pool._all
        assert second is not first
        assert second.is_alive()
    finally:
        pool.stop()
    assert second.process.poll() is not None


# files that change during the build


def waiting_feature(name: str = "waits") -> dict[str, str]:
    """Return a feature that waits in the middle until the file `go` is there."""
    return {
        f"features/{name}.py": f"""\
import pathlib, time
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def {name}(orders: pl.LazyFrame) -> pl.LazyFrame:
    pathlib.Path("here").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return orders.select("user").unique()
"""
    }


def test_python_file_edited_during_the_build_is_refused(make_project: MakeProject) -> None:
    project = make_project("features", waiting_feature())
    process = project.start("build")
    project.wait_for(lambda: (project.root / "here").exists())
    project.edit("features/waits.py", ".unique()", ".unique().head(3)")
    (project.root / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert 'error[TR711]: features/waits.py changed while feature "waits" ran' in stderr
    project.treadle("build")
    assert project.json("show", "waits")["rows"] == 3


def test_parquet_source_changed_during_the_build_is_refused(make_project: MakeProject) -> None:
    project = make_project("features", waiting_feature())
    to_parquet(project)
    process = project.start("build")
    project.wait_for(lambda: (project.root / "here").exists())
    to_parquet(project, "where id < 100")
    (project.root / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error[TR711]: data/orders.parquet changed while it was read" in stderr
    project.treadle("build")
    assert project.json("show", "spend", "--limit", "0")["rows"] <= 100


def to_parquet(project: ProjectFolder, where: str = "") -> None:
    import duckdb

    target = project.root / "data/orders.parquet"
    duckdb.execute(f"copy (from read_csv('{project.root}/data/orders.csv') {where}) to '{target}' (format parquet)")
    if not where:
        project.edit("features/orders.yml", "path: data/orders.csv", "path: data/orders.parquet")


# a store that is not as it was written


def test_damaged_version_is_named(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    with project.open() as workspace:
        version = workspace.step("spend").version
        assert version is not None
    part = version.folder / version.parts[0].name
    part.chmod(0o644)
    part.write_bytes(b"x")
    with project.open() as workspace, pytest.raises(StoreError) as caught:
        workspace.step("spend").sample(1)
    assert caught.value.problems[0].code == "TR804"
    shutil.rmtree(version.folder)
    assert project.build().of("built") == {"spend"}
