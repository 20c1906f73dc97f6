"""A project's Python, read without ever importing it.

    text -> parse_file -> Module (atoms) -> read_functions: the features and stages of a file
                                         -> read_code: the identity of one of them, with all that it reaches

A file that would write to disk or open a socket when imported does neither here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from treadle.errors import Location, Problem, ProjectError
from treadle.program import Function
from treadle.pyclosure import Code, read_closure
from treadle.pymodule import MARKERS, Module, check_syntax
from treadle.pynormal import Definition
from treadle.pyscope import to_chain, to_parameters
from treadle.pysource import Sources

__all__ = ["Code", "Function", "Sources", "read_code", "read_functions"]

JSON = bool | int | float | str | list["JSON"] | dict[str, "JSON"] | None


def read_code(sources: Sources, function: Function) -> Code:
    """Return the identity of a function's code and of everything of the project that it reaches.

    Raises:
        ProjectError: TR301, a file that it imports is no Python.
    """
    try:
        return read_closure(sources, function.path, function.name)
    except RecursionError as error:
        raise ProjectError(
            Problem(
                code="TR301",
                what=f'what "{function.name}" imports cannot be followed',
                where=Location(function.path, function.line),
                why="a name is handed on through too many modules",
                fix="import it from the module that defines it",
            )
        ) from error


def read_functions(sources: Sources, path: str) -> tuple[Function, ...]:
    """Return the features and stages of a file, in its order; a file without any gives none.

    Raises:
        ProjectError: all that is wrong in the file. TR301 it is no Python; TR302 a parameter can be no table;
            TR303 the decorator's arguments are not written out; TR304 what is decorated is no plain function.
    """
    module = sources.module(path)
    problems: list[Problem] = []
    found: list[Function] = []
    marked = list(_find_marked(module))
    if marked:
        check_syntax(module)
    for node, decorators in marked:
        wrong = list(_check_node(module, node, decorators))
        if isinstance(node, ast.FunctionDef):
            wrong += _check_parameters(module, node)
        arguments, unread = _read_arguments(module, decorators[0])
        wrong += unread
        problems += wrong
        if not wrong and isinstance(node, ast.FunctionDef):
            found.append(_to_function(module, node, decorators[0], arguments))
    problems += _find_unimported(module)
    if problems:
        raise ProjectError(sorted(problems, key=lambda p: (p.where is not None and p.where.line, p.code)))
    return tuple(found)


def _find_marked(module: Module) -> Iterator[tuple[Definition | ast.ClassDef, list[ast.expr]]]:
    for node in module.nodes:
        if isinstance(node, Definition | ast.ClassDef):
            decorators = [d for d in node.decorator_list if module.is_marker(d)]
            if decorators:
                yield node, decorators


def _find_unimported(module: Module) -> Iterator[Problem]:
    """Find `@feature` in a file that binds no such name: the import was forgotten."""
    if module.stars:
        return
    for node in module.tree.body:
        for decorator in getattr(node, "decorator_list", ()):
            chain = to_chain(decorator.func if isinstance(decorator, ast.Call) else decorator)
            if chain is not None and not chain[1] and chain[0] in MARKERS and chain[0] not in module.bindings:
                yield Problem(
                    code="TR304",
                    what=f'"{chain[0]}" is not imported',
                    where=_locate(module, decorator),
                    fix=f"write at the top of the file: from treadle import {chain[0]}",
                )


def _check_node(module: Module, node: Definition | ast.ClassDef, decorators: list[ast.expr]) -> Iterator[Problem]:
    marker = module.to_marker(decorators[0])
    why = fix = ""
    if isinstance(node, ast.ClassDef):
        why, fix = (
            "it is a class",
            f"decorate a function that returns the table: def {node.name.lower()}(...)",
        )
    elif isinstance(node, ast.AsyncFunctionDef):
        why, fix = "it is an async function", "write def instead of async def"
    elif _is_generator(node):
        why, fix = "it yields, and so returns no table", "return the whole table"
    elif node not in module.tree.body:
        why, fix = (
            "it stands inside a class, a function or another block",
            "move it to the top level of the file",
        )
    elif len(decorators) > 1:
        why, fix = "it is decorated twice by Treadle", "leave one of the decorators"
    if why:
        yield Problem("TR304", f'"{node.name}" can be no {marker}', _locate(module, node), why, fix=fix)


def _is_generator(function: Definition) -> bool:
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, Definition | ast.Lambda | ast.ClassDef):
            pending += ast.iter_child_nodes(node)
    return False


def _check_parameters(module: Module, function: ast.FunctionDef) -> Iterator[Problem]:
    args = function.args

    def refuse(arg: ast.arg, why: str, fix: str) -> Problem:
        what = f'parameter "{arg.arg}" of "{function.name}" names no table'
        return Problem("TR302", what, _locate(module, arg), why, fix=fix)

    for arg in args.posonlyargs:
        yield refuse(arg, "it stands before a /: tables are passed by name", "remove the / from the parameters")
    for extra, stars in ((args.vararg, "*"), (args.kwarg, "**")):
        if extra is not None:
            why = f"{stars}{extra.arg} takes whatever is passed"
            yield refuse(extra, why, "name each table as a parameter of its own")
    plain = [*args.posonlyargs, *args.args]
    defaults = [*zip(plain[len(plain) - len(args.defaults) :], args.defaults, strict=True)]
    defaults += [
        (arg, value) for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True) if value is not None
    ]
    for arg, value in defaults:
        text = ast.get_source_segment(module.text, value) or ""
        fix = "remove it; write a constant at the top of the file, and read it there"
        yield refuse(arg, f"it has the default value {text}".rstrip() + ": a parameter is a table that is read", fix)


def _read_arguments(module: Module, decorator: ast.expr) -> tuple[dict[str, JSON], list[Problem]]:
    found: dict[str, JSON] = {}
    problems: list[Problem] = []
    if not isinstance(decorator, ast.Call):
        return found, problems
    marker = module.to_marker(decorator)

    def refuse(node: ast.expr, why: str, fix: str) -> None:
        what = f"the arguments of @{marker} must be written out"
        problems.append(Problem("TR303", what, _locate(module, node), why, fix=fix))

    for value in decorator.args:
        refuse(
            value,
            f"{_shown(module, value)} has no name",
            f'write @{marker}(name=value), as in entity="customer"',
        )
    for keyword in decorator.keywords:
        if keyword.arg is None:
            refuse(
                keyword.value,
                f"**{_shown(module, keyword.value)} is only known when it runs",
                "write each argument",
            )
            continue
        try:
            found[keyword.arg] = _to_json(ast.literal_eval(keyword.value))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            why = f"{keyword.arg} is {_shown(module, keyword.value)}: no text, number, boolean, list or dict"
            refuse(keyword.value, why, "write the value itself: the file is read, not run")
    return found, problems


def _to_json(value: object) -> JSON:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and value - value == 0:
        return value
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _to_json(item) for key, item in value.items()}
    raise ValueError


def _to_function(module: Module, node: ast.FunctionDef, decorator: ast.expr, arguments: Mapping[str, JSON]) -> Function:
    parameters = to_parameters(node.args)
    annotations = {arg.arg: _unparse(arg.annotation) for arg in parameters}
    return Function(
        path=module.path,
        name=node.name,
        decorator=module.to_marker(decorator) or "",
        parameters=tuple(arg.arg for arg in parameters),
        annotations={**annotations, "return": _unparse(node.returns)},
        arguments=arguments,
        line=node.lineno,
        description=ast.get_docstring(node) or "",
    )


def _unparse(annotation: ast.expr | None) -> str:
    if annotation is None:
        return ""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    try:
        return ast.unparse(annotation)
    except RecursionError:
        return ""


def _shown(module: Module, node: ast.expr) -> str:
    text = ast.get_source_segment(module.text, node) or "it"
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _locate(module: Module, node: ast.stmt | ast.expr | ast.arg) -> Location:
    lines = module.text.splitlines()
    text = lines[node.lineno - 1].strip() if node.lineno <= len(lines) else ""
    return Location(module.path, node.lineno, node.col_offset + 1, text)
