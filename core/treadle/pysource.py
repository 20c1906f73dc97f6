"""All Python files of a project, and what a name in one of them stands for in the others.

A module is known by its stem, its path without `.py` or `/__init__.py`. What is imported is looked up below
the root, below `src`, and beside the importing file; failing all, anywhere in the project: code may change
where Python looks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from treadle.pymodule import Atom, Module
from treadle.pyscope import Alias, Use

STANDARD = frozenset(sys.stdlib_module_names)


@dataclass(frozen=True)
class Defined:
    """A global name of a file of the project."""

    path: str
    name: str


@dataclass(frozen=True)
class Whole:
    """A module of the project that is used as a value: anything in it may be read."""

    stem: str


@dataclass(frozen=True)
class External:
    """Something outside the project, by its dotted name."""

    name: str


Target = Defined | Whole | External


@dataclass(frozen=True, eq=False)
class Sources:
    """The text of every Python file of a project; each is parsed when it is first asked for, once.

    Attributes:
        files: path relative to the root, with `/` -> text.
    """

    files: Mapping[str, str]
    _modules: dict[str, Module] = field(default_factory=dict, repr=False)
    _targets: dict[tuple[str, Use], tuple[Target, ...]] = field(default_factory=dict, repr=False)
    memo: dict[object, object] = field(default_factory=dict, repr=False)

    def module(self, path: str) -> Module:
        """Return a file as a parsed module.

        Raises:
            ProjectError: TR301, it is no Python.
        """
        found = self._modules.get(path)
        if found is None:
            found = self._modules[path] = Module(path, self.files[path])
        return found

    @functools.cached_property
    def _stems(self) -> dict[str, str]:
        """Stem -> path of its file; '' for a folder without `__init__.py` that holds Python somewhere."""
        stems: dict[str, str] = {}
        for path in sorted(self.files):
            stem = path.removesuffix(".py")
            stem = stem[: -len("/__init__")] if stem.endswith("/__init__") else stem
            if path.endswith("/__init__.py") or not stems.get(stem):
                stems[stem] = path
            while "/" in stem:
                stem = stem.rpartition("/")[0]
                stems.setdefault(stem, "")
        return stems

    @functools.cached_property
    def _tails(self) -> dict[str, tuple[str, ...]]:
        """Last part of a stem -> the stems of files that end so."""
        tails: dict[str, list[str]] = {}
        for stem, path in self._stems.items():
            if path:
                tails.setdefault(stem.rpartition("/")[2], []).append(stem)
        return {tail: tuple(stems) for tail, stems in tails.items()}

    def path_of(self, stem: str) -> str:
        """Return the file of a stem, '' when it has none."""
        return self._stems.get(stem, "")

    def paths_below(self, stem: str) -> list[str]:
        """Return the file of a stem and every file below it."""
        return [path for other, path in self._stems.items() if path and (other == stem or other.startswith(stem + "/"))]

    def find(self, module: str, level: int, path: str) -> tuple[str, ...]:
        """Return the stems that a module can stand for when `path` imports it, with `level` leading dots."""
        rest = module.replace(".", "/")
        folder = path.rpartition("/")[0]
        if level:
            for _ in range(level - 1):
                folder = folder.rpartition("/")[0]
            stem = "/".join(part for part in (folder, rest) if part)
            return (stem,) if stem in self._stems else ()
        roots = dict.fromkeys(("", "src/", f"{folder}/" if folder else ""))
        found = tuple(root + rest for root in roots if root + rest in self._stems)
        if found or module.partition(".")[0] in STANDARD:
            return found
        return tuple(s for s in self._tails.get(rest.rpartition("/")[2], ()) if s.endswith("/" + rest))

    def imported_paths(self, alias: Alias, path: str) -> tuple[str, ...]:
        """Return the files of the project that run when `path` imports something."""
        found: dict[str, None] = {}
        for stem in self.find(alias.module, alias.level, path):
            parts = stem.split("/")
            stems = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
            if alias.name and alias.name != "*":
                stems.append(f"{stem}/{alias.name}")
            found |= dict.fromkeys(filter(None, map(self.path_of, stems)))
        return tuple(found)

    def external_module(self, alias: Alias, path: str) -> str | None:
        """Return the top-level module outside the project that an import reads, if it does."""
        if alias.level or any(isinstance(t, Defined | Whole) for t in self.follow(alias, (), path)):
            return None
        if alias.name == "*" and any(map(self.path_of, self.find(alias.module, 0, path))):
            return None
        return alias.module.partition(".")[0]

    def resolve(self, use: Use, path: str) -> tuple[Target, ...]:
        """Return what a name that a file reads can stand for."""
        key = (path, use)
        found = self._targets.get(key)
        if found is None:
            if use.alias is not None:
                targets = self.follow(use.alias, use.chain, path)
            else:
                targets = self.lookup(path, use.name, use.chain)
            found = self._targets[key] = tuple(dict.fromkeys(targets))
        return found

    def lookup(self, path: str, name: str, chain: tuple[str, ...] = ()) -> Iterator[Target]:
        """Return what a global name of a file, and attributes read from it, can stand for."""
        yield from self._lookup(path, name, chain, set())

    def follow(self, alias: Alias, chain: tuple[str, ...], path: str) -> Iterator[Target]:
        """Return what an imported name, and attributes read from it, can stand for."""
        yield from self._follow(alias, chain, path, set())

    def _lookup(self, path: str, name: str, chain: tuple[str, ...], seen: set[object]) -> Iterator[Target]:
        if (path, name, chain) in seen:
            return
        seen.add((path, name, chain))
        module = self.module(path)
        atoms = module.bindings.get(name, ())
        if atoms:
            yield Defined(path, name)
        for atom in atoms:
            for alias in atom.reading.aliases:
                if alias.bound == name:
                    yield from self._follow(alias, chain, path, seen)
        for alias in module.stars:
            if not name.startswith("__"):
                yield from self._follow_star(alias, (name, *chain), path, seen)

    def _follow_star(self, alias: Alias, chain: tuple[str, ...], path: str, seen: set[object]) -> Iterator[Target]:
        found = False
        for target in self._follow(alias, chain, path, seen):
            found = True
            yield target
        if found:  # __all__ says which names such an import takes
            for stem in self.find(alias.module, alias.level, path):
                other = self.path_of(stem)
                if other and "__all__" in self.module(other).bindings:
                    yield Defined(other, "__all__")

    def _follow(self, alias: Alias, chain: tuple[str, ...], path: str, seen: set[object]) -> Iterator[Target]:
        dotted = alias.module if alias.name else alias.target
        if alias.name and alias.name != "*":
            chain = (alias.name, *chain)
        found = False
        for stem in self.find(dotted, alias.level, path):
            for target in self._within(stem, chain, seen):
                found = True
                yield target
            found = found or bool(self.path_of(stem))
        if not found and not alias.level:
            yield External(".".join((dotted, *chain)))

    def _within(self, stem: str, chain: tuple[str, ...], seen: set[object]) -> Iterator[Target]:
        if not chain or chain[0] == "__dict__":
            yield Whole(stem)
            return
        name, rest = chain[0], chain[1:]
        path = self.path_of(stem)
        found = False
        if path:
            for target in self._lookup(path, name, rest, seen):
                found = True
                yield target
        if f"{stem}/{name}" in self._stems:
            found = True
            yield from self._within(f"{stem}/{name}", rest, seen)
        if path and not found and "__getattr__" in self.module(path).bindings:
            yield Defined(path, "__getattr__")

    def atoms_of(self, target: Defined) -> tuple[Atom, ...]:
        """Return the atoms that bind a global name of a file."""
        return self.module(target.path).bindings.get(target.name, ())
