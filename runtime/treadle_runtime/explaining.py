"""Why a step is built or reused: what the plan, the state and the files tell, put together for `treadle.explain`."""

from __future__ import annotations

from collections.abc import Mapping

from treadle.explain import Explanation, Past, Present, explain
from treadle.manifest import Manifest
from treadle.plan import Plan
from treadle.text import read_files
from treadle_runtime.side import Side
from treadle_runtime.sources import find_appended
from treadle_runtime.state import State
from treadle_runtime.texts import TextReader
from treadle_runtime.versionstate import Remembered
from treadle_runtime.workspace import Workspace


def explain_step(workspace: Workspace, name: str, *, state: str | None = None) -> Explanation:
    """Explain what a build would do with one step.

    Args:
        workspace: the open project.
        name: the step's id, or a name that means one step.
        state: what it is compared with, an environment or a manifest; by default the environment that is worked in.

    Raises:
        UsageError: TR601, TR603 the name means no step, or several; TR608, TR801 see `side.find_side`.
    """
    side = workspace.side(state)
    step = workspace.find(name)
    plan = workspace.plan([step.id])
    past = read_past(side, workspace.state, plan, step.id)
    return explain(
        plan,
        step.id,
        side=side.path if isinstance(side, Manifest) else side,
        past=past,
        stands=step.id in past if isinstance(side, Manifest) else step.id in workspace.state.environment(side),
        present=_read_present(workspace, plan, past),
        built=_read_built(workspace, plan, step.id),
    )


def read_past(side: Side, state: State, plan: Plan, step_id: str) -> dict[str, Past]:
    """Return step id -> how it was, for a step and for what it was made from there, as far as that differs now.

    A parent is taken as the step read it, not as it stands in the environment by now.
    """
    if isinstance(side, Manifest):
        return _from_manifest(side, plan, step_id)
    found: dict[str, Past] = {}
    published = state.environment(side).get(step_id)
    edge = {step_id: published} if published else {}
    while edge:
        known = state.remembered(edge.values())
        following: dict[str, str] = {}
        for each, fingerprint in edge.items():
            if fingerprint in known:
                found[each] = _to_past(fingerprint, known[fingerprint])
                following |= _changed_inputs(plan, each, known[fingerprint].components)
        edge = {each: fingerprint for each, fingerprint in following.items() if each not in found}
    return found


def _changed_inputs(plan: Plan, step_id: str, components: Mapping[str, str]) -> dict[str, str]:
    """Return id -> earlier fingerprint of the inputs that are read as before and were something else then."""
    earlier = {parent: components.get(f"input:{parent}") for parent in plan.graph[step_id].inputs}
    return {
        parent: fingerprint
        for parent, fingerprint in earlier.items()
        if fingerprint is not None and fingerprint != plan.identities[parent].fingerprint
    }


def _from_manifest(side: Manifest, plan: Plan, step_id: str) -> dict[str, Past]:
    definitions = side.definitions()
    wanted = {step_id, *plan.graph.ancestors({step_id})} & set(definitions)
    return {each: Past(definitions[each], side.texts(each)) for each in wanted}


def _to_past(fingerprint: str, found: Remembered) -> Past:
    return Past(found.components, found.texts, fingerprint, found.run_id or "", found.created_at)


def _read_present(workspace: Workspace, plan: Plan, past: Mapping[str, Past]) -> Present:
    reader = TextReader(workspace.root, workspace.compiled)
    texts: dict[str, dict[str, str]] = {}
    appended: dict[str, int | None] = {}
    for step_id, before in past.items():
        observed = workspace.observed.get(step_id)
        if before.components != plan.identities[step_id].components:
            texts[step_id] = reader.read(plan.graph[step_id], observed)
        if observed is not None and (files := read_files(before.texts)) is not None:
            appended |= find_appended(observed, files, workspace.root)
    return Present(texts, appended)


def _read_built(workspace: Workspace, plan: Plan, step_id: str) -> Past | None:
    """Return how the present version was built; None where there is none, or its record is lost."""
    fingerprint = plan.identities[step_id].fingerprint
    found = workspace.state.remembered([fingerprint]).get(fingerprint)
    if found is None or not (plan.graph[step_id].is_inline or workspace.store.built([fingerprint])):
        return None
    return _to_past(fingerprint, found)
