"""Compiling: which steps a project becomes, in what order, and what is refused on the way."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import Location, ProjectError
from treadle.graph import compile_graph
from treadle.project import read_project
from treadle.scope import Scope, find_cycle, order
from treadle.step import Graph, Step

Files = dict[str, str]
Compile = Callable[..., Graph]

EDGES = st.integers(1, 8).flatmap(
    lambda n: st.fixed_dictionaries(
        {f"s{i}": st.lists(st.sampled_from([f"s{j}" for j in range(n)]), unique=True, max_size=3) for i in range(n)}
    )
)


def reachable(edges: Mapping[str, list[str]], start: str) -> set[str]:
    """All that can be reached from a step in one step or more: the closure, computed until nothing is added."""
    found = set(edges[start])
    while True:
        more = found.union(*(edges[step] for step in found))
        if more == found:
            return found
        found = more


@given(EDGES)
def test_cycle_is_found_exactly_when_a_step_reaches_itself(edges: dict[str, list[str]]) -> None:
    cycle = find_cycle(edges)
    assert (cycle is not None) == any(step in reachable(edges, step) for step in edges)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1, "no step stands in it twice"
        assert all(parent in edges[step] for step, parent in pairwise(cycle))


@given(EDGES, st.randoms())
def test_order_puts_parents_first_and_keeps_the_rest(edges: dict[str, list[str]], rng: random.Random) -> None:
    acyclic = {step: [parent for parent in parents if parent < step] for step, parents in edges.items()}
    items = list(acyclic.items())
    rng.shuffle(items)
    ordered = order(dict(items))
    assert sorted(ordered) == sorted(acyclic)
    for step, parents in acyclic.items():
        assert all(ordered.index(parent) < ordered.index(step) for parent in parents)
    assert ordered == order(dict(items)), "it is the same each time"


def test_order_and_cycles_take_a_chain_deeper_than_the_stack() -> None:
    n = sys.getrecursionlimit() * 3
    chain = {str(i): [str(i + 1)] if i < n else [] for i in range(n + 1)}
    assert find_cycle(chain) is None
    assert order(chain) == [str(i) for i in range(n, -1, -1)]
    chain[str(n)] = ["0"]
    cycle = find_cycle(chain)
    assert cycle is not None
    assert len(cycle) == n + 2


@given(EDGES, st.integers(0, 3) | st.none())
def test_ancestors_and_descendants_equal_the_closure(edges: dict[str, list[str]], depth: int | None) -> None:
    acyclic = {step: tuple(parent for parent in parents if parent < step) for step, parents in edges.items()}
    steps = {
        name: Step(id=name, kind="feature", name=name, where=Location("x"), inputs=inputs)
        for name, inputs in acyclic.items()
    }
    graph = Graph("p", "dev", steps)

    def within(start: str, left: int) -> set[str]:
        near = set(acyclic[start]) if left else set()
        return near.union(*(within(parent, left - 1) for parent in near))

    for name in acyclic:
        above = within(name, 99 if depth is None else depth)
        assert graph.ancestors({name}, depth=depth) == above
        below = {other for other in acyclic if name in within(other, 99 if depth is None else depth)}
        assert graph.descendants({name}, depth=depth) == below


# the good project


def test_pipeline_becomes_its_stages(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    stages = {step.id: step.kind for step in graph if step.pipeline}
    assert stages == {
        "arrivals_daily.split": "split",
        "arrivals_daily.baseline": "baseline",
        "arrivals_daily.trees.train": "train",
        "arrivals_daily.trees.evaluate": "evaluate",
        "arrivals_daily.linear.train": "train",
        "arrivals_daily.linear.evaluate": "evaluate",
        "arrivals_daily.choose": "choose",
        "arrivals_daily.validate": "validate",
        "arrivals_daily.refit": "refit",
    }
    assert graph["arrivals"].inputs == ("flights", "carrier_history", "plane_age")
    assert graph["arrivals_daily.split"].inputs == ("arrivals",)
    assert graph["arrivals_daily.trees.evaluate"].inputs == (
        "arrivals",
        "arrivals_daily.split",
        "arrivals_daily.trees.train",
    )
    assert graph["arrivals_daily.refit"].after == ("arrivals_daily.validate",)


def test_parents_stand_first_and_tests_before_what_they_block(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    position = {step_id: i for i, step_id in enumerate(graph.steps)}
    for step in graph:
        assert all(position[parent] < position[step.id] for parent in (*step.inputs, *step.after))
    assert "test:unique_flights_flight_id" in graph["arrived"].after
    warning = "test:unique_carrier_history_carrier_arrived_at"
    assert all(warning not in step.after for step in graph), "a test of severity warn blocks nothing"


def test_test_blocks_a_step_only_where_all_that_it_reads_stands_above(good: Files, compile_files: Compile) -> None:
    good["tests/together.sql"] = (
        "select 1 from {{ ref('flights') }} join {{ ref('carrier_history') }} using (carrier) where false\n"
    )
    graph = compile_files(good)
    assert "test:together" in graph["arrivals"].after, "it reads both"
    assert "test:together" not in graph["arrived"].after, "carrier_history is built from it: it cannot wait"


def test_compiling_is_the_same_whatever_the_order_of_files(good: Files, compile_files: Compile) -> None:
    first = compile_files(good)
    second = compile_files(dict(reversed(good.items())))
    assert list(first.steps) == list(second.steps)
    assert first.steps == second.steps


def test_defaults_of_a_folder_reach_its_files_and_the_file_wins(good: Files, compile_files: Compile) -> None:
    assert compile_files(good)["by_day"].tags == ("daily",)
    good["features/daily/by_day.sql"] = "{{ config(tags=['own']) }}" + good["features/daily/by_day.sql"]
    graph = compile_files(good)
    assert graph["by_day"].tags == ("own",)
    assert graph["arrived"].tags == ()


def test_disabled_feature_takes_its_tests_along(good: Files, compile_files: Compile) -> None:
    good["features/daily/by_day.sql"] = "{{ config(enabled=false) }}" + good["features/daily/by_day.sql"]
    good["features/more.yml"] = "features:\n  - {name: by_day, tests: [{unique: {columns: [day]}}]}\n"
    graph = compile_files(good)
    assert not [step_id for step_id in graph.steps if "by_day" in step_id]


def test_models_can_stand_on_models(good: Files, compile_files: Compile) -> None:
    good["features/scores.sql"] = (
        "{{ config(entity='carrier', static=true) }}\n"
        "select carrier, avg(prediction) as mean from {{ ref('trees') }} group by carrier\n"
    )
    good["models/second.yml"] = (
        "datasets:\n  - {name: second_rows, rows: flights, key: flight_id, columns: [hour], label: is_late,"
        " features: [scores]}\nmodels:\n  - {name: second, dataset: second_rows, task: binary,"
        " trainer: sklearn.logistic_regression}\n"
    )
    good["pipelines/second.yml"] = (
        "pipelines:\n  - name: second\n    models: [second]\n"
        "    split: {by: random, test: 0.2, validation: 0.2}\n    evaluate: {metrics: [brier]}\n"
    )
    graph = compile_files(good)
    assert graph["scores"].inputs == ("arrivals_daily.trees.evaluate",)
    assert "arrivals_daily.trees.train" in graph.ancestors({"second.second.train"})


def test_environment_gives_variables_and_the_call_wins(good: Files, compile_files: Compile) -> None:
    good["treadle.yml"] += "environments:\n  production: {vars: {late_minutes: 30}}\n"

    def compiled(**options: Any) -> str:
        query = compile_files(good, **options)["carrier_history"].query
        assert query is not None
        return query.text

    assert "arr_delay > 15" in compiled()
    assert "arr_delay > 30" in compiled(environment="production")
    assert "arr_delay > 45" in compiled(environment="production", variables={"late_minutes": 45})


def test_generated_tests_are_queries_that_return_failures(compile_files: Compile) -> None:
    graph = compile_files(
        {
            "features/t.yml": (
                "sources:\n  - {name: other, path: data/o.csv}\n  - name: t\n    path: data/t.csv\n    columns:\n"
                "      - name: a\n        tests:\n"
                "          - not_null\n"
                "          - unique: {where: 'b > 1 -- recent'}\n"
                '          - accepted_values: {values: [x, "it\'s", null, 1, true]}\n'
                "          - accepted_range: {min: 0, max: .inf}\n"
                "          - relationships: {to: other, field: id}\n"
                "      - {name: 'odd \"name', tests: [not_null]}\n"
                "    tests: [{unique: {columns: [a, b]}}]\n"
            )
        }
    )
    texts = {step.name: step.query.text for step in graph if step.kind == "test" and step.query}
    assert texts == {
        "not_null_t_a": 'select * from "t" where "a" is null',
        "unique_t_a": 'select "a", count(*) as n from (select * from "t" where b > 1 -- recent\n) where not ("a" is null)'
        " group by all having count(*) > 1",
        "accepted_values_t_a": "select \"a\", count(*) as n from \"t\" where \"a\" not in ('x', 'it''s', 1, true)"
        " group by all",
        "accepted_range_t_a": 'select * from "t" where "a" < 0.0 or "a" > \'inf\'::double',
        "relationships_t_a": 'select "a", count(*) as n from "t" where "a" not in'
        ' (select "id" from "other" where "id" is not null) group by all',
        "not_null_t_odd_name": 'select * from "t" where "odd ""name" is null',
        "unique_t_a_b": 'select "a", "b", count(*) as n from "t" where not ("a" is null or "b" is null)'
        " group by all having count(*) > 1",
    }
    assert graph["test:relationships_t_a"].inputs == ("t", "other")


def test_description_of_a_sql_test_is_kept(compile_files: Compile) -> None:
    files = {
        "features/t.yml": "sources:\n  - {name: t, path: data/t.csv}\n",
        "tests/one.sql": "{{ config(description='from the file') }}\nselect * from {{ ref('t') }}\n",
        "tests/two.sql": "select * from {{ ref('t') }}\n",
        "tests/more.yml": "tests:\n  - {name: two, description: from YAML, severity: warn, tags: [slow]}\n",
    }
    graph = compile_files(files)
    assert graph["test:one"].description == "from the file"
    assert (graph["test:two"].description, graph["test:two"].tags) == ("from YAML", ("slow",))
    assert graph["test:two"].settings["severity"] == "warn"


# what a mistake does not hide, and does not multiply


def problems_of(compile_files: Compile, files: Files) -> list[str]:
    with pytest.raises(ProjectError) as raised:
        compile_files(files)
    return [f"{problem.code} {problem.where}" for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("features/flights.yml", "sources: [\n", ["TR002 features/flights.yml:2:1"]),
        ("features/flights.yml", "source: []\n", ["TR003 features/flights.yml:1:1"]),
        ("features/planes_age.py", "def broken(:\n", ["TR301 features/planes_age.py:1:12"]),
        ("features/arrived.sql", "select a b c from x\n", ["TR204 features/arrived.sql:1:12"]),
        ("models/arrivals.yml", "models: {}\n", ["TR004 models/arrivals.yml:1:1"]),
        ("pipelines/arrivals.yml", "pipelines: 5\n", ["TR004 pipelines/arrivals.yml:1:1"]),
        ("macros/late.sql", "{% macro is_late(column) %}", ["TR201 macros/late.sql:1"]),
    ],
)
def test_broken_file_is_one_error_however_many_read_it(
    path: str, text: str, expected: list[str], good: Files, compile_files: Compile
) -> None:
    good[path] = text
    assert problems_of(compile_files, good) == expected


def test_broken_macro_does_not_hide_what_is_wrong_in_yaml(good: Files, compile_files: Compile) -> None:
    good["macros/late.sql"] = "{% macro is_late(column) %}"
    good["models/arrivals.yml"] += "  - {name: third}\n"
    assert [problem[:5] for problem in problems_of(compile_files, good)] == ["TR201", "TR006", "TR006", "TR006"]


def test_misspelt_name_is_reported_though_another_file_cannot_be_read(good: Files, compile_files: Compile) -> None:
    good["features/more.yml"] = "sources: [\n"
    good["features/recent.sql"] = "select * from {{ ref('flight') }} join {{ ref('weather') }} using (hour)\n"
    found = problems_of(compile_files, good)
    assert found == ["TR002 features/more.yml:2:1", "TR104 features/recent.sql:1"]


@pytest.mark.parametrize(
    ("column", "is_leak"),
    [("is_late", True), ("IS_LATE", True), ("arrived_at", True), ("hour", False), ("late", False)],
)
def test_label_and_the_moment_it_is_known_are_no_inputs(
    column: str, is_leak: bool, good: Files, compile_files: Compile
) -> None:
    good["models/arrivals.yml"] = good["models/arrivals.yml"].replace("[hour, distance]", f"[distance, {column}]")
    if is_leak:
        assert problems_of(compile_files, good) == ["TR407 models/arrivals.yml:5:25"]
    else:
        assert compile_files(good)["arrivals"].config["columns"] == ["distance", column]


def test_label_may_be_carried_along(good: Files, compile_files: Compile) -> None:
    good["models/arrivals.yml"] = good["models/arrivals.yml"].replace("[carrier]", "[carrier, is_late, arrived_at]")
    assert "is_late" in compile_files(good)["arrivals"].config["keep"]


@pytest.mark.parametrize(
    ("at", "code"),
    [
        ("scheduled_departure - interval 2 hours", ""),
        ("coalesce(a, b) - to_minutes(hour)", ""),
        ("hour -- the hour", ""),
        ("''", "TR204"),
        ("a b c", "TR204"),
        ("a; drop table b", "TR204"),
        ("now()", "TR206"),
        ("today() - hour", "TR206"),
        ("(select max(a) from flights)", "TR205"),
        ("(select max(a) from 'data/secret.csv')", "TR207"),
        ("(select max(a) from read_csv('x.csv'))", "TR207"),
    ],
)
@pytest.mark.parametrize("place", ["at", "known_at"])
def test_expression_reads_the_columns_of_its_rows_only(
    at: str, code: str, place: str, good: Files, compile_files: Compile
) -> None:
    before = {"at": "scheduled_departure - interval 2 hours", "known_at": "arrived_at"}[place]
    quoted = at if at == "''" else '"' + at + '"'
    good["models/arrivals.yml"] = good["models/arrivals.yml"].replace(f"{place}: {before}", f"{place}: {quoted}")
    if code:
        (found,) = problems_of(compile_files, good)
        assert found.startswith(f"{code} models/arrivals.yml:{7 if place == 'at' else 8}")
    else:
        compile_files(good)


@pytest.mark.parametrize(
    ("split", "code"),
    [
        ("{by: time, test: 2013-11-01, validation: 2013-09-01}", ""),
        ("{by: time, test: 2013-11-01, validation: 2013-11-01}", "TR507"),
        ("{by: time, test: 2013-11-01, validation: 2013-12-01}", "TR507"),
        ("{by: time, test: 2013-11-01T00:00:00Z, validation: 2013-11-01T00:30:00+01:00}", ""),
        ("{by: time, test: 2013-11-01, validation: 60d}", ""),
        ("{by: entity, entity: carrier, test: 0.2, validation: 0.2}", ""),
        ("{by: entity, entity: tailnum, test: 0.2, validation: 0.2}", ""),
        ("{by: entity, entity: airport, test: 0.2, validation: 0.2}", "TR107"),
        ("{by: random, test: 0.2, validation: 0.9}", "TR004"),
    ],
)
def test_split_fits_the_dataset_or_is_refused(split: str, code: str, good: Files, compile_files: Compile) -> None:
    before = "{by: time, test: last 60d, validation: 60d}"
    good["pipelines/arrivals.yml"] = good["pipelines/arrivals.yml"].replace(before, split)
    if code:
        assert [problem[:5] for problem in problems_of(compile_files, good)] == [code]
    else:
        compile_files(good)


def test_scope_counts_names_that_are_too_many_to_list() -> None:
    scope = Scope(set(), [])
    for n in range(12):
        scope.define(f"s{n:02}", "source", Location("x", n + 1))
    assert scope.choices(("source",)) == "s00, s01, s02, s03, s04, s05, s06, s07 and 4 more"
    assert scope.resolve("zzz", ("source",), Location("y", 1)) is None
    assert scope.problems[0].fix.startswith("define it in features/; known here: s00, s01")


def test_graph_is_compiled_from_the_project_alone(good: Files, write_project: Callable[..., Path]) -> None:
    project = read_project(write_project(good))
    for file in project.root.rglob("*.*"):
        if file.is_file():
            file.unlink()
    assert len(compile_graph(project, environ={}).steps) == 21
