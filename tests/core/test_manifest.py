"""The manifest: a versioned document that other programs read."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from treadle.errors import UsageError
from treadle.fingerprint import definition
from treadle.manifest import MANIFEST_VERSION, read_manifest, to_manifest
from treadle.plan import Known, make_plan
from treadle.step import Graph

Files = dict[str, str]
Compile = Callable[..., Graph]


def test_manifest_says_its_version_and_whose_it_is(good: Files, compile_files: Compile) -> None:
    manifest = to_manifest(compile_files(good), {})
    assert manifest["manifest_version"] == MANIFEST_VERSION == 2
    assert manifest["treadle_version"] == version("treadle")
    assert (manifest["project"], manifest["environment"]) == ("flights", "dev")
    assert list(manifest["steps"]) == list(compile_files(good).steps)


def test_manifest_is_strict_json_and_the_same_each_time(good: Files, compile_files: Compile) -> None:
    texts = {json.dumps(to_manifest(compile_files(good), {}), sort_keys=True, allow_nan=False) for _ in range(2)}
    assert len(texts) == 1
    assert json.loads(texts.pop()) == json.loads(json.dumps(to_manifest(compile_files(good), {})))


def test_step_of_sql_python_and_a_pipeline(good: Files, compile_files: Compile) -> None:
    steps = to_manifest(compile_files(good), {})["steps"]
    written = steps["arrived"].pop("definition")
    assert set(written) == {
        "kind",
        "code:features/arrived.sql",
        "with:duckdb",
        *(f"config:{key}" for key in ("keys", "event_time", "known_at", "threads", "materialized", "volatile")),
    }
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


# reading


FIXTURES = Path(__file__).parents[1] / "fixtures" / "manifest"


def read(name: str) -> str:
    return (FIXTURES / name).read_text()


def test_what_is_written_is_read(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    text = json.dumps(to_manifest(graph, {}), sort_keys=True)
    manifest = read_manifest(text, path="target/manifest.json")
    assert manifest.definitions() == {step.id: definition(step) for step in graph}
    assert manifest.texts("arrived") == {
        "code:features/arrived.sql": '\nselect * from "flights" where arrived_at is not null'
    }
    assert manifest.texts("plane_age") == manifest.texts("arrivals") == {}


def test_definition_holds_no_data_and_no_input(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    identities = make_plan(
        graph, Known({"flights": ("digest",)}), frozenset(graph.steps), as_of="2013-11-01"
    ).identities
    for step in graph:
        own = definition(step)
        assert own.items() <= identities[step.id].components.items()
        rest = {name.partition(":")[0] for name in identities[step.id].components if name not in own}
        assert rest <= {"input", "parts", "as_of", "champion"}


def test_every_version_that_was_ever_written_is_read() -> None:
    first, second = (read_manifest(read(f"v{n}.json"), path=f"v{n}.json") for n in (1, 2))
    assert list(first.steps) == list(second.steps) == ["flights", "history"]
    assert second.definitions()["history"]["with:duckdb"] == "2.0.0"
    with pytest.raises(UsageError) as raised:
        first.definitions()
    assert str(raised.value) == (
        "error[TR608]: the manifest is too old to compare with\n"
        "  v1.json is of version 1, which does not hold what each step was made of\n"
        "  fix: run `treadle compile` on the files that it was made from, with this Treadle"
    )


def test_newer_version_is_refused_whatever_it_holds() -> None:
    with pytest.raises(UsageError) as raised:
        read_manifest('{"manifest_version": 3, "steps": 7}', path="target/manifest.json")
    assert str(raised.value) == (
        "error[TR801]: the manifest was written by a newer Treadle\n"
        "  target/manifest.json is of version 3; this Treadle reads versions up to 2\n"
        "  fix: upgrade with `pip install --upgrade treadle`"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name: flights",
        "[]",
        "{}",
        '{"manifest_version": 2}',
        '{"manifest_version": "new", "steps": {}}',
        '{"manifest_version": 2, "steps": ["flights"]}',
        '{"manifest_version": 2, "steps": {"flights": "source"}}',
        '{"manifest_version": 2, "steps": {"flights": {"kind": "source"}}}',
        '{"manifest_version": 2, "steps": {"flights": {"kind": "source", "definition": 3}}}',
    ],
)
def test_what_is_no_manifest_is_said_so(text: str) -> None:
    with pytest.raises(UsageError, match=r"TR608.*this is no manifest"):
        read_manifest(text, path="x.json")
