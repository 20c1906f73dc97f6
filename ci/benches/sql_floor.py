"""The floor of a first build: python sql_floor.py PROJECT OUT, where `treadle compile` has been run.

The compiled statements of all features, in order of dependency, write the same Parquet through one DuckDB connection
of one thread, as a step has it; nothing is compiled, hashed, recorded, made durable or tested. The last line that is
printed: seconds of wall clock and of processor, without the start of the interpreter.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from graphlib import TopologicalSorter
from pathlib import Path

import duckdb

PARQUET = "format parquet, compression lz4_raw, row_group_size 122880"


def main() -> None:
    """Write what the project's features are."""
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    steps = json.loads((root / "target/manifest.json").read_text())["steps"]
    order = [steps[name] for name in TopologicalSorter({k: v["inputs"] for k, v in steps.items()}).static_order()]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    started, started_cpu = time.perf_counter(), time.process_time()
    with duckdb.connect(config={"threads": 1}) as con:
        for step in order:
            if step["kind"] == "test":
                continue
            sql = step.get("compiled_sql") or f"select * from read_csv('{root}/data/{step['name']}.csv')"
            file = out / f"{step['name']}.parquet"
            con.execute(f"copy (select * from (\n{sql}\n)) to '{file}' ({PARQUET})")
            con.execute(f"create view \"{step['name']}\" as from read_parquet('{file}')")
    print(time.perf_counter() - started, time.process_time() - started_cpu)


if __name__ == "__main__":
    main()
