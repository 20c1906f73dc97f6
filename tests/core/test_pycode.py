"""Reading features and stages from Python text: what is found, and every way in which it can be wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from treadle.errors import ProjectError
from treadle.pycode import Function, Sources, read_code, read_functions

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "from treadle import feature\n"


def read(text: str, path: str = "features/a.py") -> tuple[Function, ...]:
    return read_functions(Sources({path: text}), path)


def fail(text: str) -> list[tuple[str, int]]:
    with pytest.raises(ProjectError) as caught:
        read(text)
    return [(p.code, p.where.line if p.where else 0) for p in caught.value.problems]


def test_function_is_read_with_its_configuration() -> None:
    text = (
        HEAD + "import polars as pl\n\n\n"
        "@feature(entity='tailnum', static=True, tags=('a', 'b'), ttl=None, n=-1.5)\n"
        'def plane_age(planes: pl.LazyFrame, *, airlines: "pa.Table") -> pl.LazyFrame:\n'
        '    """How old.\n\n    Text."""\n'
        "    return planes\n"
    )

    assert read(text) == (
        Function(
            path="features/a.py",
            name="plane_age",
            decorator="feature",
            parameters=("planes", "airlines"),
            annotations={"planes": "pl.LazyFrame", "airlines": "pa.Table", "return": "pl.LazyFrame"},
            arguments={"entity": "tailnum", "static": True, "tags": ["a", "b"], "ttl": None, "n": -1.5},
            line=6,
            description="How old.\n\nText.",
        ),
    )


@pytest.mark.parametrize(
    ("head", "decorator", "kind"),
    [
        ("from treadle import feature", "@feature", "feature"),
        ("from treadle import feature", "@feature()", "feature"),
        ("from treadle import feature as f", "@f", "feature"),
        ("from treadle import stage as step", "@step(after='train')", "stage"),
        ("import treadle", "@treadle.feature", "feature"),
        ("import treadle as t", "@t.stage()", "stage"),
        ("from treadle import *", "@feature", "feature"),
        ("try:\n    from treadle import feature\nexcept ImportError:\n    raise", "@feature", "feature"),
    ],
)
def test_decorator_is_known_however_it_is_imported(head: str, decorator: str, kind: str) -> None:
    functions = read(f"{head}\n{decorator}\ndef f(t):\n    return t\n")

    assert [(f.name, f.decorator, f.parameters) for f in functions] == [("f", kind, ("t",))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def f(t):\n    return t\n",
        "from other import feature\n@feature\ndef f(t):\n    return t\n",
        "def feature(f):\n    return f\n@feature\ndef f(t):\n    return t\n",
        "import other\n@other.feature\ndef f(t):\n    return t\n",
        "from .treadle import feature\n@feature\ndef f(t):\n    return t\n",
    ],
)
def test_file_without_features_gives_none(text: str) -> None:
    assert read(text) == ()


def test_byte_order_mark_and_windows_lines_are_read() -> None:
    assert [f.name for f in read("\ufeff" + (HEAD + "@feature\ndef f(t):\n    return t\n").replace("\n", "\r\n"))] == [
        "f"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = (\n", 1),
        ("x = 1\ndef f(:\n    pass\n", 2),
        ("if True:\n\tx = 1\n        y = 2\n", 3),
        ("x = 1\ny = '\0'\n", 2),
        ("x = 1\ny = '\ud800'\n", 2),
        ("# -*- coding: latin-1 -*-\nx = 1\n", 1),
        ("x = " + "9" * 5000 + "\n", 1),
        (HEAD + "@feature\ndef f(t):\n    return t\nreturn 1\n", 5),
        (HEAD + "@feature\ndef f(t, t):\n    return t\n", 3),
    ],
)
def test_text_that_is_no_python_is_refused_with_its_line(text: str, line: int) -> None:
    assert fail(text) == [("TR301", line)]


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "+".join(["1"] * 10_000),
        "x = " + "(" * 10_000 + ")" * 10_000,
        "x = " + "-" * 10_000 + "1",
        "x = a" + ".b" * 10_000,
        "x = a" + "()" * 10_000,
        "x = a" + "[0]" * 10_000,
        "x = " + "lambda: " * 5_000 + "1",
        "x = " + "not " * 10_000 + "1",
        "x = " + "[" * 150 + "]" * 150,
        "if x:\n    pass\n" + "elif x:\n    pass\n" * 3_000,
    ],
)
def test_deep_nesting_is_refused_or_read_but_never_crashes(text: str) -> None:
    files = {
        "features/a.py": HEAD + "import deep\n@feature\ndef f(t):\n    return deep.x\n",
        "deep.py": text + "\n",
    }
    sources = Sources(files)
    (function,) = read_functions(sources, "features/a.py")
    codes = []
    try:
        parts = set(read_code(sources, function).parts)
    except ProjectError as error:
        parts, codes = set(), [problem.code for problem in error.problems]

    assert codes == ["TR301"] or "features/a.py:deep" in parts


def test_long_chain_of_methods_and_terms_is_read() -> None:
    terms = "+".join(f"t.col({n})" for n in range(300))
    text = HEAD + f"@feature\ndef f(t):\n    return {terms} + t{'.with_columns(x=1)' * 200}\n"
    sources = Sources({"a.py": text})

    assert set(read_code(sources, read_functions(sources, "a.py")[0]).parts) == {"a.py:f"}


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ("a, /", [("TR302", 3)]),
        ("*tables", [("TR302", 3)]),
        ("a, **tables", [("TR302", 3)]),
        ("a, b=None", [("TR302", 3)]),
        ("a, *, b=1, c", [("TR302", 3)]),
        ("a=1, *b, c=2, **d", [("TR302", 3)] * 4),
        ("", []),
        ("a, *, b", []),
    ],
)
def test_parameter_that_is_no_table_is_refused(parameters: str, found: list[tuple[str, int]]) -> None:
    text = HEAD + f"@feature\ndef f({parameters}):\n    return 1\n"

    assert (fail(text) if found else [p for f in read(text) for p in ()]) == found


@pytest.mark.parametrize(
    "arguments",
    [
        "'customer'",
        "**options",
        "entity=ENTITY",
        "entity=f'{x}'",
        "ttl=b'1d'",
        "tags={'a', 'b'}",
        "n=1j",
        "n=1e999",
        "options={1: 2}",
        "options={**other}",
        "n=[1, ...]",
        "n=int('1')",
    ],
)
def test_decorator_argument_that_is_not_written_out_is_refused(arguments: str) -> None:
    assert fail(HEAD + f"@feature({arguments})\ndef f(t):\n    return t\n") == [("TR303", 2)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("@feature\nclass F:\n    pass\n", 3),
        ("@feature\nasync def f(t):\n    return t\n", 3),
        ("@feature\ndef f(t):\n    yield t\n", 3),
        ("@feature\ndef f(t):\n    x = yield from t\n", 3),
        ("def g():\n    @feature\n    def f(t):\n        return t\n", 4),
        ("class K:\n    @feature\n    def f(self):\n        return 1\n", 4),
        ("if True:\n    @feature\n    def f(t):\n        return t\n", 4),
        ("@feature\n@feature()\ndef f(t):\n    return t\n", 4),
    ],
)
def test_decorated_thing_that_is_no_plain_function_is_refused(text: str, line: int) -> None:
    assert fail(HEAD + text) == [("TR304", line)]


def test_generator_inside_a_function_is_no_generator() -> None:
    text = HEAD + "@feature\ndef f(t):\n    def g():\n        yield 1\n    return [x for x in g()]\n"

    assert [f.name for f in read(text)] == ["f"]


def test_forgotten_import_is_named() -> None:
    with pytest.raises(ProjectError) as caught:
        read("@feature\ndef f(t):\n    return t\n")

    assert str(caught.value) == (
        'error[TR304]: "feature" is not imported\n'
        "  features/a.py:1:2   @feature\n"
        "  fix: write at the top of the file: from treadle import feature"
    )


def test_everything_wrong_in_a_file_is_told_at_once() -> None:
    text = HEAD + "@feature(x=y)\ndef f(t=1):\n    yield t\n@feature\nclass K:\n    pass\n"

    assert fail(text) == [("TR303", 2), ("TR302", 3), ("TR304", 3), ("TR304", 6)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "def f(:\n",
            (
                'error[TR301]: "features/a.py" is no Python that can be read\n'
                "  features/a.py:2:7   def f(:\n"
                "  invalid syntax\n"
                "  fix: correct the line; the mistake may also stand just before it"
            ),
        ),
        (
            "@feature\ndef f(t, days=30):\n    return t\n",
            (
                'error[TR302]: parameter "days" of "f" names no table\n'
                "  features/a.py:3:10   def f(t, days=30):\n"
                "  it has the default value 30: a parameter is a table that is read\n"
                "  fix: remove it; write a constant at the top of the file, and read it there"
            ),
        ),
        (
            "@feature(entity=ENTITY)\ndef f(t):\n    return t\n",
            (
                "error[TR303]: the arguments of @feature must be written out\n"
                "  features/a.py:2:17   @feature(entity=ENTITY)\n"
                "  entity is ENTITY: no text, number, boolean, list or dict\n"
                "  fix: write the value itself: the file is read, not run"
            ),
        ),
        (
            "@feature\nclass Age:\n    pass\n",
            (
                'error[TR304]: "Age" can be no feature\n'
                "  features/a.py:3:1   class Age:\n"
                "  it is a class\n"
                "  fix: decorate a function that returns the table: def age(...)"
            ),
        ),
    ],
)
def test_error_answers_what_where_why_and_how(text: str, told: str) -> None:
    with pytest.raises(ProjectError) as caught:
        read(HEAD + text)

    assert str(caught.value) == told
    assert caught.value.exit_code == 2


def test_broken_file_counts_only_where_it_is_imported() -> None:
    files = {
        "a.py": HEAD + "import b\n@feature\ndef f(t):\n    return b.x\n",
        "b.py": "x = 1\n",
        "broken.py": "def (:\n",
    }
    sources = Sources(files)
    assert "b.py:x" in read_code(sources, read_functions(sources, "a.py")[0]).parts

    sources = Sources({**files, "b.py": "import broken\nx = 1\n"})
    with pytest.raises(ProjectError, match="TR301") as caught:
        read_code(sources, read_functions(sources, "a.py")[0])
    assert caught.value.problems[0].where is not None
    assert caught.value.problems[0].where.path == "broken.py"


def test_broken_file_is_counted_as_text_when_everything_counts() -> None:
    files = {"a.py": HEAD + "@feature\ndef f(t):\n    return eval('t')\n", "broken.py": "def (:\n"}

    def parts(files: dict[str, str]) -> object:
        sources = Sources(files)
        return read_code(sources, read_functions(sources, "a.py")[0]).parts

    assert parts(files) != parts({**files, "broken.py": "def ((:\n"})


def test_distributions_are_what_is_reached_outside_the_project() -> None:
    text = (
        HEAD + "import numpy as np\nimport polars as pl\nimport sklearn.base\n"
        "import torch\nimport plugin_for_effect\nimport os.path\nimport helpers\n"
        "def late():\n    import lightgbm\n    return lightgbm\n"
        "def unrelated():\n    return torch\n"
        "@feature\ndef f(t: pl.LazyFrame):\n    return np.x, sklearn.base.clone, os.path, late(), helpers.x\n"
    )
    sources = Sources({"a.py": text, "helpers.py": "from pyarrow import *\nx = table()\n"})
    code = read_code(sources, read_functions(sources, "a.py")[0])

    assert code.distributions == ("lightgbm", "numpy", "plugin_for_effect", "polars", "pyarrow", "sklearn")


def test_folder_named_like_a_library_does_not_hide_it() -> None:
    text = HEAD + "from datasets import load_dataset\n@feature\ndef f(t):\n    return load_dataset\n"
    sources = Sources({"a.py": text, "datasets/mine.py": "x = 1\n"})

    assert read_code(sources, read_functions(sources, "a.py")[0]).distributions == ("datasets",)


def test_type_checking_imports_and_script_blocks_never_run() -> None:
    text = (
        HEAD + "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import pandas as pd\n    import gone_wrong\n"
        "@feature\ndef f(t: 'pd.DataFrame'):\n    return t\nif __name__ == '__main__':\n    print(f(1))\n"
    )
    sources = Sources({"a.py": text, "gone_wrong.py": "def (:\n"})
    code = read_code(sources, read_functions(sources, "a.py")[0])

    assert set(code.parts) == {"a.py:f"}
    assert code.distributions == ()


def test_local_names_are_no_uses_of_globals() -> None:
    text = (
        HEAD + "def a(): return 1\ndef b(): return 1\ndef c(): return 1\ndef d(): return 1\ndef e(): return 1\n"
        "def g(): return 1\n"
        "@feature\ndef f(t):\n"
        "    a = 1\n    [b for b in t]\n    (lambda c: c)(1)\n"
        "    for d in t:\n        pass\n    with t as e:\n        pass\n"
        "    def inner():\n        return a, d, e\n"
        "    return inner, [g for g in g()]\n"
    )
    sources = Sources({"a.py": text})

    assert set(read_code(sources, read_functions(sources, "a.py")[0]).parts) == {"a.py:f", "a.py:g"}


def test_class_body_does_not_hide_a_global_from_its_methods() -> None:
    text = (
        HEAD + "def a(): return 1\nclass K:\n    a = 2\n    def go(self): return a()\n"
        "@feature\ndef f(t): return K().go()\n"
    )
    sources = Sources({"a.py": text})

    assert "a.py:a" in read_code(sources, read_functions(sources, "a.py")[0]).parts


def test_cycles_of_imports_and_calls_end() -> None:
    files = {
        "a.py": HEAD + "from b import *\nimport b\ndef x(): return y()\n@feature\ndef f(t): return x(), b.q\n",
        "b.py": "from a import *\nimport a\ndef y(): return a.x()\n",
    }
    sources = Sources(files)

    assert {"a.py:f", "a.py:x", "b.py:y"} <= set(read_code(sources, read_functions(sources, "a.py")[0]).parts)


def test_reading_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = HEAD + f"open({str(mark)!r}, 'w').write('x')\n@feature\ndef f(t): return t\n"
    sources = Sources({"a.py": text})
    read_code(sources, read_functions(sources, "a.py")[0])

    assert not mark.exists()


def test_parts_are_the_same_in_another_process() -> None:
    program = (
        "from treadle.pycode import *\n"
        "s = Sources({'a.py': 'from treadle import feature\\n'\n"
        '  \'X = {1, 2.0, "a", b"b", None, 1j, True, ...}\\n\'\n'
        '  \'@feature\\ndef f(t): return X, f"{t!r:>{X}} {{}} a" "b"\\n\'})\n'
        "print(sorted(read_code(s, read_functions(s, 'a.py')[0]).parts.items()))\n"
    )
    command = [sys.executable, "-c", program]
    runs = {
        subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}).stdout
        for seed in ("1", "2")
    }

    assert len(runs) == 1


def test_digests_stay_what_they_were() -> None:
    """The normal form may not change between versions of Python or of Treadle: it would rebuild the world."""
    text = (
        HEAD + 'X: int = 1\n@feature\ndef f(t: "T", *, u):\n    """Doc."""\n'
        '    return [f"{t!r:>{X}}a" "b", 1.0, None, -1]\n'
    )
    sources = Sources({"a.py": text})
    parts = read_code(sources, read_functions(sources, "a.py")[0]).parts

    assert {name: digest[:12] for name, digest in parts.items()} == {
        "a.py:X": "939f78235a29",
        "a.py:f": "0735d6667f0d",
    }
