"""What a table of rows asks for: a task, a key, inputs. Every guess becomes a line of the project that can be changed.

Profile -> label and task -> key -> inputs and what is left out -> Design
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from treadle.errors import Problem, UsageError
from treadle.names import close_match
from treadle_runtime.types import quote_name, quote_text
from treadle_scaffold.folder import to_identifier
from treadle_scaffold.profile import Column, Profile

Task = Literal["binary", "multiclass", "regression"]

MAX_CLASSES = 20
MAX_INTEGER_CLASSES = 10
MIN_CLASS_ROWS = 10
# The number that rows get where no column tells them apart.
_TAKEN = {"row_id"}
_ID_WORDS = {"id", "uuid", "guid", "key"}
_KEY_WORDS = _ID_WORDS | {"code", "no", "nr", "number", "row", "index"}


@dataclass(frozen=True)
class Label:
    """The column to predict.

    Attributes:
        column: its name in the file.
        task: what is learnt.
        expression: SQL over the file's columns that gives the label.
        classes: the values to learn, as SQL literals; empty for regression.
        note: why the expression is more than the column; may be empty.
    """

    column: str
    task: Task
    expression: str
    classes: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Design:
    """What the project will say about the file.

    Attributes:
        table: the name of the rows in the project.
        names: column of the file -> column of the rows.
        key: the column that tells rows apart; None: rows are numbered.
        inputs: what is learnt from.
        left_out: column -> why it is no input.
    """

    profile: Profile
    table: str
    names: Mapping[str, str]
    label: Label
    key: str | None
    time: str | None
    entity: str | None
    inputs: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def key_name(self) -> str:
        """The key's name in the rows."""
        return self.names[self.key] if self.key is not None else "row_id"

    @property
    def key_expression(self) -> str:
        """SQL over the file's columns that gives the key."""
        if self.key is not None:
            return self.profile.quote(self.key)
        order = ", ".join(
            self.profile.quote(name) for name, column in self.profile.columns.items() if column.kind != "other"
        )
        return f"row_number() over (order by {order})"

    def column(self, name: str) -> Column:
        """Return what is known of a column of the file."""
        return self.profile.columns[name]


def guess(profile: Profile, *, table: str, label: str, time: str | None, entity: str | None) -> Design:
    """Choose a task, a key and inputs.

    Args:
        table: the name of the rows in the project.
        label: the column to predict.
        time: the column that says when a row happened.
        entity: the column that says whom a row is about.

    Raises:
        UsageError: TR403, no such label; TR706, no such column; TR708, the label cannot be learnt; TR712, a type
            does not fit; TR603, nothing is left to learn from.
    """
    _check_given(profile, label=label, time=time, entity=entity)
    found = _guess_label(profile, profile.columns[label])
    key = _guess_key(profile, label, time, entity)
    inputs, left_out = _guess_inputs(profile, {name for name in (label, key, time, entity) if name is not None})
    if not inputs:
        why = "\n".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:8])
        what = f'no column of "{profile.file.name}" is left to predict "{label}" from'
        raise UsageError(Problem("TR603", what, why=why, fix="add columns of numbers or categories to the file"))
    names = _to_names(profile.columns)
    return Design(profile, table, names, found, key, time, entity, tuple(inputs), left_out)


def _check_given(profile: Profile, *, label: str, time: str | None, entity: str | None) -> None:
    problems = []
    for role, name in (("label", label), ("time", time), ("entity", entity)):
        if name is not None and name not in profile.columns:
            code = "TR403" if role == "label" else "TR706"
            shown = list(profile.columns)
            why = f"its columns: {', '.join(shown[:20])}" + (", ..." if len(shown) > 20 else "")
            suggestion = close_match(name, shown) or ""
            what = f'"{profile.file.name}" has no column "{name}" to take as {role}'
            problems.append(Problem(code, what, why=why, suggestion=suggestion, fix=f"name one of them as --{role}"))
    if not problems and len({label, time, entity} - {None}) < 1 + (time is not None) + (entity is not None):
        problems.append(
            Problem("TR603", "--label, --time and --entity name one column twice", fix="name different columns")
        )
    if not problems and time is not None and (column := profile.columns[time]).kind not in ("date", "timestamp"):
        example = profile.query(f"select any_value({quote_name(time)})::varchar from rows")[0][0]
        why = f"it is {column.type}, such as {example}"
        fix = "write the times as 2013-11-01 06:00:00, or leave --time out"
        problems.append(Problem("TR712", f'column "{time}" holds no times', why=why, fix=fix))
    if problems:
        raise UsageError(problems)


def _guess_label(profile: Profile, column: Column) -> Label:
    name, quoted = column.name, profile.quote(column.name)
    if column.filled == 0 or column.distinct < 2:
        why = "every row holds " + ("NULL" if column.filled == 0 else "the same value")
        raise UsageError(
            Problem("TR708", f'there is nothing to learn about "{name}"', why=why, fix="take another --label")
        )
    if column.kind == "boolean":
        return Label(name, "binary", quoted, ("false", "true"))
    if column.kind in ("integer", "number") and (column.distinct == 2 or _is_class_number(profile, column)):
        return _numbered_classes(profile, column)
    if column.kind in ("integer", "number"):
        expression = f"case when isfinite({quoted}) then {quoted} end" if column.infinite else quoted
        return Label(name, "regression", expression, note="NaN and infinity are no labels" if column.infinite else "")
    if column.kind == "text" and column.distinct <= MAX_CLASSES:
        return _text_classes(profile, column)
    why = f"its {column.filled} values are {column.type}, {column.distinct} of them different"
    fix = f"a label is a number, true or false, or one of at most {MAX_CLASSES} texts"
    raise UsageError(Problem("TR708", f'"{name}" is no label to learn', why=why, fix=fix))


def _is_class_number(profile: Profile, column: Column) -> bool:
    few = column.distinct <= MAX_INTEGER_CLASSES and column.filled >= MIN_CLASS_ROWS * column.distinct
    return column.kind == "integer" and few


def _numbered_classes(profile: Profile, column: Column) -> Label:
    quoted = profile.quote(column.name)
    found = [
        str(row[0])
        for row in profile.query(f"select distinct {quoted} from rows where {quoted} is not null order by 1")
    ]
    if len(found) > 2:
        return _with_common_classes(profile, column, quoted, found, as_text=False)
    low, high = found
    note = "" if {float(low), float(high)} == {0.0, 1.0} else f"true stands for {high}, false for {low}"
    return Label(column.name, "binary", f"{quoted} = {high}", ("false", "true"), note)


def _text_classes(profile: Profile, column: Column) -> Label:
    quoted = profile.quote(column.name)
    text = quoted if column.type == "VARCHAR" else f"{quoted}::varchar"
    found = [
        str(row[0]) for row in profile.query(f"select distinct {text} from rows where {quoted} is not null order by 1")
    ]
    if len(found) == 2:
        return Label(
            column.name,
            "binary",
            text,
            tuple(quote_text(value) for value in found),
            f"the positive class is {found[1]}",
        )
    return _with_common_classes(profile, column, text, found, as_text=True)


def _with_common_classes(profile: Profile, column: Column, text: str, found: list[str], *, as_text: bool) -> Label:
    """Return a label of the classes with rows enough to be learnt and judged."""
    literal = quote_text if as_text else str
    counted = profile.query(f"select {text}::varchar from rows group by 1 having count(*) >= {MIN_CLASS_ROWS}")
    common = [value for value in found if (value,) in counted]
    if len(common) < 2:
        why = f"of its {len(found)} values, {len(common)} stand in at least {MIN_CLASS_ROWS} rows"
        raise UsageError(
            Problem(
                "TR708",
                f'there is too little to learn about "{column.name}"',
                why=why,
                fix="take a file with more rows",
            )
        )
    classes = tuple(literal(value) for value in common)
    if len(common) == len(found):
        return Label(column.name, "multiclass", text, classes)
    task: Task = "multiclass" if len(common) > 2 or not as_text else "binary"
    note = f"values with fewer than {MIN_CLASS_ROWS} rows are left out"
    return Label(column.name, task, f"case when {text} in ({', '.join(classes)}) then {text} end", classes, note)


def _guess_key(profile: Profile, label: str, time: str | None, entity: str | None) -> str | None:
    """Return the column that tells rows apart: the one named most like a key, of those that could be it."""
    fit = [
        column.name
        for column in profile.columns.values()
        if column.kind in ("integer", "text")
        and column.filled == column.distinct == profile.rows
        and column.name not in (label, time)
    ]
    stem = profile.file.stem.lower().removesuffix("s")

    def rank(name: str) -> tuple[bool, bool, bool, int]:
        low = name.lower()
        return (
            name != entity,
            low not in ("id", f"{stem}_id", f"{stem}id"),
            _last_word(name) != "id",
            list(profile.columns).index(name),
        )

    # What merely happens to differ in every row, such as an amount or a remark, is no key.
    named = [name for name in fit if name == entity or _last_word(name) in _KEY_WORDS]
    return min(named, key=rank) if named else None


def _last_word(name: str) -> str:
    """Return the last word of a name such as order_id, OrderID or `Order ID`, in small letters."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return words[-1].lower() if words else name.lower()


def _guess_inputs(profile: Profile, taken: set[str]) -> tuple[list[str], dict[str, str]]:
    inputs, left_out = [], {}
    for column in profile.columns.values():
        if column.name in taken:
            continue
        reason = _reason_to_leave_out(profile, column)
        if reason:
            left_out[column.name] = reason
        else:
            inputs.append(column.name)
    return inputs, left_out


def _reason_to_leave_out(profile: Profile, column: Column) -> str:
    if column.distinct <= 1:
        return "the same in every row"
    if column.kind in ("date", "timestamp"):
        return f"a time ({column.type}): take its hour, or the days since, if they matter"
    if column.kind == "other":
        return f"{column.type} is neither a number nor a category"
    if column.kind in ("integer", "text") and _last_word(column.name) in _ID_WORDS and column.distinct > 20:
        return f"an identifier: {column.distinct} different values"
    if column.kind == "text" and column.distinct > max(20, 0.5 * column.filled):
        return f"nearly as many texts as rows: {column.distinct}"
    return ""


def _to_names(columns: Mapping[str, Column]) -> dict[str, str]:
    """Return names for the rows' columns: identifiers, each once whatever the case."""
    found: dict[str, str] = {}
    used = set(_TAKEN)
    for name in columns:
        base = to_identifier(name, default="column")
        new, n = base, 2
        while new.lower() in used:
            new, n = f"{base}_{n}", n + 1
        used.add(new.lower())
        found[name] = new
    return found
