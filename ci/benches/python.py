"""Python features beside plain calls of their functions: many trivial ones, and a few over a large table."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from benches.measure import TREADLE, Bench, Case, peak_of_all
from generate import FRAME_MB, write_frame_project, write_python_project

_FLOOR = Path(__file__).with_name("python_floor.py")
_N_FRAMES = 10


def bench_python(bench: Bench, folder: Path) -> None:
    """A chain and a layer of trivial features, over a build of one of them and the calls in a warm pool."""
    for what, n in (("chain", 50), ("layer", 200)):
        project = folder / f"python-{what}"
        write_python_project(project, n, is_chain=what == "chain")
        forget = partial(shutil.rmtree, project / ".treadle", ignore_errors=True)
        one = Case(f"first build, one of a {what}", [TREADLE, "build", "--select", "+step_0"], project, prepare=forget)
        all_of_them = Case(f"first build, a {what} of {n} Python features", [TREADLE, "build"], project, "2 ms", forget)
        calls = Case(f"floor: {n} calls in a warm pool", _floor(project, "pool"), project, is_reporting=True)
        calls_row, one_row, row = bench.measure(calls, one, all_of_them)
        # What a build takes before its first step is no matter of how many there are.
        floor_s = one_row.wall_s + calls_row.wall_s * (n - 1) / n
        bench.keep(calls_row, one_row, replace(row, floor_s=floor_s, n=n - 1))


def bench_frame(bench: Bench, folder: Path) -> None:
    """A table of 100 MB through ten features, over plain calls that store each result; memory of all processes."""
    project = folder / "python-frame"
    write_frame_project(project, _N_FRAMES)
    forget = partial(shutil.rmtree, project / ".treadle", ignore_errors=True)
    what = f"{FRAME_MB} MB through {_N_FRAMES} Python features"
    build = Case(f"first build, {what}", [TREADLE, "build"], project, "2 x, 400 MB", forget)
    kept = Case("plain calls, results kept", _floor(project, "kept"), project, is_reporting=True)
    stored = Case("floor: plain calls, results stored", _floor(project, "stored"), project, is_reporting=True)
    kept_row, stored_row, row = bench.measure(kept, stored, build, runs=min(3, bench.runs))
    for each in (kept_row, stored_row):
        bench.keep(each)
    bench.keep(replace(row, floor_s=stored_row.wall_s, peak_mib=peak_of_all(build) or row.peak_mib))
    shutil.rmtree(project)


def _floor(project: Path, how: str) -> list[str]:
    return [sys.executable, str(_FLOOR), str(project), str(project / "floor"), how]
