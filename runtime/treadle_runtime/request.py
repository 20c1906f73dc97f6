"""What a command asks for: which steps, with which tests, read from where; and which steps of a graph that means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

from treadle import select
from treadle.errors import Problem, UsageError
from treadle.plan import Deferral
from treadle.select import Beside, Indirect

if TYPE_CHECKING:
    from treadle.step import Graph

Tests = Literal["with", "without", "only"]


class Conditions(TypedDict, total=False):
    """What else is asked for besides a selection; see `Request`."""

    tests: Tests
    full_refresh: bool
    defer: str | None
    state: str | None
    indirect: Indirect


@dataclass(frozen=True)
class Request:
    """What is to be planned or built.

    Attributes:
        selectors: see `treadle.select`; none means all.
        exclude: what is taken away.
        tests: with the tests of what is selected, without any, or only these.
        full_refresh: compute what is selected even where it is built.
        defer: an environment from which is read what is neither selected nor built.
        state: what `state:` in selectors compares with: an environment, or the path of a manifest.json.
        indirect: which tests come with what they look at, see `treadle.select.Indirect`.
    """

    selectors: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    tests: Tests = "with"
    full_refresh: bool = False
    defer: str | None = None
    state: str | None = None
    indirect: Indirect = "eager"

    @property
    def is_whole(self) -> bool:
        """Whether all steps are meant."""
        return not (self.selectors or self.exclude)

    def choose(self, graph: Graph, beside: Beside) -> frozenset[str]:
        """Return the ids of the steps that are selected, tests among them as asked.

        Args:
            graph: the graph.
            beside: what selectors ask for beside it.

        Raises:
            UsageError: see `treadle.select.select`.
        """
        selected = select.select(graph, self.selectors, self.exclude, beside=beside)
        if self.tests == "without":
            return frozenset(step_id for step_id in selected if graph[step_id].kind != "test")
        selected = select.with_tests(graph, selected, self.indirect) - self._excluded(graph, beside)
        return frozenset(s for s in selected if graph[s].kind == "test") if self.tests == "only" else selected

    def gates(self, graph: Graph, beside: Beside) -> frozenset[str]:
        """Return the tests that run with whatever publishes what they look at: all that are not excluded."""
        if self.tests == "without" or self.indirect == "empty" or self.is_whole:
            return frozenset()
        return frozenset(step.id for step in graph if step.kind == "test") - self._excluded(graph, beside)

    def deferral(self, graph: Graph, beside: Beside, env: str, published: Mapping[str, str]) -> Deferral:
        """Return what may be read from another environment: nothing that the selection names, tested or built.

        Args:
            graph, beside: see `choose`.
            env: the other environment.
            published: its map.

        Raises:
            UsageError: TR603, all steps are meant.
        """
        if self.is_whole:
            fix = "name what you work on, as in `treadle build --select NAME --defer ENV`"
            raise UsageError(Problem("TR603", "--defer needs a selection", why="all steps are selected", fix=fix))
        chosen = select.select(graph, self.selectors, self.exclude, beside=beside)
        return Deferral(env, {step_id: found for step_id, found in published.items() if step_id not in chosen})

    def _excluded(self, graph: Graph, beside: Beside) -> frozenset[str]:
        return select.select(graph, self.exclude, beside=beside) if self.exclude else frozenset()
