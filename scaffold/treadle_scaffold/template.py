"""Projects to start from: the folders below templates/, with `[[ project_name ]]` filled in.

A leading `dot_` in a name stands for `.`, so that version control and packaging treat the files as what they are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from treadle.errors import Problem, UsageError
from treadle.names import close_match
from treadle_scaffold.folder import to_identifier, write_folder

TEMPLATES = ("flights", "minimal")
_BINARY = (".parquet",)


def init(target: Path, *, name: str = "", template: str = "flights") -> list[Path]:
    """Write a new project from a template.

    Args:
        target: a folder that does not exist, or an empty one.
        name: the project's name; what no name may hold becomes an underscore. Empty: the folder's name.
        template: `flights`, a slice of real data with features in SQL and Python, two models and gates; or `minimal`.

    Returns:
        the files written.

    Raises:
        UsageError: TR603, there is no such template, or the folder is not empty.
    """
    if template not in TEMPLATES:
        suggestion = close_match(template, TEMPLATES) or ""
        what = f'there is no template "{template}"'
        raise UsageError(Problem("TR603", what, suggestion=suggestion, fix=f"take one of {', '.join(TEMPLATES)}"))
    name = to_identifier(name or target.resolve().name)
    return write_folder(target, read_template(template, {"project_name": name}))


def read_template(template: str, values: dict[str, str]) -> dict[str, bytes]:
    """Return path -> content of a template's files, with values in the place of their names."""
    found = {}
    for path, file in _walk(files("treadle_scaffold") / "templates" / template):
        content = file.read_bytes()
        if not path.endswith(_BINARY):
            for name, value in values.items():
                content = content.replace(f"[[ {name} ]]".encode(), value.encode())
        found[path] = content
    return found


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        path = prefix + ("." + item.name.removeprefix("dot_") if item.name.startswith("dot_") else item.name)
        if item.is_dir():
            if item.name != "__pycache__":
                yield from _walk(item, path + "/")
        elif not item.name.endswith(".pyc"):
            yield path, item
