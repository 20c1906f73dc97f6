"""The order in which steps become ready: each after all that it reads and waits for.

A view, or a source in place, is part of its readers: they wait for what it reads and waits for.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from treadle.step import Graph, Step


def needs(graph: Graph, step: Step) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids of the steps that a step reads, through views too, and of those that must have passed before."""
    inputs, after = dict.fromkeys(step.inputs), dict.fromkeys(step.after)
    left = list(inputs)
    while left:
        parent = graph[left.pop()]
        if parent.is_inline:
            left += [more for more in parent.inputs if more not in inputs]
            inputs.update(dict.fromkeys(parent.inputs))
            after.update(dict.fromkeys(parent.after))
    return tuple(inputs), tuple(after)


class Schedule:
    """Steps that wait, and those that are ready, in the order of the plan."""

    def __init__(self, graph: Graph, steps: Sequence[Step]) -> None:
        self._steps = {step.id: step for step in steps}
        self._rank = {step.id: n for n, step in enumerate(steps)}
        self._readers: dict[str, list[str]] = {step.id: [] for step in steps}
        self._waits: dict[str, set[str]] = {}
        self._ready: list[int] = []
        self._order = list(steps)
        for step in steps:
            inputs, after = needs(graph, step)
            self._waits[step.id] = {parent for parent in (*inputs, *after) if parent in self._steps}
            for parent in self._waits[step.id]:
                self._readers[parent].append(step.id)
            if not self._waits[step.id]:
                heapq.heappush(self._ready, self._rank[step.id])
        self.n_left = len(steps)

    def pop(self, free: int, cost: dict[str, int]) -> Step | None:
        """Take the first ready step that needs no more than `free` threads, or None."""
        passed: list[int] = []
        found = None
        while self._ready:
            rank = heapq.heappop(self._ready)
            step = self._order[rank]
            if cost[step.id] <= free:
                found = step
                break
            passed.append(rank)
        for rank in passed:
            heapq.heappush(self._ready, rank)
        return found

    def finish(self, step_id: str) -> None:
        """Note that a step has ended, however it did."""
        self.n_left -= 1
        for reader in self._readers[step_id]:
            self._waits[reader].discard(step_id)
            if not self._waits[reader]:
                heapq.heappush(self._ready, self._rank[reader])
