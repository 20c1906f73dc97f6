"""Records of versions in the state, without the run that would have written them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from treadle_runtime.state import State
from treadle_runtime.versionstate import Result, VersionFacts


def record_version(
    state: State,
    fingerprint: str,
    *,
    step: str,
    kind: str = "feature",
    components: Mapping[str, str] | None = None,
    texts: Mapping[str, str] | None = None,
    run_id: str = "r",
) -> None:
    """Record a version as a run does that found it in the store."""
    facts = VersionFacts(components or {}, rows=3, bytes=7, reproducible=True, texts=texts)
    state.record_results(run_id, [Result(step, kind, "reused", fingerprint, version=facts)], steps=False)


def forget(state: State, fingerprints: Iterable[str]) -> None:
    """Leave the state as a kill does between a version's rename and its record."""
    with state.transaction() as con:
        state.drop_records(con, fingerprints)
