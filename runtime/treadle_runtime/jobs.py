"""Plan -> jobs: gather for each step what its names stand for, and what it must find unchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from treadle.cache import Compiled
from treadle.errors import Problem, StepError
from treadle.plan import Plan
from treadle.step import Step
from treadle_runtime import sources
from treadle_runtime.intact import Intact
from treadle_runtime.job import Job, Opponent, Origin, Relation
from treadle_runtime.registry import Registry
from treadle_runtime.sources import Observed
from treadle_runtime.store import Store, Version
from treadle_runtime.texts import TextReader
from treadle_runtime.viewsql import read_sql

DATA = ("parts", "now")
"""Components of an identity that tell which data was read, and not how."""


class JobMaker:
    """Makes the jobs of one project.

    Args:
        root: the project's folder.
        store: where the inputs' versions stand.
        registry: knows the champions.
        observed: source name -> its parts, as planned with.
        compiled: knows the project's Python files as they were compiled.

    Attributes:
        intact: compares what is read with its digests.
    """

    def __init__(
        self,
        root: Path,
        store: Store,
        registry: Registry,
        observed: Mapping[str, Observed],
        compiled: Compiled,
    ) -> None:
        self.root, self.store, self.registry = root, store, registry
        self.observed, self.compiled = observed, compiled
        self._texts = TextReader(root, compiled)
        self.intact = Intact(store)
        self._versions: dict[str, Version] = {}

    def job(self, plan: Plan, step: Step, folder: Path, scratch: Path, *, log: Path | None = None) -> Job:
        """Return the job of a step whose inputs are built."""
        return Job(
            step=step,
            root=self.root,
            folder=folder,
            scratch=scratch,
            relations=tuple(self.relations(plan, step).values()),
            versions={parent: version for parent in step.inputs if (version := self.version(plan, parent))},
            observed=self.observed.get(step.id),
            python=self._files(step),
            log=log,
            as_of=plan.as_of,
            opponent=self._opponent(plan, step) if step.kind == "validate" else None,
            components=plan.identities[step.id].components if step.has_pieces else {},
        )

    def version(self, plan: Plan, step_id: str) -> Version | None:
        """Return a step's stored version, as planned; None for a view, a source in place, and what is not built."""
        fingerprint = plan.identities[step_id].fingerprint
        found = self._versions.get(fingerprint)
        if found is None and (found := self.store.read(fingerprint)) is not None:
            self.note(found)
        return found

    def note(self, version: Version) -> None:
        """Remember a version that stands: it is immutable, and what reads it need not open it again."""
        self._versions[version.fingerprint] = version

    def relations(self, plan: Plan, step: Step) -> dict[str, Relation]:
        """Return what the names in a step stand for, each after those that it reads."""
        found: dict[str, Relation] = {}
        for parent in step.inputs:
            self._add_relation(plan, plan.graph[parent], found, with_origin=step.has_pieces)
        return found

    def relation(self, plan: Plan, step: Step) -> dict[str, Relation]:
        """Return what a step's own name stands for, after all that is needed to read it."""
        found: dict[str, Relation] = {}
        self._add_relation(plan, step, found)
        return found

    def _add_relation(self, plan: Plan, step: Step, found: dict[str, Relation], *, with_origin: bool = False) -> None:
        if step.name in found or step.kind not in ("source", "feature", "dataset", "evaluate", "stage"):
            return
        origin = self._origin(plan, step) if with_origin else None
        if (sql := self.inline_sql(step)) is not None:
            for parent in step.inputs:
                self._add_relation(plan, plan.graph[parent], found, with_origin=with_origin)
            is_source = step.kind == "source"
            paths = tuple(self.observed[step.id].files(self.root)) if is_source else ()
            found[step.name] = Relation(step.name, sql=sql, paths=paths, origin=origin)
        elif (version := self.version(plan, step.id)) is not None:
            found[step.name] = Relation(step.name, version, origin=origin)

    def _origin(self, plan: Plan, step: Step) -> Origin:
        identity = plan.identities[step.id]
        return Origin(
            identity.fingerprint,
            identity.components,
            event_time=step.config.get("event_time") or "",
            declared=step.config.get("columns", {}) if step.kind == "source" else {},
            observed=self.observed[step.id] if step.kind == "source" and sources.in_place(step.config) else None,
        )

    def inline_sql(self, step: Step) -> str | None:
        """Return the SELECT of a view or of a source in place, by the names that it reads; None for what is stored."""
        if step.is_inline and step.query is not None:
            return step.query.text
        if step.kind == "source" and sources.in_place(step.config):
            config = {"name": step.name, **step.config, **step.settings}
            return read_sql(config, self.observed[step.id], self.root)
        return None

    def check_unchanged(self, job: Job) -> None:
        """Make sure that the files that a step read in place are still those of the plan.

        Raises:
            StepError: TR711.
        """
        for relation in job.relations:
            if relation.paths:
                sources.check_unchanged(self.observed[relation.name], self.root)

    def has_passed(self, plan: Plan, step_id: str) -> bool:
        """Return whether a step outside of this run lets those pass that wait for it."""
        if plan.graph[step_id].kind == "test":
            return True
        version = self.version(plan, step_id)
        return version is not None and version.info.get("passed", True) is True

    def texts(self, step: Step) -> dict[str, str]:
        """Return component -> text of a step's code or files, as compiled and observed."""
        return self._texts.read(step, self.observed.get(step.id))

    def _files(self, step: Step) -> dict[str, str]:
        if step.function is None:
            return {}
        python = self.compiled.python
        return {path: python[path] for path in sorted({part.partition(":")[0] for part in step.code} & set(python))}

    def _opponent(self, plan: Plan, step: Step) -> Opponent | None:
        champion = plan.champions.get(step.pipeline)
        if champion is None:
            return None
        known = self.registry.version(step.pipeline, champion.number, env=plan.graph.environment)
        twin, dataset, split = (self.store.read(fp) for fp in (known.twin, known.dataset, known.split))
        if twin is None or dataset is None or split is None:
            what = f"version {champion.number} of {step.pipeline}, the champion, is not whole in the store"
            fix = f"promote another version: `treadle models promote {step.pipeline} VERSION`"
            raise StepError(
                Problem("TR807", what, step.where, "its held-out twin, dataset or split is missing", fix=fix)
            )
        now = next(plan.identities[parent] for parent in step.inputs if plan.graph[parent].kind == "dataset")
        is_same = self._definitions(plan).are_same(now.fingerprint, dataset.fingerprint)
        return Opponent(champion.number, twin, dataset, split, is_same)

    def _definitions(self, plan: Plan) -> Definitions:
        own = [identity for step_id, identity in plan.identities.items() if step_id not in plan.deferred]
        planned = {identity.fingerprint: identity.components for identity in own}
        recorded = self.registry._state.identities
        return Definitions(lambda fp: planned.get(fp) or recorded([fp]).get(fp))


class Definitions:
    """Tells whether two versions were computed alike, whatever data their sources held.

    Args:
        components: fingerprint -> the components of the identity; None where they are not known.
    """

    def __init__(self, components: Callable[[str], Mapping[str, str] | None]) -> None:
        self._components = components
        self._same: dict[tuple[str, str], bool] = {}

    def are_same(self, one: str, other: str) -> bool:
        """Return whether two fingerprints differ in data alone; False where that cannot be told."""
        if one == other:
            return True
        if (one, other) not in self._same:
            self._same[one, other] = self._compare(one, other)
        return self._same[one, other]

    def _compare(self, one: str, other: str) -> bool:
        found, others = self._components(one), self._components(other)
        if found is None or others is None or set(found) != set(others):
            return False
        return all(
            self.are_same(value, others[name]) if name.startswith("input:") else value == others[name]
            for name, value in found.items()
            if name not in DATA
        )
