"""Datasets, models and pipelines -> steps: what stands in models/ and pipelines/, checked and given its identity.

A pipeline becomes: dataset -> split -> baseline; train -> evaluate for each model; choose -> validate -> refit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from treadle import gates, metrics
from treadle.errors import Location, Problem
from treadle.names import close_match, parse_duration_us
from treadle.project import Located, Project
from treadle.scope import Scope, read_expression
from treadle.spec import DatasetBody, DatasetSpec, FeatureUse, ModelSpec, PipelineSpec, SplitSpec
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
        for pipeline in self.project.pipelines.values():
            self._take_models(pipeline)
        is_complete = not any(
            p.where is not None and p.where.path.startswith("pipelines/") for p in self.scope.problems
        )
        for name, model in self.project.models.items():
            home = self.pipeline_of.get(name)
            if home is None and is_complete:
                fix = "name it below `models:` of a pipeline in pipelines/"
                self._report("TR108", f'model "{name}" is in no pipeline', model.at(), "", fix)
            self.scope.define(name, "model", model.at(), step=f"{home}.{name}.evaluate")

    def _take_models(self, pipeline: Located[PipelineSpec]) -> None:
        name, models = pipeline.spec.name, pipeline.spec.models
        for i, model in enumerate(models):
            other = self.pipeline_of.setdefault(model, name)
            if other != name:
                why = f'it belongs to pipeline "{other}" already'
                fix = "define a second model; it may have the same dataset and parameters"
                self._report("TR108", f'model "{model}" is in two pipelines', pipeline.at("models", i), why, fix)
            elif model in models[:i]:
                self._report(
                    "TR108", f'model "{model}" stands twice', pipeline.at("models", i), "", "remove one of the two"
                )

    def _report(
        self, code: str, what: str, where: Location, why: str = "", fix: str = "", suggestion: str = ""
    ) -> None:
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
        self._check_columns(dataset)
        inputs = [self.scope.resolve(body.rows, ("source", "feature"), dataset.at("rows"), what="table")]
        uses = []
        prefixes: dict[str, int] = {}
        for i, use in enumerate(body.features):
            where = dataset.at("features", i)
            inputs.append(self.scope.resolve(use.feature, ("feature",), where))
            prefix = use.prefix or use.feature
            if prefixes.setdefault(prefix, i) != i:
                why = "two of its features would give columns of the same names"
                what, fix = f'"{prefix}" stands twice in dataset "{name}"', "give one of them `as: other_name`"
                self._report("TR102", what, where, why, fix)
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

    def _check_columns(self, dataset: _Dataset) -> None:
        """Report expressions that are none, and inputs that say what is to be predicted."""
        body, label = dataset.body, dataset.body.label
        if body.at is not None:
            with self.scope.collecting(""):
                read_expression(body.at, dataset.at("at"), what="`at`")
        if label is None:
            return
        if label.known_at is not None:
            with self.scope.collecting(""):
                read_expression(label.known_at, dataset.at("label", "known_at"), what="`known_at`")
        told = {label.column.casefold(): "it is what is to be predicted"}
        if label.known_at is not None:
            told.setdefault(label.known_at.casefold(), "it is not known before the label is, and may tell it")
        for i, column in enumerate(body.columns):
            if (why := told.get(column.casefold())) is not None:
                fix = "remove it from `columns`; in `keep` it is carried along and is no input"
                self._report("TR407", f'"{column}" gives the label away', dataset.at("columns", i), why, fix)

    def _use(self, dataset: _Dataset, use: FeatureUse, feature: Feature, where: Location) -> dict[str, Any]:
        config = feature.config
        if self.scope.is_certain(use.feature):
            self._check_use(dataset, use, feature, where)
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

    def _check_use(self, dataset: _Dataset, use: FeatureUse, feature: Feature, where: Location) -> None:
        config = feature.config
        if config.entity is None:
            fix = f"set entity in the configuration of {feature.where.path}"
            self._report("TR404", f'feature "{use.feature}" has no entity to join it by', where, "", fix)
        if config.event_time and dataset.body.at is None:
            since = f'"{use.feature}" is true from its {config.event_time} on'
            why = f"{since}, and the dataset does not say when it predicts"
            fix = "add `at:` to the dataset, the moment of prediction: a column or a SQL expression over its rows"
            self._report("TR402", f'timed feature "{use.feature}" in a dataset without `at`', where, why, fix)
        for key in use.on:
            if key not in feature.keys:
                why = f"its keys are: {', '.join(feature.keys)}"
                suggestion = close_match(key, feature.keys) or ""
                fix = f"write the feature's key before the column, as in on: {{{suggestion or 'key'}: {use.on[key]}}}"
                self._report("TR405", f'"{key}" is no key of feature "{use.feature}"', where, why, fix, suggestion)

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
        self._check_gates(located, task)
        self.steps += _pipeline_steps(located, models, dataset, task, self._split_config(spec))

    def _dataset_of(self, located: Located[PipelineSpec], models: list[Located[ModelSpec]]) -> _Dataset | None:
        first = models[0]
        for other in models[1:]:
            for key in ("dataset", "task"):
                if getattr(other.spec, key) != getattr(first.spec, key):
                    theirs = f'its {key} is {_shown(other, key)}, that of "{first.spec.name}" is {_shown(first, key)}'
                    why = f"{theirs}; models of one pipeline share it"
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
            known = split.entity in self.scope.broken
            if not known and not self.scope.is_unread(split.entity, ("entity",), suggestion):
                what, fix = f'entity "{split.entity}" is not defined', "name one of the entities in features/"
                self._report("TR107", what, located.at("split", "entity"), "", fix, suggestion)
        elif split.entity is not None:
            keys = self.project.entities[split.entity].spec.key_columns
            if missing := [key for key in keys if key not in self._columns(dataset.body)]:
                why = f'rows are grouped by {", ".join(missing)}, which dataset "{dataset.step_id}" does not hold'
                fix = f"add {', '.join(missing)} to `keep:` of the dataset"
                what = f'a split by entity needs the keys of "{split.entity}" in the dataset'
                self._report("TR507", what, located.at("split", "entity"), why, fix)
        if is_turned_round(split):
            why = f"validation begins at {split.validation}, test at {split.test}"
            fix = "let validation begin before test: training, validation and test follow each other in time"
            self._report("TR507", "validation begins after the test part", located.at("split", "validation"), why, fix)

    def _check_evaluate(self, located: Located[PipelineSpec], dataset: _Dataset, task: str) -> None:
        spec = located.spec
        if dataset.body.label is None:
            fix = "add `label: COLUMN` to the dataset"
            what = f'pipeline "{spec.name}" has nothing to learn'
            self._report("TR403", what, dataset.at(), "its dataset has no label", fix)
        for i, name in enumerate(spec.evaluate.metrics):
            found = metrics.metric(name, task, where=located.at("evaluate", "metrics", i))
            if isinstance(found, Problem):
                self.scope.problems.append(found)
        known = self._columns(dataset.body)
        for i, column in enumerate(spec.evaluate.slices):
            if column not in known:
                fix = f"add it to `keep:` of dataset {dataset.step_id}"
                where = located.at("evaluate", "slices", i)
                what = f'slice column "{column}" is not in the dataset'
                self._report("TR509", what, where, "", fix, close_match(column, known) or "")

    def _check_gates(self, located: Located[PipelineSpec], task: str) -> None:
        computed = list(located.spec.evaluate.metrics)
        if any(isinstance(metrics.metric(name, task), Problem) for name in computed):
            computed += metrics.METRICS  # what was meant is not known: that is reported, and no more
        for i, text in enumerate(located.spec.gates):
            self._check_gate(located, text, task, computed, located.at("gates", i))

    def _check_gate(
        self, located: Located[PipelineSpec], text: str, task: str, computed: list[str], where: Location
    ) -> None:
        try:
            gate = gates.parse_gate(text)
        except gates.GateError as error:
            why = f"{text!r}, column {error.position}: {error.reason}"
            fix = 'write it as in "roc_auc >= 0.75", "mae <= champion.mae * 1.05" or "slice(carrier).roc_auc >= 0.6"'
            self._report("TR505", "a gate does not parse", where, why, fix)
            return
        slices = located.spec.evaluate.slices
        problem = gates.check_gate(gate, task=task, metrics=computed, slices=slices, where=where)
        if problem is not None:
            self.scope.problems.append(problem)

    def _columns(self, body: DatasetBody) -> set[str]:
        """Return the columns that a dataset is sure to hold besides those of its features."""
        return {*body.columns, *body.keep, body.key, *(key for use in body.features for key in self._columns_on(use))}

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


def is_turned_round(split: SplitSpec) -> bool:
    """Return whether validation is dated after test."""
    parts = [str(split.validation), str(split.test)]
    if split.by != "time" or not all(part[:4].isdigit() for part in parts):
        return False
    validation, test = (datetime.fromisoformat(part) for part in parts)
    return validation.replace(tzinfo=validation.tzinfo or UTC) >= test.replace(tzinfo=test.tzinfo or UTC)


def _shown(model: Located[ModelSpec], key: str) -> str:
    value = getattr(model.spec, key)
    return value if isinstance(value, str) else "written inline"


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

    def stage(
        kind: Any,
        *inputs: str,
        model: Located[ModelSpec] | None = None,
        settings: Mapping[str, Any] | None = None,
        **rest: Any,
    ) -> Step:
        """One step of this pipeline; a model's own where `model` is given."""
        owner = model.spec.name if model else ""
        return Step(
            id=f"{name}.{owner}.{kind}" if owner else f"{name}.{kind}",
            kind=kind,
            name=owner or name,
            where=model.at() if model else located.at(),
            settings=model.spec.limits if model else settings or {},
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
    choosing = {"metric": spec.evaluate.metrics[0], "models": list(spec.models), "task": task}
    every = tuple(dict.fromkeys(lib for model in models for lib in _libraries(model.spec.trainer)))
    steps += [
        stage("choose", *evaluated, config=choosing),
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
        settings = _widest([model.spec for model in models])
        refit = stage(
            *("refit", f"{name}.choose", *parts), config=config, settings=settings, after=after, distributions=every
        )
        steps.append(refit)
    return steps


def _widest(models: Sequence[ModelSpec]) -> dict[str, Any]:
    """Return the limits under which whichever model is chosen may be trained again."""
    timeouts = [model.timeout for model in models if model.timeout]
    found: dict[str, Any] = {"retries": max(model.retries for model in models)}
    if len(timeouts) == len(models):
        found["timeout"] = max(timeouts, key=parse_duration_us)
    return {key: value for key, value in found.items() if value}


def _is_broken(gate: str) -> bool:
    try:
        gates.parse_gate(gate)
    except gates.GateError:
        return True
    return False
