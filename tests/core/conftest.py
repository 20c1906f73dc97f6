"""A small project that shows every kind of file, for the tests of the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from treadle.graph import compile_graph
from treadle.project import read_project
from treadle.step import Graph

GOOD = {
    "treadle.yml": """\
name: flights
vars: {late_minutes: 15, unused: 1}
defaults:
  features/daily: {tags: [daily]}
""",
    "features/flights.yml": """\
# What was flown.
sources:
  - name: flights
    path: data/flights.csv
    columns:
      - {name: flight_id, tests: [not_null, unique]}
  - {name: planes, path: data/planes.parquet}
entities:
  - {name: carrier}
  - {name: tailnum}
features:
  - name: carrier_history
    description: how late a carrier was
    tests: [{unique: {columns: [carrier, arrived_at], severity: warn}}]
""",
    "features/arrived.sql": """\
{{ config(materialized='view') }}
select * from {{ ref('flights') }} where arrived_at is not null
""",
    "features/carrier_history.sql": """\
{{ config(entity='carrier', event_time='arrived_at') }}
-- one row a flight
select
  carrier,
  arrived_at,
  avg({{ is_late('arr_delay') }}) over (
    partition by carrier order by arrived_at rows between 9 preceding and current row
  ) as late_share
from {{ ref('arrived') }} as a
left join {{ ref('planes') }} as p using (tailnum)
where arr_delay > -60
""",
    "features/daily/by_day.sql": "select arrived_at::date as day, count(*) as n from {{ ref('arrived') }} group by all\n",
    "features/planes_age.py": """\
from treadle import feature
from features.ages import age_of


@feature(entity="tailnum", static=True)
def plane_age(planes):
    \"\"\"How old a plane is.\"\"\"
    return planes.select("tailnum", age=age_of(planes))


@feature(entity="tailnum", static=True)
def plane_seats(planes):
    return planes.select("tailnum", "seats")
""",
    "features/ages.py": "def age_of(planes):\n    return 2013 - planes['year']\n",
    "macros/late.sql": "{% macro is_late(column) %}({{ column }} > {{ var('late_minutes') }})::int{% endmacro %}\n",
    "models/arrivals.yml": """\
datasets:
  - name: arrivals
    rows: flights
    key: flight_id
    columns: [hour, distance]
    keep: [carrier]
    at: scheduled_departure - interval 2 hours
    label: {column: is_late, known_at: arrived_at}
    features: [carrier_history, plane_age]
models:
  - {name: trees, dataset: arrivals, task: binary, trainer: sklearn.hist_gradient_boosting, params: {max_iter: 50}}
  - {name: linear, dataset: arrivals, task: binary, trainer: sklearn.logistic_regression}
""",
    "pipelines/arrivals.yml": """\
pipelines:
  - name: arrivals_daily
    models: [trees, linear]
    split: {by: time, test: last 60d, validation: 60d}
    evaluate: {metrics: [roc_auc, brier], slices: [carrier]}
    gates: ["roc_auc >= 0.75", "roc_auc >= champion.roc_auc - 0.01"]
    refit: all
""",
    "tests/probabilities.sql": "select * from {{ ref('trees') }} where prediction not between 0 and 1\n",
}

WriteProject = Callable[[Mapping[str, str]], Path]
Compile = Callable[..., Graph]


@pytest.fixture
def good() -> dict[str, str]:
    """Path -> text of a project without an error; a test may change its copy."""
    return dict(GOOD)


@pytest.fixture
def write_project(tmp_path: Path) -> WriteProject:
    """Write files into a new folder and return it."""

    def write(files: Mapping[str, str]) -> Path:
        root = tmp_path / f"project{len(list(tmp_path.iterdir()))}"
        for path, text in {"treadle.yml": "name: flights\n", **files}.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        return root

    return write


@pytest.fixture
def compile_files(write_project: WriteProject) -> Compile:
    """Write files, read them as a project and compile it."""

    def compile_them(files: Mapping[str, str], **options: object) -> Graph:
        environ = {"TREADLE_REGION": "east", "AWS_SECRET_ACCESS_KEY": "hidden"}
        as_of = options.pop("as_of", None)
        project = read_project(write_project(files), **options)  # type: ignore[arg-type]
        return compile_graph(project, environ=environ, as_of=as_of)  # type: ignore[arg-type]

    return compile_them
