"""Projects of any size, always the same for the same size: python ci/generate.py FOLDER N

SQL features in ten layers, each reading one to three of the layer above through one macro call, with descriptions in
YAML and two tests for every five features; Python features in a chain, in a layer, and over a large table.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

N_LAYERS = 10
N_COLUMNS = 12
FRAME_MB = 100

_MACRO = "{% macro cents(column, digits=2) %}round({{ column }} * 100, {{ digits }}){% endmacro %}\n"
_FUNCTION = """

@feature
def {name}({parent}: pl.LazyFrame) -> pl.LazyFrame:
    return {parent}.with_columns(amount=pl.col("amount") + 1)
"""


def write_sql_project(root: Path, n: int) -> None:
    """Write a project of `n` SQL features, a multiple of ten, over one small source."""
    rng = random.Random(n)
    _write_base(root)
    (root / "macros").mkdir()
    (root / "macros/money.sql").write_text(_MACRO)
    width = n // N_LAYERS
    for layer in range(N_LAYERS):
        folder = root / f"features/layer{layer}"
        folder.mkdir()
        described = []
        for i in range(width):
            above = [f"f{layer - 1}_{j}" for j in rng.sample(range(width), min(width, rng.randint(1, 3)))]
            (folder / f"f{layer}_{i}.sql").write_text(to_sql(layer, i, above if layer else ["orders"]))
            described.append(_describe(layer, i))
        (folder / f"layer{layer}.yml").write_text("features:\n" + "".join(described))


def to_sql(layer: int, i: int, parents: list[str], *, shift: int = 0) -> str:
    """Return the text of a feature; another `shift` makes another feature of it."""
    lines = [
        f"-- feature {i} of layer {layer}",
        f"select a.id, {{{{ cents('a.amount') }}}} / 100 as amount, a.day + {i % 7 + shift} as day",
        f"from {{{{ ref('{parents[0]}') }}}} as a",
    ]
    for k, parent in enumerate(parents[1:]):
        largest = f"select id as id{k}, max(amount) as m{k} from {{{{ ref('{parent}') }}}} group by 1"
        lines.append(f"left join ({largest}) as b{k} on b{k}.id{k} = a.id")
    return "\n".join([*lines, "where a.amount is not null"]) + "\n"


def _describe(layer: int, i: int) -> str:
    tests = "    columns:\n      - {name: id, tests: [not_null, unique]}\n" if i % 5 == 0 else ""
    return f"  - name: f{layer}_{i}\n    description: number {i} of layer {layer}\n{tests}"


def write_python_project(root: Path, n: int, *, is_chain: bool) -> None:
    """Write a project of `n` Python features that add one to a column of a small table.

    Args:
        is_chain: each reads the one before it; else all read the source.
    """
    _write_base(root)
    names = ["orders", *(f"step_{i}" for i in range(n))]
    functions = [_FUNCTION.format(name=names[i + 1], parent=names[i if is_chain else 0]) for i in range(n)]
    (root / "features/steps.py").write_text(f"import polars as pl\nfrom treadle import feature\n{''.join(functions)}")


def write_frame_project(root: Path, n: int) -> None:
    """Write a project of `n` Python features in a chain over a table of 100 MB, of random floats."""
    import numpy as np
    import polars as pl

    write_python_project(root, n, is_chain=True)
    n_rows = FRAME_MB * 1_000_000 // (8 * N_COLUMNS)
    rng = np.random.default_rng(0)
    columns = ["amount", *(f"c{i}" for i in range(1, N_COLUMNS))]
    pl.DataFrame({name: rng.random(n_rows) for name in columns}).write_parquet(root / "data/orders.parquet")
    (root / "data/orders.csv").unlink()
    (root / "features/sources.yml").write_text("sources:\n  - {name: orders, path: data/orders.parquet}\n")


def _write_base(root: Path) -> None:
    for name in ("features", "data"):
        (root / name).mkdir(parents=True)
    (root / "treadle.yml").write_text("name: bench\nenvironments: {production: {}}\n")
    rows = "".join(f"{i},{i % 97},{i % 30}\n" for i in range(1000))
    (root / "data/orders.csv").write_text(f"id,amount,day\n{rows}")
    (root / "features/sources.yml").write_text("sources:\n  - {name: orders, path: data/orders.csv}\n")


if __name__ == "__main__":
    write_sql_project(Path(sys.argv[1]), int(sys.argv[2]))
