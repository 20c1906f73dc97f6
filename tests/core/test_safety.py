"""A hostile pull request can be compiled, listed and planned: nothing of it runs, and nothing grows without bound.

The worst cases run the command line in a process of its own, with a limit on its memory and with everything that it
opens on record.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from treadle.errors import ProjectError
from treadle.graph import compile_graph
from treadle.project import read_project

Files = dict[str, str]
WriteProject = Callable[[Files], Path]
MEMORY_BYTES = 1_500 * 2**20
TIMEOUT_S = 60

# Runs the command line, and tells what it did: sockets, processes, files written, code of the project run.
WATCHED = """
import json, os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
seen, root = [], os.getcwd()
def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")):
        seen.append(event)
    elif event == "open" and isinstance(args[1], str) and args[1][:1] in "wax+" and isinstance(args[0], str):
        seen.append("write " + os.path.relpath(args[0], root))
    elif event == "exec" and args[0].co_filename.startswith(root):
        seen.append("exec " + args[0].co_filename)
from treadle.cli import main
sys.addaudithook(watch)
try:
    main(sys.argv[1:])
finally:
    peak = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([seen, peak.ru_maxrss * 1024, peak.ru_utime + peak.ru_stime]), file=open({report!r}, "x"))
"""


class Outcome(NamedTuple):
    """What a command did: its exit code, what it said, what it touched, its peak memory."""

    code: int
    stderr: str
    touched: list[str]
    peak_bytes: int


def run(root: Path, command: str, **environ: str) -> Outcome:
    """Run a command in a project and return what it did."""
    report = root.parent / f"report-{len(list(root.parent.iterdir()))}.json"
    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED.format(memory=MEMORY_BYTES, report=str(report)), *command.split()],
        cwd=root,
        env={"PATH": "/usr/bin:/bin", "HOME": str(root), "PYTHONDONTWRITEBYTECODE": "1", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    touched, peak_bytes, _ = json.loads(report.read_text())
    return Outcome(done.returncode, done.stderr, touched, peak_bytes)


@pytest.fixture
def port() -> Iterator[tuple[int, list[object]]]:
    """A port that listens, and the connections that were made to it."""
    connections: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    connection, address = server.accept()
                    connections.append(address)
                    connection.close()
            except OSError:
                return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1], connections
        server.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)


def hostile(port: int) -> str:
    """Python that does its harm when it is imported, when a decorator or a default is evaluated, and when called."""
    return f"""
import os, socket, subprocess
from pathlib import Path
from treadle import feature

def harm(where):
    Path({{root!r}}, "harm-" + where).write_text("done")
    socket.create_connection(("127.0.0.1", {port}))
    subprocess.run(["touch", {{root!r}} + "/harm-process"])
    os.environ["HARM"] = "done"
    return lambda function: function

harm("import")

class Meta(type):
    def __new__(cls, *args):
        harm("metaclass")
        return super().__new__(cls, *args)

class Thing(metaclass=Meta):
    value = harm("class")

@harm("decorator")
@feature
def planes(flights: harm("annotation")):
    harm("call")
    return flights
"""


@pytest.mark.parametrize("command", ["compile", "list", "plan"])
def test_python_of_the_project_is_not_run(
    command: str, write_project: WriteProject, port: tuple[int, list[object]]
) -> None:
    number, connections = port
    root = write_project({"features/flights.yml": "sources:\n  - {name: flights, path: data/flights.csv}\n"})
    text = hostile(number).replace("{root!r}", repr(str(root)))
    (root / "data").mkdir()
    (root / "data" / "flights.csv").write_text("a,b\n1,2\n")
    for path in ("features/planes.py", "conftest.py", "sitecustomize.py", "treadle.py", "pipelines/stages.py"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text if path.startswith("features") else text.replace("@feature\n", ""))
    (root / "setup.py").write_text(text)
    found = run(root, command)
    assert found.code == 0, found.stderr
    assert connections == []
    assert list(root.rglob("harm*")) == []
    allowed = ("write target/", "write .treadle/")
    assert [event for event in found.touched if not event.startswith(allowed)] == []


def test_the_watch_sees_harm_that_is_done(write_project: WriteProject, port: tuple[int, list[object]]) -> None:
    """The same file, imported: so that a watch that sees nothing cannot pass for innocence."""
    root = write_project({})
    (root / "harm.py").write_text(hostile(port[0]).replace("{root!r}", repr(str(root))))
    report = root.parent / "report.json"
    code = WATCHED.format(memory=MEMORY_BYTES, report=str(report)).replace(
        "main(sys.argv[1:])", "sys.path.insert(0, ''); import harm"
    )
    subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True, timeout=TIMEOUT_S)
    events = json.loads(report.read_text())[0]
    assert {"socket.connect", "subprocess.Popen", "write harm-import", f"exec {root}/harm.py"} <= set(events)
    assert (root / "harm-process").exists()


FLIGHTS = "sources:\n  - {name: flights, path: data/flights.csv}\n"
LOOPS = "{% for a in range(9999) %}{% for b in range(9999) %}" + "x" * 200 + "{% endfor %}{% endfor %}"
HOSTILE: dict[str, tuple[Files, str]] = {
    "a template that fills memory": ({"features/a.sql": "select '" + LOOPS + "'\n"}, "TR203"),
    "a template that multiplies": ({"features/a.sql": "select '{{ 'x' * 10 ** 10 }}'\n"}, "TR203"),
    "a template that calls itself": (
        {"macros/m.sql": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}\n", "features/a.sql": "select {{ m() }}\n"},
        "TR203",
    ),
    "a template that reaches for Python": (
        {"features/a.sql": "select '{{ ref.__globals__['os'].system('touch harm') }}'\n"},
        "TR203",
    ),
    "a macro file that fills memory when it is loaded": ({"macros/m.sql": LOOPS}, "TR203"),
    "a YAML bomb": (
        {"features/a.yml": "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True))},
        "TR007",
    ),
    "deep YAML": ({"features/a.yml": "a: " + "[" * 200_000}, "TR007"),
    "YAML that names Python": ({"features/a.yml": "sources: !!python/object/apply:os.system ['touch harm']\n"}, "TR002"),
    "deep SQL": ({"features/a.sql": "select " + "(" * 50_000 + "1" + ")" * 50_000 + "\n"}, "TR204"),
    "deep Python": ({"features/a.py": "x = " + "(" * 50_000 + ")" * 50_000 + "\n"}, "TR301"),
    "deep Python of a feature": (
        {"features/a.py": "from treadle import feature\n@feature\ndef a():\n    return " + "-" * 50_000 + "1\n"},
        "TR301",
    ),
    "a secret of the environment": ({"features/a.sql": "select '{{ env_var('AWS_SECRET_ACCESS_KEY') }}'\n"}, "TR209"),
    "a secret of Treadle's": ({"features/a.sql": "select '{{ env_var('TREADLE_SECRET_KEY') }}'\n"}, "TR209"),
    "a file of the machine": ({"features/a.sql": "select * from '/etc/passwd'\n"}, "TR207"),
    "a file of the machine in a condition": (
        {"models/m.yml": "datasets:\n  - {name: d, rows: flights, key: a, at: \"(select x from read_text('/etc/passwd'))\"}\n"},
        "TR207",
    ),
}  # fmt: skip


IN_A_PROCESS = (
    "a template that fills memory",
    "a YAML bomb",
    "deep SQL",
    "deep Python of a feature",
    "a secret of the environment",
)


@pytest.mark.parametrize("name", IN_A_PROCESS)
def test_hostile_file_ends_the_command_within_bounds(name: str, write_project: WriteProject) -> None:
    files, code = HOSTILE[name]
    root = write_project({"features/flights.yml": FLIGHTS, **files})
    found = run(root, "compile", AWS_SECRET_ACCESS_KEY="hunter2", TREADLE_SECRET_KEY="hunter2")
    assert "Traceback" not in found.stderr
    assert found.code == 2, found.stderr
    assert found.stderr.startswith(f"error[{code}]")
    assert "hunter2" not in found.stderr
    assert found.peak_bytes < 600 * 2**20
    assert list(root.rglob("harm*")) == []
    assert [event for event in found.touched if not event.startswith(("write target/", "write .treadle/"))] == []


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in IN_A_PROCESS])
def test_hostile_file_is_an_error(name: str, write_project: WriteProject) -> None:
    files, code = HOSTILE[name]
    root = write_project({"features/flights.yml": FLIGHTS, **files})
    environ = {"AWS_SECRET_ACCESS_KEY": "hunter2", "TREADLE_SECRET_KEY": "hunter2"}
    with pytest.raises(ProjectError) as raised:
        compile_graph(read_project(root), environ=environ)
    assert raised.value.problems[0].code == code
    assert "hunter2" not in str(raised.value)
    assert not (root / "harm").exists()
    assert not Path("harm").exists()


def test_link_to_a_file_of_the_machine_is_an_error_and_shows_nothing_of_it(write_project: WriteProject) -> None:
    root = write_project({"features/flights.yml": FLIGHTS})
    outside = root.parent / "private"
    outside.mkdir()
    (outside / "a.sql").write_text("select 'hunter2' as password from nowhere\n")
    for link in ("features/a.sql", "features/folder", "macros", "models/m.yml"):
        (root / link).parent.mkdir(exist_ok=True)
        (root / link).symlink_to(outside if "." not in link else outside / "a.sql")
    found = run(root, "compile")
    assert found.code == 2
    assert found.stderr.count("error[TR008]") == 4
    assert "hunter2" not in found.stderr


def test_limits_leave_an_honest_project_room(good: Files, write_project: WriteProject) -> None:
    found = run(write_project(good), "list")
    assert found.code == 0, found.stderr
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    assert soft != MEMORY_BYTES, "the limit holds in the other process only"
