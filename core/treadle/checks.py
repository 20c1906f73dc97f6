"""Tests of tables -> steps: a test is a query, and the rows it returns are failures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from msgspec.structs import replace
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from treadle import sql
from treadle.errors import Location, Problem, ProjectError
from treadle.guard import TEST_PREFIX
from treadle.names import close_match, is_identifier
from treadle.program import Query
from treadle.project import Located, Project
from treadle.scope import Scope, bad_name, read_expression
from treadle.spec import (
    BUILT_IN_TESTS,
    AcceptedRange,
    AcceptedValues,
    DataTest,
    Relationships,
    SqlTestConfig,
    Table,
    Unique,
)
from treadle.sqlfile import SqlReader
from treadle.step import Step
from treadle.yamlfile import explain_value, word

_ESCAPES = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"}
_TESTABLE = ("source", "feature", "dataset", "model")


def read_checks(project: Project, scope: Scope, sql: SqlReader, disabled: set[str]) -> list[Step]:
    """Return the steps of all tests: those of columns and tables in YAML, and the queries in tests/.

    Args:
        project: what the files say.
        scope: the names that tests may read; problems go there.
        sql: reads the queries.
        disabled: features that are not part of the project, and are not tested.
    """
    reader = _CheckReader(project, scope, sql)
    tables: Iterable[Located[Any]] = (*project.sources.values(), *project.features.values())
    for located in tables:
        if located.spec.name in scope.kinds and located.spec.name not in disabled:
            reader.read_table(located)
    for path in project.sql_tests:
        with scope.collecting(""):
            reader.read_file(path)
    reader.check_described()
    return reader.steps


class _CheckReader:
    def __init__(self, project: Project, scope: Scope, sql: SqlReader) -> None:
        self.project, self.scope, self.sql = project, scope, sql
        self.steps: list[Step] = []
        self.names: set[str] = set()

    def read_table(self, located: Located[Table]) -> None:
        """Compile the tests that a source or a feature lists."""
        table = located.spec
        for i, test in enumerate(table.tests):
            self._generated(table.name, test, located.at("tests", i))
        for c, column in enumerate(table.columns):
            for i, test in enumerate(column.tests):
                bound = test.model_copy(update={"column": column.name})
                self._generated(table.name, bound, located.at("columns", c, "tests", i))

    def _generated(self, table: str, test: DataTest, where: Location) -> None:
        if test.kind not in BUILT_IN_TESTS:
            with self.scope.collecting(""):
                self._own(table, test, where)
            return
        arguments = test.parsed()
        columns = [test.column] if test.column else list(arguments.columns if isinstance(arguments, Unique) else ())
        if not columns:
            fix = "put it below a column" + (", or give it `columns: [...]`" if test.kind == "unique" else "")
            what = f"{test.kind} tests a column, and none is named"
            self.scope.problems.append(Problem("TR103", what, where, fix=fix))
            return
        inputs = [table]
        if isinstance(arguments, Relationships):
            if self.scope.resolve(arguments.to, _TESTABLE, where, what="table") is None:
                return
            inputs.append(arguments.to)
        query = _query(table, columns, test, arguments)
        if test.where:
            with self.scope.collecting(""):
                read_expression(test.where, where, what="`where` of a test")
        self._add_generated(table, columns, test, where, tuple(dict.fromkeys(inputs)), query)

    def _own(self, table: str, test: DataTest, where: Location) -> None:
        """Compile a test of the project's own, a `{% test %}`."""
        renderer = self.sql.renderer
        if test.kind not in renderer.tests:
            known = sorted((*BUILT_IN_TESTS, *renderer.tests))
            what, fix = f'test "{word(test.kind)}" is not defined', f"known here: {', '.join(known)}"
            suggestion = close_match(test.kind, known) or ""
            self.scope.problems.append(Problem("TR104", what, where, "", suggestion, fix))
            return
        rows = f"ref({to_template(table)})"
        if test.where:
            read_expression(test.where, where, what="`where` of a test")
            rows = f"'(select * from ' ~ {rows} ~ {to_template(f' where {test.where})')}"
        columns = [test.column] if test.column else []
        given = {**({"column_name": test.column} if columns else {}), **test.arguments}
        named = ", ".join((rows, *(f"{key}={to_template(value)}" for key, value in given.items())))
        try:
            rendered = renderer.render(f"{{{{ {TEST_PREFIX}{test.kind}({named}) }}}}", path=where.path, name=test.kind)
            query = sql.read_query(rendered, path=where.path, volatile=False)
        except ProjectError as error:
            raise ProjectError([_placed(problem, where) for problem in error.problems]) from error
        resolved = [self.scope.resolve(ref, _TESTABLE, where, what="table") for ref in rendered.refs]
        if all(resolved):
            self._add_generated(table, columns, test, where, rendered.refs, query)

    def _add_generated(
        self, table: str, columns: list[str], test: DataTest, where: Location, inputs: tuple[str, ...], query: Query
    ) -> None:
        name = test.name or re.sub(r"\W+", "_", "_".join((test.kind, table, *columns)))
        config = {"test": test.kind, "column": ", ".join(columns), "arguments": test.arguments, "where": test.where}
        free = self._free_name(name)
        self._add(free, where, inputs, query, config, test.severity, tags=test.tags, description=test.description)

    def read_file(self, path: str) -> None:
        """Compile a query in tests/."""
        name, where = PurePosixPath(path).stem, self.project.config_line(path)
        if not is_identifier(name):
            self.scope.problems.append(bad_name("test", name, where))
            return
        file = self.sql.open(path, self.project.sql_tests[path])
        try:
            config = SqlTestConfig.model_validate(dict(file.config))
        except ValidationError as error:
            self.scope.problems += [_config_problem(name, where, detail) for detail in error.errors(include_url=False)]
            return
        query = file.read_query(volatile=False)
        resolved = [self.scope.resolve(ref, _TESTABLE, file.locate_ref(ref), what="table") for ref in file.refs]
        described = self.project.tests.get(name)
        severity = described.spec.severity if described and "severity" not in file.config else config.severity
        if all(resolved):
            free = self._free_name(name)
            said = described.spec if described else None
            self._add(
                free,
                where,
                tuple(r for r in resolved if r),
                query,
                {"test": "sql"},
                severity,
                tags=(*config.tags, *(said.tags if said else ())),
                description=config.description or (said.description if said else ""),
            )

    def check_described(self) -> None:
        """Report entries in YAML that describe no test."""
        for name, located in self.project.tests.items():
            if not any(PurePosixPath(path).stem == name for path in self.project.sql_tests):
                known = [PurePosixPath(path).stem for path in self.project.sql_tests]
                suggestion = close_match(name, known) or ""
                what = f'test "{name}" is described but has no file'
                fix = f"add tests/{name}.sql"
                self.scope.problems.append(Problem("TR103", what, located.at(), "", suggestion, fix))

    def _free_name(self, name: str) -> str:
        found, n = name, 1
        while found in self.names:
            n += 1
            found = f"{name}_{n}"
        self.names.add(found)
        return found

    def _add(
        self,
        name: str,
        where: Location,
        inputs: tuple[str, ...],
        query: Query,
        config: dict[str, Any],
        severity: str,
        *,
        tags: tuple[str, ...] = (),
        description: str = "",
    ) -> None:
        self.steps.append(
            Step(
                id=f"test:{name}",
                kind="test",
                name=name,
                where=where,
                inputs=tuple(self.scope.steps.get(i, i) for i in inputs),
                config=config,
                settings={"severity": severity, "reads": list(query.refs)},
                code={"query": query.tokens},
                distributions=("duckdb",),
                query=query,
                tags=tags,
                description=description,
            )
        )


def _placed(problem: Problem, where: Location) -> Problem:
    """Return a problem of the call that stands for a test in YAML, at the place of that."""
    is_call = problem.where is not None and problem.where.path == where.path
    return dataclasses.replace(problem, where=where) if is_call or problem.where is None else problem


def to_template(value: Any) -> str:
    """Return a value of YAML as an expression of a template."""
    match value:
        case None:
            return "none"
        case list():
            return f"[{', '.join(map(to_template, value))}]"
        case dict():
            return "{" + ", ".join(f"{to_template(key)}: {to_template(each)}" for key, each in value.items()) + "}"
        case str():
            return "'" + "".join(_ESCAPES.get(c, c) for c in value) + "'"
    return json.dumps(value)


def _config_problem(name: str, where: Location, detail: ErrorDetails) -> Problem:
    key = word(".".join(str(part) for part in detail["loc"]))
    if detail["type"] == "extra_forbidden":
        known = SqlTestConfig.model_fields
        fix = f"known here: {', '.join(sorted(known))}"
        return Problem("TR003", f'"{key}" is no configuration of a test', where, "", close_match(key, known) or "", fix)
    why, suggestion = explain_value(detail)
    return Problem("TR004", f'"{key}" of test "{name}" has a value of the wrong form', where, why, suggestion)


def block_readers(steps: list[Step]) -> Iterator[Step]:
    """Yield the steps, those that read tested tables now waiting for the tests.

    A test holds back a step when all that the test reads is read, directly or not, by that step: only then can the
    test run first (the rule of `dbt build`).
    """
    parents = {step.id: step.inputs for step in steps}
    tests_of: dict[str, list[Step]] = {}
    for test in steps:
        if test.blocks:
            for table in test.inputs:
                tests_of.setdefault(table, []).append(test)
    for step in steps:
        candidates = [test for table in step.inputs for test in tests_of.get(table, ())]
        if step.kind == "test" or not candidates:
            yield step
            continue
        above = _ancestors(step.id, parents) if any(len(test.inputs) > 1 for test in candidates) else set(step.inputs)
        held = [test.id for test in candidates if set(test.inputs) <= above]
        yield _with_after(step, tuple(dict.fromkeys((*step.after, *held))))


def _with_after(step: Step, after: tuple[str, ...]) -> Step:
    return replace(step, after=after)


def _ancestors(step_id: str, parents: dict[str, tuple[str, ...]]) -> set[str]:
    found: set[str] = set()
    waiting = list(parents[step_id])
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += parents.get(current, ())
    return found


def _query(table: str, columns: list[str], test: DataTest, arguments: object) -> Query:
    source = f"{_quote(table)}" if not test.where else f"(select * from {_quote(table)} where {test.where}\n)"
    names = ", ".join(_quote(column) for column in columns)
    column = _quote(columns[0])
    refs = [table]
    match arguments:
        case Unique():
            any_null = " or ".join(f"{_quote(c)} is null" for c in columns)
            rows = f"{source} where not ({any_null})"
            text = f"select {names}, count(*) as n from {rows} group by all having count(*) > 1"
        case AcceptedValues():
            values = ", ".join(_literal(value) for value in arguments.values if value is not None)
            is_other = f"{column} not in ({values})" if values else f"{column} is not null"
            text = f"select {column}, count(*) as n from {source} where {is_other} group by all"
        case AcceptedRange():
            bounds = [f"{column} < {_literal(arguments.min)}"] if arguments.min is not None else []
            bounds += [f"{column} > {_literal(arguments.max)}"] if arguments.max is not None else []
            text = f"select * from {source} where {' or '.join(bounds)}"
        case Relationships():
            refs.append(arguments.to)
            theirs = _quote(arguments.field)
            other = f"select {theirs} from {_quote(arguments.to)} where {theirs} is not null"
            text = f"select {column}, count(*) as n from {source} where {column} not in ({other}) group by all"
        case _:
            text = f"select * from {source} where {column} is null"
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Query(text=text, tokens=digest, refs=tuple(dict.fromkeys(refs)))


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value) if not isinstance(value, float) or math.isfinite(value) else f"'{value}'::double"
