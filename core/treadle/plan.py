"""Graph and what is known -> Plan: which steps run, which results are reused, and why.

Nothing is read from disk here: the sources' digests, the built versions and the champions come in as frozen values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from treadle import gates
from treadle.fingerprint import Change, Identity, describe, diff, identify
from treadle.step import Graph, Step

Action = Literal["build", "reuse", "inline"]


@dataclass(frozen=True)
class Champion:
    """The model version that a pipeline's challengers are compared with.

    Attributes:
        number: of the version in the registry.
        choose: fingerprint of the choice that it came from.
        twin: fingerprint of its held-out twin.
        previous: the champion that it was judged against itself.
    """

    number: int
    choose: str
    twin: str
    previous: Champion | None = None


@dataclass(frozen=True)
class Known:
    """What the runtime knows when a plan is made.

    Attributes:
        sources: source name -> digests of its parts, in order.
        built: fingerprints of the versions in the store.
        published: step id -> fingerprint, of the environment.
        components: fingerprint -> components of its identity, for what is published; asked for what changed only.
        champions: pipeline -> its champion, if it has one.
    """

    sources: Mapping[str, tuple[str, ...]]
    built: frozenset[str] = frozenset()
    published: Mapping[str, str] = field(default_factory=dict)
    components: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    champions: Mapping[str, Champion] = field(default_factory=dict)


@dataclass(frozen=True)
class Deferral:
    """Another environment, whose versions stand in for what is not selected and not built.

    Attributes:
        environment: its name.
        published: step id -> fingerprint, of the steps that may be read from there.
    """

    environment: str
    published: Mapping[str, str]


class PlannedStep(Struct, frozen=True, gc=False):
    """A step with its identity, what is to be done and why.

    Attributes:
        action: build (compute it), reuse (its version stands in the store), inline (a view, or a source in place: part
            of its readers).
        reason: one phrase.
        changes: in what it differs from the environment's version.
        is_selected: whether the selection asked for it; else another step needs it, or it joins as a test of what is
            published anew.
        is_refreshed: whether it is computed although its version stands.
    """

    step: Step
    identity: Identity
    action: Action
    reason: str
    changes: tuple[Change, ...] = ()
    is_selected: bool = True
    is_refreshed: bool = False

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint


@dataclass(frozen=True)
class Plan:
    """The planned steps, parents first.

    Attributes:
        graph: the graph that was planned.
        identities: of every step of the graph, planned or not.
        steps: those that are selected or needed.
        champions: pipeline -> the champion that its gates are to be judged against.
        as_of: the moment that counts as now, or `newest`.
        deferred: ids of the steps whose fingerprint is that of their version in another environment, whatever their
            files say; who needs one reads it there.
    """

    graph: Graph
    identities: Mapping[str, Identity]
    steps: tuple[PlannedStep, ...]
    champions: Mapping[str, Champion | None]
    as_of: str = "newest"
    deferred: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[PlannedStep]:
        return iter(self.steps)

    def n(self, action: Action) -> int:
        """Return how many steps have that action."""
        return sum(planned.action == action for planned in self.steps)


def make_plan(
    graph: Graph,
    known: Known,
    selected: frozenset[str],
    *,
    as_of: str = "newest",
    run: str = "",
    day: str = "",
    full_refresh: bool = False,
    defer: Deferral | None = None,
    gates: frozenset[str] = frozenset(),
) -> Plan:
    """Decide what runs.

    What a selection stands on is published with it. So the tests of what is published anew run too, as they do when
    all is built: those that read nothing but the selection and what it stands on.

    With `defer`, a step that is not selected and not built as its files stand now is read from the other environment
    where that has it, and what stands on it gets the fingerprint of that reading. Views and sources in place are part
    of their readers, and stay as their files are.

    Args:
        graph: the project's graph.
        known: what is built, published and observed.
        selected: ids of the steps that were asked for.
        as_of: the moment that counts as now, ISO 8601 in UTC, or `newest`.
        run: an id of this run, for `volatile: run`.
        day: today in UTC, for `volatile: day`.
        full_refresh: compute the selected steps even where their version stands in the store.
        defer: where parents are read from that are neither selected nor built.
        gates: ids of the tests that may join the selection for what they look at is published anew.
    """
    identities, opponents = _identify(graph, known, as_of, run, day, lambda _, identity: identity)
    deferred: set[str] = set()
    if defer is not None:
        plain = identities

        def stand_in(step: Step, identity: Identity) -> Identity:
            if step.id in selected or step.is_inline:
                return identity
            for found in (plain[step.id], identity):
                if found.fingerprint in known.built:
                    return found
            there = defer.published.get(step.id)
            if there not in known.built:
                return identity
            deferred.add(step.id)
            return Identity(there, step, identity.inputs, identity.more)

        identities, opponents = _identify(graph, known, as_of, run, day, stand_in)
    reasons = dict.fromkeys(deferred, f"deferred to {defer.environment}") if defer else {}
    steps = _needed(graph, identities, known, selected, full_refresh, reasons)
    if joined := _ungated(graph, identities, known, steps, deferred, gates - selected):
        steps = _needed(graph, identities, known, selected, full_refresh, reasons, joined)
    return Plan(graph, identities, steps, opponents, as_of, frozenset(deferred))


def _identify(
    graph: Graph,
    known: Known,
    as_of: str,
    run: str,
    day: str,
    stand_in: Callable[[Step, Identity], Identity],
) -> tuple[dict[str, Identity], dict[str, Champion | None]]:
    """Return the identity of every step and the champion that each pipeline's gates are judged against.

    Args:
        stand_in: given a step and the identity that follows from what it reads; returns what its readers are to read.
    """
    identities: dict[str, Identity] = {}
    fingerprints: dict[str, str] = {}
    opponents: dict[str, Champion | None] = {}
    own_texts = graph.own_texts
    for step_id, step in graph.steps.items():
        extra: dict[str, str] | None = None
        if step.kind == "split":
            extra = {"as_of": as_of}
        elif step.kind == "validate" and needs_champion(step):
            choice = fingerprints[f"{step.pipeline}.choose"]
            opponents[step.pipeline] = opponent(known.champions.get(step.pipeline), choice)
            extra = {"champion": _twin(opponents[step.pipeline])}
        if volatile := step.config.get("volatile"):
            extra = {**(extra or {}), "now": run if volatile == "run" else day}
        parts = known.sources[step_id] if step.kind == "source" and step_id in known.sources else ()
        identity = stand_in(step, identify(step, fingerprints, parts=parts, extra=extra, own=own_texts.get(step_id)))
        identities[step_id], fingerprints[step_id] = identity, identity.fingerprint
    return identities, opponents


def needs_champion(step: Step) -> bool:
    """Return whether a gate of the `validate` step compares with the champion."""
    return any(gates.parse_gate(gate).needs_champion for gate in step.config["gates"])


def opponent(champion: Champion | None, choice: str) -> Champion | None:
    """Return whom a choice is judged against: the champion, or the champion's own opponent when they are one."""
    if champion is not None and champion.choose == choice:
        return champion.previous
    return champion


def _twin(champion: Champion | None) -> str:
    return champion.twin if champion else "none"


def _needed(
    graph: Graph,
    identities: Mapping[str, Identity],
    known: Known,
    selected: frozenset[str],
    full_refresh: bool,
    deferred: Mapping[str, str],
    joined: frozenset[str] = frozenset(),
) -> tuple[PlannedStep, ...]:
    """Return the steps that are selected, that join them, or that one of these cannot do without."""
    found: dict[str, PlannedStep] = {}
    needed: dict[str, str] = {}
    for step in reversed(list(graph)):
        is_selected = step.id in selected
        is_asked = is_selected or step.id in joined
        if not is_asked and step.id not in needed:
            continue
        identity = identities[step.id]
        is_built = identity.fingerprint in known.built and not (full_refresh and is_selected)
        if not is_asked and is_built and step.id not in deferred:
            continue
        action: Action = "inline" if step.is_inline else "reuse" if is_built else "build"
        changes = () if step.id in deferred else _changes(step, identity, known)
        reason = deferred.get(step.id) or _reason(step, identity, known, changes, action)
        if not is_asked and action == "build":
            reason += f"; needed by {needed[step.id]}"
        is_refreshed = full_refresh and identity.fingerprint in known.built and action == "build"
        if is_refreshed:
            reason = "full refresh"
        found[step.id] = PlannedStep(step, identity, action, reason, changes, is_selected, is_refreshed)
        if action != "reuse":
            for parent in (*step.inputs, *(after for after in step.after if graph[after].kind != "test")):
                needed.setdefault(parent, step.id)
    return tuple(found[step.id] for step in graph if step.id in found)


def _ungated(
    graph: Graph,
    identities: Mapping[str, Identity],
    known: Known,
    steps: tuple[PlannedStep, ...],
    deferred: set[str],
    gates: frozenset[str],
) -> frozenset[str]:
    """Return those of the gates that look at what a build of the steps publishes anew, and at nothing else than that
    and what the steps read besides."""
    if not gates:
        return frozenset()
    read = {planned.step.id for planned in steps}
    left = list(read)
    while left:
        step = graph[left.pop()]
        if step.id in deferred:
            continue
        more = {*step.inputs, *(after for after in step.after if graph[after].kind != "test")} - read
        read |= more
        left += more
    fresh = {step for step in read - deferred if known.published.get(step) != identities[step].fingerprint}
    return frozenset(
        gate for gate in gates if not fresh.isdisjoint(graph[gate].inputs) and read.issuperset(graph[gate].inputs)
    )


def _changes(step: Step, identity: Identity, known: Known) -> tuple[Change, ...]:
    published = known.published.get(step.id)
    if published is None or published == identity.fingerprint:
        return ()
    before = known.components.get(published)
    return diff(before, identity.components) if before is not None else ()


def _reason(step: Step, identity: Identity, known: Known, changes: tuple[Change, ...], action: Action) -> str:
    published = known.published.get(step.id)
    if published == identity.fingerprint:
        return "unchanged" if action != "build" else "its version is missing in the store"
    if changes:
        shown = [describe(change) for change in changes[:3]]
        return "; ".join(shown) + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")
    if action == "reuse":
        return "built before"
    return "new" if published is None else "its earlier identity is unknown"
