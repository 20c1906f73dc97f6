"""What a step runs, as plain values: a query or a function of the project; and what a SQL file says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from treadle.errors import Location


class Query(Struct, frozen=True, array_like=True, gc=False):
    """One SELECT that may run.

    Attributes:
        text: the rendered SQL from its first character to its last token, without a semicolon.
        tokens: SHA-256, as hex, of its tokens: equal when only comments, layout or keywords' case differ.
        refs: the logical names that it may read, in the order of their first use.
    """

    text: str
    tokens: str
    refs: tuple[str, ...]


class Function(Struct, frozen=True, array_like=True, gc=False):
    """A function that a decorator of Treadle's makes a feature or a stage.

    Attributes:
        path: its file, relative to the project's root, with `/`.
        name: its name.
        decorator: `feature` or `stage`.
        parameters: the tables that it reads, in order.
        annotations: parameter or `return` -> annotation as text, '' where there is none.
        arguments: the decorator's arguments; JSON.
        line: where `def` stands, from 1.
        description: its docstring, without indentation.
    """

    path: str
    name: str
    decorator: str
    parameters: tuple[str, ...]
    annotations: Mapping[str, str]
    arguments: Mapping[str, Any]
    line: int
    description: str


class Parsed(Struct, frozen=True, array_like=True, gc=False):
    """What a SQL file says.

    Attributes:
        digest: sha256 of its text, in hex.
        where: the place of its configuration.
        refs, ref_lines, config, uses_as_of: see `treadle.render.Rendered`.
        volatile: whether the query was allowed to be.
    """

    digest: str
    where: Location
    refs: tuple[str, ...]
    ref_lines: tuple[int, ...]
    config: dict[str, Any]
    uses_as_of: bool
    volatile: bool
    query: Query

    def says_the_same(self, other: Parsed) -> bool:
        """Return whether nothing but the query differs: what it refers to and configures is the same."""
        ours = (self.refs, self.config, self.uses_as_of, self.volatile)
        return ours == (other.refs, other.config, other.uses_as_of, other.volatile)
