"""A project that is open: from its files to its graph, its plan, its results. Commands and notebooks go through here.

project -> graph -> known (sources observed, store and state asked) -> plan -> build -> published
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from treadle import select
from treadle.cache import Asked, Compiled, load_compiled
from treadle.comparison import Compared, compare
from treadle.errors import Problem, ProjectError, UsageError
from treadle.events import Emit
from treadle.files import find_root
from treadle.plan import Deferral, Known, Plan, make_plan
from treadle.select import Beside, Selectors
from treadle.step import Graph, Step
from treadle_runtime import sources
from treadle_runtime.building import Outcome, build, ignore
from treadle_runtime.knowing import find_known
from treadle_runtime.lastrun import find_results
from treadle_runtime.leases import Lease
from treadle_runtime.recovery import open_store
from treadle_runtime.registry import Registry
from treadle_runtime.request import Conditions, Request
from treadle_runtime.side import Side, find_side, read_definitions
from treadle_runtime.state import State
from treadle_runtime.store import Store

# Listing and planning must stay fast: what brings DuckDB, polars or Arrow is imported where it is used.
if TYPE_CHECKING:
    from treadle_runtime.handle import StepHandle
    from treadle_runtime.intervals import Window
    from treadle_runtime.jobs import JobMaker
    from treadle_runtime.sources import Observed
    from treadle_runtime.training.parameters import ModelParameters


class Workspace:
    """An open project; close it, or use it as a context manager.

    Args:
        root: the folder that holds treadle.yml.
        environment: by default the project's.
        variables: values that win over those of treadle.yml.
        environ: the environment variables that templates may read.
        as_of: the moment that counts as now, ISO 8601 in UTC; None for the newest that the labels know of.
        command: what this process is called in the state and by those who wait for it.
        on_loss: called with how many versions the loss of power took, when the store is opened.
    """

    def __init__(
        self,
        root: Path,
        *,
        environment: str | None = None,
        variables: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        as_of: str | None = None,
        command: str = "treadle",
        on_loss: Callable[[int], None] = ignore,
    ) -> None:
        self.root, self.command, self.as_of = root, command, as_of
        self._environment, self._on_loss = environment, on_loss
        self.variables = dict(variables or {})
        self._environ = dict(os.environ) if environ is None else environ
        self._stack = ExitStack()
        self._has_planned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the state."""
        self._stack.close()

    def in_environment(self, environment: str) -> Workspace:
        """Return the same project in another environment; to be closed by itself."""
        return Workspace(
            self.root,
            environment=environment,
            variables=self.variables,
            environ=self._environ,
            as_of=self.as_of,
            command=self.command,
        )

    @property
    def folder(self) -> Path:
        """`.treadle`, where everything that is built stands."""
        return self.root / ".treadle"

    @cached_property
    def compiled(self) -> Compiled:
        """The project as compiled, from the cache as far as that holds."""
        asked = Asked(self.root, self._environment, self.variables, self._environ, self.as_of)
        return load_compiled(asked, self.folder / "cache")

    @property
    def environment(self) -> str:
        """The environment that is worked in."""
        return self.compiled.environment

    @property
    def graph(self) -> Graph:
        """The compiled graph."""
        return self.compiled.graph

    def check_trainers(self) -> None:
        """Check the parameters of every model against what its trainer takes.

        Raises:
            ProjectError: TR501, TR502, TR503, TR508.
        """
        trained = [step for step in self.graph if step.kind == "train"]
        if not trained:
            return
        from treadle_runtime.training import parameters

        models = [
            parameters.ModelParameters(
                step.name, step.config["trainer"], step.config["task"], step.config["params"], step.where
            )
            for step in trained
        ]
        if parameters.check_models(models, cache=self.folder / "cache"):
            raise ProjectError(parameters.check_models(self._located_models(), cache=self.folder / "cache"))

    def _located_models(self) -> list[ModelParameters]:
        """Return the models with the places of their parameters, which only the files tell."""
        from treadle.project import read_project
        from treadle_runtime.training.parameters import ModelParameters

        project = read_project(self.root, environment=self._environment, variables=self.variables)
        return [
            ModelParameters(
                name=name,
                trainer=located.spec.trainer,
                task=located.spec.task,
                params=located.spec.params,
                where=located.at("trainer"),
                param_where={param: located.at("params", param) for param in located.spec.params},
            )
            for name, located in project.models.items()
        ]

    @cached_property
    def store(self) -> Store:
        return open_store(self.folder, owner=self.command, on_loss=self._on_loss)

    @cached_property
    def state(self) -> State:
        return self._stack.enter_context(State(self.folder / "state.db"))

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.state)

    @cached_property
    def lease(self) -> Lease:
        """What keeps the versions that were asked for here from being removed while they may be read."""
        lease = Lease(self.folder, self.state, owner=self.command)
        self._stack.callback(lease.close)
        return lease

    @cached_property
    def observed(self) -> dict[str, Observed]:
        """Every source as it is now."""
        steps = self.compiled.sources
        return sources.observe_all(
            [{"name": step.name, **step.config, **step.settings} for step in steps],
            self.root,
            allow_paths=self.compiled.allow_paths,
            state=self.state,
            where={step.name: step.where for step in steps},
        )

    def known(self) -> Known:
        """Return what is observed, built, published and promoted."""
        return find_known(self.graph, self.observed, self.store, self.state)

    def plan(
        self,
        selectors: Iterable[str] = (),
        exclude: Iterable[str] = (),
        *,
        run: str = "plan",
        **asked: Unpack[Conditions],
    ) -> Plan:
        """Return what a build of the selection would do.

        Args:
            run: an id of the run, for volatile features.
            selectors, exclude, asked: see `Request`.
        """
        self.read_anew()
        return self.plan_request(self.request(selectors, exclude, **asked), run=run)

    def read_anew(self) -> None:
        """Forget what an earlier plan read: in a notebook, files change while a project is open."""
        if self._has_planned:
            for name in ("compiled", "observed", "selectors"):
                self.__dict__.pop(name, None)
        self._has_planned = True

    def plan_request(self, request: Request, *, run: str) -> Plan:
        """Return what a build of a request would do, by the files as they were last read; `run` as in `plan`."""
        self.check_trainers()
        beside = self.beside(request.selectors, request.exclude, state=request.state)
        return make_plan(
            self.graph,
            self.known(),
            request.choose(self.graph, beside),
            as_of=self.as_of or "newest",
            run=run,
            day=f"{datetime.now(UTC):%Y-%m-%d}",
            full_refresh=request.full_refresh,
            defer=self.deferral(request, beside),
            gates=request.gates(self.graph, beside),
        )

    def deferral(self, request: Request, beside: Beside) -> Deferral | None:
        """Return what a request may read from another environment; None where it names none.

        Raises:
            UsageError: TR109 there is no such environment, TR603 all steps are meant.
        """
        if request.defer is None:
            return None
        from treadle.projectfile import read_environments

        read_environments(self.root).check(request.defer)
        return request.deferral(self.graph, beside, request.defer, self.state.environment(request.defer))

    def request(
        self, selectors: Iterable[str] = (), exclude: Iterable[str] = (), **asked: Unpack[Conditions]
    ) -> Request:
        """Return what is asked for: without a selection the default of selectors.yml, if there is one."""
        selectors, exclude = tuple(selectors), tuple(exclude)
        if not (selectors or exclude) and self.selectors.default is not None:
            selectors = (f"selector:{self.selectors.default}",)
        return Request(selectors, exclude, **asked)

    @cached_property
    def selectors(self) -> Selectors:
        """The selections of selectors.yml."""
        if not (self.root / select.SELECTORS_FILE).is_file():
            return Selectors()
        from treadle.selectors import read_selectors

        return read_selectors(self.root)

    def beside(self, selectors: Iterable[str], exclude: Iterable[str] = (), *, state: str | None = None) -> Beside:
        """Return what selectors ask for beside the graph.

        Args:
            selectors, exclude: see `treadle.select`.
            state: see `compare`.
        """
        named = self.selectors.named
        asked = select.asked_beside((*selectors, *exclude), named)
        return Beside(
            compared=self.compare(state) if "state" in asked else None,
            results=find_results(self.state, self.graph) if "result" in asked else None,
            named=named,
        )

    def compare(self, state: str | None = None) -> Compared:
        """Return which steps are new, and which are modified, beside another side.

        Args:
            state: an environment, or the path of a manifest.json; by default the environment that is worked in.
        """
        return compare(self.graph, read_definitions(self.side(state), self.state))

    def side(self, name: str | None = None) -> Side:
        """Return what the project is compared with; see `compare`."""
        if name is None:
            return self.environment
        return find_side(name, self.state, declared=self._declared_environments)

    def _declared_environments(self) -> list[str]:
        """Return the environments that treadle.yml names, which only the file tells."""
        from treadle.project import read_project

        project = read_project(self.root, environment=self._environment, variables=self.variables)
        return [project.environment, *project.spec.environments]

    def jobs(self) -> JobMaker:
        """Return what makes jobs of this project's steps."""
        from treadle_runtime.jobs import JobMaker

        return JobMaker(self.root, self.store, self.registry, self.observed, self.compiled)

    def build(
        self,
        selectors: Iterable[str] = (),
        exclude: Iterable[str] = (),
        *,
        threads: int = 2,
        options: Mapping[str, Any] | None = None,
        emit: Emit = ignore,
        window: Window | None = None,
        **asked: Unpack[Conditions],
    ) -> Outcome:
        """Compute what the selection needs and publish it in the environment.

        Args:
            threads, options, emit, window: see `building.build`.
            selectors, exclude, asked: see `Request`.

        Returns:
            How each step ended. Nothing is published when one failed.
        """
        request = self.request(selectors, exclude, **asked)
        return build(self, request, threads=threads, options=options, emit=emit, window=window)

    def step(self, name: str, *, defer: str | None = None) -> StepHandle:
        """Return a step, with its inputs and what is built of it.

        Args:
            name: its id, or a name that means one step.
            defer: see `plan`.

        Raises:
            UsageError: TR601, there is no such step; TR603, there are several.
        """
        step = self.find(name)
        from treadle_runtime.handle import StepHandle

        plan = self.plan([step.id], tests="with", defer=defer)
        self.lease.add(identity.fingerprint for identity in plan.identities.values())
        return StepHandle(step, plan, self.jobs(), self.lease)

    def find(self, name: str) -> Step:
        """Return the step that a name means; see `step`."""
        graph = self.graph
        if name not in graph.steps:
            found = sorted(select.select(graph, [name]))
            if len(found) > 1:
                raise UsageError(
                    Problem("TR603", f'"{name}" means several steps', why=", ".join(found), fix="name one of them")
                )
            name = found[0]
        return graph[name]


def open_workspace(
    path: Path, *, environment: str | None = None, variables: Mapping[str, Any] | None = None
) -> Workspace:
    """Open the project at or above a folder."""
    return Workspace(
        find_root(path),
        environment=environment,
        variables=variables,
        command=os.path.basename(sys.argv[0]) or "python",
    )
