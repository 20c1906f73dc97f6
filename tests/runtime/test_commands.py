"""The commands as processes: the answer on stdout, progress on stderr, exit codes, JSON, close matches."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder


# build


def test_build_tells_the_story(make_project: MakeProject) -> None:
    project = make_project("churn")
    result = project.run("build")
    steps, summary = result.stderr.splitlines(), result.stdout.splitlines()
    told = [line for line in steps if line.startswith("[")]
    assert len(told) == 13  # one for each step; tests that pass are counted in the summary
    assert told[0].startswith("[ 1/13] source   orders")
    assert told[-1].startswith("[13/13] refit    churn")
    assert any("source   orders" in line and "300 rows x 5" in line for line in steps)
    assert any("skipped: roc_auc >= champion.roc_auc - 0.05: there is no champion yet" in line for line in steps)
    assert summary[0].startswith("churn: ")
    assert [line.split(": ")[2].split()[0] for line in summary[:2]] == ["roc_auc", "brier"]  # the pipeline's own order
    assert "[" in summary[0]
    assert "constant 0.5" in summary[0]
    assert "best single input (amount)" in summary[0]
    assert "built, 0 reused, " in summary[2]
    assert summary[-2:] == ["churn: version 1 is the candidate in dev", "next: treadle models promote churn"]
    assert project.treadle("build").stdout.splitlines()[:2] == summary[:2]
    assert project.leftovers() == []


def test_build_json_is_run_results(churn: ProjectFolder) -> None:
    churn.edit("pipelines/churn.yml", "roc_auc >= 0.6", "roc_auc >= 0.61")
    result = churn.treadle("build", "--json")
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert found == churn.results()
    assert found["results_version"] == 2
    assert (found["environment"], found["status"], found["published"]) == ("dev", "passed", True)
    assert found["run_id"] == churn.json("runs")[0]["id"]
    steps = {step["id"]: step for step in found["steps"]}
    assert steps["churn.validate"]["status"] == "built"
    assert steps["churn.validate"]["reason"] == 'gates[0]: "roc_auc >= 0.6" -> "roc_auc >= 0.61"'
    assert steps["rows"]["status"] == "reused"
    assert set(steps["rows"]) == {"id", "kind", "status", "fingerprint", "reason"}
    assert found["candidates"] == {"churn": 2}


def test_failing_build_json_holds_the_problems(make_project: MakeProject) -> None:
    project = make_project("features", {"features/bad.sql": "select nothing from {{ ref('orders') }}"})
    result = project.treadle("build", "--json", code=1)
    found = json.loads(result.stdout)
    assert (found["status"], found["published"]) == ("failed", False)
    [bad] = [step for step in found["steps"] if step["status"] == "failed"]
    assert bad["problems"][0]["code"] == "TR702"
    assert bad["problems"][0]["where"]["path"] == "features/bad.sql"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["build", "--select", "spnd"], "TR601"),
        (["build", "--select", "knd:feature"], "TR602"),
        (["buld"], "TR603"),
        (["show", "spnd"], "TR601"),
        (["show", "spend", "--row", "1"], "TR603"),
        (["runs", "20200101T000000-abcd"], "TR603"),
        (["models", "promote", "chrn"], "TR603"),
        (["run", "--pdb", "spend", "profile"], "TR603"),
        (["run", "--pdb", "spnd"], "TR601"),
        (["build", "--env", "devv"], "TR109"),
        (["build", "--vars", "3"], "TR603"),
    ],
)
def test_wrong_usage_exits_2_and_prints_nothing_on_stdout(
    churn: ProjectFolder, arguments: list[str], code: str
) -> None:
    result = churn.treadle(*arguments, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith(f"error[{code}]: ")
    assert len(result.stderr.splitlines()) <= 6


def test_close_matches_are_suggested(churn: ProjectFolder) -> None:
    for arguments, expected in (
        (["show", "spnd"], "spend"),
        (["models", "promote", "chrn"], "churn"),
        (["build", "-s", "profil"], "profile"),
    ):
        assert f"did you mean: {expected}" in churn.treadle(*arguments, code=2).stderr


def test_error_of_the_project_exits_2_in_every_command(make_project: MakeProject) -> None:
    project = make_project("features", {"features/bad.sql": "select * from {{ ref('ordrs') }}"})
    for command in ("build", "plan", "list", "compile", "show spend"):
        result = project.treadle(*command.split(), code=2)
        assert result.stderr.startswith('error[TR104]: "ordrs" is not defined') or "TR104" in result.stderr, command
        assert "did you mean: orders" in result.stderr
        assert result.stdout == ""
    result = project.treadle("debug", code=2)
    assert "error  graph" in result.stdout
    assert "TR104" in result.stderr


# plan, list, compile


def test_plan_gives_actions_and_reasons(churn: ProjectFolder) -> None:
    assert churn.treadle("plan").stdout.splitlines() == ["0 to build, 16 to reuse in dev", "nothing to do"]
    churn.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    result = churn.treadle("plan", "--select", "spend+")
    lines = [line.split(maxsplit=3) for line in result.stdout.splitlines()]
    assert lines[0] == ["build", "feature", "spend", "code of features/spend.sql changed"]
    assert lines[1] == ["build", "dataset", "rows", "spend changed"]
    assert result.stdout.splitlines()[-1] == "next: treadle build --select spend+"
    found = {step["id"]: step for step in churn.json("plan")}
    assert found["spend"]["action"] == "build"
    assert found["orders"]["action"] == "reuse"
    assert found["spend"]["changes"][0]["component"] == "code:features/spend.sql"


def test_plan_writes_no_version_and_runs_nothing(make_project: MakeProject) -> None:
    project = make_project("churn")
    project.treadle("plan")
    assert project.metas() == {}
    assert project.json("runs") == []


def test_list_and_compile(churn: ProjectFolder) -> None:
    found = churn.json("list", "--select", "kind:feature")
    assert [step["id"] for step in found] == ["spend", "profile"] or {s["id"] for s in found} == {"spend", "profile"}
    (churn.root / "target/manifest.json").unlink(missing_ok=True)
    result = churn.treadle("compile")
    assert "wrote target/manifest.json" in result.stdout
    manifest = json.loads((churn.root / "target/manifest.json").read_text())
    assert (
        {step["id"] for step in manifest["steps"]} == {step["id"] for step in churn.json("list")}
        if isinstance(manifest["steps"], list)
        else set(manifest["steps"])
    )


def test_list_survives_a_closed_pipe(churn: ProjectFolder) -> None:
    command = f"{sys.executable} -m treadle list | head -n 1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=churn.root, capture_output=True, text=True, check=False
    )
    assert result.stdout.startswith("source ")
    assert result.stderr == ""


# show


def test_show_prints_rows(churn: ProjectFolder) -> None:
    result = churn.treadle("show", "spend", "--limit", "2")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["user", "ts", "total", "n"]
    assert len(lines) == 4
    assert lines[-1].endswith("rows x 4")
    assert result.stderr == ""
    found = churn.json("show", "orders", "--limit", "1")
    assert found["rows"] == 300
    assert list(found["sample"][0]) == ["id", "user", "ts", "amount", "churned"]
    assert churn.json("show", "rows", "--limit", "0")["sample"] == []


def test_show_of_what_is_not_built_says_how(make_project: MakeProject) -> None:
    project = make_project("churn")
    for name, select in (("spend", "spend"), ("churn", "pipeline:churn"), ("linear", "pipeline:churn")):
        result = project.treadle("show", name, code=2)
        assert result.stderr.startswith("error[TR807]: ")
        assert f"fix: run `treadle build --select {select}`" in result.stderr


def test_show_row_prints_the_times_of_each_value(churn: ProjectFolder) -> None:
    churn.edit("features/spend.sql", "event_time='ts'", "event_time='ts', known_at='known'")
    churn.edit("features/spend.sql", "count(*) as n", "count(*) as n, ts + interval 1 hour as known")
    churn.build("rows", tests="without")
    found = churn.json("show", "rows", "--row", "250")
    assert found["key"] == 250
    values = {value["input"]: value for value in found["inputs"]}
    assert values["amount"]["event_time"] is None
    assert values["profile__large_share"]["event_time"] is None  # true at all times
    total = values["spend__total"]
    assert total["event_time"] < total["known_at"] <= found["at"]
    text = churn.treadle("show", "rows", "--row", "250").stdout
    assert text.startswith("rows: id = 250\npredicted at  2024-01-")
    header = next(line for line in text.splitlines() if line.startswith("input"))
    assert header.split() == ["input", "value", "event_time", "known_at"]
    line = next(line for line in text.splitlines() if line.startswith("spend__total"))
    assert str(total["known_at"]) in line
    assert churn.treadle("show", "rows", "--row", "99999", code=2).stdout == ""


def test_show_prints_the_card_of_a_model(churn: ProjectFolder) -> None:
    card = churn.json("show", "churn")
    assert (card["pipeline"], card["version"], card["aliases"]) == ("churn", 1, ["candidate"])
    assert list(card["test"]) == list(card["validation"]) == ["roc_auc", "brier"]
    assert card["inputs"] == ["amount", "spend__total", "spend__n", "profile__large_share"]
    assert [gate["status"] for gate in card["gates"]] == ["passed", "skipped"]
    assert churn.json("show", card["model"]) == card
    text = churn.treadle("show", "churn").stdout
    assert text.startswith(f"churn version 1 (candidate): {card['model']}, sklearn.")
    assert text.index("roc_auc  ") < text.index("brier  ")
    assert (churn.root / ".treadle/store" / card["shipped"] / "model").is_dir()


# models, runs, debug


def test_models_lists_and_promotes(churn: ProjectFolder) -> None:
    [version] = churn.json("models")
    assert (version["pipeline"], version["number"], version["aliases"]) == ("churn", 1, ["candidate"])
    result = churn.treadle("models", "promote", "churn")
    assert result.stdout.splitlines() == [
        f"churn: version 1 ({version['model']}) is the champion in dev",
        "next: treadle show churn",
    ]
    line = churn.treadle("models").stdout.splitlines()[1]
    assert "candidate, champion" in line
    assert line.index("roc_auc") < line.index("brier")
    assert churn.json("models", "promote", "churn", "1")["aliases"] == ["candidate", "champion"]


def test_models_without_versions(make_project: MakeProject) -> None:
    project = make_project("features")
    assert project.treadle("models").stdout.splitlines()[-1] == "next: treadle build"
    assert project.json("models") == []


def test_runs_lists_runs_and_their_steps(churn: ProjectFolder) -> None:
    churn.treadle("build", "--select", "spend")
    newest, oldest = churn.json("runs")
    assert newest["command"] == "treadle build --select spend"
    assert (newest["status"], newest["env"]) == ("passed", "dev")
    assert newest["finished_at"] > newest["started_at"] > oldest["started_at"]
    run = churn.json("runs", oldest["id"])
    assert {step["step"] for step in run["steps"] if step["status"] == "built"} >= {"orders", "rows", "churn.refit"}
    text = churn.treadle("runs", oldest["id"]).stdout
    assert text.splitlines()[0] == f"{oldest['id']}: {oldest['command']}: passed in dev"
    assert len(churn.treadle("runs", "--limit", "1").stdout.splitlines()) == 2


def test_show_finds_an_own_stage_by_its_short_name(churn: ProjectFolder) -> None:
    head = "import polars as pl\nfrom treadle import stage\n\n\n"
    body = (
        '@stage(pipeline="churn", after="evaluate")\ndef report(tree: pl.LazyFrame):\n    return tree.select("row")\n'
    )
    churn.write("pipelines/own.py", head + body)
    churn.build("report")
    assert churn.json("show", "report") == churn.json("show", "churn.report")


def test_debug_checks_everything(churn: ProjectFolder) -> None:
    text = churn.treadle("debug").stdout
    assert str(churn.root) in text
    found = churn.json("debug")
    assert {check["status"] for check in found["checks"]} == {"ok"}
    assert [check["check"] for check in found["checks"]] == ["project", "graph", "state", "sources", "store"]
    assert set(found["versions"]) >= {"treadle", "duckdb", "polars"}
    (churn.root / "data/orders.csv").unlink()
    found = churn.json("debug", code=2)
    assert [c["status"] for c in found["checks"] if c["check"] == "sources"] == ["error"]
    (churn.root / "treadle.yml").unlink()
    assert "error[TR001]" in churn.treadle("debug", code=2).stderr


# run --pdb


PDB = """\
import polars as pl
from treadle import feature


@feature(entity="user", static=True)
def odd(orders: pl.LazyFrame) -> pl.LazyFrame:
    secret = 41 + 1
    raise RuntimeError("stop here")
"""


def test_pdb_stops_at_the_users_line(make_project: MakeProject) -> None:
    project = make_project("features", {"features/odd.py": PDB})
    result = project.run("run", "odd", "--pdb", answers="p secret * 1000\nq\n", code=1)
    assert "42000" in result.stdout
    assert 'raise RuntimeError("stop here")' in result.stdout
    assert "features/odd.py(8)odd()" in result.stdout
    assert "source   orders" in result.stderr  # its input was built first


def test_pdb_of_a_step_that_runs_stores_nothing(make_project: MakeProject) -> None:
    project = make_project("features", "profile")
    result = project.run("run", "profile", "--pdb")
    assert result.stdout == "profile ran: 2 columns; nothing was stored\n"
    assert len(project.metas()) == 1  # orders
    assert project.run("run", "spend", "--pdb").stdout == "spend ran: 4 columns; nothing was stored\n"


def test_pdb_of_a_step_whose_input_fails(make_project: MakeProject) -> None:
    project = make_project(
        "features", {"features/odd.py": PDB, "features/on_odd.sql": "select * from {{ ref('odd') }}"}
    )
    result = project.run("run", "on_odd", "--pdb", code=1)
    assert "error[TR701]: " in result.stderr
    assert result.stdout == ""


# questions


NOBODY = (
    "error[TR603]: there is nobody to ask\n"
    "  the standard input is at its end, as where no person is at the terminal\n"
    "  fix: add --yes to do it without asking\n"
)


def test_question_without_anybody_to_answer_names_the_option(make_project: MakeProject) -> None:
    project = make_project("features", {"treadle.yml": "name: shop\nenvironments: {production: {}}\n"})
    project.build()
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    project.build()
    for command in ("env promote dev production", "env drop dev", "clean --older-than 0s --keep 0"):
        process = project.start(*command.split())
        stdout, stderr = process.communicate()
        assert (process.returncode, stderr) == (2, NOBODY), command
        assert stdout.endswith("[y/N]: \n")
        closed = ["sh", "-c", f"exec {sys.executable} -m treadle {command} <&-"]
        found = subprocess.run(closed, cwd=project.root, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stderr) == (2, NOBODY), command
    project.run("env", "promote", "dev", "production", "--yes")
    project.run("env", "drop", "production", answers="y\n")
    assert len(project.metas()) == 5
    project.run("clean", "--older-than", "0s", "--keep", "0", answers="n\n")
    assert len(project.metas()) == 5


# what means nothing


SEVERAL = "  fix: several steps are one value of {}, in quotes: {}\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("build --select spend orders", ("--select", "--select 'spend orders'")),
        ("build -s spend orders +x", ("-s", "-s 'spend orders +x'")),
        ("plan --env dev --exclude spend orders", ("--exclude", "--exclude 'spend orders'")),
        ("plan --select spend --exclude orders +x --env dev", ("--exclude", "--exclude 'orders +x'")),
    ],
)
def test_selection_of_several_words_needs_quotes(
    make_project: MakeProject, command: str, said: tuple[str, str]
) -> None:
    result = make_project("features").treadle(*command.split(), code=2)
    assert result.stderr.splitlines()[-2].startswith("Error: Got unexpected extra argument")
    assert result.stderr.endswith(SEVERAL.format(*said))


@pytest.mark.parametrize(
    "command", ["plan -- --select", "plan -- --select a b", "build orders --select spend", "plan x"]
)
def test_stray_word_that_is_no_selector_is_only_refused(make_project: MakeProject, command: str) -> None:
    result = make_project("features").treadle(*command.split(), code=2)
    assert result.stderr.splitlines()[-1].startswith("Error: Got unexpected extra argument")


@pytest.mark.parametrize("command", ["list", "plan", "build", "run"])
def test_selection_of_nothing_is_told(make_project: MakeProject, command: str) -> None:
    project = make_project("features")
    project.treadle("build")
    assert project.treadle(command).stderr.count("warning[") == 0
    result = project.treadle(command, "--select", "state:modified", "--exclude", "spend")
    assert result.stderr == "warning[TR601]: no step is selected\n  --select state:modified --exclude spend\n"
    result = project.treadle(command, "--select", "spend orders", "--exclude", "*", "--json")
    assert result.stderr == "warning[TR601]: no step is selected\n  --select 'spend orders' --exclude '*'\n"
    json.loads(result.stdout)


def test_selection_without_a_test_is_told(make_project: MakeProject) -> None:
    result = make_project("features").treadle("test", "--select", "spend")
    assert result.stderr == "warning[TR601]: no test is selected\n  --select spend\n"


def test_variable_that_nothing_reads_is_an_error(make_project: MakeProject) -> None:
    project = make_project(
        "features", {"treadle.yml": "name: shop\nvars: {least: 0}\nenvironments: {ci: {vars: {seed: 1}}}\n"}
    )
    project.write(
        "features/big.sql", "select * from {{ ref('spend') }} where total > {{ var('least') }} + {{ var('more', 0) }}"
    )
    project.treadle("build", "--vars", "{least: 1, more: 2, seed: 3}")
    for command in ("build", "list", "compile", "show big"):
        assert project.treadle(*command.split(), "--vars", "{leats: 1, other: 2}", code=2).stderr == (
            'error[TR603]: --vars gives "leats", which nothing reads\n'
            "  treadle.yml has least, seed, and no query asks for another of that name\n"
            "  did you mean: least\n"
            "  fix: correct the name, or define it under vars: in treadle.yml\n"
            "\n"
            'error[TR603]: --vars gives "other", which nothing reads\n'
            "  treadle.yml has least, seed, and no query asks for another of that name\n"
            "  fix: correct the name, or define it under vars: in treadle.yml\n"
        )


def test_variable_is_read_by_whatever_name_it_is_asked_for(make_project: MakeProject) -> None:
    project = make_project("features", {"treadle.yml": "name: shop\nallow_paths: [../shared]\n"})
    project.write("macros/weights.sql", "{% macro weight(name) %}{{ var('w_' ~ name, 1) }}{% endmacro %}")
    project.write("features/big.sql", "select total * {{ weight('total') }} as t from {{ ref('spend') }}")
    shared = project.root.parent / "shared/late.sql"
    shared.parent.mkdir()
    shared.write_text("select {{ var('late', 0) }} as late")
    (project.root / "features/late.sql").symlink_to(shared)
    given = ("--vars", "{w_total: 5, late: 3}")
    for _ in range(2):
        assert project.treadle("build", *given).stderr.count("error") == 0
    project.edit("features/big.sql", "as t", "as t2")
    project.treadle("compile", *given)
    shown = project.treadle("show", "late", "--json", *given).stdout
    assert "3" in shown
    for _ in range(2):
        said = project.treadle("compile", "--vars", "{w_all: 5, late: 3}", code=2).stderr
        assert said.startswith('error[TR603]: --vars gives "w_all", which nothing reads\n')
        assert "late" not in said
