"""What people may write in YAML and in `config()`: the keys, their types and their defaults.

Reading files is `treadle.project`'s job; here stands only the form. Every model is frozen and refuses unknown keys.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from treadle import dbtforms
from treadle.names import is_identifier, parse_duration_us, parse_moment_us

SPEC_VERSION = 1


def _check_identifier(name: str) -> str:
    if not is_identifier(name):
        raise ValueError("a name is letters, digits and underscores, and does not start with a digit")
    return name


def _check_duration(text: str) -> str:
    parse_duration_us(text)
    return text


def _check_some_time(text: str) -> str:
    if not parse_duration_us(text):
        raise ValueError("it is no time at all; write one such as 10m, or leave it out")
    return text


def _check_moment(text: str) -> str:
    parse_moment_us(text)
    return text


Name = Annotated[str, AfterValidator(_check_identifier)]
Duration = Annotated[str, AfterValidator(_check_duration)]
SomeTime = Annotated[str, AfterValidator(_check_some_time)]
Moment = Annotated[str, AfterValidator(_check_moment)]
Scalar = str | int | float | bool | None
Severity = Literal["error", "warn"]
Task = Literal["binary", "multiclass", "regression"]


class Spec(BaseModel):
    """The root of everything that is written in YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, defer_build=True)


class Described(Spec):
    """What any named thing may say about itself; none of it enters a fingerprint."""

    name: Name
    description: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = Field(default_factory=dict)


class Tried(Spec):
    """How long a step may take, and how often it is tried again; neither enters a fingerprint."""

    retries: int = Field(default=0, ge=0, le=10)
    timeout: SomeTime | None = None

    @property
    def limits(self) -> dict[str, Any]:
        """What of it is set, as settings of a step."""
        found = {"retries": self.retries, "timeout": self.timeout}
        return {key: value for key, value in found.items() if value}


# treadle.yml


class Environment(Spec):
    """An environment: a map from names to versions, with variables of its own."""

    vars: dict[str, Any] = Field(default_factory=dict)


class ProjectSpec(Spec):
    """treadle.yml.

    `defaults` maps a folder or file below the root (`features/staging`) to configuration for what stands in it;
    the longest matching path wins key by key.
    """

    name: Name
    version: str = "0.1.0"
    description: str = ""
    requires: str = ""
    vars: dict[str, Any] = Field(default_factory=dict)
    defaults: dict[str, dict[str, Any]] = Field(default_factory=dict)
    environments: dict[Name, Environment] = Field(default_factory=dict)
    default_environment: Name = "dev"
    allow_paths: tuple[str, ...] = ()

    @field_validator("version", mode="before")
    @classmethod
    def _version_is_text(cls, value: Any) -> Any:
        if isinstance(value, float):
            raise ValueError(f"write it in quotes: YAML reads {value} as a number")
        return value


# tests of columns and tables


class NotNull(Spec):
    """No row holds NULL in the column."""


class Unique(Spec):
    """No value of the column, or of the columns together, stands in two rows."""

    columns: tuple[str, ...] = ()


class AcceptedValues(Spec):
    """Every value is one of a list; NULL passes."""

    values: tuple[Scalar, ...] = Field(min_length=1)


class AcceptedRange(Spec):
    """Every value lies between two bounds, both included; NULL passes."""

    min: float | str | None = None
    max: float | str | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> AcceptedRange:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class Relationships(Spec):
    """Every value stands in a column of another table; NULL passes."""

    to: str
    field: str

    @field_validator("to")
    @classmethod
    def _bare_name(cls, value: str) -> str:
        match = re.fullmatch(r"(?:ref|source)\(\s*['\"](\w+)['\"]\s*\)", value.strip())
        return match[1] if match else _check_identifier(value)


class DataTest(Spec):
    """One test of a column or a table, in its normal form.

    In YAML a test is its name (`not_null`) or its name with arguments (`accepted_values: {values: [a, b]}`); `name`,
    `description`, `severity`, `tags` and `where` (a condition on the rows that are looked at) stand among the
    arguments. A kind that is not built in is a `{% test %}` of the project's own, whose arguments it checks.
    """

    kind: str
    column: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    name: Name | None = None
    description: str = ""
    severity: Severity = "error"
    where: str = ""
    tags: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if not isinstance(value, dict) or "kind" in value:
            return value
        kind, rest = value.get("test_name"), {key: each for key, each in value.items() if key != "test_name"}
        if kind is None:
            if len(value) != 1:
                return value
            kind, rest = next(iter(value.items()))
        if not isinstance(rest, dict):
            raise ValueError(f"{kind} takes named arguments, as in {kind}: {{...}}")
        given = dbtforms.flatten(rest, nested=dbtforms.NESTED)
        own = {key: given.pop(key) for key in ("name", "description", "severity", "where", "tags") if key in given}
        return {"kind": kind, "arguments": given, **own}

    @model_validator(mode="after")
    def _check_arguments(self) -> DataTest:
        if self.kind not in _TEST_ARGUMENTS:
            return self
        try:
            self.parsed()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            takes = ", ".join(_TEST_ARGUMENTS[self.kind].model_fields) or "no arguments"
            reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
            raise ValueError(f"{self.kind} takes {takes} (and name, severity, where, ...); {reason}") from None
        return self

    def parsed(self) -> NotNull | Unique | AcceptedValues | AcceptedRange | Relationships:
        """Return the arguments in the form of the test's kind."""
        return _TEST_ARGUMENTS[self.kind].model_validate(self.arguments)


BUILT_IN_TESTS = ("not_null", "unique", "accepted_values", "accepted_range", "relationships")
_TEST_ARGUMENTS: dict[str, type[NotNull | Unique | AcceptedValues | AcceptedRange | Relationships]] = {
    "not_null": NotNull,
    "unique": Unique,
    "accepted_values": AcceptedValues,
    "accepted_range": AcceptedRange,
    "relationships": Relationships,
}


class Column(Spec):
    """What is said of a column of a source or a feature."""

    name: str
    type: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = Field(default_factory=dict)
    tests: tuple[DataTest, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_dbt(cls, value: Any) -> Any:
        return dbtforms.flatten(value)


class Table(Described):
    """What sources and features have in common."""

    columns: tuple[Column, ...] = ()
    tests: tuple[DataTest, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_dbt(cls, value: Any) -> Any:
        return dbtforms.flatten(value)


# features/


class CsvOptions(Spec):
    """How a CSV file is written; what is absent is detected."""

    delimiter: str | None = None
    header: bool | None = None
    null: str | tuple[str, ...] | None = None
    quote: str | None = None
    date_format: str | None = None
    timestamp_format: str | None = None


class FreshnessSpec(Spec):
    """How old a source may be: the newest value of a column, or else the time when one of its files was written to."""

    column: str = ""
    warn_after: SomeTime | None = None
    error_after: SomeTime | None = None

    @model_validator(mode="after")
    def _check_limits(self) -> FreshnessSpec:
        if self.warn_after is None and self.error_after is None:
            raise ValueError("give warn_after, error_after or both, such as 12h")
        warn, error = (parse_duration_us(limit) if limit else None for limit in (self.warn_after, self.error_after))
        if warn and error and warn >= error:
            raise ValueError(f"warn_after {self.warn_after} is not shorter than error_after {self.error_after}")
        return self


_ENDINGS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".duckdb": "duckdb",
    ".db": "duckdb",
}


def _format_of(path: str, given: str | None) -> str:
    if given:
        return given
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    return next((found for ending, found in _ENDINGS.items() if name.endswith(ending)), "csv")


class SourceSpec(Table):
    """Raw data: files, or a table of a DuckDB database file.

    `path` is relative to the project's root; globs are allowed. `columns` with a `type` fix that column's type.
    `event_time` names the column that says when a row happened: incremental features read the files that they need.
    `bad_rows` says what becomes of rows of a CSV that do not parse: an error, or they are left out, kept and counted.
    """

    path: str | tuple[str, ...]
    format: Literal["csv", "parquet", "json", "duckdb"] | None = None
    table: str = ""
    csv: CsvOptions = Field(default_factory=CsvOptions)
    event_time: str | None = None
    bad_rows: Literal["fail", "quarantine"] = "fail"
    freshness: FreshnessSpec | None = None

    @field_validator("bad_rows")
    @classmethod
    def _check_bad_rows(cls, value: str, info: ValidationInfo) -> str:
        path = info.data.get("path") or ""
        first = path if isinstance(path, str) else path[0]
        found = _format_of(first, info.data.get("format"))
        if value == "quarantine" and found != "csv":
            raise ValueError(f"quarantine takes CSV, and {first} is read as {found}; leave bad_rows out")
        return value

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths or globs as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def file_format(self) -> str:
        """csv, parquet, json or duckdb: as given, else by the ending of the first path."""
        return _format_of(self.paths[0], self.format)


class SeedSpec(Table):
    """A small CSV in data/ or data/seeds/, by its name; types are found or said in `columns` or `column_types`."""

    column_types: dict[str, str] = Field(default_factory=dict)
    delimiter: str | None = None

    def to_source(self, path: str) -> SourceSpec:
        """Return the source that the file at `path` is."""
        described = {column.name: column for column in self.columns}
        typed = {name: Column(name=name, type=kind) for name, kind in self.column_types.items()}
        columns = [
            column.model_copy(update={"type": column.type or typed.get(name, column).type})
            for name, column in described.items()
        ]
        columns += [column for name, column in typed.items() if name not in described]
        own = {name: getattr(self, name) for name in ("name", "description", "tags", "meta", "tests")}
        return SourceSpec(**own, path=path, columns=tuple(columns), csv=CsvOptions(delimiter=self.delimiter))


class EntitySpec(Described):
    """What features describe: a carrier, a customer; its key column has its name, unless `keys` says otherwise."""

    keys: tuple[str, ...] = ()

    @property
    def key_columns(self) -> tuple[str, ...]:
        """The columns whose values identify one entity."""
        return self.keys or (self.name,)


class FeatureConfig(Tried):
    """Configuration of a feature: in the file's `config()` or decorator, in YAML, or a default of its folder."""

    entity: Name | None = None
    event_time: str | None = None
    known_at: str | None = None
    static: bool = False
    ttl: Duration | None = None
    materialized: Literal["table", "view", "incremental"] = "table"
    interval: Duration | None = None
    lookback: Duration | None = None
    begin: Moment | None = None
    on_schema_change: Literal["rebuild", "fail", "append"] | None = None
    volatile: Literal["run", "day"] | None = None
    threads: int = Field(default=1, ge=1, le=256)
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = Field(default_factory=dict)
    enabled: bool = True

    @field_validator("materialized", mode="before")
    @classmethod
    def _ephemeral_is_view(cls, value: Any) -> Any:
        """Take dbt's word for what is part of its readers: views here are."""
        return "view" if value == "ephemeral" else value

    @field_validator("tags", mode="before")
    @classmethod
    def _one_tag(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class FeatureSpec(Table, FeatureConfig):
    """A feature's entry in YAML: description, configuration and tests of a .sql or .py file of that name."""


# models/


class LabelSpec(Spec):
    """The column to predict, and when it becomes known (a column or a SQL expression over the rows)."""

    column: str
    known_at: str | None = None


class FeatureUse(Spec):
    """A feature as a dataset reads it.

    Attributes:
        feature: its name.
        on: key column of the feature -> column of the dataset's rows, where the names differ (an entity in a role).
        prefix: (`as` in YAML) the prefix of its columns in the dataset; by default the feature's name.
        columns: those to take; by default all but keys and times.
        ttl: how old a value may be; by default the feature's own.
    """

    feature: Name
    on: dict[str, str] = Field(default_factory=dict)
    prefix: Name | None = Field(default=None, alias="as")
    columns: tuple[str, ...] = ()
    ttl: Duration | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"feature": value}
        if isinstance(value, dict) and len(value) == 1 and "feature" not in value:
            name, options = next(iter(value.items()))
            if not isinstance(options, dict):
                raise ValueError(f"{name} takes named options, as in {name}: {{on: {{key: column}}}}")
            return {"feature": name, **options}
        return value


class DatasetBody(Spec):
    """What a dataset is made of; may stand inline in a model."""

    rows: Name
    key: str
    columns: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    at: str | None = None
    label: LabelSpec | None = None
    features: tuple[FeatureUse, ...] = ()

    @field_validator("label", mode="before")
    @classmethod
    def _label_by_name(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value


class DatasetSpec(Described, DatasetBody):
    """A dataset: rows to predict for, the moment of prediction, the label, and the features as of that moment.

    `columns` are inputs; `keep` are carried for slices and splits but are no inputs, as are the features' keys.
    """


class Preprocess(Spec):
    """What is done to inputs before an estimator sees them, fitted on training rows only.

    Absent keys take what the trainer needs.
    """

    numeric: Literal["standardize", "none"] | None = None
    categorical: Literal["one_hot", "ordinal"] | None = None
    impute: Literal["mean", "median", "zero", "none"] | None = None
    min_frequency: int = Field(default=1, ge=1)


class ModelSpec(Described, Tried):
    """A model: a dataset, a task and a trainer; `retries` and `timeout` are for each of its stages."""

    dataset: Name | DatasetBody
    task: Task
    trainer: str
    params: dict[str, Any] = Field(default_factory=dict)
    preprocess: Preprocess = Field(default_factory=Preprocess)
    threads: int = Field(default=1, ge=1, le=256)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)


# pipelines/


class SplitSpec(Spec):
    """How rows fall into training, validation and test parts.

    by time: `test` and `validation` are dates, or `last 60d` before as_of and `60d` before the test part.
    by entity, random: they are shares between 0 and 1, drawn from a hash of the entity's or the row's key and the seed.
    """

    by: Literal["time", "entity", "random"]
    test: str | float
    validation: str | float
    entity: Name | None = None
    gap: Duration | None = None
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_form(self) -> SplitSpec:
        if (self.by == "entity") != (self.entity is not None):
            raise ValueError("by: entity needs `entity`, and no other split takes it")
        for name in ("test", "validation"):
            value = getattr(self, name)
            if self.by == "time":
                relative = r"last \S+" if name == "test" else r"\S+"
                if not isinstance(value, str) or not _is_part(value, relative=relative):
                    example = "last 60d" if name == "test" else "60d"
                    raise ValueError(f"{name} of a split by time is {example} or a date such as 2013-11-01")
            elif isinstance(value, str) or not 0 < value < 1:
                raise ValueError(f"{name} of a split by {self.by} is a share between 0 and 1, such as 0.2")
        if self.by != "time":
            if float(self.test) + float(self.validation) >= 1:
                raise ValueError("test and validation together leave nothing to train on")
            if self.gap is not None:
                raise ValueError("only a split by time takes a gap")
        return self


def _is_part(value: str, *, relative: str) -> bool:
    if re.fullmatch(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?", value):
        return True
    if re.fullmatch(relative, value) is None:
        return False
    try:
        parse_duration_us(value.removeprefix("last "))
    except ValueError:
        return False
    return True


class EvaluateSpec(Spec):
    """Metrics, the first of which chooses the model, and columns by whose values they are sliced."""

    metrics: tuple[str, ...] = Field(min_length=1)
    slices: tuple[str, ...] = ()


class PipelineSpec(Described):
    """A pipeline: the policy by which models become versions."""

    models: tuple[Name, ...] = Field(min_length=1)
    split: SplitSpec
    evaluate: EvaluateSpec
    gates: tuple[str, ...] = ()
    refit: Literal["none", "all"] = "none"


# the files


class FeaturesFile(Spec):
    """A YAML file in features/."""

    sources: tuple[SourceSpec, ...] = ()
    entities: tuple[EntitySpec, ...] = ()
    features: tuple[FeatureSpec, ...] = ()


class ModelsFile(Spec):
    """A YAML file in models/."""

    datasets: tuple[DatasetSpec, ...] = ()
    models: tuple[ModelSpec, ...] = ()


class PipelinesFile(Spec):
    """A YAML file in pipelines/."""

    pipelines: tuple[PipelineSpec, ...] = ()


class SqlTestSpec(Described):
    """A SQL test's configuration, from its `config()`: rows that the query returns are failures."""

    severity: Severity = "error"


class SqlTestConfig(Spec):
    """What `config()` of a file in tests/ takes."""

    severity: Severity = "error"
    tags: tuple[str, ...] = ()
    description: str = ""


class TestsFile(Spec):
    """A YAML file in tests/: severity and description of the SQL tests beside it."""

    tests: tuple[SqlTestSpec, ...] = ()
