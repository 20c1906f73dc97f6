"""Selectors, each operator against a slow reading of the graph."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.comparison import Compared
from treadle.errors import Location, UsageError
from treadle.select import Beside, Expression, Indirect, Union, Without, asked_beside, select, with_tests
from treadle.step import Graph, Step

KINDS: list[Any] = ["source", "feature", "dataset"]
TAGS = ["daily", "raw"]
PATHS = ["features/a.sql", "features/daily/b.sql", "models/m.yml"]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Steps that read any of those before them."""
    n = draw(st.integers(1, 9))
    steps: dict[str, Step] = {}
    for i in range(n):
        name = f"s{i}"
        steps[name] = Step(
            id=name,
            kind=draw(st.sampled_from(KINDS)),
            name=name,
            where=Location(draw(st.sampled_from(PATHS)), 1),
            inputs=tuple(draw(st.lists(st.sampled_from(sorted(steps)), unique=True, max_size=3))) if steps else (),
            tags=tuple(draw(st.lists(st.sampled_from(TAGS), unique=True, max_size=2))),
        )
    return Graph("p", "dev", steps)


def parents_within(graph: Graph, name: str, depth: float) -> set[str]:
    """All steps from which a path of at most `depth` edges leads to `name`: every path is walked."""
    found: set[str] = set()

    def walk(current: str, left: float) -> None:
        if left > 0:
            for parent in graph[current].inputs:
                found.add(parent)
                walk(parent, left - 1)

    walk(name, depth)
    return found


def children_within(graph: Graph, name: str, depth: float) -> set[str]:
    return {other for other in graph.steps if name in parents_within(graph, other, depth)}


@given(graphs(), st.data())
def test_operators_equal_the_walk_along_every_path(graph: Graph, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(graph.steps)))
    up = data.draw(st.sampled_from(["", "+", "0+", "1+", "2+", "3+"]))
    down = data.draw(st.sampled_from(["", "+", "+0", "+1", "+2", "+3"]))
    expected = {name}
    if up:
        expected |= parents_within(graph, name, float(up[:-1] or "inf"))
    if down:
        expected |= children_within(graph, name, float(down[1:] or "inf"))
    assert select(graph, [up + name + down]) == expected


@given(graphs(), st.data())
def test_methods_equal_a_filter(graph: Graph, data: st.DataObject) -> None:
    method, value = data.draw(
        st.sampled_from(
            [("kind", kind) for kind in KINDS]
            + [("tag", tag) for tag in TAGS]
            + [("path", "features"), ("path", "features/"), ("path", "features/daily"), ("path", "features/*/b.sql")]
            + [("path", "models/m.yml"), ("kind", "*"), ("tag", "da*")]
        )
    )

    def holds(step: Step) -> bool:
        path = step.where.path
        match value:
            case "features" | "features/":
                return path.split("/")[0] == "features"
            case "features/daily" | "features/*/b.sql":
                return path == "features/daily/b.sql"
            case "models/m.yml":
                return path == value
            case "*":
                return True
            case "da*":
                return "daily" in step.tags
            case _:
                return value in (step.kind, *step.tags)

    expected = {step.id for step in graph if holds(step)}
    if expected:
        assert select(graph, [f"{method}:{value}"]) == expected
    else:
        with pytest.raises(UsageError, match="TR601"):
            select(graph, [f"{method}:{value}"])


@settings(max_examples=150)
@given(graphs(), st.data())
def test_union_intersection_and_exclusion_are_those_of_sets(graph: Graph, data: st.DataObject) -> None:
    names = st.sampled_from(sorted(graph.steps))
    terms = st.builds(
        lambda up, name, down: up + name + down, st.sampled_from(["", "+"]), names, st.sampled_from(["", "+"])
    )
    unions = data.draw(st.lists(st.lists(terms, min_size=1, max_size=2), min_size=1, max_size=3))
    excluded = data.draw(st.lists(terms, max_size=2))
    parts = [set.intersection(*(set(select(graph, [term])) for term in members)) for members in unions]
    text = " ".join(",".join(members) for members in unions)
    if not all(parts):
        with pytest.raises(UsageError, match="no step is in all of them"):
            select(graph, [text])
        return
    expected = set().union(*parts) - set().union(*(select(graph, [term]) for term in excluded), set())
    assert select(graph, [text], excluded) == expected
    assert select(graph, text.split(), [" ".join(excluded)] if excluded else []) == expected


@given(graphs(), st.data())
def test_state_is_a_set_like_any_other_and_may_be_empty(graph: Graph, data: st.DataObject) -> None:
    ids = st.frozensets(st.sampled_from(sorted(graph.steps)))
    new, body, configs = data.draw(ids), data.draw(ids), data.draw(ids)
    compared = Compared(new, new | body | configs, new | body, new | configs)
    sets = {
        "new": new,
        "modified": compared.modified,
        "modified.body": compared.body,
        "modified.configs": compared.configs,
    }
    word = data.draw(st.sampled_from(sorted(sets)))
    name = data.draw(st.sampled_from(sorted(graph.steps)))
    term, found = f"state:{word}", sets[word]

    def chosen(*selectors: str, exclude: tuple[str, ...] = ()) -> frozenset[str]:
        return select(graph, selectors, exclude, beside=Beside(compared))

    above = {other for each in found for other in parents_within(graph, each, float("inf"))}
    below = {other for each in found for other in children_within(graph, each, float("inf"))}
    assert chosen(term) == found
    assert chosen(f"+{term}") == found | above
    assert chosen(f"{term}+") == found | below
    assert chosen(f"{term}+1") == found | {other for each in found for other in children_within(graph, each, 1)}
    assert chosen(f"{term},{name}") == found & {name}
    assert chosen(f"{name},{term}+") == (found | below) & {name}
    assert chosen(f"{term} {name}") == chosen(term, name) == found | {name}
    assert chosen(name, exclude=(term,)) == {name} - found
    assert chosen(exclude=(f"{term}+",)) == set(graph.steps) - found - below


def test_state_without_a_comparison_is_an_error() -> None:
    with pytest.raises(UsageError, match='"state:new" has nothing to compare with here'):
        select(PIPELINE, ["state:new"])
    with pytest.raises(UsageError, match="TR603"):
        select(PIPELINE, [], ["arrivals,+state:modified"])


def test_state_selects_no_step_that_has_left_the_graph() -> None:
    compared = Compared(frozenset({"gone"}), frozenset({"gone", "rows"}))
    assert select(PIPELINE, ["state:modified+"], beside=Beside(compared)) == {"rows", *ARRIVALS}
    assert select(PIPELINE, ["state:new"], beside=Beside(compared)) == set()


@pytest.mark.parametrize("selector", ["state:", "state:modifed", "state:*", "state:modified.macros"])
def test_state_takes_its_own_words(selector: str) -> None:
    with pytest.raises(UsageError, match="TR602"):
        select(PIPELINE, [selector], beside=Beside(Compared(frozenset(), frozenset())))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("state:new", {"state"}),
        ("1+state:modified.body+2", {"state"}),
        ("flights tag:raw,+state:new @result:error", {"state", "result"}),
        ("selector:failed", {"selector", "result"}),
        ("selector:around", {"selector", "result", "state"}),
        ("selector:unknown", {"selector"}),
        ("flights", set()),
        ("tag:state:new", set()),
        ("+state", set()),
        ("", set()),
    ],
)
def test_what_selectors_ask_for_beside_the_graph_is_known(selector: str, expected: set[str]) -> None:
    named: dict[str, Expression] = {
        "failed": "result:error+",
        "around": Without(Union(("selector:failed", "flights")), "state:new"),
    }
    assert asked_beside([selector], named) == expected
    assert asked_beside(["flights", selector], named) == expected


def step(step_id: str, kind: Any, name: str, **rest: Any) -> Step:
    return Step(id=step_id, kind=kind, name=name, where=Location("x", 1), **rest)


PIPELINE = Graph(
    "p",
    "dev",
    {
        one.id: one
        for one in (
            step("flights", "source", "flights", tags=("raw",)),
            step(
                "test:not_null_flights_id",
                "test",
                "not_null_flights_id",
                inputs=("flights",),
                config={"test": "not_null"},
                settings={"severity": "warn"},
            ),
            step("rows", "dataset", "rows", inputs=("flights",), settings={"meta": {"team": "marketing"}}),
            step("arrivals.split", "split", "arrivals", inputs=("rows",), pipeline="arrivals"),
            step(
                "arrivals.trees.train",
                "train",
                "trees",
                inputs=("arrivals.split",),
                pipeline="arrivals",
                model="trees",
                config={"threads": 2},
            ),
            step(
                "arrivals.trees.evaluate",
                "evaluate",
                "trees",
                inputs=("arrivals.trees.train",),
                pipeline="arrivals",
                model="trees",
            ),
            step("arrivals.choose", "choose", "arrivals", inputs=("arrivals.trees.evaluate",), pipeline="arrivals"),
        )
    },
)
ARRIVALS = {"arrivals.split", "arrivals.trees.train", "arrivals.trees.evaluate", "arrivals.choose"}
TREES = {"arrivals.trees.train", "arrivals.trees.evaluate"}


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("arrivals", ARRIVALS),
        ("pipeline:arrivals", ARRIVALS),
        ("trees", TREES),
        ("arrivals.trees", TREES),
        ("kind:model", TREES),
        ("resource_type:model", TREES),
        ("resource_type:seed", {"flights"}),
        ("source:flights", {"flights"}),
        ("source:raw.fl*", {"flights"}),
        ("test_type:generic", {"test:not_null_flights_id"}),
        ("test_type:data", {"test:not_null_flights_id"}),
        ("test_name:not_null", {"test:not_null_flights_id"}),
        ("config.severity:warn", {"test:not_null_flights_id"}),
        ("config.threads:2,trees", {"arrivals.trees.train"}),
        ("config.meta.team:ma*", {"rows"}),
        ("config.tags:raw", {"flights"}),
        ("@rows", {"flights", "rows", *ARRIVALS}),
        ("@test:*", {"flights", "test:not_null_flights_id"}),
        ("arrivals.trees.train", {"arrivals.trees.train"}),
        ("arrivals.*.train", {"arrivals.trees.train"}),
        ("test:*", {"test:not_null_flights_id"}),
        ("not_null_*", {"test:not_null_flights_id"}),
        ("kind:train,pipeline:arrivals", {"arrivals.trees.train"}),
        ("1+arrivals.split", {"rows", "arrivals.split"}),
        ("tag:raw+1", {"flights", "test:not_null_flights_id", "rows"}),
    ],
)
def test_name_of_a_pipeline_or_model_means_its_steps(selector: str, expected: set[str]) -> None:
    assert select(PIPELINE, [selector]) == expected


def test_id_of_a_step_means_that_step_alone() -> None:
    dataset = step("arrivals", "dataset", "arrivals", inputs=("flights",))
    report = step("arrivals.report", "stage", "report", pipeline="arrivals")
    graph = Graph("p", "dev", {**PIPELINE.steps, dataset.id: dataset, report.id: report})
    assert select(graph, ["arrivals"]) == {"arrivals"}
    assert select(graph, ["pipeline:arrivals"]) == ARRIVALS | {"arrivals.report"}
    assert select(graph, ["arrivals.split"]) == {"arrivals.split"}
    assert select(graph, ["arrivals.trees"]) == TREES
    assert select(graph, ["report"]) == {"arrivals.report"}


def test_no_selector_means_all_and_exclude_takes_away() -> None:
    assert select(PIPELINE, []) == set(PIPELINE.steps)
    assert select(PIPELINE, [], ["arrivals", "kind:test"]) == {"flights", "rows"}


@pytest.mark.parametrize("selector", ["", "  ", ",", "+", "++a", "a++", "fligths", "kind:nothing", "9999999+flights"])
def test_selector_that_means_nothing_is_an_error(selector: str) -> None:
    with pytest.raises(UsageError) as raised:
        select(PIPELINE, [selector])
    assert raised.value.problems[0].code == "TR601"


@pytest.mark.parametrize("selector", ["fligths", "knid:source", "", "+"])
def test_exclude_is_checked_as_well(selector: str) -> None:
    with pytest.raises(UsageError):
        select(PIPELINE, [], [selector])


def test_error_suggests_the_name_that_was_meant() -> None:
    with pytest.raises(UsageError) as raised:
        select(PIPELINE, ["+fligths"])
    assert raised.value.problems[0].suggestion == "flights"
    with pytest.raises(UsageError) as raised:
        select(PIPELINE, ["pipelin:arrivals"])
    assert raised.value.problems[0].code == "TR602"
    assert raised.value.problems[0].suggestion == "pipeline"


def test_tests_of_a_selection_come_with_it() -> None:
    assert with_tests(PIPELINE, {"flights"}) == {"flights", "test:not_null_flights_id"}
    assert with_tests(PIPELINE, {"rows"}) == {"rows"}


@pytest.mark.parametrize(
    ("how", "selected", "expected"),
    [
        ("eager", {"a"}, {"one", "two", "above"}),
        ("buildable", {"a"}, {"one"}),
        ("cautious", {"a"}, {"one"}),
        ("buildable", {"b"}, {"above"}),
        ("cautious", {"b"}, set()),
        ("cautious", {"a", "b"}, {"one", "above"}),
        ("buildable", {"b", "c"}, {"two", "above"}),
        ("empty", {"a", "b", "c"}, set()),
    ],
)
def test_tests_come_along_as_asked(how: Indirect, selected: set[str], expected: set[str]) -> None:
    """b reads a; c stands by itself."""
    steps = (
        *(step("a", "feature", "a"), step("b", "feature", "b", inputs=("a",)), step("c", "feature", "c")),
        step("test:one", "test", "one", inputs=("a",)),
        step("test:two", "test", "two", inputs=("a", "c")),
        step("test:above", "test", "above", inputs=("a", "b")),
    )
    found = with_tests(Graph("p", "dev", {each.id: each for each in steps}), selected, how)
    assert found == selected | {f"test:{name}" for name in expected}


@given(graphs(), st.data())
def test_around_is_what_readers_need(graph: Graph, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(graph.steps)))
    readers = {name} | children_within(graph, name, float("inf"))
    expected = readers | {above for each in readers for above in parents_within(graph, each, float("inf"))}
    assert select(graph, [f"@{name}"]) == expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("file:b.sql", {"staging"}),
        ("file:b", {"staging"}),
        ("fqn:daily", {"staging"}),
        ("fqn:daily.staging", {"staging"}),
        ("fqn:da*.st?ging", {"staging"}),
        ("fqn:top", {"top"}),
    ],
)
def test_files_and_folders(selector: str, expected: set[str]) -> None:
    below = Step(id="staging", kind="feature", name="staging", where=Location("features/daily/b.sql", 1))
    top = Step(id="top", kind="feature", name="top", where=Location("features/top.sql", 1))
    graph = Graph("p", "dev", {"staging": below, "top": top})
    assert select(graph, [selector]) == expected


def test_results_of_the_last_run() -> None:
    beside = Beside(results={"flights": "error", "rows": "skipped", "gone": "error"})
    assert select(PIPELINE, ["result:error"], beside=beside) == {"flights"}
    assert select(PIPELINE, ["result:error+1 result:skipped"], beside=beside) == {
        "flights",
        "rows",
        "test:not_null_flights_id",
    }
    assert select(PIPELINE, ["result:warn"], beside=beside) == set()
    with pytest.raises(UsageError, match="TR602"):
        select(PIPELINE, ["result:eror"], beside=beside)
    with pytest.raises(UsageError, match="has no run to look at here"):
        select(PIPELINE, ["result:error"])


def test_named_selectors() -> None:
    named: dict[str, Expression] = {
        "models": Without("pipeline:arrivals", "kind:split"),
        "all": Union(("selector:models", "rows")),
    }
    beside = Beside(named=named)
    assert select(PIPELINE, ["selector:models"], beside=beside) == ARRIVALS - {"arrivals.split"}
    assert select(PIPELINE, ["selector:all"], beside=beside) == ARRIVALS - {"arrivals.split"} | {"rows"}
    assert select(PIPELINE, [], ["selector:all"], beside=beside) == {
        "flights",
        "arrivals.split",
        "test:not_null_flights_id",
    }
    for selector, why in (("selector:modls", "models"), ("selector:loop", "loop -> again -> loop")):
        with pytest.raises(UsageError, match="TR609") as raised:
            select(
                PIPELINE, [selector], beside=Beside(named={**named, "loop": "selector:again", "again": "selector:loop"})
            )
        assert why in str(raised.value)
