"""treadle.yml, read on its own: a command that only asks which environments there are needs no other file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from treadle import yamlfile
from treadle.errors import Location, Problem, ProjectError, UsageError
from treadle.files import PROJECT_FILE
from treadle.names import close_match
from treadle.spec import ProjectSpec
from treadle.yamlfile import Document

MAX_FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class EnvironmentNames:
    """The environments of treadle.yml; `dev` is always one of them.

    Attributes:
        default: the one that commands work in unless --env names another.
        names: all of them.
        where: the place that lists them.
    """

    default: str
    names: frozenset[str]
    where: Location

    def check(self, name: str, others: Iterable[str] = ()) -> None:
        """Refuse a name that is neither defined nor among `others`.

        Raises:
            ProjectError: TR109.
        """
        known = {*self.names, *others}
        if name not in known:
            suggestion = close_match(name, known) or ""
            fix = f"add `{name}: {{}}` below `environments:`, or use one of {', '.join(sorted(known))}"
            what = f'environment "{name}" is not defined'
            raise ProjectError(Problem("TR109", what, self.where, "", suggestion, fix))


def read_environments(root: Path) -> EnvironmentNames:
    """Read which environments a project has, and none of its other files.

    Raises:
        ProjectError: treadle.yml is wrong.
    """
    return environments_of(*read_project_file(root)[1:])


def environments_of(spec: ProjectSpec, document: Document) -> EnvironmentNames:
    """Return the environments that a treadle.yml defines."""
    names = frozenset({"dev", spec.default_environment, *spec.environments})
    return EnvironmentNames(spec.default_environment, names, document.locate("environments"))


def read_project_file(root: Path) -> tuple[str, ProjectSpec, Document]:
    """Read a project's treadle.yml.

    Returns:
        (text, what it says, where each of its values stands).

    Raises:
        ProjectError: it is wrong.
    """
    file = root / PROJECT_FILE
    if not file.resolve().is_relative_to(root.resolve()):
        why = f"the link leads to {file.resolve()}"
        raise ProjectError(
            Problem("TR008", "a file lies outside the project", Location(PROJECT_FILE), why, fix="copy it")
        )
    text = read_text(file, PROJECT_FILE)
    document = yamlfile.read_yaml(text, path=PROJECT_FILE)
    spec, problems = yamlfile.parse_spec(document, ProjectSpec, document.value)
    if spec is None:
        raise ProjectError(problems)
    if spec.requires:
        _check_requires(spec.requires, document)
    return text, spec, document


def check_declared(root: Path, names: Iterable[str]) -> None:
    """Refuse variables that were given and that no query asks for, unless treadle.yml has them.

    Raises:
        ProjectError: treadle.yml is wrong.
        UsageError: TR603.
    """
    spec = read_project_file(root)[1]
    declared = {*spec.vars, *(name for each in spec.environments.values() for name in each.vars)}
    problems = []
    for name in names:
        if name not in declared:
            suggestion = close_match(name, declared) or ""
            known = ", ".join(sorted(declared)) or "no vars"
            why = f"treadle.yml has {known}, and no query asks for another of that name"
            fix = "correct the name, or define it under vars: in treadle.yml"
            problems.append(Problem("TR603", f'--vars gives "{name}", which nothing reads', None, why, suggestion, fix))
    if problems:
        raise UsageError(problems)


def _check_requires(requires: str, document: Document) -> None:
    from importlib.metadata import version

    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    where, here = document.locate("requires"), version("treadle")
    try:
        allowed = SpecifierSet(requires)
    except InvalidSpecifier as error:
        why = f'"{requires}" is no version specifier'
        what, fix = '"requires" has a value of the wrong form', 'write it as in ">=0.1"'
        raise ProjectError(Problem("TR004", what, where, why, fix=fix)) from error
    if here not in allowed:
        why = f"this is Treadle {here}"
        fix = f"pip install 'treadle{requires}'"
        raise ProjectError(Problem("TR010", f"the project requires Treadle {requires}", where, why, fix=fix))


def read_text(file: str | Path, path: str) -> str:
    """Return a file's text.

    Args:
        file: where it is.
        path: the file, relative to the project's root, for errors.

    Raises:
        ProjectError: TR007 it is too large, TR009 it cannot be read as UTF-8.
    """
    try:
        with open(file, "rb", buffering=0) as raw:
            data = raw.readall()
    except OSError as error:
        why = error.strerror or str(error)
        fix = "check that it exists and its permissions"
        raise ProjectError(Problem("TR009", "a file cannot be read", Location(path), why, fix=fix)) from error
    if len(data) > MAX_FILE_BYTES:
        why = f"{len(data):,} bytes; at most {MAX_FILE_BYTES:,}"
        fix = "keep data in data/, as a source"
        raise ProjectError(Problem("TR007", "a file is too large", Location(path), why, fix=fix))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = f"byte {error.start}: {error.reason}"
        fix = "save it as UTF-8"
        raise ProjectError(Problem("TR009", "a file is not UTF-8 text", Location(path, line), why, fix=fix)) from error
