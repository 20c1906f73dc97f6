"""A dataset's columns: which there are, how they are named, and the types in which they are stored.

Times are stored in microseconds, UTC without a zone: `_at` is rounded down, the label's known_at up, so that
rounding never lets a row see more than it could.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle_runtime.asof import Read
from treadle_runtime.columns import TIME_TYPES, find_types, nanoseconds
from treadle_runtime.types import quote_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from treadle.errors import Location
    from treadle_runtime.engine import Connection

AT, LABEL, LABEL_KNOWN_AT = "_at", "_label", "_label_known_at"
RESERVED = (AT, LABEL, LABEL_KNOWN_AT)
_BIG = ("HUGEINT", "UHUGEINT")
_PLAIN = frozenset(
    [
        *("BOOLEAN", "VARCHAR", "FLOAT", "DOUBLE"),
        *("TINYINT", "SMALLINT", "INTEGER", "BIGINT"),
        *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    ]
)


class TimeColumn(NamedTuple):
    """A time of each row: the column that holds it, the key that configures it, the expression written there."""

    column: str
    key: str
    expression: str


@dataclass(frozen=True)
class Layout:
    """A dataset's configuration, with the types of the rows' columns."""

    name: str
    where: Location | None
    rows: str
    types: Mapping[str, str]
    key: str
    columns: tuple[str, ...]
    keep: tuple[str, ...]
    at: str | None
    label: str | None
    label_known_at: str | None
    reads: tuple[Read, ...]

    @property
    def context(self) -> tuple[str, ...]:
        """Columns that are carried along: those to keep and the features' keys."""
        keys = (column for read in self.reads for _, column in read.keys)
        return tuple(dict.fromkeys((*self.keep, *keys)))

    @property
    def taken(self) -> tuple[str, ...]:
        """Columns of the rows that are stored under their own names, each once."""
        return tuple(dict.fromkeys((self.key, *self.context, *self.columns)))

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Names of the features' values in the table."""
        return tuple(name for read in self.reads for name in read.value_columns)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs in the table."""
        return (*dict.fromkeys(self.columns), *self.feature_columns)

    @property
    def times(self) -> tuple[TimeColumn, ...]:
        """The times that are declared."""
        declared = ((AT, "at", self.at), (LABEL_KNOWN_AT, "label: known_at", self.label_known_at))
        return tuple(TimeColumn(column, key, said) for column, key, said in declared if said is not None)

    def stored_type(self, column: str) -> str | None:
        """Return the type in which a column of the rows is stored; one that is an input and carried is both."""
        kind = self.types[column]
        carried = column == self.key or column in self.context
        if column in self.columns and not (carried and kind in _BIG):
            return input_type(kind)
        return context_type(kind)


def read_layout(con: Connection, config: Mapping[str, Any], *, name: str, where: Location | None) -> Layout:
    """Return the layout that a step's configuration asks for.

    Args:
        con: holds the rows and the features; their types are looked up.
        config: the step's configuration.
        name: the dataset's name, for errors.
        where: the place where it is written, for errors.
    """
    label = config.get("label") or {}
    return Layout(
        name=name,
        where=where,
        rows=config["rows"],
        types=find_types(con, config["rows"]),
        key=config["key"],
        columns=tuple(config.get("columns") or ()),
        keep=tuple(config.get("keep") or ()),
        at=config.get("at"),
        label=label.get("column"),
        label_known_at=label.get("known_at"),
        reads=tuple(_read_use(con, use) for use in config.get("features") or ()),
    )


def _read_use(con: Connection, use: Mapping[str, Any]) -> Read:
    keys = tuple((left, right) for left, right in use["keys"])
    event_time, known_at = use.get("event_time"), use.get("known_at")
    others = {*(left for left, _ in keys), event_time, known_at}
    columns = use.get("columns") or [c for c in find_types(con, use["feature"]) if c not in others]
    return Read(
        table=use["feature"],
        prefix=use["prefix"],
        keys=keys,
        columns=tuple(columns),
        event_time=event_time,
        known_at=known_at,
        ttl_us=use.get("ttl_us"),
    )


def select_stored(
    layout: Layout, types: Mapping[str, str], time_types: Mapping[str, str], *, provenance: bool
) -> Iterator[str]:
    """Yield SQL for each column of the table, in order.

    Args:
        layout: the dataset's.
        types: column -> type of the joined relation that is selected from.
        time_types: `_at` and `_label_known_at`, where declared -> type.
        provenance: whether each timed feature's event_time and known_at follow its values.
    """
    yield _store(layout.key, layout.stored_type(layout.key))
    if AT in time_types:
        yield _store_time(AT, time_types[AT], round_up=False)
    if layout.label is not None:
        yield _store(LABEL, label_type(layout.types[layout.label]))
    if LABEL_KNOWN_AT in time_types:
        yield _store_time(LABEL_KNOWN_AT, time_types[LABEL_KNOWN_AT], round_up=True)
    for column in layout.taken[1:]:
        yield _store(column, layout.stored_type(column))
    for read in layout.reads:
        for name in read.value_columns:
            yield _store(name, input_type(types[name]))
        if provenance and read.event_time is not None:
            yield from map(quote_name, read.provenance_columns())


def input_type(kind: str) -> str | None:
    """Return the type in which an input is stored, or None when it cannot be an input."""
    if kind in _BIG or kind.startswith("DECIMAL("):
        return "DOUBLE"
    if kind.startswith("ENUM("):
        return "VARCHAR"
    return kind if kind in _PLAIN else None


def label_type(kind: str) -> str | None:
    """As `input_type`, but sums of whole numbers (HUGEINT) stay whole: they may be classes."""
    return "BIGINT" if kind in _BIG else input_type(kind)


def context_type(kind: str) -> str | None:
    """Return the type in which a key or a carried column is stored: no two values become one."""
    if kind == "UUID":
        return "VARCHAR"
    if kind.startswith("DECIMAL(") or kind in TIME_TYPES:
        return kind
    return label_type(kind)


def to_stored(name: str, kind: str | None) -> str:
    """Return SQL for a column's value as it is stored; times with a zone become UTC without one."""
    quoted = quote_name(name)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({quoted}))"
    if kind == "TIMESTAMPTZ_NS":
        return f"make_timestamp_ns(epoch_ns({quoted}))"
    return f"CAST({quoted} AS {kind})"


def _store(name: str, kind: str | None) -> str:
    return f"{to_stored(name, kind)} AS {quote_name(name)}"


def _store_time(name: str, kind: str, *, round_up: bool) -> str:
    """Return SQL for a time as a TIMESTAMP; nanoseconds are rounded."""
    time = nanoseconds(name, kind)
    if round_up:
        time = f"({time} + 999)"
    # Division truncates towards zero, so that what is over is taken off first.
    whole = f"({time} - (({time} % 1000) + 1000) % 1000)"
    return f"make_timestamp(CAST({whole} // 1000 AS BIGINT)) AS {name}"
