"""YAML: what it means, where each value stands, and what it may not do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.errors import ProjectError
from treadle.spec import FeatureUse, ModelSpec, PipelineSpec, SourceSpec
from treadle.yamlfile import MAX_DEPTH, MAX_VALUES, parse_spec, read_yaml

# libyaml takes these for the end of a line, as YAML 1.1 did
TEXT = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def read(text: str) -> Any:
    return read_yaml(text, path="x.yml").value


def refusal(text: str) -> str:
    with pytest.raises(ProjectError) as raised:
        read(text)
    (problem,) = raised.value.problems
    return f"{problem.code} {problem.where}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("yes", "yes"),
        ("True", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-12", -12),
        ("012", 12),
        ("0o14", 12),
        ("0xC", 12),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("2013-11-01", "2013-11-01"),
        ("1.0.0", "1.0.0"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("'a: b'", "a: b"),
    ],
)
def test_scalar_means_what_yaml_1_2_says(text: str, value: object) -> None:
    found = read(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(read("key: .nan")["key"])


def test_empty_file_is_an_empty_mapping() -> None:
    assert read("") == read("# nothing\n") == {}


def test_keys_are_text_even_where_they_look_like_numbers() -> None:
    assert read("on: 1\n12: 2\nnull: 3\n") == {"on": 1, "12": 2, "null": 3}


def test_alias_repeats_and_merge_fills_in() -> None:
    text = "base: &base {a: 1, b: 2}\nagain: *base\nmore: {<<: *base, b: 3}\nboth: {<<: [*base, {c: 4, a: 9}]}\n"
    found = read(text)
    assert found["again"] == {"a": 1, "b": 2}
    assert found["more"] == {"a": 1, "b": 3}
    assert found["both"] == {"a": 1, "b": 2, "c": 4}


@settings(max_examples=60)
@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_reads_what_pyyaml_writes(value: dict[str, Any]) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    assert read(text) == value


@settings(max_examples=60)
@given(st.dictionaries(TEXT, JSON, min_size=1, max_size=5))
def test_every_value_stands_where_its_mark_says(value: dict[str, Any]) -> None:
    """The reference is PyYAML's own composer, walked by hand."""
    text = yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    document = read_yaml(text, path="x.yml")
    waiting: list[tuple[tuple[str | int, ...], yaml.Node, yaml.Mark]] = []
    root = yaml.compose(text, Loader=yaml.BaseLoader)
    waiting.append(((), root, root.start_mark))
    while waiting:
        path, node, mark = waiting.pop()
        assert document.marks[path] == (mark.line + 1, mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            waiting += [((*path, key.value), inner, key.start_mark) for key, inner in node.value]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [((*path, i), inner, inner.start_mark) for i, inner in enumerate(node.value)]


def test_place_of_a_value_that_is_absent_is_that_of_the_nearest_around_it() -> None:
    document = read_yaml("models:\n  - name: trees\n    params: {a: 1}\n", path="m.yml")
    assert str(document.locate("models", 0, "params", "a")) == "m.yml:3:14"
    assert str(document.locate("models", 0, "params", "b")) == "m.yml:3:5"
    assert str(document.locate("models", 0, "trainer")) == "m.yml:2:5"
    assert document.locate("models", 0, "params", "a").text == "params: {a: 1}"


def test_place_inside_the_short_form_of_a_named_entry() -> None:
    document = read_yaml("features:\n  - weather: {on: {airport: origin}}\n", path="m.yml")
    assert str(document.locate("features", 0, "on", "airport")) == "m.yml:2:20"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "TR005 x.yml:2:1"),
        ("a: {b: 1, b: 2}\n", "TR005 x.yml:1:11"),
        ("a: [1\n", "TR002 x.yml:2:1"),
        ("a: 'open\n", "TR002 x.yml:2:1"),
        ("a:\n\t- 1\n", "TR002 x.yml:2:1"),
        ("a: 1\n---\nb: 1\n", "TR002 x.yml:2:1"),
        ("a: *nobody\n", "TR002 x.yml:1:4"),
        ("{[a]: 1}\n", "TR002 x.yml:1:2"),
        ("a: !!python/name:os.system ls\n", "TR002 x.yml:1:4"),
        ("a: !!python/object/apply:os.system [ls]\n", "TR002 x.yml:1:4"),
        ("a: !mine {b: 1}\n", "TR002 x.yml:1:4"),
        ("a: !!int x\n", "TR002 x.yml:1:4"),
        ("a: {<<: 5}\n", "TR002 x.yml:1:9"),
        ("a: &a [*a]\n", "TR007 x.yml:1:4"),
        ("a: &a {<<: *a}\n", "TR007 x.yml:1:4"),
        (f"a: {'9' * 5_000}\n", "TR002 x.yml:1:4"),
        ("a: \x07\n", "TR002 x.yml"),
    ],
)
def test_what_is_refused_and_where(text: str, expected: str) -> None:
    assert refusal(text) == expected


BOMBS = {
    "aliases of aliases": "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)),
    "merges of merges": "a0: &a0 {x: [1, 1]}\n"
    + "".join(f"a{i}: &a{i} {{l: {{<<: *a{i - 1}}}, r: {{<<: *a{i - 1}}}}}\n" for i in range(1, 60)),
    "brackets": "a: " + "[" * 100_000,
    "closed brackets": "a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "braces": "a: " + "{a: " * 10_000,
    "keys of keys": "? " * 10_000 + "x",
    "dashes": "- " * 10_000 + "x",
    "dashes on lines of their own": "".join(" " * n + "-\n" for n in range(500)),
    "aliases that nest": "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [[[[[*a{i - 1}]]]]]\n" for i in range(1, 1_000)),
    "merges that nest": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: *a{i - 1}}}\n" for i in range(1, 1_000)),
    "many values": "a: [" + "1," * (MAX_VALUES + 1) + "]",
    "a large file": "# " + "x" * (4 * 1024 * 1024),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused(name: str) -> None:
    with pytest.raises(ProjectError) as raised:
        read(BOMBS[name])
    assert raised.value.problems[0].code == "TR007"
    assert len(str(raised.value)) < 600


def test_deep_but_allowed_nesting_is_read() -> None:
    found = read("a: " + "[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1))
    for _ in range(MAX_DEPTH - 1):
        (found,) = found["a"] if isinstance(found, dict) else found
    assert found == 1


def test_hostile_text_in_a_key_stays_on_its_line_and_is_cut() -> None:
    document = read_yaml('"a\\nerror[TR000]: x\\e[31m' + "y" * 200 + '": 1\nname: x\npath: d.csv\n', path="x.yml")
    _, (problem,) = parse_spec(document, SourceSpec, document.value)
    assert problem.code == "TR003"
    assert "\n" not in problem.what
    assert "\x1b" not in problem.what
    assert len(problem.what) < 100


# against a spec


def problems_of(text: str, spec: type[Any]) -> list[str]:
    document = read_yaml(text, path="x.yml")
    return [problem.to_text() for problem in parse_spec(document, spec, document.value)[1]]


def test_all_problems_of_an_entry_come_at_once() -> None:
    text = "name: trees\ntask: binry\nthreads: -1\ntrainr: x\n"
    codes = [problem[6:11] for problem in problems_of(text, ModelSpec)]
    assert sorted(codes) == ["TR003", "TR004", "TR004", "TR006"], "dataset is missing, trainer is only misspelt"


def test_unknown_key_suggests_among_the_keys_of_its_own_level() -> None:
    text = "name: x\nmodels: [a]\nsplit: {by: time, test: last 6d, validation: 6d, enity: c}\nevaluate: {metric: [a]}\n"
    nested, other = problems_of(text, PipelineSpec)
    assert "did you mean: entity" in nested
    assert "did you mean: metrics" in other


def test_missing_key_is_named_at_its_entry() -> None:
    text = "name: x\nmodels: [a]\nsplit: {by: time, test: last 6d, validation: 6d}\nevaluate: {slices: [a]}\n"
    (missing,) = problems_of(text, PipelineSpec)
    assert missing == 'error[TR006]: "metrics" is missing\n  x.yml:4:1   evaluate: {slices: [a]}\n  fix: add `metrics:`'


def test_value_that_may_be_text_or_a_list_is_reported_once() -> None:
    (text,) = problems_of("name: x\npath: {a: 1}\n", SourceSpec)
    assert 'error[TR004]: "path" has a value of the wrong form\n  x.yml:2:1   path: {a: 1}\n' in text


def test_part_of_a_spec_may_lack_what_is_required() -> None:
    document = read_yaml("threads: 0\n", path="x.yml")
    _, problems = parse_spec(document, ModelSpec, document.value, is_part=True)
    assert [problem.code for problem in problems] == ["TR004"]


def test_entry_that_is_no_mapping_says_what_was_found() -> None:
    document = read_yaml("- \n", path="x.yml")
    _, (problem,) = parse_spec(document, ModelSpec, None)
    assert problem.why == "expected keys and values, found nothing"


def test_good_entry_gives_the_spec_and_no_problem() -> None:
    document = read_yaml("weather: {on: {airport: origin}, as: origin_weather}\n", path="x.yml")
    found, problems = parse_spec(document, FeatureUse, document.value)
    assert problems == []
    assert found is not None
    assert (found.feature, found.prefix, dict(found.on)) == ("weather", "origin_weather", {"airport": "origin"})
