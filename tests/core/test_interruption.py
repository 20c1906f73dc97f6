"""A process that is told to end: in order, by force when it does not, and with one farewell."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

SCRIPT = """\
import os, signal, sys, time
from treadle.interruption import Interruption

interruption = Interruption(["build", "--select", "a b"])
interruption.install()


def work():
{body}


interruption.run(work)
"""


def run(body: str, *signals: int) -> tuple[int, str, str]:
    """Run a script until it prints a line, send the signals, and return (exit code, stdout, stderr)."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    command = [sys.executable, "-c", SCRIPT.format(body=lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for number in signals:
            process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


FAREWELL = "interrupted\nnext: treadle build --select 'a b'\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_process_ends_in_order(number: int, code: int) -> None:
    body = """\
try:
    print(flush=True)
    time.sleep(60)
finally:
    print("cleaned up")
"""
    assert run(body, number) == (code, "cleaned up\n", FAREWELL)


def test_second_signal_does_not_break_the_cleaning_up() -> None:
    body = """\
try:
    print(flush=True)
    time.sleep(60)
finally:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)
    print("cleaned up")
"""
    assert run(body, signal.SIGINT) == (130, "cleaned up\n", FAREWELL)


def test_process_that_does_not_end_is_ended() -> None:
    body = """\
while True:
    try:
        print(flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""
    assert run(body, signal.SIGTERM) == (143, "\n", FAREWELL)


HANGS = """\
import threading
threading.Thread(target=time.sleep, args=(60,)).start()
"""
CLOSED = "sys.stderr.close()\n"
FULL = """\
os.set_blocking(2, False)
try:
    while os.write(2, b"x"):
        pass
except BlockingIOError:
    os.set_blocking(2, True)
"""
WAITS = "print(flush=True)\ntime.sleep(60)\n"
HOLDS_ON = (
    "while True:\n    try:\n        print(flush=True)\n        time.sleep(60)\n    except KeyboardInterrupt: pass\n"
)


@pytest.mark.parametrize("ends", [WAITS, HOLDS_ON], ids=["in order", "by force"])
@pytest.mark.parametrize("stderr", [CLOSED, FULL], ids=["closed", "full"])
def test_process_ends_although_nobody_takes_its_farewell(stderr: str, ends: str) -> None:
    lines = "\n".join(f"    {line}" for line in (HANGS + stderr + ends).splitlines())
    command = [sys.executable, "-c", SCRIPT.format(body=lines)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()


def test_interrupt_that_came_out_as_another_error_is_one() -> None:
    body = """\
try:
    print(flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    raise RuntimeError("Query interrupted") from None
"""
    assert run(body, signal.SIGINT) == (130, "", FAREWELL)


def test_interrupt_within_a_destructor_is_not_lost() -> None:
    body = """\
class Thing:
    def __del__(self):
        print(flush=True)
        time.sleep(60)

thing = Thing()
del thing
print("never")
time.sleep(60)
"""
    code, stdout, stderr = run(body, signal.SIGINT)
    assert (code, stderr) == (130, FAREWELL)
    assert stdout in ("", "never\n")


def test_error_without_a_signal_is_raised() -> None:
    code, _, stderr = run("raise ValueError('bad')")
    assert code == 1
    assert stderr.endswith("ValueError: bad\n")


def test_code_is_handed_on() -> None:
    assert run("print(flush=True)\nreturn 3") == (3, "", "")


@pytest.mark.parametrize("ends", [True, False])
def test_closed_terminal_ends_the_process(ends: bool) -> None:
    """Nobody reads the farewell, and writing it fails: the end is the same."""
    body = """\
import pty
here, there = pty.openpty()
os.dup2(there, 2)
os.close(there)
os.close(here)  # the terminal is gone: from now on writing to it is an error
print(flush=True)
while True:
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        if ENDS:
            raise
"""
    code, stdout, stderr = run(body.replace("ENDS", str(ends)), signal.SIGHUP)
    assert (code, stdout, stderr) == (129, "", "")


def test_ignored_signal_stays_ignored() -> None:
    script = "import signal, subprocess, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    script += "sys.exit(subprocess.call([sys.executable, '-c', sys.argv[1]]))"
    body = "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(0.1)\n    return 0"
    command = [sys.executable, "-c", script, SCRIPT.format(body=body)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def test_suspended_interrupt_is_an_ordinary_one() -> None:
    body = """\
with interruption.suspended():
    try:
        print(flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("goes on")
    time.sleep(2)
return 0
"""
    assert run(body, signal.SIGINT) == (0, "goes on\n", "")
