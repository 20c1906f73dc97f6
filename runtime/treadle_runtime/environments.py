"""Environments as maps from names to versions: listed, compared, promoted, rolled back, dropped.

A move writes the map, the candidates and an entry of the history in one durable transaction: who reads meanwhile sees
the old map or the new one. No data moves, for all environments stand on one store. A version that `clean` removed
cannot be stood on again, so every move looks for the versions first, while nothing can be removed; and before, it waits
until what stands is on the disk: what a killed run made again may not be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from treadle import select
from treadle.errors import Problem, StoreError, UsageError
from treadle_runtime.registry import Registry

if TYPE_CHECKING:
    import sqlite3

    from treadle.step import Graph
    from treadle_runtime.state import State
    from treadle_runtime.store import Store

Changes = Mapping[str, tuple[str | None, str | None]]
_MAX_NAMED = 5


@dataclass(frozen=True)
class Summary:
    """An environment in one line.

    Attributes:
        is_defined: whether treadle.yml names it.
        steps: how many its map has.
        published_at, command: of its last publication; None where there is none.
    """

    name: str
    is_defined: bool
    steps: int
    published_at: str | None
    command: str | None


@dataclass(frozen=True)
class Move:
    """What a promotion, a rollback or a drop changed.

    Attributes:
        changes: step id -> (fingerprint before, after), None where there was or is none.
        candidates: pipeline -> number of the version that became its candidate.
        restores: the publication whose map is in force again, for a rollback.
    """

    changes: Changes
    candidates: Mapping[str, int]
    restores: int | None = None


class Environments:
    """The environments of a project.

    Args:
        state: holds the maps and their history.
        store: holds the versions that they stand on.
        command: what the history is told that moved them.
    """

    def __init__(self, state: State, store: Store, *, command: str) -> None:
        self.state, self.store, self.command = state, store, command

    def list(self, defined: Iterable[str]) -> list[Summary]:
        """Return the environments that are defined, or have a map or aliases, by name."""
        defined = frozenset(defined)
        query = """
            SELECT n.name, (SELECT count(*) FROM environments WHERE env = n.name) AS steps, p.at, p.command
            FROM (SELECT value AS name FROM json_each(?)
              UNION SELECT env FROM environments UNION SELECT env FROM aliases) AS n
            LEFT JOIN publications AS p ON p.id = (SELECT max(id) FROM publications WHERE env = n.name)
            ORDER BY n.name"""
        rows = self.state.read(query, (json.dumps(sorted(defined)),))
        return [Summary(name, name in defined, steps, at, command) for name, steps, at, command in rows]

    def names(self) -> set[str]:
        """Return the environments that have a map, aliases or a history."""
        tables = ("environments", "aliases", "publications")
        rows = self.state.read(" UNION ".join(f"SELECT env FROM {table}" for table in tables))
        return {row[0] for row in rows}

    def diff(self, first: str, second: str) -> Changes:
        """Return step id -> (fingerprint in the first, in the second), where they differ; None where there is none."""
        maps: dict[str, dict[str, str]] = {first: {}, second: {}}
        query = "SELECT env, step, fingerprint FROM environments WHERE env IN (?, ?)"  # one look at both
        for env, step, fingerprint in self.state.read(query, (first, second)):
            maps[env][step] = fingerprint
        ours, theirs = maps[first], maps[second]
        pairs = {step: (ours.get(step), theirs.get(step)) for step in sorted({*ours, *theirs})}
        return {step: pair for step, pair in pairs.items() if pair[0] != pair[1]}

    def promote(
        self, source: str, target: str, *, steps: Iterable[str] | None = None, shown: Move | None = None
    ) -> Move:
        """Give an environment the map of another, and its pipelines' candidates.

        The champion stays: it is moved by `Registry.promote` alone, which looks at the gates.

        Args:
            source: where the map is taken from.
            target: whose map changes.
            steps: ids of the steps whose versions move; the others stay. None: all, and what the source does not have
                leaves the target.
            shown: what `preview` told and somebody agreed to: nothing else is done. None: whatever it is.

        Raises:
            UsageError: TR603, they are the same; TR807, nothing is published in the source, or a version that its map
                names is not in the store.
            StoreError: TR803, TR805, what was published could not be written, and is withdrawn; TR808, what would
                change is not what was shown.
        """
        with self._moving() as con:
            wanted, candidates = self._promotion(source, target, steps)
            if shown is not None:
                _check_shown(shown, self._preview(target, wanted, candidates), source, target)
            moved = self._point_candidates(con, target, candidates)
            changes = self.state.write_map(con, target, wanted, command=self.command)
        return Move(changes, moved)

    def preview(self, source: str, target: str, *, steps: Iterable[str] | None = None) -> Move:
        """Return what `promote` would change now, or raise what it would raise."""
        return self._preview(target, *self._promotion(source, target, steps))

    def _preview(self, target: str, wanted: Mapping[str, str | None], candidates: Mapping[str, int]) -> Move:
        ours, now = self.state.environment(target), self._candidates(target)
        changes = {step: (ours.get(step), after) for step, after in wanted.items() if ours.get(step) != after}
        return Move(changes, {name: number for name, number in candidates.items() if now.get(name) != number})

    def _promotion(
        self, source: str, target: str, steps: Iterable[str] | None
    ) -> tuple[dict[str, str | None], dict[str, int]]:
        """Return what is to be written into the target's map, and its candidates; changes nothing."""
        if source == target:
            fix = "name two environments, as in `treadle env promote dev production`"
            raise UsageError(Problem("TR603", f'"{source}" cannot be promoted to itself', fix=fix))
        theirs = self.state.environment(source)
        if not theirs:
            what, fix = f'environment "{source}" has nothing to promote', f"run `treadle build --env {source}`"
            raise UsageError(Problem("TR807", what, why="nothing is published in it", fix=fix))
        wanted = theirs if steps is None else {step: theirs[step] for step in steps if step in theirs}
        self._check_standing(wanted, f'the map of "{source}" names', f"run `treadle build --env {source}`")
        gone = self.state.environment(target).keys() - theirs.keys() if steps is None else ()
        offered = self._candidates(source)
        candidates = {name: number for name, number in offered.items() if f"{name}.validate" in wanted}
        return {**dict.fromkeys(gone), **wanted}, candidates

    def rollback(self, env: str, *, to: int | None = None) -> Move:
        """Give an environment the map that it had before its last publication, or after an earlier or later one.

        A rollback is a publication too; the next one goes back from where it led to, so that two go two back. The
        candidates are those of that time, except that a pipeline that had none keeps its own; the champion stays.

        Args:
            env: the environment.
            to: the number of the publication whose map is wanted.

        Raises:
            UsageError: TR603, there is nothing to go back to, or no such publication; TR807, a version of that map is
                not in the store any more.
            StoreError: TR803, TR805, what was published could not be written, and is withdrawn.
        """
        with self._moving() as con:
            target = self._target(env, to)
            wanted = self._map_at(env, target)
            if not wanted:
                raise _nothing_before(env, f"after publication {target} its map was empty")
            fix = f"choose another publication with --to: `treadle env show {env} --history` lists them"
            fix += "; a build makes again only what the files still say"
            self._check_standing(wanted, f'the map of "{env}" after publication {target} names', fix)
            gone = self.state.environment(env).keys() - wanted.keys()
            row = self.state.read("SELECT candidates FROM publications WHERE id = ?", (target,))[0]
            moved = self._point_candidates(con, env, json.loads(row[0] or "{}"))
            steps = {**dict.fromkeys(gone), **wanted}
            changes = self.state.write_map(con, env, steps, command=self.command, restores=target)
        return Move(changes, moved, target)

    def drop(self, env: str) -> Move:
        """Take an environment's map and aliases away; its history and all versions stay."""
        with self.state.transaction(durable=True) as con:
            con.execute("DELETE FROM aliases WHERE env = ?", (env,))
            gone = dict.fromkeys(self.state.environment(env))
            changes = self.state.write_map(con, env, gone, command=self.command)
        return Move(changes, {})

    @contextmanager
    def _moving(self) -> Iterator[sqlite3.Connection]:
        """Begin the transaction of a move, once all that stands is on the disk.

        That may take long, and meanwhile nobody could write to the state: so it is waited for before, and again where
        a run has begun to publish in between.
        """
        while True:
            waited_for = self.store.settle()
            with self.state.transaction(durable=True) as con:
                if self.store.unsettled() <= waited_for:
                    yield con
                    return

    def _candidates(self, env: str) -> dict[str, int]:
        aliases = Registry(self.state).aliases(env)
        return {pipeline: names["candidate"] for pipeline, names in aliases.items() if "candidate" in names}

    def _point_candidates(self, con: sqlite3.Connection, env: str, numbers: Mapping[str, int]) -> dict[str, int]:
        now = self._candidates(env)
        moved = {pipeline: number for pipeline, number in numbers.items() if now.get(pipeline) != number}
        for pipeline, number in moved.items():
            self.state.point_alias(con, env, pipeline, "candidate", number)
        return moved

    def _check_standing(self, wanted: Mapping[str, str], whose: str, fix: str) -> None:
        """Refuse a map with versions that are not in the store."""
        lost = set(wanted.values()) - self.store.fingerprints()
        query = "SELECT fingerprint FROM inlined WHERE fingerprint IN (SELECT value FROM json_each(?))"
        lost -= {row[0] for row in self.state.read(query, (json.dumps(sorted(lost)),))}
        if not lost:
            return
        names = [f"{step} ({found[:12]})" for step, found in wanted.items() if found in lost]
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        n = f"{len(names)} versions that are" if len(names) > 1 else "a version that is"
        what, why = f"{whose} {n} not in the store", ", ".join(names[:_MAX_NAMED]) + more
        raise UsageError(Problem("TR807", what, why=why, fix=fix))

    def _target(self, env: str, to: int | None) -> int:
        """Return the publication, itself no rollback, whose map is wanted."""
        rows = self.state.read("SELECT id, coalesce(restores, id) FROM publications WHERE env = ?", (env,))
        leads_to: dict[int, int] = dict(map(tuple, rows))
        if not leads_to:
            raise _nothing_before(env, "nothing was published in it")
        if to is not None:
            if to not in leads_to:
                what = f'environment "{env}" has no publication {to}'
                fix = f"`treadle env show {env} --history` lists them"
                raise UsageError(Problem("TR603", what, fix=fix))
            return leads_to[to]
        here = leads_to[max(leads_to)]
        before = max((number for number in leads_to if number < here), default=None)
        if before is None:
            raise _nothing_before(env, f"publication {here} was its first")
        return leads_to[before]

    def _map_at(self, env: str, publication: int) -> dict[str, str]:
        """Return the map as it was after a publication: the present one, with what came later undone."""
        found = self.state.environment(env)
        query = "SELECT changes FROM publications WHERE env = ? AND id > ? ORDER BY id DESC"
        for (changes,) in self.state.read(query, (env, publication)):
            for step, (before, _) in json.loads(changes).items():
                if before is None:
                    found.pop(step, None)
                else:
                    found[step] = before
        return found


def stand_on(
    graph: Graph,
    selectors: Iterable[str],
    published: Mapping[str, str],
    env: str,
    *,
    beside: select.Beside | None = None,
) -> frozenset[str]:
    """Return the ids of the steps that a selection means, with all that they stand on and the tests of it.

    Args:
        graph: as the files of the project say.
        selectors: see `treadle.select`.
        published: the map that the steps are to be taken from.
        env: whose map it is.
        beside: what selectors ask for beside the graph.

    Raises:
        UsageError: TR807, a selected step is not published there; a test need not be.
    """
    chosen = select.select(graph, selectors, beside=beside)
    missing = sorted(step for step in chosen - published.keys() if graph[step].kind != "test")
    if missing:
        shown = ", ".join(missing[:_MAX_NAMED])
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        what = f'environment "{env}" has not published all that is selected'
        fix = f"run `treadle build --env {env}`, or select what it has"
        raise UsageError(Problem("TR807", what, why=f"it lacks {shown}{more}", fix=fix))
    found = set(chosen)
    while True:
        verdicts = {after for step in found for after in graph[step].after if graph[after].kind != "test"}
        more_steps = graph.ancestors(found | verdicts) | verdicts
        if more_steps <= found:
            return select.with_tests(graph, found)
        found |= more_steps


def _check_shown(shown: Move, found: Move, source: str, target: str) -> None:
    if shown == found:
        return
    before, after = ({**move.changes, **move.candidates} for move in (shown, found))
    differing = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
    more = f" and {len(differing) - _MAX_NAMED} more" if len(differing) > _MAX_NAMED else ""
    what = f'what is to be promoted from "{source}" to "{target}" is no longer what was shown'
    fix = "run the same command again, and look at what it shows now"
    raise StoreError(Problem("TR808", what, why=", ".join(differing[:_MAX_NAMED]) + more, fix=fix))


def _nothing_before(env: str, why: str) -> UsageError:
    fix = f"name a publication with --to; `treadle env show {env} --history` lists them"
    return UsageError(Problem("TR603", f'environment "{env}" has nothing to go back to', why=why, fix=fix))
