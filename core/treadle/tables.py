"""Sources and features -> steps: what stands in features/, checked and given its identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from treadle import pycode, sql
from treadle.errors import Location, Problem
from treadle.names import close_match, parse_duration_us
from treadle.project import Project
from treadle.render import Renderer
from treadle.scope import Scope
from treadle.spec import FeatureConfig
from treadle.step import Step

_READABLE = ("source", "feature", "model")
_CONFIG_KEYS = frozenset(FeatureConfig.model_fields)


@dataclass(frozen=True)
class Feature:
    """A feature as its folder, its YAML entry and its file describe it together; the file wins.

    Attributes:
        keys: the columns that identify its entity; empty without one.
        ttl_us: how long a row stays valid, in microseconds; None means for ever.
    """

    name: str
    where: Location
    config: FeatureConfig
    keys: tuple[str, ...]
    description: str

    @property
    def ttl_us(self) -> int | None:
        return parse_duration_us(self.config.ttl) if self.config.ttl else None


class TableReader:
    """Compiles sources and features in two passes: names first, so that references work in any order."""

    def __init__(self, project: Project, scope: Scope, renderer: Renderer) -> None:
        self.project, self.scope, self.renderer = project, scope, renderer
        self.python = pycode.Sources(project.python)
        self.functions: list[pycode.Function] = []
        self.queries: dict[str, str] = {}
        self.features: dict[str, Feature] = {}
        self.steps: list[Step] = []

    def define(self) -> None:
        """Take the names of all sources and features."""
        for name, located in self.project.sources.items():
            self.scope.define(name, "source", located.at())
        for path in self.project.sql_features:
            name = PurePosixPath(path).stem
            if self.scope.define(name, "feature", Location(path, 1)):
                self.queries[name] = path
        for path in self.project.python:
            if path.startswith("features/"):
                with self.scope.collecting(PurePosixPath(path).stem):
                    self._define_functions(path)
        for name, described in self.project.features.items():
            if self.scope.kinds.get(name) != "feature" and name not in self.scope.broken:
                known = [n for n, kind in self.scope.kinds.items() if kind == "feature"]
                fix = f"add features/{name}.sql, or a function of that name with @feature in features/*.py"
                self.scope.problems.append(
                    Problem(
                        "TR103",
                        f'feature "{name}" is described but has no file',
                        described.at(),
                        suggestion=close_match(name, known) or "",
                        fix=fix,
                    )
                )

    def _define_functions(self, path: str) -> None:
        for function in pycode.read_functions(self.python, path):
            where = Location(function.path, function.line)
            if function.decorator == "feature" and self.scope.define(function.name, "feature", where):
                self.functions.append(function)

    def read(self) -> list[Step]:
        """Return the steps of all sources and enabled features."""
        for name in self.project.sources:
            self.steps.append(self._source(name))
        for name, path in self.queries.items():
            with self.scope.collecting(name):
                self._sql_feature(name, path)
        for function in self.functions:
            with self.scope.collecting(function.name):
                self._python_feature(function)
        return self.steps

    def _source(self, name: str) -> Step:
        located = self.project.sources[name]
        spec = located.spec
        return Step(
            id=name,
            kind="source",
            name=name,
            where=located.at(),
            config={
                "format": source_format(spec.paths[0], spec.format),
                "table": spec.table,
                "csv": spec.csv.model_dump(exclude_defaults=True, mode="json"),
                "columns": {column.name: column.type for column in spec.columns if column.type},
            },
            settings={"paths": list(spec.paths)},
            distributions=("duckdb",),
            tags=spec.tags,
            description=spec.description,
        )

    def _sql_feature(self, name: str, path: str) -> None:
        where = Location(path, 1)
        rendered = self.renderer.render(self.project.sql_features[path], path=path, name=name)
        feature = self._feature(name, path, where, rendered.config, "")
        query = sql.read_query(rendered, path=path, volatile=feature.config.volatile is not None)
        resolved = [self.scope.resolve(ref, _READABLE, rendered.locate_ref(ref)) for ref in rendered.refs]
        inputs = tuple(found for found in resolved if found is not None)
        if feature.config.enabled and len(inputs) == len(rendered.refs):
            self._add(feature, inputs, code={path: query.tokens}, distributions=("duckdb",), query=query)

    def _python_feature(self, function: pycode.Function) -> None:
        where = Location(function.path, function.line)
        feature = self._feature(function.name, function.path, where, function.arguments, function.description)
        resolved = [self.scope.resolve(name, _READABLE, where) for name in function.parameters]
        inputs = tuple(found for found in resolved if found is not None)
        if feature.config.materialized == "view":
            why = "only SQL can be inlined into what reads it"
            self.scope.problems.append(Problem("TR004", f'feature "{function.name}" cannot be a view', where, why, fix="remove materialized"))
        code = pycode.read_code(self.python, function)
        for place, why in code.unresolved:
            self.scope.warnings.append(_unresolved(function, place, why))
        if feature.config.enabled and len(inputs) == len(function.parameters):
            self._add(feature, inputs, code=code.parts, distributions=code.distributions, function=function)

    def _add(self, feature: Feature, inputs: tuple[str, ...], **rest: Any) -> None:
        config = feature.config
        counted = {
            "keys": list(feature.keys),
            "event_time": config.event_time,
            "known_at": config.known_at,
            "threads": config.threads,
            "materialized": config.materialized,
            "volatile": config.volatile,
        }
        self.features[feature.name] = feature
        self.steps.append(
            Step(
                id=feature.name,
                kind="feature",
                name=feature.name,
                where=feature.where,
                inputs=inputs,
                config=counted,
                settings={"static": config.static},
                tags=config.tags,
                description=feature.description,
                **rest,
            )
        )

    def _feature(self, name: str, path: str, where: Location, given: Mapping[str, Any], description: str) -> Feature:
        """Merge the folder's defaults, the YAML entry and the file's own configuration, and check the result."""
        described = self.project.features.get(name)
        values = dict(self.project.defaults(path))
        if described is not None:
            spec = described.spec
            values.update({k: v for k, v in spec.model_dump(exclude_unset=True).items() if k in _CONFIG_KEYS})
            description = spec.description or description
        values.update(given)
        config = self._config(name, where, values)
        keys = self._keys(config, where)
        if config.entity and not config.event_time and not config.static:
            why = f'it describes the entity "{config.entity}", and nothing says since when its rows are true'
            fix = "set event_time to the column that says it, or static=true if a row is true at all times"
            self.scope.problems.append(Problem("TR401", f'feature "{name}" has no event_time and is not static', where, why, fix=fix))
        if config.static and config.event_time:
            why = "static says: true at all times; event_time says: true from a moment on"
            self.scope.problems.append(Problem("TR401", f'feature "{name}" is both static and timed', where, why, fix="remove one of the two"))
        return Feature(name, where, config, keys, description)

    def _config(self, name: str, where: Location, values: Mapping[str, Any]) -> FeatureConfig:
        try:
            return FeatureConfig.model_validate(dict(values))
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self.scope.problems.append(_config_problem(name, where, detail["type"], detail["loc"], detail["msg"], detail["input"]))
            self.scope.broken.add(name)
            return FeatureConfig(static=True)

    def _keys(self, config: FeatureConfig, where: Location) -> tuple[str, ...]:
        if config.entity is None:
            return ()
        located = self.project.entities.get(config.entity)
        if located is not None:
            return located.spec.key_columns
        if config.entity not in self.scope.broken:
            suggestion = close_match(config.entity, self.project.entities) or ""
            fix = f"add `- name: {config.entity}` below `entities:` in a YAML file of features/"
            self.scope.problems.append(
                Problem("TR107", f'entity "{config.entity}" is not defined', where, suggestion=suggestion, fix=fix)
            )
        return ()


def source_format(path: str, given: str | None) -> str:
    """Return csv, parquet, json or duckdb: as given, else by the file's ending."""
    if given:
        return given
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    for ending, found in (
        (".parquet", "parquet"),
        (".json", "json"),
        (".jsonl", "json"),
        (".ndjson", "json"),
        (".duckdb", "duckdb"),
        (".db", "duckdb"),
    ):
        if name.endswith(ending):
            return found
    return "csv"


def _config_problem(name: str, where: Location, kind: str, loc: tuple[int | str, ...], message: str, value: object) -> Problem:
    key = ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        suggestion = close_match(key, _CONFIG_KEYS) or ""
        fix = f"known here: {', '.join(sorted(_CONFIG_KEYS))}"
        return Problem("TR003", f'"{key}" is no configuration of a feature', where, "", suggestion, fix)
    why = f"{message.removeprefix('Value error, ')}; found {value!r}"
    return Problem("TR004", f'"{key}" of feature "{name}" has a value of the wrong form', where, why)


def _unresolved(function: pycode.Function, place: str, why: str) -> Problem:
    path, _, line = place.partition(":")
    where = Location(path, int(line) if line.isdigit() else 0)
    what = f'what feature "{function.name}" calls cannot be told from the code alone'
    fix = "call it by its name; until then a change to any Python file of the project re-runs the feature"
    return Problem("TR305", what, where, why, fix=fix)


