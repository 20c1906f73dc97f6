"""Which names a statement reads, found without running it.

A `Reading` holds what one statement of a module (with all that stands inside it) takes from outside: global
names with the attributes read from them, imports, and the places where a name is only known at run time.
Python's rules of scope are followed, so that a local variable is no use of a global of the same name.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from treadle.pynormal import Definition, Rules

Kind = str
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+(:\w+)?")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Alias:
    """One name that an import binds.

    Attributes:
        module: the dotted module, '' in `from . import x`.
        name: the name taken from it, '*' for all of them, '' when the module itself is bound.
        level: the number of leading dots.
        bound: the name in the importing module.
        target: what `bound` stands for when `name` is '': `module`, or its first part only (`import a.b`).
    """

    module: str
    name: str
    level: int
    bound: str
    target: str


@dataclass(frozen=True)
class Use:
    """A global name that is read, or a locally imported one.

    Attributes:
        name: the global name; for a local import, what it binds.
        chain: the attributes read from it, in order.
        alias: the import, when the name is local to a function.
        called: whether it is called, with `arguments` arguments, the first of which is the text `literal`.
    """

    name: str
    chain: tuple[str, ...]
    line: int
    alias: Alias | None = None
    called: bool = False
    arguments: int = 0
    literal: str | None = None


@dataclass(frozen=True)
class Dynamic:
    """A `getattr` whose attribute is not written out; `receivers` is None when the object is unknown."""

    line: int
    receivers: tuple[Use, ...] | None


@dataclass(frozen=True)
class Base:
    """A class of the module: its name, its base classes, and whether it acts when a subclass is made."""

    name: str
    bases: tuple[Use, ...]
    has_bases: bool
    hooks: bool


@dataclass
class Reading:
    """What one statement reads and binds."""

    bound: frozenset[str] = frozenset()
    aliases: tuple[Alias, ...] = ()
    uses: tuple[Use, ...] = ()
    imports: tuple[tuple[Alias, bool], ...] = ()
    dynamic: tuple[Dynamic, ...] = ()
    attributes: dict[str, int] = field(default_factory=dict)
    texts: dict[str, int] = field(default_factory=dict)
    classes: tuple[Base, ...] = ()


def to_aliases(node: ast.Import | ast.ImportFrom) -> Iterator[Alias]:
    """Return what an import statement binds."""
    for item in node.names:
        if isinstance(node, ast.ImportFrom):
            yield Alias(node.module or "", item.name, node.level, item.asname or item.name, "")
        elif item.asname:
            yield Alias(item.name, "", 0, item.asname, item.name)
        else:
            top = item.name.partition(".")[0]
            yield Alias(item.name, "", 0, top, top)


def to_chain(node: ast.expr) -> tuple[str, tuple[str, ...]] | None:
    """Return `a.b.c` as ("a", ("b", "c")), or None when the expression is no such chain."""
    chain: list[str] = []
    while isinstance(node, ast.Attribute):
        chain.append(node.attr)
        node = node.value
    return (node.id, tuple(reversed(chain))) if isinstance(node, ast.Name) else None


def to_parameters(arguments: ast.arguments) -> list[ast.arg]:
    """Return every parameter, `*args` and `**kwargs` too."""
    extra = [arg for arg in (arguments.vararg, arguments.kwarg) if arg is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]


def read_statement(node: ast.stmt, rules: Rules) -> Reading:
    """Read one statement that stands at the top of a module."""
    return _Reader(rules).read(node)


class _Scope:
    """A function, class or comprehension; the outermost one is the module."""

    def __init__(self, kind: Kind, parent: _Scope | None, *, tables: bool = False) -> None:
        self.kind = kind
        self.parent = parent
        self.tables = tables
        self.bound: dict[str, int] = {}
        self.outer: set[str] = set()
        self.globals: set[str] = set()
        self.parameters: set[str] = set()
        self.values: dict[str, list[ast.expr]] = {}
        self.imports: dict[str, list[Alias]] = {}

    def bind(self, name: str) -> None:
        self.bound[name] = self.bound.get(name, 0) + 1

    def owner(self, name: str) -> _Scope | None:
        """Return the function scope in which a name read here lives; None when it is a global."""
        scope: _Scope = self
        while scope.parent is not None:
            if name in scope.globals:
                return None
            if name in scope.bound and name not in scope.outer and scope.kind != "class":
                return scope
            scope = scope.parent
        return None


@dataclass(frozen=True)
class _Load:
    name: str
    chain: tuple[str, ...]
    line: int
    scope: _Scope
    called: bool = False
    arguments: int = 0
    literal: str | None = None


class _Reader:
    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.root = _Scope("module", None)
        self.stack: list[tuple[ast.AST, _Scope]] = []
        self.loads: list[_Load] = []
        self.imports: list[tuple[Alias, _Scope]] = []
        self.receivers: list[tuple[int, ast.expr, _Scope]] = []
        self.classes: list[tuple[ast.ClassDef, _Scope]] = []
        self.attributes: dict[str, int] = {}
        self.texts: dict[str, int] = {}

    def read(self, node: ast.stmt) -> Reading:
        self.stack.append((node, self.root))
        while self.stack:
            item, scope = self.stack.pop()
            self._visit(item, scope)
        return Reading(
            bound=frozenset(self.root.bound),
            aliases=tuple(alias for aliases in self.root.imports.values() for alias in aliases),
            uses=tuple(dict.fromkeys(use for load in self.loads for use in self._to_uses(load))),
            imports=tuple(
                (alias, scope.kind == "class" or alias.bound in scope.globals)
                for alias, scope in self.imports
                if scope is not self.root
            ),
            dynamic=tuple(Dynamic(line, self._receivers(expr, scope)) for line, expr, scope in self.receivers),
            attributes=self.attributes,
            texts=self.texts,
            classes=tuple(self._to_base(node) for node, _ in self.classes),
        )

    # what was seen, as values

    def _to_uses(self, load: _Load) -> Iterator[Use]:
        owner = load.scope.owner(load.name)
        facts = (load.called, load.arguments, load.literal)
        if owner is None:
            yield Use(load.name, load.chain, load.line, None, *facts)
            return
        for alias in owner.imports.get(load.name, ()):
            yield Use(load.name, load.chain, load.line, alias, *facts)

    def _to_base(self, node: ast.ClassDef) -> Base:
        chains = [(to_chain(base.value if isinstance(base, ast.Subscript) else base), base) for base in node.bases]
        hooks = any(keyword.arg == "metaclass" for keyword in node.keywords) or any(
            "__init_subclass__" in (getattr(item, "name", None), getattr(item, "id", None))
            for statement in node.body
            for item in ast.walk(statement)
        )
        return Base(
            name=node.name,
            bases=tuple(Use(chain[0], chain[1], base.lineno) for chain, base in chains if chain is not None),
            has_bases=bool(node.bases or node.keywords),
            hooks=hooks,
        )

    def _receivers(self, expr: ast.expr, scope: _Scope) -> tuple[Use, ...] | None:
        """Return the global names that an object can come from, or None when that is unknown."""
        found: list[Use] = []
        pending, seen = [(expr, scope)], {id(expr)}
        while pending:
            item, place = pending.pop()
            root = _root(item)
            if isinstance(root, ast.Constant | ast.JoinedStr):
                continue
            if not isinstance(root, ast.Name):
                return None
            owner = place.owner(root.id)
            if owner is None:
                found.append(Use(root.id, _leading_chain(item), root.lineno))
            elif root.id in owner.imports:
                found += [Use(root.id, _leading_chain(item), root.lineno, a) for a in owner.imports[root.id]]
            else:
                values = owner.values.get(root.id, [])
                known = len(values) + (owner.tables and root.id in owner.parameters)
                if known != owner.bound[root.id]:
                    return None
                pending += [(value, owner) for value in values if id(value) not in seen]
                seen |= {id(value) for value in values}
        return tuple(found)

    # the walk

    def _visit(self, node: ast.AST, scope: _Scope) -> None:
        method = _VISITORS.get(type(node))
        if method is None:
            self._push(ast.iter_child_nodes(node), scope)
        else:
            method(self, node, scope)

    def _push(self, nodes: Iterable[ast.AST | None], scope: _Scope) -> None:
        self.stack.extend((node, scope) for node in nodes if node is not None)

    def _push_annotation(self, nodes: Iterable[ast.expr | None], scope: _Scope) -> None:
        for node in nodes:
            if node is None:
                continue
            self.stack.append((node, scope))
            for item in ast.walk(node):
                if isinstance(item, ast.Constant) and isinstance(item.value, str):
                    self._push([_parse_annotation(item.value)], scope)

    def _bind(self, name: str, scope: _Scope, line: int) -> None:
        scope.bind(name)
        if name in scope.globals:
            self.loads.append(_Load(name, (), line, self.root))

    def visit_name(self, node: ast.Name, scope: _Scope) -> None:
        if isinstance(node.ctx, ast.Load):
            self.loads.append(_Load(node.id, (), node.lineno, scope))
        else:
            self._bind(node.id, scope, node.lineno)

    def visit_attribute(self, node: ast.Attribute, scope: _Scope) -> None:
        self._visit_chain(node, scope, None)

    def _visit_chain(self, node: ast.expr, scope: _Scope, call: ast.Call | None, extra: Sequence[str] = ()) -> None:
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.append(node.attr)
            node = node.value
        chain = [*reversed(chain), *extra]
        for name in chain:
            self.attributes.setdefault(name, node.lineno)
        if not isinstance(node, ast.Name):
            self.stack.append((node, scope))
            return
        load = _Load(node.id, tuple(chain), node.lineno, scope)
        if call is not None:
            count = len(call.args) + len(call.keywords)
            first = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "name"), None)
            literal = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
            load = _Load(node.id, tuple(chain), node.lineno, scope, True, count, literal)
        self.loads.append(load)

    def visit_call(self, node: ast.Call, scope: _Scope) -> None:
        accessor = node.func.id if isinstance(node.func, ast.Name) else ""
        if accessor in ("getattr", "hasattr", "setattr", "delattr") and len(node.args) >= 2:
            receiver, name = node.args[:2]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self._visit_chain(receiver, scope, None, [name.value])
                self._push(node.args[2:], scope)
                self._push(node.keywords, scope)
                self._visit_chain(node.func, scope, node)
                return
            if accessor in ("getattr", "hasattr"):
                self.receivers.append((node.lineno, receiver, scope))
        self._visit_chain(node.func, scope, node)
        self._push(node.args, scope)
        self._push(node.keywords, scope)

    def visit_constant(self, node: ast.Constant, scope: _Scope) -> None:
        if isinstance(node.value, str) and "." in node.value and (".py" in node.value or _DOTTED.fullmatch(node.value)):
            self.texts.setdefault(node.value, node.lineno)

    def visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: _Scope) -> None:
        self._bind(node.name, scope, node.lineno)
        self._push((d for d in node.decorator_list if not self.rules.is_marker(d)), scope)
        kept = self.rules.kept_annotations(node)
        tables = any(map(self.rules.is_marker, node.decorator_list))
        inner = self._enter_function(node.args, scope, tables=tables)
        if kept != "none":
            self._push_annotation((arg.annotation for arg in to_parameters(node.args)), scope)
        if kept == "all":
            self._push_annotation([node.returns], scope)
        self._enter_body(node.body, inner)

    def visit_lambda(self, node: ast.Lambda, scope: _Scope) -> None:
        self.stack.append((node.body, self._enter_function(node.args, scope, tables=False)))

    def _enter_function(self, arguments: ast.arguments, scope: _Scope, *, tables: bool) -> _Scope:
        self._push([*arguments.defaults, *arguments.kw_defaults], scope)
        inner = _Scope("function", scope, tables=tables)
        for arg in to_parameters(arguments):
            inner.bind(arg.arg)
            inner.parameters.add(arg.arg)
        return inner

    def _enter_body(self, body: Sequence[ast.stmt], scope: _Scope) -> None:
        pending: list[ast.AST] = list(body)
        while pending:  # declarations hold for the whole function, wherever they stand
            node = pending.pop()
            if isinstance(node, ast.Global):
                scope.globals |= set(node.names)
                self.loads += [_Load(name, (), node.lineno, self.root) for name in node.names]
            elif isinstance(node, ast.Nonlocal):
                scope.outer |= set(node.names)
            elif not isinstance(node, ast.expr | Definition | ast.ClassDef):
                pending += ast.iter_child_nodes(node)
        self._push(body, scope)

    def visit_class(self, node: ast.ClassDef, scope: _Scope) -> None:
        self._bind(node.name, scope, node.lineno)
        if scope is self.root:
            self.classes.append((node, scope))
        self._push([*node.decorator_list, *node.bases, *node.keywords], scope)
        self._enter_body(node.body, _Scope("class", scope))

    def visit_comprehension(self, node: ast.AST, scope: _Scope) -> None:
        inner = _Scope("comprehension", scope)
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]  # one of four classes
        self.stack.append((generators[0].iter, scope))
        for index, generator in enumerate(generators):
            self._push([generator.target, *generator.ifs, generator.iter if index else None], inner)
        self._push((n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.comprehension)), inner)

    def visit_walrus(self, node: ast.NamedExpr, scope: _Scope) -> None:
        outer = scope
        while outer.kind == "comprehension" and outer.parent is not None:
            outer = outer.parent
        self._bind(node.target.id, outer, node.lineno)
        outer.values.setdefault(node.target.id, []).append(node.value)
        self.stack.append((node.value, scope))

    def visit_assign(self, node: ast.Assign, scope: _Scope) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                scope.values.setdefault(target.id, []).append(node.value)
        self._push([*node.targets, node.value], scope)

    def visit_annotated(self, node: ast.AnnAssign, scope: _Scope) -> None:
        if isinstance(node.target, ast.Name) and node.value is not None:
            scope.values.setdefault(node.target.id, []).append(node.value)
        if scope.kind == "class":
            self._push_annotation([node.annotation], scope)
        if node.value is not None or scope is not self.root:
            self._push([node.target, node.value], scope)

    def visit_import(self, node: ast.Import | ast.ImportFrom, scope: _Scope) -> None:
        for alias in to_aliases(node):
            self._bind(alias.bound, scope, node.lineno)
            scope.imports.setdefault(alias.bound, []).append(alias)
            self.imports.append((alias, scope))

    def visit_named(self, node: ast.AST, scope: _Scope) -> None:
        name = getattr(node, "rest", None) if isinstance(node, ast.MatchMapping) else getattr(node, "name", None)
        if isinstance(name, str):
            self._bind(name, scope, getattr(node, "lineno", 0))
        self._push(ast.iter_child_nodes(node), scope)


def _parse_annotation(text: str) -> ast.expr | None:
    """Return an annotation that is written as a text, or None when it is no expression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _root(node: ast.expr) -> ast.expr:
    while True:
        if isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return node


def _leading_chain(node: ast.expr) -> tuple[str, ...]:
    """Return the attributes that an expression reads from its root first."""
    steps: list[str | None] = []
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        steps.append(node.attr if isinstance(node, ast.Attribute) else None)
        node = node.func if isinstance(node, ast.Call) else node.value
    chain: list[str] = []
    for step in reversed(steps):
        if step is None:
            break
        chain.append(step)
    return tuple(chain)


_VISITORS: Mapping[type[ast.AST], Callable[[_Reader, Any, _Scope], None]] = {
    ast.Name: _Reader.visit_name,
    ast.Attribute: _Reader.visit_attribute,
    ast.Call: _Reader.visit_call,
    ast.Constant: _Reader.visit_constant,
    ast.FunctionDef: _Reader.visit_function,
    ast.AsyncFunctionDef: _Reader.visit_function,
    ast.Lambda: _Reader.visit_lambda,
    ast.ClassDef: _Reader.visit_class,
    **dict.fromkeys(_COMPREHENSIONS, _Reader.visit_comprehension),
    ast.NamedExpr: _Reader.visit_walrus,
    ast.Assign: _Reader.visit_assign,
    ast.AnnAssign: _Reader.visit_annotated,
    ast.Import: _Reader.visit_import,
    ast.ImportFrom: _Reader.visit_import,
    ast.ExceptHandler: _Reader.visit_named,
    ast.MatchAs: _Reader.visit_named,
    ast.MatchStar: _Reader.visit_named,
    ast.MatchMapping: _Reader.visit_named,
}
