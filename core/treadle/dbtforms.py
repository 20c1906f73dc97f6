"""What dbt lets people write in YAML in other words, taken as what this project calls it.

data_tests:, data_type:        tests:, type:
config: {materialized: view}   materialized: view
tests: [{accepted_values: {arguments: {values: [a]}, config: {severity: warn}}}]
                               tests: [{accepted_values: {values: [a], severity: warn}}]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: Mapping[str, str] = {"data_tests": "tests", "data_type": "type"}
NESTED = ("config", "arguments")
"""Keys whose values stand among those beside them."""


def flatten(value: Any, *, nested: tuple[str, ...] = ("config",)) -> Any:
    """Return an entry with this project's keys, each at its place; what is no mapping stays.

    Raises:
        ValueError: a key stands there twice, in two of the forms.
    """
    if not isinstance(value, dict):
        return value
    found: dict[Any, Any] = {}
    for key, inner in value.items():
        given = inner if key in nested and isinstance(inner, dict) else {RENAMED.get(key, key): inner}
        for name, each in given.items():
            if name in found and found[name] != each:
                raise ValueError(f'"{name}" is given twice, in two forms; keep one of them')
            found[name] = each
    return found


def find(value: Mapping[Any, Any], key: str | int) -> tuple[str | int, ...] | None:
    """Return the keys that lead to a key in any of the forms; None where it does not stand."""
    if key in value:
        return (key,)
    for other, name in RENAMED.items():
        if name == key and other in value:
            return (other,)
    for name in NESTED:
        inner = value.get(name)
        if isinstance(inner, dict) and key in inner:
            return (name, key)
    return None
