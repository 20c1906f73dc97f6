"""Graph and the definitions of another side -> which steps are new there, and which are modified.

The other side is an environment or a manifest: another branch, the last release, what production runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from treadle.fingerprint import definition, diff
from treadle.step import Graph

OWN = frozenset({"code", "config", "function", "kind", "with"})
"""Components that a step has by itself; what it reads and which data stood there are not among them."""

Definitions = Mapping[str, Mapping[str, str] | None]
"""Step id -> components of its identity there; None where the step stands there and they are not known."""


@dataclass(frozen=True)
class Compared:
    """How the steps of a graph differ from another side; a changed input or changed data alone is no difference.

    Attributes:
        new: ids of the steps that do not stand there.
        modified: new, or its code, its configuration or what computes it differs.
        body: new, or its code differs.
        configs: new, or its configuration differs.
    """

    new: frozenset[str]
    modified: frozenset[str]
    body: frozenset[str] = frozenset()
    configs: frozenset[str] = frozenset()


def compare(graph: Graph, other: Definitions) -> Compared:
    """Compare a graph with another side.

    Args:
        graph: the graph.
        other: what stands there. A step whose components are not known counts as modified in every way.
    """
    differing: dict[str, set[str]] = {}
    for step in graph:
        before = other.get(step.id)
        if before is None:
            differing[step.id] = set(OWN)
        else:
            changes = diff({name: before[name] for name in before if kind_of(name) in OWN}, definition(step))
            differing[step.id] = {kind_of(change.component) for change in changes}
    return Compared(
        new=frozenset(step_id for step_id in differing if step_id not in other),
        modified=frozenset(step_id for step_id, kinds in differing.items() if kinds),
        body=frozenset(step_id for step_id, kinds in differing.items() if kinds & {"code", "function"}),
        configs=frozenset(step_id for step_id, kinds in differing.items() if "config" in kinds),
    )


def kind_of(component: str) -> str:
    """Return what kind of component it is: `code` of `code:features/planes.py:age`."""
    return component.partition(":")[0]
