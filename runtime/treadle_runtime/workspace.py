"""A project that is open: from its files to its graph, its plan, its results. Commands and notebooks go through here.

project -> graph -> known (sources observed, store and state asked) -> plan -> build -> published
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from treadle import select
from treadle.cache import Asked, Compiled, load_compiled
from treadle.comparison import Compared, compare
from treadle.errors import Problem, ProjectError, TreadleError, UsageError
from treadle.events import CatalogWaits, Emit, Event, Published
from treadle.events import Outcome as RunStatus
from treadle.files import find_root
from treadle.plan import Champion, Deferral, Known, Plan, make_plan
from treadle.step import Graph, Step
from treadle_runtime import sources
from treadle_runtime.backfill import choose_windows
from treadle_runtime.leases import Lease, plan_and_hold
from treadle_runtime.recovery import open_store
from treadle_runtime.registry import ModelVersion, Registry
from treadle_runtime.side import Side, find_side, read_definitions
from treadle_runtime.state import State
from treadle_runtime.store import Store, storage_errors

# Listing and planning must stay fast: what brings DuckDB, polars or Arrow is imported where it is used.
if TYPE_CHECKING:
    from treadle_runtime.handle import StepHandle
    from treadle_runtime.intervals import Window
    from treadle_runtime.jobs import JobMaker
    from treadle_runtime.runresult import Run
    from treadle_runtime.sources import Observed
    from treadle_runtime.training.parameters import ModelParameters

Tests = Literal["with", "without", "only"]


def _ignore(told: Event | int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Outcome:
    """What a build came to.

    Attributes:
        run: its steps and how they ended.
        candidates: pipeline -> number of the version that is its candidate now; empty when nothing was published.
        rejected: pipeline -> number of the version that its gates refused, which nothing points at.
        published: whether the environment's map was written.
        is_idle: whether nothing was computed, and all that stands and is shown has passed.
        backfilled: ids of the features of which only some intervals were asked for.
    """

    run: Run
    candidates: Mapping[str, int]
    published: bool
    is_idle: bool = False
    backfilled: tuple[str, ...] = ()
    rejected: Mapping[str, int] = field(default_factory=dict)


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
        on_loss: Callable[[int], None] = _ignore,
    ) -> None:
        self.root, self.command, self.as_of = root, command, as_of
        self._environment, self._variables, self._on_loss = environment, variables, on_loss
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

    @property
    def folder(self) -> Path:
        """`.treadle`, where everything that is built stands."""
        return self.root / ".treadle"

    @cached_property
    def compiled(self) -> Compiled:
        """The project as compiled, from the cache as far as that holds."""
        asked = Asked(self.root, self._environment, self._variables or {}, self._environ, self.as_of)
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

        project = read_project(self.root, environment=self._environment, variables=self._variables)
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
        published = self.state.environment(self.environment)
        return Known(
            sources={name: (observed.digest,) for name, observed in self.observed.items()},
            built=self.store.fingerprints(),
            published=published,
            components=_Recorded(self.state),
            champions={
                step.pipeline: found
                for step in self.graph
                if step.kind == "validate" and (found := self._champion(step))
            },
        )

    def _champion(self, step: Step) -> Champion | None:
        found = self.registry.champion(step.pipeline, env=self.environment)
        return self._to_champion(found) if found else None

    def _to_champion(self, version: ModelVersion) -> Champion:
        previous = None
        if version.champion_input is not None:
            previous = self._to_champion(
                self.registry.version(version.pipeline, version.champion_input, env=self.environment)
            )
        return Champion(version.number, version.choose, version.twin, previous)

    def plan(
        self,
        selectors: Iterable[str] = (),
        exclude: Iterable[str] = (),
        *,
        tests: Tests = "with",
        full_refresh: bool = False,
        run: str = "plan",
        defer: str | None = None,
        state: str | None = None,
    ) -> Plan:
        """Return what a build of the selection would do.

        Args:
            selectors: see `treadle.select`; none means all.
            exclude: what is taken away.
            tests: with the tests of what is selected, without any, or only these.
            full_refresh: compute what is selected even where it is built.
            run: an id of the run, for volatile features.
            defer: an environment from which is read what is neither selected nor built.
            state: what `state:` in selectors compares with, see `compare`.
        """
        self._read_anew()
        return self._plan(selectors, exclude, tests, full_refresh=full_refresh, run=run, defer=defer, state=state)

    def _read_anew(self) -> None:
        """Forget what an earlier plan read: in a notebook, files change while a project is open."""
        if self._has_planned:
            for name in ("compiled", "observed"):
                self.__dict__.pop(name, None)
        self._has_planned = True

    def _plan(
        self,
        selectors: Iterable[str],
        exclude: Iterable[str],
        tests: Tests,
        *,
        full_refresh: bool,
        run: str,
        defer: str | None,
        state: str | None,
    ) -> Plan:
        selectors, exclude = tuple(selectors), tuple(exclude)
        self.check_trainers()
        return make_plan(
            self.graph,
            self.known(),
            self._select(selectors, exclude, tests, state),
            as_of=self.as_of or "newest",
            run=run,
            day=f"{datetime.now(UTC):%Y-%m-%d}",
            full_refresh=full_refresh,
            defer=self._deferral(defer, selectors, exclude, state) if defer else None,
            gates=self._gates(exclude, state) if tests != "without" and (selectors or exclude) else frozenset(),
        )

    def _gates(self, exclude: tuple[str, ...], state: str | None) -> frozenset[str]:
        """Return the tests that run with whatever publishes what they look at: all that are not excluded."""
        gates = frozenset(step.id for step in self.graph if step.kind == "test")
        compared = self._compare_for((), exclude, state)
        return gates - select.select(self.graph, exclude, compared=compared) if exclude else gates

    def _deferral(self, env: str, selectors: tuple[str, ...], exclude: tuple[str, ...], state: str | None) -> Deferral:
        """Return what may be read from another environment: nothing that the selection names, tested or built."""
        from treadle.projectfile import read_environments

        read_environments(self.root).check(env)
        if not selectors and not exclude:
            fix = "name what you work on, as in `treadle build --select NAME --defer ENV`"
            raise UsageError(Problem("TR603", "--defer needs a selection", why="all steps are selected", fix=fix))
        chosen = select.select(self.graph, selectors, exclude, compared=self._compare_for(selectors, exclude, state))
        published = self.state.environment(env)
        return Deferral(env, {step_id: found for step_id, found in published.items() if step_id not in chosen})

    def _select(
        self, selectors: Iterable[str], exclude: Iterable[str], tests: Tests, state: str | None
    ) -> frozenset[str]:
        graph, selectors, exclude = self.graph, tuple(selectors), tuple(exclude)
        compared = self._compare_for(selectors, exclude, state)
        selected = select.select(graph, selectors, exclude, compared=compared)
        if tests == "without":
            return frozenset(step_id for step_id in selected if graph[step_id].kind != "test")
        selected = select.with_tests(graph, selected)
        if exclude:
            selected -= select.select(graph, exclude, compared=compared)
        return frozenset(s for s in selected if graph[s].kind == "test") if tests == "only" else selected

    def _compare_for(self, selectors: tuple[str, ...], exclude: tuple[str, ...], state: str | None) -> Compared | None:
        """Return what `state:` in a selection stands for; None where it does not ask."""
        return self.compare(state) if select.uses_state((*selectors, *exclude)) else None

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

        project = read_project(self.root, environment=self._environment, variables=self._variables)
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
        tests: Tests = "with",
        full_refresh: bool = False,
        threads: int = 2,
        defer: str | None = None,
        options: Mapping[str, Any] | None = None,
        emit: Emit = _ignore,
        state: str | None = None,
        window: Window | None = None,
    ) -> Outcome:
        """Compute what the selection needs and publish it in the environment; see `plan` for what the options mean.

        Args:
            options: what the run remembers of its call, for `retry`; None for these arguments.
            window: backfill: compute only these intervals of the selected incremental features, and publish nothing.

        Returns:
            How each step ended. Nothing is published when one failed.
        """
        from treadle_runtime.publishing import publish

        self._read_anew()
        # What is wrong with the project or the selection ends the command before there is a run.
        environment, selectors, exclude = self.graph.environment, tuple(selectors), tuple(exclude)
        self.check_trainers()
        selected = self._select(selectors, exclude, tests, state)
        if defer:
            self._deferral(defer, selectors, exclude, state)
        windows = choose_windows(self.graph, selected, window) if window is not None else {}
        if windows:
            selectors, exclude, tests = tuple(windows), (), "without"
        self.store.sweep()
        if options is None:
            options = {"select": selectors, "exclude": exclude, "tests": tests, "full_refresh": full_refresh}
            options |= {"threads": threads, "defer": defer, "state": state}
            options["window"] = None if window is None else (window.start, window.end)
        run_id = self._start_run(options)
        status: RunStatus = "interrupted"
        try:
            make = partial(
                self._plan, selectors, exclude, tests, full_refresh=full_refresh, run=run_id, defer=defer, state=state
            )
            plan = plan_and_hold(make, run_id, self.store, self.state)
            store = Store(self.folder, owner=f"{self.command} (run {run_id})")  # for those who wait for it
            run = self._run(plan, run_id, store, emit, threads, windows)

            def on_wait(holder: str) -> None:
                emit(CatalogWaits(environment, holder))

            is_published = not run.has_failed() and not windows
            published = publish(plan, run, store, self.state, self.jobs, on_wait=on_wait) if is_published else None
            status = run.outcome
        except TreadleError:
            status = "failed"
            raise
        finally:
            # Only now: what is built and not yet published is safe from `clean` while the run is running.
            self.state.finish_run(run_id, status)
        if published is None:
            return Outcome(run, {}, published=False, backfilled=tuple(windows))
        emit(Published(environment, published.candidates, published.warnings))
        has_passed = all(result.has_passed for result in run.results.values())
        is_idle = not plan.n("build") and has_passed and not published.warnings
        return Outcome(run, published.candidates, published=True, is_idle=is_idle, rejected=published.rejected)

    def note_idle_build(self, *, threads: int) -> str:
        """Note a build of the whole project for which everything stands, as it is known to; return the run's id."""
        self.store.sweep()
        options = {"select": (), "exclude": (), "tests": "with", "full_refresh": False}
        run_id = self._start_run({**options, "threads": threads, "defer": None, "state": None, "window": None})
        self.state.finish_run(run_id, "passed")
        return run_id

    def _start_run(self, options: Mapping[str, Any]) -> str:
        with storage_errors(self.folder):
            return self.state.start_run(
                self.environment,
                self.command,
                as_of=self.as_of,
                options={"vars": dict(self._variables or {}), **options},
            )

    def _run(
        self, plan: Plan, run_id: str, store: Store, emit: Emit, threads: int, windows: Mapping[str, Window]
    ) -> Run:
        if not plan.n("build"):
            from treadle_runtime.reusing import reuse
            from treadle_runtime.texts import TextReader

            reader = TextReader(self.root, self.compiled)

            def texts(step: Step) -> Mapping[str, str]:
                return reader.read(step, self.observed.get(step.id))

            return reuse(plan, run_id, store, self.state, emit, texts)
        from treadle_runtime.runner import Runner

        runner = Runner(store, self.state, self.jobs(), emit, threads=threads, windows=windows)
        return runner.run(plan, run_id)

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
