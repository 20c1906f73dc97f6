"""What people read: aligned columns, numbers, and the lines of a run on a terminal or in a log."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from treadle.errors import Problem, UsageError
from treadle.events import (
    CatalogWaits,
    Event,
    Published,
    RunFinished,
    RunStarted,
    StepFinished,
    StepRetries,
    StepStarted,
    StepWaits,
)
from treadle_runtime.commands.story import tell

MAX_PROBLEMS = 3
MAX_NAMES = 6
MAX_REASON = 120


def print_json(value: object) -> None:
    """Print the answer as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def to_lines(rows: Iterable[Sequence[str]], *, header: Sequence[str] = ()) -> list[str]:
    """Return rows of text as lines in aligned columns; the last column is not padded."""
    table = [tuple(header), *rows] if header else list(rows)
    if not table:
        return []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    form = "  ".join(f"%-{width}s" for width in widths)
    return [(form % tuple(row)).rstrip() for row in table]


def to_names(step_ids: Iterable[str]) -> str:
    """Return names in one line, the first few and how many more."""
    names = [step_id.removeprefix("test:") for step_id in step_ids]
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def warn_of_nothing(select: Sequence[str], exclude: Sequence[str], *, what: str = "step") -> None:
    """Print on stderr that a selection which is well formed means nothing here, such as `state:modified`."""
    options = [f"--select {shlex.quote(each)}" for each in select] + [
        f"--exclude {shlex.quote(each)}" for each in exclude
    ]
    if options:
        print_problem(Problem("TR601", f"no {what} is selected", why=" ".join(options)), severity="warning")


def ask(question: str) -> bool:
    """Ask a person, and return whether the answer is yes.

    Raises:
        UsageError: TR603, there is nobody to ask.
    """
    if sys.stdin is None:  # closed, as by `<&-`
        raise _nobody()
    try:
        return click.confirm(question)
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):  # Ctrl-C
            raise
        click.echo()
        raise _nobody() from error


def _nobody() -> UsageError:
    why = "the standard input is at its end, as where no person is at the terminal"
    return UsageError(Problem("TR603", "there is nobody to ask", why=why, fix="add --yes to do it without asking"))


def print_wait(environment: str, holder: str) -> None:
    """Print on stderr that the catalog of an environment is written by another process first."""
    click.echo(_to_wait(environment, holder), err=True)


def print_problem(problem: Problem, *, severity: str = "error") -> None:
    """Print one problem on stderr."""
    first, *rest = problem.to_text().splitlines()
    head, _, what = first.partition(": ")
    colour = "red" if severity == "error" else "yellow"
    if severity != "error":
        head = head.replace("error", "warning", 1)
    click.echo(f"{click.style(head, fg=colour, bold=True)}: {click.style(what, bold=True)}", err=True)
    for line in rest:
        click.echo(line, err=True)


class Reporter:
    """Tells a run as it goes: a line a step on stderr, and a progress bar where that is a terminal."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.n_done, self.n_all, self.n_tests = 0, 0, 0
        self.finished: list[StepFinished] = []
        self.outcome: RunFinished | None = None
        self._bar: Any = None

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.n_all, self.n_tests = event.n_build, event.n_tests
                self._start_bar()
            case StepStarted():
                self._show_running(event)
            case StepWaits():
                self._line(f"{event.step_id} waits: {event.holder} computes it too")
            case StepRetries():
                self._line(_tell_retry(event))
            case CatalogWaits():
                self._line(_to_wait(event.environment, event.holder))
            case StepFinished():
                self._finished(event)
            case RunFinished():
                self.outcome = event
                self.close()
                self._tell_not_run()
            case Published():
                for problem in event.warnings:
                    print_problem(problem, severity="warning")

    def close(self) -> None:
        """Take the progress bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start_bar(self) -> None:
        is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        if self.as_json or not is_terminal or not (self.n_all or self.n_tests):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.add_task("", total=self.n_all + self.n_tests)
        self._bar.start()

    def _show_running(self, event: StepStarted) -> None:
        if self._bar is not None:
            self._bar.update(0, description=f"{event.kind} {event.name}")

    def _finished(self, event: StepFinished) -> None:
        self.finished.append(event)
        is_red = event.info.get("passed") is False
        if event.status in ("reused", "inlined") and not is_red:
            return
        self.n_done += event.status != "reused" and event.kind != "test"
        if self._bar is not None:
            self._bar.update(0, completed=sum(done.status not in ("reused", "inlined") for done in self.finished))
        if event.status == "skipped" or (event.kind == "test" and event.info.get("passed") is True):
            return  # what is not run is named in one line at the end, and tests that pass are counted there
        place = self._place(event)
        for n, text in enumerate(tell(event)):
            head = f"{place} {event.kind:<8} {_short_name(event):<28}" if n == 0 else " " * (len(place) + 38)
            self._line(f"{head} {text}", is_red=is_red or event.status == "failed")
        for note in event.notes:
            self._line(f"{' ' * (len(place) + 1)}note: {note}")

    def _place(self, event: StepFinished) -> str:
        """Return `[ 3/14]`, or of that width where a step is not counted."""
        width = len(str(self.n_all))
        if event.status == "reused" or event.kind == "test":
            return f"[{'reused' if event.status == 'reused' else '':^{2 * width + 1}}]"
        return f"[{self.n_done:>{width}}/{self.n_all}]"

    def _tell_not_run(self) -> None:
        if skipped := [event.step_id for event in self.finished if event.status == "skipped"]:
            self._line(f"not run: {to_names(skipped)}")

    def _line(self, text: str, *, is_red: bool = False) -> None:
        if self.as_json:
            return
        line = click.style(text, fg="red") if is_red else text
        if self._bar is not None:
            self._bar.stop()
            click.echo(line, err=True)
            self._bar.start()
        else:
            click.echo(line, err=True)


def _tell_retry(event: StepRetries) -> str:
    reason = (event.problem.why or event.problem.what).splitlines()[0][:MAX_REASON]
    tried = f"try {event.attempt} of {event.n_attempts} failed ({event.problem.code}: {reason})"
    return f"{event.step_id}: {tried}, again in {event.pause_s:g} s"


def _to_wait(environment: str, holder: str) -> str:
    return f"the catalog of {environment} waits: {holder} writes it"


def _short_name(event: StepFinished) -> str:
    if event.kind in ("source", "feature", "dataset", "test"):
        return event.name
    return event.step_id.removesuffix(f".{event.kind}")
