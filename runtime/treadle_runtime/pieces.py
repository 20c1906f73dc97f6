"""Pieces of a step: parts of its work that have fingerprints of their own, so that each is computed once.

An interval of an incremental feature is one, a file of a timed source another. They are versions in the store like any
other (claim -> read -> draft -> publish), from which the step's own version is put together by links.

The thread that runs the step computes its pieces one after the other, and threads of the run that have nothing else to
do help: each takes one piece, and then stands behind the steps that wait. A step needs no helper to end.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from treadle.errors import Problem, StepError, StoreError
from treadle_runtime.job import Made
from treadle_runtime.store import Part, Store, Version

Claim = Callable[[str], AbstractContextManager[None]]
Submit = Callable[[Callable[[], None]], Any]
Check = Callable[[Version, Sequence[Part]], None]


def _never() -> bool:
    return False


def _take_as_whole(version: Version, parts: Sequence[Part]) -> None:
    """Compare nothing."""


@dataclass(frozen=True)
class Piece:
    """One piece to compute.

    Attributes:
        fingerprint: its identity.
        make: writes its files into the given empty folder.
    """

    fingerprint: str
    make: Callable[[Path], Made]


class Pieces:
    """Computes the pieces of one step.

    Args:
        store: where they are kept.
        claim: holds a fingerprint while it is computed; by default the store's claim.
        hold: keeps pieces from being removed for as long as the run lasts.
        submit: hands work to another thread, which may never come to it; None: nobody helps.
        n_helpers: how many threads may help.
        is_stopped: whether the run was interrupted, so that no further piece is begun.
        check: raises where parts of a version that a piece is about to read are no longer as they were written.
        is_doubted: whether the pieces that the store holds are compared with their digests before they are used.

    Attributes:
        again: (what stands, what was made and dropped) of each piece that was computed although it stood.
    """

    def __init__(
        self,
        store: Store,
        *,
        claim: Claim | None = None,
        hold: Callable[[Iterable[str]], None] | None = None,
        submit: Submit | None = None,
        n_helpers: int = 0,
        is_stopped: Callable[[], bool] = _never,
        check: Check = _take_as_whole,
        is_doubted: bool = False,
    ) -> None:
        self.store, self.check = store, check
        self._claim: Claim = claim or store.claim
        self._hold = hold
        self._submit, self._n_helpers, self._is_stopped = submit, n_helpers, is_stopped
        self._is_doubted = is_doubted
        self.again: list[tuple[Version, Version]] = []

    def compute(
        self, pieces: Sequence[Piece], *, kind: str, anew: bool = False, n_helpers: int | None = None
    ) -> tuple[list[Version], int]:
        """Compute the pieces that the store does not hold.

        Args:
            pieces: each of another fingerprint.
            kind: of their versions.
            anew: compute all; those that the store holds stay, and `again` tells of them.
            n_helpers: at most so many threads help.

        Returns:
            (the version of each piece, how many were computed here).

        Raises:
            StepError: of the first piece that failed; the others that were computed are kept.
            StoreError: TR804, a piece that the store holds is damaged.
        """
        if self._hold is not None:
            self._hold([piece.fingerprint for piece in pieces])
        work = _Work(pieces, lambda piece: self._one(piece, kind, anew), self._is_stopped)
        if self._submit is not None:
            limit = self._n_helpers if n_helpers is None else min(n_helpers, self._n_helpers)
            for _ in range(min(limit, len(pieces) - 1)):
                work.ask_for_help(self._submit)
        found = work.finish()
        return [version for version, _ in found], sum(is_new for _, is_new in found)

    def n_built(self, pieces: Sequence[Piece]) -> int:
        """Return how many of the pieces the store holds."""
        return len(self.store.built(piece.fingerprint for piece in pieces))

    def _one(self, piece: Piece, kind: str, anew: bool) -> tuple[Version, bool]:
        if not anew and (version := self._standing(piece.fingerprint)) is not None:
            return version, False
        with self._claim(piece.fingerprint):
            if not anew and (version := self._standing(piece.fingerprint)) is not None:
                return version, False
            with self.store.draft(piece.fingerprint, kind=kind) as draft:
                made = piece.make(draft.folder)
                version = draft.publish(
                    made.columns, made.info, reproducible=made.reproducible, times=made.times, rows=made.rows
                )
        if draft.dropped is not None:
            self.again.append((version, draft.dropped))
        return version, True

    def _standing(self, fingerprint: str) -> Version | None:
        """Return the version of a piece, or None when it was never computed."""
        version = self.store.read(fingerprint)
        if version is not None and self._is_doubted and (damage := self.store.verify(version)):
            raise StoreError(damage)
        return version


class _Work:
    """Pieces that wait, are in work and are done; used by several threads."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        run: Callable[[Piece], tuple[Version, bool]],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._waiting = deque(enumerate(pieces))
        self._run, self._is_stopped = run, is_stopped
        self._done: dict[int, tuple[Version, bool]] = {}
        self._error: BaseException | None = None
        self._n_running = 0
        self._changed = threading.Condition()

    def ask_for_help(self, submit: Submit) -> None:
        def help_once() -> None:
            if self._take_one():
                self.ask_for_help(submit)

        with suppress(RuntimeError):  # the run is ending: nobody helps any more
            submit(help_once)

    def finish(self) -> list[tuple[Version, bool]]:
        """Compute what waits, wait for what others have begun, and return the results in order."""
        while self._take_one():
            pass
        with self._changed:
            self._changed.wait_for(lambda: self._n_running == 0)
        if self._error is not None:
            raise self._error
        return [self._done[n] for n in range(len(self._done))]

    def _take_one(self) -> bool:
        """Compute one piece, if one waits; return whether there was one."""
        with self._changed:
            if not self._waiting:
                return False
            n, piece = self._waiting.popleft()
            self._n_running += 1
        try:
            if self._is_stopped():
                raise StepError(Problem("TR717", "the run was interrupted"))
            found = self._run(piece)
            with self._changed:
                self._done[n] = found
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._waiting.clear()
        finally:
            with self._changed:
                self._n_running -= 1
                self._changed.notify_all()
        return True


def link_part(version: Version, name: str, folder: Path) -> Part:
    """Make a piece's table a part of another version: by a hard link, or by a copy where links are not possible.

    Args:
        version: of the piece.
        name: of the part in the new version.
        folder: the new version's draft.

    Returns:
        what is known of the new part.
    """
    [part] = [part for part in version.parts if not part.name.endswith(".jsonl")]
    source, target = version.folder / part.name, folder / name
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return replace(part, name=name)
