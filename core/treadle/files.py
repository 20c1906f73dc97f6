"""The files of a project that Treadle looks at: found, and recognised when nothing about them has changed.

find_files: one walk over the folders, a stat a file -> Found, whose `signature` stands for all of them at once.
"""

from __future__ import annotations

import hashlib
import marshal
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from treadle.errors import Location, Problem, ProjectError

PROJECT_FILE = "treadle.yml"
FOLDERS = ("features", "models", "pipelines", "tests", "macros")
YAML = (".yml", ".yaml")
SEED = ".csv"
_IGNORED_FOLDERS = {"target", "build", "dist", "node_modules", "__pycache__"}

Stamp = tuple[int, int, int, int]
"""Size, time of modification and of change in ns, inode: a file that was written to has another."""
NAMED: Stamp = (0, 0, 0, 0)


@dataclass(frozen=True)
class Found:
    """What a walk found.

    Attributes:
        stamps: path below the root, with `/` -> stamp, in the order of paths; treadle.yml is among them. Of a CSV that
            may be a seed only the name counts here: `NAMED`.
        problems: folders that cannot be read, and links that lead out of the project.
    """

    stamps: Mapping[str, Stamp]
    problems: tuple[Problem, ...]

    @property
    def signature(self) -> str:
        """A digest over all paths and stamps."""
        data = marshal.dumps(list(self.stamps.items()), 2)  # of version 2, which depends on the values alone
        return hashlib.sha256(data).hexdigest()


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds treadle.yml.

    Raises:
        ProjectError: TR001, there is none.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder
    why = f"no {PROJECT_FILE} in {start} or above"
    fix = "`treadle init NAME` makes one, or pass --project"
    raise ProjectError(Problem("TR001", "this is no Treadle project", why=why, fix=fix))


def find_files(root: Path, allowed: Iterable[Path]) -> Found:
    """Find the files that can matter; hidden folders and virtual environments are passed over.

    Args:
        root: the project's folder.
        allowed: folders that links may lead into, resolved.
    """
    walk = _Walk(str(root), tuple(allowed))
    walk.run()
    return Found({path: walk.stamps[path] for path in sorted(walk.stamps)}, tuple(walk.problems))


class _Walk:
    def __init__(self, root: str, allowed: tuple[Path, ...]) -> None:
        self.root, self.allowed = root, allowed
        self.stamps: dict[str, Stamp] = {}
        self.problems: list[Problem] = []

    def run(self) -> None:
        first = os.stat(self.root)
        folders, seen = [""], {(first.st_dev, first.st_ino)}
        while folders:
            folder = folders.pop()
            endings, is_data = _endings(folder), folder.startswith("data/")
            for entry in self._scan(folder):
                name = entry.name
                if is_data and not (name.endswith(endings) or name == "seeds"):
                    continue  # of raw files there may be any number
                if name[0] == "." or (entry.is_symlink() and not self._is_inside(entry, folder + name)):
                    continue
                if entry.is_file():
                    if name.endswith(SEED) and SEED in endings:
                        self.stamps[folder + name] = NAMED
                    elif name.endswith(endings) or (name == PROJECT_FILE and not folder):
                        stat = entry.stat()
                        self.stamps[folder + name] = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
                elif entry.is_dir() and self._is_walked(folder, name):
                    inode = entry.stat().st_dev, entry.stat().st_ino
                    if inode not in seen and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                        seen.add(inode)
                        folders.append(f"{folder}{name}/")

    def _is_walked(self, folder: str, name: str) -> bool:
        """Return whether a folder is looked into; of data/ only seeds/, for it may hold a million images."""
        if not folder:
            return name not in _IGNORED_FOLDERS
        return folder != "data/" or name == "seeds"

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                return sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            why = error.strerror or str(error)
            where = Location(folder.rstrip("/") or ".")
            self.problems.append(Problem("TR009", "a folder cannot be read", where, why, fix="check its permissions"))
            return []

    def _is_inside(self, entry: os.DirEntry[str], path: str) -> bool:
        try:
            target = Path(entry.path).resolve()
        except (OSError, RuntimeError):  # a link that leads to itself
            return False
        if any(target.is_relative_to(allowed) for allowed in self.allowed):
            return True
        if path.split("/")[0] in FOLDERS:
            why = f"the link leads to {target}"
            fix = "copy it into the project, or list its folder in `allow_paths` of treadle.yml"
            self.problems.append(Problem("TR008", "a file lies outside the project", Location(path), why, fix=fix))
        return False


def _endings(folder: str) -> tuple[str, ...]:
    """Return how the names of files end that are read in a folder."""
    top = folder.partition("/")[0]
    if top == "data":
        return (SEED, *YAML)
    if top not in FOLDERS:
        return (".py",)
    return (".py", ".sql") if top == "macros" else (".py", ".sql", ".md", *YAML)


def digest_text(text: str) -> str:
    """Return the sha256 of a file's text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
