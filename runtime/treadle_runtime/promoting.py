"""Whether a model version can be promoted: what it ships stands in the store, and is as it was written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from treadle.errors import Problem, StoreError, UsageError

if TYPE_CHECKING:
    from treadle_runtime.registry import ModelVersion
    from treadle_runtime.store import Store


def is_standing(version: ModelVersion, standing: frozenset[str]) -> bool:
    """Return whether a version's model and its held-out twin are among the fingerprints in the store."""
    return {version.shipped, version.twin} <= standing


def check_whole(version: ModelVersion, *, store: Store, env: str) -> None:
    """Read the model of a version and its held-out twin, and compare them with what was written.

    Args:
        env: the environment that is worked in.

    Raises:
        UsageError: TR807, one is not in the store.
        StoreError: TR804, one is damaged; TR801, a newer Treadle wrote it.
    """
    for what, fingerprint in (("model", version.shipped), ("held-out twin", version.twin)):
        if problems := store.find_damage(fingerprint):
            fix = "promote another version, or run `treadle verify --repair` and the commands that it prints"
            raise StoreError(replace(problem, fix=fix) for problem in problems)
        if store.read(fingerprint) is None:
            gone = f'version {version.number} of "{version.pipeline}" is not in the store any more'
            why = f"its {what} {fingerprint[:12]} is gone"
            raise UsageError(Problem("TR807", gone, why=why, fix=f"promote another version, or {make_again(env)}"))


def make_again(env: str) -> str:
    """Return what brings back a version that an environment built."""
    made = "it makes the version again if the files and the data are still those that it was made from"
    return f"run `treadle build --env {env}`: {made}"
