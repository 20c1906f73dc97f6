"""Pieces of a step are computed once, by the step's own thread and by those that are free, and never wait in vain."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from treadle.errors import Problem, StepError
from treadle_runtime.job import Made
from treadle_runtime.pieces import Piece, Pieces, link_part
from treadle_runtime.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / ".treadle", durable=False)


def fingerprint(n: int) -> str:
    return f"{n:064x}"


class Recorder:
    """Makes pieces that note who computed them."""

    def __init__(self) -> None:
        self.threads: dict[int, list[str]] = {}
        self.lock = threading.Lock()

    def piece(self, n: int) -> Piece:
        def make(folder: Path) -> Made:
            with self.lock:
                self.threads.setdefault(n, []).append(threading.current_thread().name)
            (folder / "part-0.bin").write_text(f"piece {n}")
            return Made(info={"n": n}, times={"part-0.bin": (n, n)})

        return Piece(fingerprint(n), make)

    def pieces(self, n: int) -> list[Piece]:
        return [self.piece(each) for each in range(n)]


def test_missing_pieces_are_computed_and_the_others_read(store: Store) -> None:
    recorder = Recorder()
    versions, n_new = Pieces(store).compute(recorder.pieces(3), kind="interval")
    assert (n_new, [version.info["n"] for version in versions]) == (3, [0, 1, 2])
    assert [version.parts[0].times for version in versions] == [(0, 0), (1, 1), (2, 2)]
    assert {version.kind for version in versions} == {"interval"}
    versions, n_new = Pieces(store).compute(recorder.pieces(5), kind="interval")
    assert (n_new, [version.info["n"] for version in versions]) == (2, [0, 1, 2, 3, 4])
    assert all(len(who) == 1 for who in recorder.threads.values())
    assert Pieces(store).n_built(recorder.pieces(9)) == 5
    assert Pieces(store).compute([], kind="interval") == ([], 0)


def test_anew_computes_all_and_the_first_results_stay(store: Store) -> None:
    recorder = Recorder()
    Pieces(store).compute(recorder.pieces(2), kind="interval")
    before = [store.read(fingerprint(n)) for n in range(2)]
    versions, n_new = Pieces(store).compute(recorder.pieces(2), kind="interval", anew=True)
    assert n_new == 2
    assert versions == before
    assert [len(who) for who in recorder.threads.values()] == [2, 2]


def test_free_threads_help(store: Store) -> None:
    started = threading.Barrier(3, timeout=60)

    def meet(folder: Path) -> Made:
        started.wait()  # ends only when three pieces are in work at once
        return Made()

    with ThreadPoolExecutor(2) as pool:
        pieces = Pieces(store, submit=pool.submit, n_helpers=2)
        _, n_new = pieces.compute([Piece(fingerprint(n), meet) for n in range(6)], kind="interval")
    assert n_new == 6


def test_nobody_helps_more_than_is_allowed(store: Store) -> None:
    recorder = Recorder()
    with ThreadPoolExecutor(2) as pool:
        Pieces(store, submit=pool.submit, n_helpers=2).compute(recorder.pieces(6), kind="interval", n_helpers=0)
    assert {who for (who,) in recorder.threads.values()} == {threading.current_thread().name}


def test_step_ends_although_every_other_thread_is_busy(store: Store) -> None:
    """All threads of a pool run steps with pieces: a step that waited for helpers would wait for ever."""
    recorder = Recorder()
    release = threading.Event()

    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(release.wait, 60)
        pieces = Pieces(store, submit=pool.submit, n_helpers=1)
        _, n_new = pieces.compute(recorder.pieces(4), kind="interval")
        assert not busy.done()
        release.set()
    assert n_new == 4


def test_step_that_waits_gets_its_turn_after_one_piece(store: Store) -> None:
    order: list[str] = []
    begun, step_is_done, gate = (threading.Event() for _ in range(3))

    def make(folder: Path) -> Made:
        if threading.current_thread().name.startswith("pool"):
            order.append("piece")
        else:
            begun.set()
            step_is_done.wait(60)
        return Made()

    def step() -> None:
        order.append("step")
        step_is_done.set()

    with ThreadPoolExecutor(1, thread_name_prefix="pool") as pool:
        pool.submit(gate.wait, 60)
        pieces = Pieces(store, submit=pool.submit, n_helpers=1)
        work = [Piece(fingerprint(n), make) for n in range(9)]
        owner = threading.Thread(target=pieces.compute, args=(work,), kwargs={"kind": "interval"})
        owner.start()
        assert begun.wait(60)
        pool.submit(step)
        gate.set()
        owner.join(60)
    assert order[:2] == ["piece", "step"]


def test_first_failure_ends_the_work_and_keeps_what_was_made(store: Store) -> None:
    recorder = Recorder()

    def fail(folder: Path) -> Made:
        raise StepError(Problem("TR702", "SQL failed"))

    work = [*recorder.pieces(2), Piece(fingerprint(7), fail), *(recorder.piece(n) for n in (3, 4))]
    with pytest.raises(StepError, match="SQL failed"):
        Pieces(store).compute(work, kind="interval")
    assert sorted(recorder.threads) == [0, 1]
    assert store.fingerprints() == {fingerprint(0), fingerprint(1)}
    assert list((store.root / "tmp").iterdir()) == []


def test_failure_of_a_helper_is_the_failure_of_the_step(store: Store) -> None:
    helped = threading.Event()

    def make(folder: Path) -> Made:
        if threading.current_thread().name.startswith("help"):
            helped.set()
            raise StepError(Problem("TR702", "SQL failed"))
        helped.wait(60)
        return Made()

    with ThreadPoolExecutor(1, thread_name_prefix="help") as pool:
        pieces = Pieces(store, submit=pool.submit, n_helpers=1)
        with pytest.raises(StepError, match="SQL failed"):
            pieces.compute([Piece(fingerprint(n), make) for n in range(1000)], kind="interval")
    assert len(store.fingerprints()) < 900, "what is not begun is left"


def test_interrupted_run_begins_no_further_piece(store: Store) -> None:
    recorder = Recorder()
    pieces = Pieces(store, is_stopped=lambda: len(recorder.threads) == 2)
    with pytest.raises(StepError, match="interrupted"):
        pieces.compute(recorder.pieces(5), kind="interval")
    assert sorted(recorder.threads) == [0, 1]


def test_two_at_once_compute_each_piece_once(store: Store) -> None:
    recorder = Recorder()
    counts: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: counts.append(
                Pieces(Store(store.root, durable=False)).compute(recorder.pieces(30), kind="interval")[1]
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) == 30
    assert all(len(who) == 1 for who in recorder.threads.values())


# links


def test_part_is_linked_and_known_without_being_read(store: Store, tmp_path: Path) -> None:
    [version], _ = Pieces(store).compute([Recorder().piece(4)], kind="interval")
    with store.draft(fingerprint(9), kind="feature") as draft:
        part = link_part(version, "part-x.bin", draft.folder)
        whole = draft.publish([], {}, linked={"part-x.bin": part})
    assert (whole.folder / "part-x.bin").samefile(version.folder / "part-0.bin")
    assert whole.parts == (part,)
    assert (part.name, part.digest, part.times) == ("part-x.bin", version.parts[0].digest, (4, 4))
    assert store.read(fingerprint(9)) == whole
    assert store.verify(whole) == []
    store.remove([version.fingerprint])
    assert store.verify(whole) == [], "a link stands by itself"


def test_part_is_copied_where_links_are_not_possible(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    [version], _ = Pieces(store).compute([Recorder().piece(4)], kind="interval")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("treadle_runtime.pieces.os.link", refuse)
    with store.draft(fingerprint(9), kind="feature") as draft:
        whole = draft.publish([], {}, linked={"p": link_part(version, "p", draft.folder)})
    assert (whole.folder / "p").read_text() == "piece 4"
    assert store.verify(whole) == []
