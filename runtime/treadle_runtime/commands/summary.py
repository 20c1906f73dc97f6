"""The end of a run: counts, metrics beside what comes for free, verdicts, failures, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from treadle.gates import parse_gate
from treadle_runtime.artifacts import write_artifact
from treadle_runtime.commands.console import MAX_PROBLEMS, Reporter, print_problem, to_names
from treadle_runtime.commands.story import in_order, interval, number, seconds
from treadle_runtime.intervals import PIECES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from treadle_runtime.runresult import Run, StepResult
    from treadle_runtime.version import Version
    from treadle_runtime.workspace import Outcome, Workspace

RESULTS_VERSION = 2
_BASELINES = ("constant", "best_single", "linear")


def exit_code(outcome: Outcome) -> int:
    """Return 0 when all passed, 1 when a step, a test or a gate did not."""
    return int(outcome.run.has_failed() or outcome.run.is_rejected())


def print_summary(workspace: Workspace, outcome: Outcome, reporter: Reporter) -> None:
    """Print what the run came to, on stdout."""
    run = outcome.run
    for pipeline in _pipelines(run):
        _print_pipeline(workspace, run, pipeline)
    if deferred := [result for step_id, result in run.results.items() if step_id in run.plan.deferred]:
        click.echo(f"{deferred[0].planned.reason}: {to_names(result.planned.step.id for result in deferred)}")
    click.echo(_counts(run, reporter))
    for line in _backfilled(outcome):
        click.echo(line)
    for pipeline, version in outcome.candidates.items():
        click.echo(f"{pipeline}: version {version} is the candidate in {workspace.environment}")
    for pipeline in _undecided(workspace, outcome):
        what = f"version {outcome.rejected[pipeline]} is registered and not promoted"
        click.echo(f"{pipeline}: {what}: it could not be compared with the champion")
    if outcome.published:
        click.echo(f"next: {_next(workspace, outcome)}")


def print_failures(outcome: Outcome) -> None:
    """Print what failed, on stderr: the first problems in full, the user's own frame last."""
    failed = [result for result in outcome.run.results.values() if result.status == "failed"]
    for result in failed[:MAX_PROBLEMS]:
        for problem in result.problems[:MAX_PROBLEMS]:
            print_problem(problem)
    if len(failed) > MAX_PROBLEMS:
        names = ", ".join(result.planned.step.id for result in failed[MAX_PROBLEMS:])
        click.echo(f"and {len(failed) - MAX_PROBLEMS} more: {names[:200]}", err=True)


def to_results(workspace: Workspace, outcome: Outcome, reporter: Reporter) -> dict[str, Any]:
    """Return the run as JSON and write it to target/run_results.json."""
    run = outcome.run
    results = {
        "results_version": RESULTS_VERSION,
        "run_id": run.run_id,
        "environment": workspace.environment,
        "status": reporter.outcome.status if reporter.outcome else "passed",
        "published": outcome.published,
        "candidates": dict(outcome.candidates),
        "seconds": reporter.outcome.seconds if reporter.outcome else 0.0,
        "steps": [_step_json(result, workspace) for result in run.results.values()],
    }
    write_artifact(workspace.root, "run_results.json", results)
    return results


def _step_json(result: StepResult, workspace: Workspace) -> dict[str, Any]:
    """Return a step's result; what a reused table or test holds is left out, for there may be ten thousand."""
    step, planned = result.planned.step, result.planned
    found = {
        "id": step.id,
        "kind": step.kind,
        "status": result.status,
        "fingerprint": planned.fingerprint,
        "reason": planned.reason,
    }
    version = result.version or (_stored(result, workspace) if step.pipeline else None)
    if result.status == "reused" and version is None:
        return found
    return {
        **found,
        "seconds": result.seconds,
        "attempts": result.attempts,
        "rows": version.rows if version else 0,
        "info": {k: v for k, v in version.info.items() if k not in PIECES} if version else {},
        "pieces": list(result.pieces) if result.pieces else None,
        "problems": [problem.to_json() for problem in result.problems],
    }


def _stored(result: StepResult | None, workspace: Workspace) -> Version | None:
    """Return the version of a step that was built or reused."""
    if result is None or result.status not in ("built", "reused"):
        return None
    return result.version or workspace.store.read(result.planned.fingerprint)


def _counts(run: Run, reporter: Reporter) -> str:
    from treadle_runtime.runresult import is_failure

    steps = [r for r in run.results.values() if r.planned.step.kind != "test"]
    tests = [r for r in run.results.values() if r.planned.step.kind == "test"]
    by_status = {status: sum(r.status == status for r in steps) for status in ("built", "reused", "failed", "skipped")}
    parts = [f"{by_status['built']} built", f"{by_status['reused']} reused"]
    if n_backfilled := sum(r.status == "backfilled" for r in steps):
        parts.append(f"{n_backfilled} backfilled")
    parts += [f"{by_status[status]} {status}" for status in ("failed", "skipped") if by_status[status]]
    if tests:
        n_passed = sum(r.status in ("built", "reused") and r.has_passed for r in tests)
        n_skipped = sum(r.status == "skipped" for r in tests)
        n_failed = sum(is_failure(r) for r in tests)
        n_warned = len(tests) - n_passed - n_skipped - n_failed
        parts.append(f"{n_passed} {'test' if n_passed == 1 else 'tests'} passed")
        parts += [
            f"{n} {word}" for n, word in ((n_failed, "failed"), (n_warned, "warned"), (n_skipped, "not run")) if n
        ]
    text = f"{', '.join(parts)} in {seconds(reporter.outcome.seconds if reporter.outcome else 0.0)}"
    if run.has_failed():
        return f"{text}; nothing was published\nnext: correct it and run the same command: what is built is kept"
    if run.is_rejected():
        return f"{text}; the gates did not hold, so the candidate stays what it was"
    return text


def _backfilled(outcome: Outcome) -> list[str]:
    """Return what a backfill came to, a line for each feature."""
    lines = []
    for step_id in outcome.backfilled:
        result = outcome.run.results[step_id]
        if result.status == "reused":
            lines.append(f"all intervals of {step_id} are there")
        elif result.pieces is not None:
            n, of = result.pieces
            rest = "the rest" if n < of else "none of them again"
            lines.append(f"{n:,} of {of:,} intervals of {step_id} are there; treadle build computes {rest}")
    return lines


def _pipelines(run: Run) -> list[str]:
    return [r.planned.step.pipeline for r in run.results.values() if r.planned.step.kind == "validate"]


def _print_pipeline(workspace: Workspace, run: Run, pipeline: str) -> None:
    """Print a pipeline's test metrics beside the baselines."""
    graph, verdict = run.plan.graph, _stored(run.results[f"{pipeline}.validate"], workspace)
    baseline = _stored(run.results.get(f"{pipeline}.baseline"), workspace)
    if verdict is None or baseline is None:
        return
    info: Any = verdict.info
    free: Any = baseline.info["baselines"]
    for name, found in in_order(info["test"], graph, pipeline).items():
        others = [
            f"{_name(kind, free[kind])} {number(free[kind]['test'].get(name))}" for kind in _BASELINES if kind in free
        ]
        click.echo(f"{pipeline}: {info['chosen']}: {name} {interval(found)}   {', '.join(others)}")


def _name(kind: str, baseline: dict[str, Any]) -> str:
    return f"best single input ({baseline['input']})" if kind == "best_single" else kind


def _undecided(workspace: Workspace, outcome: Outcome) -> list[str]:
    """Return the pipelines whose new version awaits a person's decision, as no gate can judge it."""
    found = []
    for pipeline, version in outcome.rejected.items():
        verdict = _stored(outcome.run.results.get(f"{pipeline}.validate"), workspace)
        if verdict is not None and _is_undecided(verdict.info) and not _is_champion(workspace, pipeline, version):
            found.append(pipeline)
    return found


def _is_undecided(verdict: Mapping[str, Any]) -> bool:
    """Return whether nothing speaks against a model but that it could not be compared with the champion."""
    failed = [entry for entry in verdict["gates"] if entry["status"] == "failed"]
    return bool(failed) and all(
        entry["value"] is not None and entry["bound"] is None and parse_gate(entry["gate"]).needs_champion
        for entry in failed
    )


def _is_champion(workspace: Workspace, pipeline: str, version: int) -> bool:
    champion = workspace.registry.champion(pipeline, env=workspace.environment)
    return champion is not None and champion.number == version


def _next(workspace: Workspace, outcome: Outcome) -> str:
    for pipeline, version in outcome.candidates.items():
        if not _is_champion(workspace, pipeline, version):
            return f"treadle models promote {pipeline}"
    for pipeline in _undecided(workspace, outcome):
        return f"treadle models promote {pipeline} {outcome.rejected[pipeline]} --force"
    if any(not _is_champion(workspace, pipeline, version) for pipeline, version in outcome.rejected.items()):
        return "correct what the gates found, then treadle build"
    pipelines = _pipelines(outcome.run)
    if pipelines:
        return f"treadle show {pipelines[0]}"
    shown = [r.planned.step for r in outcome.run.results.values() if r.planned.step.kind in ("feature", "source")]
    return f"treadle show {shown[-1].name}" if shown else "treadle list"
