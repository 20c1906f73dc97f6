"""What is known before a plan is made: sources as they are now, what is built, published and promoted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from treadle.plan import Champion, Known
from treadle.step import Graph
from treadle_runtime.registry import ModelVersion, Registry
from treadle_runtime.sources import Observed
from treadle_runtime.state import State
from treadle_runtime.store import Store


def find_known(graph: Graph, observed: Mapping[str, Observed], store: Store, state: State) -> Known:
    """Return what is observed, built, published and promoted in the environment of a graph.

    Args:
        graph: the graph.
        observed: source name -> it as it is now.
        store: tells what is built.
        state: tells what is published and promoted.
    """
    env, registry = graph.environment, Registry(state)
    champions = {
        step.pipeline: _to_champion(registry, found, env)
        for step in graph
        if step.kind == "validate" and (found := registry.champion(step.pipeline, env=env))
    }
    return Known(
        sources={name: (each.digest,) for name, each in observed.items()},
        built=store.fingerprints(),
        published=state.environment(env),
        components=_Recorded(state),
        champions=champions,
    )


def _to_champion(registry: Registry, version: ModelVersion, env: str) -> Champion:
    previous = None
    if version.champion_input is not None:
        previous = _to_champion(registry, registry.version(version.pipeline, version.champion_input, env=env), env)
    return Champion(version.number, version.choose, version.twin, previous)


class _Recorded(Mapping[str, Mapping[str, str]]):
    """Fingerprint -> components, read from the state when they are asked for: few of ten thousand ever are."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __getitem__(self, fingerprint: str) -> Mapping[str, str]:
        return self._state.identities([fingerprint])[fingerprint]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.verdicts())

    def __len__(self) -> int:
        return len(self._state.verdicts())
