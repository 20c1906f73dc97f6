"""Labels as numbers: class 0, 1, ... for classification, float64 for regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from treadle.errors import Problem, StepError

Label = bool | int | str


def encode_labels(
    label: pa.ChunkedArray, task: str, classes: Sequence[Label] = ()
) -> tuple[np.ndarray, tuple[Label, ...]]:
    """Return labels as numbers, and what the numbers stand for.

    Args:
        label: one value a row, without NULL. binary: booleans, integers 0 and 1, or two strings of which the
            second in sorted order is the positive class; multiclass: strings, integers or booleans;
            regression: finite numbers.
        task: binary, multiclass or regression.
        classes: the classes to use, in order, where a model was trained already; else they come from `label`.

    Returns:
        (y, classes): y of shape (n,) is int64 positions in `classes`, or float64 with classes () for
        regression.

    Raises:
        StepError: TR708, the labels do not fit the task; the values found are named.
    """
    if isinstance(label, pa.Array):
        label = pa.chunked_array([label])
    if label.null_count:
        raise _wrong(f"{label.null_count} labels are NULL", "leave rows without a label out of training")
    if task == "regression":
        return _numbers(label), ()
    if pa.types.is_dictionary(label.type):
        label = pc.cast(label, label.type.value_type)
    found = _distinct(label, task)
    known = tuple(classes) or _classes(found, task)
    strange = [value for value in found if value not in known]
    if strange:
        raise _wrong(
            f"{_shown(strange)} is no label of the training rows, which are {_shown(known)}",
            "train on rows of every class, or leave these rows out",
        )
    return positions(label, known).to_numpy().astype(np.int64), known


def positions(label: pa.ChunkedArray, classes: Sequence[Label]) -> pa.ChunkedArray:
    """Return the position of each label in `classes` as int32; NULL where it is none of them."""
    if pa.types.is_dictionary(label.type):
        label = pc.cast(label, label.type.value_type)
    options = pc.SetLookupOptions(value_set=pa.array(classes, type=label.type))
    return pc.call_function("index_in", [label], options)


def _distinct(label: pa.ChunkedArray, task: str) -> list[Label]:
    kind = label.type
    values = label.unique()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = pc.cast(values, pa.float64()).to_numpy()
        if np.isnan(numbers).any():
            raise _wrong("a label is NaN", "leave rows without a label out of training")
        raise _wrong(
            f"the labels are {kind}, such as {numbers[0]:g}",
            f"cast them to an integer or to text for a {task} task, or use task: regression",
        )
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or _is_text(kind)):
        raise _wrong(f"the labels are {kind}", "use a boolean, an integer or text as label")
    return sorted(values.to_pylist())


def _classes(found: list[Label], task: str) -> tuple[Label, ...]:
    if len(found) < 2:
        what = f"every label is {_shown(found)}" if found else "there are no labels"
        raise _wrong(what, "train on rows of at least two classes: a longer training part, or another label")
    if task == "multiclass":
        return tuple(found)
    if len(found) > 2:
        raise _wrong(
            f"a binary task has two classes, and {len(found)} were found: {_shown(found)}",
            "use task: multiclass, or make the label a boolean",
        )
    if isinstance(found[0], int) and not isinstance(found[0], bool) and found != [0, 1]:
        raise _wrong(
            f"the integers {_shown(found)} do not say which class is the positive one",
            f"write the label as a boolean, such as label = {found[1]}",
        )
    return tuple(found)


def _numbers(label: pa.ChunkedArray) -> np.ndarray:
    kind = label.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        if not pa.types.is_boolean(kind):
            raise _wrong(f"the labels are {kind}, and regression needs numbers", "cast them, or use another task")
        raise _wrong("the labels are booleans, and regression needs numbers", "use task: binary")
    y = pc.cast(label, pa.float64(), safe=False).to_numpy()
    if wrong := int((~np.isfinite(y)).sum()):
        raise _wrong(f"{wrong} of {len(y)} labels are NaN or infinite", "leave such rows out of the dataset")
    return np.asarray(y, dtype=np.float64)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _shown(values: Sequence[Label]) -> str:
    texts = [str(value).lower() if isinstance(value, bool) else repr(value) for value in values[:5]]
    return ", ".join(texts) + (f" and {len(values) - 5} more" if len(values) > 5 else "")


def _wrong(why: str, fix: str) -> StepError:
    return StepError(Problem("TR708", "the labels do not fit the task", why=why, fix=fix))
