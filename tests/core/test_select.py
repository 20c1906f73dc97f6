"""Selectors, each operator against a slow reading of the graph."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.comparison import Compared
from treadle.errors import Location, UsageError
from treadle.select import select, uses_state, with_tests
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
        return select(graph, selectors, exclude, compared=compared)

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
    assert select(PIPELINE, ["state:modified+"], compared=compared) == {"rows", *ARRIVALS}
    assert select(PIPELINE, ["state:new"], compared=compared) == set()


@pytest.mark.parametrize("selector", ["state:", "state:modifed", "state:*", "state:modified.macros"])
def test_state_takes_its_own_words(selector: str) -> None:
    with pytest.raises(UsageError, match="TR602"):
        select(PIPELINE, [selector], compared=Compared(frozenset(), frozenset()))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("state:new", True),
        ("1+state:modified.body+2", True),
        ("flights tag:raw,+state:new", True),
        ("flights", False),
        ("tag:state:new", False),
        ("+state", False),
        ("", False),
    ],
)
def test_selectors_that_need_a_comparison_are_known(selector: str, expected: bool) -> None:
    assert uses_state([selector]) is expected
    assert uses_state(["flights", selector]) is expected


def step(step_id: str, kind: Any, name: str, **rest: Any) -> Step:
    return Step(id=step_id, kind=kind, name=name, where=Location("x", 1), **rest)


PIPELINE = Graph(
    "p",
    "dev",
    {
        one.id: one
        for one in (
            step("flights", "source", "flights", tags=("raw",)),
            step("test:not_null_flights_id", "test", "not_null_flights_id", inputs=("flights",)),
            step("rows", "dataset", "rows", inputs=("flights",)),
            step("arrivals.split", "split", "arrivals", inputs=("rows",), pipeline="arrivals"),
            step(
                "arrivals.trees.train", "train", "trees", inputs=("arrivals.split",), pipeline="arrivals", model="trees"
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
