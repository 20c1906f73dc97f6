"""Who stands on stored versions without being written in the state: builds in work, and readers.

    .treadle/runs/<run id>.lock      a running build: the fingerprints that its plan refers to
    .treadle/leases/<name>.lock      a reader, such as an open notebook: those that it may read

Both are files under `flock`, which count as long as their process lives. What refers to a version says so under
the state's write lock, and `clean` looks and removes under it: whoever comes first, the other one sees it.
"""

from __future__ import annotations

import re
import uuid
import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from treadle.errors import StoreError
from treadle.plan import Plan
from treadle_runtime import disk
from treadle_runtime.lock import hold_lock, is_held, try_lock
from treadle_runtime.state import State
from treadle_runtime.store import Store

_LINE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Holder:
    """Who holds versions: a run's command and id, or a reader's process and command."""

    name: str
    fingerprints: frozenset[str]


class Lease:
    """A reader's word that it may read versions; given up by `close`, when it is forgotten, or with its process.

    Where .treadle cannot be written there is nobody to give it to.

    Args:
        root: the project's `.treadle` folder.
        state: the open state of the project.
        owner: what this process is, such as `treadle show spend`.

    Raises:
        StoreError: TR802, TR803, TR805: its file cannot be written.
    """

    def __init__(self, root: Path, state: State, *, owner: str) -> None:
        self._path = root / "leases" / f"{uuid.uuid4().hex}.lock"
        self._state = state
        self._held: set[str] = set()
        stack = ExitStack()
        if not state.is_snapshot:
            stack.enter_context(hold_lock(self._path, owner=owner))
        self._release = weakref.finalize(self, stack.close)

    def close(self) -> None:
        """Give the versions up."""
        self._release()

    def add(self, fingerprints: Iterable[str]) -> None:
        """Hold further versions; what of them was removed before is gone, and nothing of them is from now on."""
        if self._state.is_snapshot:
            return
        new = sorted(set(fingerprints) - self._held)
        with disk.storage_errors(self._path), self._state.transaction(), self._path.open("a") as file:
            file.write("".join(f"{fingerprint}\n" for fingerprint in new))
        self._held.update(new)


def held_by_readers(root: Path) -> list[Holder]:
    """Return the leases of readers that live; those of others are removed, where that is possible."""
    folder = root / "leases"
    found = []
    for path in (folder / name for name in disk.names_in(folder)):
        if is_held(path):
            found.append(_read_holder(path))
            continue
        with suppress(OSError, StoreError), try_lock(path):  # leaving the block removes the file
            pass
    return found


def held_by_runs(state: State) -> list[Holder]:
    """Return the runs that are in work, with what their plans refer to; nothing while a run is still planning."""
    return [Holder(f"{run.command} ({run.id})", state.announced(run.id)) for run in state.running()]


def plan_and_hold(make_plan: Callable[[], Plan], run_id: str, store: Store, state: State) -> Plan:
    """Make the plan of a run and hold all versions that it refers to until the run is finished.

    A version that was removed after the plan had counted on it makes a second plan: by then all are held.
    """
    while True:
        plan = make_plan()
        with state.transaction():
            state.announce(run_id, {identity.fingerprint for identity in plan.identities.values()})
            standing = store.fingerprints()
        if counted_on(plan) <= standing:
            return plan


def hold_more(run_id: str, state: State, fingerprints: Iterable[str]) -> None:
    """Hold further versions until a run is finished; what of them was removed before is gone."""
    with state.transaction():
        state.announce(run_id, state.announced(run_id) | frozenset(fingerprints))


def counted_on(plan: Plan) -> frozenset[str]:
    """Return the versions without which a plan cannot be run: those it reuses, and inputs that it did not plan."""
    planned = {step.step.id for step in plan}
    reused = {step.fingerprint for step in plan if step.action == "reuse"}
    parents = {
        parent
        for step in plan
        if step.action != "reuse"
        for parent in (*step.step.inputs, *step.step.after)
        if plan.graph[parent].kind != "test"
    }
    return frozenset(reused | {plan.identities[parent].fingerprint for parent in parents - planned})


def _read_holder(path: Path) -> Holder:
    try:
        first, *lines = path.read_text("utf-8").splitlines()
    except (FileNotFoundError, ValueError):  # released meanwhile, or its first line is not written yet
        return Holder("a reader", frozenset())
    return Holder(first, frozenset(filter(_LINE.fullmatch, lines)))
