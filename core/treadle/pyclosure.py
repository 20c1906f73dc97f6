"""Everything of a project that a Python function can reach, and the digest of each piece.

From the function outwards: the names it reads, what they are bound to, and so on through the files of the
project. What a module does when it is imported counts as soon as the module is imported. A class counts as
a whole, with its base classes and its subclasses in imported modules; instances of other classes cannot
come up, because somebody would have to name them. Where a name is only known at run time, resolution gives
up and every file counts.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field

from treadle.errors import ProjectError
from treadle.pyedge import read_edges, run_imports
from treadle.pyeffect import has_effect, is_evaluated
from treadle.pymodule import BUILTINS, Atom, Module
from treadle.pynormal import digest_texts
from treadle.pysource import STANDARD, Defined, External, Sources, Target

_NOT_DISTRIBUTED = STANDARD | {"", "builtins", "__future__", "treadle"}


@dataclass(frozen=True)
class Code:
    """The identity of a function's code.

    Attributes:
        parts: `features/planes.py:plane_age` -> SHA-256 in hex, one entry for each function, class and global
            that is reached; `path:<module>` stands for what a module does when it is imported, in its order.
            With anything unresolved: path -> SHA-256 of the whole file, for every Python file.
        distributions: top-level modules that are imported by what was reached and are neither the project's,
            nor the standard library's, nor Treadle's own; sorted.
        unresolved: (file:line, reason) wherever resolution gave up; sorted.
    """

    parts: Mapping[str, str]
    distributions: tuple[str, ...]
    unresolved: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Import:
    """What importing a file does: files it imports, statements with effects, outside modules never read."""

    paths: tuple[str, ...]
    loud: tuple[Atom, ...]
    outside: frozenset[str]


def read_closure(sources: Sources, path: str, name: str) -> Code:
    """Return the identity of a function and of all that it reaches.

    Args:
        sources: every Python file of the project.
        path: the function's file.
        name: its name, a global of that file.

    Raises:
        ProjectError: TR301, a file that is reached is no Python.
    """
    closure = _Closure(sources)
    closure.enter(path)
    closure.reach(Defined(path, name))
    closure.run()
    return closure.to_code()


@dataclass
class _Closure:
    sources: Sources
    defined: dict[Defined, None] = field(default_factory=dict)
    atoms: dict[str, set[Atom]] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)
    unresolved: set[tuple[str, str]] = field(default_factory=set)
    reads_source: bool = False
    every_class: bool = False
    wholes: set[str] = field(default_factory=set)
    pending: list[tuple[Module, Atom]] = field(default_factory=list)

    def enter(self, path: str) -> None:
        """Take in what importing a file runs."""
        pending = [path]
        while pending:
            path = pending.pop()
            if path in self.atoms:
                continue
            self.atoms[path] = set()
            facts = _read_import(self.sources, path)
            self.outside |= facts.outside
            pending += facts.paths
            for atom in facts.loud:
                self._reach_atom(self.sources.module(path), atom)

    def reach(self, target: Target) -> None:
        """Take in a name, a whole module, or something outside the project."""
        if isinstance(target, External):
            self.outside.add(target.name.partition(".")[0])
        elif isinstance(target, Defined):
            self._reach_name(target)
        elif target.stem not in self.wholes:
            self.wholes.add(target.stem)
            for path in self.sources.paths_below(target.stem):
                self.enter(path)
                for name in self.sources.module(path).bindings:
                    self._reach_name(Defined(path, name))

    def _reach_name(self, target: Defined) -> None:
        if target in self.defined:
            return
        self.defined[target] = None
        self.enter(target.path)
        for atom in self.sources.atoms_of(target):
            self._reach_atom(self.sources.module(target.path), atom)

    def _reach_atom(self, module: Module, atom: Atom) -> None:
        if atom not in self.atoms[module.path]:
            self.atoms[module.path].add(atom)
            self.pending.append((module, atom))

    def run(self) -> None:
        """Follow everything to its end."""
        while True:
            while self.pending:
                self._follow(*self.pending.pop())
            self._reach_subclasses()
            if not self.pending:
                return

    def _follow(self, module: Module, atom: Atom) -> None:
        edges = read_edges(self.sources, module, atom)
        for path in edges.imports:
            self.enter(path)
        self.outside.update(edges.outside)
        self.reads_source |= edges.reads_source
        self.every_class |= edges.reads_subclasses
        self.unresolved |= {(f"{module.path}:{line}", why) for line, why in edges.unresolved}
        for target in edges.targets:
            self.reach(target)

    def _reach_subclasses(self) -> None:
        modules = [self.sources.module(path) for path in list(self.atoms)]
        classes = [(module, base) for module in modules for atom in module.atoms for base in atom.reading.classes]
        self.every_class |= any(base.hooks for _, base in classes)
        for module, base in classes:
            targets = (t for use in base.bases for t in self.sources.resolve(use, module.path))
            if (self.every_class and base.has_bases) or any(
                isinstance(t, Defined) and self._is_ours(t) for t in targets
            ):
                self._reach_name(Defined(module.path, base.name))

    def _is_ours(self, target: Defined) -> bool:
        """Return whether a name was reached and is a class of the project, not an import."""
        return target in self.defined and any(atom.reading.classes for atom in self.sources.atoms_of(target))

    def to_code(self) -> Code:
        """Return what was found."""
        parts: dict[str, str] = {}
        if self.unresolved:
            parts = {path: self._digest_file(path) for path in self.sources.files}
        else:
            parts = {f"{t.path}:{t.name}": _digest_name(self.sources, t) for t in self.defined}
            for path in self.atoms:
                if texts := self._read_order(path):
                    parts[f"{path}:<module>"] = digest_texts(texts)
        return Code(
            parts=dict(sorted(parts.items())),
            distributions=tuple(sorted(self.outside - _NOT_DISTRIBUTED)),
            unresolved=tuple(sorted(self.unresolved)),
        )

    def _digest_file(self, path: str) -> str:
        text = self.sources.files[path]
        try:
            module = self.sources.module(path)
        except ProjectError:  # a file that nothing imports may be broken; its text is its identity then
            return digest_texts(["text", text])
        self.outside |= _read_outside(self.sources, module)
        return digest_texts(["text", text]) if self.reads_source else module.digest

    def _read_order(self, path: str) -> list[str]:
        """Return the digests of the statements of a file whose order matters, in their order."""
        module = self.sources.module(path)
        shown: list[str] = []
        matters = False
        for atom in module.atoms:
            reached = atom in self.atoms[path]
            ordered = self._imports_effects(path, atom) or (reached and self._is_ordered(module, atom))
            if ordered or "*" in atom.reading.bound or (reached and is_evaluated(atom)):
                shown.append(atom.digest)
            matters |= ordered
        return shown if matters or len(module.stars) > 1 else []

    def _is_ordered(self, module: Module, atom: Atom) -> bool:
        if has_effect(self.sources, module, atom):
            return True
        if self.every_class and any(base.has_bases for base in atom.reading.classes):
            return True
        return any(_is_rebound(self.sources, module, atom, name) for name in atom.reading.bound)

    def _imports_effects(self, path: str, atom: Atom) -> bool:
        paths = [other for alias in run_imports(atom) for other in self.sources.imported_paths(alias, path)]
        return any(_has_import_effect(self.sources, other, classes=self.every_class) for other in paths)


def _read_import(sources: Sources, path: str) -> _Import:
    key = ("import", path)
    found = sources.memo.get(key)
    if not isinstance(found, _Import):
        module = sources.module(path)
        parents = path.split("/")[:-1]
        inits = ["/".join([*parents[:n], "__init__.py"]) for n in range(1, len(parents) + 1)]
        paths = [init for init in inits if init in sources.files]
        for atom in module.atoms:
            for alias in run_imports(atom):
                paths += sources.imported_paths(alias, path)
        found = sources.memo[key] = _Import(
            paths=tuple(dict.fromkeys(paths)),
            loud=tuple(atom for atom in module.atoms if has_effect(sources, module, atom)),
            outside=_read_unread_imports(sources, module),
        )
    return found


def _read_unread_imports(sources: Sources, module: Module) -> frozenset[str]:
    """Return outside modules whose name the file never reads: importing them is what counts."""
    read = {node.id for node in module.nodes if isinstance(node, ast.Name)}
    unread = [alias for atom in module.atoms for alias in atom.reading.aliases if alias.bound not in read]
    return frozenset(filter(None, (sources.external_module(a, module.path) for a in unread if a.name != "*")))


def _read_outside(sources: Sources, module: Module) -> frozenset[str]:
    """Return every outside module that a file imports anywhere."""
    aliases = [a for atom in module.atoms for a in (*atom.reading.aliases, *(i for i, _ in atom.reading.imports))]
    return frozenset(filter(None, (sources.external_module(alias, module.path) for alias in aliases)))


def _has_import_effect(sources: Sources, path: str, *, classes: bool) -> bool:
    """Return whether importing a file has effects, there or in what it imports."""
    key = ("effects", path, classes)
    if key not in sources.memo:
        seen, pending = {path}, [path]
        effect = False
        while pending and not effect:
            other = pending.pop()
            facts = _read_import(sources, other)
            effect = bool(facts.loud) or (
                classes and any(base.has_bases for atom in sources.module(other).atoms for base in atom.reading.classes)
            )
            pending += [path for path in facts.paths if path not in seen]
            seen.update(facts.paths)
        sources.memo[key] = effect
    return bool(sources.memo[key])


def _is_rebound(sources: Sources, module: Module, atom: Atom, name: str) -> bool:
    """Return whether what a name stands for depends on where in the file it is read."""
    if len(module.bindings[name]) > 1 or name in BUILTINS:
        return True
    place = module.atoms.index(atom) if module.stars else 0
    for alias in module.stars:
        if any(isinstance(target, Defined) for target in sources.follow(alias, (name,), module.path)):
            return True
        later = any(alias in other.reading.aliases for other in module.atoms[place + 1 :])
        if later and sources.external_module(alias, module.path):  # it may bind any name anew
            return True
    return False


def _digest_name(sources: Sources, target: Defined) -> str:
    key = ("digest", target)
    if key not in sources.memo:
        sources.memo[key] = digest_texts(atom.digest for atom in sources.atoms_of(target))
    return str(sources.memo[key])
