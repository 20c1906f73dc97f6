"""The documents say what is: every command, every error code, every path they name."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import click
import pytest

from treadle.cli import treadle
from treadle.errors import CODES
from treadle.plugins import known_hooks
from treadle.selectors import read_selectors
from treadle.spec import DatasetSpec, EntitySpec, ModelSpec, PipelineSpec, ProjectSpec, SourceSpec
from treadle.yamlfile import read_yaml

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("core", "runtime", "scaffold", "plugins") for path in (ROOT / folder).rglob("*.py")]
DOCS = [
    ROOT / "README.md",
    ROOT / "core/dbt.md",
    *(ROOT / name / "README.md" for name in ("core", "runtime", "scaffold", "plugins", "ci")),
]


def commands() -> dict[str, click.Command]:
    """Return every command and subcommand by the words that call it."""
    context = click.Context(treadle)
    found: dict[str, click.Command] = {}
    for name in treadle.list_commands(context):
        command = treadle.get_command(context, name)
        assert command is not None
        found[name] = command
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": inner for sub, inner in command.commands.items()}
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_command_is_documented(name: str) -> None:
    assert f"`treadle {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(commands()))
def test_command_help_has_the_agreed_form(name: str) -> None:
    command = commands()[name]
    line = command.get_short_help_str(limit=200)
    assert len(line) < 70
    assert not line.endswith(".")
    assert "Examples:" in (command.help or "")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.name}"


def test_documented_commands_exist() -> None:
    known = set(commands())
    for path in DOCS:
        for words in re.findall(r"(?:`|\$ )treadle ([a-z]+)", path.read_text()):
            assert words in known, f"{path.relative_to(ROOT)}: treadle {words}"


def test_every_error_code_in_the_code_is_in_the_table() -> None:
    used = {code for path in SOURCES for code in re.findall(r"\bTR\d{3}\b", path.read_text())}
    assert used <= set(CODES), sorted(used - set(CODES))


def test_error_table_in_the_docs_is_the_one_in_the_code() -> None:
    text = (ROOT / "core" / "README.md").read_text()
    rows = dict(re.findall(r"^\| (TR\d{3}) \| (.*) \|$", text, re.MULTILINE))
    assert rows == dict(CODES)


def test_every_error_code_has_a_test() -> None:
    tests = "\n".join(path.read_text(errors="replace") for path in (ROOT / "tests").rglob("*") if path.is_file())
    missing = [code for code in CODES if code not in tests.replace("test_docs", "")]
    assert not missing


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_named_in_the_docs_exist(path: Path) -> None:
    for name in re.findall(r"`((?:core|runtime|scaffold|plugins|examples|tests|ci)/[\w./-]*)`", path.read_text()):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_yaml_in_the_readme_is_as_a_project_takes_it(tmp_path: Path) -> None:
    """Every block that begins with the name of a YAML file, by the specs of its sections."""
    specs = {"sources": SourceSpec, "entities": EntitySpec, "datasets": DatasetSpec, "models": ModelSpec}
    specs |= {"pipelines": PipelineSpec}
    seen = set()
    for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", (ROOT / "README.md").read_text(), re.MULTILINE):
        for text in re.split(r"(?=^    (?:# \w+/?[\w./]*\.|\$ |-- ))", block, flags=re.MULTILINE):
            if not re.match(r"    # [\w/]+\.yml", text):
                continue
            if "selectors.yml" in text.splitlines()[0]:
                (tmp_path / "selectors.yml").write_text(textwrap.dedent(text))
                seen |= read_selectors(tmp_path).named.keys()
                continue
            value = read_yaml(textwrap.dedent(text), path="README.md").value
            if "treadle.yml" in text.splitlines()[0]:
                ProjectSpec.model_validate(value)
                seen |= set(value)
                continue
            for section, entries in value.items():
                seen.add(section)
                for entry in entries:
                    specs[section].model_validate(entry)
    assert {*specs, "environments", "vars", "nightly"} <= seen


def test_every_hook_is_documented_and_used_by_a_plugin() -> None:
    plugins = "\n".join(path.read_text() for path in (ROOT / "plugins").rglob("*.py"))
    text = (ROOT / "plugins" / "README.md").read_text()
    for name in known_hooks():
        assert f"`{name}`" in text
        assert f"def {name}(" in plugins
