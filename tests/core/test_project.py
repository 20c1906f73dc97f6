"""Reading a project from disk: which files count, where they may lie, and what survives any edit."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.errors import ProjectError
from treadle.files import find_root
from treadle.graph import compile_graph
from treadle.project import Project, merge_defaults, read_project
from treadle.projectfile import MAX_FILE_BYTES

Files = dict[str, str]
WriteProject = Callable[[Files], Path]


def problems_of(project: Project) -> list[str]:
    return [f"{problem.code} {problem.where}" for problem in project.problems]


def refusal(root: Path) -> str:
    with pytest.raises(ProjectError) as raised:
        read_project(root)
    (problem,) = raised.value.problems
    return f"{problem.code} {problem.where}"


def test_root_is_the_nearest_folder_with_treadle_yml(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    (inner / "features").mkdir(parents=True)
    (tmp_path / "outer" / "treadle.yml").write_text("name: outer\n")
    assert find_root(inner / "features") == tmp_path / "outer"
    (inner / "treadle.yml").write_text("name: inner\n")
    assert find_root(inner / "features") == inner
    (inner / "treadle.yml").unlink()
    (inner / "treadle.yml").mkdir()
    assert find_root(inner) == tmp_path / "outer", "a folder of that name is no project"


def test_every_kind_of_file_is_read(good: Files, write_project: WriteProject) -> None:
    project = read_project(write_project(good))
    assert project.problems == ()
    assert sorted(project.sources) == ["flights", "planes"]
    assert sorted(project.entities) == ["carrier", "tailnum"]
    assert sorted(project.features) == ["carrier_history"]
    assert sorted(project.models) == ["linear", "trees"]
    assert sorted(project.sql_features) == [
        "features/arrived.sql",
        "features/carrier_history.sql",
        "features/daily/by_day.sql",
    ]
    assert sorted(project.macros) == ["macros/late.sql"]
    assert sorted(project.sql_tests) == ["tests/probabilities.sql"]
    assert sorted(project.python) == ["features/ages.py", "features/planes_age.py"]


def test_hidden_generated_and_virtual_folders_are_passed_over(good: Files, write_project: WriteProject) -> None:
    before = read_project(write_project(good))
    for folder in (".git", ".venv", "target", "build", "node_modules", "data", "features/.drafts", "env"):
        good[f"{folder}/x.py"] = "def ("
        good[f"{folder}/x.sql"] = "select from"
        good[f"{folder}/x.yml"] = ": :"
    good["env/pyvenv.cfg"] = ""
    good["features/notes.txt"] = good["features/x.csv"] = "\x00"
    after = read_project(write_project(good))
    assert after.problems == ()
    assert (after.python, after.sql_features, after.macros) == (before.python, before.sql_features, before.macros)


def test_byte_order_mark_and_windows_line_ends_do_not_count(good: Files, write_project: WriteProject) -> None:
    root = write_project(good)
    steps = compile_graph(read_project(root), environ={}).steps
    for path, text in good.items():
        (root / path).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    again = compile_graph(read_project(root), environ={}).steps
    assert list(again) == list(steps)
    assert {s: step.code for s, step in again.items()} == {s: step.code for s, step in steps.items()}


def test_defaults_of_the_longest_path_win_key_by_key() -> None:
    defaults = {
        "features/daily": {"threads": 3},
        "features": {"threads": 1, "tags": ["all"]},
        "features/daily/one.sql": {"ttl": "1d"},
        "features/other": {"threads": 9},
    }
    assert merge_defaults(defaults, "features/daily/one.sql") == {"threads": 3, "tags": ["all"], "ttl": "1d"}
    assert merge_defaults(defaults, "features/daily_two.sql") == {"threads": 1, "tags": ["all"]}
    assert merge_defaults(defaults, "models/x.yml") == {}


def test_default_that_is_wrong_is_reported_once_and_left_out(good: Files, write_project: WriteProject) -> None:
    good["treadle.yml"] = "name: x\nvars: {late_minutes: 1}\ndefaults:\n  features: {thread: 2, ttl: soon, tags: [a]}\n"
    project = read_project(write_project(good))
    assert problems_of(project) == ["TR003 treadle.yml:4:14", "TR004 treadle.yml:4:25"]
    assert project.defaults("features/arrived.sql") == {"tags": ["a"]}


def test_defaults_of_models_reach_their_entries(good: Files, write_project: WriteProject) -> None:
    good["treadle.yml"] += "  models: {threads: 2, task: binary}\n"
    good["models/arrivals.yml"] = good["models/arrivals.yml"].replace("task: binary, ", "")
    project = read_project(write_project(good))
    assert project.problems == ()
    assert {model.spec.threads for model in project.models.values()} == {2}


def test_variables_of_the_environment_and_the_call_win(write_project: WriteProject) -> None:
    text = "name: x\nvars: {a: 1, b: 1, c: 1}\nenvironments:\n  production: {vars: {b: 2, c: 2}}\n"
    root = write_project({"treadle.yml": text})
    assert read_project(root).variables == {"a": 1, "b": 1, "c": 1}
    assert read_project(root, environment="production", variables={"c": 3}).variables == {"a": 1, "b": 2, "c": 3}


# files that lie elsewhere


def test_link_inside_the_project_is_followed_once(good: Files, write_project: WriteProject) -> None:
    root = write_project(good)
    (root / "features" / "loop").symlink_to(root / "features")
    (root / "features" / "self").symlink_to(root / "features" / "self")
    (root / "features" / "gone.sql").symlink_to(root / "features" / "nowhere.sql")
    project = read_project(root)
    assert project.problems == ()
    assert len(project.sql_features) == 3


def test_link_out_of_the_project_is_refused_unless_it_is_allowed(write_project: WriteProject, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.sql").write_text("select 1 as one\n")
    root = write_project({"treadle.yml": "name: x\n", "features/b.sql": "select 2 as two\n"})
    (root / "features" / "shared").symlink_to(shared)
    (root / "features" / "c.sql").symlink_to(shared / "a.sql")
    project = read_project(root)
    assert problems_of(project) == ["TR008 features/c.sql", "TR008 features/shared"]
    assert sorted(project.sql_features) == ["features/b.sql"]
    (root / "treadle.yml").write_text("name: x\nallow_paths: [../shared]\n")
    project = read_project(root)
    assert project.problems == ()
    assert sorted(project.sql_features) == ["features/b.sql", "features/c.sql", "features/shared/a.sql"]


def test_folders_nested_deeper_than_the_stack_are_read(write_project: WriteProject) -> None:
    root = write_project({"treadle.yml": "name: x\n"})
    here = os.getcwd()
    try:
        os.chdir(root)
        for _ in range(1_100):
            os.mkdir("d")
            os.chdir("d")
        Path("deep.py").write_text("x = 1\n")
        assert len(read_project(root).python) == 1
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", str(root)], check=True)  # Python's own way goes as deep as its stack


def test_pipe_and_device_are_not_opened(good: Files, write_project: WriteProject) -> None:
    root = write_project(good)
    os.mkfifo(root / "features" / "pipe.sql")
    assert read_project(root).problems == ()


def test_large_file_is_refused(write_project: WriteProject) -> None:
    root = write_project({"features/a.sql": "-" * (MAX_FILE_BYTES + 1)})
    assert problems_of(read_project(root)) == ["TR007 features/a.sql"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "TR006 treadle.yml:1:1"),
        ("- a\n", "TR004 treadle.yml:1:1"),
        ("name: 1a\n", "TR004 treadle.yml:1:1"),
        ("name: [\n", "TR002 treadle.yml:2:1"),
        ("name: x\nnmae: y\n", "TR003 treadle.yml:2:1"),
        ("name: x\nversion: 1.0\n", "TR004 treadle.yml:2:1"),
        ("name: x\nrequires: '>=99'\n", "TR010 treadle.yml:2:1"),
        ("name: x\nrequires: new\n", "TR004 treadle.yml:2:1"),
        ("name: x\ndefault_environment: a b\n", "TR004 treadle.yml:2:1"),
    ],
)
def test_wrong_treadle_yml_stops_at_once(text: str, expected: str, write_project: WriteProject) -> None:
    assert refusal(write_project({"treadle.yml": text})) == expected


def test_default_environment_needs_no_entry(write_project: WriteProject) -> None:
    root = write_project({"treadle.yml": "name: x\ndefault_environment: staging\n"})
    assert read_project(root).environment == "staging"
    assert read_project(root, environment="dev").environment == "dev"
    with pytest.raises(ProjectError, match="TR109"):
        read_project(root, environment="production")


# any edit at all

TOKENS = [
    *("{{", "}}", "{%", "%}", "{#", "(", ")", "[", "]", "{", "}", "'", '"', ":", "- ", "\n", "\t", "    ", ",", ".", "..", ";"),
    *("null", "true", "~", "*a", "&a ", "<<: ", "!x ", "config", "ref", "select", "from", "@", "def ", "class ", "async "),
    *("import ", "*", "**", "name: ", "models:", "é", "\x00", "\x85", "1e999", "9" * 30, "/*", "--", "$$", "->", "\\"),
]  # fmt: skip


def mutate(rng: random.Random, text: str) -> bytes:
    """Return a text with a few bytes, tokens or lines inserted, deleted, repeated, swapped."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        i = rng.randrange(len(text) + 1)
        match rng.randrange(6):
            case 0:
                text = text[:i] + rng.choice(TOKENS) + text[i:]
            case 1:
                text = text[:i] + text[i + rng.randrange(1, 10) :]
            case 2:
                j = rng.randrange(len(text) + 1)
                text = text[:i] + text[j : j + rng.randrange(1, 30)] + text[i:]
            case 3:
                text = text[:i] + chr(rng.randrange(256)) + text[i + 1 :]
            case pieces:
                parts = re.findall(r"\w+|\W", text) if pieces == 4 else text.splitlines(keepends=True)
                if parts:
                    a, b = rng.randrange(len(parts)), rng.randrange(len(parts))
                    parts[a], parts[b] = parts[b], parts[a]
                    del parts[rng.randrange(len(parts))]
                    text = "".join(parts)
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if data and rng.random() < 0.1:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("block", range(5))
def test_any_edit_gives_a_graph_or_errors_in_the_usual_form(
    block: int, good: Files, write_project: WriteProject
) -> None:
    root = write_project(good)
    n_refused = 0
    for seed in range(block * 60, block * 60 + 60):
        rng = random.Random(seed)
        path = rng.choice(sorted(good))
        (root / path).write_bytes(mutate(rng, good[path]))
        try:
            compile_graph(read_project(root), environ={})
        except ProjectError as error:
            n_refused += 1
            for problem in error.problems:
                text = problem.to_text()
                assert len(text.splitlines()) <= 15, f"seed {seed}: {text}"
                assert problem.where is not None, f"seed {seed}: {text}"
        (root / path).write_text(good[path], "utf-8")
    assert 20 <= n_refused < 60, "most edits are errors, and some are not"
