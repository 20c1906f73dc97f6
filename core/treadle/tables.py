"""Sources and features -> steps: what stands in features/, checked and given its identity."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from treadle import incremental, pycode
from treadle.errors import Location, Problem
from treadle.names import close_match, parse_duration_us
from treadle.project import Project
from treadle.scope import Scope
from treadle.spec import FeatureConfig
from treadle.sqlfile import SqlReader
from treadle.step import Step
from treadle.yamlfile import explain_value, word

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

    def __init__(self, project: Project, scope: Scope, sql: SqlReader) -> None:
        self.project, self.scope, self.sql = project, scope, sql
        self.python = pycode.Sources(project.python)
        self.functions: list[pycode.Function] = []
        self.queries: dict[str, str] = {}
        self.sources = dict(project.sources)
        self.features: dict[str, Feature] = {}
        self.disabled: set[str] = set()
        self.steps: list[Step] = []

    def define(self) -> None:
        """Take the names of all sources and features."""
        for name, located in self.project.sources.items():
            self.scope.define(name, "source", located.at())
        for path in self.project.sql_features:
            name = os.path.splitext(os.path.basename(path))[0]
            if self.scope.define(name, "feature", self.project.line(path, 1)):
                self.queries[name] = path
        for path in self.project.python:
            if path.startswith("features/"):
                with self.scope.collecting(PurePosixPath(path).stem, unread="feature"):
                    self._define_functions(path)
        for name, located in self.project.seeds.items():
            if name not in self.scope.kinds and name not in self.scope.broken:
                self.scope.define(name, "source", located.at())
                self.sources[name] = located
        for name, described in self.project.features.items():
            if self.scope.kinds.get(name) != "feature" and name not in self.scope.broken:
                self._report_described(name, described.at())

    def _report_described(self, name: str, where: Location) -> None:
        suggestion = close_match(name, self.scope.names(("feature",))) or ""
        if not self.scope.is_unread(name, ("feature",), suggestion):
            fix = f"add features/{name}.sql, or a function of that name with @feature in features/*.py"
            what = f'feature "{name}" is described but has no file'
            self.scope.problems.append(Problem("TR103", what, where, "", suggestion, fix))

    def _define_functions(self, path: str) -> None:
        for function in pycode.read_functions(self.python, path):
            where = self.project.line(function.path, function.line)
            if function.decorator == "feature" and self.scope.define(function.name, "feature", where):
                self.functions.append(function)

    def read(self) -> list[Step]:
        """Return the steps of all sources and enabled features."""
        for name in self.sources:
            self.steps.append(self._source(name))
        for name, path in self.queries.items():
            with self.scope.collecting(name):
                self._sql_feature(name, path)
        for function in self.functions:
            with self.scope.collecting(function.name):
                self._python_feature(function)
        return self.steps

    def _source(self, name: str) -> Step:
        located = self.sources[name]
        spec = located.spec
        settings: dict[str, Any] = {"paths": list(spec.paths)}
        if spec.freshness is not None:
            settings["freshness"] = spec.freshness.model_dump(exclude_defaults=True)
        return Step(
            id=name,
            kind="source",
            name=name,
            where=located.at(),
            config={
                "format": spec.file_format,
                "table": spec.table,
                "csv": spec.csv.model_dump(exclude_defaults=True, mode="json"),
                "columns": {column.name: column.type for column in spec.columns if column.type},
                **({"event_time": spec.event_time} if spec.event_time else {}),
                **({"bad_rows": spec.bad_rows} if spec.bad_rows != "fail" else {}),
            },
            settings=settings,
            distributions=("duckdb",),
            tags=spec.tags,
            description=spec.description,
        )

    def _sql_feature(self, name: str, path: str) -> None:
        where = self.project.config_line(path)
        file = self.sql.open(path, self.project.sql_features[path])
        feature = self._feature(name, path, where, file.config, "")
        query = file.read_query(volatile=feature.config.volatile is not None)
        resolved = [self.scope.resolve(ref, _READABLE, file.locate_ref(ref), what="table") for ref in file.refs]
        inputs = tuple(found for found in resolved if found is not None)
        if feature.config.enabled and len(inputs) == len(file.refs):
            self._add(feature, inputs, code={path: query.tokens}, distributions=("duckdb",), query=query)

    def _python_feature(self, function: pycode.Function) -> None:
        where = self.project.line(function.path, function.line)
        feature = self._feature(function.name, function.path, where, function.arguments, function.description)
        resolved = [self.scope.resolve(name, _READABLE, where, what="table") for name in function.parameters]
        inputs = tuple(found for found in resolved if found is not None)
        if feature.config.materialized == "view":
            why = "only SQL can be inlined into what reads it"
            what = f'feature "{function.name}" cannot be a view'
            self.scope.problems.append(Problem("TR004", what, where, why, fix="remove materialized"))
        code = pycode.read_code(self.python, function)
        for place, why in code.unresolved:
            self.scope.warnings.append(unresolved_warning(function, place, why))
        if feature.config.enabled and len(inputs) == len(function.parameters):
            self._add(feature, inputs, code=code.parts, distributions=computes_python(code), function=function)

    def _add(self, feature: Feature, inputs: tuple[str, ...], **rest: Any) -> None:
        config = feature.config
        counted = {
            "keys": list(feature.keys),
            "event_time": config.event_time,
            "known_at": config.known_at,
            "threads": config.threads,
            "materialized": config.materialized,
            "volatile": config.volatile,
            **incremental.counted(config),
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
                settings={"static": config.static, **config.limits, **({"meta": config.meta} if config.meta else {})},
                tags=config.tags,
                description=feature.description,
                **rest,
            )
        )

    def _feature(self, name: str, path: str, where: Location, given: Mapping[str, Any], description: str) -> Feature:
        """Merge the folder's defaults, the YAML entry and the file's own configuration, and check the result."""
        described = self.project.features.get(name)
        own: dict[str, Any] = {}
        if described is not None:
            spec = described.spec
            own.update({k: v for k, v in spec.model_dump(exclude_unset=True).items() if k in _CONFIG_KEYS})
            description = spec.description or description
        own.update(given)
        config = self._config(name, where, {**self.project.defaults(path), **own})
        if not config.enabled:
            self.disabled.add(name)
        keys = self._keys(config, where)
        if self.scope.is_certain(name):
            self._check_time(name, config, where)
            is_python = path.endswith(".py")
            self.scope.problems += incremental.check_config(name, config, where, own=own, is_python=is_python)
        return Feature(name, where, config, keys, description)

    def _check_time(self, name: str, config: FeatureConfig, where: Location) -> None:
        def report(what: str, why: str, fix: str) -> None:
            self.scope.problems.append(Problem("TR401", f'feature "{name}" {what}', where, why, fix=fix))

        if config.static and config.event_time:
            why = "static says: true at all times; event_time says: true from a moment on"
            report("is both static and timed", why, "remove one of the two")
        elif config.entity and not config.event_time and not config.static:
            why = f'it describes the entity "{config.entity}", and nothing says since when its rows are true'
            fix = "set event_time to the column that says it, or static=true if a row is true at all times"
            report("has no event_time and is not static", why, fix)
        elif not config.event_time:
            for key in ("known_at", "ttl"):
                if getattr(config, key) is not None:
                    why = f"{key} counts from the moment a row became true, and no event_time says when that was"
                    report(
                        f"has {key} and no event_time",
                        why,
                        f"set event_time to the column that says it, or remove {key}",
                    )

    def _config(self, name: str, where: Location, values: Mapping[str, Any]) -> FeatureConfig:
        try:
            return FeatureConfig.model_validate(dict(values))
        except ValidationError as error:
            self.scope.problems += [_config_problem(name, where, detail) for detail in error.errors(include_url=False)]
            self.scope.broken.add(name)
            wrong = {detail["loc"][0] for detail in error.errors(include_url=False)}
            return FeatureConfig.model_validate({key: value for key, value in values.items() if key not in wrong})

    def _keys(self, config: FeatureConfig, where: Location) -> tuple[str, ...]:
        if config.entity is None:
            return ()
        located = self.project.entities.get(config.entity)
        if located is not None:
            return located.spec.key_columns
        suggestion = close_match(config.entity, self.project.entities) or ""
        known = config.entity in self.scope.broken
        if not known and not self.scope.is_unread(config.entity, ("entity",), suggestion):
            fix = f"add `- name: {config.entity}` below `entities:` in a YAML file of features/"
            self.scope.problems.append(
                Problem("TR107", f'entity "{config.entity}" is not defined', where, suggestion=suggestion, fix=fix)
            )
        return ()


def _config_problem(name: str, where: Location, detail: ErrorDetails) -> Problem:
    key = word(".".join(str(part) for part in detail["loc"]))
    if detail["type"] == "extra_forbidden":
        suggestion = close_match(key, _CONFIG_KEYS) or ""
        fix = f"known here: {', '.join(sorted(_CONFIG_KEYS))}"
        return Problem("TR003", f'"{key}" is no configuration of a feature', where, "", suggestion, fix)
    why, suggestion = explain_value(detail)
    return Problem("TR004", f'"{key}" of feature "{name}" has a value of the wrong form', where, why, suggestion)


def computes_python(code: pycode.Code) -> tuple[str, ...]:
    """Return what computes a function's result: what it imports, and what hands it tables and writes its own."""
    return tuple(dict.fromkeys((*code.distributions, "duckdb", "polars", "pyarrow")))


def unresolved_warning(function: pycode.Function, place: str, why: str) -> Problem:
    """Return the warning that what a function calls cannot be told from its code."""
    path, _, line = place.partition(":")
    where = Location(path, int(line) if line.isdigit() else 0)
    what = f'what {function.decorator} "{function.name}" calls cannot be told from the code alone'
    fix = f"call it by its name; until then a change to any Python file of the project re-runs the {function.decorator}"
    return Problem("TR305", what, where, why, fix=fix)
