"""Edits of a Python feature and of what it reaches: which ones change its identity.

The last test runs generated projects before and after an edit: whenever the result changes, the identity
must.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from treadle.pycode import Code, Sources, read_code, read_functions

if TYPE_CHECKING:
    from pathlib import Path

FEATURE = '''"""Planes."""
import math
import polars as pl
from treadle import feature

from features.helpers import tidy, timed
from features import units

LIMIT = 40
NAMES = ["a", "b"]


def clip(value, low=0):
    """Cut off."""
    return max(value, low)


class Ages:
    newest = 2013

    def of(self, year):
        return self.newest - year


@timed
def rounded(value):
    return math.floor(value)


@feature(entity="tailnum", static=True)
def plane_age(planes: pl.LazyFrame) -> pl.LazyFrame:
    """How old a plane is."""
    years = tidy(planes).select("tailnum", 'year')
    return years.with_columns(age=rounded(clip(Ages().of(pl.col("year")) + units.YEAR)) + LIMIT)


def unrelated(value):
    return value
'''
HELPERS = """def tidy(table):
    return shift(table, 1)


def shift(table, by):
    return table + by


def timed(function):
    def inner(*args):
        return function(*args)

    return inner


def also_unrelated():
    return 1
"""
PROJECT = {
    "features/planes.py": FEATURE,
    "features/helpers.py": HELPERS,
    "features/units.py": "YEAR = 1\nMONTH = 12\n",
    "features/other.py": "def nothing():\n    return 0\n",
}

REAL = {
    "helper in the module": ("features/planes.py", "return max(value, low)", "return min(value, low)"),
    "helper in another module": ("features/helpers.py", "return table + by", "return table - by"),
    "global": ("features/planes.py", "LIMIT = 40", "LIMIT = 41"),
    "class attribute": ("features/planes.py", "newest = 2013", "newest = 2014"),
    "decorator body": ("features/helpers.py", "return function(*args)", "return -function(*args)"),
    "default value": ("features/planes.py", "low=0", "low=1"),
    "constant": ("features/planes.py", 'pl.col("year")', 'pl.col("built")'),
    "operator": ("features/planes.py", "+ LIMIT)", "- LIMIT)"),
    "global of another module": ("features/units.py", "YEAR = 1", "YEAR = 1.0"),
    "type of a table": ("features/planes.py", "planes: pl.LazyFrame", "planes: pa.Table"),
    "what an import means": ("features/planes.py", "import polars as pl", "import pandas as pl"),
    "where an import leads": ("features/planes.py", "import tidy, timed", "import shift as tidy, timed"),
}
COSMETIC = {
    "comment": ("features/planes.py", "LIMIT = 40", "# the limit\nLIMIT = 40  # in years"),
    "docstring": ("features/planes.py", '"""How old a plane is."""', '"""The age\n\n    of a plane."""'),
    "layout": (
        "features/planes.py",
        "return max(value, low)",
        "\n\n    return max(\n        value, low\n    )",
    ),
    "quotes": ("features/planes.py", "\"tailnum\", 'year'", "'tailnum', \"year\""),
    "annotation of a helper": (
        "features/planes.py",
        "def clip(value, low=0):",
        "def clip(value: int, low: int = 0) -> int:",
    ),
    "reordered": (
        "features/planes.py",
        "import math\nimport polars as pl\nfrom treadle import feature\n",
        "from treadle import feature\nimport polars as pl\nimport math\n",
    ),
    "unrelated function": (
        "features/planes.py",
        "return value\n",
        "return value + 1\n\ndef more(x):\n    return x\n",
    ),
    "parentheses and a trailing comma": ("features/planes.py", 'NAMES = ["a", "b"]', 'NAMES = (["a", "b",])'),
    "parentheses in an expression": ("features/planes.py", "self.newest - year", "(self.newest) - (year)"),
    "docstring of a helper": ("features/helpers.py", "def tidy(table):", 'def tidy(table):\n    """Tidy."""'),
    "docstring of a module": ("features/helpers.py", "def tidy(table):", '"""Help."""\ndef tidy(table):'),
    "annotation of a global": ("features/units.py", "YEAR = 1", "YEAR: int = 1"),
    "imported helpers reordered": (
        "features/planes.py",
        "from features.helpers import tidy, timed\nfrom features import units\n",
        "from features import units\nfrom features.helpers import timed\nfrom features.helpers import tidy\n",
    ),
    "functions reordered": (
        "features/helpers.py",
        "def tidy(table):\n    return shift(table, 1)\n\n\ndef shift(table, by):\n    return table + by\n",
        "def shift(table, by):\n    return table + by\n\n\ndef tidy(table):\n    return shift(table, 1)\n",
    ),
    "unrelated function of a helper's module": ("features/helpers.py", "    return 1\n", "    return 2\n"),
    "unrelated global of a helper's module": ("features/units.py", "MONTH = 12", "MONTH = 13"),
    "unrelated file": ("features/other.py", "return 0", "return 1"),
    "implicit joining of texts": ("features/planes.py", 'NAMES = ["a", "b"]', 'NAMES = ["a" "", "b"]'),
    "configuration of the feature": ("features/planes.py", "static=True", "static=True, tags=['x']"),
    "pass": ("features/helpers.py", "def tidy(table):\n", "def tidy(table):\n    pass\n"),
}


def code_of(files: dict[str, str], path: str = "features/planes.py") -> Code:
    sources = Sources(files)
    return read_code(sources, read_functions(sources, path)[0])


def edit(files: dict[str, str], path: str, old: str, new: str) -> dict[str, str]:
    assert files[path].count(old) == 1, (path, old)
    return {**files, path: files[path].replace(old, new)}


@pytest.mark.parametrize("name", REAL)
def test_real_edit_changes_the_code(name: str) -> None:
    before, after = code_of(PROJECT), code_of(edit(PROJECT, *REAL[name]))

    assert before.unresolved == ()
    assert before.parts != after.parts


@pytest.mark.parametrize("name", COSMETIC)
def test_cosmetic_edit_leaves_the_code(name: str) -> None:
    assert code_of(PROJECT) == code_of(edit(PROJECT, *COSMETIC[name]))


def test_code_names_every_piece_reached() -> None:
    code = code_of(PROJECT)

    assert set(code.parts) == {
        *("features/helpers.py:shift", "features/helpers.py:tidy", "features/helpers.py:timed"),
        *(f"features/planes.py:{name}" for name in ("Ages", "LIMIT", "clip", "math", "pl", "plane_age", "rounded")),
        *(
            "features/planes.py:tidy",
            "features/planes.py:timed",
            "features/planes.py:units",
            "features/units.py:YEAR",
        ),
    }
    assert code.distributions == ("polars",)


HEAD = "from treadle import feature\n"
BODY = "@feature\ndef f(t):\n    return run()\n"
REACHED = {
    # name: (files, path of the edit, old, new)
    "method override in another module": (
        {
            "features/a.py": HEAD + "from features.b import Fast\ndef run():\n    return call(Fast())\n"
            "def call(x):\n    return x.go()\n" + BODY,
            "features/b.py": "from features.c import Slow\nclass Fast(Slow):\n    pass\n",
            "features/c.py": "class Slow:\n    def go(self):\n        return 1\n",
        },
        (
            "features/b.py",
            "class Fast(Slow):\n    pass\n",
            "class Fast(Slow):\n    def go(self):\n        return 2\n",
        ),
    ),
    "method of a base class": (
        {
            "features/a.py": HEAD + "from features.b import Fast\ndef run():\n    return Fast().go()\n" + BODY,
            "features/b.py": "import features.c as c\nclass Fast(c.Slow):\n    pass\n",
            "features/c.py": "class Slow:\n    def go(self):\n        return 1\n",
        },
        ("features/c.py", "return 1", "return 2"),
    ),
    "method through super()": (
        {
            "features/a.py": HEAD + "from .b import Fast\ndef run():\n    return Fast().go()\n" + BODY,
            "features/b.py": "from .c import Slow\nclass Fast(Slow):\n    def go(self):\n        return super().go()\n",
            "features/c.py": "class Slow:\n    def go(self):\n        return 1\n",
        },
        ("features/c.py", "return 1", "return 2"),
    ),
    "order of mixins": (
        {
            "features/a.py": HEAD + "class A:\n    x = 1\nclass B:\n    x = 2\nclass C(A, B):\n    pass\n"
            "def run():\n    return C().x\n" + BODY,
        },
        ("features/a.py", "(A, B)", "(B, A)"),
    ),
    "subclass of a reached class": (
        {
            "features/a.py": HEAD
            + "from features.c import Base\nimport features.b\ndef run():\n    return Base()\n"
            + BODY,
            "features/b.py": "from features.c import Base as B\nclass Sub(B):\n    def go(self):\n        return 1\n",
            "features/c.py": "class Base:\n    pass\n",
        },
        ("features/b.py", "return 1", "return 2"),
    ),
    "registry filled by a decorator": (
        {
            "features/a.py": HEAD + "from features.r import REGISTRY\nimport features.b\n"
            "def run():\n    return REGISTRY['x']()\n" + BODY,
            "features/r.py": "REGISTRY = {}\ndef register(f):\n    REGISTRY[f.__name__] = f\n    return f\n",
            "features/b.py": "from features.r import register\n@register\ndef x():\n    return helper()\n"
            "def helper():\n    return 1\n",
        },
        ("features/b.py", "return 1", "return 2"),
    ),
    "order of registrations": (
        {
            "features/a.py": HEAD
            + "from features.r import ALL\nimport features.b\ndef run():\n    return ALL[0]\n"
            + BODY,
            "features/r.py": "ALL = []\n",
            "features/b.py": "from features.r import ALL\nALL.append(1)\nALL.append(2)\n",
        },
        ("features/b.py", "ALL.append(1)\nALL.append(2)\n", "ALL.append(2)\nALL.append(1)\n"),
    ),
    "order of imports that register": (
        {
            "features/a.py": HEAD + "from features.r import ALL\nimport features.b\nimport features.c\n"
            "def run():\n    return ALL[0]\n" + BODY,
            "features/r.py": "ALL = []\n",
            "features/b.py": "from features.r import ALL\nALL.append(1)\n",
            "features/c.py": "from features.r import ALL\nALL.append(2)\n",
        },
        ("features/a.py", "import features.b\nimport features.c\n", "import features.c\nimport features.b\n"),
    ),
    "registry filled by __init_subclass__": (
        {
            "features/a.py": HEAD + "from features.r import Plugin\nimport features.b\n"
            "def run():\n    return Plugin.all[0]().go()\n" + BODY,
            "features/r.py": "class Plugin:\n    all = []\n"
            "    def __init_subclass__(cls):\n        Plugin.all.append(cls)\n",
            "features/b.py": "from features.r import Plugin\nclass One(Plugin):\n    def go(self):\n        return 1\n",
        },
        ("features/b.py", "return 1", "return 2"),
    ),
    "registry filled by a metaclass": (
        {
            "features/a.py": HEAD
            + "from features.r import ALL\nimport features.b\ndef run():\n    return ALL[1]().x\n"
            + BODY,
            "features/r.py": "ALL = []\n"
            "class Meta(type):\n    def __init__(cls, *a):\n        ALL.append(cls)\n"
            "class Base(metaclass=Meta):\n    pass\n",
            "features/b.py": "from features.r import Base\nclass One(Base):\n    x = 1\n",
        },
        ("features/b.py", "x = 1", "x = 2"),
    ),
    "__subclasses__()": (
        {
            "features/a.py": HEAD
            + "from features.b import Base\ndef run():\n    return Base.__subclasses__()[0].x\n"
            + BODY,
            "features/b.py": "class Base:\n    pass\nclass One(Base):\n    x = 1\n",
        },
        ("features/b.py", "x = 1", "x = 2"),
    ),
    "re-export of a package": (
        {
            "features/a.py": HEAD + "from lib import run\n" + BODY,
            "lib/__init__.py": "from .deep.inner import run\n",
            "lib/deep/inner.py": "def run():\n    return 1\n",
        },
        ("lib/deep/inner.py", "return 1", "return 2"),
    ),
    "module imported from a package under another name": (
        {
            "features/a.py": HEAD + "from lib import inner as i\ndef run():\n    return i.go()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "dotted import": (
        {
            "features/a.py": HEAD + "import lib.inner\ndef run():\n    return lib.inner.go()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "star import": (
        {
            "features/a.py": HEAD + "from lib.inner import *\n" + BODY,
            "lib/inner.py": "from lib.more import *\n",
            "lib/more.py": "def run():\n    return ONE\nONE = 1\n",
        },
        ("lib/more.py", "ONE = 1", "ONE = 2"),
    ),
    "import in a function": (
        {
            "features/a.py": HEAD + "def run():\n    from lib.inner import go\n    return go()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "module kept in a variable": (
        {
            "features/a.py": HEAD + "import lib.inner as inner\ndef run():\n    m = inner\n    return m.go()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "module imported in a class body": (
        {
            "features/a.py": HEAD + "class K:\n    import lib.inner as m\ndef run():\n    return K.m.go()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "conditional import": (
        {
            "features/a.py": HEAD
            + "try:\n    from lib.fast import run\nexcept ImportError:\n    from lib.slow import run\n"
            + BODY,
            "lib/slow.py": "def run():\n    return 1\n",
        },
        ("lib/slow.py", "return 1", "return 2"),
    ),
    "effect of a package's __init__": (
        {
            "features/a.py": HEAD + "from lib.inner import go\ndef run():\n    return go()\n" + BODY,
            "lib/__init__.py": "import lib.inner\nlib.inner.N = 5\n",
            "lib/inner.py": "N = 1\ndef go():\n    return N\n",
        },
        ("lib/__init__.py", "N = 5", "N = 6"),
    ),
    "monkeypatch on import": (
        {
            "features/a.py": HEAD
            + "import features.patch\nfrom features import b\ndef run():\n    return b.go()\n"
            + BODY,
            "features/b.py": "def go():\n    return 1\n",
            "features/patch.py": "import features.b as b\ndef other():\n    return 2\nb.go = other\n",
        },
        ("features/patch.py", "return 2", "return 3"),
    ),
    "setattr on import": (
        {
            "features/a.py": HEAD
            + "import features.patch\nfrom features import b\ndef run():\n    return b.go()\n"
            + BODY,
            "features/b.py": "def go():\n    return 1\n",
            "features/patch.py": "import features.b\nsetattr(features.b, 'go', lambda: 2)\n",
        },
        ("features/patch.py", "lambda: 2", "lambda: 3"),
    ),
    "global filled by a method": (
        {"features/a.py": HEAD + "L = []\nL.append(1)\ndef run():\n    return L\n" + BODY},
        ("features/a.py", "append(1)", "append(2)"),
    ),
    "global filled by an item": (
        {"features/a.py": HEAD + "D = {}\nD['x'] = 1\ndef run():\n    return D\n" + BODY},
        ("features/a.py", "= 1", "= 2"),
    ),
    "global filled in a loop": (
        {"features/a.py": HEAD + "D = {}\nfor n in (1, 2):\n    D[n] = n\ndef run():\n    return D\n" + BODY},
        ("features/a.py", "(1, 2)", "(1, 3)"),
    ),
    "augmented assignment": (
        {"features/a.py": HEAD + "N = 1\nN += 1\ndef run():\n    return N\n" + BODY},
        ("features/a.py", "N += 1", "N -= 1"),
    ),
    "global of an if": (
        {
            "features/a.py": HEAD
            + "import sys\nif sys.maxsize:\n    N = 1\nelse:\n    N = 2\ndef run():\n    return N\n"
            + BODY
        },
        ("features/a.py", "N = 1", "N = 3"),
    ),
    "star import moved behind a name that it rebinds": (
        {
            "features/a.py": HEAD + "from lib.inner import *\nN = 1\ndef run():\n    return N\n" + BODY,
            "lib/inner.py": "N = 2\n",
        },
        ("features/a.py", "from lib.inner import *\nN = 1\n", "N = 1\nfrom lib.inner import *\n"),
    ),
    "star import from outside moved behind a name that it may rebind": (
        {"features/a.py": HEAD + "from polars import *\nN = 1\ndef run():\n    return N\n" + BODY},
        ("features/a.py", "from polars import *\nN = 1\n", "N = 1\nfrom polars import *\n"),
    ),
    "__all__ of a star import": (
        {
            "features/a.py": HEAD + "from lib.inner import *\ndef run():\n    return max(1, 2)\n" + BODY,
            "lib/inner.py": "__all__ = ['max']\ndef max(*a):\n    return 0\n",
        },
        ("lib/inner.py", "['max']", "[]"),
    ),
    "argument of a decorator": (
        {
            "features/a.py": HEAD + "L = [1]\ndef deco(n):\n    def inner(f):\n        return f\n    return inner\n"
            "@deco(L.pop())\ndef other():\n    pass\ndef run():\n    return L\n" + BODY,
        },
        ("features/a.py", "L.pop()", "L.clear()"),
    ),
    "file of the project named like one of the standard library": (
        {
            "features/a.py": HEAD + "import math\nimport features.r\nX = math.floor(1)\n"
            "def run():\n    return features.r.ALL\n" + BODY,
            "features/r.py": "ALL = []\n",
            "math.py": "from features.r import ALL\ndef floor(n):\n    ALL.append(1)\n",
        },
        ("math.py", "append(1)", "append(2)"),
    ),
    "decorator imported from one of two places": (
        {
            "features/a.py": HEAD + "try:\n    from lib.inner import cache\nexcept ImportError:\n"
            "    from functools import cache\n@cache\ndef other(x: int):\n    return 1\n"
            "def run():\n    return other\n" + BODY,
            "lib/inner.py": "def cache(f):\n    return f.__name__\n",
        },
        ("features/a.py", "x: int", "x: str"),
    ),
    "global deleted": (
        {"features/a.py": HEAD + "len = 1\ndel len\ndef run():\n    return len\n" + BODY},
        ("features/a.py", "del len\n", ""),
    ),
    "builtin shadowed": (
        {"features/a.py": HEAD + "def run():\n    return max(1, 2)\n" + BODY},
        ("features/a.py", "def run", "max = min\ndef run"),
    ),
    "name bound twice, reordered": (
        {"features/a.py": HEAD + "N = 1\nN = 2\ndef run():\n    return N\n" + BODY},
        ("features/a.py", "N = 1\nN = 2\n", "N = 2\nN = 1\n"),
    ),
    "global computed by a helper with a side effect": (
        {
            "features/a.py": HEAD
            + "L = []\ndef fill():\n    L.append(1)\nX = fill()\ndef run():\n    return L\n"
            + BODY,
        },
        ("features/a.py", "append(1)", "append(2)"),
    ),
    "nested function": (
        {"features/a.py": HEAD + "def run():\n    def inner():\n        return N\n    return inner()\nN = 1\n" + BODY},
        ("features/a.py", "N = 1", "N = 2"),
    ),
    "lambda in a dict": (
        {"features/a.py": HEAD + "D = {'a': lambda: N}\nN = 1\ndef run():\n    return D['a']()\n" + BODY},
        ("features/a.py", "N = 1", "N = 2"),
    ),
    "functools.partial": (
        {
            "features/a.py": HEAD + "import functools\ndef add(a, b):\n    return a + b\n"
            "plus = functools.partial(add, 1)\ndef run():\n    return plus(2)\n" + BODY,
        },
        ("features/a.py", "a + b", "a - b"),
    ),
    "module-level __getattr__": (
        {
            "features/a.py": HEAD + "from lib import inner\ndef run():\n    return inner.anything\n" + BODY,
            "lib/inner.py": "def __getattr__(name):\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "field of a dataclass": (
        {
            "features/a.py": HEAD + "from dataclasses import dataclass\n@dataclass\nclass K:\n    x: int = 1\n"
            "def run():\n    return K()\n" + BODY,
        },
        ("features/a.py", "x: int", "x: 'ClassVar'"),
    ),
    "annotation that a decorator reads": (
        {
            "features/a.py": HEAD + "def deco(f):\n    return f\n@deco\ndef run(x: int = 1):\n    return x\n" + BODY,
        },
        ("features/a.py", "x: int", "x: str"),
    ),
    "single dispatch": (
        {
            "features/a.py": HEAD + "import functools\n@functools.singledispatch\ndef go(x):\n    return 0\n"
            "@go.register\ndef _(x: int):\n    return 1\ndef run():\n    return go(3)\n" + BODY,
        },
        ("features/a.py", "return 1", "return 2"),
    ),
    "getattr with a written name": (
        {
            "features/a.py": HEAD + "from lib import inner\ndef run():\n    return getattr(inner, 'go')()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "import_module with a written name": (
        {
            "features/a.py": HEAD
            + "import importlib\ndef run():\n    return importlib.import_module('lib.inner').go()\n"
            + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "module named by a text": (
        {
            "features/a.py": HEAD + "from somewhere import load\ndef run():\n    return load('lib.inner:go')\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "global import inside a function": (
        {
            "features/a.py": HEAD + "def setup():\n    global inner\n    import lib.inner as inner\n"
            "def run():\n    setup()\n    return inner.go()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "module beside the file": (
        {
            "features/a.py": HEAD + "from beside import go\ndef run():\n    return go()\n" + BODY,
            "features/beside.py": "def go():\n    return 1\n",
        },
        ("features/beside.py", "return 1", "return 2"),
    ),
    "module in a folder put on sys.path": (
        {
            "features/a.py": HEAD + "import sys\nsys.path.append('lib')\nfrom inner import go\n"
            "def run():\n    return go()\n" + BODY,
            "lib/inner.py": "def go():\n    return 1\n",
        },
        ("lib/inner.py", "return 1", "return 2"),
    ),
    "integer for a boolean": (
        {"features/a.py": HEAD + "N = 1\ndef run():\n    return N\n" + BODY},
        ("features/a.py", "N = 1", "N = True"),
    ),
    "bytes for a text": (
        {"features/a.py": HEAD + "N = 'a'\ndef run():\n    return N\n" + BODY},
        ("features/a.py", "N = 'a'", "N = b'a'"),
    ),
}


@pytest.mark.parametrize("name", REACHED)
def test_edit_of_what_is_reached_indirectly_changes_the_code(name: str) -> None:
    files, change = REACHED[name]
    before, after = code_of(files, "features/a.py"), code_of(edit(files, *change), "features/a.py")

    assert before.unresolved == ()
    assert before.parts != after.parts


@pytest.mark.parametrize("name", REACHED)
def test_unrelated_function_and_comments_never_count(name: str) -> None:
    files, _ = REACHED[name]
    more = {path: f"# new\n{text}\ndef unrelated_new(x):\n    return x\n" for path, text in files.items()}
    if name in ("module kept in a variable", "module named by a text", "import_module with a written name"):
        more = {path: f"# new\n{text}" for path, text in files.items()}
    if name in ("module imported in a class body", "global import inside a function"):
        more = {path: f"# new\n{text}" for path, text in files.items()}

    assert code_of(files, "features/a.py") == code_of(more, "features/a.py")


UNKNOWN = {
    "getattr on a module": "from lib import inner\ndef run(n='go'):\n    return getattr(inner, n)()\n",
    "getattr on a class": "class K:\n    x = 1\ndef run(n='x'):\n    return getattr(K, n)\n",
    "getattr on something unknown": "def run(x=1, n='x'):\n    return getattr(x, n)\n",
    "getattr passed on": "def run(x=1, n='x'):\n    return list(map(getattr, [x], [n]))\n",
    "attrgetter": "import operator\ndef run(n='x'):\n    return operator.attrgetter(n)\n",
    "globals()": "def run(n='x'):\n    return globals()[n]()\n",
    "vars()": "def run(n='x'):\n    return vars()[n]()\n",
    "__import__": "def run(n='lib.inner'):\n    return __import__(n)\n",
    "import_module": "from importlib import import_module as load\ndef run(n='x'):\n    return load(n)\n",
    "importlib kept": "import importlib\nload = importlib.import_module\ndef run(n):\n    return load(n)\n",
    "importlib.util": "import importlib.util\ndef run(n='x'):\n    return importlib.util.find_spec(n)\n",
    "exec": "def run():\n    exec('x = 1')\n",
    "eval": "def run():\n    return eval('1')\n",
    "builtins.eval": "import builtins\ndef run():\n    return builtins.eval('1')\n",
    "sys.modules": "import sys\ndef run(n='x'):\n    return sys.modules[n]\n",
    "frame": "import sys\ndef run():\n    return sys._getframe().f_globals['x']\n",
    "function's globals": "def go():\n    return 1\ndef run(n='x'):\n    return go.__globals__[n]\n",
    "pickle": "import pickle\ndef run(f=None):\n    return pickle.load(f)\n",
    "subprocess": "import subprocess\ndef run():\n    return subprocess.run(['python', 'x'])\n",
    "runpy": "import runpy\ndef run(n='x'):\n    return runpy.run_path(n)\n",
    "docstring read": "def go():\n    'Doc.'\ndef run():\n    return go.__doc__\n",
    "signature read": "import inspect\ndef go(x: int): pass\ndef run(): return inspect.signature(go)\n",
    "star import of nothing": "from .gone import *\ndef run():\n    return go()\n",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_resolved_counts_every_file(name: str) -> None:
    files = {"features/a.py": HEAD + UNKNOWN[name] + BODY, "lib/inner.py": "def go():\n    return 1\n"}
    before = code_of(files, "features/a.py")

    assert before.unresolved
    assert all(place.startswith("features/a.py:") and why for place, why in before.unresolved)
    assert set(before.parts) == set(files)
    assert before.parts != code_of(edit(files, "lib/inner.py", "1", "2"), "features/a.py").parts
    commented = edit(files, "lib/inner.py", "1", "1  # one")
    if "read" not in name:
        assert before == code_of(commented, "features/a.py")


def test_docstring_counts_where_docstrings_are_read() -> None:
    files = {"features/a.py": HEAD + UNKNOWN["docstring read"] + BODY}

    assert code_of(files, "features/a.py") != code_of(edit(files, "features/a.py", "Doc.", "Text."), "features/a.py")


ORDINARY = {
    "polars": "import polars as pl\ndef run(df): return df.select(pl.col('x').name.suffix('_y').eval())\n",
    "getattr of outside": "import polars as pl\ndef run(n='mean'):\n    return getattr(pl.col('x'), n)()\n",
    "getattr of a local": "import polars as pl\ndef run(n):\n    c = pl.col(1)\n    return getattr(c, n)()\n",
    "getattr of a text": "def run(n='upper'):\n    return getattr('x', n)()\n",
    "methods named like builtins": "def run(df=None):\n    return df.eval('x').compile().globals().exec()\n",
    "vars of an object": "def run(x=None):\n    return vars(x)\n",
    "local named like a builtin": "def run(eval=1, exec=2):\n    return eval + exec\n",
    "__file__": "from pathlib import Path\ndef run():\n    return Path(__file__).parent\n",
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_code_is_resolved(name: str) -> None:
    assert code_of({"features/a.py": HEAD + ORDINARY[name] + BODY}, "features/a.py").unresolved == ()


def test_getattr_of_a_table_is_resolved() -> None:
    text = HEAD + "HOW = 'mean'\n@feature\ndef f(t):\n    return getattr(t.group_by('x'), HOW)()\n"

    assert code_of({"features/a.py": text}, "features/a.py").unresolved == ()


def test_changed_helper_leaves_the_other_features_of_a_file() -> None:
    text = HEAD + "def one():\n    return 1\ndef two():\n    return 2\n"
    text += "@feature\ndef a(t):\n    return one()\n@feature\ndef b(t):\n    return two()\n"

    def codes(text: str) -> list[Code]:
        sources = Sources({"f.py": text})
        return [read_code(sources, function) for function in read_functions(sources, "f.py")]

    before, after = codes(text), codes(text.replace("return 2", "return 3"))
    assert before[0] == after[0]
    assert before[1] != after[1]


# generated projects, run before and after an edit

NUMBERS = st.integers(0, 3)
MODULES = ("alpha", "beta", "gamma")


@st.composite
def modules(draw: st.DrawFn, earlier: tuple[str, ...], name: str) -> str:
    """A module of a few statements over `earlier` modules; it may register, rebind, patch or dispatch."""
    lines = ["from base import REGISTRY, Base"]
    for other in earlier:
        form = draw(
            st.sampled_from([f"import {other}", f"from {other} import *", f"from {other} import value as {other}_v"])
        )
        lines.append(form)
    lines.append(f"LIMIT = {draw(NUMBERS)}")
    lines.append(f"def step(x, by={draw(NUMBERS)}):\n    return x * 2 + by + LIMIT")
    lines.append(
        f"class Kind(Base):\n    rate = {draw(NUMBERS)}\n    def go(self):\n        return self.rate + {draw(NUMBERS)}"
    )
    extra = st.sampled_from(
        [
            f"REGISTRY.append({draw(NUMBERS)})",
            f"LIMIT += {draw(NUMBERS)}",
            f"if LIMIT > {draw(NUMBERS)}:\n    LIMIT = {draw(NUMBERS)}",
            f"REGISTRY.extend(step(n) for n in range({draw(NUMBERS)}))",
            f"Base.bonus = {draw(NUMBERS)}",
            f"def quiet():\n    return {draw(NUMBERS)}",
            f"UNREAD = {draw(NUMBERS)}",
            "def step(x, by=1):\n    return x - by",
            *(f"import {other} as patched\npatched.LIMIT = {draw(NUMBERS)}" for other in earlier),
        ]
    )
    lines += draw(st.lists(extra, max_size=3))
    parts = [
        "step(LIMIT)",
        "Kind().go()",
        "sum(REGISTRY)",
        "len(REGISTRY)",
        "Kind.bonus",
        "Kind.__mro__[1].bonus",
    ]
    parts += [f"{other}_v()" for other in earlier if f"{other}_v" in "\n".join(lines)]
    parts += [f"{other}.value()" for other in earlier if f"import {other}" in lines]
    chosen = draw(st.lists(st.sampled_from(parts), min_size=1, max_size=4))
    lines.append("def value():\n    return " + " + ".join(chosen))
    return "\n".join(lines) + "\n"


@st.composite
def projects(draw: st.DrawFn) -> dict[str, str]:
    files = {"base.py": "REGISTRY = []\nclass Base:\n    bonus = 0\n"}
    for index, name in enumerate(MODULES):
        files[f"{name}.py"] = draw(modules(MODULES[:index], name))
    files["main.py"] = "from treadle import feature\nimport gamma\n@feature\ndef result():\n    return gamma.value()\n"
    return files


@st.composite
def edits(draw: st.DrawFn, files: dict[str, str]) -> dict[str, str]:
    """Change one number, swap two statements, or drop one."""
    path = draw(st.sampled_from(sorted(set(files) - {"main.py"})))
    text = files[path]
    kind = draw(st.sampled_from(["number", "number", "swap", "drop"]))
    if kind == "number":
        places = [i for i, char in enumerate(text) if char.isdigit()]
        if places:
            place = draw(st.sampled_from(places))
            text = text[:place] + str(draw(st.integers(0, 9))) + text[place + 1 :]
        return {**files, path: text}
    blocks: list[str] = []
    for line in text.splitlines():
        if line.startswith(" "):
            blocks[-1] += "\n" + line
        else:
            blocks.append(line)
    first, second = draw(st.integers(0, len(blocks) - 1)), draw(st.integers(0, len(blocks) - 1))
    if kind == "swap":
        blocks[first], blocks[second] = blocks[second], blocks[first]
    else:
        del blocks[first]
    return {**files, path: "\n".join(blocks) + "\n"}


def execute(files: dict[str, str], folder: Path) -> object:
    """Return what the feature gives; None when it raises: then there is no result that could be kept."""
    names = [path.removesuffix(".py") for path in files]
    for path, text in files.items():
        (folder / path).write_text(text)
    kept = list(sys.path)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    importlib.invalidate_caches()
    try:
        return importlib.import_module("main").result.__wrapped_result__()
    except (NameError, ImportError, AttributeError, TypeError, IndentationError):
        return None
    finally:
        sys.path[:] = kept
        sys.dont_write_bytecode = before
        for name in names:
            sys.modules.pop(name, None)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_code_changes_whenever_the_result_does(data: st.DataObject, tmp_path: Path) -> None:
    before = data.draw(projects())
    after = data.draw(edits(before))

    if code_of(before, "main.py").parts == code_of(after, "main.py").parts:
        # what runs needs no treadle: the decorator is Treadle's, and its work is not under test here
        plain = "def feature(f):\n    f.__wrapped_result__ = f\n    return f\n"
        ran = [
            execute({**files, "main.py": files["main.py"].replace(HEAD, plain)}, tmp_path) for files in (before, after)
        ]
        assert None in ran or ran[0] == ran[1]
