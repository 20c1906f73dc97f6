"""Model versions and their aliases, on top of the state's tables.

A candidate becomes a version when a run publishes it (`State.publish`). `candidate` and `champion` are names
for versions, in each environment its own; `champion` is set by promotion alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from treadle.errors import Problem, UsageError
from treadle.names import close_match
from treadle_runtime.mapstate import Candidate
from treadle_runtime.state import State

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

__all__ = ["AliasChange", "Candidate", "ModelVersion", "Registry"]


@dataclass(frozen=True)
class ModelVersion:
    """A numbered model of a pipeline; the fingerprints are those of its `Candidate`.

    Attributes:
        number: from 1, in the order of publication; never given twice.
        passed: whether every gate passed.
        aliases: its names in the environment that was asked for.
    """

    pipeline: str
    number: int
    model: str
    choose: str
    twin: str
    shipped: str
    validate: str
    evaluate: str
    split: str
    dataset: str
    champion_input: int | None
    metrics: Mapping[str, Any]
    passed: bool
    created_at: str
    run_id: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class AliasChange:
    """An entry of the aliases' history; `forced` when the gates had not passed."""

    env: str
    pipeline: str
    alias: str
    old: int | None
    new: int
    forced: bool
    at: str


class Registry:
    """The registry of a project, in its state file."""

    def __init__(self, state: State) -> None:
        self._state = state

    def pipelines(self) -> list[str]:
        """Return the pipelines that have versions, by name."""
        rows = self._state.read("SELECT DISTINCT pipeline FROM model_versions ORDER BY pipeline")
        return [row["pipeline"] for row in rows]

    def versions(self, pipeline: str, *, env: str) -> list[ModelVersion]:
        """Return a pipeline's versions, newest first, with their aliases in an environment."""
        query = "SELECT * FROM model_versions WHERE pipeline = ? ORDER BY number DESC"
        rows = self._state.read(query, (pipeline,))
        aliases = self.aliases(env).get(pipeline, {})
        return [_to_version(row, aliases) for row in rows]

    def version(self, pipeline: str, which: int | str, *, env: str) -> ModelVersion:
        """Return a version by its number or by an alias in an environment.

        Raises:
            UsageError: TR603, there is none.
        """
        aliases = self.aliases(env).get(pipeline, {})
        number = aliases.get(str(which), int(which) if str(which).isdecimal() else None)
        query = "SELECT * FROM model_versions WHERE pipeline = ? AND number = ?"
        rows = self._state.read(query, (pipeline, number)) if number is not None else []
        if not rows:
            raise self._unknown(pipeline, which, aliases, env)
        return _to_version(rows[0], aliases)

    def champion(self, pipeline: str, *, env: str) -> ModelVersion | None:
        """Return the version that was promoted in an environment, or None."""
        number = self.aliases(env).get(pipeline, {}).get("champion")
        return None if number is None else self.version(pipeline, number, env=env)

    def aliases(self, env: str) -> dict[str, dict[str, int]]:
        """Return pipeline -> alias -> number, in an environment."""
        found: dict[str, dict[str, int]] = {}
        query = "SELECT pipeline, alias, number FROM aliases WHERE env = ? ORDER BY pipeline, alias"
        for pipeline, alias, number in self._state.read(query, (env,)):
            found.setdefault(pipeline, {})[alias] = number
        return found

    def promote(
        self,
        pipeline: str,
        which: int | str = "candidate",
        *,
        env: str,
        force: bool = False,
        check: Callable[[ModelVersion], None] | None = None,
    ) -> ModelVersion:
        """Make a version the champion of an environment.

        Args:
            which: its number or an alias.
            force: whether a version whose gates did not pass may be promoted; the history says so.
            check: called with the version before it is promoted, while nobody else can withdraw it; may raise.

        Returns:
            the version with its aliases after the promotion.

        Raises:
            UsageError: TR603, there is no such version, or its gates did not pass.
        """
        with self._state.transaction(durable=True) as con:
            found = self.version(pipeline, which, env=env)
            if check is not None:
                check(found)
            if not found.passed and not force:
                what = f'version {found.number} of "{pipeline}" did not pass its gates'
                fix = "`treadle models` lists its metrics; promote it all the same with --force"
                raise UsageError(Problem("TR603", what, fix=fix))
            self._state.point_alias(con, env, pipeline, "champion", found.number, forced=not found.passed)
        return self.version(pipeline, found.number, env=env)

    def history(self, pipeline: str, *, env: str) -> list[AliasChange]:
        """Return how a pipeline's aliases moved in an environment, newest first."""
        columns = "env, pipeline, alias, old, new, forced, at"
        query = f"SELECT {columns} FROM alias_history WHERE env = ? AND pipeline = ? ORDER BY id DESC"
        rows = self._state.read(query, (env, pipeline))
        return [AliasChange(**{**dict(row), "forced": bool(row["forced"])}) for row in rows]

    def _unknown(self, pipeline: str, which: int | str, aliases: Mapping[str, int], env: str) -> UsageError:
        known = self.pipelines()
        if pipeline not in known:
            what = f'pipeline "{pipeline}" has no model versions'
            fix = f"`treadle build --select pipeline:{pipeline}` makes one"
            return UsageError(Problem("TR603", what, suggestion=close_match(pipeline, known) or "", fix=fix))
        query = "SELECT max(number) FROM model_versions WHERE pipeline = ?"
        last = self._state.read(query, (pipeline,))[0][0]
        why = f"its versions are numbered 1 to {last}; aliases in {env}: {', '.join(aliases) or 'none'}"
        return UsageError(
            Problem(
                "TR603",
                f'pipeline "{pipeline}" has no version "{which}" in {env}',
                why=why,
                suggestion=close_match(str(which), aliases) or "",
                fix="`treadle models` lists them",
            )
        )


def _to_version(row: sqlite3.Row, aliases: Mapping[str, int]) -> ModelVersion:
    found = dict(row)
    found["metrics"] = json.loads(found["metrics"])
    found["passed"] = bool(found["passed"])
    names = tuple(sorted(name for name, number in aliases.items() if number == row["number"]))
    return ModelVersion(**found, aliases=names)
