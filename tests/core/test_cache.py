"""The compile cache: whatever is edited, what comes out of it is what a new compilation gives."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from treadle.cache import Asked, Compiled, load_compiled
from treadle.errors import ProjectError
from treadle.fingerprint import to_own_text
from treadle.graph import compile_graph
from treadle.project import read_project
from treadle.step import Graph

FILES = {
    "treadle.yml": "name: shop\nvars: {limit: 10}\n",
    "data/orders.csv": "id,amount\n1,2\n",
    "macros/money.sql": "{% macro cents(c) %}round({{ c }} * 100){% endmacro %}",
    "features/orders.yml": "sources:\n  - {name: orders, path: data/orders.csv}\nfeatures:\n  - {name: a, description: one}\n",
    "features/events.yml": "sources:\n  - {name: events, path: data/orders.csv, event_time: ts}\nentities:\n  - {name: user}\n",
    "features/a.sql": "select {{ cents('amount') }} as x from {{ ref('orders') }}",
    "features/b.sql": "{{ config(tags=['t']) }}\nselect x from {{ ref('a') }} limit {{ var('limit') }}",
    "features/c.sql": "select id from {{ ref('orders') }} where id > {{ env_var('TREADLE_LIMIT', '0') }}",
    "features/daily.sql": "{{ config(materialized='incremental', entity='user', event_time='ts', interval='1d') }}\n"
    "select user, ts from {{ ref('events') }}",
    "features/p.py": "from treadle import feature\n\n\n@feature\ndef p(a):\n    return a\n",
    "tests/positive.sql": "select * from {{ ref('a') }} where x < 0",
}


def make(root: Path) -> Path:
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        age(root / path)
    return root


def age(file: Path) -> None:
    """Let a file be as old as an edit of yesterday, a different one each time."""
    moment = 1_700_000_000 + random.randrange(1_000_000)
    os.utime(file, (moment, moment))


def load(root: Path, **rest: object) -> Compiled:
    given = {"environment": None, "variables": {}, "environ": {}, "as_of": None, **rest}
    return load_compiled(Asked(root, **given), root / ".treadle/cache")  # type: ignore[arg-type]


def anew(root: Path, environ: dict[str, str] | None = None) -> Graph:
    return compile_graph(read_project(root), environ=environ or {})


def assert_same(compiled: Compiled, expected: Graph) -> None:
    graph = compiled.graph
    assert dict(graph.steps) == dict(expected.steps)
    assert list(graph.steps) == list(expected.steps)
    assert [step.where.text for step in graph] == [step.where.text for step in expected]
    assert graph.warnings == expected.warnings
    assert dict(graph.own_texts) == {step.id: to_own_text(step) for step in expected}
    assert compiled.environment == expected.environment


EDITS = [
    ("features/a.sql", "select amount + {n} as x from {{{{ ref('orders') }}}}"),
    ("features/a.sql", "-- {n}\nselect amount as x from {{{{ ref('c') }}}}"),
    ("features/b.sql", "{{{{ config(tags=['t{n}']) }}}}\nselect x from {{{{ ref('a') }}}}"),
    (
        "features/b.sql",
        "{{{{ config(tags=['t'], materialized='view') }}}}\nselect x + {n} as x from {{{{ ref('a') }}}}",
    ),
    ("features/c.sql", "select id + {n} as id from {{{{ ref('orders') }}}}"),
    ("features/c.sql", "select id, {{{{ env_var('TREADLE_LIMIT', '{n}') }}}} as l from {{{{ ref('orders') }}}}"),
    ("features/a.sql", "select {{{{ env_var('TREADLE_OTHER', '{n}') }}}} as x from {{{{ ref('orders') }}}}"),
    ("features/new{n}.sql", "select 1 as one"),
    (
        "features/daily.sql",
        (
            "{{{{ config(materialized='incremental', entity='user', event_time='ts', interval='{n}d', lookback='1d') }}}}\n"
            "select user, ts from {{{{ ref('events') }}}}"
        ),
    ),
    (
        "features/daily.sql",
        (
            "{{{{ config(materialized='incremental', entity='user', event_time='ts', interval='1d') }}}}\n"
            "select user, ts, {n} as n from {{{{ ref('events') }}}}"
        ),
    ),
    ("features/p.py", "from treadle import feature\n\n\n@feature\ndef p(a):\n    return a.head({n})\n"),
    ("tests/positive.sql", "select * from {{{{ ref('b') }}}} where x < {n}"),
    ("macros/money.sql", "{{% macro cents(c) %}}round({{{{ c }}}} * {n}){{% endmacro %}}"),
    ("treadle.yml", "name: shop\nvars: {{limit: {n}}}\n"),
    ("features/orders.yml", "sources:\n  - {{name: orders, path: data/orders.csv, tags: [n{n}]}}\n"),
]


@pytest.mark.parametrize("seed", range(6))
def test_after_any_edits_it_is_a_new_compilation(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    root = make(tmp_path)
    environ: dict[str, str] = {}
    for _ in range(12):
        if rng.random() < 0.4:
            environ = {name: str(rng.randrange(3)) for name in ("TREADLE_LIMIT", "TREADLE_OTHER") if rng.random() < 0.7}
        for path, text in rng.sample(EDITS, rng.randint(0, 2)):
            file = root / path.format(n=rng.randrange(3))
            file.write_text(text.format(n=rng.randrange(50)))
            if rng.random() < 0.7:
                age(file)
        if rng.random() < 0.2:
            for file in sorted(root.glob("features/new*.sql"))[:1]:
                file.unlink()
        assert_same(load(root, environ=environ), anew(root, environ))
        assert_same(load(root, environ=environ), anew(root, environ))


def test_edit_that_keeps_size_and_times_of_a_young_file_is_seen(tmp_path: Path) -> None:
    root = make(tmp_path)
    file = root / "features/c.sql"
    file.write_text("select 1 as a")
    load(root)
    before = file.stat()
    file.write_text("select 2 as a")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_same(load(root), anew(root))


def test_variables_environment_and_environment_variables_count(tmp_path: Path) -> None:
    root = make(tmp_path)
    load(root)
    environ = {"TREADLE_LIMIT": "7"}
    assert_same(load(root, environ=environ), anew(root, environ))
    assert "> 7" in str(load(root, environ=environ).graph["c"].query)
    assert "> 0" in str(load(root).graph["c"].query)
    assert "limit 3" in str(load(root, variables={"limit": 3}).graph["b"].query)
    assert "limit 10" in str(load(root).graph["b"].query)


@pytest.mark.parametrize("edited", ["features/b.sql", "features/new.sql"])
def test_environment_variable_counts_after_another_file_was_edited(tmp_path: Path, edited: str) -> None:
    root = make(tmp_path)
    environ = {"TREADLE_LIMIT": "7"}
    load(root, environ=environ)
    (root / edited).write_text("select {{ env_var('TREADLE_OTHER', '5') }} as five from {{ ref('a') }}")
    load(root, environ=environ)
    for later in ({"TREADLE_LIMIT": "8"}, {"TREADLE_LIMIT": "8", "TREADLE_OTHER": "6"}):
        assert_same(load(root, environ=later), anew(root, later))


def test_problems_are_reported_each_time_and_mended_ones_are_forgotten(tmp_path: Path) -> None:
    root = make(tmp_path)
    load(root)
    (root / "features/b.sql").write_text("select x frm {{ ref('a') }}")
    for _ in range(2):
        with pytest.raises(ProjectError) as caught:
            load(root)
        assert [problem.code for problem in caught.value.problems] == ["TR204"]
    (root / "features/b.sql").write_text(FILES["features/b.sql"])
    assert_same(load(root), anew(root))


@pytest.mark.parametrize("damage", [b"", b"\x93\x01\x02", b"not msgpack at all"])
def test_damaged_cache_is_made_again(tmp_path: Path, damage: bytes) -> None:
    root = make(tmp_path)
    load(root)
    for file in (root / ".treadle/cache").iterdir():
        file.write_bytes(damage)
        assert_same(load(root), anew(root))


def test_project_that_cannot_be_written_compiles(tmp_path: Path) -> None:
    root = make(tmp_path)
    (root / ".treadle").write_text("in the way")
    assert_same(load(root), anew(root))


def test_nothing_changed_imports_neither_jinja_nor_sqlglot_nor_pydantic(tmp_path: Path) -> None:
    root = make(tmp_path)
    load(root)
    code = f"""
import sys
import time
from pathlib import Path
from treadle.cache import Asked, load_compiled
root = Path({str(root)!r})
assert len(load_compiled(Asked(root, None, {{}}, {{}}, None), root / ".treadle/cache").graph.steps) == 8
print(sorted({{"jinja2", "sqlglot", "pydantic", "yaml", "duckdb", "polars"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_cache_that_cannot_be_replaced_stays_what_it_was(tmp_path: Path) -> None:
    """Of a disk that is full, here a folder in the way."""
    root = make(tmp_path / "shop")
    load(root)
    [file] = (root / ".treadle/cache").iterdir()
    before = file.read_bytes()
    new = file.with_name(f".{file.name}.new")
    new.mkdir()
    (root / "features/new.sql").write_text("select 1 as one")
    assert "new" in load(root).graph.steps
    assert file.read_bytes() == before
    new.rmdir()
    load(root)
    assert file.read_bytes() != before
    assert list((root / ".treadle/cache").iterdir()) == [file]


def test_several_commands_at_once_leave_a_cache_that_all_of_them_can_use(tmp_path: Path) -> None:
    root = make(tmp_path)
    later = time.time() + 3600
    os.utime(root / "features/a.sql", (later, later))  # so young that each command looks into it and writes the cache
    load(root)
    code = f"""
import sys
import time
from pathlib import Path
from treadle.cache import Asked, load_compiled
root = Path({str(root)!r})
for _ in range(100):
    assert len(load_compiled(Asked(root, None, {{}}, {{}}, None), root / ".treadle/cache").graph.steps) == 8
    assert "jinja2" not in sys.modules
"""
    commands = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    assert [command.communicate(timeout=120)[1] for command in commands] == [""] * 4
    assert len(list((root / ".treadle/cache").iterdir())) == 1
