"""What a trainer is, what a model is, and the form in which both get their rows.

    dataset rows -> Inputs.normalise -> Trainer.fit -> Model -> predict -> predictions

Rows reach a trainer and a model in the normal form that `Inputs` makes, so that neither checks types again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from treadle.errors import Problem, StepError

Role = Literal["numeric", "categorical"]
Batch = tuple[pa.Table, np.ndarray]


@dataclass(frozen=True)
class InputColumn:
    """One input: a number (missing: NaN) or a category (missing: NULL)."""

    name: str
    role: Role


@dataclass(frozen=True)
class Inputs:
    """The input columns of a model, in the order in which it was trained on them."""

    columns: tuple[InputColumn, ...]

    @classmethod
    def from_schema(cls, schema: pa.Schema, names: Sequence[str]) -> Inputs:
        """Return the roles of the columns called `names`.

        Raises:
            StepError: TR706, a column is missing; TR712, its type is neither a number nor text.
        """
        return cls(tuple(InputColumn(name, role_of(_field(schema, name))) for name in names))

    @property
    def numeric(self) -> tuple[str, ...]:
        """The names of the numeric columns."""
        return tuple(column.name for column in self.columns if column.role == "numeric")

    @property
    def categorical(self) -> tuple[str, ...]:
        """The names of the categorical columns."""
        return tuple(column.name for column in self.columns if column.role == "categorical")

    def normalise(self, rows: pa.Table) -> pa.Table:
        """Return the input columns of `rows` in the form that trainers and models get.

        Args:
            rows: any table that holds the inputs; other columns are ignored and the order does not matter.

        Returns:
            a table of the same length: numeric columns are float64 with NaN for NULL, categorical ones are
            string.

        Raises:
            StepError: TR706, an input is missing; TR712, it has another type than in training.
        """
        arrays = [_to_role(rows.column(_index(rows.schema, c.name)), c) for c in self.columns]
        if not arrays:
            return rows.select([])
        return pa.table(arrays, names=[c.name for c in self.columns])

    def to_json(self) -> list[dict[str, str]]:
        """Return the columns as JSON."""
        return [{"name": column.name, "role": column.role} for column in self.columns]

    @classmethod
    def from_json(cls, value: Sequence[Mapping[str, Any]]) -> Inputs:
        """Return what `to_json` wrote."""
        return cls(tuple(InputColumn(column["name"], column["role"]) for column in value))


@dataclass(frozen=True)
class FitContext:
    """What a trainer may know besides rows and parameters.

    Attributes:
        task: binary, multiclass or regression.
        classes: the labels behind 0, 1, ... in `y`; empty for regression.
        seed: from 0 to 2**32 - 1; all randomness comes from it.
        threads: how many a fit may use.
        inputs: the columns of the rows.
        preprocess: what the model asks for under `preprocess`; absent keys take what the trainer needs.
    """

    task: str
    classes: tuple[bool | int | str, ...]
    seed: int
    threads: int
    inputs: Inputs
    preprocess: Mapping[str, Any]


class Model(Protocol):
    """What a fit gives."""

    notes: tuple[str, ...]

    def predict(self, X: pa.Table) -> np.ndarray:
        """Predict one or more rows in normal form.

        Returns:
            float64: regression (n,), binary (n,) the probability of the second class, multiclass (n, K).
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder; equal models write equal bytes."""
        ...


class Trainer(Protocol):
    """Fits models and reads them back.

    Attributes:
        name: as models give it.
        capabilities: of `resume`, `gpu`, `arrow`, `early_stopping`.
        libraries: the distributions that decide what comes out.
    """

    name: str
    capabilities: frozenset[str]
    libraries: tuple[str, ...]

    def fit(self, train: Batch, validation: Batch | None, params: Mapping[str, Any], context: FitContext) -> Model:
        """Fit a model on the rows of `train`; `validation` may decide when to stop, and nothing else.

        Args:
            train: (rows in normal form, y of shape (n,)): class numbers as int64, or float64 for regression.
            validation: the same for the validation part; None when there is none.
            params: as the model's file gives them, checked at plan time.
            context: see there.
        """
        ...

    def load(self, folder: Path) -> Model:
        """Read what `save` of one of its models wrote."""
        ...


def role_of(field: pa.Field) -> Role:
    """Return the role of a column by its Arrow type.

    Raises:
        StepError: TR712, no trainer can read this type.
    """
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if _is_text(kind):
        return "categorical"
    if _is_number(kind):
        return "numeric"
    raise StepError(
        Problem(
            "TR712",
            f'input "{field.name}" is neither a number nor text',
            why=f"its type is {field.type}",
            fix=_instead(field),
        )
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_boolean,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def _instead(field: pa.Field) -> str:
    name, kind = field.name, field.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return f"write what matters of it as a number, such as extract(hour from {name})"
    if pa.types.is_duration(kind) or pa.types.is_time(kind) or pa.types.is_interval(kind):
        return f"write it as a number, such as extract(epoch from {name})"
    if pa.types.is_nested(kind):
        return f"write each part as a column of its own, such as {name}[1] or {name}.part"
    return f"cast it to a number or to text, such as cast({name} as varchar), or take it out of the inputs"


def _field(schema: pa.Schema, name: str) -> pa.Field:
    return schema.field(_index(schema, name))


def _index(schema: pa.Schema, name: str) -> int:
    found = schema.get_all_field_indices(name)
    if len(found) == 1:
        return int(found[0])
    if found:
        raise StepError(
            Problem(
                "TR712",
                f'input "{name}" stands {len(found)} times in the rows',
                fix="give each column a name of its own",
            )
        )
    shown = ", ".join(schema.names[:20]) + (f" and {len(schema.names) - 20} more" if len(schema.names) > 20 else "")
    raise StepError(
        Problem(
            "TR706",
            f'input "{name}" is missing',
            why=f"the rows hold {shown or 'no columns'}",
            fix="give the rows every column that the model was trained on; extra ones are ignored",
        )
    )


def _to_role(column: pa.ChunkedArray, wanted: InputColumn) -> pa.ChunkedArray:
    kind = column.type
    if not pa.types.is_null(kind):
        found = role_of(pa.field(wanted.name, kind))
        if found != wanted.role:
            raise StepError(
                Problem(
                    "TR712",
                    f'input "{wanted.name}" has another type than in training',
                    why=f"it is {kind} here ({_word(found)}), and was {_word(wanted.role)} in training",
                    fix=f"cast it to {'double' if wanted.role == 'numeric' else 'varchar'}",
                )
            )
    if wanted.role == "categorical":
        return pc.cast(column, pa.string())
    numbers = column if pa.types.is_float64(kind) else pc.cast(column, pa.float64(), safe=False)
    return pc.fill_null(numbers, float("nan")) if numbers.null_count else numbers


def _word(role: Role) -> str:
    return "a number" if role == "numeric" else "text"
