"""What commands answered when they found nothing to do, kept for as long as all that the answer follows from stays.

A plan of the whole project follows from the compiled files, the sources' content, which versions stand in the store,
and the environment's map and models. While these are as they were, ten thousand steps need not be looked at one by one
to find that they are as they were.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from treadle.replacing import replace_file

if TYPE_CHECKING:
    from treadle_runtime.workspace import Workspace

T = TypeVar("T")


class _Kept(msgspec.Struct, frozen=True):
    """`basis` is a digest of all that the answer follows from."""

    basis: str
    answer: msgspec.Raw


class Answers(Generic[T]):
    """What one command answers for a whole project in its environment.

    Args:
        workspace: the open project.
        command: whose answers these are.
        form: the answer's type, which msgspec can encode.
    """

    def __init__(self, workspace: Workspace, command: str, form: type[T]) -> None:
        self._workspace, self._form = workspace, form
        self._file = workspace.folder / "cache" / f"{command}-{workspace.environment}.answer"
        self._basis = ""

    def find(self) -> T | None:
        """Return the answer that still holds, or None."""
        self._basis = self._read_basis()
        with suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.msgpack.decode(self._file.read_bytes(), type=_Kept)
            if kept.basis == self._basis:
                return msgspec.msgpack.decode(kept.answer, type=self._form)
        return None

    def keep(self, answer: T) -> None:
        """Keep an answer that was found after `find`, unless something changed meanwhile or changes with the clock."""
        is_volatile = any(step.config.get("volatile") for step in self._workspace.graph)
        if is_volatile or self._basis != self._read_basis():
            return
        kept = _Kept(self._basis, msgspec.Raw(msgspec.msgpack.encode(answer)))
        with suppress(OSError):  # then it is found again next time
            replace_file(self._file, msgspec.msgpack.encode(kept))

    def _read_basis(self) -> str:
        work = self._workspace
        # The catalog says where the store stands, and how the files are called that are read in place.
        where = [str(work.store.root), [work.observed[s.id].listing for s in work.compiled.sources if s.is_inline]]
        sources = {name: observed.digest for name, observed in work.observed.items()}
        revision = work.state.revision(work.environment)
        parts = [work.compiled.name, work.store.digest(), sources, revision, where]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
