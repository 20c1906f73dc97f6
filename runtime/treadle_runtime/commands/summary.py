"""The end of a run: counts, metrics beside what comes for free, verdicts, failures, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from treadle.gates import parse_gate
from treadle_runtime.artifacts import write_artifact
from treadle_runtime.commands.console import MAX_PROBLEMS, Reporter, print_problem, to_names
from treadle_runtime.commands.hint import next_command
from treadle_runtime.commands.story import in_order, interval, number, seconds
from treadle_runtime.intervals import PIECES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from treadle_runtime.building import Outcome
    from treadle_runtime.runresult import Run, StepResult
    from treadle_runtime.version import Version
    from treadle_runtime.workspace import Workspace

RESULTS_VERSION = 2
_BASELINES = ("constant", "best_single", "linear")


class Summary(Struct, frozen=True):
    """The lines at the end of a run.

    Attributes:
        before: what models came to.
        counts: of steps and tests; the time is told behind them.
        ending: of that line, if there is more to say.
        after: the rest.
        next: the words of the command that is told as the next one, behind what is to be done before it.
    """

    before: tuple[str, ...]
    counts: str
    ending: str
    after: tuple[str, ...]
    next: tuple[str, ...] = ()

    def print(self, duration_s: float) -> None:
        """Print the lines on stdout."""
        for line in (*self.before, f"{self.counts} in {seconds(duration_s)}{self.ending}", *self.after):
            click.echo(line)
        if self.next:
            first, *words = self.next
            click.echo(f"next: {first}{next_command(*words)}")


def exit_code(workspace: Workspace, outcome: Outcome) -> int:
    """Return 0 when all passed, 1 when a step, a test or a gate did not.

    Gates count no more once the version that they refused is the champion: a person has decided.
    """
    return int(outcome.run.has_failed() or bool(_refused(workspace, outcome)))


def to_summary(workspace: Workspace, outcome: Outcome) -> Summary:
    """Return what the run came to."""
    run = outcome.run
    before = [line for pipeline in _pipelines(run) for line in _tell_pipeline(workspace, run, pipeline)]
    if deferred := [result for step_id, result in run.results.items() if step_id in run.plan.deferred]:
        before.append(f"{deferred[0].planned.reason}: {to_names(result.planned.step.id for result in deferred)}")
    after = _backfilled(outcome)
    for pipeline, version in outcome.candidates.items():
        after.append(f"{pipeline}: version {version} is the candidate in {workspace.environment}")
    for pipeline in _forced(workspace, outcome):
        what = f"version {outcome.rejected[pipeline]} is the champion by force"
        after.append(f"{pipeline}: {what}, although its gates did not hold")
    for pipeline in _undecided(workspace, outcome):
        what = f"version {outcome.rejected[pipeline]} is registered and not promoted"
        after.append(f"{pipeline}: {what}: it could not be compared with the champion")
    words = _next(workspace, outcome) if outcome.published else ()
    return Summary(tuple(before), _count(run), _tell_unpublished(workspace, outcome), tuple(after), words)


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


def _count(run: Run) -> str:
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
    return ", ".join(parts)


def _tell_unpublished(workspace: Workspace, outcome: Outcome) -> str:
    if outcome.run.has_failed():
        return "; nothing was published\nnext: correct it and run the same command: what is built is kept"
    if _refused(workspace, outcome):
        return "; the gates did not hold, so the candidate stays what it was"
    return ""


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
            lines.append(f"{n:,} of {of:,} intervals of {step_id} are there; {next_command('build')} computes {rest}")
    return lines


def _pipelines(run: Run) -> list[str]:
    return [r.planned.step.pipeline for r in run.results.values() if r.planned.step.kind == "validate"]


def _tell_pipeline(workspace: Workspace, run: Run, pipeline: str) -> list[str]:
    """Return a pipeline's test metrics beside the baselines, a line each."""
    graph, verdict = run.plan.graph, _stored(run.results[f"{pipeline}.validate"], workspace)
    baseline = _stored(run.results.get(f"{pipeline}.baseline"), workspace)
    if verdict is None or baseline is None:
        return []
    info: Any = verdict.info
    free: Any = baseline.info["baselines"]
    lines = []
    for name, found in in_order(info["test"], graph, pipeline).items():
        others = [
            f"{_name(kind, free[kind])} {number(free[kind]['test'].get(name))}" for kind in _BASELINES if kind in free
        ]
        lines.append(f"{pipeline}: {info['chosen']}: {name} {interval(found)}   {', '.join(others)}")
    return lines


def _name(kind: str, baseline: dict[str, Any]) -> str:
    return f"best single input ({baseline['input']})" if kind == "best_single" else kind


def _forced(workspace: Workspace, outcome: Outcome) -> list[str]:
    """Return the pipelines whose version a person made the champion although its gates refuse it."""
    return [name for name, version in outcome.rejected.items() if _is_champion(workspace, name, version)]


def _refused(workspace: Workspace, outcome: Outcome) -> set[str]:
    """Return the pipelines whose gates did not hold, and whose version is not the champion all the same."""
    return set(outcome.run.rejected()).difference(_forced(workspace, outcome))


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


def _next(workspace: Workspace, outcome: Outcome) -> tuple[str, ...]:
    for pipeline, version in outcome.candidates.items():
        if not _is_champion(workspace, pipeline, version):
            return "", "models", "promote", pipeline
    for pipeline in _undecided(workspace, outcome):
        return "", "models", "promote", pipeline, str(outcome.rejected[pipeline]), "--force"
    if any(not _is_champion(workspace, pipeline, version) for pipeline, version in outcome.rejected.items()):
        return "correct what the gates found, then ", "build"
    pipelines = _pipelines(outcome.run)
    if pipelines:
        return "", "show", pipelines[0]
    shown = [r.planned.step for r in outcome.run.results.values() if r.planned.step.kind in ("feature", "source")]
    return ("", "show", shown[-1].name) if shown else ("", "list")
