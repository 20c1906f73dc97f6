"""disk -> Project: the one module that reads the user's files.

find_root -> read_project: walk the folders, read text, parse YAML, check each entry against its spec. What stands in
the SQL and Python files is not looked at here; nothing of the project is executed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from treadle import yamlfile
from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match
from treadle.spec import (
    DatasetSpec,
    EntitySpec,
    FeatureConfig,
    FeatureSpec,
    ModelSpec,
    PipelineSpec,
    ProjectSpec,
    SourceSpec,
    Spec,
    SqlTestSpec,
)
from treadle.yamlfile import Document

PROJECT_FILE = "treadle.yml"
MAX_FILE_BYTES = 4 * 1024 * 1024
FOLDERS = ("features", "models", "pipelines", "tests", "macros")
_SECTIONS: Mapping[str, tuple[str, type[Spec]]] = {
    "sources": ("features", SourceSpec),
    "entities": ("features", EntitySpec),
    "features": ("features", FeatureSpec),
    "datasets": ("models", DatasetSpec),
    "models": ("models", ModelSpec),
    "pipelines": ("pipelines", PipelineSpec),
    "tests": ("tests", SqlTestSpec),
}
_DEFAULTS_OF = {"features": FeatureConfig, "models": ModelSpec, "pipelines": PipelineSpec}
_IGNORED_FOLDERS = {"target", "build", "dist", "node_modules", "__pycache__", "data"}

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
        sql_features: path -> text of features/**/*.sql; `sql_tests` and `macros` alike.
        python: path -> text of every Python file of the project.
        broken: names whose entries had problems; what refers to them is not reported again.
        problems: what is wrong so far.
    """

    root: Path
    spec: ProjectSpec
    environment: str
    variables: Mapping[str, Any]
    sources: Mapping[str, Located[SourceSpec]]
    entities: Mapping[str, Located[EntitySpec]]
    features: Mapping[str, Located[FeatureSpec]]
    datasets: Mapping[str, Located[DatasetSpec]]
    models: Mapping[str, Located[ModelSpec]]
    pipelines: Mapping[str, Located[PipelineSpec]]
    tests: Mapping[str, Located[SqlTestSpec]]
    sql_features: Mapping[str, str]
    sql_tests: Mapping[str, str]
    macros: Mapping[str, str]
    python: Mapping[str, str]
    broken: frozenset[str]
    problems: tuple[Problem, ...]

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


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds treadle.yml.

    Raises:
        ProjectError: TR001, there is none.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder
    why = f"no {PROJECT_FILE} in {start} or above"
    raise ProjectError(Problem("TR001", "this is no Treadle project", why=why, fix="`treadle init NAME` makes one, or pass --project"))


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
    spec, document = _read_project_file(root)
    environment = environment or spec.default_environment
    _check_environment(spec, document, environment)
    reader = _Reader(root, tuple(_allowed(root, spec)), _check_defaults(spec, document))
    reader.read_folders(spec)
    chosen = spec.environments.get(environment)
    entries = reader.entries
    return Project(
        root=root,
        spec=spec,
        environment=environment,
        variables={**spec.vars, **(chosen.vars if chosen else {}), **(variables or {})},
        sources=entries["sources"],
        entities=entries["entities"],
        features=entries["features"],
        datasets=entries["datasets"],
        models=entries["models"],
        pipelines=entries["pipelines"],
        tests=entries["tests"],
        sql_features=reader.texts("features", ".sql"),
        sql_tests=reader.texts("tests", ".sql"),
        macros=reader.texts("macros", ".sql"),
        python=reader.texts("", ".py"),
        broken=frozenset(reader.broken),
        problems=tuple(reader.problems),
    )


def _read_project_file(root: Path) -> tuple[ProjectSpec, Document]:
    text = _read_text(root / PROJECT_FILE, PROJECT_FILE)
    document = yamlfile.read_yaml(text, path=PROJECT_FILE)
    spec, problems = yamlfile.parse_spec(document, ProjectSpec)
    if spec is None:
        raise ProjectError(problems)
    if spec.requires:
        _check_requires(spec.requires, document)
    return spec, document


def _check_requires(requires: str, document: Document) -> None:
    from importlib.metadata import version

    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    where, here = document.locate("requires"), version("treadle")
    try:
        allowed = SpecifierSet(requires)
    except InvalidSpecifier as error:
        why = f'"{requires}" is no version specifier'
        raise ProjectError(Problem("TR004", '"requires" has a value of the wrong form', where, why, fix='write ">=0.1"')) from error
    if here not in allowed:
        why = f"this is Treadle {here}"
        fix = f"pip install 'treadle{requires}'"
        raise ProjectError(Problem("TR010", f"the project requires Treadle {requires}", where, why, fix=fix))


def _check_environment(spec: ProjectSpec, document: Document, environment: str) -> None:
    known = {"dev", spec.default_environment, *spec.environments}
    if environment not in known:
        suggestion = close_match(environment, known) or ""
        fix = f"add `{environment}: {{}}` below `environments:`, or use one of {', '.join(sorted(known))}"
        where = document.locate("environments")
        raise ProjectError(Problem("TR109", f'environment "{environment}" is not defined', where, "", suggestion, fix))


def _check_defaults(spec: ProjectSpec, document: Document) -> list[Problem]:
    problems = []
    for folder, values in spec.defaults.items():
        top = folder.split("/")[0]
        if top not in _DEFAULTS_OF:
            why = f"defaults are given below {', '.join(_DEFAULTS_OF)}"
            problems.append(Problem("TR004", f'no defaults can be given for "{folder}"', document.locate("defaults", folder), why))
            continue
        known = {f.alias or name for name, f in _DEFAULTS_OF[top].model_fields.items()}
        for key in values:
            if key not in known:
                where = document.locate("defaults", folder, key)
                problems.append(
                    Problem("TR003", f'"{key}" is no key here', where, "", close_match(key, known) or "", f"known here: {', '.join(sorted(known))}")
                )
    return problems


def _allowed(root: Path, spec: ProjectSpec) -> Iterator[Path]:
    yield root.resolve()
    for path in spec.allow_paths:
        yield (root / path).resolve()


def _read_text(file: Path, path: str) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise ProjectError(Problem("TR009", "a file cannot be read", Location(path), why, fix="check that it exists and its permissions")) from error
    if len(data) > MAX_FILE_BYTES:
        why = f"{len(data):,} bytes; at most {MAX_FILE_BYTES:,}"
        raise ProjectError(Problem("TR007", "a file is too large", Location(path), why, fix="keep data in data/, as a source"))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = f"byte {error.start}: {error.reason}"
        raise ProjectError(Problem("TR009", "a file is not UTF-8 text", Location(path, line), why, fix="save it as UTF-8")) from error


class _Reader:
    """Walks the folders once and collects entries, texts and problems."""

    def __init__(self, root: Path, allowed: tuple[Path, ...], problems: list[Problem]) -> None:
        self.root, self.allowed, self.problems = root, allowed, problems
        self.broken: set[str] = set()
        self.entries: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        self._texts: dict[str, str] = {}

    def texts(self, folder: str, suffix: str) -> dict[str, str]:
        prefix = f"{folder}/" if folder else ""
        return {path: text for path, text in self._texts.items() if path.startswith(prefix) and path.endswith(suffix)}

    def read_folders(self, spec: ProjectSpec) -> None:
        for path in sorted(self._walk(self.root, set())):
            top = path.split("/")[0]
            suffix = os.path.splitext(path)[1]
            if suffix == ".py" or (suffix == ".sql" and top in ("features", "tests", "macros")):
                self._try(lambda p=path: self._texts.__setitem__(p, _read_text(self.root / p, p)))  # type: ignore[misc]
            elif suffix in (".yml", ".yaml") and top in FOLDERS and top != "macros":
                self._try(lambda p=path: self._read_yaml(p, spec))  # type: ignore[misc]

    def _try(self, read: Callable[[], None]) -> None:
        try:
            read()
        except ProjectError as error:
            self.problems.extend(error.problems)

    def _walk(self, folder: Path, seen: set[Path]) -> Iterator[str]:
        """Yield the files below a folder that can matter; hidden folders and virtual environments are passed over."""
        for entry in os.scandir(folder):
            path = os.path.relpath(entry.path, self.root).replace(os.sep, "/")
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and not self._is_inside(entry, path):
                continue
            if entry.is_dir():
                real = Path(entry.path).resolve()
                is_left_out = folder == self.root and entry.name in _IGNORED_FOLDERS
                if is_left_out or real in seen or os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                    continue
                seen.add(real)
                yield from self._walk(Path(entry.path), seen)
            elif entry.is_file():
                yield path

    def _is_inside(self, entry: os.DirEntry[str], path: str) -> bool:
        target = Path(entry.path).resolve()
        if any(target.is_relative_to(allowed) for allowed in self.allowed):
            return True
        if path.split("/")[0] in FOLDERS:
            why = f"the link leads to {target}"
            fix = "copy it into the project, or list its folder in `allow_paths` of treadle.yml"
            self.problems.append(Problem("TR008", "a file lies outside the project", Location(path), why, fix=fix))
        return False

    def _read_yaml(self, path: str, spec: ProjectSpec) -> None:
        document = yamlfile.read_yaml(_read_text(self.root / path, path), path=path)
        if not isinstance(document.value, dict):
            why = "expected sections such as `features:` or `models:`"
            raise ProjectError(Problem("TR004", "a YAML file holds no sections", document.locate(), why))
        folder = path.split("/")[0]
        here = [section for section, (home, _) in _SECTIONS.items() if home == folder]
        for section, items in document.value.items():
            if section not in _SECTIONS:
                suggestion = close_match(section, _SECTIONS) or ""
                fix = f"in {folder}/ stand: {', '.join(here)}"
                self.problems.append(Problem("TR003", f'"{section}" is no section', document.locate(section), "", suggestion, fix))
            elif section not in here:
                fix = f"move it to a YAML file in {_SECTIONS[section][0]}/"
                self.problems.append(Problem("TR011", f"`{section}:` does not belong into {folder}/", document.locate(section), fix=fix))
            elif not isinstance(items, list):
                why = "expected a list, each entry with `- name: ...`"
                self.problems.append(Problem("TR004", f'"{section}" has a value of the wrong form', document.locate(section), why))
            else:
                for i, item in enumerate(items):
                    self._read_entry(document, section, i, item, spec)

    def _read_entry(self, document: Document, section: str, i: int, item: object, spec: ProjectSpec) -> None:
        kind = _SECTIONS[section][1]
        value = item
        if isinstance(item, dict) and section in ("models", "pipelines"):
            value = {**merge_defaults(spec.defaults, document.path), **item}
        parsed, problems = yamlfile.parse_spec(document, kind, path=(section, i), value=value if value is not None else 0)
        name = item.get("name") if isinstance(item, dict) else None
        if parsed is None:
            self.problems.extend(problems)
            if isinstance(name, str):
                self.broken.add(name)
            return
        located = Located(parsed, document, (section, i))
        known = self.entries[section]
        if name in known:
            other = known[name].at()
            why = f"it stands at {other} too"
            self.problems.append(Problem("TR102", f'"{name}" is defined twice', located.at(), why, fix="rename one of the two"))
            return
        known[name] = located
