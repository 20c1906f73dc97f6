"""Generated projects of many SQL features: compiling, finding nothing to do, building, moving between environments."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from benches.measure import TREADLE, Bench, Case, run
from generate import N_LAYERS, to_sql, write_sql_project

_FLOOR = Path(__file__).with_name("sql_floor.py")
_BOUNDS = {
    # size: compile cold, compile again, nothing to do, one leaf, peak memory
    1_000: ("1.0 s", "0.2 s", "0.25 s", "0.5 s", "250 MB"),
    5_000: ("3.5 s", "0.25 s", "0.3 s", "0.7 s", "400 MB"),
    10_000: ("7 s", "0.3 s", "0.4 s", "1.0 s", "600 MB"),
}
_EATMYDATA = sorted(Path("/usr/lib").glob("*/libeatmydata.so*"))
_IN_MEMORY = Path("/dev/shm")


def bench_size(bench: Bench, folder: Path, n: int) -> None:
    """Measure a project of `n` features: compiled, built from nothing, built again, built after an edit."""
    project = folder / f"sql-{n}"
    write_sql_project(project, n)
    cold, again, idle, leaf, memory = _BOUNDS.get(n, ("", "", "", "", ""))
    time.sleep(2.1)  # else the cache takes the files for so young that they may change unseen

    def case(what: str, *words: str, bound: str = "", prepare: Callable[[], object] | None = None) -> Case:
        return Case(f"{what}, {n:,} features", [TREADLE, *words], project, bound, prepare)

    forget = partial(shutil.rmtree, project / ".treadle", ignore_errors=True)
    bench.add(case("compile, cold", "compile", bound=cold, prepare=forget))
    bench.add(case("compile, nothing changed", "compile", bound=again), case("list", "list", bound=again))
    with _without_fsync(project) as (elsewhere, environ, how):
        _bench_first_build(bench, elsewhere, n, f"fsync left out ({how})", f"1.5 ms, {memory}", environ)
    _bench_first_build(bench, project, n, "durable", f"2.5 ms, {memory}", {})
    bench.add(case("plan, nothing to do", "plan", bound=idle), case("build, nothing to do", "build", bound=idle))
    bench.add(case("build, one leaf changed", "build", bound=leaf, prepare=partial(_edit_leaf, project, count(1))))
    shutil.rmtree(project)


def _bench_first_build(bench: Bench, project: Path, n: int, how: str, bound: str, environ: dict[str, str]) -> None:
    out = project / "floor"
    command = [sys.executable, str(_FLOOR), str(project), str(out)]
    floor = Case(f"floor: {n:,} statements, {how}", command, project, environ=environ, is_reporting=True)

    def forget() -> None:
        shutil.rmtree(out)
        shutil.rmtree(project / ".treadle", ignore_errors=True)

    what = f"first build, {n:,} features, {how}"
    build = Case(what, [TREADLE, "build"], project, bound.removesuffix(", "), forget, environ)
    bench.add(floor, build, runs=min(3, bench.runs), warm_ups=0, n=n)


@contextmanager
def _without_fsync(project: Path) -> Iterator[tuple[Path, dict[str, str], str]]:
    """Give a folder and variables with which fsync costs nothing, and how: by libeatmydata, else in memory."""
    if _EATMYDATA:
        yield project, {"LD_PRELOAD": str(_EATMYDATA[0])}, "eatmydata"
    elif _IN_MEMORY.is_dir():
        with tempfile.TemporaryDirectory(prefix="treadle-bench-", dir=_IN_MEMORY) as name:
            shutil.copytree(project, Path(name) / "project", ignore=shutil.ignore_patterns(".treadle"))
            yield Path(name) / "project", {}, "in memory"
    else:
        yield project, {}, "not possible here"


def _edit_leaf(project: Path, edits: Iterator[int]) -> None:
    last = N_LAYERS - 1
    parents = [f"f{last - 1}_0"]
    (project / f"features/layer{last}/f{last}_0.sql").write_text(to_sql(last, 0, parents, shift=next(edits)))


def bench_environments(bench: Bench, folder: Path, n: int = 5_000) -> None:
    """Compare, promote and roll back environments that differ in every feature."""
    project = folder / f"environments-{n}"
    write_sql_project(project, n)
    macro = project / "macros/money.sql"
    run(Case("", [TREADLE, "build"], project))
    run(Case("", [TREADLE, "env", "promote", "dev", "production", "--yes"], project))
    macro.write_text(macro.read_text().replace("digits=2", "digits=3"))
    run(Case("", [TREADLE, "build"], project))
    commands = (("diff", "dev", "production"), ("promote", "dev", "production", "--yes"), ("rollback", "production"))
    bench.add(
        *(Case(f"env {words[0]}, {n:,} that differ", [TREADLE, "env", *words], project, "1 s") for words in commands)
    )
    shutil.rmtree(project)
