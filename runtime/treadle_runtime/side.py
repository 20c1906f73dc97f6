"""The other side of a comparison: an environment of the state, or a manifest.json of whatever was compiled.

`--state production`, `--state ../main/target` -> find_side -> read_definitions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from treadle.comparison import Definitions
from treadle.errors import Problem, UsageError
from treadle.manifest import Manifest, read_manifest
from treadle.names import close_match, is_identifier
from treadle_runtime.state import State

_FILE = "manifest.json"

Side = str | Manifest
"""The name of an environment, or a manifest."""


def find_side(name: str, state: State, *, declared: Callable[[], Iterable[str]]) -> Side:
    """Return what `--state` names.

    Args:
        name: an environment, else the path of a manifest.json or of the folder that holds it.
        state: knows the environments that something was published in.
        declared: returns those that the project names, whether or not something is published there.

    Raises:
        UsageError: TR608 it is neither, or a manifest that cannot be compared with; TR801 a newer Treadle wrote it.
    """
    known = set(state.environments())
    if name not in known and is_identifier(name):
        known.update(declared())
    if name in known:
        return name
    path = Path(name)
    path = path / _FILE if path.is_dir() else path
    try:
        return read_manifest(path.read_text("utf-8"), path=path.as_posix())
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        suggestion = close_match(name, known) if is_identifier(name) else None
        raise UsageError(
            Problem(
                "TR608",
                f'"{name}" is neither an environment nor a manifest',
                why=f"environments are {', '.join(sorted({*known, *declared()}))}; {path}: {reason}",
                suggestion=suggestion or "",
                fix="name an environment, or a manifest.json that `treadle compile` wrote, or its folder",
            )
        ) from error


def read_definitions(side: Side, state: State) -> Definitions:
    """Return step id -> components of what stands on the other side."""
    if isinstance(side, Manifest):
        return side.definitions()
    published = state.environment(side)
    known = state.identities(published.values())
    return {step_id: known.get(fingerprint) for step_id, fingerprint in published.items()}
