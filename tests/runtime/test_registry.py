from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from treadle.errors import UsageError
from treadle_runtime.registry import Candidate, Registry
from treadle_runtime.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / ".treadle" / "state.db") as opened:
        yield opened


def candidate(mark: str, **values: object) -> Candidate:
    names = ("choose", "twin", "shipped", "validate", "evaluate", "split", "dataset")
    prints = {name: f"{name}-{mark}" for name in names}
    return Candidate(**{"pipeline": "arrivals", "model": "trees", **prints, **values})  # type: ignore[arg-type]


def publish(state: State, *candidates: Candidate, env: str = "dev") -> list[tuple[int, bool]]:
    run = state.start_run(env, "build")
    found = state.publish(env, run, {"a": run}, candidates=candidates)
    state.finish_run(run, "succeeded")
    return [(each.number, each.is_new) for each in found.registered]


def test_candidate_becomes_a_version(state: State) -> None:
    given = candidate("x", champion_input=None, metrics={"roc_auc": 0.75})
    assert publish(state, given) == [(1, True)]
    found = Registry(state).version("arrivals", "candidate", env="dev")
    for name in ("model", "choose", "twin", "shipped", "validate", "evaluate", "split", "dataset", "metrics"):
        assert getattr(found, name) == getattr(given, name)
    assert (found.number, found.passed, found.aliases) == (1, True, ("candidate",))
    assert found.run_id == state.runs()[0].id
    assert found.created_at


def test_same_candidate_keeps_its_number(state: State) -> None:
    assert publish(state, candidate("x")) == [(1, True)]
    assert publish(state, candidate("y", champion_input=1)) == [(2, True)]
    assert publish(state, candidate("x")) == [(1, False)]
    assert publish(state, candidate("x", shipped="refit")) == [(3, True)]
    registry = Registry(state)
    assert [found.number for found in registry.versions("arrivals", env="dev")] == [3, 2, 1]
    assert registry.version("arrivals", 2, env="dev").champion_input == 1
    moves = [(change.old, change.new) for change in registry.history("arrivals", env="dev")]
    assert moves == [(1, 3), (2, 1), (1, 2), (None, 1)]


def test_pipelines_number_their_versions_apart(state: State) -> None:
    assert publish(state, candidate("x"), candidate("x", pipeline="delays")) == [(1, True), (1, True)]
    assert Registry(state).pipelines() == ["arrivals", "delays"]
    assert Registry(state).aliases("dev") == {"arrivals": {"candidate": 1}, "delays": {"candidate": 1}}


def test_aliases_belong_to_an_environment(state: State) -> None:
    publish(state, candidate("x"))
    publish(state, candidate("y"), env="staging")
    registry = Registry(state)
    registry.promote("arrivals", env="dev")
    assert registry.aliases("dev") == {"arrivals": {"candidate": 1, "champion": 1}}
    assert registry.aliases("staging") == {"arrivals": {"candidate": 2}}
    assert registry.champion("arrivals", env="staging") is None
    champion = registry.champion("arrivals", env="dev")
    assert champion is not None
    assert (champion.number, champion.aliases) == (1, ("candidate", "champion"))


def test_promote_by_number_and_back(state: State) -> None:
    publish(state, candidate("x"))
    publish(state, candidate("y"))
    registry = Registry(state)
    assert registry.promote("arrivals", env="dev").number == 2
    assert registry.promote("arrivals", "1", env="dev").aliases == ("champion",)
    assert registry.promote("arrivals", 1, env="dev").number == 1
    moves = [(c.old, c.new) for c in registry.history("arrivals", env="dev") if c.alias == "champion"]
    assert moves == [(2, 1), (None, 2)]


def test_failed_candidate_gets_a_number_and_no_alias(state: State) -> None:
    publish(state, candidate("x"))
    publish(state, candidate("y", passed=False))
    registry = Registry(state)
    assert registry.aliases("dev") == {"arrivals": {"candidate": 1}}
    with pytest.raises(UsageError) as caught:
        registry.promote("arrivals", 2, env="dev")
    assert str(caught.value) == (
        'error[TR603]: version 2 of "arrivals" did not pass its gates\n'
        "  fix: `treadle models` lists its metrics; promote it all the same with --force"
    )
    assert registry.champion("arrivals", env="dev") is None
    assert registry.promote("arrivals", 2, env="dev", force=True).number == 2
    assert registry.history("arrivals", env="dev")[0].forced is True


def test_unknown_version_is_a_usage_error(state: State) -> None:
    publish(state, candidate("x"))
    registry = Registry(state)
    with pytest.raises(UsageError) as caught:
        registry.version("arrivals", "candidat", env="dev")
    assert str(caught.value) == (
        'error[TR603]: pipeline "arrivals" has no version "candidat" in dev\n'
        "  its versions are numbered 1 to 1; aliases in dev: candidate\n"
        "  did you mean: candidate\n"
        "  fix: `treadle models` lists them"
    )
    with pytest.raises(UsageError, match='has no version "2"'):
        registry.promote("arrivals", 2, env="dev")
    with pytest.raises(UsageError, match='has no version "candidate" in staging'):
        registry.promote("arrivals", env="staging")


def test_unknown_pipeline_is_a_usage_error(state: State) -> None:
    publish(state, candidate("x"))
    with pytest.raises(UsageError) as caught:
        Registry(state).promote("arrival", env="dev")
    assert str(caught.value) == (
        'error[TR603]: pipeline "arrival" has no model versions\n'
        "  did you mean: arrivals\n"
        "  fix: `treadle build --select pipeline:arrival` makes one"
    )
