"""A new folder that holds all of its files or does not exist."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from treadle.errors import Problem, UsageError

# A folder that holds nothing else is as good as an empty one.
_HARMLESS = {".git", ".DS_Store"}


def check_target(target: Path) -> None:
    """Make sure that a project can be written to a folder.

    Raises:
        UsageError: TR603, it is a file, or a folder that is not empty.
    """
    if not target.exists() and not target.is_symlink():
        return
    what = f'"{target}" cannot become a project'
    if not target.is_dir():
        raise UsageError(Problem("TR603", what, why="it is a file", fix="take another name"))
    held = sorted(path.name for path in target.iterdir() if path.name not in _HARMLESS)
    if held:
        shown = ", ".join(held[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
        raise UsageError(
            Problem("TR603", what, why=f"the folder holds {shown}", fix="take another name, or an empty folder")
        )


def write_folder(target: Path, files: Mapping[str, bytes | Path]) -> list[Path]:
    """Write all files, or none: they stand beside the target first and are moved there at the end.

    Args:
        target: a folder that does not exist, or an empty one (see `check_target`).
        files: path below it -> content, or a file to copy.

    Returns:
        the files written, sorted.

    Raises:
        UsageError: TR603, the target is not empty, or the folder cannot be written.
    """
    check_target(target)
    place = target.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as scratch:
            draft = Path(scratch) / "project"
            for name, content in files.items():
                path = draft / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    shutil.copyfile(content, path)
            _publish(draft, place)
    except OSError as error:
        what = f'"{target}" cannot be written'
        raise UsageError(
            Problem("TR603", what, why=f"{error.filename}: {error.strerror}", fix="take another folder")
        ) from error
    return sorted(target / name for name in files)


def _publish(draft: Path, place: Path) -> None:
    if not place.exists():
        draft.rename(place)
        return
    moved: list[tuple[Path, Path]] = []
    try:
        for path in sorted(draft.iterdir()):
            os.rename(path, place / path.name)
            moved.append((path, place / path.name))
    except OSError:
        for path, there in moved:
            os.rename(there, path)
        raise


def to_identifier(text: str, *, default: str = "project") -> str:
    """Return the nearest name: letters, digits and underscores, not starting with a digit or an underscore."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    found = re.sub(r"\W+", "_", plain, flags=re.ASCII).strip("_")
    if not found:
        return default
    return found if not found[0].isdigit() else f"{default}_{found}"
