"""The normal form of Python code, and its digest.

Two pieces of code that differ only in what cannot change a result (comments, layout, quotes, docstrings,
annotations that nothing reads) have the same normal form, and it is the same under every version of Python
that Treadle runs on: fields that are empty are left out, and constants are written with their type. Trees
may be deep, so they are walked with a stack of our own.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Definition = ast.FunctionDef | ast.AsyncFunctionDef
Annotations = Literal["none", "parameters", "all"]

_SKIPPED = frozenset({"ctx", "kind", "type_comment", "type_ignores", "lineno", "col_offset"})
_SPECIAL = frozenset(
    {ast.arg, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.JoinedStr, ast.AnnAssign}
)
_KEEP_ARGUMENTS, _IN_CLASS, _KEEP_METHODS = 1, 2, 4


@dataclass(frozen=True)
class Rules:
    """What a module's imports say about its decorators.

    Attributes:
        is_marker: whether a decorator is Treadle's own: it is configuration, not code.
        is_plain: whether a decorator is known not to read annotations, such as `functools.cache`.
        lazy_annotations: the module says `from __future__ import annotations`.
    """

    is_marker: Callable[[ast.expr], bool]
    is_plain: Callable[[ast.expr], bool]
    lazy_annotations: bool = False

    def kept_annotations(self, function: Definition) -> Annotations:
        """Return which annotations of a function can change what it does."""
        if any(not self.is_marker(d) and not self.is_plain(d) for d in function.decorator_list):
            return "all"
        return "parameters" if any(map(self.is_marker, function.decorator_list)) else "none"

    def has_reader(self, node: ast.ClassDef) -> bool:
        """Return whether a class is handed to something that may read its methods' annotations."""
        return bool(node.keywords) or not all(map(self.is_plain, node.decorator_list))


def digest_code(nodes: Iterable[ast.AST], rules: Rules) -> str:
    """Return the SHA-256, in hex, of the normal form of some statements, in their order."""
    return digest_texts(_Writer(rules).write(nodes))


def digest_texts(texts: Iterable[str]) -> str:
    """Return the SHA-256, in hex, of a list of texts; no two different lists look alike."""
    pieces = [text.encode("utf-8", "surrogatepass") for text in texts]
    sizes = ",".join(str(len(piece)) for piece in pieces)
    return hashlib.sha256(b"".join((sizes.encode(), b":", *pieces))).hexdigest()


def is_noop(node: ast.stmt) -> bool:
    """Return whether a statement does nothing: `pass`, a docstring, `...`."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


class _Writer:
    """Writes trees as a flat list of tokens."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.stack: list[tuple[ast.AST | str, int]] = []

    def write(self, nodes: Iterable[ast.AST]) -> Iterator[str]:
        read_annotations = False
        self.stack = [(node, 0) for node in reversed(list(nodes)) if not (isinstance(node, ast.stmt) and is_noop(node))]
        while self.stack:
            node, state = self.stack.pop()
            if isinstance(node, str):
                yield node
            elif isinstance(node, ast.Constant):
                yield _constant(node.value)
            elif isinstance(node, ast.AnnAssign) and not state & _IN_CLASS:
                if node.value is not None:
                    self.stack.append((ast.Assign(targets=[node.target], value=node.value), state))
            else:
                kind = type(node)
                read_annotations = read_annotations or (kind in _SPECIAL and self._reads_annotations(node))
                yield "(" + kind.__name__
                self.stack.append((")", 0))
                self._push_fields(node, state, special=kind in _SPECIAL)
        if read_annotations and self.rules.lazy_annotations:
            yield "lazy annotations"

    def _reads_annotations(self, node: ast.AST) -> bool:
        if isinstance(node, Definition):
            return self.rules.kept_annotations(node) == "all"
        return isinstance(node, ast.AnnAssign)

    def _push_fields(self, node: ast.AST, state: int, *, special: bool) -> None:
        pushed: list[tuple[ast.AST | str, int]] = []
        for name in node._fields:
            value = getattr(node, name, None)
            if name in _SKIPPED or value is None or (special and not self._is_kept(node, name, state)):
                continue
            inner = self._inner_state(node, name, state) if special else state
            if isinstance(value, list):
                items = self._items(node, name, value, inner)
                if items:
                    pushed += [(f".{name}[", 0), *((_item(item), inner) for item in items), ("]", 0)]
            else:
                pushed += [(f".{name}", 0), (_item(value), inner)]
        self.stack.extend(reversed(pushed))

    def _is_kept(self, node: ast.AST, name: str, state: int) -> bool:
        if isinstance(node, ast.arg) and name == "annotation":
            return bool(state & _KEEP_ARGUMENTS)
        if isinstance(node, Definition) and name == "returns":
            return bool(state & _KEEP_METHODS) or self.rules.kept_annotations(node) == "all"
        return True

    def _inner_state(self, node: ast.AST, name: str, state: int) -> int:
        if isinstance(node, ast.ClassDef):
            return _IN_CLASS | (_KEEP_METHODS if self.rules.has_reader(node) else 0)
        if isinstance(node, Definition):
            kept = bool(state & _KEEP_METHODS) or self.rules.kept_annotations(node) != "none"
            return _KEEP_ARGUMENTS if name == "args" and kept else 0
        return 0 if isinstance(node, ast.Lambda) else state

    def _items(self, node: ast.AST, name: str, items: list[object], state: int) -> Sequence[object]:
        if isinstance(node, ast.JoinedStr):
            return _joined(items)
        if name == "decorator_list":
            return [item for item in items if not (isinstance(item, ast.expr) and self.rules.is_marker(item))]
        if items and isinstance(items[0], ast.stmt):
            return [item for item in items if isinstance(item, ast.stmt) and not is_noop(item)]
        return items


def _item(value: object) -> ast.AST | str:
    if isinstance(value, ast.AST):
        return value
    return "~" if value is None else f"={value}"


def _constant(value: object) -> str:
    if isinstance(value, int):  # repr() refuses integers of many digits
        return f"{type(value).__name__} {value:x}"
    return f"{type(value).__name__} {value if isinstance(value, str) else repr(value)}"


def _joined(items: Iterable[object]) -> list[object]:
    """Merge neighbouring texts of an f-string: versions of Python cut them differently."""
    merged: list[object] = []
    for item in items:
        if isinstance(item, ast.Constant) and isinstance(item.value, str):
            if not item.value:
                continue
            last = merged[-1] if merged else None
            if isinstance(last, ast.Constant) and isinstance(last.value, str):
                merged[-1] = ast.Constant(last.value + item.value)
                continue
        merged.append(item)
    return merged
