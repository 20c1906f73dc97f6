"""Whole commands, timed beside a bare interpreter on the same machine in the same run: medians, ratios, peak memory.

Run it on a quiet machine. Absolute times drift from run to run; compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# As people have it: modules are compiled once, not at every start.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
TREADLE = str(Path(sys.executable).parent / "treadle")


@dataclass(frozen=True)
class Row:
    """One measured command: medians over `runs`; seconds of wall clock and of processor, MiB of the largest process."""

    what: str
    wall_s: float
    cpu_s: float
    over_floor: float
    peak_mib: float
    bound: str
    runs: int


def measure(
    command: list[str], folder: Path, runs: int, prepare: Callable[[], None] | None = None
) -> tuple[float, float, float]:
    """Return medians of wall seconds, processor seconds and peak MiB of a command after one warm-up."""
    walls, cpus, peaks = [], [], []
    for n in range(runs + 1):
        if prepare is not None:
            prepare()
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        errors = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if status:
            sys.exit(f"{' '.join(command)} failed:\n{errors.decode()}")
        if n:
            walls.append(wall)
            cpus.append(usage.ru_utime + usage.ru_stime)
            peaks.append(usage.ru_maxrss / 1024)
    return statistics.median(walls), statistics.median(cpus), statistics.median(peaks)


class Bench:
    """Collects rows, each beside the same floor."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.rows: list[Row] = []
        self.floor = 0.0

    def add(
        self,
        what: str,
        command: list[str],
        folder: Path,
        *,
        bound: str = "",
        runs: int | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Measure a command and keep its row."""
        n = runs or self.runs
        wall, cpu, peak = measure(command, folder, n, prepare)
        self.floor = self.floor or wall
        self.rows.append(Row(what, wall, cpu, wall / self.floor, peak, bound, n))
        print(to_text(self.rows[-1]), flush=True)


def to_text(row: Row) -> str:
    """Return a row of the table."""
    numbers = f"{row.wall_s:8.3f} | {row.cpu_s:7.3f} | {row.over_floor:8.1f} | {row.peak_mib:8.0f}"
    return f"| {row.what:<44} | {numbers} | {row.bound:<12} |"


def bench_startup(bench: Bench, folder: Path) -> None:
    """The front door, and listing the project in examples/flights."""
    bench.add("treadle --help", [TREADLE, "--help"], folder, bound="0.15 s")
    bench.add("treadle list, examples/flights", [TREADLE, "list"], copy_example(folder, "flights"), bound="0.5 s")


def bench_init(bench: Bench, folder: Path) -> None:
    """A new project, from nothing to a registered model; then the same command with nothing to do."""
    project = folder / "new"

    def clean() -> None:
        shutil.rmtree(project, ignore_errors=True)

    both = ["sh", "-c", f"{TREADLE} init new && cd new && {TREADLE} build"]
    bench.add("treadle init && treadle build", both, folder, bound="10 s", prepare=clean)
    bench.add("treadle build, nothing to do", [TREADLE, "build"], project)


def bench_flights(bench: Bench, folder: Path) -> None:
    """All of examples/flights: 336,776 rows."""
    project = copy_example(folder, "flights")

    def clean() -> None:
        shutil.rmtree(project / ".treadle", ignore_errors=True)

    bench.add("treadle build, examples/flights", [TREADLE, "build"], project, bound="60 s", runs=3, prepare=clean)
    bench.add("the same again, nothing to do", [TREADLE, "build"], project)


def copy_example(folder: Path, name: str) -> Path:
    """Copy an example without what it has built, and return where."""
    target = folder / f"{name}-example"
    if not target.exists():
        shutil.copytree(ROOT / "examples" / name, target, ignore=shutil.ignore_patterns(".treadle", "target"))
    return target


BENCHES = {"startup": bench_startup, "init": bench_init, "flights": bench_flights}


def main() -> None:
    """Measure what was asked for and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*BENCHES, []], help="by default all")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each command")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    bench = Bench(arguments.runs)
    print("| command                                      |   wall s |   cpu s | x python | peak MiB | bound        |")
    print("|----------------------------------------------|----------|---------|----------|----------|--------------|")
    with tempfile.TemporaryDirectory(prefix="treadle-bench-") as name:
        bench.add("python -c pass (the floor)", [sys.executable, "-c", "pass"], Path(name))
        for which in arguments.which or BENCHES:
            BENCHES[which](bench, Path(name))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in bench.rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
