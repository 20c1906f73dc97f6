"""disk -> Project: the one module that reads the user's files.

find_root -> read_project: walk the folders, read text, parse YAML, check each entry against its spec. What stands in
the SQL and Python files is not looked at here; nothing of the project is executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from treadle import yamlfile
from treadle.errors import Location, Problem, ProjectError
from treadle.files import NAMED, PROJECT_FILE, SEED, YAML, Stamp, digest_text, find_files
from treadle.names import close_match, is_identifier
from treadle.projectfile import environments_of, read_project_file, read_text
from treadle.spec import (
    DatasetSpec,
    Described,
    EntitySpec,
    FeatureConfig,
    FeatureSpec,
    ModelSpec,
    PipelineSpec,
    ProjectSpec,
    SeedSpec,
    SourceSpec,
    Spec,
    SqlTestSpec,
)
from treadle.sqlfile import config_line
from treadle.yamlfile import Document

_SECTIONS: Mapping[str, tuple[str, type[Described]]] = {
    "sources": ("features", SourceSpec),
    "seeds": ("features", SeedSpec),
    "entities": ("features", EntitySpec),
    "features": ("features", FeatureSpec),
    "datasets": ("models", DatasetSpec),
    "models": ("models", ModelSpec),
    "pipelines": ("pipelines", PipelineSpec),
    "tests": ("tests", SqlTestSpec),
}
_KINDS = {
    "sources": "source",
    "seeds": "source",
    "entities": "entity",
    "datasets": "dataset",
    "models": "model",
    "pipelines": "pipeline",
}
_DEFAULTS_OF: Mapping[str, type[Spec]] = {"features": FeatureConfig, "models": ModelSpec, "pipelines": PipelineSpec}

_SEEDS = re.compile(r"^seeds\s*:", re.MULTILINE)
_WORD = re.compile(r"\w+")

SpecT_co = TypeVar("SpecT_co", bound=Spec, covariant=True)


@dataclass(frozen=True)
class Located(Generic[SpecT_co]):
    """A spec and the place where it was written."""

    spec: SpecT_co
    document: Document = field(repr=False)
    path: tuple[str | int, ...]

    def at(self, *keys: str | int) -> Location:
        """Return the place of a value below this one; without keys its own place."""
        return self.document.locate(*self.path, *(keys or ("name",)))


@dataclass(frozen=True)
class Project:
    """Everything that the user's files say, read once.

    Attributes:
        root: the folder that holds treadle.yml.
        environment: the environment that is worked in.
        variables: treadle.yml's, then the environment's, then those of the call.
        seeds: CSVs that no source reads and some text names, as sources: tables where nothing else has their name.
        sql_features: path -> text of features/**/*.sql; `sql_tests` and `macros` alike.
        docs: path -> text of Markdown files, which may hold docs blocks.
        python: path -> text of every Python file of the project.
        files: path -> stamp and digest of every file that was read, as `treadle.files` finds them.
        broken: names whose entries had problems; what refers to them is not reported again.
        unread: kinds (`source`, `model`, ...) of which some names are not known, for their file cannot be read.
        unread_texts: what stands in the YAML files of which some entries cannot be read.
        problems: what is wrong so far.
    """

    root: Path
    spec: ProjectSpec
    environment: str
    variables: Mapping[str, Any]
    sources: Mapping[str, Located[SourceSpec]]
    seeds: Mapping[str, Located[SourceSpec]]
    entities: Mapping[str, Located[EntitySpec]]
    features: Mapping[str, Located[FeatureSpec]]
    datasets: Mapping[str, Located[DatasetSpec]]
    models: Mapping[str, Located[ModelSpec]]
    pipelines: Mapping[str, Located[PipelineSpec]]
    tests: Mapping[str, Located[SqlTestSpec]]
    sql_features: Mapping[str, str]
    sql_tests: Mapping[str, str]
    macros: Mapping[str, str]
    docs: Mapping[str, str]
    python: Mapping[str, str]
    files: Mapping[str, tuple[Stamp, str]]
    broken: frozenset[str]
    unread: frozenset[str]
    unread_texts: tuple[str, ...]
    problems: tuple[Problem, ...]

    def line(self, path: str, number: int) -> Location:
        """Return the place of a line of a SQL or Python file, with its text."""
        text = (self.sql_features.get(path) or self.sql_tests.get(path) or self.python.get(path) or "").splitlines()
        return Location(path, number, text=text[number - 1].strip()[:100] if 0 < number <= len(text) else "")

    def config_line(self, path: str) -> Location:
        """Return the place of `config()` in a SQL file; its first line where there is none."""
        return config_line(path, self.sql_features.get(path) or self.sql_tests.get(path) or "")

    def defaults(self, path: str) -> dict[str, Any]:
        """Return the configuration that treadle.yml gives to what stands in a file."""
        return merge_defaults(self.spec.defaults, path)


def merge_defaults(defaults: Mapping[str, Mapping[str, Any]], path: str) -> dict[str, Any]:
    """Return the defaults of every folder around `path`, the nearest last."""
    found: dict[str, Any] = {}
    for folder in sorted(defaults, key=len):
        prefix = folder.rstrip("/")
        if path == prefix or path.startswith(prefix + "/"):
            found.update(defaults[folder])
    return found


def read_project(root: Path, *, environment: str | None = None, variables: Mapping[str, Any] | None = None) -> Project:
    """Read every file of a project that Treadle looks at.

    Args:
        root: the folder that holds treadle.yml.
        environment: by default `default_environment` of treadle.yml.
        variables: values that win over treadle.yml's.

    Returns:
        The project, with the problems found so far in `problems`.

    Raises:
        ProjectError: treadle.yml itself is wrong, so that nothing else can be read.
    """
    text, spec, document = read_project_file(root)
    environment = environment or spec.default_environment
    environments_of(spec, document).check(environment)
    defaults, problems = _check_defaults(spec, document)
    spec = spec.model_copy(update={"defaults": defaults})
    reader = _Reader(root, allowed_folders(root, spec.allow_paths), problems)
    reader.read_folders(spec, text)
    chosen = spec.environments.get(environment)
    entries, generic = reader.entries, reader.texts("tests/generic", ".sql")
    return Project(
        root=root,
        spec=spec,
        environment=environment,
        variables={**spec.vars, **(chosen.vars if chosen else {}), **(variables or {})},
        sources={**entries["sources"], **reader.described_seeds()},
        seeds=reader.other_seeds(),
        entities=entries["entities"],
        features=entries["features"],
        datasets=entries["datasets"],
        models=entries["models"],
        pipelines=entries["pipelines"],
        tests=entries["tests"],
        sql_features=reader.texts("features", ".sql"),
        sql_tests={path: text for path, text in reader.texts("tests", ".sql").items() if path not in generic},
        docs=reader.texts("", ".md"),
        macros={**reader.texts("macros", ".sql"), **generic},
        python=reader.texts("", ".py"),
        files=reader.files,
        broken=frozenset(reader.broken),
        unread=frozenset(reader.unread),
        unread_texts=tuple(dict.fromkeys(reader.unread_texts)),
        problems=tuple(reader.problems),
    )


def _check_defaults(spec: ProjectSpec, document: Document) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Return the defaults that can be given, and what is wrong with the others."""
    kept: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for folder, values in spec.defaults.items():
        top = folder.split("/")[0]
        kind = _DEFAULTS_OF.get(top)
        if kind is None:
            where = document.locate("defaults", folder)
            fix = f"defaults are given for {', '.join(_DEFAULTS_OF)} and folders below them"
            suggestion = close_match(top, _DEFAULTS_OF) or ""
            problems.append(Problem("TR004", f'"{folder}" takes no defaults', where, "", suggestion, fix))
            continue
        kept[folder] = {}
        for written, value in values.items():
            key = written.removeprefix("+")
            wrong = yamlfile.parse_spec(document, kind, {key: value}, path=("defaults", folder), is_part=True)[1]
            problems += wrong
            if not wrong:
                kept[folder][key] = value
    return kept, problems


def allowed_folders(root: Path, allow_paths: Iterable[str]) -> tuple[Path, ...]:
    """Return the folders that links in a project may lead into, resolved; its own is the first."""
    return root.resolve(), *((root / path).resolve() for path in allow_paths)


class _Reader:
    """Walks the folders once and collects entries, texts and problems."""

    def __init__(self, root: Path, allowed: tuple[Path, ...], problems: list[Problem]) -> None:
        self.root, self.allowed, self.problems = root, allowed, problems
        self.broken: set[str] = set()
        self.unread: set[str] = set()
        self.unread_texts: list[str] = []
        self.entries: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        self.files: dict[str, tuple[Stamp, str]] = {}
        self._stamps: Mapping[str, Stamp] = {}
        self._texts: dict[str, str] = {}
        self._yaml: dict[str, str] = {}

    def texts(self, folder: str, suffix: str) -> dict[str, str]:
        prefix = f"{folder}/" if folder else ""
        return {path: text for path, text in self._texts.items() if path.startswith(prefix) and path.endswith(suffix)}

    def read_folders(self, spec: ProjectSpec, project_text: str) -> None:
        found = find_files(self.root, self.allowed)
        self.problems.extend(found.problems)
        self._stamps = found.stamps
        for path in found.stamps:
            top = path.split("/")[0]
            suffix = os.path.splitext(path)[1]
            try:
                if suffix == SEED:
                    self.files[path] = NAMED, ""
                elif top == "data":
                    self._read_seeds(path, spec)
                elif suffix == ".sql" and top in ("models", "pipelines"):
                    self._refuse_sql(path, top)
                elif suffix not in YAML:
                    self._texts[path] = self._read_text(path)
                elif path != PROJECT_FILE:
                    self._yaml[path] = self._read_text(path)
                    self._read_yaml(path, self._yaml[path], spec)
                elif digest_text(self._read_text(path)) != digest_text(project_text):
                    # It was written to since it was parsed: no stamp, so that nobody takes it for what it is now.
                    self.files[path] = (0, 0, 0, 0), digest_text(project_text)
            except ProjectError as error:
                self.problems.extend(error.problems)
                self._lose_names(top, suffix, path)

    def _read_text(self, path: str) -> str:
        text = read_text(f"{self.root}/{path}", path)
        self.files[path] = self._stamps[path], digest_text(text)
        return text

    def _lose_names(self, folder: str, suffix: str, path: str) -> None:
        """Remember what a file could have defined that cannot be read."""
        if suffix == ".sql":
            self.broken.add(PurePosixPath(path).stem)
        elif suffix == ".py":
            self.unread.add("feature")
        else:
            home = "features" if folder == "data" else folder  # where seeds stand with the other sources
            self.unread |= {kind for section, kind in _KINDS.items() if _SECTIONS[section][0] == home}
            self.unread_texts.append(self._yaml.get(path, ""))

    def _read_seeds(self, path: str, spec: ProjectSpec) -> None:
        """Read what YAML beside seeds says of them; other YAML in data/ is data."""
        try:
            text = self._read_text(path)
        except ProjectError:  # it is no text, or too much of it: data
            self.files[path] = self._stamps[path], ""
            return
        if _SEEDS.search(text):
            self._yaml[path] = text
            self._read_yaml(path, text, spec)

    def described_seeds(self) -> dict[str, Any]:
        """Return the sources that `seeds:` describe; what has no file is a problem."""
        files = {PurePosixPath(path).stem: path for path in self.files if path.endswith(SEED)}
        found = {}
        for name, located in self.entries["seeds"].items():
            if name in files:
                found[name] = Located(located.spec.to_source(files[name]), located.document, located.path)
                continue
            suggestion, fix = close_match(name, files) or "", f"add data/{name}.csv"
            what = f'seed "{name}" is described but has no file'
            self.problems.append(Problem("TR103", what, located.at(), "", suggestion, fix))
            self.broken.add(name)
        return found

    def other_seeds(self) -> dict[str, Located[SourceSpec]]:
        """Return CSVs that nothing describes and no source reads, and that some query, function or YAML names."""
        read = [path for located in self.entries["sources"].values() for path in located.spec.paths]
        found = {}
        words: set[str] | None = None
        for path in self.files:
            name = PurePosixPath(path).stem
            if not path.endswith(SEED) or name in self.entries["seeds"] or not is_identifier(name):
                continue
            if any(fnmatchcase(path, pattern.removeprefix("./")) for pattern in read):
                continue
            if words is None:
                words = {word for text in (*self._texts.values(), *self._yaml.values()) for word in _WORD.findall(text)}
            if name in words:
                spec = SourceSpec(name=name, path=path, description="a seed")
                found[name] = Located(spec, Document(path, {}, {}, ()), ())
        return found

    def _refuse_sql(self, path: str, folder: str) -> None:
        fix = "move it to features/ if it makes a table, or to tests/ if its rows are failures"
        self.problems.append(Problem("TR011", f"a query does not belong into {folder}/", Location(path), fix=fix))

    def _read_yaml(self, path: str, text: str, spec: ProjectSpec) -> None:
        document = yamlfile.read_yaml(text, path=path)
        if not isinstance(document.value, dict):
            why = "expected sections such as `features:` or `models:`"
            fix = "begin with the section that the list belongs to"
            raise ProjectError(Problem("TR004", "a YAML file holds no sections", document.locate(), why, fix=fix))
        folder = path.split("/")[0]
        here = ["seeds"] if folder == "data" else [s for s, (home, _) in _SECTIONS.items() if home == folder]
        for section, items in document.value.items():
            if section == "version" and items == 2:  # of dbt's form
                continue
            if section not in _SECTIONS:
                suggestion = close_match(section, _SECTIONS) or ""
                fix = f"in {folder}/ stand: {', '.join(here)}"
                what = f'"{yamlfile.word(section)}" is no section'
                self.problems.append(Problem("TR003", what, document.locate(section), "", suggestion, fix))
                self._lose_names(folder, ".yml", document.path)
            elif section not in here:
                fix = f"move it to a YAML file in {_SECTIONS[section][0]}/"
                what = f"`{section}:` does not belong into {folder}/"
                self.problems.append(Problem("TR011", what, document.locate(section), fix=fix))
                self.unread.add(_KINDS.get(section, "feature"))
            elif not isinstance(items, list):
                why = f"expected a list, found {yamlfile.shown(items)}"
                what, fix = f'"{section}" has a value of the wrong form', "begin each entry with `- name: ...`"
                self.problems.append(Problem("TR004", what, document.locate(section), why, fix=fix))
                self._lose_names(folder, ".yml", document.path)
            else:
                for i, item in enumerate(items):
                    self._read_entry(document, section, i, item, spec)

    def _read_entry(self, document: Document, section: str, i: int, item: object, spec: ProjectSpec) -> None:
        kind = _SECTIONS[section][1]
        value = item
        if isinstance(item, dict) and section in ("models", "pipelines"):
            value = {**merge_defaults(spec.defaults, document.path), **item}
        parsed, problems = yamlfile.parse_spec(document, kind, value, path=(section, i))
        if parsed is None:
            self.problems.extend(problems)
            name = item.get("name") if isinstance(item, dict) else None
            if isinstance(name, str) and is_identifier(name):
                self.broken.add(name)
            else:
                self._lose_names(document.path.split("/")[0], ".yml", document.path)
            return
        located = Located(parsed, document, (section, i))
        known, name = self.entries[section], parsed.name
        if name in known:
            other = known[name].at()
            why = f"it stands at {other} too"
            what, fix = f'"{name}" is defined twice', "rename one of the two"
            self.problems.append(Problem("TR102", what, located.at(), why, fix=fix))
            return
        known[name] = located
