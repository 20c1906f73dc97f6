"""The identity of a step: a digest of its code, its configuration, its inputs and what computes it.

Equal fingerprints mean equal results, so a step is never computed twice. The components are kept beside the digest:
the difference of two identities is the reason why a step runs again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from msgspec import Struct

from treadle.difference import cut_to_difference, find_leaves
from treadle.step import Kind, Step

REVISIONS: Mapping[str, int] = {
    "source": 1,
    "feature": 1,
    "dataset": 1,
    "split": 1,
    "baseline": 1,
    "train": 1,
    "evaluate": 1,
    "choose": 1,
    "validate": 1,
    "refit": 1,
    "stage": 1,
    "test": 1,
}
"""Raised by one when Treadle itself would compute a different result for that kind of step."""

_NOTHING: Mapping[str, str] = {}
_MAX_LEAVES = 3
_EMPTY: Mapping[type, str] = {type(None): "null", bool: "false", list: "[]", tuple: "[]", dict: "{}"}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=True)


class Identity(Struct, frozen=True, gc=False):
    """Who a step is.

    Attributes:
        fingerprint: 64 hexadecimal digits.
        step: whose identity it is.
        inputs: fingerprints of `step.inputs`, in their order.
        more: components that are not the step's own: its parts, as_of, champion, now.
    """

    fingerprint: str
    step: Step
    inputs: tuple[str, ...]
    more: Mapping[str, str]

    @property
    def components(self) -> dict[str, str]:
        """The named components that the fingerprint is the digest of."""
        return _components(self.step, self.inputs, self.more)


def identify(
    step: Step,
    inputs: Mapping[str, str],
    *,
    parts: Iterable[str] = (),
    extra: Mapping[str, str] | None = None,
    own: str | None = None,
) -> Identity:
    """Return the identity of a step.

    Args:
        step: the step.
        inputs: step id -> fingerprint, for each of `step.inputs` at least.
        parts: digests of a source's parts, in order.
        extra: further components: `as_of`, `champion`, a volatile step's run or day.
        own: `to_own_text(step)`, where it is known.
    """
    more = extra or _NOTHING
    if step.kind == "source":
        more = {**more, "parts": hashlib.sha256("\n".join(parts).encode()).hexdigest()}
    found = tuple([inputs[parent] for parent in step.inputs])
    if own is None or more:
        text = to_canonical_json(_components(step, found, more))
    else:
        # The same text, put together from what is known: `code:`, `config:` and `function` come first, then the inputs.
        text = f"{{{own}{_inputs_text(step.inputs, found)}{_computed_text(step)}}}"
    return Identity(hashlib.sha256(text.encode()).hexdigest(), step, found, more)


def _components(step: Step, inputs: tuple[str, ...], more: Mapping[str, str]) -> dict[str, str]:
    found = {**definition(step), **more}
    return found | {f"input:{parent}": fingerprint for parent, fingerprint in zip(step.inputs, inputs, strict=True)}


def definition(step: Step) -> dict[str, str]:
    """Return the components that a step has by itself: its code, its configuration and what computes it.

    Neither its inputs nor data stand in them: where the same files are compiled with the same versions, they are equal.
    """
    found = {**own_components(step), "kind": _kind(step)}
    return found | {f"with:{name}": version for name, version in _versions(step)}


def own_components(step: Step) -> dict[str, str]:
    """Return the components that only the step's own files decide."""
    found = {f"code:{name}": digest for name, digest in step.code.items()}
    found |= {f"config:{key}": to_canonical_json(value) for key, value in step.config.items()}
    if step.function is not None:
        # Where the code cannot be resolved its parts are the whole project's: this tells two functions of it apart.
        found["function"] = f"{step.function.path}:{step.function.name}"
    return found


def to_own_text(step: Step) -> str:
    """Return a step's own components as the beginning of the text that its fingerprint is the digest of."""
    own = to_canonical_json(own_components(step))[1:-1]
    return f"{own}," if own else ""


def _kind(step: Step) -> str:
    return f"{step.kind}/{REVISIONS[step.kind]}"


def _inputs_text(names: tuple[str, ...], fingerprints: tuple[str, ...]) -> str:
    pairs = zip(names, fingerprints, strict=True)
    return "".join([f'"input:{name}":"{fingerprint}",' for name, fingerprint in sorted(pairs)])


def _versions(step: Step) -> tuple[tuple[str, str], ...]:
    return _versions_of(step.distributions, step.function is not None)


@cache
def _versions_of(distributions: tuple[str, ...], is_python: bool) -> tuple[tuple[str, str], ...]:
    found = {name: installed_version(name) for name in distributions}
    if is_python:
        found["python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    return tuple(found.items())


def _computed_text(step: Step) -> str:
    return _computed_text_of(step.kind, step.distributions, step.function is not None)


@cache
def _computed_text_of(kind: Kind, distributions: tuple[str, ...], is_python: bool) -> str:
    found = {f"with:{name}": version for name, version in _versions_of(distributions, is_python)}
    return to_canonical_json({"kind": f"{kind}/{REVISIONS[kind]}", **found})[1:-1]


def to_canonical_json(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, no blanks."""
    if not value and (text := _EMPTY.get(type(value))):  # most values of a configuration
        return text
    return _CANONICAL.encode(value)


@cache
def installed_version(name: str) -> str:
    """Return the version of a distribution or of the one that a module belongs to.

    Args:
        name: a distribution (`scikit-learn`), an imported module (`sklearn`), or `platform` for what the machine is.

    Returns:
        The version; `absent` when nothing of that name is installed.
    """
    # Imported here, for a command that finds nothing to do asks for no version.
    if name == "platform":
        import platform

        return f"{sys.platform}-{platform.machine()}-cpu"
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        owners = _distributions_of_modules().get(name, [])
        return " ".join(f"{owner} {metadata.version(owner)}" for owner in sorted(set(owners))) or "absent"


@cache
def _distributions_of_modules() -> Mapping[str, list[str]]:
    from importlib import metadata

    return metadata.packages_distributions()


@dataclass(frozen=True)
class Change:
    """One component in which two identities of a step differ; None where it is absent."""

    component: str
    before: str | None
    after: str | None


def diff(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """Return the components that differ, in the order code, configuration, inputs, the rest."""
    rank = {"code": 0, "config": 1, "parts": 2, "input": 3}
    names = sorted(set(before) | set(after), key=lambda name: (rank.get(name.partition(":")[0], 4), name))
    return tuple(
        Change(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    )


def describe(change: Change) -> str:
    """Return one change as a phrase: `code of features/planes.py:plane_age changed`."""
    kind, _, name = change.component.partition(":")
    match kind:
        case "code":
            verb = "is new" if change.before is None else "is gone" if change.after is None else "changed"
            return f"code of {name} {verb}"
        case "config":
            leaves = find_leaves(name, change.before, change.after)
            more = [f"and {len(leaves) - _MAX_LEAVES} more of {name}"] if len(leaves) > _MAX_LEAVES else []
            return "; ".join([*(leaf.to_text() for leaf in leaves[:_MAX_LEAVES]), *more])
        case "input":
            verb = "is read now" if change.before is None else "is read no more" if change.after is None else "changed"
            return f"{name} {verb}"
        case "parts":
            return "its data changed"
        case "with":
            return f"{name} {change.before or 'absent'} -> {change.after or 'absent'}"
        case "kind":
            return "Treadle computes it differently now"
        case "champion":
            return f"champion {(change.before or 'none')[:12]} -> {(change.after or 'none')[:12]}"
        case "now":
            return f"it is volatile, and was computed for {change.before}"
    before, after = cut_to_difference(change.before or "nothing", change.after or "nothing")
    return f"{kind} {before} -> {after}"
