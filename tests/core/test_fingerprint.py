"""Fingerprints: what enters one, and how a difference reads."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from treadle.errors import Location
from treadle.fingerprint import Change, describe, diff, identify, installed_version, to_canonical_json
from treadle.pycode import Function
from treadle.step import Step

STEP = Step(
    id="carrier_history",
    kind="feature",
    name="carrier_history",
    where=Location("features/carrier_history.sql", 1),
    inputs=("flights",),
    config={"keys": ["carrier"], "threads": 1},
    code={"features/carrier_history.sql": "c0de"},
    distributions=("duckdb",),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
FUNCTION = Function("features/a.py", "a", "feature", ("flights",), {}, {}, 3, "")


def fingerprint(step: Step = STEP, **rest: Any) -> str:
    return identify(step, {"flights": "f1", "planes": "f2"}, **rest).fingerprint


def test_fingerprint_is_64_hexadecimal_digits_of_its_components() -> None:
    found = identify(STEP, {"flights": "f1"})
    assert len(found.fingerprint) == 64
    assert set(found.fingerprint) <= set("0123456789abcdef")
    assert dict(found.components) == {
        "kind": "feature/1",
        "code:features/carrier_history.sql": "c0de",
        "config:keys": '["carrier"]',
        "config:threads": "1",
        "input:flights": "f1",
        "with:duckdb": metadata.version("duckdb"),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "dataset"},
        {"inputs": ("planes",)},
        {"inputs": ("flights", "planes")},
        {"config": {"keys": ["carrier"], "threads": 2}},
        {"config": {"keys": ["carrier"]}},
        {"code": {"features/carrier_history.sql": "other"}},
        {"distributions": ("duckdb", "pyarrow")},
        {"function": FUNCTION},
    ],
)
def test_what_can_change_the_result_changes_the_fingerprint(change: dict[str, Any]) -> None:
    assert fingerprint(replace(STEP, **change)) != fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other", "name": "other"},
        {"where": Location("elsewhere.sql", 9)},
        {"settings": {"paths": ["x"]}},
        {"after": ("test:a",)},
        {"tags": ("daily",)},
        {"description": "more"},
        {"config": {"threads": 1, "keys": ("carrier",)}},
    ],
)
def test_what_cannot_change_the_result_does_not(change: dict[str, Any]) -> None:
    assert fingerprint(replace(STEP, **change)) == fingerprint()


def test_data_and_extras_count() -> None:
    source = replace(STEP, kind="source", inputs=())
    assert fingerprint(source, parts=("a", "b")) != fingerprint(source, parts=("b", "a"))
    assert fingerprint(source, parts=("a", "b")) == fingerprint(source, parts=iter(["a", "b"]))
    assert fingerprint(STEP, parts=("a",)) == fingerprint(STEP), "only a source has parts"
    assert fingerprint(extra={"as_of": "newest"}) != fingerprint()


def test_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "from treadle.fingerprint import identify\nfrom treadle.step import Step\nfrom treadle.errors import Location\n"
        "s = Step('a', 'feature', 'a', Location('x'), config={'b': [1.5, None], 'a': {'z': 'é', 'y': True}},"
        " distributions=('platform',))\nprint(identify(s, {}).fingerprint)"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


@given(JSON)
def test_canonical_json_is_json_and_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(inner) for key, inner in reversed(value.items())}
        return [turned(inner) for inner in value] if isinstance(value, list) else value

    text = to_canonical_json(value)
    assert json.loads(text) == value
    assert to_canonical_json(turned(value)) == text


def test_equal_numbers_of_different_types_differ() -> None:
    texts = [to_canonical_json(value) for value in (1, 1.0, True, "1", None, float("nan"), float("inf"))]
    assert len(set(texts)) == len(texts)


def test_version_of_a_distribution_a_module_and_the_machine() -> None:
    assert installed_version("scikit-learn") == metadata.version("scikit-learn")
    assert installed_version("sklearn") == f"scikit-learn {metadata.version('scikit-learn')}"
    assert installed_version("no_such_distribution") == "absent"
    assert installed_version("platform") == f"{sys.platform}-{platform.machine()}-cpu"


COMPONENTS = st.dictionaries(
    st.sampled_from(["kind", "code:a", "code:b", "config:x", "config:y", "input:f", "with:duckdb", "parts", "as_of"]),
    st.sampled_from(["1", "2", "3"]),
)


@given(COMPONENTS, COMPONENTS)
def test_diff_holds_every_component_that_differs_and_no_other(before: dict[str, str], after: dict[str, str]) -> None:
    changes = diff(before, after)
    assert {change.component for change in changes} == {
        name for name in before | after if before.get(name) != after.get(name)
    }
    assert all(
        (change.before, change.after) == (before.get(change.component), after.get(change.component))
        for change in changes
    )
    ranks = [["code", "config", "parts", "input"].index(kind) if kind in ("code", "config", "parts", "input") else 4
             for kind in (change.component.partition(":")[0] for change in changes)]  # fmt: skip
    assert ranks == sorted(ranks), "what a person changed stands first"
    assert (changes == ()) == (before == after)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change("code:features/a.py:f", "1", "2"), "code of features/a.py:f changed"),
        (Change("code:features/a.py:f", None, "2"), "code of features/a.py:f is new"),
        (Change("code:features/a.py:f", "1", None), "code of features/a.py:f is gone"),
        (Change("config:threads", "1", "2"), "threads: 1 -> 2"),
        (Change("config:ttl", None, "2"), "ttl: nothing -> 2"),
        (Change("config:columns", "x" * 80, "[]"), f"columns: {'x' * 57}... -> []"),
        (Change("input:flights", "1", "2"), "flights changed"),
        (Change("input:flights", None, "2"), "flights is read now"),
        (Change("input:flights", "1", None), "flights is read no more"),
        (Change("parts", "1", "2"), "its data changed"),
        (Change("with:duckdb", "2.0", "2.1"), "duckdb 2.0 -> 2.1"),
        (Change("with:lightgbm", "absent", "4.6"), "lightgbm absent -> 4.6"),
        (Change("kind", "split/1", "split/2"), "Treadle computes it differently now"),
        (Change("as_of", "newest", "2013-11-01"), "as_of newest -> 2013-11-01"),
        (Change("champion", "none", "abc"), "champion none -> abc"),
    ],
)
def test_change_reads_as_a_phrase(change: Change, text: str) -> None:
    assert describe(change) == text
