"""The texts behind the digests: each is the code that its digest was taken of, and enough to see a change by."""

from __future__ import annotations

import ast
from collections.abc import Callable

from treadle.errors import Location
from treadle.pycode import Sources, read_code, read_functions
from treadle.step import Graph, Step
from treadle.text import MAX_CHARACTERS, read_files, read_texts

Files = dict[str, str]
Compile = Callable[..., Graph]

PYTHON = {
    "features/planes.py": '''\
import functools
from treadle import feature
from lib.ages import (
    age_of,
    Age,
)

YEARS = {
    "first": 1950,
    "last": 2013,  # of the data
}
\x0c
@feature(entity="tailnum", static=True)
@functools.lru_cache(
    maxsize=1,
)
def plane_age(planes):
    """How old a plane is."""
    return age_of(planes, YEARS, Age)


def unrelated():
    return None
''',
    "lib/ages.py": """\
import dataclasses


@dataclasses.dataclass
class Age:
    years: int = 0


def age_of(planes, years, kind):\r
    # counted from the first of January\r
    return years["last"] - planes\r
""",
}


def step_of(files: Files, path: str) -> tuple[Step, Sources]:
    sources = Sources(files)
    (function,) = read_functions(sources, path)
    code = read_code(sources, function)
    return Step(id="x", kind="feature", name="x", where=Location(path, 1), code=code.parts, function=function), sources


def test_pieces_of_python_are_the_statements_that_were_reached() -> None:
    step, sources = step_of(PYTHON, "features/planes.py")
    texts = read_texts(step, sources)
    assert set(texts) == {f"code:{name}" for name in step.code}
    assert texts["code:features/planes.py:plane_age"].startswith('@feature(entity="tailnum", static=True)\n@functools.')
    assert texts["code:features/planes.py:plane_age"].endswith("    return age_of(planes, YEARS, Age)\n")
    assert texts["code:features/planes.py:YEARS"] == (
        'YEARS = {\n    "first": 1950,\n    "last": 2013,  # of the data\n}\n'
    )
    assert texts["code:lib/ages.py:Age"] == "@dataclasses.dataclass\nclass Age:\n    years: int = 0\n"
    assert "# counted from the first of January\n" in texts["code:lib/ages.py:age_of"]
    assert not any("unrelated" in text for text in texts.values())


def test_piece_parses_to_the_statement_that_it_was_taken_from() -> None:
    step, sources = step_of(PYTHON, "features/planes.py")
    for name, text in read_texts(step, sources).items():
        _, path, symbol = name.split(":")
        found = [ast.dump(node) for node in ast.parse(text).body]
        nodes = [ast.dump(atom.node) for atom in sources.module(path).bindings[symbol]]
        assert found == list(dict.fromkeys(nodes))


def test_name_that_is_bound_twice_has_both_texts() -> None:
    text = (
        "from treadle import feature\nN = 1\nN += 1\n\n\n@feature(static=True)\ndef f(planes):\n    return planes + N\n"
    )
    step, sources = step_of({"features/f.py": text}, "features/f.py")
    texts = read_texts(step, sources)
    assert texts["code:features/f.py:N"] == "N = 1\nN += 1\n"
    assert texts["code:features/f.py:<module>"] == text


def test_code_that_cannot_be_resolved_is_kept_as_files() -> None:
    files = {
        **PYTHON,
        "features/f.py": "from treadle import feature\n\n\n@feature(static=True)\ndef f(planes):\n    return eval('planes')\n",
    }
    step, sources = step_of(files, "features/f.py")
    assert read_texts(step, sources) == {f"code:{path}": text for path, text in files.items()}


def test_texts_of_sql_of_a_source_and_of_the_rest(good: Files, compile_files: Compile) -> None:
    graph, python = compile_files(good), Sources({})
    assert read_texts(graph["arrived"], python) == {
        "code:features/arrived.sql": '\nselect * from "flights" where arrived_at is not null'
    }
    assert "between 0 and 1" in read_texts(graph["test:probabilities"], python)["code:query"]
    files = [("data/a.csv", 3, "ab"), ("data/ü.csv", 0, "cd")]
    assert read_files(read_texts(graph["flights"], python, files)) == files
    assert read_files({}) is None
    assert read_texts(graph["arrivals"], python) == read_texts(graph["arrivals_daily.split"], python) == {}


def test_what_is_kept_of_a_step_is_bounded(good: Files, compile_files: Compile) -> None:
    graph = compile_files(good)
    many = [(f"data/part-{n}.csv", n, "ab" * 32) for n in range(50_000)]
    assert read_texts(graph["flights"], Sources({}), many) == {}
    large, small = "x = 1\n" * MAX_CHARACTERS, "y = 2\n"
    step = replace_code(graph["plane_age"], ("large.py", "small.py"))
    assert read_texts(step, Sources({"large.py": large, "small.py": small})) == {"code:small.py": small}


def replace_code(step: Step, paths: tuple[str, ...]) -> Step:
    return Step(id=step.id, kind=step.kind, name=step.name, where=step.where, code=dict.fromkeys(paths, "digest"))
