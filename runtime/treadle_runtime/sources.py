"""Sources: which files they are now, by content.

    config -> observe -> Observed, whose digest enters the fingerprint -> read (`readers`) -> check_unchanged

A source's config is what its step says: `name`, `paths`, `format`, `table`, `csv`, `columns` (name -> type), and
`bad_rows` where they are quarantined.
CSV, JSON and tables of a DuckDB file are written to the store; Parquet is read where it lies.
"""

from __future__ import annotations

import glob
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from treadle.errors import Problem, ProjectError, StepError
from treadle.names import close_match
from treadle_runtime.state import SourcePart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from treadle.errors import Location
    from treadle_runtime.state import State

_ATTEMPTS = 3
_COMPRESSED = (".gz", ".zst")
_RACY_NS = 2_000_000_000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Observed:
    """A source as it was observed.

    Attributes:
        format: csv, parquet, json or duckdb.
        parts: its files in the order in which they are read.
        has_names: whether what is made of the source tells the names of its files, as bad rows do.
    """

    name: str
    format: str
    parts: tuple[SourcePart, ...]
    has_names: bool = False

    @property
    def digest(self) -> str:
        """The digest of the whole: sha256 over the content of the files in their order, hex.

        Names do not count where no reader shows them, save for the ending that tells how a file is compressed.
        """
        found = hashlib.sha256()
        for part in self.parts:
            ending = os.path.splitext(part.path)[1]
            role = ending if ending in (*_COMPRESSED, ".wal") else ""
            named = f":{part.path}" if self.has_names else ""
            found.update(f"{role}:{part.digest}{named}\n".encode())
        return found.hexdigest()

    @property
    def listing(self) -> list[tuple[str, int, str]]:
        """The files in their order: path, size in bytes, digest."""
        return [(part.path, part.size, part.digest) for part in self.parts]

    def files(self, root: Path) -> list[Path]:
        """Return the absolute paths of the files."""
        return [root.resolve() / part.path for part in self.parts]


def in_place(config: Mapping[str, Any]) -> bool:
    """Return whether a source is read where it lies, not copied into the store."""
    return bool(config["format"] == "parquet")


def observe_all(
    configs: Iterable[Mapping[str, Any]],
    root: Path,
    *,
    allow_paths: Sequence[str] = (),
    state: State | None = None,
    where: Mapping[str, Location] | None = None,
) -> dict[str, Observed]:
    """Observe several sources and report what is wrong with all of them at once.

    Args:
        where: name of a source -> the place that defines it.

    Returns:
        name -> the source as it is now.

    Raises:
        ProjectError: see `observe`.
    """
    found: dict[str, Observed] = {}
    problems: list[Problem] = []
    for config in configs:
        name = config["name"]
        try:
            place = (where or {}).get(name)
            found[name] = observe(config, root, allow_paths=allow_paths, state=state, where=place)
        except ProjectError as error:
            problems += error.problems
    if problems:
        raise ProjectError(problems)
    return found


def observe(
    config: Mapping[str, Any],
    root: Path,
    *,
    allow_paths: Sequence[str] = (),
    state: State | None = None,
    where: Location | None = None,
    now_ns: Callable[[], int] = time.time_ns,
) -> Observed:
    """Find a source's files and their digests.

    Args:
        root: the project's folder.
        allow_paths: folders outside it whose files may be read.
        state: remembers digests, so that a file is hashed once as long as its size, times and inode stay.
        where: the place that defines the source, for errors.
        now_ns: the clock; a file that changed in the last two seconds may change again without a trace in its
            times, and its digest is not remembered.

    Returns:
        the files of each path in the given order, those of a glob sorted by their path.

    Raises:
        ProjectError: TR713 a path has no files, or one cannot be read; TR008 a file lies outside the project.
        StepError: TR711 a file is being written to.
    """
    name = config["name"]
    allowed = [root.resolve(), *((root / path).resolve() for path in allow_paths)]
    paths: dict[str, None] = {}
    for pattern in config["paths"]:
        matches = _expand(pattern, root)
        problems = [p for path in matches or [pattern] if (p := _check_place(name, path, root, allowed, where))]
        if problems:
            raise ProjectError(problems)
        if not matches:
            raise ProjectError(_no_file(name, pattern, root, where))
        paths.update(dict.fromkeys(matches))
    if config["format"] == "duckdb":
        paths = dict.fromkeys(_database_files(name, list(paths), root, where))
    try:
        parts = _digest(list(paths), root, state, now_ns)
        return Observed(name, config["format"], parts, has_names=config.get("bad_rows") == "quarantine")
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
        fix = "check the file's permissions"
        raise ProjectError(Problem("TR713", f'source "{name}" cannot be read', where, why, fix=fix)) from error


def check_unchanged(observed: Observed, root: Path) -> None:
    """Make sure that what was read is what was observed; to be called after each read.

    A file that was touched, or replaced by an equal one, is not changed.

    Raises:
        StepError: TR711 for each file that is gone or has other content.
    """
    problems = []
    for part in observed.parts:
        try:
            is_same = _to_part(part.path, os.stat(root / part.path), part.digest) == part
            if not is_same and _hash(part.path, root).digest != part.digest:
                problems.append(_changed(part.path, "its content is not what it was when the run was planned"))
        except OSError as error:
            problems.append(_changed(part.path, error.strerror or str(error)))
    if observed.format == "duckdb" and len(observed.parts) == 1:
        path = f"{observed.parts[0].path}.wal"
        if os.path.exists(root / path):
            problems.append(_changed(path, "the database was written to"))
    if problems:
        raise StepError(problems)


def find_appended(observed: Observed, before: Iterable[tuple[str, int, str]], root: Path) -> dict[str, int | None]:
    """Find the files that begin with all that they held before; reads those that grew.

    Args:
        observed: the source as it is now.
        before: (path, size in bytes, digest) of its files then.

    Returns:
        path -> how many lines follow; None for a file that has no lines as it lies on the disk.
    """
    has_lines = observed.format in ("csv", "json")
    earlier = {path: (size, digest) for path, size, digest in before}
    found: dict[str, int | None] = {}
    for part in observed.parts:
        size, digest = earlier.get(part.path, (0, ""))
        if 0 < size < part.size:
            with open(root / part.path, "rb") as file:
                if _hash_first(file, size) == digest:
                    is_plain = has_lines and not part.path.endswith(_COMPRESSED)
                    found[part.path] = _count_lines(file, size) if is_plain else None
    return found


def _hash_first(file: BinaryIO, size: int) -> str:
    found = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        found.update(block)
        size -= len(block)
    return found.hexdigest()


def _count_lines(file: BinaryIO, start: int) -> int:
    """Return how many lines begin at or after a place in a file; the last may lack its end."""
    file.seek(start - 1)
    n, last = 0, b""
    while block := file.read(_BLOCK):
        n += block.count(b"\n")
        last = block[-1:]
    return n - (last == b"\n")


def _expand(pattern: str, root: Path) -> list[str]:
    """Return the files of a path or glob, relative to the root where they lie below it."""
    if (root / pattern).is_file() or not glob.has_magic(pattern):
        matches = [pattern] if (root / pattern).is_file() else []
    else:
        found = glob.glob(pattern, root_dir=root, recursive=True)
        matches = [path for path in found if (root / path).is_file() or os.path.islink(root / path)]
    return sorted({_normalise(path, root) for path in matches})


def _normalise(path: str, root: Path) -> str:
    full = os.path.normpath(root.absolute() / path)
    relative = os.path.relpath(full, root.absolute())
    return full if relative.startswith("..") else relative.replace(os.sep, "/")


def _database_files(name: str, paths: list[str], root: Path, where: Location | None) -> list[str]:
    if len(paths) != 1:
        what = f'source "{name}" names {len(paths)} database files'
        raise ProjectError(
            Problem("TR713", what, where, ", ".join(paths), fix="name one file, and one source for each")
        )
    wal = f"{paths[0]}.wal"
    return [paths[0], wal] if (root / wal).is_file() else paths


def _check_place(name: str, path: str, root: Path, allowed: Sequence[Path], where: Location | None) -> Problem | None:
    target = Path(os.path.realpath(root / path))
    if not any(target.is_relative_to(folder) for folder in allowed):
        leads = f"{path} leads to {target}" if str(target) != path else path
        fix = "copy it into the project, or list its folder in `allow_paths` of treadle.yml"
        return Problem("TR008", f'source "{name}" lies outside the project', where, leads, fix=fix)
    if os.path.islink(root / path) and not target.is_file():
        why = f"{path} is a link to {target}, which is no file"
        return Problem("TR713", f'source "{name}" cannot be read', where, why, fix="remove the link")
    try:
        path.encode()
    except UnicodeEncodeError:
        why = f"{path!a} is not UTF-8"
        return Problem("TR713", f'source "{name}" cannot be read', where, why, fix="rename the file")
    return None


def _no_file(name: str, pattern: str, root: Path, where: Location | None) -> Problem:
    what = f'source "{name}" has no files'
    if (root / pattern).is_dir():
        fix = f"name its files, as in {pattern.rstrip('/')}/*.csv"
        return Problem("TR713", what, where, f"{pattern} is a folder", fix=fix)
    missing = Path(pattern)
    while glob.has_magic(str(missing.parent)) or not (root / missing.parent).is_dir():
        missing = missing.parent
    folder = missing.parent
    entries = sorted(entry.name for entry in (root / folder).iterdir() if not entry.name.startswith("."))
    close = close_match(missing.name, entries)
    suggestion = (folder / close).as_posix() if close else ""
    shown = "the project's folder" if folder == Path() else f"{folder.as_posix()}/"
    why = f"{pattern} matches nothing; {shown} holds {_enumerate(entries)}"
    return Problem("TR713", what, where, why, suggestion, fix="correct `path`, or put the file there")


def _enumerate(names: Sequence[str], limit: int = 5) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _digest(paths: Sequence[str], root: Path, state: State | None, now_ns: Callable[[], int]) -> tuple[SourcePart, ...]:
    known = state.source_parts(paths) if state else {}
    parts, fresh = [], []
    for path in paths:
        remembered = known.get(path)
        if remembered and _to_part(path, os.stat(root / path), remembered.digest) == remembered:
            parts.append(remembered)
            continue
        now = now_ns()
        part = _hash(path, root)
        parts.append(part)
        # Every write sets ctime, whatever mtime says.
        if now - part.ctime_ns > _RACY_NS:
            fresh.append(part)
    if state and fresh:
        state.record_source_parts(fresh)
    return tuple(parts)


def _hash(path: str, root: Path) -> SourcePart:
    for _ in range(_ATTEMPTS):
        with open(root / path, "rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            part = _to_part(path, before, digest)
            if part == _to_part(path, os.fstat(file.fileno()), digest):
                return part
    raise StepError(_changed(path, "it is being written to"))


def _to_part(path: str, stat: os.stat_result, digest: str = "") -> SourcePart:
    return SourcePart(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, digest)


def _changed(path: str, why: str) -> Problem:
    fix = "run the command again once nothing writes to the file"
    return Problem("TR711", f"{path} changed while it was read", why=why, fix=fix)
