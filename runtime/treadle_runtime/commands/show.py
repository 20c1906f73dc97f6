"""treadle show: rows of a table or those left out of it, one training row with its sources, the card of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from treadle_runtime.commands.bad_rows import count_bad_rows, show_bad_rows, tell_bad_rows
from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.options import as_of_option, defer_option, json_option, open_project, project_options

if TYPE_CHECKING:
    from treadle_runtime.handle import StepHandle
    from treadle_runtime.registry import ModelVersion
    from treadle_runtime.workspace import Workspace

MAX_CELL = 40
_TABLES = ("source", "feature", "dataset", "evaluate", "stage")
MAX_INPUTS = 12


@click.command("show")
@click.argument("name")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(0), help="How many rows")
@click.option("--row", metavar="KEY", help="One row of a dataset, each value with its event_time and known_at")
@click.option("--bad-rows", is_flag=True, help="The rows of a source that do not parse")
@as_of_option
@defer_option
@project_options
@json_option
def show(
    name: str,
    limit: int,
    row: str | None,
    bad_rows: bool,
    as_of: str | None,
    defer: str | None,
    folder: Path,
    environment: str | None,
    variables: str | None,
    as_json: bool,
) -> None:
    """Show rows of a table, or the card of a model or pipeline

    Of a source that says `bad_rows: quarantine`, --bad-rows shows the rows that do not parse and are left out: file,
    line, column, error, text. With --defer a table is shown as a build of it with --defer makes it.

    \b
    Examples:
      treadle show carrier_history --limit 5
      treadle show arrivals --row 17
      treadle show raw_orders --bad-rows
    """
    with open_project(folder, environment, variables, as_of) as workspace:
        handle = _table(workspace, name, defer)
        if bad_rows:
            show_bad_rows(name, handle, limit, as_json)
        elif row is not None:
            _show_row(name, handle, row, as_json)
        elif handle is not None and name not in workspace.registry.pipelines():
            _show_table(handle, limit, as_json)
        else:
            _show_model(workspace, name, as_json)


def _table(workspace: Workspace, name: str, defer: str | None) -> StepHandle | None:
    """Return the step of that id whose result is a table, or the own stage of that name, if there is one."""
    graph = workspace.graph
    step = graph.steps.get(name)
    if step is None and not any(name in (other.pipeline, other.model) for other in graph):
        is_stage = any(other.kind == "stage" and other.name == name for other in graph)
        return workspace.step(name, defer=defer) if is_stage else None
    return workspace.step(name, defer=defer) if step is not None and step.kind in _TABLES else None


def _show_table(handle: StepHandle, limit: int, as_json: bool) -> None:
    from treadle_runtime.commands.console import print_json, to_lines

    sample = handle.sample(limit)
    if as_json:
        rows = [dict(zip(sample.columns, row, strict=True)) for row in sample.rows]
        print_json({"name": handle.step.name, "rows": sample.n, **count_bad_rows(handle), "sample": rows})
        return
    cells = [[_cell(value) for value in row] for row in sample.rows]
    for line in to_lines(cells, header=sample.columns):
        click.echo(line)
    click.echo(f"{sample.n:,} rows x {len(sample.columns)}")
    for note in tell_bad_rows(handle, sample.n):
        click.echo(note)


def _cell(value: object) -> str:
    text = "NULL" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 3] + "..."


def _show_row(name: str, handle: StepHandle | None, key: str, as_json: bool) -> None:
    from treadle.errors import Problem, UsageError
    from treadle_runtime.commands.console import print_json, to_lines

    if handle is None or handle.step.kind != "dataset":
        raise UsageError(Problem("TR603", f'"{name}" is no dataset', fix="--row shows one row of a dataset"))
    row, info = handle.dataset_row(key)
    roles, provenance = info["roles"], info["provenance"]
    values = [_row_value(row, column, provenance) for column in roles["inputs"]]
    if as_json:
        print_json(
            {"name": name, "key": row[roles["key"]], "at": row.get("_at"), "label": row.get("_label"), "inputs": values}
        )
        return
    click.echo(f"{name}: {roles['key']} = {row[roles['key']]}")
    if roles["at"]:
        click.echo(f"predicted at  {row['_at']}")
    if roles["label"]:
        known = f"   known at {row['_label_known_at']}" if roles["label_known_at"] else ""
        click.echo(f"label         {roles['label']} = {_cell(row['_label'])}{known}")
    click.echo("")
    table = [(v["input"], _cell(v["value"]), _moment(v["event_time"]), _moment(v["known_at"])) for v in values]
    for line in to_lines(table, header=("input", "value", "event_time", "known_at")):
        click.echo(line)


def _row_value(row: Mapping[str, Any], column: str, provenance: Mapping[str, Any]) -> dict[str, Any]:
    for found in provenance.values():
        if column in found["columns"]:
            times = {name: row.get(found[name]) if found[name] else None for name in ("event_time", "known_at")}
            return {"input": column, "value": row[column], **times}
    return {"input": column, "value": row[column], "event_time": None, "known_at": None}


def _moment(value: object) -> str:
    return "" if value is None else str(value)


def _show_model(workspace: Workspace, name: str, as_json: bool) -> None:
    from treadle_runtime.commands.console import print_json

    card = _card(workspace, _find_version(workspace, name))
    if as_json:
        print_json(card)
        return
    _print_card(card, workspace.environment)


def _find_version(workspace: Workspace, name: str) -> ModelVersion:
    """Return the candidate (else the newest version) of a pipeline, or of the pipeline of a model."""
    from treadle.errors import Problem, UsageError
    from treadle.names import close_match

    graph = workspace.graph
    pipelines = {step.pipeline for step in graph if step.pipeline}
    pipeline = next((step.pipeline for step in graph if step.model == name), name if name in pipelines else "")
    if not pipeline:
        known = {step.name for step in graph} | pipelines
        fix = "see `treadle list` for all names"
        raise UsageError(
            Problem("TR601", f'there is nothing called "{name}"', suggestion=close_match(name, known) or "", fix=fix)
        )
    versions = workspace.registry.versions(pipeline, env=workspace.environment)
    if not versions:
        fix = f"run `{next_command('build', '--select', f'pipeline:{pipeline}')}`"
        raise UsageError(Problem("TR807", f'pipeline "{pipeline}" has no version in {workspace.environment}', fix=fix))
    return next((v for v in versions if "candidate" in v.aliases), versions[0])


def _card(workspace: Workspace, version: ModelVersion) -> dict[str, Any]:
    def info(fingerprint: str) -> dict[str, Any]:
        found = workspace.store.read(fingerprint)
        return dict(found.info) if found is not None else {}

    from treadle_runtime.commands.story import in_order
    from treadle_runtime.promoting import is_standing

    shipped, evaluation = info(version.shipped), info(version.evaluate)
    return {
        "pipeline": version.pipeline,
        "version": version.number,
        "aliases": list(version.aliases),
        "model": version.model,
        "in_store": is_standing(version, workspace.store.fingerprints()),
        "trainer": shipped.get("trainer"),
        "task": shipped.get("task"),
        "created_at": version.created_at,
        "run": version.run_id,
        "shipped": version.shipped,
        "rows": shipped.get("rows"),
        "inputs": _model_inputs(workspace, version.shipped),
        "split": info(version.split),
        "validation": in_order(evaluation.get("validation", {}), workspace.graph, version.pipeline),
        "test": in_order(evaluation.get("test", {}), workspace.graph, version.pipeline),
        "slices": evaluation.get("slices", {}),
        "gates": info(version.validate).get("gates", []),
        "libraries": shipped.get("libraries", {}),
    }


def _model_inputs(workspace: Workspace, shipped: str) -> list[str]:
    path = workspace.store.folder_of(shipped) / "model" / "model.json"
    return [column["name"] for column in json.loads(path.read_text("utf-8"))["inputs"]] if path.exists() else []


def _print_card(card: Mapping[str, Any], env: str) -> None:
    from treadle_runtime.commands.console import to_lines
    from treadle_runtime.commands.story import interval, number
    from treadle_runtime.promoting import make_again

    aliases = f" ({', '.join(card['aliases'])})" if card["aliases"] else ""
    made = f"{card['trainer']}, {card['task']}" if card["in_store"] else "not in the store any more"
    click.echo(f"{card['pipeline']} version {card['version']}{aliases}: {card['model']}, {made}")
    if not card["in_store"]:
        click.echo(f"fix: {make_again(env)}")
    counts = card["split"].get("counts", {})
    lines: list[Sequence[str]] = [
        ("built", f"{card['created_at'][:19]}Z by run {card['run']}"),
        ("rows", ", ".join(f"{name} {n:,}" for name, n in counts.items())),
        ("as of", str(card["split"].get("as_of") or "")),
        ("inputs", _inputs(card["inputs"])),
        ("libraries", ", ".join(f"{name} {version}" for name, version in card["libraries"].items())),
        ("model", f".treadle/store/{card['shipped']}/model" if card["in_store"] else ""),
    ]
    for line in to_lines([line for line in lines if line[1]]):
        click.echo(line)
    click.echo("")
    rows = [(name, number(card["validation"].get(name)), interval(found)) for name, found in card["test"].items()]
    for line in to_lines(rows, header=("metric", "validation", "test [95 %]")):
        click.echo(line)
    if card["gates"]:
        click.echo("")
        gates = [(g["status"], g["gate"], number(g["value"]), g["why"]) for g in card["gates"]]
        for line in to_lines(gates, header=("gate", "", "value", "")):
            click.echo(line)


def _inputs(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_INPUTS} more" if len(names) > MAX_INPUTS else ""
    return ", ".join(names[:MAX_INPUTS]) + more
