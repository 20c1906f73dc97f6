"""Graph -> manifest.json: the compiled project as a versioned document that other programs may read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from treadle.fingerprint import Identity
from treadle.step import Graph, Step

MANIFEST_VERSION = 1


def to_manifest(graph: Graph, identities: Mapping[str, Identity]) -> dict[str, Any]:
    """Return the manifest as JSON.

    Args:
        graph: the compiled graph.
        identities: step id -> identity; absent for steps whose sources were not observed.
    """
    return {
        "manifest_version": MANIFEST_VERSION,
        "treadle_version": version("treadle"),
        "project": graph.project,
        "environment": graph.environment,
        "steps": {step.id: _step(step, identities.get(step.id)) for step in graph},
    }


def _step(step: Step, identity: Identity | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": step.kind,
        "name": step.name,
        "path": step.where.path,
        "line": step.where.line,
        "inputs": list(step.inputs),
        "after": list(step.after),
        "config": dict(step.config),
        "tags": list(step.tags),
        "description": step.description,
    }
    if step.pipeline:
        found["pipeline"] = step.pipeline
    if step.query is not None:
        found["compiled_sql"] = step.query.text
    if step.function is not None:
        found["function"] = step.function.name
    if identity is not None:
        found["fingerprint"] = identity.fingerprint
        found["components"] = dict(identity.components)
    return found
