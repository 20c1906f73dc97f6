"""The floor of Python features: python python_floor.py PROJECT OUT pool|stored|kept

    pool     each function is called in one of two warm processes: it reads its table, and its result is written
    stored   one process calls them one after the other, writes each result and reads it again
    kept     one process calls them one after the other; results stay in memory

The last line that is printed: seconds of wall clock and of processor; of a pool, once it is warm.
"""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import resource
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

_functions: dict[str, Callable[[pl.LazyFrame], pl.LazyFrame]] = {}


def load(project: Path) -> None:
    """Import the project's functions, in the order in which they are written."""
    spec = importlib.util.spec_from_file_location("steps", project / "features/steps.py")
    if spec is None or spec.loader is None:
        raise ValueError(f"{project} has no features/steps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _functions.update((name, f) for name, f in vars(module).items() if name.startswith("step_"))


def call(name: str, parent: Path, out: Path) -> None:
    """Read a table, call a function with it, write what it returns."""
    _functions[name](pl.scan_parquet(parent)).collect().write_parquet(out, compression="lz4")


def in_pool(project: Path, source: Path, out: Path) -> tuple[float, float]:
    """Call all functions in two warm processes, each as soon as what it reads is there."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), load, (project,)) as pool:
        list(pool.map(call, ["step_0"] * 8, [source] * 8, [out / f"warm_{i}" for i in range(8)]))
        started = time.perf_counter()
        running: list[Future[None]] = []
        for name, function in _functions.items():
            [parent] = inspect.signature(function).parameters
            if parent != "orders":
                running[-1].result()
            running.append(pool.submit(call, name, source if parent == "orders" else out / parent, out / name))
        for future in running:
            future.result()
        wall_s = time.perf_counter() - started
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, usage.ru_utime + usage.ru_stime


def in_turn(source: Path, out: Path, *, is_stored: bool) -> tuple[float, float]:
    """Call the functions one after the other here."""
    started, cpu = time.perf_counter(), time.process_time()
    table: Any = pl.scan_parquet(source)
    for name, function in _functions.items():
        table = function(table).collect()
        if is_stored:
            table.write_parquet(out / name, compression="lz4")
            table = pl.scan_parquet(out / name)
        else:
            table = table.lazy()
    return time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    """Call the functions as asked."""
    project, out, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    source = project / "data/orders.parquet"
    if not source.exists():
        source = out / "orders"
        pl.read_csv(project / "data/orders.csv").write_parquet(source)
    load(project)
    found = in_pool(project, source, out) if how == "pool" else in_turn(source, out, is_stored=how == "stored")
    print(*found)


if __name__ == "__main__":
    main()
