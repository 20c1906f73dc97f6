"""Everything that can be wrong with a project, as a person reads it.

The cases stand in tests/fixtures/broken/: a folder a case, named after its first error; `expected.txt` is the whole
text on stderr, `command.txt` the command where it is not `compile`. `<root>` stands for the project's folder.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from treadle import cli, plugins
from treadle.errors import (
    CODES,
    MAX_SHOWN,
    Location,
    Problem,
    ProjectError,
    StepError,
    TreadleError,
    UsageError,
    to_text,
)

BROKEN = Path(__file__).parents[1] / "fixtures" / "broken"
CASES = sorted(folder.name for folder in BROKEN.iterdir())
MAX_LINES = 15

Run = Callable[[Path, str], tuple[int, str]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of trainers' parameters, made once: they depend on what is installed, not on the project."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path) -> Run:
    """Run a command line in a folder and return its exit code and what it said on stderr."""

    def run_command(root: Path, command: str) -> tuple[int, str]:
        monkeypatch.chdir(root)
        if (root / "treadle.yml").exists():
            (root / ".treadle").mkdir()
            (root / ".treadle" / "cache").symlink_to(cache)
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(command))
        code = ended.value.code
        assert isinstance(code, int)
        return code, capsys.readouterr().err.replace(str(root.resolve()), "<root>")

    return run_command


def split_errors(text: str) -> list[list[str]]:
    """Return the lines of each error."""
    return [block.splitlines() for block in text.strip("\n").split("\n\n")]


@pytest.mark.parametrize("name", CASES)
def test_broken_project_ends_with_its_text_and_exit_code_2(name: str, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "project"
    shutil.copytree(BROKEN / name, root, ignore=shutil.ignore_patterns("expected.txt"))
    command = root / "command.txt"
    code, text = run(root, command.read_text() if command.exists() else "compile")
    assert text == (BROKEN / name / "expected.txt").read_text()
    assert code == 2


@pytest.mark.parametrize("name", CASES)
def test_expected_text_says_what_where_why_and_how_to_fix(name: str) -> None:
    for lines in split_errors((BROKEN / name / "expected.txt").read_text()):
        assert len(lines) <= MAX_LINES
        assert re.fullmatch(r"error\[TR\d{3}\]: .+[^.]", lines[0])
        assert all(line.startswith("  ") for line in lines[1:])
        if not lines[0].startswith(("error[TR001]", "error[TR6")):
            assert re.match(r"  [\w./-]+\.(yml|sql|py)(:\d+(:\d+)?)?(   .+)?$", lines[1]), "it names a place in a file"
        said = "\n".join(lines[1:])
        assert "  fix: " in said or re.search(r"expected|YAML reads|write a whole number|is last 60d|takes", said)
        assert not re.search(r"Traceback|NoneType|pydantic|Input should|jinja2|sqlglot|<class", "\n".join(lines))


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("TR")])
def test_case_is_named_after_its_first_error(name: str) -> None:
    assert (BROKEN / name / "expected.txt").read_text().startswith(f"error[{name[:5]}]: ")


def test_ten_errors_are_reported_at_once() -> None:
    errors = split_errors((BROKEN / "ten_at_once" / "expected.txt").read_text())
    assert len(errors) == 10
    assert len({lines[0][:12] for lines in errors}) == 10
    places = [lines[1].split()[0].split(":") for lines in errors]
    in_order = [(path, *map(int, numbers)) for path, *numbers in places]
    assert in_order == sorted(in_order), "they stand in the order of files and lines"


def test_every_code_of_compiling_has_a_case() -> None:
    made_below = {"TR008", "TR009", "TR305", "TR510"}
    found = {name[:5] for name in CASES} | made_below
    assert sorted(code for code in CODES if code < "TR7" and code not in found) == []


# what cannot stand in a repository


def test_link_out_of_the_project_is_refused(tmp_path: Path, run: Run) -> None:
    outside = tmp_path / "secrets.sql"
    outside.write_text("select 'hunter2' as password\n")
    root = tmp_path / "project"
    (root / "features").mkdir(parents=True)
    (root / "treadle.yml").write_text("name: flights\n")
    (root / "features" / "secrets.sql").symlink_to(outside)
    code, text = run(root, "compile")
    assert code == 2
    assert text == (
        "error[TR008]: a file lies outside the project\n"
        "  features/secrets.sql\n"
        f"  the link leads to {outside.resolve()}\n"
        "  fix: copy it into the project, or list its folder in `allow_paths` of treadle.yml\n"
    )


def test_treadle_yml_that_is_a_link_out_of_the_project_is_not_shown(tmp_path: Path, run: Run) -> None:
    outside = tmp_path / "key"
    outside.write_text("hunter2\n")
    root = tmp_path / "project"
    root.mkdir()
    (root / "treadle.yml").symlink_to(outside)
    code, text = run(root, "compile")
    assert code == 2
    assert text == (
        "error[TR008]: a file lies outside the project\n"
        "  treadle.yml\n"
        f"  the link leads to {outside.resolve()}\n"
        "  fix: copy it\n"
    )


@pytest.mark.parametrize("path", ["features/history.sql", "features/more.yml", "features/planes.py", "treadle.yml"])
def test_file_that_is_not_utf8_is_named_with_its_line(path: str, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "project"
    (root / "features").mkdir(parents=True)
    (root / "treadle.yml").write_text("name: flights\n")
    (root / path).write_bytes(b"# first\n# caf\xe9\n")
    code, text = run(root, "compile")
    assert code == 2
    assert text == (
        "error[TR009]: a file is not UTF-8 text\n"
        f"  {path}:2\n"
        "  byte 13: invalid continuation byte\n"
        "  fix: save it as UTF-8\n"
    )


def test_warning_is_shown_and_the_project_compiles(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "project"
    (root / "features").mkdir(parents=True)
    (root / "treadle.yml").write_text("name: flights\n")
    (root / "features" / "flights.yml").write_text("sources:\n  - {name: flights, path: data/flights.csv}\n")
    (root / "features" / "planes.py").write_text(
        "import features.ages\nfrom treadle import feature\n\n\n@feature\ndef planes(flights):\n"
        "    return getattr(features.ages, 'a' + 'ge')(flights)\n"
    )
    (root / "features" / "ages.py").write_text("def age(planes):\n    return planes\n")
    code, text = run(root, "compile")
    assert code == 0
    assert text.startswith('warning[TR305]: what feature "planes" calls cannot be told from the code alone\n')
    assert "\n  features/planes.py:7" in text
    assert text.endswith("until then a change to any Python file of the project re-runs the feature\n")
    assert len(text.splitlines()) <= MAX_LINES


def test_broken_plugin_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no such library')\n")
    monkeypatch.syspath_prepend(tmp_path)
    point = plugins.EntryPoint(name="broken", value="broken_plugin", group=plugins.GROUP)
    with pytest.raises(ProjectError) as raised:
        plugins.Plugins(installed=(point,)).call("register_trainers")
    assert str(raised.value) == (
        'error[TR510]: plugin "broken" cannot be loaded\n'
        "  RuntimeError: no such library\n"
        "  fix: repair or uninstall the package that brings it"
    )


# the form


def test_problem_answers_in_the_order_what_where_why_suggestion_fix_frames() -> None:
    problem = Problem(
        "TR104",
        'feature "user_spend_7d" is not defined',
        Location("models/churn.yml", 12, 3, "features: [user_spend_7d]"),
        "first\nsecond",
        "user_spend_07d",
        "define it in features/",
        ("features/spend.py:3 in spend", "KeyError: 'ts'"),
    )
    assert problem.to_text() == (
        'error[TR104]: feature "user_spend_7d" is not defined\n'
        "  models/churn.yml:12:3   features: [user_spend_7d]\n"
        "  first\n"
        "  second\n"
        "  did you mean: user_spend_07d\n"
        "  fix: define it in features/\n"
        "  features/spend.py:3 in spend\n"
        "  KeyError: 'ts'"
    )
    assert problem.to_json() == {
        "code": "TR104",
        "what": 'feature "user_spend_7d" is not defined',
        "where": {"path": "models/churn.yml", "line": 12, "column": 3},
        "why": "first\nsecond",
        "suggestion": "user_spend_07d",
        "fix": "define it in features/",
        "frames": ["features/spend.py:3 in spend", "KeyError: 'ts'"],
    }


def test_absent_answers_take_no_line() -> None:
    assert Problem("TR001", "this is no Treadle project").to_text() == "error[TR001]: this is no Treadle project"
    assert Problem("TR001", "this is no Treadle project").to_json() == {
        "code": "TR001",
        "what": "this is no Treadle project",
    }


def test_many_problems_are_capped_and_counted() -> None:
    problems = [Problem("TR101", f"a feature has a bad name {n}") for n in range(MAX_SHOWN + 3)]
    text = to_text(problems)
    assert text.count("error[TR101]") == MAX_SHOWN
    assert text.endswith(f"bad name {MAX_SHOWN - 1}\n\nand 3 more")
    assert to_text(problems[:MAX_SHOWN]).count("more") == 0


def test_terminal_shows_the_cap_too(tmp_path: Path, run: Run) -> None:
    root = tmp_path / "project"
    (root / "features").mkdir(parents=True)
    (root / "treadle.yml").write_text("name: flights\n")
    for n in range(MAX_SHOWN + 3):
        (root / "features" / f"f{n:02}.sql").write_text(f"select * from {{{{ ref('missing{n}') }}}}\n")
    code, text = run(root, "compile")
    assert code == 2
    assert text.count("error[TR104]") == MAX_SHOWN
    assert text.endswith("\n\nand 3 more\n")


def test_exit_code_is_2_for_the_project_and_its_use_and_1_for_what_ran() -> None:
    problem = Problem("TR701", "the step failed")
    codes = [kind(problem).exit_code for kind in (TreadleError, StepError, ProjectError, UsageError)]
    assert codes == [1, 1, 2, 2]


def test_error_survives_being_sent_between_processes() -> None:
    import pickle

    error = StepError([Problem("TR701", "it failed", Location("features/a.py", 3)), Problem("TR717", "not run")])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is StepError
    assert copy.problems == error.problems


def test_places_sort_by_file_then_line_then_column() -> None:
    places = [Location("b.sql", 1), Location("a.sql", 12, 1), Location("a.sql", 2, 9), Location("a.sql", 2, 10)]
    assert [str(place) for place in sorted(places)] == ["a.sql:2:9", "a.sql:2:10", "a.sql:12:1", "b.sql:1"]
