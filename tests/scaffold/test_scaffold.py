"""The scaffold: what it writes builds, what it guesses is in the data, and what it cannot use it says."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import duckdb
import pytest

from treadle.errors import UsageError
from treadle.graph import compile_graph
from treadle.project import read_project
from treadle_runtime.workspace import Workspace
from treadle_scaffold.folder import to_identifier
from treadle_scaffold.from_data import init_from
from treadle_scaffold.parts import to_duration
from treadle_scaffold.piece import new
from treadle_scaffold.template import TEMPLATES, init

ORDERS = "Order ID,customer_id,ts,amount,channel,order,remark,churned"


def write_orders(path: Path, rows: int = 400) -> Path:
    """Rows with a signal: large amounts and the web make churn likely."""
    draw = random.Random(3)
    lines = [ORDERS]
    for i in range(rows):
        amount = round(draw.gauss(50, 20), 2)
        channel = draw.choice(["web", "shop", "phone"])
        chance = 1 / (1 + math.exp(1 - (amount - 50) / 12 - (channel == "web")))
        moment = f"2024-{1 + i * 11 // rows:02}-{1 + i % 28:02} {i % 24:02}:00:00"
        shown = "" if draw.random() < 0.05 else str(amount)
        churned = str(draw.random() < chance).lower()
        cells = (1000 + i, f"c{draw.randint(1, 40)}", moment, shown, channel, draw.randint(0, 5), f"no. {i}", churned)
        lines.append(",".join(map(str, cells)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def compile_names(root: Path) -> set[str]:
    return {step.id for step in compile_graph(read_project(root), environ={}).steps.values()}


def build(root: Path) -> Workspace:
    workspace = Workspace(root)
    outcome = workspace.build()
    assert outcome.run.outcome == "passed", outcome.run.results
    return workspace


def problem_of(error: pytest.ExceptionInfo[UsageError]) -> tuple[str, str]:
    assert len(error.value.problems) == 1
    return error.value.problems[0].code, error.value.problems[0].to_text()


# folders


def test_init_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError) as error:
        init(tmp_path)
    code, text = problem_of(error)
    assert code == "TR603"
    assert "notes.txt" in text
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_init_fills_a_folder_that_holds_only_git(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    init(tmp_path, name="first", template="minimal")
    assert (tmp_path / ".gitignore").is_file()
    assert read_project(tmp_path).spec.name == "first"


def test_init_leaves_nothing_behind_when_the_data_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    file.write_text("a,b\n1,2\n1,3\n", encoding="utf-8")
    with pytest.raises(UsageError):
        init_from(tmp_path / "shop", data=file, label="a")
    assert os.listdir(tmp_path) == ["orders.csv"]


def test_init_names_the_nearest_template(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean: minimal"):
        init(tmp_path / "p", template="minimall")


def test_project_is_named_after_its_folder(tmp_path: Path) -> None:
    init(tmp_path / "my-first project", template="minimal")
    assert read_project(tmp_path / "my-first project").spec.name == "my_first_project"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("orders", "orders"),
        ("Preis (EUR)", "Preis_EUR"),
        ("Größe", "Grosse"),
        ("2024 sales", "x_2024_sales"),
        ("??", "x"),
    ],
)
def test_names_become_identifiers(text: str, name: str) -> None:
    assert to_identifier(text, default="x") == name


@pytest.mark.parametrize(("seconds", "text"), [(0, "1s"), (90, "90s"), (150, "3m"), (90_000, "25h"), (200_000, "3d")])
def test_durations_are_rounded_up_to_whole_units(seconds: float, text: str) -> None:
    assert to_duration(seconds) == text


# templates


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_leaves_nothing_to_fill_in(tmp_path: Path, template: str) -> None:
    for path in init(tmp_path / "p", template=template):
        assert "dot_" not in str(path.relative_to(tmp_path))
        if path.suffix != ".parquet":
            assert "[[" not in path.read_text(encoding="utf-8").replace("[[project", ""), path


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_builds_passes_its_tests_and_runs_nothing_twice(tmp_path: Path, template: str) -> None:
    init(tmp_path / "p", template=template)
    with build(tmp_path / "p") as workspace:
        if template == "flights":
            (version,) = workspace.registry.versions("late_arrivals", env="dev")
            assert 0.7 < version.metrics["roc_auc"] < 0.8
        assert {result.status for result in workspace.build().run.results.values()} <= {"reused", "inlined"}


# data of one's own


@pytest.mark.parametrize(
    ("label", "time", "entity", "task"),
    [
        ("churned", "ts", "customer_id", "binary"),
        ("churned", None, "customer_id", "binary"),
        ("amount", "ts", None, "regression"),
        ("channel", None, None, "multiclass"),
        ("order", None, None, "multiclass"),
    ],
)
def test_project_from_data_builds(tmp_path: Path, label: str, time: str | None, entity: str | None, task: str) -> None:
    file = write_orders(tmp_path / "orders.csv")
    init_from(tmp_path / "p", data=file, label=label, time=time, entity=entity)
    project = read_project(tmp_path / "p")
    assert {model.spec.task for model in project.models.values()} == {task}
    (dataset,) = project.datasets.values()
    assert dataset.spec.key == "Order_ID"
    assert not {label, "remark", "ts", "customer_id"} & set(dataset.spec.columns)
    assert ("customer_history" in compile_names(tmp_path / "p")) == (time is not None and entity is not None)
    (pipeline,) = project.pipelines.values()
    assert pipeline.spec.split.by == ("time" if time else "entity" if entity else "random")
    build(tmp_path / "p").close()


def test_project_from_data_without_a_key_numbers_its_rows(tmp_path: Path) -> None:
    draw = random.Random(1)
    lines = [
        "Größe;Ort;Preis (EUR)",
        *(f"{draw.randint(30, 90)};{draw.choice('AB')};{draw.random():.5f}" for _ in range(90)),
    ]
    file = tmp_path / "2024 prices.csv"
    file.write_text("\n".join(lines), encoding="utf-8")
    init_from(tmp_path / "p", data=file, label="Preis (EUR)")
    (dataset,) = read_project(tmp_path / "p").datasets.values()
    assert (dataset.spec.key, dataset.spec.columns) == ("row_id", ("Grosse", "Ort"))
    build(tmp_path / "p").close()


def test_project_from_parquet_leaves_rare_classes_and_nested_columns_out(tmp_path: Path) -> None:
    query = """
        select i as id, ['red', 'green', 'blue'][1 + i % 3] as near, i % 7 as at, {'a': i} as nested, 1 as same,
            case when i % 60 = 0 then 'rare ' || i // 120 else ['x', 'y', 'it''s'][1 + i % 3] end as kind,
            timestamptz '2024-01-01 00:00:00Z' + to_hours(i::integer) as t
        from range(600) r(i)
    """
    duckdb.execute(f"copy ({query}) to '{tmp_path}/things.parquet'")
    init_from(tmp_path / "p", data=tmp_path / "things.parquet", label="kind", time="t")
    (dataset,) = read_project(tmp_path / "p").datasets.values()
    assert dataset.spec.columns == ("near", "at")
    with build(tmp_path / "p") as workspace:
        (version,) = workspace.registry.versions("kind", env="dev")
        assert version.metrics["accuracy"] == 1


def test_project_from_noise_builds(tmp_path: Path) -> None:
    draw = random.Random(1)
    lines = ["x,y,label", *(f"{draw.random():.4f},{draw.choice('ab')},{draw.randint(0, 1)}" for _ in range(100))]
    (tmp_path / "noise.csv").write_text("\n".join(lines), encoding="utf-8")
    init_from(tmp_path / "p", data=tmp_path / "noise.csv", label="label")
    build(tmp_path / "p").close()


def test_missing_label_names_the_nearest_column(tmp_path: Path) -> None:
    file = write_orders(tmp_path / "orders.csv", rows=30)
    with pytest.raises(UsageError) as error:
        init_from(tmp_path / "p", data=file, label="churn")
    code, text = problem_of(error)
    assert code == "TR403"
    assert "did you mean: churned" in text


@pytest.mark.parametrize(
    ("label", "time", "code", "words"),
    [
        ("remark", None, "TR708", "400 of them different"),
        ("ts", None, "TR708", "TIMESTAMP"),
        ("churned", "channel", "TR712", "holds no times"),
        ("churned", "tss", "TR706", "did you mean: ts"),
        ("churned", "churned", "TR603", "one column twice"),
    ],
)
def test_columns_that_do_not_fit_are_told(tmp_path: Path, label: str, time: str | None, code: str, words: str) -> None:
    file = write_orders(tmp_path / "orders.csv")
    with pytest.raises(UsageError) as error:
        init_from(tmp_path / "p", data=file, label=label, time=time)
    found, text = problem_of(error)
    assert found == code
    assert words in text


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("a.xlsx", "x", "TR603", "neither CSV nor Parquet"),
        ("a.csv", "x,y\n", "TR713", "no rows"),
        ("a.csv", "x,y\n1,0\n2,1\n3\n", "TR713", "a.csv"),
        ("a.csv", "x,y\n1,5\n2,5\n", "TR708", "the same value"),
        ("a.csv", "x,y\n1,0\n1,1\n1,1\n", "TR603", "the same in every row"),
        ("a.csv", "x,y\n1,0\n2,1\n3,1\n", "TR707", "3 rows"),
    ],
)
def test_files_that_cannot_be_learnt_from_are_told(
    tmp_path: Path, name: str, content: str, code: str, words: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        init_from(tmp_path / "p", data=tmp_path / name, label="y")
    found, text = problem_of(error)
    assert found == code
    assert words in text
    assert not (tmp_path / "p").exists()


# pieces


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_new_piece_compiles_beside_the_others(tmp_path: Path, template: str) -> None:
    root = tmp_path / "p"
    init(root, template=template)
    paths = [new(root, kind, f"my_{kind}") for kind in ("feature", "dataset", "model", "pipeline", "test")]
    paths.append(new(root, "feature", "my_python", python=True))
    assert [path.relative_to(root).parts[0] for path in paths] == [
        *("features", "models", "models", "pipelines", "tests", "features")
    ]
    (pipeline,) = set(read_project(root).pipelines) - {"my_pipeline"}
    names = compile_names(root)
    assert {
        "my_feature",
        "my_python",
        "my_dataset",
        f"{pipeline}.my_model.train",
        "my_pipeline.validate",
        "test:my_test",
    } <= names


def test_new_pieces_build(tmp_path: Path) -> None:
    root = tmp_path / "p"
    init(root, template="minimal")
    for kind in ("feature", "dataset", "model", "pipeline", "test"):
        new(root, kind, f"my_{kind}")
    build(root).close()


@pytest.mark.parametrize(
    "listed", ["    models: [logistic]\n", "    models:\n      - logistic\n", "    models: [\n      logistic]\n"]
)
def test_new_model_joins_its_pipeline_however_it_is_written(tmp_path: Path, listed: str) -> None:
    root = tmp_path / "p"
    init(root, template="minimal")
    path = root / "pipelines" / "churn.yml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("    models: [logistic]\n", listed), encoding="utf-8")
    new(root, "model", "other")
    assert read_project(root).pipelines["churn"].spec.models == ("logistic", "other")


@pytest.mark.parametrize(
    ("kind", "name", "code", "words"),
    [
        ("feature", "customers", "TR102", "it is a feature"),
        ("model", "churn", "TR102", "it is a dataset"),
        ("pipeline", "churn", "TR102", "it is a pipeline"),
        ("feature", "7 days", "TR101", "fix: write feature_7_days"),
        ("features", "x", "TR603", "did you mean: feature"),
    ],
)
def test_new_refuses_names_that_are_bad_or_taken(tmp_path: Path, kind: str, name: str, code: str, words: str) -> None:
    init(tmp_path / "p", template="minimal")
    with pytest.raises(UsageError) as error:
        new(tmp_path / "p", kind, name)
    found, text = problem_of(error)
    assert found == code
    assert words in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("feature", "no table to read"),
        ("test", "no table to read"),
        ("model", "no dataset"),
        ("pipeline", "no dataset"),
    ],
)
def test_new_piece_of_an_empty_project_says_what_is_missing(tmp_path: Path, kind: str, words: str) -> None:
    (tmp_path / "treadle.yml").write_text("name: empty\n", encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        new(tmp_path, kind, "first")
    assert os.listdir(tmp_path) == ["treadle.yml"]
