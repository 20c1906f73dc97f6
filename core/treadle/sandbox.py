"""A Jinja environment in which a template can neither reach out nor grow without bound.

Four gates, so that every limit holds without signals, threads or processes:

    parse      `Guard` (treadle.guard) refuses what is not offered; loops, containers, slices and comparisons
               pass through a filter that charges for them
    generate   `Code` (treadle.guard) sends every output and every `~` through the environment
    call       only Treadle's functions, macros and a list of methods can be called; each call is charged
    charge     `Budget` counts characters, elements and iterations, and looks at the CPU time of the thread

Sizes are checked before a value is made wherever the result can be larger than what it is made of.
"""

from __future__ import annotations

import json
import re
import string
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any, cast

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from treadle.guard import MAX_BITS, Code, Guard, LimitError, TestTag

MAX_SOURCE = 2**20
MAX_TOKENS = 20_000
MAX_WORK = 2**23
MAX_CPU_S = 1.5
MAX_WIDTH = 1_000
ELEMENT = 64
ITERATION = 8
CALL = 64


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_METHODS: Mapping[type, frozenset[str]] = {
    str: _words(
        """
        capitalize casefold center count endswith find index isalnum isalpha isdigit islower isspace isupper
        join ljust lower lstrip partition removeprefix removesuffix replace rfind rjust rpartition rsplit
        rstrip split splitlines startswith strip swapcase title upper zfill
        """
    ),
    dict: _words("get items keys values"),
    list: _words("count index"),
    tuple: _words("count index"),
}
_PADDING = _words("center ljust rjust zfill")
_LOOP = _words("changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0")
_FILTERS = _words(
    """
    abs capitalize count d default dictsort first float int items last length list lower map max min reject
    rejectattr reverse select selectattr sort title trim unique upper
    """
)
_KINDS: Mapping[type, str] = {
    **dict.fromkeys((int, float), "a number"),
    **dict.fromkeys((list, tuple), "a list"),
    bool: "a boolean",
    dict: "a mapping",
    str: "a text",
    type(None): "none",
}
_WIDTH = re.compile(r"\d+|\*")
_PERCENT = re.compile(r"%(?:\([^)]*\))?([^a-zA-Z%]*)([a-zA-Z%])")


class Budget:
    """What one rendering may still spend, in characters or their equivalent, and in CPU time."""

    __slots__ = ("_count", "_end_s", "left")

    def __init__(self) -> None:
        self.left = MAX_WORK
        self._count = 0
        self._end_s = time.thread_time() + MAX_CPU_S

    def spend(self, work: int) -> None:
        """Take `work` from what is left.

        Raises:
            LimitError: nothing is left, or the time is over.
        """
        self.left -= work
        if self.left < 0:
            raise LimitError("it makes more than 8 MiB of text and values, or loops too often")
        self._count += 1
        if not self._count & 63 and time.thread_time() > self._end_s:
            raise LimitError(f"it computes for more than {MAX_CPU_S} s")


class Door:
    """A function that templates may call; nothing of it but the call can be reached."""

    __slots__ = ("_function", "name")

    def __init__(self, name: str, function: Callable[..., object]) -> None:
        self.name = name
        self._function = function

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._function(*args, **kwargs)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment. It can be shared by threads; what one rendering spends belongs to its thread."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    code_generator_class = Code

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            optimized=False,
            extensions=["jinja2.ext.do", TestTag],
        )
        self._local = threading.local()
        self.globals: dict[str, Any] = {
            "range": Door("range", self._range),
            "dict": Door("dict", dict),
            "namespace": Namespace,
        }
        own: dict[str, Callable[..., object]] = {
            "_weigh": self.weigh,
            "_compare": self._compare,
            "_iterate": self._iterate,
            "format": lambda text, *args, **kwargs: self._percent(text, kwargs or args),
            "indent": self._indent,
            "join": self._join_filter,
            "replace": self._replace,
            "round": self._round,
            "string": self.text,
            "sum": self._sum,
            "tojson": self._tojson,
        }
        self.filters = {name: self._guarded(self.filters[name]) for name in _FILTERS} | own
        tests = cast("Mapping[str, Callable[..., Any]]", self.tests)
        self.tests = {name: self._guarded(test) for name, test in tests.items()}

    # one rendering

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Give the thread a new budget for what it does inside."""
        self._local.budget = Budget()
        self._local.is_data = False
        try:
            yield
        finally:
            del self._local.budget

    @property
    def is_data(self) -> bool:
        """Whether the last top-level output stands in the file as it is."""
        return bool(self._local.is_data)

    def spend(self, work: int) -> None:
        """Charge the rendering in progress."""
        self._local.budget.spend(work)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MAX_SOURCE:
            raise LimitError("the file is longer than 1 MiB")
        tree = super()._parse(source, name, filename)
        return cast("nodes.Template", Guard(filename or "").visit(tree))

    def _tokenize(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> TokenStream:
        stream = super()._tokenize(source, name, filename, state)
        return TokenStream(_counted(stream), name, filename)

    # values

    def weigh(self, value: Any) -> Any:
        """Charge for all that `value` holds, as often as it holds it, and return it.

        Raises:
            LimitError: it holds too much.
            TemplateRuntimeError: it is, or holds, neither text, number, boolean, null, list nor mapping.
        """
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self.spend(len(item))
            elif isinstance(item, (list, tuple)):
                self.spend(ELEMENT * len(item) + 1)
                stack.extend(item)
            elif isinstance(item, dict):
                self.spend(2 * ELEMENT * len(item) + 1)
                stack.extend(item)
                stack.extend(item.values())
            elif isinstance(item, int):
                self.spend(1 + item.bit_length() // 4)
            elif isinstance(item, Undefined):
                str(item)  # raises, with the name
            elif item is not None and not isinstance(item, float):
                if isinstance(item, (Door, Macro)):
                    raise TemplateRuntimeError(f'"{item.name}" is written without (), where a value is needed')
                raise TemplateRuntimeError("a namespace or loop stands where a value is needed")
        return value

    def text(self, value: Any) -> str:
        """Return a value as text, as `{{ }}` writes it."""
        if isinstance(value, str):
            return value
        self.weigh(value)
        if isinstance(value, (list, tuple, dict)):
            before = self._local.budget.left
            self.weigh(value)
            self.spend(10 * (before - self._local.budget.left))  # an escaped character is up to ten long
        return str(value)

    def emit(self, value: Any, is_data: bool) -> str:
        """Return one output as text; called by the generated code."""
        text = self.text(value)
        self.spend(len(text) + 1)
        self._local.is_data = is_data
        return text

    def join_texts(self, values: Sequence[Any], separator: str = "") -> str:
        """Return values as one text, after the charge for it."""
        texts = [self.text(value) for value in values]
        self.spend(sum(map(len, texts)) + len(separator) * len(texts) + ELEMENT)
        return separator.join(texts)

    def _compare(self, value: Any) -> Any:
        return self.weigh(value) if isinstance(value, (str, list, tuple, dict, int)) else value

    def _iterate(self, value: Any) -> Iterator[Any]:
        for item in value:
            self.spend(ITERATION)
            yield item

    def _range(self, *args: int) -> list[int]:
        numbers = range(*args)
        self.spend(ELEMENT * len(numbers[:MAX_WORK]))
        return list(numbers)

    # operators

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result can be larger than its operands."""
        if operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        if operator == "+" and not isinstance(left, (int, float)):
            self.weigh(left)
            self.weigh(right)
        elif operator == "*":
            self._check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        try:
            return super().call_binop(context, operator, left, right)
        except TypeError as error:
            what = f"{operator} cannot take {_kind(left)} and {_kind(right)}"
            raise TemplateRuntimeError(what + ("; ~ joins texts" if operator == "+" else "")) from error

    def _check_product(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_BITS:
                raise LimitError("a product is too large")
            return
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, (str, list, tuple)) and isinstance(times, int) and times > 1:
                before = self._local.budget.left
                self.weigh(sequence)
                self.spend((before - self._local.budget.left) * times)

    def _percent(self, text: str, values: Any) -> str:
        before = self._local.budget.left
        self.weigh(values)
        size = before - self._local.budget.left
        self.spend(len(text))
        for padding, kind in _PERCENT.findall(text):
            _check_width(padding)
            self.spend(size * (10 if kind in "ra" else 1) + MAX_WIDTH)
        return str(text % values)

    # calls

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may read `obj.attr`."""
        if isinstance(obj, LoopContext):
            return attr in _LOOP
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return attr in _METHODS.get(type(obj), ())

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return `obj.attribute`, or what raises as soon as it is used."""
        if isinstance(obj, (Door, Macro)):
            return self.unsafe_undefined(obj, attribute)
        return super().getattr(obj, attribute)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Return what raises as soon as it is used."""
        return self.undefined(f'"{attribute}" of {_kind(obj)} cannot be used in a template', exc=SecurityError)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a `format` that charges, in place of the method of a text."""
        if isinstance(value, BuiltinMethodType) and value.__name__ == "format" and isinstance(value.__self__, str):
            formatter, text = _Formatter(self), value.__self__
            return cast(
                "Callable[..., str]",
                Door("format", lambda *args, **kwargs: formatter.vformat(text, args, kwargs)),
            )
        return None

    def is_safe_callable(self, obj: Any) -> bool:
        """Return whether a template may call `obj`."""
        if isinstance(obj, (Door, Macro)) or obj is Namespace:
            return True
        if isinstance(obj, (BuiltinMethodType, MethodType)):
            return self.is_safe_attribute(obj.__self__, obj.__name__, obj)
        return False

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Call a function, macro or method from a template."""
        __self.spend(CALL)
        if isinstance(__obj, Undefined):
            __obj()  # raises, with the name
        if not __self.is_safe_callable(__obj):
            raise SecurityError("this value cannot be called in a template")
        method = isinstance(__obj, (BuiltinMethodType, MethodType))
        if method:
            __self._check_method(__obj, args)
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, (str, list, tuple, dict)):
            return __self.weigh(result)
        return list(__self._iterate(result)) if method and isinstance(result, Iterable) else result

    def _check_method(self, method: Any, args: Sequence[Any]) -> None:
        owner, name = method.__self__, method.__name__
        for arg in args:
            self.weigh(arg)
        if not isinstance(owner, str):
            return
        self.spend(len(owner) * (ELEMENT // 4 if name in ("split", "rsplit", "splitlines") else 1))
        if name in _PADDING and args:
            _check_width(str(args[0]))
        elif name == "join" and args:
            self.join_texts(list(self._iterate(args[0])), owner)
        elif name == "replace" and len(args) >= 2:
            self._check_replace(owner, *args[:2])

    def _check_replace(self, text: str, old: Any, new: Any) -> None:
        if isinstance(old, str) and isinstance(new, str):
            self.spend(len(text) + text.count(old) * len(new))

    # filters

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter or test of Jinja that charges for what goes in and what comes out."""

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            for arg in (*args, *kwargs.values()):
                if isinstance(arg, str):
                    self.spend(ELEMENT * len(arg) if function is _LIST else len(arg))
                elif isinstance(arg, (list, tuple, dict, int)):
                    self.weigh(arg)
                elif isinstance(arg, (Namespace, LoopContext)):
                    raise TemplateRuntimeError("a namespace or loop stands where a value is needed")
            result = function(*args, **kwargs)
            if isinstance(result, Iterator):
                result = list(self._iterate(result))
            return self.weigh(result) if isinstance(result, (str, list, tuple, dict)) else result

        return guarded

    def _join_filter(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        items = list(self._iterate(value))
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        return self.join_texts(items, self.text(d))

    def _replace(self, s: Any, old: Any, new: Any, count: int = -1) -> str:
        text, old, new = self.text(s), self.text(old), self.text(new)
        self._check_replace(text, old, new)
        return text.replace(old, new, count)

    def _indent(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self.text(s)
        if isinstance(width, int):
            _check_width(str(width))
        prefix = width if isinstance(width, str) else " " * width
        self.spend(len(text) + (text.count("\n") + 1) * len(prefix))
        lines = text.split("\n")
        kept = [prefix + line if (number or first) and (line or blank) else line for number, line in enumerate(lines)]
        return "\n".join(kept)

    def _round(self, value: float, precision: int = 0, method: str = "common") -> float:
        _check_width(str(abs(precision)))
        return cast("float", self._guarded(_ROUND)(value, precision, method))

    def _sum(self, iterable: Iterable[Any], attribute: str | int | None = None, start: float = 0) -> float:
        items = list(self._iterate(iterable))
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        if not all(isinstance(item, (int, float)) for item in (start, *items)):
            raise TemplateRuntimeError("sum adds numbers only")
        return sum(cast("list[float]", items), start)

    def _tojson(self, value: Any) -> str:
        before = self._local.budget.left
        self.weigh(value)
        self.spend(6 * (before - self._local.budget.left))
        return json.dumps(value, ensure_ascii=False)


_LIST = DEFAULT_FILTERS["list"]
_ROUND = DEFAULT_FILTERS["round"]


class _Formatter(string.Formatter):
    """`str.format` without access to attributes, wide fields or values that are no data."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, int | str]:
        """Return the value of a field; only positions and names are understood."""
        if re.search(r"[.\[]", field_name):
            raise SecurityError("a field with . or [ in format() cannot be used in a template")
        return cast("tuple[Any, int | str]", super().get_field(field_name, args, kwargs))

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format one value."""
        _check_width(format_spec)
        self._sandbox.weigh(value)
        text = self._sandbox.text(value) if not format_spec else format(value, format_spec)
        self._sandbox.spend(len(text) + ELEMENT)
        return text

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """Refuse `!r` and `!a`, which write a value as Python does."""
        if conversion is not None:
            raise SecurityError("a conversion such as !r in format() cannot be used in a template")
        return value


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a value of this kind")


def _check_power(left: Any, right: Any) -> None:
    whole = isinstance(left, int) and isinstance(right, int)
    if whole and abs(left) > 1 and left.bit_length() * abs(right) > MAX_BITS:
        raise LimitError("a power is too large")


def _check_width(text: str) -> None:
    for width in _WIDTH.findall(text):
        if width == "*" or len(width) > 4 or int(width) > MAX_WIDTH:
            raise LimitError(f"a width is larger than {MAX_WIDTH}")


def _counted(stream: TokenStream) -> Iterator[Token]:
    for count, token in enumerate(stream):
        if count > MAX_TOKENS:
            raise LimitError(f"it holds more than {MAX_TOKENS} pieces of template code")
        yield token
