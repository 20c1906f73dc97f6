"""SQL files, rendered and read; what was read before and has not changed is not read again.

    SqlReader.open(path, text) -> SqlFile: what it refers to, its configuration -> .read_query(volatile) -> Query

A `Parsed` is what one file says, as the compile cache keeps it: valid as long as the file's text and the renderer's
surroundings (macros, variables, as_of, environment variables that were read) are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from treadle import sql
from treadle.errors import Location, Problem, ProjectError
from treadle.files import digest_text
from treadle.program import Parsed, Query
from treadle.render import Rendered, Renderer

Failed = tuple[str, tuple[Problem, ...]]
_CONFIG = re.compile(r"\{\{-?\s*config\s*\(")


class SqlFile:
    """A SQL file whose references and configuration are known, and whose query is read when it is asked for."""

    def __init__(self, path: str, text: str, reader: SqlReader) -> None:
        self.path, self._text, self._reader = path, text, reader
        self._digest = digest_text(text)
        known = reader.known.get(path)
        self._known = known if known is not None and known.digest == self._digest else None
        self._rendered: Rendered | None = None
        said: Parsed | Rendered = self._known or self._render()
        self.refs, self._ref_lines, self.config = said.refs, said.ref_lines, said.config
        self._uses_as_of = said.uses_as_of

    def _render(self) -> Rendered:
        if self._rendered is None:
            name = os.path.splitext(os.path.basename(self.path))[0]
            self._rendered = self._reader.renderer.render(self._text, path=self.path, name=name)
        return self._rendered

    def read_query(self, *, volatile: bool) -> Query:
        """Return the query, checked.

        Args:
            volatile: whether it may call functions whose result depends on more than the data.

        Raises:
            ProjectError: with everything that is wrong with it.
        """
        if self._known is None or self._known.volatile != volatile:
            query = sql.read_query(self._render(), path=self.path, volatile=volatile)
            said = (self.refs, self._ref_lines, dict(self.config), self._uses_as_of)
            self._known = Parsed(self._digest, config_line(self.path, self._text), *said, volatile, query)
        self._reader.parsed[self.path] = self._known
        return self._known.query

    def locate_ref(self, name: str) -> Location:
        """Return where the file first uses one of `refs`."""
        at = self._ref_lines[self.refs.index(name)]
        lines = self._text.splitlines()
        return Location(self.path, at, 0, lines[at - 1].strip() if 0 < at <= len(lines) else "")


class SqlReader:
    """Reads the SQL files of one project.

    Args:
        renderer: for what is not known.
        known: path -> what a file said when it was read last, with the same surroundings.
        failed: path -> (digest of its text, what is wrong with its template), of those that were rendered in vain.

    Attributes:
        parsed: path -> what each file says whose query was read.
    """

    def __init__(
        self, renderer: Renderer, known: Mapping[str, Parsed], failed: Mapping[str, Failed] | None = None
    ) -> None:
        self.renderer, self.known, self.failed = renderer, known, failed or {}
        self.parsed: dict[str, Parsed] = {}

    def open(self, path: str, text: str) -> SqlFile:
        """Return what a file refers to and configures.

        Raises:
            ProjectError: its template is wrong.
        """
        digest, problems = self.failed.get(path, ("", ()))
        if problems and digest == digest_text(text):
            raise ProjectError(problems)
        return SqlFile(path, text, self)

    def knows(self, path: str, text: str) -> bool:
        """Return whether it is known what a file says that holds this text."""
        known = self.known.get(path)
        return known is not None and known.digest == digest_text(text)


def config_line(path: str, text: str) -> Location:
    """Return the place of `config()` in a SQL file; its first line where there is none."""
    found = _CONFIG.search(text)
    number = text.count("\n", 0, found.start()) + 1 if found else 1
    lines = text.splitlines()
    return Location(path, number, text=lines[number - 1].strip()[:100] if number <= len(lines) else "")
