"""Which statements at the top of a module do more than bind their names when the module is imported.

Such a statement can change anything, so it counts for whatever imports its module. The answer errs towards
yes: a statement is quiet only when all that it runs is known to be.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from treadle.pymodule import Atom, Module
from treadle.pynormal import Definition, is_noop
from treadle.pyscope import Use, to_chain, to_parameters
from treadle.pysource import Defined, Sources, Target, Whole

_LOUD_BUILTINS = frozenset(
    {
        *(
            "exec",
            "eval",
            "compile",
            "setattr",
            "delattr",
            "input",
            "open",
            "next",
            "iter",
            "globals",
            "vars",
        ),
        *("__import__", "print", "breakpoint", "exit", "quit", "getattr", "type"),
    }
)
_CALLING_BUILTINS = frozenset({"map", "filter", "sorted", "min", "max"})
_QUIET_MODULES = frozenset(
    {
        *(
            "re",
            "math",
            "datetime",
            "pathlib",
            "decimal",
            "fractions",
            "collections",
            "typing",
            "functools",
            "string",
        ),
        *(
            "operator",
            "itertools",
            "enum",
            "types",
            "dataclasses",
            "logging",
            "uuid",
            "os",
            "json",
            "zoneinfo",
            "abc",
        ),
        *("polars", "numpy", "pyarrow", "pandas", "contextlib", "textwrap", "statistics", "time", "calendar"),
        *("warnings", "sys", "platform", "treadle", "pydantic"),
    }
)
_LOUD_PARTS = frozenset({"random", "Config", "api", "register", "reduce", "simplefilter", "filterwarnings", "environ"})
_MAX_DEPTH = 5


def has_effect(sources: Sources, module: Module, atom: Atom) -> bool:
    """Return whether importing a module runs something in a statement that can be seen elsewhere."""
    key = ("effect", atom)
    found = sources.memo.get(key)
    if found is None:
        found = sources.memo[key] = any(_is_loud(sources, module, node) for node in _executed([atom.node]))
    return bool(found)


def is_evaluated(atom: Atom) -> bool:
    """Return whether a statement computes something on import, so that its place among effects matters."""
    node = atom.node
    if isinstance(node, Definition):
        defaults = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        return bool(node.decorator_list) or not all(isinstance(d, ast.Constant) for d in defaults)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        return not isinstance(node.value, ast.Constant)
    return not isinstance(node, ast.Import | ast.ImportFrom)


def _executed(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    """Walk what runs when statements run: not the bodies of the functions they define, nor annotations."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, Definition | ast.Lambda):
            pending += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Call):
                    pending += [*decorator.args, *decorator.keywords]
        elif isinstance(node, ast.AnnAssign):
            pending += [node.target, *([node.value] if node.value is not None else [])]
        else:
            pending += ast.iter_child_nodes(node)


def _is_loud(sources: Sources, module: Module, node: ast.AST, depth: int = 0) -> bool:
    if isinstance(node, ast.Expr):
        return not is_noop(node)
    if isinstance(node, ast.Attribute | ast.Subscript):
        return not isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Call):
        return not _is_quiet_call(sources, module, node, depth)
    if isinstance(node, Definition | ast.ClassDef):
        return not all(_is_quiet_decorator(sources, module, d, depth) for d in node.decorator_list)
    return isinstance(
        node,
        ast.AugAssign | ast.Raise | ast.Assert | ast.With | ast.AsyncWith | ast.Await | ast.Yield | ast.Global,
    )


def _is_quiet_decorator(sources: Sources, module: Module, decorator: ast.expr, depth: int) -> bool:
    if module.rules.is_marker(decorator) or module.rules.is_plain(decorator):
        return True
    if isinstance(decorator, ast.Attribute) and decorator.attr in ("setter", "getter", "deleter"):
        return True
    called = isinstance(decorator, ast.Call)
    chain = to_chain(decorator.func if isinstance(decorator, ast.Call) else decorator)
    if chain is None:
        return False
    return _is_quiet_function(sources, module, Use(chain[0], chain[1], 0), 1 if called else 0, depth)


def _is_quiet_call(sources: Sources, module: Module, call: ast.Call, depth: int) -> bool:
    func: ast.expr = call.func
    while True:  # to what is called first in `a.b(1).c(2)`
        chain = to_chain(func)
        if chain is not None:
            break
        if isinstance(func, ast.Attribute | ast.Subscript):
            func = func.value
        elif isinstance(func, ast.Call):
            func = func.func
        else:
            return isinstance(func, ast.Constant | ast.JoinedStr)
    external = module.to_external(*chain)
    targets = sources.resolve(Use(chain[0], chain[1], 0), module.path)
    if external is not None and not any(_is_of_project(target, module) for target in targets):
        return _is_quiet_external(external, call)
    return _is_quiet_function(sources, module, Use(chain[0], chain[1], 0), 0, depth) and func is call.func


def _is_of_project(target: Target, module: Module) -> bool:
    return isinstance(target, Whole) or (isinstance(target, Defined) and target.path != module.path)


def _is_quiet_external(name: str, call: ast.Call) -> bool:
    top, *rest = name.split(".")
    if top != "builtins":
        return top in _QUIET_MODULES and not _LOUD_PARTS.intersection(rest)
    if len(rest) > 1 or rest[0] in _LOUD_BUILTINS:
        return False
    if rest[0] not in _CALLING_BUILTINS:
        return True
    return rest[0] not in ("map", "filter") and not any(keyword.arg == "key" for keyword in call.keywords)


def _is_quiet_function(sources: Sources, module: Module, use: Use, nested: int, depth: int) -> bool:
    """Return whether calling a function, and what it returns `nested` times, changes nothing."""
    if depth >= _MAX_DEPTH:
        return False
    atoms: list[tuple[Module, Atom]] = []
    for target in sources.resolve(use, module.path):
        if not isinstance(target, Defined):
            return False
        place = sources.module(target.path)
        atoms += [(place, atom) for atom in sources.atoms_of(target) if not atom.reading.aliases]
    return bool(atoms) and all(_is_quiet_atom(sources, place, atom, nested, depth + 1) for place, atom in atoms)


def _is_quiet_atom(sources: Sources, module: Module, atom: Atom, nested: int, depth: int) -> bool:
    key = ("quiet", atom, nested, depth)
    if key not in sources.memo:
        node = atom.node
        quiet = False
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            quiet = _is_quiet_body(sources, module, node, nested, depth, frozenset())
        sources.memo[key] = quiet
    return bool(sources.memo[key])


def _is_quiet_body(
    sources: Sources,
    module: Module,
    function: ast.FunctionDef,
    nested: int,
    depth: int,
    outer: frozenset[str],
) -> bool:
    names = {arg.arg for arg in to_parameters(function.args)} | outer
    names |= {n.id for n in _executed(list(function.body)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {node.name for node in function.body if isinstance(node, Definition)}
    local = frozenset(names)
    for statement in function.body:
        if isinstance(statement, ast.FunctionDef):
            if nested and not _is_quiet_body(sources, module, statement, nested - 1, depth, local):
                return False
        elif not is_noop(statement) and not isinstance(statement, ast.Return | ast.Assign | ast.AnnAssign | ast.If):
            return False
        for node in _executed([statement]):
            chain = to_chain(node.func) if isinstance(node, ast.Call) else None
            if (chain is not None and chain[0] in local) or _is_loud(sources, module, node, depth):
                return False
            if isinstance(node, ast.Nonlocal | ast.Delete | ast.Import | ast.ImportFrom):
                return False
    return True
