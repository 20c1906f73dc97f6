"""Is everything as it was written? The state's file, every part by its digest, what refers to what; catalogs anew.

state -> versions (threads) -> what is missing -> what was computed from damage -> with repair: both are withdrawn
-> catalogs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from treadle.errors import Problem, StoreError, TreadleError
from treadle_runtime import disk, leases
from treadle_runtime.lineage import find_suspects
from treadle_runtime.references import owners_of_pieces
from treadle_runtime.state import State
from treadle_runtime.store import Store
from treadle_runtime.views import write_views
from treadle_runtime.workspace import Workspace

_SUSPECT = "it may have been computed from what is damaged"
_MODEL_COLUMNS = ("choose", "twin", "shipped", "validate", "evaluate", "split", "dataset")


@dataclass(frozen=True)
class Wrong:
    """A version that is not as it was written, or may have been computed from one.

    Attributes:
        status: `damaged`; `missing`, though something refers to it; `newer`, written by a later Treadle; `suspect`, as
            it may have been computed from what is damaged.
        step: id of the step that made it; empty where that is not recorded.
        why: what was found.
        environments: whose map holds it.
        models: model versions that stand on it, as in `churn version 2`.
        holders: runs and readers for whose sake it was not withdrawn.
        is_withdrawn: whether it was taken out of the store, so that the next build makes it again.
        is_planned: whether a build of some environment makes it again, as the files of the project stand.
        is_silent: whether it opens well for all its damage, so that something may have been computed from it.
        roots: fingerprints of the damaged versions that a suspect goes back to.
    """

    fingerprint: str
    status: Literal["damaged", "missing", "newer", "suspect"]
    step: str = ""
    why: str = ""
    environments: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    is_withdrawn: bool = False
    is_planned: bool = False
    is_silent: bool = False
    roots: tuple[str, ...] = ()

    @property
    def is_lost(self) -> bool:
        """Whether no build makes it again although a model version stands on it."""
        return bool(self.models) and not self.is_planned

    @property
    def is_settled(self) -> bool:
        """Whether it can harm nobody, and a build makes it again where it is needed."""
        return not self.is_lost and (self.is_withdrawn or self.status == "missing")


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        state: what is wrong with the state's file.
        checked: fingerprint -> bytes of the versions that were read.
        wrong: by step.
        catalogs: environment -> why its catalog could not be made anew; None where it was.
        is_repaired: whether what is damaged was to be withdrawn.
    """

    state: tuple[Problem, ...]
    checked: Mapping[str, int]
    wrong: tuple[Wrong, ...]
    catalogs: Mapping[str, Problem | None]
    is_repaired: bool

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong, or after a repair nothing that a build does not set right."""
        if self.state or any(self.catalogs.values()):
            return False
        return all(self.is_repaired and each.is_settled for each in self.wrong)


def verify(
    workspace: Workspace,
    *,
    steps: frozenset[str] | None = None,
    threads: int = 2,
    repair: bool = False,
    on_wait: Callable[[str, str], None] | None = None,
) -> Report:
    """Check the state, the store and what refers to it; make the catalogs anew, where that is possible.

    Args:
        workspace: the open project.
        steps: ids of the steps whose versions are looked at; None for all versions, and the catalogs.
        threads: how many versions are read at once.
        repair: take damaged versions out of the store.
        on_wait: called with an environment and who writes its catalog, before this process waits for that.
    """
    store, state = workspace.store, workspace.state
    problems = tuple(state.find_damage())
    names = state.step_names()
    # A table is put together from links to its pieces: what damages one damages the other.
    pieces = owners_of_pieces(store, names)
    names = {piece: names[owner] for piece, owner in pieces.items()} | names
    chosen = {fp for fp in store.fingerprints() if steps is None or names.get(fp) in steps}
    sizes = {fingerprint: store.size_of(fingerprint) for fingerprint in chosen}
    found = [*_find_damaged(store, chosen, threads), *_find_missing(store, state, names)]
    found = [replace(each, step=names.get(each.fingerprint, "")) for each in found]
    found = [each for each in found if steps is None or each.step in steps]
    silent = {each.fingerprint for each in found if each.is_silent}
    below = _kinds_below(workspace, {fingerprint: names.get(fingerprint, "") for fingerprint in silent})
    for fingerprint, roots in find_suspects(store, state, silent, kinds_below=below).items():
        found.append(Wrong(fingerprint, "suspect", names.get(fingerprint, ""), _SUSPECT, roots=tuple(sorted(roots))))
    planned = _find_planned(workspace, {each.fingerprint for each in found})
    wrong = [replace(_described(state, each), is_planned=each.fingerprint in planned) for each in found]
    wrong.sort(key=lambda each: (each.status == "suspect", each.step, each.fingerprint))
    if repair:
        wrong = _withdraw(store, state, wrong)
    catalogs = {}
    if steps is None and not state.is_snapshot:
        unreadable = frozenset(each.fingerprint for each in wrong if each.status in ("damaged", "newer"))
        catalogs = _rebuild_catalogs(state, store, unreadable, on_wait)
    return Report(problems, sizes, tuple(wrong), catalogs, repair)


def _find_damaged(store: Store, fingerprints: Iterable[str], threads: int) -> list[Wrong]:
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        found = pool.map(lambda fingerprint: _check(store, fingerprint), sorted(fingerprints))
        return [wrong for wrong in found if wrong is not None]


def _check(store: Store, fingerprint: str) -> Wrong | None:
    is_silent = False
    try:
        version = store.read(fingerprint)
        problems = store.verify(version) if version is not None else []
        is_silent = True
    except StoreError as error:
        problems = list(error.problems)
    if not problems or not store.folder_of(fingerprint).exists():  # `treadle clean` took it meanwhile
        return None
    why = "; ".join(problem.why.splitlines()[-1] for problem in problems)
    return Wrong(fingerprint, "newer" if problems[0].code == "TR801" else "damaged", why=why, is_silent=is_silent)


def _find_missing(store: Store, state: State, names: Mapping[str, str]) -> list[Wrong]:
    """Return what is referred to and does not stand; a view is in an environment's map and never recorded."""
    published = {row[0] for row in state.read("SELECT fingerprint FROM environments")} & names.keys()
    registered = {fp for row in state.read(f"SELECT {', '.join(_MODEL_COLUMNS)} FROM model_versions") for fp in row}
    absent = (published | registered) - store.fingerprints()
    return [Wrong(fingerprint, "missing", why="it is not in the store") for fingerprint in absent]


def _find_planned(workspace: Workspace, wanted: set[str]) -> set[str]:
    """Return which of the fingerprints a build makes: of the workspace's environment, or of one that has a map."""
    if not wanted:
        return set()
    found = wanted & _planned(workspace)
    for row in workspace.state.read("SELECT DISTINCT env FROM environments ORDER BY env"):
        if found == wanted:
            break
        with workspace.in_environment(row["env"]) as other:
            found |= wanted & _planned(other)
    return found


def _planned(workspace: Workspace) -> set[str]:
    """Return the fingerprints that builds of the environment make; none where its files cannot be planned."""
    try:
        return {identity.fingerprint for identity in workspace.plan().identities.values()}
    except TreadleError:
        return set()


def _kinds_below(workspace: Workspace, steps: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """Return version -> kinds of the versions and pieces that are made from what its step makes.

    Args:
        steps: version -> id of the step that made it. One that the project's files do not name tells nothing.
    """
    if not steps:
        return {}
    try:
        graph = workspace.graph
    except TreadleError:
        return {}
    found = {}
    for fingerprint, step_id in steps.items():
        if step_id in graph.steps:
            readers = [graph[reader] for reader in graph.descendants({step_id})]
            pieces = ["interval"] if any(reader.has_pieces for reader in readers) else []
            found[fingerprint] = frozenset([*(reader.kind for reader in readers), *pieces])
    return found


def _described(state: State, wrong: Wrong) -> Wrong:
    """Return what is wrong with whom it concerns."""
    query = "SELECT DISTINCT env FROM environments WHERE fingerprint = ? ORDER BY env"
    environments = tuple(row["env"] for row in state.read(query, (wrong.fingerprint,)))
    query = f"SELECT pipeline, number FROM model_versions WHERE ? IN ({', '.join(_MODEL_COLUMNS)}) ORDER BY 1, 2"
    models = tuple(f"{pipeline} version {number}" for pipeline, number in state.read(query, (wrong.fingerprint,)))
    return replace(wrong, environments=environments, models=models)


def _withdraw(store: Store, state: State, wrong: Iterable[Wrong]) -> list[Wrong]:
    """Take what is damaged out of the store, with what may have been computed from it.

    What a run or a reader works with at this moment stays, and so does the damage that it goes back to: else nothing
    would tell of it later. So does what no build makes again: a model that may be wrong is better than none.
    """
    settled = []
    with state.transaction():
        holders = [*leases.held_by_runs(state), *leases.held_by_readers(store.root)]
        for each in wrong:
            names = tuple(holder.name for holder in holders if each.fingerprint in holder.fingerprints)
            may_go = each.status == "damaged" or (each.status == "suspect" and not each.is_lost)
            settled.append(replace(each, holders=names, is_withdrawn=may_go and not names))
        held = {root: each.holders for each in settled for root in each.roots if each.holders}
        settled = [
            replace(each, holders=held[each.fingerprint], is_withdrawn=False)
            if each.is_withdrawn and each.fingerprint in held
            else each
            for each in settled
        ]
        gone = sorted((each for each in settled if each.is_withdrawn), key=lambda each: each.status == "damaged")
        folders = store.withdraw(each.fingerprint for each in gone)  # damage last: a kill leaves it to be found again
    for folder in folders:
        disk.remove(folder)
    return settled


def _rebuild_catalogs(
    state: State, store: Store, unreadable: frozenset[str], on_wait: Callable[[str, str], None] | None
) -> dict[str, Problem | None]:
    found: dict[str, Problem | None] = {}
    for row in state.read("SELECT DISTINCT env FROM environments ORDER BY env"):
        tell = partial(on_wait, row["env"]) if on_wait is not None else None
        problems = write_views(state, store, row["env"], anew=True, without=unreadable, on_wait=tell)
        found[row["env"]] = problems[0] if problems else None
    return found
