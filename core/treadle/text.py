"""The texts behind the digests of an identity: what a person sees of a change.

A fingerprint tells that the code or the files of a step differ; these tell how. They are kept beside the identity of
each version that is built, and never enter it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from treadle.step import Step

if TYPE_CHECKING:
    from treadle.pymodule import Atom
    from treadle.pysource import Sources

MAX_CHARACTERS = 4_000_000
"""What is kept of one step. Beyond it, as of a source with 100,000 files, a change is told without its files."""

File = tuple[str, int, str]
"""A file of a source: its path, its size in bytes, and the SHA-256 of its content."""


def read_texts(step: Step, python: Sources | None, files: Iterable[File] = ()) -> dict[str, str]:
    """Return component -> text, for the components of a step's identity that are digests of a text.

    Args:
        step: the step.
        python: Python files of the project, those at least that the step reaches; what they lack is left out.
        files: of a source, in the order in which they are read.

    Returns:
        for SQL, the query after rendering; for Python, the source of each function, class and global that is reached,
        or the file where it counts as a whole; for a source, its files (see `read_files`).
    """
    if step.query is not None:
        found = {f"code:{name}": step.query.text for name in step.code}
    elif step.kind == "source":
        found = {"parts": json.dumps([list(file) for file in files], separators=(",", ":"))}
    elif python is not None:
        reached = [name for name in step.code if name.partition(":")[0] in python.files]
        found = {f"code:{name}": _read_piece(python, name) for name in reached}
    else:
        found = {}
    return _bounded(found)


def read_files(texts: Mapping[str, str]) -> list[File] | None:
    """Return a source's files from its texts; None where they were not kept."""
    text = texts.get("parts")
    return None if text is None else [(path, size, digest) for path, size, digest in json.loads(text)]


def _read_piece(python: Sources, name: str) -> str:
    path, _, symbol = name.partition(":")
    if not symbol or symbol == "<module>":
        return python.files[path]
    # As Python counts lines: `splitlines` would also end one at a form feed.
    lines = python.module(path).text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    atoms = python.module(path).bindings.get(symbol, ())
    pieces = dict.fromkeys("\n".join(lines[first:last]) for first, last in map(_span, atoms))
    return "\n".join(pieces) + "\n"


def _span(atom: Atom) -> tuple[int, int]:
    """Return the lines of a statement, its decorators among them."""
    node = atom.node
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return first - 1, node.end_lineno or node.lineno


def _bounded(texts: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    left = MAX_CHARACTERS
    for name, text in texts.items():
        if len(text) <= left:
            found[name] = text
            left -= len(text)
    return found
