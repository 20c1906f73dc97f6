"""Plan, and how things stood before -> why one step is built or reused, down to the line, value or file that changed.

own differences of the step -> for each input that changed, the same -> each root cause once, where it is met first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from treadle.comparison import OWN, kind_of
from treadle.difference import Leaf, find_leaves
from treadle.fingerprint import Change, describe, diff
from treadle.plan import Plan, PlannedStep
from treadle.step import Step
from treadle.text import File, read_files

CONTEXT = 3
_SHARED = frozenset({"with", "kind"})
_WHOLE = ":<module>"
_NOT_KEPT = "its earlier text is not known"


@dataclass(frozen=True)
class Past:
    """A step as it was.

    Attributes:
        components: of its identity; without a fingerprint only its own definition.
        texts: component -> text, as far as they were kept (see `text`).
        fingerprint: '' where only its definition is known, as from a manifest.
        run_id, built_at: which run built it, and when (ISO 8601, UTC); '' where that is not known.
    """

    components: Mapping[str, str]
    texts: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    run_id: str = ""
    built_at: str = ""


@dataclass(frozen=True)
class FileChange:
    """A file of a source that differs; None for the size of what is not there.

    Attributes:
        path: as it is now; of a removed file, as it was.
        verb: `appended` where it begins with all that it was.
        before, after: sizes in bytes; None where it does not stand.
        was: the path of a renamed file before.
        lines: how many were appended; None where that is not known.
    """

    path: str
    verb: Literal["added", "removed", "changed", "appended", "renamed"]
    before: int | None = None
    after: int | None = None
    was: str = ""
    lines: int | None = None


@dataclass(frozen=True)
class Difference:
    """One component that differs, and what of it.

    Attributes:
        change: the component.
        what: the change as a phrase.
        lines: of code, a unified diff.
        leaves: of a configuration, the values in it that differ.
        files: of a source.
        note: why no more can be shown; may be empty.
    """

    change: Change
    what: str
    lines: tuple[str, ...] = ()
    leaves: tuple[Leaf, ...] = ()
    files: tuple[FileChange, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Cause:
    """A step above that differs by itself, or of which that is not known.

    Attributes:
        way: ids of the steps from it down to the explained one, both included.
        differences: empty where its earlier identity is not known.
    """

    step: Step
    way: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Explanation:
    """Why a step is built or reused.

    Attributes:
        side: what it is compared with, as a person would name it.
        past: how it stood there; None when it did not, or that is not known.
        stands: whether it stands there.
        built: how its present version was built; None when it was not, or that is not known.
        differences: in what it differs, inputs among them.
        causes: the steps above that made its inputs differ, the nearest first.
        alike: ids of steps above that differ only by what is told already: another version of what computes them.
    """

    planned: PlannedStep
    side: str
    past: Past | None
    stands: bool
    built: Past | None
    differences: tuple[Difference, ...] = ()
    causes: tuple[Cause, ...] = ()
    alike: tuple[str, ...] = ()


@dataclass(frozen=True)
class Present:
    """What stands now behind the identities of a plan.

    Attributes:
        texts: step id -> component -> text.
        appended: path of a source's file that begins with all that it was -> how many lines follow, if it has lines.
    """

    texts: Mapping[str, Mapping[str, str]]
    appended: Mapping[str, int | None] = field(default_factory=dict)


def explain(
    plan: Plan,
    step_id: str,
    *,
    side: str,
    past: Mapping[str, Past],
    stands: bool,
    present: Present,
    built: Past | None = None,
) -> Explanation:
    """Explain what a plan does with one step.

    Args:
        plan: a plan that holds the step.
        step_id: the step.
        side: what it is compared with: an environment, a manifest.
        past: step id -> how it stood there, for the step and for what it is made from, as far as that differs.
        stands: whether the step stands there, known or not.
        present: the same steps as they are.
        built: of the version that the step has now.
    """
    planned = next(planned for planned in plan if planned.step.id == step_id)
    if step_id not in past:
        return Explanation(planned, side, None, stands, built)
    walk = _Walk(plan, past, present)
    differences = walk.differences(step_id)
    causes, alike = walk.causes(step_id, differences)
    return Explanation(planned, side, past[step_id], stands, built, differences, causes, alike)


class _Walk:
    """The way from a step up to what made it differ."""

    def __init__(self, plan: Plan, past: Mapping[str, Past], present: Present) -> None:
        self.plan, self.past, self.present = plan, past, present
        self._differs: dict[str, bool] = {}
        if not all(each.fingerprint for each in past.values()):
            self._look_above()

    def _look_above(self) -> None:
        """Find out what differs where no fingerprints tell: parents stand first in the graph."""
        for step in self.plan.graph:
            if step.id in self.past:
                own = bool(self._own(step.id))
                self._differs[step.id] = own or any(self._differs.get(parent, True) for parent in step.inputs)

    def differences(self, step_id: str) -> tuple[Difference, ...]:
        """Return in what a step differs, its inputs included."""
        before, after = self.past[step_id].texts, self.present.texts.get(step_id, {})
        own = compare_components(self._own(step_id), before, after, appended=self.present.appended)
        return (*own, *(Difference(change, describe(change)) for change in self._inputs(step_id)))

    def _own(self, step_id: str) -> tuple[Change, ...]:
        past, identity = self.past[step_id], self.plan.identities[step_id]
        return tuple(
            change
            for change in diff(past.components, identity.components)
            if (kind := kind_of(change.component)) != "input" and (past.fingerprint or kind in OWN)
        )

    def _inputs(self, step_id: str) -> tuple[Change, ...]:
        past, identity = self.past[step_id], self.plan.identities[step_id]
        if past.fingerprint:
            changes = diff(past.components, identity.components)
            return tuple(change for change in changes if kind_of(change.component) == "input")
        return tuple(
            Change(f"input:{parent}", "" if parent in self.past else None, self.plan.identities[parent].fingerprint)
            for parent in self.plan.graph[step_id].inputs
            if self._differs.get(parent, True)
        )

    def causes(self, step_id: str, told: Sequence[Difference]) -> tuple[tuple[Cause, ...], tuple[str, ...]]:
        """Return the steps above that differ by themselves, and those whose differences are all told already."""
        shared = {each.change for each in told if kind_of(each.change.component) in _SHARED}
        causes: list[Cause] = []
        alike: list[str] = []
        for above, way in self._above(step_id):
            if above not in self.past:
                causes.append(Cause(self.plan.graph[above], way, ()))
                continue
            own = [each for each in self.differences(above) if kind_of(each.change.component) != "input"]
            fresh = tuple(each for each in own if each.change not in shared)
            shared |= {each.change for each in fresh if kind_of(each.change.component) in _SHARED}
            if fresh:
                causes.append(Cause(self.plan.graph[above], way, fresh))
            elif own:
                alike.append(above)
        return tuple(causes), tuple(alike)

    def _above(self, step_id: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the steps above that differ, each with its way down, the nearest first."""
        ways: dict[str, tuple[str, ...]] = {step_id: (step_id,)}
        edge = [step_id]
        while edge:
            following: list[str] = []
            for reader in edge:
                for change in self._inputs(reader) if reader in self.past else ():
                    parent = change.component.partition(":")[2]
                    if change.before is None or change.after is None or parent in ways:
                        continue
                    ways[parent] = (parent, *ways[reader])
                    following.append(parent)
                    yield parent, ways[parent]
            edge = following


def compare_components(
    changes: Sequence[Change],
    before: Mapping[str, str],
    after: Mapping[str, str],
    *,
    appended: Mapping[str, int | None] | None = None,
) -> tuple[Difference, ...]:
    """Return what of each component differs.

    Args:
        changes: the components.
        before, after: component -> text, as far as they are known.
        appended: see `Present`.
    """
    moved = _find_moved(changes)
    wholes = {_file_of(change.component) for change in changes if change.component.endswith(_WHOLE)}
    found: list[Difference] = []
    for change in changes:
        if change.component in moved.values():
            continue
        origin = moved.get(change.component)
        if origin is not None:
            found.append(_compare_moved(change, origin, before, after))
            continue
        match kind_of(change.component):
            case "code" if not change.component.endswith(_WHOLE) and _file_of(change.component) in wholes:
                found.append(Difference(change, describe(change), note="it is shown with its file"))
            case "code":
                found.append(_compare_code(change, before.get(change.component), after.get(change.component)))
            case "config":
                leaves = find_leaves(change.component.partition(":")[2], change.before, change.after)
                found.append(Difference(change, describe(change), leaves=leaves))
            case "parts":
                found.append(_compare_data(change, read_files(before), read_files(after), appended or {}))
            case _:
                found.append(Difference(change, describe(change)))
    return tuple(found)


def _file_of(component: str) -> str:
    return component.split(":")[1]


def _find_moved(changes: Sequence[Change]) -> dict[str, str]:
    """Return component -> the one that it was before: the only piece of code that came, and the only one that went."""
    code = [change for change in changes if kind_of(change.component) == "code"]
    gone, new = [each for each in code if each.after is None], [each for each in code if each.before is None]
    return {new[0].component: gone[0].component} if len(gone) == len(new) == 1 else {}


def _compare_moved(change: Change, origin: str, before: Mapping[str, str], after: Mapping[str, str]) -> Difference:
    was, now = origin.partition(":")[2], change.component.partition(":")[2]
    what = f"{now} takes the place of {was}"
    old, new = before.get(origin), after.get(change.component)
    if old is None or new is None:
        return Difference(change, what, note=_NOT_KEPT)
    return Difference(change, what, lines=diff_texts(old, new))


def _compare_code(change: Change, before: str | None, after: str | None) -> Difference:
    what = describe(change)
    if (before is None and change.before is not None) or (after is None and change.after is not None):
        return Difference(change, what, note=_NOT_KEPT)
    lines = diff_texts(before or "", after or "")
    note = "" if lines else "its own text is the same; what its file imports changed"
    return Difference(change, what, lines=lines, note=note)


def diff_texts(before: str, after: str) -> tuple[str, ...]:
    """Return the unified diff of two texts, without its two first lines, which name files."""
    old, new = before.splitlines(), after.splitlines()
    return tuple(difflib.unified_diff(old, new, n=CONTEXT, lineterm=""))[2:]


def compare_files(
    before: list[File], after: list[File], *, appended: Mapping[str, int | None]
) -> tuple[FileChange, ...]:
    """Return which files of a source differ, in the present order, those that are gone last."""
    old = {path: (size, digest) for path, size, digest in before}
    gone = {path: digest for path, (_, digest) in old.items() if path not in {path for path, *_ in after}}
    found: list[FileChange] = []
    for path, size, digest in after:
        if path in old:
            if path in appended:
                found.append(FileChange(path, "appended", old[path][0], size, lines=appended[path]))
            elif old[path][1] != digest:
                found.append(FileChange(path, "changed", old[path][0], size))
            continue
        was = next((other for other, content in gone.items() if content == digest), "")
        if was:
            del gone[was]
            found.append(FileChange(path, "renamed", size, size, was))
        else:
            found.append(FileChange(path, "added", None, size))
    return (*found, *(FileChange(path, "removed", old[path][0]) for path in gone))


def _compare_data(
    change: Change, before: list[File] | None, after: list[File] | None, appended: Mapping[str, int | None]
) -> Difference:
    what = describe(change)
    if before is None or after is None:
        return Difference(change, what, note="which files it had is not known")
    files = compare_files(before, after, appended=appended)
    return Difference(change, what, files=files, note="" if files else "the order of its files changed")
