"""A project's own stages: functions in pipelines/*.py that stand after a stage of a pipeline, or replace one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from msgspec.structs import replace

from treadle import pycode
from treadle.errors import Location, Problem
from treadle.names import close_match
from treadle.project import Project
from treadle.scope import Scope
from treadle.step import Step
from treadle.tables import computes_python, unresolved_warning

_STAGES = ("split", "baseline", "train", "evaluate", "choose", "validate", "refit")
_REPLACEABLE = ("split", "choose")
_READABLE = ("source", "feature", "dataset", "model")


def add_stages(project: Project, scope: Scope, sources: pycode.Sources, steps: list[Step]) -> list[Step]:
    """Return the steps with the project's own stages among them; problems go to `scope`.

    Args:
        project: whose pipelines/*.py are read.
        scope: the names that parameters may refer to.
        sources: the project's Python files.
        steps: all steps of pipelines and tables.
    """
    found = {step.id: step for step in steps}
    for path in project.python:
        if path.startswith("pipelines/"):
            with scope.collecting(PurePosixPath(path).stem):
                for function in pycode.read_functions(sources, path):
                    if function.decorator == "stage":
                        _add(project, scope, sources, function, found)
    return list(found.values())


def _add(
    project: Project, scope: Scope, sources: pycode.Sources, function: pycode.Function, found: dict[str, Step]
) -> None:
    where = Location(function.path, function.line)
    pipeline, role, stage = _place(project, scope, function, where)
    if not pipeline:
        return
    resolved = [scope.resolve(name, _READABLE, where, what="table") for name in function.parameters]
    code = pycode.read_code(sources, function)
    scope.warnings += [unresolved_warning(function, place, why) for place, why in code.unresolved]
    own: dict[str, Any] = {
        "inputs": tuple(step_id for step_id in resolved if step_id is not None),
        "function": function,
        "code": code.parts,
        "distributions": computes_python(code),
    }
    if role == "replaces":
        replaced = found.get(f"{pipeline}.{stage}")
        if replaced is not None:
            inputs = tuple(dict.fromkeys((*replaced.inputs, *own.pop("inputs"))))
            found[replaced.id] = replace(replaced, inputs=inputs, where=where, **own)
        return
    step_id = f"{pipeline}.{function.name}"
    if step_id in found:
        what = f'pipeline "{pipeline}" has a stage "{function.name}" already'
        scope.problems.append(Problem("TR102", what, where, fix="rename the function"))
        return
    found[step_id] = Step(
        id=step_id,
        kind="stage",
        name=function.name,
        where=where,
        after=tuple(step.id for step in found.values() if step.pipeline == pipeline and step.kind == stage),
        config={"keys": [], "event_time": None, "known_at": None, "threads": 1},
        pipeline=pipeline,
        description=function.description,
        **own,
    )


def _place(project: Project, scope: Scope, function: pycode.Function, where: Location) -> tuple[str, str, str]:
    """Return (pipeline, after or replaces, stage), or empty text where the decorator's arguments are wrong."""
    arguments: Mapping[str, Any] = function.arguments
    pipeline, roles = arguments.get("pipeline"), [role for role in ("after", "replaces") if role in arguments]
    problem: Problem | None = None
    if set(arguments) - {"pipeline", "after", "replaces"} or not isinstance(pipeline, str) or len(roles) != 1:
        why = f"found {', '.join(arguments) or 'nothing'}"
        fix = 'write @stage(pipeline="arrivals", after="evaluate"), or replaces="choose"'
        problem = Problem(
            "TR004", f'stage "{function.name}" takes pipeline, and either after or replaces', where, why, fix=fix
        )
    elif pipeline not in project.pipelines:
        suggestion = close_match(pipeline, project.pipelines) or ""
        problem = Problem(
            "TR104", f'pipeline "{pipeline}" is not defined', where, "", suggestion, "define it in pipelines/"
        )
    else:
        role, allowed = roles[0], _STAGES if roles[0] == "after" else _REPLACEABLE
        stage = arguments[role]
        if stage in allowed:
            return pipeline, role, stage
        why = f"found {stage!r}; it is one of {', '.join(allowed)}"
        problem = Problem("TR004", f'"{role}" of stage "{function.name}" names no stage', where, why)
    if pipeline not in scope.broken:
        scope.problems.append(problem)
    return "", "", ""
