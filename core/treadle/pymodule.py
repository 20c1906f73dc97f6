"""One Python file of a project, cut into atoms.

An atom is one statement at the top of a module, or one name of an import statement: the smallest piece of
code that has an identity of its own. Files are parsed, never imported.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import re
import warnings
from collections.abc import Iterator

from treadle.errors import Location, Problem, ProjectError
from treadle.pynormal import Definition, Rules, digest_code, digest_texts
from treadle.pyscope import Alias, Reading, read_statement, to_aliases, to_chain

BUILTINS = frozenset(dir(builtins))
MARKERS = frozenset({"feature", "stage"})
_PLAIN_DECORATORS = frozenset(
    {
        *("builtins.staticmethod", "builtins.classmethod", "builtins.property"),
        *("functools.cache", "functools.lru_cache", "functools.cached_property", "functools.wraps"),
        *("functools.total_ordering", "contextlib.contextmanager", "abc.abstractmethod", "enum.unique"),
        *("typing.final", "typing.override", "typing.overload", "dataclasses.dataclass"),
    }
)
_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.ASCII)


def parse_file(path: str, text: str) -> ast.Module:
    """Parse a Python file.

    Raises:
        ProjectError: TR301, the text is no Python, or nested too deeply to be read.
    """
    text = text.removeprefix("\ufeff")
    _check_encoding(path, text)
    with _explained(path, text):
        return ast.parse(text, filename=path)


def check_syntax(module: Module) -> None:
    """Check what parsing does not see, such as `return` outside a function.

    Raises:
        ProjectError: TR301.
    """
    with _explained(module.path, module.text):
        compile(module.tree, module.path, "exec", dont_inherit=True)


@contextlib.contextmanager
def _explained(path: str, text: str) -> Iterator[None]:
    """Turn what Python says about a file into a problem of the project."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SyntaxError as error:
        raise ProjectError(_syntax_problem(path, text, error)) from error
    except (RecursionError, MemoryError) as error:
        why = "an expression in it is nested too deeply to be read"
        raise _refuse(path, why, "cut it into smaller parts, or read long lists of values from a file") from error
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise _refuse(path, "it holds characters that are no text", "save the file as UTF-8", line=line) from error
    except ValueError as error:
        line = text.count("\n", 0, max(text.find("\0"), 0)) + 1
        raise _refuse(path, "it holds a null byte", "save the file as UTF-8 text", line=line) from error


def _check_encoding(path: str, text: str) -> None:
    for number, line in enumerate(text.split("\n", 2)[:2], start=1):
        match = _CODING.match(line)
        if match and match[1].lower().replace("_", "-") not in (
            "utf-8",
            "utf8",
            "utf-8-sig",
            "ascii",
            "us-ascii",
        ):
            why = f'it declares the encoding "{match[1]}"; files of a project are UTF-8'
            raise _refuse(path, why, "save the file as UTF-8 and remove the declaration", line=number)


def _syntax_problem(path: str, text: str, error: SyntaxError) -> Problem:
    line, column = error.lineno or 0, max(error.offset or 0, 0)
    lines = text.splitlines()
    shown = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    if "null byte" in error.msg:
        line = text.count("\n", 0, max(text.find("\0"), 0)) + 1
        return _refuse(path, "it holds a null byte", "save the file as UTF-8 text", line=line).problems[0]
    if "nested" in error.msg:
        return _refuse(path, error.msg, "cut the expression into smaller parts", line=line).problems[0]
    return Problem(
        code="TR301",
        what=f'"{path}" is no Python that can be read',
        where=Location(path, line, column, shown),
        why=error.msg,
        fix="correct the line; the mistake may also stand just before it",
    )


def _refuse(path: str, why: str, fix: str, *, line: int = 0) -> ProjectError:
    what = f'"{path}" is no Python that can be read'
    return ProjectError(Problem(code="TR301", what=what, where=Location(path, line), why=why, fix=fix))


class Atom:
    """One statement at the top of a module, or one name of an import there.

    Attributes:
        node: the statement.
        line: where it starts, from 1.
        reading: what it reads and binds.
    """

    def __init__(self, node: ast.stmt, rules: Rules, alias: Alias | None = None) -> None:
        self.node = node
        self.line = node.lineno
        self._rules = rules
        self._alias = alias

    @functools.cached_property
    def reading(self) -> Reading:
        """What the statement reads and binds."""
        if self._alias is None:
            return read_statement(self.node, self._rules)
        return Reading(bound=frozenset({self._alias.bound}), aliases=(self._alias,))

    @functools.cached_property
    def digest(self) -> str:
        """The digest of its normal form."""
        if self._alias is None:
            return digest_code([self.node], self._rules)
        alias = self._alias
        return digest_texts(["import", alias.module, alias.name, str(alias.level), alias.bound, alias.target])


class Module:
    """A parsed file.

    Attributes:
        path: relative to the project's root, with `/`.
        tree: its syntax tree.
        rules: what its imports say about its decorators.
        atoms: in the order of the file.
        bindings: name -> the atoms that bind it, in the order of the file.
        stars: what it imports all names of.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = parse_file(path, text)
        self._imported: dict[str, list[Alias]] = {}
        for alias in _module_aliases(self.tree):
            self._imported.setdefault(alias.bound, []).append(alias)
        future = any(
            isinstance(node, ast.ImportFrom) and node.module == "__future__" and "annotations" in _names(node)
            for node in self.tree.body
        )
        self.rules = Rules(self.is_marker, self._is_plain, future)
        self.atoms = tuple(self._to_atoms())
        self.stars = tuple(a for atom in self.atoms for a in atom.reading.aliases if a.name == "*")

    @functools.cached_property
    def bindings(self) -> dict[str, tuple[Atom, ...]]:
        """Name -> the atoms that bind it."""
        found: dict[str, list[Atom]] = {}
        for atom in self.atoms:
            for name in atom.reading.bound:
                found.setdefault(name, []).append(atom)
        return {name: tuple(atoms) for name, atoms in found.items()}

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the whole file's normal form."""
        return digest_code(self.tree.body, self.rules)

    @functools.cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """Every node of the tree."""
        return tuple(ast.walk(self.tree))

    def is_marker(self, decorator: ast.expr) -> bool:
        """Return whether a decorator is `treadle.feature` or `treadle.stage`."""
        return self.to_marker(decorator) is not None

    def to_marker(self, decorator: ast.expr) -> str | None:
        """Return `feature` or `stage` for a decorator of Treadle's, None for others."""
        chain = to_chain(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if chain is None:
            return None
        name, rest = chain
        if name not in self._imported:
            treadle = any(alias.module == "treadle" and not alias.level for alias in self._imported.get("*", ()))
            return name if treadle and not rest and name in MARKERS else None
        for alias in self._imported[name]:
            dotted = _to_dotted(alias, rest)
            if not alias.level and dotted in [f"treadle.{marker}" for marker in MARKERS]:
                return dotted.partition(".")[2]
        return None

    def to_external(self, name: str, chain: tuple[str, ...]) -> str | None:
        """Return the dotted name of what a global is imported from, or of a builtin; None for all else."""
        if not self.bindings.get(name):
            return ".".join(("builtins", name, *chain)) if name in BUILTINS and not self.stars else None
        return self._to_imported(name, chain)

    def _to_imported(self, name: str, chain: tuple[str, ...]) -> str | None:
        """Return the dotted name of what a global is imported from, when that is certain."""
        aliases = self._imported.get(name, [])
        if len(set(aliases)) != 1 or aliases[0].level or name in self._assigned:
            return None
        return _to_dotted(aliases[0], chain)

    @functools.cached_property
    def _assigned(self) -> frozenset[str]:
        """The names that the module binds anywhere by anything but an import."""
        names = {node.id for node in self.nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
        return frozenset(names | {node.name for node in self.nodes if isinstance(node, Definition | ast.ClassDef)})

    def _is_plain(self, decorator: ast.expr) -> bool:
        chain = to_chain(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if chain is None:
            return False
        if chain[0] in self._imported:
            return self._to_imported(*chain) in _PLAIN_DECORATORS
        return chain[0] not in self._assigned and ".".join(("builtins", chain[0], *chain[1])) in _PLAIN_DECORATORS

    def _to_atoms(self) -> Iterator[Atom]:
        for node in self.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (Atom(node, self.rules, alias) for alias in to_aliases(node))
            elif not self._never_runs(node):
                yield Atom(node, self.rules)

    def _never_runs(self, node: ast.stmt) -> bool:
        """Return whether a statement is for type checkers, or for running the file as a script, alone."""
        if not isinstance(node, ast.If) or node.orelse:
            return False
        test = node.test
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            sides = [test.left, *test.comparators]
            names = [side.id for side in sides if isinstance(side, ast.Name)]
            values = [side.value for side in sides if isinstance(side, ast.Constant)]
            return names == ["__name__"] and values == ["__main__"]
        chain = to_chain(test)
        if chain is None:
            return False
        return self._to_imported(*chain) == "typing.TYPE_CHECKING"


def _to_dotted(alias: Alias, chain: tuple[str, ...]) -> str:
    return ".".join((alias.module, alias.name, *chain) if alias.name else (alias.target, *chain))


def _names(node: ast.ImportFrom) -> list[str]:
    return [item.name for item in node.names]


def _module_aliases(tree: ast.Module) -> Iterator[Alias]:
    """Return what the imports of a module bind, those inside functions and classes left out."""
    pending: list[ast.AST] = list(reversed(tree.body))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from to_aliases(node)
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case) and not isinstance(
            node, Definition | ast.ClassDef
        ):
            pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
