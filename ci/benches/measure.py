"""Commands, timed one after the other in turns: medians of seconds and memory, beside a floor where there is one.

Absolute times drift with the machine's load. What is compared is measured in turns, so that it drifts together.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
TREADLE = str(Path(sys.executable).parent / "treadle")
# As people have it: modules are compiled once, not at every start.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
_TICK_S = 0.02
_COLUMNS = {"command": 54, "wall s": 8, "cpu s": 7, "x python": 8, "over floor": 14, "peak MiB": 8, "bound": 14}
HEADER = "\n".join(
    f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, _COLUMNS.values(), strict=True))} |"
    for cells in (_COLUMNS, ["-" * width for width in _COLUMNS.values()])
)


@dataclass(frozen=True)
class Case:
    """A command to measure.

    Attributes:
        prepare: called before each run, and not measured.
        environ: variables that are set for it.
        is_reporting: it prints the seconds that count, wall clock and processor, as its last line.
    """

    what: str
    command: Sequence[str]
    folder: Path
    bound: str = ""
    prepare: Callable[[], object] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    is_reporting: bool = False


@dataclass(frozen=True)
class Row:
    """One measured command: medians over `runs`; seconds of wall clock and of processor, MiB of the largest process.

    Attributes:
        over_python: in multiples of a bare interpreter's start.
        floor_s: what the same work takes without Treadle, or None.
        n: how many features the time over the floor is shared by.
    """

    what: str
    wall_s: float
    cpu_s: float
    over_python: float
    peak_mib: float
    bound: str
    runs: int
    floor_s: float | None = None
    n: int = 1

    @property
    def each_ms(self) -> float | None:
        """Milliseconds over the floor for each feature."""
        return None if self.floor_s is None else (self.wall_s - self.floor_s) / self.n * 1000

    @property
    def over_floor(self) -> float | None:
        """Multiples of the floor."""
        return None if self.floor_s is None else self.wall_s / self.floor_s

    def to_json(self) -> dict[str, Any]:
        """Return what is measured and what follows from it."""
        return {**asdict(self), "each_ms": self.each_ms, "over_floor": self.over_floor}

    def to_text(self) -> str:
        """Return a row of the table."""
        over = ""
        if self.each_ms is not None and self.over_floor is not None:
            over = f"{self.each_ms:.2f} ms each" if self.n > 1 else f"{self.over_floor:.2f} x"
        numbers = (f"{self.wall_s:.3f}", f"{self.cpu_s:.3f}", f"{self.over_python:.1f}", over, f"{self.peak_mib:.0f}")
        first, *middle, last = _COLUMNS.values()
        cells = " | ".join(number.rjust(width) for number, width in zip(numbers, middle, strict=True))
        return f"| {self.what:<{first}} | {cells} | {self.bound:<{last}} |"


class Bench:
    """Collects rows, all beside the same bare interpreter."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.rows: list[Row] = []
        self.python_s = 0.0

    def add(self, *cases: Case, runs: int | None = None, warm_ups: int = 1, n: int = 1) -> None:
        """Measure commands in turns and keep their rows.

        Args:
            runs, warm_ups: see `measure`.
            n: how many features share the time over the floor, which is the last case that reports its seconds.
        """
        floor_s: float | None = None
        for case, row in zip(cases, self.measure(*cases, runs=runs, warm_ups=warm_ups), strict=True):
            self.keep(row if floor_s is None else replace(row, floor_s=floor_s, n=n))
            floor_s = row.wall_s if case.is_reporting else floor_s

    def measure(self, *cases: Case, runs: int | None = None, warm_ups: int = 1) -> list[Row]:
        """Measure commands in turns.

        Args:
            runs: how many count; by default as many as the bench was made for.
            warm_ups: how many come before.
        """
        n_runs = runs or self.runs
        samples: list[list[tuple[float, float, float]]] = [[] for _ in cases]
        for turn in range(warm_ups + n_runs):
            for found, case in zip(samples, cases, strict=True):
                sample = run(case)
                if turn >= warm_ups:
                    found.append(sample)
        rows = []
        for case, found in zip(cases, samples, strict=True):
            wall, cpu, peak = (statistics.median(values) for values in zip(*found, strict=True))
            self.python_s = self.python_s or wall
            rows.append(Row(case.what, wall, cpu, wall / self.python_s, peak, case.bound, n_runs))
        return rows

    def keep(self, *rows: Row) -> None:
        """Print rows and keep them."""
        for row in rows:
            self.rows.append(row)
            print(row.to_text(), flush=True)


def run(case: Case) -> tuple[float, float, float]:
    """Run a command; return seconds of wall clock and of processor, and MiB of its largest process."""
    if case.prepare is not None:
        case.prepare()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            case.command, cwd=case.folder, stdout=said, stderr=errors, env={**_ENVIRONMENT, **case.environ}
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s, cpu_s = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0), errors.seek(0)
        if status:
            sys.exit(f"{' '.join(case.command)} failed:\n{errors.read().decode()}")
        if case.is_reporting:
            wall_s, cpu_s = map(float, said.read().split()[-2:])
    scale = 1024 if sys.platform == "linux" else 1024 * 1024
    return wall_s, cpu_s, usage.ru_maxrss / scale


def peak_of_all(case: Case) -> float:
    """Run a command and return the peak of the MiB of all its processes, shared pages counted once; 0 without /proc."""
    if case.prepare is not None:
        case.prepare()
    quiet = subprocess.DEVNULL
    environ = {**_ENVIRONMENT, **case.environ}
    process = subprocess.Popen(case.command, cwd=case.folder, stdout=quiet, stderr=quiet, env=environ)
    peak, is_over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(_TICK_S):
            peak = max(peak, sum(map(_proportional_kib, _tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    is_over.set()
    watcher.join()
    return peak / 1024


def _tree(pid: int) -> list[int]:
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        with suppress(OSError):  # it has ended
            for task in os.listdir(f"/proc/{found[-1]}/task"):
                left += map(int, Path(f"/proc/{found[-1]}/task/{task}/children").read_text().split())
    return found


def _proportional_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
