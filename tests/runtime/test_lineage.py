"""What may have been computed from damage: as a walk from each version back to all that it read finds it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from records import record_version

from treadle_runtime.lineage import find_suspects
from treadle_runtime.state import State
from treadle_runtime.store import Store

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("source", "feature", "view", "dataset", "train", "test")
COMPARING = ("dataset", "train")


def put(store: Store, fingerprint: str, kind: str, info: dict[str, object] | None = None) -> None:
    with store.draft(fingerprint, kind=kind) as draft:
        (draft.folder / "part-0.bin").write_text(fingerprint)
        draft.publish((), info or {})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_suspects_are_those_that_go_back_to_damage(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    store = Store(tmp_path, durable=False)
    kinds: dict[str, str] = {}
    inputs: dict[str, list[str]] = {}
    with State(tmp_path / "state.db") as state:
        for n in range(25):
            fingerprint = f"{n:064x}"
            kinds[fingerprint] = kind = rng.choice(KINDS)
            read = rng.sample(list(inputs), min(len(inputs), rng.randrange(3))) if kind != "source" else []
            components = {"kind": f"{kind}/1", **{f"input:s{k}": each for k, each in enumerate(read)}}
            inputs[fingerprint] = read
            if kind == "view":
                state.record_inlined(fingerprint, step=f"s{n}", components={**components, "kind": "feature/1"})
            else:
                put(store, fingerprint, kind)
                record_version(state, fingerprint, step=f"s{n}", kind=kind, components=components)
        stored = [fingerprint for fingerprint in kinds if kinds[fingerprint] != "view"]
        damaged = set(rng.sample(stored, 3))
        found = find_suspects(store, state, damaged)

    def reads_damage(fingerprint: str, root: str) -> bool:
        """Whether a version reads the damaged bytes themselves, itself or through views."""
        return any(each == root or (kinds[each] == "view" and reads_damage(each, root)) for each in inputs[fingerprint])

    def is_suspect(fingerprint: str, root: str) -> bool:
        if kinds[fingerprint] not in COMPARING and kinds[fingerprint] != "view" and reads_damage(fingerprint, root):
            return True
        return any(is_suspect(each, root) for each in inputs[fingerprint])

    expected = {each: {root for root in damaged if is_suspect(each, root)} for each in stored if each not in damaged}
    assert found == {each: frozenset(roots) for each, roots in expected.items() if roots}


def test_pieces_and_all_that_have_them_share_what_they_were_computed_from(tmp_path: Path) -> None:
    source, other, old, new, apart, backfilled, file = (f"{n:064x}" for n in range(7))
    pieces = [f"{n:064x}" for n in range(100, 104)]
    store = Store(tmp_path, durable=False)
    with State(tmp_path / "state.db") as state:
        for fingerprint, read, owned in (
            (source, None, []),
            (other, None, []),
            (old, other, pieces[:2]),  # shares a piece with what read the damage
            (new, source, pieces[1:3]),
            (apart, other, pieces[3:]),
        ):
            kind = "source" if read is None else "feature"
            components = {"kind": f"{kind}/1"} | ({"input:rows": read} if read else {})
            put(store, fingerprint, kind, {"intervals": [["2024-01-01", piece] for piece in owned]})
            record_version(state, fingerprint, step="s", kind=kind, components=components)
        for piece in (*pieces, backfilled):
            put(store, piece, "interval")
        put(store, file, "file")
        found = find_suspects(store, state, {source})
        assert found.keys() == {old, new, *pieces[:3], backfilled}
        assert find_suspects(store, state, set()) == {}
        below = {source: frozenset({"feature", "test"})}
        assert find_suspects(store, state, {source}, kinds_below=below).keys() == {old, new, *pieces[:3]}
        below = {source: frozenset({"interval"}), other: frozenset({"test"})}
        assert backfilled in find_suspects(store, state, {source}, kinds_below=below)
        assert find_suspects(store, state, {source, other}, kinds_below=below)[backfilled] == {source}
