"""Reading by several processes: the same as by one, whatever is wrong, and no process is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from treadle.ahead import MIN_FILES

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="files are read by one process here"
)

QUERIES = [
    "select a, {{ cents('a') }} as b from {{ ref('orders') }}",
    "{{ config(tags=['t{n}'], threads=2) }}\nselect a, {n} as b from {{ ref('f{m}') }}",
    "{{ config(volatile='run') }}\nselect now() as t, * from {{ ref('f{m}') }}",
    "select now() as t{n} from {{ ref('f{m}') }}",
    "select {{ var('limit') }} as l, {{ env_var('TREADLE_N{m}', '{n}') }} as e from {{ ref('orders') }}",
    "{% for i in range({n}) %}select {{ i }} as a union all {% endfor %} select 0 as a -- {n}",
    "select 'ö{n}' as a, \"Größe\" as b from {{ ref('f{m}') }}\n\n\n",
]
MISTAKES = [
    "select a frm {{ ref('orders') }} where {n}",
    "select a from orders_{n}",
    "select a from {{ ref('nothing_{n}') }}",
    "select {{ nothing_{n} }} as a",
    "select {{ env_var('TREADLE_MISSING_{n}') }} as a",
    "{{ config(nothing_{n}=1) }} select 1 as a",
    "{{ config(threads=1180591620717411303424) }} select {n} as a",
    "select today() as a{n}",
    "{% for i in range(10 ** 9) %}{{ i }}{% endfor %} select {n} as a",
    "select '{n} is not closed",
    "select * from read_csv('a{n}.csv')",
    "",
]
COMPARE = """
import json, os, resource, sys
from pathlib import Path
import msgspec
from treadle.ahead import read_ahead
from treadle.errors import ProjectError
from treadle.graph import compile_graph
from treadle.project import read_project
from treadle.sqlfile import SqlReader

def compile(helped):
    project = read_project(Path(sys.argv[1]))
    readers = []
    def read_sql(renderer):
        reader = SqlReader(renderer, {})
        texts = {**project.sql_features, **project.sql_tests}
        readers.append(read_ahead(reader, texts) if helped else reader)
        return readers[0]
    try:
        graph = compile_graph(project, environ={"TREADLE_N1": "one"}, read_sql=read_sql)
        said = msgspec.msgpack.encode([list(graph.steps.values()), graph.warnings, readers[0].parsed]).hex()
    except ProjectError as error:
        said = [problem.to_text() for problem in error.problems]
    renderer = readers[0].renderer
    return said, dict(sorted(renderer.read_environ.items())), sorted(renderer.read_variables)

alone = compile(False)
before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
helped = compile(True)
used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
print(json.dumps({"same": alone == helped, "is_wrong": isinstance(alone[0], list), "n": len(alone[0]), "helped": used > 0}))
"""


def write_random(root: Path, seed: int, *, n_mistakes: int) -> None:
    rng = random.Random(seed)
    names = [f"f{n}" for n in range(MIN_FILES + 30)]
    wrong, volatile = set(rng.sample(names, n_mistakes)), rng.sample(names, 40)
    described = "".join(f"  - {{name: {name}, volatile: run}}\n" for name in volatile)
    files = {
        "treadle.yml": "name: shop\nvars: {limit: 10}\ndefaults:\n  features/daily: {volatile: day}\n",
        "macros/money.sql": "{% macro cents(c) %}round({{ c }} * {{ env_var('TREADLE_CENTS', '100') }}){% endmacro %}",
        "features/s.yml": f"sources:\n  - {{name: orders, path: o.csv}}\nfeatures:\n{described}",
        "features/f.sql": "select 1 as a",
    }
    for n, name in enumerate(names):
        folder = rng.choice(["features", "features/daily"]) if name not in wrong else "features"
        text = rng.choice(MISTAKES if name in wrong else QUERIES)
        if not (name in volatile or "daily" in folder or "volatile" in text):
            text = text.replace("now()", "1")
        parent = f"f{rng.randrange(n)}" if n else "f"
        text = text.replace("f{m}", parent).replace("{m}", parent[1:]).replace("{n}", str(n))
        files[f"{folder}/{name}.sql"] = text
    for n in range(10):
        files[f"tests/t{n}.sql"] = f"select * from {{{{ ref('f{rng.randrange(len(names))}') }}}} where {n} > 1"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, "utf-8")


@pytest.mark.parametrize("n_mistakes", [0, 1, 60])
@pytest.mark.parametrize("seed", range(3))
def test_helpers_change_nothing(tmp_path: Path, seed: int, n_mistakes: int) -> None:
    write_random(tmp_path, seed, n_mistakes=n_mistakes)
    done = subprocess.run([sys.executable, "-c", COMPARE, str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found == {"same": True, "is_wrong": n_mistakes > 0, "n": found["n"], "helped": True}
    assert found["n"] > n_mistakes // 2


COUNT = """
import json, os, sys
from pathlib import Path
from treadle.ahead import read_ahead
from treadle.errors import ProjectError
from treadle.graph import compile_graph
from treadle.project import read_project
from treadle.sqlfile import SqlReader

project = read_project(Path(sys.argv[1]))
noting = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # helpers write to it too

def read_sql(renderer):
    render = renderer.render
    def noted(text, *, path, name):
        os.write(noting, f"{os.getpid()} {path}\\n".encode())
        return render(text, path=path, name=name)
    renderer.render = noted
    return read_ahead(SqlReader(renderer, {}), {**project.sql_features, **project.sql_tests})

try:
    compile_graph(project, environ={}, read_sql=read_sql)
except ProjectError as error:
    wrong = {problem.where.path for problem in error.problems if problem.code.startswith("TR20")}
print(json.dumps(sorted(wrong)))
"""


def test_template_that_fails_is_rendered_once(tmp_path: Path) -> None:
    """By a helper or by the process itself: one that goes to its limits takes seconds."""
    (tmp_path / "features").mkdir()
    (tmp_path / "treadle.yml").write_text("name: shop\n")
    for n in range(MIN_FILES):
        (tmp_path / f"features/f{n}.sql").write_text("select {{ nothing }} as a" if n % 2 else f"select {n} as a")
    command = [sys.executable, "-c", COUNT, str(tmp_path), str(tmp_path / "rendered")]
    wrong = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    rendered = [line.split() for line in (tmp_path / "rendered").read_text().splitlines()]
    assert len({pid for pid, _ in rendered}) > 1
    assert wrong == sorted(path for _, path in rendered if path in {*wrong})
    assert len(wrong) == MIN_FILES // 2


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_few_files_one_processor_and_threads_need_no_helper() -> None:
    start = "import os, threading\nfrom treadle.ahead import MIN_FILES, count_processes as count\n"
    assert int(run_python(f"{start}print(count(MIN_FILES))")) > 1
    assert run_python(f"{start}print(count(MIN_FILES - 1))") == "1\n"
    one = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    assert run_python(f"{start}{one}\nprint(count(MIN_FILES))") == "1\n"
    thread = "done = threading.Event()\nthreading.Thread(target=done.wait).start()"
    assert run_python(f"{start}{thread}\nprint(count(MIN_FILES))\ndone.set()") == "1\n"


class Compiling:
    """A `treadle compile` that takes a while, in a process group of its own."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "-m", "treadle", "compile", "--project", str(root)]
        self.process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def members(self) -> set[int]:
        """Return the processes of the group that run."""
        found = set()
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = file.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == self.process.pid and state != "Z":
                found.add(int(file.parent.name))
        return found

    def helpers(self) -> set[int]:
        """Return the helpers, as soon as there are any."""
        while self.process.poll() is None:
            if found := self.members() - {self.process.pid}:
                return found
            time.sleep(0.01)
        raise AssertionError("it ended without helpers")

    def wait_until_gone(self) -> None:
        deadline = time.monotonic() + 60
        while self.members():
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.02)


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A project that takes seconds to read."""
    (tmp_path / "features").mkdir()
    (tmp_path / "treadle.yml").write_text("name: slow\n")
    for n in range(MIN_FILES):
        columns = ",\n".join(f"  round({n} * {i}) as c{i}" for i in range(300))
        (tmp_path / f"features/f{n}.sql").write_text(f"select\n{columns}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [
        (signal.SIGKILL, False, -signal.SIGKILL),
        (signal.SIGTERM, False, 128 + signal.SIGTERM),
        (signal.SIGINT, False, 130),
        (signal.SIGINT, True, 130),
    ],
)
def test_helpers_end_with_their_parent(slow: Path, number: signal.Signals, to_group: bool, code: int) -> None:
    compiling = Compiling(slow)
    assert compiling.helpers()
    (os.killpg if to_group else os.kill)(compiling.process.pid, number)
    _, errors = compiling.process.communicate(timeout=60)
    compiling.wait_until_gone()
    assert compiling.process.returncode == code
    said = f"interrupted\nnext: treadle compile --project {slow}"
    assert errors.strip() == ("" if number == signal.SIGKILL else said)
    assert not (slow / "target").exists()


def test_what_a_killed_helper_took_is_read_all_the_same(slow: Path) -> None:
    compiling = Compiling(slow)
    for helper in compiling.helpers():
        os.kill(helper, signal.SIGKILL)
    _, errors = compiling.process.communicate(timeout=60)
    compiling.wait_until_gone()
    assert (compiling.process.returncode, errors) == (0, "")
    manifest = json.loads((slow / "target/manifest.json").read_text())
    assert len(manifest["steps"]) == MIN_FILES
    assert all(f"round({step[1:]} * 299)" in said["compiled_sql"] for step, said in manifest["steps"].items())


def test_helper_that_does_not_end_is_not_waited_for(slow: Path) -> None:
    compiling = Compiling(slow)
    for helper in compiling.helpers():
        os.kill(helper, signal.SIGSTOP)
    try:
        _, errors = compiling.process.communicate(timeout=60)
        compiling.wait_until_gone()
    finally:
        for member in compiling.members():
            os.kill(member, signal.SIGKILL)
    assert (compiling.process.returncode, errors) == (0, "")
    assert len(json.loads((slow / "target/manifest.json").read_text())["steps"]) == MIN_FILES
