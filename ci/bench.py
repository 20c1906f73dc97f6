"""Whole commands, timed beside a bare interpreter and beside floors, on the same machine in the same run.

Run it on a quiet machine. Absolute times drift from run to run; compare ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

from benches.generated import bench_environments, bench_size
from benches.measure import HEADER, Bench, Case
from benches.python import bench_frame, bench_python
from benches.whole import bench_flights, bench_init, bench_startup

SIZES = (1_000, 5_000, 10_000)
BENCHES = {
    "startup": bench_startup,
    "init": bench_init,
    "flights": bench_flights,
    "environments": bench_environments,
    "python": bench_python,
    "frame": bench_frame,
}


def main() -> None:
    """Measure what was asked for and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*BENCHES, "sizes", []], help="by default all")
    parser.add_argument("--size", type=int, action="append", help=f"features of `sizes`; by default {SIZES}")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each command; 3 of first builds")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    benches = dict(BENCHES)
    sizes = {f"sizes {n}": partial(bench_size, n=n) for n in arguments.size or SIZES}
    chosen = arguments.which or [*BENCHES, "sizes"]
    bench = Bench(arguments.runs)
    print(HEADER)
    with tempfile.TemporaryDirectory(prefix="treadle-bench-") as name:
        bench.add(Case("python -c pass (the floor)", [sys.executable, "-c", "pass"], Path(name)))
        for which in chosen:
            for measure in sizes.values() if which == "sizes" else [benches[which]]:
                measure(bench, Path(name))
    if arguments.json:
        arguments.json.write_text(json.dumps([row.to_json() for row in bench.rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
