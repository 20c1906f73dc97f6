"""Which DuckDB types Parquet keeps, and how the others are stored so that they come back unchanged.

Flow: a type's text, as `DESCRIBE` prints it -> `parse_type` -> `Type` -> `stored_type` -> the file's type.
A column is written as `cast(x as STORED)` and read as `cast(x as LOGICAL)`; casts reach into STRUCT, LIST,
ARRAY, MAP and UNION, so one rule per scalar type is enough. What has no safe form is refused, with the cast
to use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from treadle.errors import Location, Problem, StepError

# Parquet gives these back as they were, NaN, infinities, -0.0 and the ends of their ranges included.
_KEPT = frozenset(
    {"BOOLEAN", "VARCHAR", "BLOB", "UUID", "JSON", "FLOAT", "DOUBLE", "DECIMAL"}
    | {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
    | {"DATE", "TIME", "TIME_NS", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"}
)

# Parquet would turn HUGEINT and UHUGEINT into DOUBLE, cut INTERVAL to milliseconds (and refuse negative
# ones), drop the offset of TIMETZ, give GEOMETRY a coordinate system, lose whether a STRUCT of NULLs was NULL
# itself, and give the rest another type.
_RECAST = {
    "HUGEINT": "DECIMAL(38,0)",
    "UHUGEINT": "VARCHAR",
    "INTERVAL": "VARCHAR",
    "TIME WITH TIME ZONE": "VARCHAR",
    "ENUM": "VARCHAR",
    "BIT": "VARCHAR",
    "BIGNUM": "VARCHAR",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "GEOMETRY": "BLOB",
    "NULL": "BOOLEAN",
}
_NARROWER = frozenset({"HUGEINT", "TIMESTAMP_S", "TIMESTAMP_MS"})  # the stored form holds fewer values
_NESTED = frozenset({"STRUCT", "TUPLE", "UNION", "LIST", "ARRAY", "MAP"})
_TOKEN = re.compile(r"""\s*("(?:[^"]|"")*"|'(?:[^']|'')*'|[(),\[\]]|[^\s(),\[\]"']+)""", re.DOTALL)


@dataclass(frozen=True)
class Type:
    """A DuckDB type.

    Attributes:
        name: in capitals, without arguments: `DECIMAL`, `STRUCT`, `TIMESTAMP WITH TIME ZONE`.
        children: (name, type) of the fields of a STRUCT or UNION; names are empty for the others.
        arguments: what stands in parentheses and is no type: `18,3` of DECIMAL, the values of an ENUM.
        size: how many elements an ARRAY has; 0 for all others.
    """

    name: str
    children: tuple[tuple[str, Type], ...] = ()
    arguments: str = ""
    size: int = 0

    def __str__(self) -> str:
        inner = [str(child) for _, child in self.children]
        if self.name == "LIST":
            return f"{inner[0]}[]"
        if self.name == "ARRAY":
            return f"{inner[0]}[{self.size}]"
        if self.name == "NULL":
            return '"NULL"'
        if self.name in ("STRUCT", "UNION"):
            inner = [f"{quote_name(field)} {child}" for field, child in self.children]
        arguments = ", ".join(inner) if self.children else self.arguments
        return f"{self.name}({arguments})" if arguments else self.name

    def walk(self) -> Iterable[Type]:
        """Yield the type and all that it is made of."""
        yield self
        for _, child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class StoredColumn:
    """A column of a relation, and how a Parquet file holds it.

    Attributes:
        name: as the relation names it.
        type: the type that readers see, as `DESCRIBE` prints it.
        stored: the type that is written; equal to `type` when nothing has to change.
        is_narrower: whether some value of `type` has no stored form, so that writing it fails.
    """

    name: str
    type: str
    stored: str
    is_narrower: bool

    @property
    def write(self) -> str:
        """The expression that a writer selects, under the column's own name."""
        name = quote_name(self.name)
        return name if self.stored == self.type else f"cast({name} as {self.stored}) as {name}"

    @property
    def read(self) -> str:
        """The expression that a reader selects, under the column's own name."""
        name = quote_name(self.name)
        if "UNION(" in self.stored:  # the file holds a STRUCT, which casts to a UNION of equal members only
            return f"cast(cast({name} as {self.stored}) as {self.type}) as {name}"
        return name if self.stored == self.type else f"cast({name} as {self.type}) as {name}"


def quote_name(name: str) -> str:
    """Return a name as an identifier in SQL."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return text as a literal in SQL."""
    return "'" + text.replace("'", "''") + "'"


@lru_cache(maxsize=1024)
def parse_type(text: str) -> Type:
    """Return the type that DuckDB writes as `text`.

    Raises:
        ValueError: `text` is no type.
    """
    tokens = _TOKEN.findall(text)
    found, rest = _parse(tokens, 0)
    if rest != len(tokens):
        raise ValueError(f"{text!r} is no type")
    return found


def stored_type(kind: Type) -> Type:
    """Return the type that is written to a Parquet file for `kind`.

    Raises:
        ValueError: there is no safe form; the message says what of `kind` is in the way.
    """
    if kind.name in _RECAST:
        return parse_type(_RECAST[kind.name])
    if kind.name in _KEPT:
        return kind
    if kind.name not in _NESTED:
        raise ValueError(f"Parquet has no form for {kind.name} that gives the same values back")
    if not kind.children:
        raise ValueError(f"a {kind.name} without fields has no form in Parquet")
    if kind.name == "UNION":
        _check_union(kind)
    children = tuple((name, stored_type(child)) for name, child in kind.children)
    if kind.name == "TUPLE":
        return Type("STRUCT", tuple((f"element{i}", child) for i, (_, child) in enumerate(children, 1)))
    return Type("LIST" if kind.name == "ARRAY" else kind.name, children)


def stored_columns(
    columns: Iterable[tuple[str, str]], *, what: str = "the result", where: Location | None = None
) -> tuple[StoredColumn, ...]:
    """Return how each column of a relation is stored.

    Args:
        columns: (name, type as `DESCRIBE` prints it), in order.
        what: the step that has these columns, for the error's text.
        where: the step's place in the project.

    Raises:
        StepError: TR703 for each column that cannot be stored.
    """
    found, problems = [], []
    for name, text in columns:
        try:
            found.append(_stored_column(name, text))
        except ValueError as error:
            problems.append(_unstorable(name, text, str(error), what, where))
    if problems:
        raise StepError(problems)
    return tuple(found)


def _stored_column(name: str, text: str) -> StoredColumn:
    if not name:
        raise ValueError("it has no name")
    return StoredColumn(name, text, *_stored_form(text))


@lru_cache(maxsize=1024)
def _stored_form(text: str) -> tuple[str, bool]:
    """Return the type that is written for one, and whether it holds fewer values."""
    kind = parse_type(text)
    stored = stored_type(kind)
    return text if stored == kind else str(stored), any(part.name in _NARROWER for part in kind.walk())


def _unstorable(name: str, text: str, why: str, what: str, where: Location | None) -> Problem:
    target = "JSON" if text.startswith(("VARIANT", "STRUCT", "TUPLE", "MAP")) else "VARCHAR"
    quoted = quote_name(name)
    return Problem(
        "TR703",
        f'column "{name}" of {what} cannot be stored: its type is {_shorten(text)}',
        where,
        why,
        fix=f"select cast({quoted} as {target}) as {quoted}, or leave the column out",
    )


def _shorten(text: str) -> str:
    return text if len(text) <= 120 else text[:117] + "..."


def _check_union(kind: Type) -> None:
    for name, child in kind.children:
        if any(part.name == "UNION" for part in child.walk()):
            raise ValueError(f'a UNION within a UNION (its member "{name}") loses its tags in Parquet')
        if name.lower() == "element1":
            raise ValueError('Parquet gives the name of the UNION\'s member "element1" to the tag')


def _parse(tokens: list[str], i: int) -> tuple[Type, int]:
    words = []
    while i < len(tokens) and tokens[i] not in "(),[]":
        words.append(_unquote(tokens[i]))
        i += 1
    name = " ".join(words).upper()
    if not name:
        raise ValueError("a type's name is missing")
    kind = Type(name)
    if i < len(tokens) and tokens[i] == "(":
        kind, i = (_parse_fields if name in _NESTED else _parse_arguments)(name, tokens, i + 1)
    while i < len(tokens) and tokens[i] == "[":
        size = tokens[i + 1]
        kind = Type("LIST", (("", kind),)) if size == "]" else Type("ARRAY", (("", kind),), size=int(size))
        i += 2 if size == "]" else 3
    return kind, i


def _parse_fields(name: str, tokens: list[str], i: int) -> tuple[Type, int]:
    children = []
    while True:
        field = ""
        if name in ("STRUCT", "UNION"):
            field, i = _unquote(tokens[i]), i + 1
        child, i = _parse(tokens, i)
        children.append((field, child))
        if i >= len(tokens) or tokens[i] not in ",)":
            raise ValueError(f"{name}( is not closed")
        i += 1
        if tokens[i - 1] == ")":
            return Type(name, tuple(children)), i


def _parse_arguments(name: str, tokens: list[str], i: int) -> tuple[Type, int]:
    end = tokens.index(")", i)  # a parenthesis within quotes is part of its token
    return Type(name, arguments=(", " if name == "ENUM" else ",").join(tokens[i:end:2])), end + 1


def _unquote(token: str) -> str:
    return token[1:-1].replace('""', '"') if token.startswith('"') else token
