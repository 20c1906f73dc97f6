"""Plans: what runs, what is reused, and the reason that is given for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.errors import Location
from treadle.fingerprint import identify
from treadle.plan import Champion, Deferral, Known, Plan, make_plan, opponent
from treadle.step import Graph, Step

Files = dict[str, str]
Compile = Callable[..., Graph]
SOURCES = {"flights": ("digest of flights",), "planes": ("digest of planes",)}
P = "arrivals_daily"


def plan_all(graph: Graph, known: Known | None = None, **options: Any) -> Plan:
    return make_plan(graph, known or Known(SOURCES), frozenset(graph.steps), **options)


def after_build(plan: Plan, *, sources: Mapping[str, tuple[str, ...]] = SOURCES, **rest: Any) -> Known:
    """What is known when all that a plan names has been built and published."""
    return Known(
        sources=sources,
        built=frozenset(i.fingerprint for s, i in plan.identities.items() if not plan.graph[s].is_inline),
        published={step_id: identity.fingerprint for step_id, identity in plan.identities.items()},
        components={identity.fingerprint: identity.components for identity in plan.identities.values()},
        **rest,
    )


def edit(files: Files, path: str, before: str, after: str) -> Files:
    assert before in files[path], f"{before!r} does not stand in {path}"
    return {**files, path: files[path].replace(before, after)}


def rebuilt(compile_files: Compile, before: Files, after: Files) -> dict[str, str]:
    """Return step -> reason of all that runs when `after` is built where `before` was built."""
    known = after_build(plan_all(compile_files(before)))
    return {
        planned.step.id: planned.reason
        for planned in plan_all(compile_files(after), known)
        if planned.action == "build"
    }


def below(graph: Graph, *names: str) -> set[str]:
    """The steps and all that reads them, without views and sources that are read in place."""
    found = set(names) | graph.descendants(set(names))
    return {step_id for step_id in found if not graph[step_id].is_inline}


# actions and reasons


def test_nothing_built_means_all_is_new_and_views_are_inlined(good: Files, compile_files: Compile) -> None:
    plan = plan_all(compile_files(good))
    assert {planned.reason for planned in plan} == {"new"}
    assert {planned.step.id for planned in plan if planned.action == "inline"} == {"arrived", "planes"}
    assert plan.n("build") == len(plan.graph.steps) - 2
    assert plan.n("reuse") == 0


def test_everything_built_means_nothing_runs(good: Files, compile_files: Compile) -> None:
    plan = plan_all(compile_files(good))
    again = plan_all(compile_files(good), after_build(plan))
    assert again.n("build") == 0
    assert {planned.reason for planned in again} == {"unchanged"}


def test_plan_is_a_pure_function(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    assert plan_all(graph) == plan_all(graph)


def test_steps_stand_parents_first(good: Files, compile_files: Compile) -> None:
    seen: set[str] = set()
    for planned in plan_all(compile_files(good)):
        assert set(planned.step.inputs) <= seen
        seen.add(planned.step.id)


@pytest.mark.parametrize(
    ("path", "before", "after", "step", "reason"),
    [
        ("features/carrier_history.sql", "> -60", "> -30", "carrier_history", "code of features/carrier_history.sql changed"),
        ("features/ages.py", "2013", "2014", "plane_age", "code of features/ages.py:age_of changed"),
        ("models/arrivals.yml", "max_iter: 50", "max_iter: 60", f"{P}.trees.train", 'params.max_iter: 50 -> 60'),
        ("models/arrivals.yml", "[hour, distance]", "[hour]", "arrivals", 'columns[1]: "distance" -> nothing'),
        ("models/arrivals.yml", "[carrier_history, plane_age]", "[plane_age]", "arrivals", 'features[0]: {"columns":[],"event_time":"arrived_at",'),
        ("pipelines/arrivals.yml", "last 60d", "last 30d", f"{P}.split", 'test: "last 60d" -> "last 30d"'),
        ("pipelines/arrivals.yml", "brier]", "brier, f1]", f"{P}.linear.evaluate", 'metrics[2]: nothing -> "f1"'),
        ("pipelines/arrivals.yml", "0.75", "0.8", f"{P}.validate", 'gates[0]: "roc_auc >= 0.75" -> "roc_auc >= 0.8"'),
        ("tests/probabilities.sql", "between 0", "between 0.1", "test:probabilities", "code of query changed"),
        ("features/flights.yml", "[carrier, arrived_at]", "[carrier]", "test:unique_carrier_history_carrier", "new"),
        ("features/carrier_history.sql", "left join {{ ref('planes') }} as p using (tailnum)", "", "carrier_history", "planes is read no more"),
    ],
)  # fmt: skip
def test_reason_names_what_changed(
    path: str, before: str, after: str, step: str, reason: str, good: Files, compile_files: Compile
) -> None:
    reasons = rebuilt(compile_files, good, edit(good, path, before, after))
    assert reason in reasons[step]


def test_reason_of_what_stands_on_it_names_the_parent(good: Files, compile_files: Compile) -> None:
    reasons = rebuilt(compile_files, good, edit(good, "features/ages.py", "2013", "2014"))
    assert reasons["arrivals"] == "plane_age changed"
    assert reasons[f"{P}.split"] == "arrivals changed"


def test_changed_data_re_runs_what_reads_it(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    known = after_build(plan_all(graph), sources={**SOURCES, "planes": ("another digest",)})
    reasons = {planned.step.id: planned.reason for planned in plan_all(graph, known) if planned.action == "build"}
    assert set(reasons) == below(graph, "planes")
    (inline,) = [planned for planned in plan_all(graph, known) if planned.step.id == "planes"]
    assert (inline.action, inline.reason) == ("inline", "its data changed")


def test_many_changes_are_counted(good: Files, compile_files: Compile) -> None:
    changed = edit(good, "models/arrivals.yml", "{name: linear,", "{name: linear, seed: 1, threads: 2,")
    changed = edit(changed, "models/arrivals.yml", "logistic_regression}", "ridge_classifier, params: {alpha: 2}}")
    reason = rebuilt(compile_files, good, changed)[f"{P}.linear.train"]
    assert reason.count(" -> ") == 3
    assert reason.endswith("; and 1 more")


def test_version_that_was_built_before_is_reused(good: Files, compile_files: Compile) -> None:
    first = plan_all(compile_files(good))
    changed = plan_all(compile_files(edit(good, "features/ages.py", "2013", "2014")), after_build(first))
    known = after_build(changed)
    back = plan_all(compile_files(good), replace(known, built=known.built | after_build(first).built))
    assert back.n("build") == 0
    assert {p.step.id: p.reason for p in back if p.reason != "unchanged"}[
        "plane_age"
    ] == "code of features/ages.py:age_of changed"
    unseen = Known(SOURCES, built=known.built | after_build(first).built)
    assert {p.reason for p in plan_all(compile_files(good), unseen) if p.action == "reuse"} == {"built before"}


def test_version_missing_in_the_store_is_built_again(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    known = after_build(plan_all(graph))
    lost = plan_all(graph).identities["carrier_history"].fingerprint
    plan = plan_all(graph, replace(known, built=known.built - {lost}))
    assert {p.step.id: p.reason for p in plan if p.action == "build"} == {
        "carrier_history": "its version is missing in the store"
    }


def test_earlier_identity_that_is_not_known_is_said_so(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    known = Known(SOURCES, published={"flights": "f" * 64})
    assert {p.step.id: p.reason for p in plan_all(graph, known)}["flights"] == "its earlier identity is unknown"


# selections


def test_unbuilt_ancestors_are_included_and_say_for_whom(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    plan = make_plan(graph, Known(SOURCES), frozenset({"carrier_history"}))
    assert [(p.step.id, p.action, p.is_selected) for p in plan] == [
        ("flights", "build", False),
        ("planes", "inline", False),
        ("arrived", "inline", False),
        ("carrier_history", "build", True),
    ]
    reasons = {p.step.id: p.reason for p in plan}
    assert reasons["flights"] == "new; needed by arrived"
    assert reasons["carrier_history"] == "new"


def test_built_ancestors_are_left_alone(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    known = after_build(plan_all(graph))
    plan = make_plan(graph, known, frozenset({"carrier_history"}))
    assert [(p.step.id, p.action) for p in plan] == [("carrier_history", "reuse")]


def test_selected_step_takes_along_what_changed_above_it(good: Files, compile_files: Compile) -> None:
    known = after_build(plan_all(compile_files(good)))
    graph = compile_files(edit(good, "features/ages.py", "2013", "2014"))
    plan = make_plan(graph, known, frozenset({"arrivals"}))
    assert [(p.step.id, p.action) for p in plan] == [
        ("planes", "inline"),
        ("plane_age", "build"),
        ("arrivals", "build"),
    ]
    assert plan.steps[1].reason == "code of features/ages.py:age_of changed; needed by arrivals"


def test_refit_alone_needs_the_verdict(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    plan = make_plan(graph, Known(SOURCES), frozenset({f"{P}.refit"}))
    planned = {p.step.id for p in plan}
    assert f"{P}.validate" in planned
    assert not [step_id for step_id in planned if graph[step_id].kind == "test"], (
        "tests come with a selection, not by need"
    )


def test_full_refresh_computes_the_selection_and_nothing_else(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    known = after_build(plan_all(graph))
    plan = make_plan(graph, known, frozenset({"carrier_history", "arrived", "arrivals"}), full_refresh=True)
    assert [(p.step.id, p.action) for p in plan] == [
        ("planes", "inline"),
        ("arrived", "inline"),
        ("carrier_history", "build"),
        ("arrivals", "build"),
    ]
    assert {p.reason for p in plan if p.action == "build"} == {"full refresh"}


@settings(max_examples=100)
@given(st.data())
def test_plan_of_a_random_graph_equals_a_slow_reading_of_the_rules(data: st.DataObject) -> None:
    """Selected steps are planned; of the others those that are not built and that something that runs reads."""
    n = data.draw(st.integers(1, 8))
    steps: dict[str, Step] = {}
    for i in range(n):
        inputs = data.draw(st.lists(st.sampled_from(sorted(steps)), unique=True, max_size=3)) if steps else []
        view = {"number": i, "materialized": data.draw(st.sampled_from(["table", "view"]))}
        steps[f"s{i}"] = Step(f"s{i}", "feature", f"s{i}", Location("x"), inputs=tuple(inputs), config=view)
    graph = Graph("p", "dev", steps)
    everything = plan_all(graph, Known({}))
    built = {s for s in data.draw(st.sets(st.sampled_from(sorted(steps)))) if not steps[s].is_inline}
    selected = data.draw(st.frozensets(st.sampled_from(sorted(steps)), min_size=1))
    known = Known({}, built=frozenset(everything.identities[s].fingerprint for s in built))
    plan = make_plan(graph, known, selected)

    runs: set[str] = set(selected - built)
    while True:
        more = {parent for s in runs for parent in steps[s].inputs if parent not in built}
        if more <= runs:
            break
        runs |= more
    assert {p.step.id for p in plan} == runs | selected
    assert {p.step.id for p in plan if p.action == "build"} == {s for s in runs if not steps[s].is_inline}
    assert {p.step.id for p in plan if p.action == "reuse"} == selected & built


# what an edit re-runs


def test_changed_metric_re_runs_evaluate_and_what_follows(good: Files, compile_files: Compile) -> None:
    changed = edit(good, "pipelines/arrivals.yml", "[roc_auc, brier]", "[roc_auc, brier, f1]")
    assert set(rebuilt(compile_files, good, changed)) == {
        "test:probabilities",
        f"{P}.baseline",
        f"{P}.trees.evaluate",
        f"{P}.linear.evaluate",
        f"{P}.choose",
        f"{P}.validate",
        f"{P}.refit",
    }


def test_changed_gate_re_runs_validate_alone(good: Files, compile_files: Compile) -> None:
    changed = edit(good, "pipelines/arrivals.yml", "roc_auc >= 0.75", "roc_auc >= 0.5")
    assert set(rebuilt(compile_files, good, changed)) == {f"{P}.validate"}


@pytest.mark.parametrize("after", ["roc_auc>=0.75", "roc_auc >= .750", "roc_auc >= 0.5 + 0.25"])
def test_gate_written_otherwise_re_runs_nothing(after: str, good: Files, compile_files: Compile) -> None:
    assert rebuilt(compile_files, good, edit(good, "pipelines/arrivals.yml", "roc_auc >= 0.75", after)) == {}


def test_changed_parameter_re_runs_its_model_and_what_compares_models(good: Files, compile_files: Compile) -> None:
    changed = edit(good, "models/arrivals.yml", "max_iter: 50", "max_iter: 51")
    assert set(rebuilt(compile_files, good, changed)) == {
        "test:probabilities",
        f"{P}.trees.train",
        f"{P}.trees.evaluate",
        f"{P}.choose",
        f"{P}.validate",
        f"{P}.refit",
    }


def test_changed_helper_re_runs_its_feature_and_what_depends_on_it(good: Files, compile_files: Compile) -> None:
    changed = edit(good, "features/ages.py", "2013", "2014")
    assert set(rebuilt(compile_files, good, changed)) == below(compile_files(good), "plane_age")
    assert "plane_seats" not in below(compile_files(good), "plane_age")


def test_refit_switched_off_leaves_all_else(good: Files, compile_files: Compile) -> None:
    assert rebuilt(compile_files, good, edit(good, "pipelines/arrivals.yml", "refit: all", "refit: none")) == {}


SEMANTIC = {
    "a literal": ("features/carrier_history.sql", "> -60", "> -61"),
    "a column": ("features/carrier_history.sql", "order by arrived_at rows", "order by flight_id rows"),
    "a join's kind": ("features/carrier_history.sql", "left join", "inner join"),
    "an operator": ("features/carrier_history.sql", "> -60", ">= -60"),
    "a window's frame": ("features/carrier_history.sql", "9 preceding", "19 preceding"),
    "a window's order": ("features/carrier_history.sql", "order by arrived_at rows", "order by arrived_at desc rows"),
    "an alias": ("features/carrier_history.sql", "as late_share", "as Late_share"),
    "a macro's body": ("macros/late.sql", ")::int", ")::double"),
    "a variable that is used": ("treadle.yml", "late_minutes: 15", "late_minutes: 20"),
    "a ref's target": ("features/carrier_history.sql", "ref('arrived')", "ref('flights')"),
    "a view": ("features/arrived.sql", "is not null", "is not null and hour > 4"),
    "a source's options": ("features/flights.yml", "path: data/flights.csv", "path: data/flights.csv\n    csv: {delimiter: ';'}"),
    "event_time": ("features/carrier_history.sql", "event_time='arrived_at'", "event_time='hour'"),
}  # fmt: skip

COSMETIC = {
    "a SQL comment": ("features/carrier_history.sql", "-- one row a flight", "-- a row for each flight\n/* and no other */"),
    "layout": ("features/carrier_history.sql", "  carrier,\n  arrived_at,\n", "carrier, arrived_at,\n\n"),
    "the case of keywords": ("features/carrier_history.sql", "left join", "LEFT JOIN"),
    "a Jinja comment": ("features/carrier_history.sql", "where arr_delay", "{# in minutes #}\nwhere arr_delay"),
    "a description": ("features/flights.yml", "how late a carrier was", "the share of late flights"),
    "a semicolon": ("features/carrier_history.sql", "> -60", "> -60;"),
    "a comment in a macro's file": ("macros/late.sql", "{% macro", "{# late? #}\n{% macro"),
    "a macro that nobody calls": ("macros/late.sql", "{% macro", "{% macro other() %}1{% endmacro %}\n{% macro"),
    "a variable that nobody uses": ("treadle.yml", "unused: 1", "unused: 2"),
    "a tag": ("treadle.yml", "[daily]", "[daily, raw]"),
    "a YAML comment and layout": ("models/arrivals.yml", "    key: flight_id\n", "    key:   flight_id   # unique\n\n"),
    "a test's severity": ("features/flights.yml", "severity: warn", "severity: error"),
    "a docstring": ("features/planes_age.py", "How old a plane is.", "Years since it was built."),
    "a Python comment": ("features/ages.py", "def age_of", "# years\ndef age_of"),
    "the layout of Python": ("features/ages.py", "2013 - planes['year']", "(2013\n        - planes[\"year\"])"),
    "an unrelated function": ("features/ages.py", "def age_of", "def unrelated():\n    return 1\n\n\ndef age_of"),
    "a quoted value": ("features/carrier_history.sql", "entity='carrier'", 'entity="carrier"'),
}  # fmt: skip


@pytest.mark.parametrize("name", SEMANTIC)
def test_edit_with_a_meaning_is_never_missed(name: str, good: Files, compile_files: Compile) -> None:
    path, before, after = SEMANTIC[name]
    reasons = rebuilt(compile_files, good, edit(good, path, before, after))
    assert {"carrier_history", "arrivals", f"{P}.trees.train"} <= set(reasons)
    assert "plane_age" not in reasons
    assert "by_day" not in reasons or name in ("a view", "a source's options")


@pytest.mark.parametrize("name", COSMETIC)
def test_edit_without_a_meaning_re_runs_nothing(name: str, good: Files, compile_files: Compile) -> None:
    path, before, after = COSMETIC[name]
    assert rebuilt(compile_files, good, edit(good, path, before, after)) == {}


PYTHON_EDITS = {
    "a constant": ("features/ages.py", "2013", "2012"),
    "an operator": ("features/ages.py", "2013 -", "2013 +"),
    "a decorator's argument": ("features/planes_age.py", '@feature(entity="tailnum", static=True)\ndef plane_age', '@feature(entity="tailnum", static=True, threads=2)\ndef plane_age'),
    "the body": ("features/planes_age.py", "age=age_of(planes)", "age=age_of(planes) + 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", PYTHON_EDITS)
def test_python_edit_re_runs_its_feature_alone(name: str, good: Files, compile_files: Compile) -> None:
    path, before, after = PYTHON_EDITS[name]
    assert set(rebuilt(compile_files, good, edit(good, path, before, after))) == below(compile_files(good), "plane_age")


def test_edit_that_is_taken_back_gives_the_first_fingerprints(good: Files, compile_files: Compile) -> None:
    first = plan_all(compile_files(good)).identities
    plan_all(compile_files(edit(good, "features/ages.py", "2013", "2014")))
    assert plan_all(compile_files(good)).identities == first


# now


def test_as_of_enters_at_split_and_no_earlier(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    newest, fixed = plan_all(graph), plan_all(graph, as_of="2013-11-01T00:00:00+00:00")
    changed = {s for s in graph.steps if newest.identities[s] != fixed.identities[s]}
    assert changed == {f"{P}.split"} | graph.descendants({f"{P}.split"})
    again = {planned.step.id: planned.reason for planned in plan_all(graph, after_build(newest), as_of="2013-11-01")}
    assert again[f"{P}.split"] == "as_of newest -> 2013-11-01"


def test_as_of_enters_a_feature_that_asks_for_it(good: Files, compile_files: Compile) -> None:
    good["features/arrived.sql"] = good["features/arrived.sql"].replace("is not null", "< {{ as_of }}")
    early, late = (plan_all(compile_files(good, as_of=at)).identities for at in ("2013-11-01", "2013-12-01"))
    assert early["arrived"] != late["arrived"]
    assert early["plane_age"] == late["plane_age"]


def test_volatile_feature_runs_each_run_or_each_day(good: Files, compile_files: Compile) -> None:
    for path, config in (("a", "volatile='run'"), ("b", "volatile='day'")):
        good[f"features/{path}.sql"] = (
            f"{{{{ config({config}) }}}}\nselect now() as at, * from {{{{ ref('flights') }}}}\n"
        )
    graph = compile_files(good)
    known = after_build(plan_all(graph, run="1", day="2026-01-01"))

    def builds(run: str, day: str) -> set[str]:
        return {p.step.id for p in plan_all(graph, known, run=run, day=day) if p.action == "build"}

    assert builds("1", "2026-01-01") == set()
    assert builds("2", "2026-01-01") == {"a"}
    assert builds("2", "2026-01-02") == {"a", "b"}


# champions


def verdict(graph: Graph, champion: Champion | None) -> tuple[str, Plan]:
    known = Known(SOURCES, champions={P: champion} if champion else {})
    plan = plan_all(graph, known)
    return plan.identities[f"{P}.validate"].fingerprint, plan


def test_champion_is_an_input_of_validate_and_of_nothing_else(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    without, plan = verdict(graph, None)
    against, other = verdict(graph, Champion(1, "another choice", "twin of 1"))
    assert without != against
    changed = {s for s in graph.steps if plan.identities[s] != other.identities[s]}
    assert changed == {f"{P}.validate"}


def test_promoting_the_candidate_leaves_its_verdict(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    older = Champion(1, "another choice", "twin of 1")
    before, plan = verdict(graph, older)
    choice = plan.identities[f"{P}.choose"].fingerprint
    after, promoted = verdict(graph, Champion(2, choice, "twin of 2", previous=older))
    assert after == before
    assert promoted.champions[P] == older


def test_first_champion_that_is_the_candidate_has_no_opponent(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    before, plan = verdict(graph, None)
    choice = plan.identities[f"{P}.choose"].fingerprint
    after, promoted = verdict(graph, Champion(1, choice, "twin of 1"))
    assert after == before
    assert promoted.champions[P] is None


def test_opponent_is_the_champion_or_its_own_opponent() -> None:
    first = Champion(1, "c1", "t1")
    second = Champion(2, "c2", "t2", previous=first)
    assert opponent(None, "c1") is None
    assert opponent(first, "c2") == first
    assert opponent(second, "c2") == first
    assert opponent(second, "c3") == second
    assert opponent(first, "c1") is None


def test_champion_does_not_count_where_no_gate_names_it(good: Files, compile_files: Compile) -> None:
    changed = edit(good, "pipelines/arrivals.yml", ', "roc_auc >= champion.roc_auc - 0.01"', "")
    graph = compile_files(changed)
    assert verdict(graph, None)[0] == verdict(graph, Champion(1, "c", "t"))[0]
    assert verdict(graph, None)[1].champions == {}


# parents that are read from another environment


def deferred_plan(graph: Graph, known: Known, published: Mapping[str, str], *selected: str) -> Plan:
    return make_plan(graph, known, frozenset(selected), defer=Deferral("production", published))


def in_production(plan: Plan) -> dict[str, str]:
    return {step_id: identity.fingerprint for step_id, identity in plan.identities.items()}


def test_parent_that_is_not_built_is_read_from_the_other_environment(good: Files, compile_files: Compile) -> None:
    before = plan_all(compile_files(good))
    files = edit(good, "features/carrier_history.sql", "> -60", "> -30")
    graph = compile_files(edit(files, "models/arrivals.yml", "[hour, distance]", "[hour]"))
    there = in_production(before)
    plan = deferred_plan(graph, after_build(before), there, "arrivals")
    found = {planned.step.id: (planned.action, planned.reason) for planned in plan}
    assert found == {
        "carrier_history": ("reuse", "deferred to production"),
        "arrivals": ("build", 'columns[1]: "distance" -> nothing'),
    }
    assert {planned.step.id for planned in plan} & plan.deferred == {"carrier_history"}
    assert plan.identities["carrier_history"].fingerprint == there["carrier_history"]
    inputs = {name: there[name] for name in graph["arrivals"].inputs}
    assert plan.identities["arrivals"] == identify(graph["arrivals"], inputs)


def test_parent_that_is_built_as_it_stands_is_used(good: Files, compile_files: Compile) -> None:
    before = plan_all(compile_files(good))
    graph = compile_files(edit(good, "features/carrier_history.sql", "> -60", "> -30"))
    mine = plan_all(graph).identities["carrier_history"].fingerprint
    known = after_build(before)
    known = replace(known, built=known.built | {mine})
    plan = deferred_plan(graph, known, in_production(before), "arrivals")
    assert [planned.step.id for planned in plan] == ["arrivals"]
    assert "carrier_history" not in plan.deferred
    assert plan.identities["arrivals"] == plan_all(graph).identities["arrivals"]


def test_parent_that_is_built_is_used_although_what_it_was_made_of_is_gone(good: Files, compile_files: Compile) -> None:
    before = plan_all(compile_files(good))
    files = edit(good, "features/carrier_history.sql", "> -60", "> -30")
    graph = compile_files(edit(files, "pipelines/arrivals.yml", "last 60d", "last 30d"))
    mine = plan_all(graph).identities["arrivals"].fingerprint
    known = after_build(before)
    known = replace(known, built=known.built | {mine})
    plan = deferred_plan(graph, known, in_production(before), f"{P}.split")
    assert [planned.step.id for planned in plan] == [f"{P}.split"]
    assert plan.identities["arrivals"].fingerprint == mine


def test_what_is_neither_built_nor_published_there_is_built(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    before = plan_all(graph)
    there = in_production(before)
    expected = make_plan(graph, Known(SOURCES), frozenset({"arrivals"}))
    assert deferred_plan(graph, Known(SOURCES), {}, "arrivals") == expected
    assert deferred_plan(graph, Known(SOURCES), there, "arrivals") == expected  # published, and lost from the store
    known = Known(SOURCES, built=frozenset({there["flights"]}))
    found = deferred_plan(graph, known, {"flights": there["flights"]}, "arrivals")
    assert found.deferred == frozenset()
    assert {planned.step.id: planned.action for planned in found} == {
        "planes": "inline",
        "arrived": "inline",
        "carrier_history": "build",
        "plane_age": "build",
        "arrivals": "build",
    }


def test_views_stand_as_their_files_are_on_parents_from_there(good: Files, compile_files: Compile) -> None:
    before = plan_all(compile_files(good))
    graph = compile_files(edit(good, "features/arrived.sql", "is not null", "is not null and true"))
    known = after_build(before, sources={**SOURCES, "flights": ("another digest",), "planes": ("another digest",)})
    plan = deferred_plan(graph, known, in_production(before), "carrier_history")
    assert {planned.step.id: planned.action for planned in plan} == {
        "flights": "reuse",
        "planes": "inline",
        "arrived": "inline",
        "carrier_history": "build",
    }
    assert plan.deferred >= {"flights"}
    now = plan_all(graph, known).identities
    assert plan.identities["planes"] == now["planes"]
    assert plan.identities["arrived"] == identify(
        graph["arrived"], {"flights": before.identities["flights"].fingerprint}
    )


def test_selected_steps_and_what_only_others_need_are_not_deferred(good: Files, compile_files: Compile) -> None:
    before = plan_all(compile_files(good))
    graph = compile_files(edit(good, "features/ages.py", "2013", "2014"))
    plan = deferred_plan(graph, after_build(before), in_production(before), "plane_age")
    assert {planned.step.id: planned.action for planned in plan} == {"planes": "inline", "plane_age": "build"}
    plan = deferred_plan(graph, after_build(before), in_production(before), "plane_age", f"{P}.split")
    assert {planned.step.id: (planned.action, planned.reason) for planned in plan} == {
        "planes": ("inline", "unchanged"),
        "plane_age": ("build", "code of features/ages.py:age_of changed"),
        f"{P}.split": ("reuse", "unchanged"),
    }
    assert "arrivals" in plan.deferred  # so it is not published either, though the split was made of it


def test_deferring_changes_nothing_where_all_is_built(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    before = plan_all(graph)
    known = after_build(before)
    for step_id in graph.steps:
        elsewhere = dict.fromkeys(graph.steps, before.identities["flights"].fingerprint)
        assert deferred_plan(graph, known, elsewhere, step_id) == make_plan(graph, known, frozenset({step_id}))
