"""The texts of a project as it was compiled, for the state to keep and for a person to compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from treadle.cache import Compiled
from treadle.files import digest_text
from treadle.step import Step
from treadle.text import read_texts
from treadle_runtime.sources import Observed

if TYPE_CHECKING:
    from treadle.pysource import Sources


class TextReader:
    """Reads the Python files that steps were compiled from, each once.

    Args:
        root: the project's folder.
        compiled: knows the files as they were compiled; one that changed since then has no text.
    """

    def __init__(self, root: Path, compiled: Compiled) -> None:
        self._root, self._compiled = root, compiled
        self._files: dict[str, str] = {}
        self._python: Sources | None = None

    def read(self, step: Step, observed: Observed | None) -> dict[str, str]:
        """Return component -> text of a step's code or files (see `treadle.text.read_texts`)."""
        python = self._read_python(step) if step.function is not None else None
        return read_texts(step, python, observed.listing if observed is not None else ())

    def _read_python(self, step: Step) -> Sources:
        if self._python is None:
            from treadle.pysource import Sources  # parsing Python is for the steps that are Python

            self._python = Sources(self._files)
        for path in {part.partition(":")[0] for part in step.code} - self._files.keys():
            try:
                text = (self._root / path).read_bytes().decode("utf-8-sig")
            except (OSError, UnicodeDecodeError):
                continue
            if digest_text(text) == self._compiled.python.get(path):
                self._files[path] = text
        return self._python
