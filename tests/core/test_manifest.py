"""The manifest: a versioned document that other programs read."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version

from treadle.manifest import MANIFEST_VERSION, to_manifest
from treadle.plan import Known, make_plan
from treadle.step import Graph

Files = dict[str, str]
Compile = Callable[..., Graph]


def test_manifest_says_its_version_and_whose_it_is(good: Files, compile_files: Compile) -> None:
    manifest = to_manifest(compile_files(good), {})
    assert manifest["manifest_version"] == MANIFEST_VERSION == 1
    assert manifest["treadle_version"] == version("treadle")
    assert (manifest["project"], manifest["environment"]) == ("flights", "dev")
    assert list(manifest["steps"]) == list(compile_files(good).steps)


def test_manifest_is_strict_json_and_the_same_each_time(good: Files, compile_files: Compile) -> None:
    texts = {json.dumps(to_manifest(compile_files(good), {}), sort_keys=True, allow_nan=False) for _ in range(2)}
    assert len(texts) == 1
    assert json.loads(texts.pop()) == json.loads(json.dumps(to_manifest(compile_files(good), {})))


def test_step_of_sql_python_and_a_pipeline(good: Files, compile_files: Compile) -> None:
    steps = to_manifest(compile_files(good), {})["steps"]
    assert steps["arrived"] == {
        "kind": "feature",
        "name": "arrived",
        "path": "features/arrived.sql",
        "line": 1,
        "inputs": ["flights"],
        "after": ["test:not_null_flights_flight_id", "test:unique_flights_flight_id"],
        "config": {
            "keys": [],
            "event_time": None,
            "known_at": None,
            "threads": 1,
            "materialized": "view",
            "volatile": None,
        },
        "tags": [],
        "description": "",
        "compiled_sql": '\nselect * from "flights" where arrived_at is not null',
    }
    assert steps["plane_age"]["function"] == "plane_age"
    assert steps["plane_age"]["description"] == "How old a plane is."
    assert (steps["plane_age"]["path"], steps["plane_age"]["line"]) == ("features/planes_age.py", 6)
    assert steps["arrivals_daily.choose"]["pipeline"] == "arrivals_daily"
    assert "pipeline" not in steps["arrived"]
    assert "fingerprint" not in steps["arrived"]


def test_identities_are_kept_where_they_are_known(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    identities = make_plan(graph, Known({}), frozenset(graph.steps)).identities
    one = {"plane_age": identities["plane_age"]}
    steps = to_manifest(graph, one)["steps"]
    assert steps["plane_age"]["fingerprint"] == identities["plane_age"].fingerprint
    assert steps["plane_age"]["components"] == dict(identities["plane_age"].components)
    assert "fingerprint" not in steps["plane_seats"]


def test_secret_of_the_environment_never_stands_in_it(good: Files, compile_files: Compile) -> None:
    good["features/region.sql"] = "select '{{ env_var('TREADLE_REGION') }}' as region from {{ ref('flights') }}\n"
    text = json.dumps(to_manifest(compile_files(good), {}))
    assert "east" in text
    assert "hidden" not in text
