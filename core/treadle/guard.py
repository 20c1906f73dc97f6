# ruff: noqa: N802, N815  (a visitor is named after the class of node that it visits)
"""The syntax of templates: what is refused, and where the limits of `treadle.sandbox` take hold.

`Guard` rewrites the tree that Jinja parsed; `Code` writes the code that runs. Neither computes anything.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn, cast

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import TemplateAssertionError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

MAX_BITS = 4_096

CALLED_NAMES = ("as_of", "this")
"""Names that a template reads as a value and that are computed, and noted, when they are read."""


TEST_PREFIX = "test_"
"""Before the name of a `{% test %}`: its macro is called so."""


class LimitError(Exception):
    """A template asked for more time, memory or output than it may have."""


class TestTag(Extension):
    """`{% test name(model, column_name) %}` ... `{% endtest %}`: a macro called `test_name`, as dbt has it."""

    tags = {"test", "data_test"}  # noqa: RUF012  (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the macro that a tag begins."""
        tag = next(parser.stream)
        macro = nodes.Macro(lineno=tag.lineno)
        macro.name = f"{TEST_PREFIX}{parser.parse_assign_target(name_only=True).name}"
        parser.parse_signature(macro)
        macro.body = parser.parse_statements((f"name:end{tag.value}",), drop_needle=True)
        return macro


class Guard(NodeTransformer):
    """Refuse what templates are not offered, and send what can grow through a charge."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _refuse(self, node: nodes.Node, what: str) -> NoReturn:
        raise TemplateAssertionError(f"{what} cannot be used in a template", node.lineno, None, self._path)

    def _charged(self, node: nodes.Expr, name: str = "_weigh") -> nodes.Filter:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.name not in CALLED_NAMES:
            return node
        if node.ctx != "load":
            self._refuse(node, f'"{node.name}" as a name of your own')
        return nodes.Call(node, [], [], None, None, lineno=node.lineno)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        value = node.value
        if (isinstance(value, int) and value.bit_length() > MAX_BITS) or value in (math.inf, -math.inf):
            raise LimitError("a number is too long")
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            self._refuse(node, "a recursive loop")
        self.generic_visit(node)
        node.iter = self._charged(cast("nodes.Expr", node.iter), "_iterate")
        return node

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._charged(node)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return self._charged(node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return self._charged(node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._charged(node.expr, "_compare")
        for operand in node.ops:
            operand.expr = self._charged(operand.expr, "_compare")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        if node.name.startswith("_"):
            raise TemplateAssertionError(f"No filter named {node.name!r}.", node.lineno, None, self._path)
        return self.generic_visit(node)

    def _statement(self, node: nodes.Node) -> NoReturn:
        names = {
            "FromImport": "import",
            "ScopedEvalContextModifier": "autoescape",
            "EvalContextModifier": "autoescape",
        }
        name = names.get(type(node).__name__, type(node).__name__.lower())
        self._refuse(node, "{% " + name + " %}")

    visit_Include = visit_Import = visit_FromImport = visit_Extends = visit_Block = _statement
    visit_ScopedEvalContextModifier = visit_EvalContextModifier = _statement


class Code(CodeGenerator):
    """Compute nothing while compiling; send output and `~` through the environment."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        raise nodes.Impossible

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.emit(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(f", {frame.buffer is None and isinstance(node, nodes.TemplateData)})")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")
