"""Write tests/fixtures/formats/<name>: what the Treadle of today leaves behind, for the Treadle of tomorrow to open.

Run when a format's number was raised, with the name of a new folder, which is then committed and never changed:

    .venv/bin/python tests/runtime/format_fixture.py v2

    project/      the user's files: sources, a table, an incremental one, a view, a Python feature, a model, a pipeline
    treadle/      what stands in .treadle: state.db, the store, the catalog's stamp
    documents/    what stands in target/
    format.json   the numbers of the formats, and what was in them
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from conftest import FEATURES, PROFILE, ProjectFolder, orders_csv
from treadle.manifest import MANIFEST_VERSION
from treadle_runtime.commands.summary import RESULTS_VERSION
from treadle_runtime.schema import MIGRATIONS
from treadle_runtime.version import FORMAT
from treadle_runtime.workspace import Workspace

FORMATS = Path(__file__).parent.parent / "fixtures" / "formats"
NUMBERS = {"state": len(MIGRATIONS), "store": FORMAT, "manifest": MANIFEST_VERSION, "results": RESULTS_VERSION}
"""What today's Treadle writes."""

PROJECT: Mapping[str, str] = {
    **FEATURES,
    **PROFILE,
    "data/orders.csv": orders_csv(120, seed=3),
    "features/events.yml": "sources:\n  - {name: events, path: data/orders.csv, event_time: ts}\n",
    "features/weekly.sql": """\
{{ config(materialized='incremental', entity='user', event_time='ts', interval='7d', lookback='1d') }}
select user, ts, sum(amount) over last_day as total from {{ ref('events') }}
window last_day as (partition by user order by ts range between interval 1 day preceding and current row)
""",
    "features/big.sql": "{{ config(materialized='view') }}\nselect id, amount > 50 as big from {{ ref('orders') }}\n",
    "models/churn.yml": """\
datasets:
  - name: rows
    rows: orders
    key: id
    columns: [amount]
    at: ts
    label: churned
    features: [spend, profile]
models:
  - {name: tree, dataset: rows, task: binary, trainer: sklearn.decision_tree, params: {max_depth: 2}}
""",
    "pipelines/churn.yml": """\
pipelines:
  - name: churn
    models: [tree]
    split: {by: time, test: last 9d, validation: 6d}
    evaluate: {metrics: [roc_auc, brier]}
    gates: ["roc_auc >= 0.5", "roc_auc >= champion.roc_auc - 0.5"]
""",
}


def main(name: str) -> None:
    """Build the project twice, promote its model, and keep what was written."""
    target = FORMATS / name
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="shop-") as folder:
        # The store's place is written into the catalog's stamp: a neutral one.
        project = ProjectFolder(Path(folder) / "shop")
        for path, text in PROJECT.items():
            project.write(path, text)
        project.run("build")
        project.run("models", "promote", "churn")
        project.edit("models/churn.yml", "max_depth: 2", "max_depth: 3")
        project.run("build")
        project.run("compile")
        shutil.copytree(project.root, target / "project", ignore=shutil.ignore_patterns(".treadle", "target"))
        shutil.copytree(project.root / ".treadle" / "store", target / "treadle" / "store")
        for file in ("state.db", "dev.catalog.json"):
            shutil.copy(project.root / ".treadle" / file, target / "treadle")
        shutil.copytree(project.root / "target", target / "documents")
        with project.open() as workspace:
            found = {"numbers": NUMBERS, **answers(workspace)}
    with suppress(FileNotFoundError):
        shutil.rmtree(target / "project" / "__pycache__")
    (target / "format.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def answers(workspace: Workspace) -> dict[str, Any]:
    """Return what a project's state and store say, in words that outlive their formats."""
    state, store, registry = workspace.state, workspace.store, workspace.registry
    versions = [store.read(fingerprint) for fingerprint in sorted(store.fingerprints())]
    return {
        "environment": state.environment("dev"),
        "runs": [[run.id, run.env, run.status] for run in state.runs()],
        "publications": [[entry.run_id, sorted(entry.changes)] for entry in state.history("dev")],
        "models": [
            [v.pipeline, v.number, v.model, v.passed, sorted(v.aliases), v.shipped]
            for v in registry.versions("churn", env="dev")
        ],
        "versions": {
            v.fingerprint: {"kind": v.kind, "rows": v.rows, "columns": [[c.name, c.type] for c in v.columns]}
            for v in versions
            if v is not None
        },
        "components": state.identities(store.fingerprints()),
    }


if __name__ == "__main__":
    main(sys.argv[1])
