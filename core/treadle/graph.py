"""Project -> Graph: compile every file into steps and their order, or report all that is wrong at once.

compile_graph: take the names -> features -> datasets, models, pipelines -> tests -> order. No user code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

from treadle.checks import block_readers, read_checks
from treadle.docblocks import describe, read_blocks
from treadle.errors import Location, Problem, ProjectError
from treadle.incremental import check_inputs
from treadle.modelling import PipelineReader
from treadle.ownstages import add_stages
from treadle.project import Project
from treadle.render import Renderer
from treadle.scope import Scope, find_cycle, order
from treadle.sqlfile import SqlReader
from treadle.step import Graph, Step
from treadle.tables import TableReader

_MAX_PLACES = 9


def _read_all(renderer: Renderer) -> SqlReader:
    return SqlReader(renderer, {})


def compile_graph(
    project: Project,
    *,
    environ: Mapping[str, str],
    as_of: str | None = None,
    read_sql: Callable[[Renderer], SqlReader] = _read_all,
) -> Graph:
    """Compile a project into its graph.

    Args:
        project: as read from disk.
        environ: the environment variables that `env_var` may read.
        as_of: the moment that counts as now, ISO 8601, UTC; None: the newest that the labels know of.
        read_sql: returns what reads the SQL files; it may know some of them.

    Returns:
        The graph, parents first.

    Raises:
        ProjectError: all problems of the project, in the order of files and lines.
    """
    scope = Scope(set(project.broken), list(project.problems), set(project.unread), project.unread_texts)
    sql = read_sql(_renderer(project, environ, as_of))
    tables = TableReader(project, scope, sql)
    pipelines = PipelineReader(project, scope)
    tables.define()
    pipelines.define()
    steps = tables.read()
    steps += pipelines.read(tables.features)
    steps = add_stages(project, scope, tables.python, steps)
    steps += read_checks(project, scope, sql, tables.disabled)
    blocks, problems = read_blocks(project.docs)
    steps, undefined = describe(steps, blocks)
    scope.problems += [*problems, *undefined]
    inputs = {step.id: step.inputs for step in steps}
    if (cycle := find_cycle(inputs)) is not None:
        scope.problems.append(_cycle_problem(cycle, {step.id: step for step in steps}))
    else:
        _report_static(steps, scope)
        scope.problems += check_inputs(steps, is_certain=scope.is_certain)
    _report_disabled(steps, tables.disabled, scope)
    if scope.problems:
        raise ProjectError(sorted(dict.fromkeys(scope.problems), key=_position))
    by_id = {step.id: step for step in block_readers(steps)}
    ordered = order({step.id: (*step.inputs, *step.after) for step in by_id.values()})
    return Graph(
        project=project.spec.name,
        environment=project.environment,
        steps={step_id: by_id[step_id] for step_id in ordered},
        warnings=tuple(scope.warnings),
    )


def _renderer(project: Project, environ: Mapping[str, str], as_of: str | None) -> Renderer:
    try:
        return Renderer(macros=project.macros, variables=project.variables, environ=environ, as_of=as_of)
    except ProjectError as error:  # without macros no SQL can be looked at
        raise ProjectError(sorted((*project.problems, *error.problems), key=_position)) from error


def _position(problem: Problem) -> tuple[Location, str]:
    return (problem.where or Location(""), problem.code)


def _cycle_problem(cycle: list[str], steps: Mapping[str, Step]) -> Problem:
    first, *rest = [f"{steps[step_id].where} reads {parent}" for step_id, parent in pairwise(cycle)]
    if len(rest) > _MAX_PLACES:
        rest[_MAX_PLACES - 1 :] = [f"and {len(rest) - _MAX_PLACES + 1} more"]
    why = "\n".join((" -> ".join(cycle), *((first, *rest) if rest else ())))
    fix = "remove one of these references; what both need can stand in a feature of its own"
    return Problem("TR105", "features read each other in a cycle", steps[cycle[0]].where, why, fix=fix)


def _report_disabled(steps: list[Step], disabled: set[str], scope: Scope) -> None:
    """Report steps that read a feature that is disabled."""
    for step in steps:
        for parent in disabled.intersection(step.inputs):
            what = f'"{step.name}" reads "{parent}", which is disabled'
            fix = f"enable {parent}, or disable {step.name} too"
            scope.problems.append(Problem("TR104", what, step.where, fix=fix))


def _report_static(steps: list[Step], scope: Scope) -> None:
    """Report static features that stand on timed ones: what was learnt later would count as known at all times."""
    by_id = {step.id: step for step in steps}
    timed: dict[str, str] = {}
    for step_id in order({step.id: step.inputs for step in steps}):
        step = by_id[step_id]
        if step.config.get("event_time"):
            timed[step_id] = step_id
            continue
        source = next((timed[parent] for parent in step.inputs if parent in timed), None)
        if source is None or step.kind != "feature":
            continue
        timed[step_id] = source
        if step.settings["static"] and scope.is_certain(step.id):
            why = f'it stands on "{source}", whose rows are true from their {by_id[source].config["event_time"]} on'
            fix = "give it an event_time of its own, or let it read what holds no later knowledge"
            what = f'static feature "{step.name}" stands on a timed one'
            scope.problems.append(Problem("TR408", what, step.where, why, fix=fix))
