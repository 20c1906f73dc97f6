"""A build that found nothing to do, told again for as long as nothing has changed."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from treadle_runtime.answers import Answers
from treadle_runtime.artifacts import encode, write_artifact
from treadle_runtime.building import note_idle_build
from treadle_runtime.commands.console import print_json, print_problem
from treadle_runtime.commands.summary import Summary
from treadle_runtime.stamp import identify
from treadle_runtime.views import catalog_path

if TYPE_CHECKING:
    from treadle_runtime.workspace import Workspace


class _Idle(msgspec.Struct, frozen=True):
    """What a build told: its summary, run_results.json, and which file the catalog was then."""

    summary: Summary
    results: bytes
    catalog: tuple[int, ...]


class IdleBuilds:
    """The last build of a whole project that found nothing to do."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._answers = Answers(workspace, "build", _Idle)

    def tell(self, *, threads: int, as_json: bool) -> bool:
        """Tell the last build again if it still holds, as a run of its own; return whether it does."""
        started = time.monotonic()
        found = self._answers.find()
        if found is None or found.catalog != self._identify_catalog():
            return False
        work = self._workspace
        run_id = note_idle_build(work, threads=threads)
        duration_s = time.monotonic() - started
        results = msgspec.json.decode(found.results, type=dict[str, msgspec.Raw])
        results |= {"run_id": msgspec.Raw(encode(run_id)), "seconds": msgspec.Raw(encode(duration_s))}
        document = msgspec.Raw(msgspec.json.encode(results))
        write_artifact(work.root, "run_results.json", document)
        for warning in work.compiled.warnings:
            print_problem(warning, severity="warning")
        if as_json:
            print_json(msgspec.json.decode(document))
        else:
            found.summary.print(duration_s)
        return True

    def keep(self, summary: Summary, results: dict[str, Any]) -> None:
        """Keep what a build told that found nothing to do."""
        if (catalog := self._identify_catalog()) is not None:
            self._answers.keep(_Idle(summary, encode(results), catalog))

    def _identify_catalog(self) -> tuple[int, ...] | None:
        with suppress(OSError):
            return identify(catalog_path(self._workspace.store, self._workspace.environment))
        return None
