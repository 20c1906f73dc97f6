"""The commands that people meet first: starting up, a new project, an example on all of its data."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from benches.measure import ROOT, TREADLE, Bench, Case


def bench_startup(bench: Bench, folder: Path) -> None:
    """The front door, and listing the project in examples/flights."""
    bench.add(Case("treadle --help", [TREADLE, "--help"], folder, "0.15 s"))
    bench.add(Case("treadle list, examples/flights", [TREADLE, "list"], copy_example(folder, "flights"), "0.5 s"))


def bench_init(bench: Bench, folder: Path) -> None:
    """A new project, from nothing to a registered model; then the same command with nothing to do."""
    project = folder / "new"
    both = ["sh", "-c", f"{TREADLE} init new && cd new && {TREADLE} build"]
    clean = partial(shutil.rmtree, project, ignore_errors=True)
    bench.add(Case("treadle init && treadle build", both, folder, "10 s", prepare=clean))
    bench.add(Case("treadle build, nothing to do", [TREADLE, "build"], project))


def bench_flights(bench: Bench, folder: Path) -> None:
    """All of examples/flights: 336,776 rows."""
    project = copy_example(folder, "flights")
    clean = partial(shutil.rmtree, project / ".treadle", ignore_errors=True)
    build = [TREADLE, "build"]
    bench.add(Case("treadle build, examples/flights", build, project, "60 s", prepare=clean), runs=min(3, bench.runs))
    bench.add(Case("the same again, nothing to do", build, project))


def copy_example(folder: Path, name: str) -> Path:
    """Copy an example without what it has built, and return where."""
    target = folder / f"{name}-example"
    if not target.exists():
        shutil.copytree(ROOT / "examples" / name, target, ignore=shutil.ignore_patterns(".treadle", "target"))
    return target
