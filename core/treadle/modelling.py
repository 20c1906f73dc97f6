"""Datasets, models and pipelines -> steps: what stands in models/ and pipelines/, checked and given its identity.

A pipeline becomes: dataset -> split -> baseline; train -> evaluate for each model; choose -> validate -> refit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from treadle import gates, metrics
from treadle.errors import Location, Problem
from treadle.names import close_match, parse_duration_us
from treadle.project import Located, Project
from treadle.scope import Scope
from treadle.spec import DatasetBody, DatasetSpec, FeatureUse, ModelSpec, PipelineSpec
from treadle.step import Step
from treadle.tables import Feature

_DISTRIBUTIONS = {"sklearn": ("scikit-learn", "numpy", "scipy", "skops")}
_SCORING = ("scikit-learn", "numpy")


@dataclass(frozen=True)
class _Dataset:
    """A dataset by its step's id, wherever it was written."""

    step_id: str
    body: DatasetBody
    where: Located[Any]
    path: tuple[str | int, ...]

    def at(self, *keys: str | int) -> Location:
        return self.where.at(*self.path, *keys) if self.path or keys else self.where.at()


class PipelineReader:
    """Compiles datasets, models and pipelines in two passes, after the features are known."""

    def __init__(self, project: Project, scope: Scope) -> None:
        self.project, self.scope = project, scope
        self.pipeline_of: dict[str, str] = {}
        self.steps: list[Step] = []

    def define(self) -> None:
        """Take the names of datasets and models, and find the one pipeline of each model."""
        for name, located in self.project.datasets.items():
            self.scope.define(name, "dataset", located.at())
        for name, pipeline in self.project.pipelines.items():
            for i, model in enumerate(pipeline.spec.models):
                other = self.pipeline_of.setdefault(model, name)
                if other != name:
                    why = f'it belongs to pipeline "{other}" already'
                    fix = "define a second model; it may have the same dataset and parameters"
                    self._report("TR108", f'model "{model}" is in two pipelines', pipeline.at("models", i), why, fix)
        for name, located in self.project.models.items():
            home = self.pipeline_of.get(name)
            if home is None and not self.scope.broken & set(self.project.pipelines) and not self._is_pipeline_broken():
                fix = "name it below `models:` of a pipeline in pipelines/"
                self._report("TR108", f'model "{name}" is in no pipeline', located.at(), "", fix)
            self.scope.define(name, "model", located.at(), step=f"{home}.{name}.evaluate")

    def _is_pipeline_broken(self) -> bool:
        return any(p.where is not None and p.where.path.startswith("pipelines/") for p in self.scope.problems)

    def _report(self, code: str, what: str, where: Location, why: str = "", fix: str = "", suggestion: str = "") -> None:
        self.scope.problems.append(Problem(code, what, where, why, suggestion, fix))

    def read(self, features: Mapping[str, Feature]) -> list[Step]:
        """Return the steps of all datasets and pipelines."""
        self.features = features
        for name, located in self.project.datasets.items():
            self.steps.append(self._dataset(_Dataset(name, located.spec, located, ()), name, located.spec))
        for pipeline in self.project.pipelines.values():
            self._pipeline(pipeline)
        return self.steps

    # datasets

    def _dataset(self, dataset: _Dataset, name: str, described: DatasetSpec | None, pipeline: str = "") -> Step:
        body = dataset.body
        inputs = [self.scope.resolve(body.rows, ("source", "feature"), dataset.at("rows"), what="table")]
        uses = []
        prefixes: dict[str, int] = {}
        for i, use in enumerate(body.features):
            where = dataset.at("features", i)
            inputs.append(self.scope.resolve(use.feature, ("feature",), where))
            prefix = use.prefix or use.feature
            if prefixes.setdefault(prefix, i) != i:
                why = "two of its features would give columns of the same names"
                self._report("TR102", f'"{prefix}" stands twice in dataset "{name}"', where, why, "give one of them `as: other_name`")
            if (feature := self.features.get(use.feature)) is not None:
                uses.append(self._use(dataset, use, feature, where))
        label = body.label
        return Step(
            id=dataset.step_id,
            kind="dataset",
            name=name,
            where=dataset.at(),
            inputs=tuple(dict.fromkeys(found for found in inputs if found is not None)),
            config={
                "rows": body.rows,
                "key": body.key,
                "columns": list(body.columns),
                "keep": list(body.keep),
                "at": body.at,
                "label": {"column": label.column, "known_at": label.known_at} if label else None,
                "features": uses,
            },
            distributions=("duckdb", "pyarrow"),
            pipeline=pipeline,
            tags=described.tags if described else (),
            description=described.description if described else "",
        )

    def _use(self, dataset: _Dataset, use: FeatureUse, feature: Feature, where: Location) -> dict[str, Any]:
        config = feature.config
        if config.entity is None:
            fix = f"set entity in the configuration of {feature.where.path}"
            self._report("TR404", f'feature "{use.feature}" has no entity to join it by', where, "", fix)
        if config.event_time and dataset.body.at is None:
            why = f'"{use.feature}" is true from its {config.event_time} on, and the dataset does not say when it predicts'
            fix = "add `at:` to the dataset, the moment of prediction: a column or a SQL expression over its rows"
            self._report("TR402", f'timed feature "{use.feature}" in a dataset without `at`', where, why, fix)
        for key in use.on:
            if key not in feature.keys:
                why = f"its keys are: {', '.join(feature.keys)}"
                suggestion = close_match(key, feature.keys) or ""
                self._report("TR405", f'"{key}" is no key of feature "{use.feature}"', where, why, "`on` maps key: column", suggestion)
        ttl = use.ttl or config.ttl
        return {
            "feature": use.feature,
            "prefix": use.prefix or use.feature,
            "keys": [[key, use.on.get(key, key)] for key in feature.keys],
            "columns": list(use.columns),
            "event_time": config.event_time,
            "known_at": config.known_at,
            "static": config.static,
            "ttl_us": parse_duration_us(ttl) if ttl else None,
        }

    # pipelines

    def _pipeline(self, located: Located[PipelineSpec]) -> None:
        spec = located.spec
        models: list[Located[ModelSpec]] = []
        for i, name in enumerate(spec.models):
            if self.scope.resolve(name, ("model",), located.at("models", i)) is not None:
                models.append(self.project.models[name])
        if len(models) != len(spec.models) or not models:
            return
        dataset = self._dataset_of(located, models)
        if dataset is None:
            return
        task = models[0].spec.task
        self._check_split(located, dataset)
        self._check_evaluate(located, dataset, task)
        self.steps += _pipeline_steps(located, models, dataset, task, self._split_config(spec))

    def _dataset_of(self, located: Located[PipelineSpec], models: list[Located[ModelSpec]]) -> _Dataset | None:
        first = models[0]
        for other in models[1:]:
            for key in ("dataset", "task"):
                if getattr(other.spec, key) != getattr(first.spec, key):
                    why = f'models of one pipeline share {key}; that of "{first.spec.name}" differs'
                    what = f'model "{other.spec.name}" does not fit pipeline "{located.spec.name}"'
                    self._report("TR506", what, other.at(key), why, "put it into a pipeline of its own")
                    return None
        name = first.spec.dataset
        if isinstance(name, DatasetBody):
            dataset = _Dataset(f"{located.spec.name}.dataset", name, first, ("dataset",))
            self.steps.append(self._dataset(dataset, dataset.step_id, None, located.spec.name))
            return dataset
        if self.scope.resolve(name, ("dataset",), first.at("dataset")) is None:
            return None
        found = self.project.datasets[name]
        return _Dataset(name, found.spec, found, ())

    def _check_split(self, located: Located[PipelineSpec], dataset: _Dataset) -> None:
        split = located.spec.split
        if split.by == "time" and dataset.body.at is None:
            why = f'dataset "{dataset.step_id}" has no `at`'
            fix = "add `at:` to the dataset, or split by entity or random"
            self._report("TR507", "a split by time needs a dataset with time", located.at("split"), why, fix)
        if split.entity is not None and split.entity not in self.project.entities:
            suggestion = close_match(split.entity, self.project.entities) or ""
            fix = "name one of the entities in features/"
            self._report("TR107", f'entity "{split.entity}" is not defined', located.at("split", "entity"), "", fix, suggestion)

    def _check_evaluate(self, located: Located[PipelineSpec], dataset: _Dataset, task: str) -> None:
        spec = located.spec
        if dataset.body.label is None:
            fix = "add `label: COLUMN` to the dataset"
            self._report("TR403", f'pipeline "{spec.name}" has nothing to learn', dataset.at(), "its dataset has no label", fix)
        for i, name in enumerate(spec.evaluate.metrics):
            found = metrics.metric(name, task, where=located.at("evaluate", "metrics", i))
            if isinstance(found, Problem):
                self.scope.problems.append(found)
        body = dataset.body
        known = {*body.columns, *body.keep, body.key, *(key for use in body.features for key in self._columns_on(use))}
        for i, column in enumerate(spec.evaluate.slices):
            if column not in known:
                fix = f"add it to `keep:` of dataset {dataset.step_id}"
                where = located.at("evaluate", "slices", i)
                self._report("TR509", f'slice column "{column}" is not in the dataset', where, "", fix, close_match(column, known) or "")
        for i, text in enumerate(spec.gates):
            self._check_gate(located, i, text, task)

    def _check_gate(self, located: Located[PipelineSpec], i: int, text: str, task: str) -> None:
        where = located.at("gates", i)
        try:
            gate = gates.parse_gate(text)
        except gates.GateError as error:
            why = f"{text!r}, column {error.position}: {error.reason}"
            fix = 'write it as in "roc_auc >= 0.75", "mae <= champion.mae * 1.05" or "slice(carrier).roc_auc >= 0.6"'
            self._report("TR505", "a gate does not parse", where, why, fix)
            return
        evaluate = located.spec.evaluate
        problem = gates.check_gate(gate, task=task, metrics=evaluate.metrics, slices=evaluate.slices, where=where)
        if problem is not None:
            self.scope.problems.append(problem)

    def _columns_on(self, use: FeatureUse) -> list[str]:
        feature = self.features.get(use.feature)
        return [use.on.get(key, key) for key in feature.keys] if feature else list(use.on.values())

    def _split_config(self, spec: PipelineSpec) -> dict[str, Any]:
        split = spec.split
        entity = self.project.entities.get(split.entity) if split.entity else None
        return {
            "by": split.by,
            "test": split.test,
            "validation": split.validation,
            "entity_columns": list(entity.spec.key_columns) if entity else [],
            "gap_us": parse_duration_us(split.gap) if split.gap else None,
            "seed": split.seed,
        }


def trainer_config(spec: ModelSpec) -> dict[str, Any]:
    """Return what of a model enters its training."""
    return {
        "trainer": spec.trainer,
        "params": spec.params,
        "preprocess": spec.preprocess.model_dump(exclude_none=True),
        "task": spec.task,
        "seed": spec.seed,
        "threads": spec.threads,
    }


def _libraries(trainer: str) -> tuple[str, ...]:
    root = trainer.split(".", maxsplit=1)[0]
    return (*_DISTRIBUTIONS.get(root, (root, "numpy")), "platform")


def _pipeline_steps(
    located: Located[PipelineSpec],
    models: list[Located[ModelSpec]],
    dataset: _Dataset,
    task: str,
    split: Mapping[str, Any],
) -> list[Step]:
    spec, name = located.spec, located.spec.name
    scoring = {"task": task, "metrics": list(spec.evaluate.metrics)}
    parts = (dataset.step_id, f"{name}.split")
    trained = tuple(f"{name}.{model.spec.name}.train" for model in models)
    evaluated = tuple(f"{name}.{model.spec.name}.evaluate" for model in models)

    def stage(kind: Any, *inputs: str, model: Located[ModelSpec] | None = None, **rest: Any) -> Step:
        """One step of this pipeline; a model's own where `model` is given."""
        owner = model.spec.name if model else ""
        return Step(
            id=f"{name}.{owner}.{kind}" if owner else f"{name}.{kind}",
            kind=kind,
            name=owner or name,
            where=model.at() if model else located.at(),
            inputs=inputs,
            pipeline=name,
            model=owner,
            tags=(model or located).spec.tags,
            description=(model or located).spec.description,
            **rest,
        )

    steps = [
        stage("split", dataset.step_id, config=split, distributions=("numpy",)),
        stage("baseline", *parts, config=scoring, distributions=_SCORING),
    ]
    for model, train in zip(models, trained, strict=True):
        libraries = _libraries(model.spec.trainer)
        evaluate = {**scoring, "slices": list(spec.evaluate.slices)}
        steps += [
            stage("train", *parts, model=model, config=trainer_config(model.spec), distributions=libraries),
            stage("evaluate", *parts, train, model=model, config=evaluate, distributions=_SCORING),
        ]
    canonical = [gates.parse_gate(gate).text for gate in spec.gates if not _is_broken(gate)]
    shipped = {model.spec.name: trainer_config(model.spec) for model in models}
    every = tuple(dict.fromkeys(lib for model in models for lib in _libraries(model.spec.trainer)))
    steps += [
        stage("choose", *evaluated, config={"metric": spec.evaluate.metrics[0], "models": list(spec.models), "task": task}),
        stage(
            "validate",
            f"{name}.choose",
            f"{name}.baseline",
            *parts,
            *evaluated,
            config={"gates": canonical, **scoring},
            settings={"models": list(spec.models)},
            distributions=_SCORING,
        ),
    ]
    if spec.refit == "all":
        config = {"models": shipped}
        after = (f"{name}.validate",)
        steps.append(stage("refit", f"{name}.choose", *parts, config=config, after=after, distributions=every))
    return steps


def _is_broken(gate: str) -> bool:
    try:
        gates.parse_gate(gate)
    except gates.GateError:
        return True
    return False
