"""Which steps are modified beside another side: by what they are themselves, never by what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from treadle.comparison import Compared, compare
from treadle.fingerprint import definition
from treadle.plan import Known, make_plan
from treadle.step import Graph

Files = dict[str, str]
Compile = Callable[..., Graph]

P = "arrivals_daily"


def edit(files: Files, path: str, before: str, after: str) -> Files:
    assert before in files[path], f"{before!r} does not stand in {path}"
    return {**files, path: files[path].replace(before, after)}


def compared(compile_files: Compile, before: Files, after: Files) -> Compared:
    return compare(compile_files(after), {step.id: definition(step) for step in compile_files(before)})


def test_nothing_is_modified_beside_the_same_files(good: Files, compile_files: Compile) -> None:
    assert compared(compile_files, good, good) == Compared(frozenset(), frozenset())


@pytest.mark.parametrize(
    ("path", "before", "after", "body", "configs"),
    [
        ("features/carrier_history.sql", "> -60", "> -30", {"carrier_history"}, set()),
        ("features/carrier_history.sql", "-- one row a flight", "-- a row a flight", set(), set()),
        ("features/carrier_history.sql", "event_time='arrived_at'", "event_time='arrived_at', ttl='7d'", set(), {"arrivals"}),
        ("features/ages.py", "2013", "2014", {"plane_age"}, set()),
        ("macros/late.sql", "::int", "::bigint", {"carrier_history"}, set()),
        ("treadle.yml", "late_minutes: 15", "late_minutes: 20", {"carrier_history"}, set()),
        ("treadle.yml", "unused: 1", "unused: 2", set(), set()),
        ("features/flights.yml", "how late a carrier was", "how late it was", set(), set()),
        ("features/flights.yml", "data/flights.csv", "data/flights.json", set(), {"flights"}),
        ("models/arrivals.yml", "max_iter: 50", "max_iter: 60", set(), {f"{P}.trees.train", f"{P}.refit"}),
        ("pipelines/arrivals.yml", "0.75", "0.8", set(), {f"{P}.validate"}),
        ("pipelines/arrivals.yml", "last 60d", "last 30d", set(), {f"{P}.split"}),
        ("tests/probabilities.sql", "between 0", "between 0.1", {"test:probabilities"}, set()),
    ],
)  # fmt: skip
def test_edit_modifies_the_step_itself(
    path: str,
    before: str,
    after: str,
    body: set[str],
    configs: set[str],
    good: Files,
    compile_files: Compile,
) -> None:
    found = compared(compile_files, good, edit(good, path, before, after))
    assert (found.new, found.body, found.configs) == (set(), body, configs)
    assert found.modified == body | configs


def test_new_step_is_modified_in_every_way(good: Files, compile_files: Compile) -> None:
    later = {**good, "features/late.sql": "select * from {{ ref('carrier_history') }}\n"}
    found = compared(compile_files, good, later)
    assert found.new == found.modified == found.body == found.configs == {"late"}
    assert compared(compile_files, later, good).modified == set(), "a step that is gone is no step of the graph"


def test_moved_file_counts_as_code(good: Files, compile_files: Compile) -> None:
    moved = {path.replace("features/carrier", "features/late/carrier"): text for path, text in good.items()}
    assert compared(compile_files, good, moved).body == {"carrier_history"}


def test_step_whose_identity_is_not_known_is_modified_and_not_new(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    other: Mapping[str, Mapping[str, str] | None] = {s.id: definition(s) for s in graph} | {"arrived": None}
    assert compare(graph, other) == Compared(*(frozenset(), *[frozenset({"arrived"})] * 3))


@pytest.mark.parametrize("component", ["with:duckdb", "kind", "with:numpy"])
def test_what_computes_it_counts_and_is_neither_body_nor_configs(
    component: str, good: Files, compile_files: Compile
) -> None:
    graph = compile_files(good)
    other = {step.id: definition(step) for step in graph}
    other["arrived"][component] = "0.0"
    assert compare(graph, other) == Compared(frozenset(), frozenset({"arrived"}))


def test_data_and_inputs_of_the_other_side_do_not_count(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    known = Known({"flights": ("one",), "planes": ("two",)})
    identities = make_plan(graph, known, frozenset(graph.steps), as_of="2013-11-01").identities
    assert compare(graph, {step_id: each.components for step_id, each in identities.items()}).modified == set()
