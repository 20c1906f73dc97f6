"""The clock of a try: it runs from its start, and stands while one of the try's threads waits for others."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest

from treadle_runtime.timelimit import TimeLimit


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_time_runs_from_the_start(clock: Clock) -> None:
    limit = TimeLimit(10, clock=clock)
    clock.now_s += 60
    assert limit.left_s() > 0
    assert limit.start()
    clock.now_s += 4
    assert not limit.start()
    assert limit.left_s() == 6
    clock.now_s += 60
    assert limit.left_s() == 0


def test_waiting_takes_no_time(clock: Clock) -> None:
    limit = TimeLimit(10, clock=clock)
    limit.start()
    with limit.waiting():
        clock.now_s += 3600
        assert limit.left_s() > 0
        with limit.waiting():
            clock.now_s += 3600
        clock.now_s += 3600
    assert limit.left_s() == 10


def test_waiting_before_the_start_gives_no_time(clock: Clock) -> None:
    limit = TimeLimit(10, clock=clock)
    with limit.waiting():
        clock.now_s += 60
        limit.start()
        clock.now_s += 5
    clock.now_s += 4
    assert limit.left_s() == 6
    limit = TimeLimit(10, clock=clock)
    with limit.waiting():
        clock.now_s += 60
    limit.start()
    assert limit.left_s() == 10


@pytest.mark.parametrize("seed", range(20))
def test_time_is_that_of_the_seconds_in_which_nobody_waited(clock: Clock, seed: int) -> None:
    rng = random.Random(seed)
    limit = TimeLimit(100, clock=clock)
    blocks: list[ExitStack] = []
    is_started, passed = False, 0
    for _ in range(40):
        if rng.random() < 0.3:
            blocks.append(ExitStack())
            blocks[-1].enter_context(limit.waiting())
        elif blocks and rng.random() < 0.5:
            blocks.pop().close()
        elif rng.random() < 0.2:
            limit.start()
            is_started = True
        clock.now_s += 1
        passed += is_started and not blocks
    limit.start()
    for block in blocks:
        block.close()
    assert limit.left_s() == 100 - passed
