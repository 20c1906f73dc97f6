"""What a run computed becomes its environment's map as a whole, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from treadle.errors import StoreError
from treadle.events import Event, RunFinished
from treadle_runtime.publishing import publish

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder
    from treadle_runtime.jobs import JobMaker

VIEW = {"features/recent.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('spend') }} where n > 1"}


def gone(fingerprint: str) -> str:
    return "\n".join(
        (
            'error[TR807]: nothing is published in "dev": what the run relies on is not in the store any more',
            f"  spend ({fingerprint[:12]})",
            "  fix: run the same command again: it is built anew",
        )
    )


@pytest.mark.parametrize("is_built", [True, False])
def test_version_that_went_while_the_run_ended_is_an_error(make_project: MakeProject, *, is_built: bool) -> None:
    project = make_project("features", VIEW)
    if is_built:
        project.build()
    with project.open() as workspace:
        before = workspace.state.environment("dev")
        fingerprint = workspace.plan().identities["spend"].fingerprint

        def withdraw(event: Event) -> None:
            if isinstance(event, RunFinished):
                workspace.store.remove([fingerprint])

        with pytest.raises(StoreError) as error:
            workspace.build(emit=withdraw, threads=1)
        assert str(error.value) == gone(fingerprint)
        assert workspace.state.environment("dev") == before
    check_whole(project)


def test_version_that_goes_while_the_map_is_being_made_is_an_error(make_project: MakeProject) -> None:
    project = make_project("features", VIEW)
    run = project.build().outcome.run
    with project.open() as workspace:
        plan = workspace.plan()
        fingerprint = plan.identities["spend"].fingerprint
        before = workspace.state.environment("dev")

        def jobs() -> JobMaker:
            """Return what knows the texts of views, which are asked for last."""
            workspace.store.remove([fingerprint])
            return workspace.jobs()

        with pytest.raises(StoreError) as error:
            publish(plan, run, workspace.store, workspace.state, jobs)
        assert str(error.value) == gone(fingerprint)
        assert workspace.state.environment("dev") == before
    check_whole(project)


def check_whole(project: ProjectFolder) -> None:
    """The same command sets all right, and its map holds all steps."""
    done = project.build()
    assert done.outcome.published
    with project.open() as workspace:
        assert workspace.state.environment("dev").keys() == workspace.graph.steps.keys()
        assert "spend" in done.of("built")
