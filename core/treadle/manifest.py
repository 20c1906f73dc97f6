"""Graph -> manifest.json -> Manifest: the compiled project as a versioned document that other programs may read.

Version 1 told what the steps are. Version 2 adds the `definition` of each, by which another checkout, another branch or
a later commit tells what was modified since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from treadle.errors import Problem, UsageError
from treadle.fingerprint import Identity, definition, installed_version
from treadle.step import Graph, Step

MANIFEST_VERSION = 2


@dataclass(frozen=True)
class Manifest:
    """A manifest.json that was read.

    Attributes:
        path: of the file, as a person would name it.
        version: of its format.
        steps: step id -> what is written of it.
    """

    path: str
    version: int
    steps: Mapping[str, Mapping[str, Any]]

    def definitions(self) -> dict[str, Mapping[str, str]]:
        """Return step id -> the components of its definition (see `fingerprint.definition`).

        Raises:
            UsageError: TR608, the document is of version 1 and holds none.
        """
        if self.version < 2:
            why = f"{self.path} is of version {self.version}, which does not hold what each step was made of"
            fix = "run `treadle compile` on the files that it was made from, with this Treadle"
            raise UsageError(Problem("TR608", "the manifest is too old to compare with", why=why, fix=fix))
        return {step_id: dict(step["definition"]) for step_id, step in self.steps.items()}

    def texts(self, step_id: str) -> dict[str, str]:
        """Return component -> text of a step's code, as far as the document holds it: of SQL."""
        step = self.steps[step_id]
        text = step.get("compiled_sql")
        return {} if text is None else {name: text for name in step["definition"] if name.startswith("code:")}


def read_manifest(text: str, *, path: str) -> Manifest:
    """Read a manifest.json of any version up to this Treadle's.

    Args:
        text: the document.
        path: of its file, for errors.

    Raises:
        UsageError: TR608 it is no manifest; TR801 a newer Treadle wrote it.
    """
    try:
        document = json.loads(text)
        found = int(document["manifest_version"])
        if found > MANIFEST_VERSION:
            raise UsageError(_newer(path, found))
        manifest = Manifest(path, found, {step_id: dict(step) for step_id, step in document["steps"].items()})
        if found == MANIFEST_VERSION:
            manifest.definitions()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "name the target/manifest.json that `treadle compile` wrote"
        problem = Problem("TR608", "this is no manifest", why=f"{path} cannot be read as one", fix=fix)
        raise UsageError(problem) from error
    return manifest


def _newer(path: str, found: int) -> Problem:
    why = f"{path} is of version {found}; this Treadle reads versions up to {MANIFEST_VERSION}"
    fix = "upgrade with `pip install --upgrade treadle`"
    return Problem("TR801", "the manifest was written by a newer Treadle", why=why, fix=fix)


def to_manifest(graph: Graph, identities: Mapping[str, Identity]) -> dict[str, Any]:
    """Return the manifest as JSON.

    Args:
        graph: the compiled graph.
        identities: step id -> identity; absent for steps whose sources were not observed.
    """
    return {
        "manifest_version": MANIFEST_VERSION,
        "treadle_version": installed_version("treadle"),
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
        "definition": definition(step),
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
