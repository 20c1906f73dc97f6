"""Treadle: dbt for machine learning.

`feature` and `stage` mark a project's own functions; `open` is the door for notebooks and scripts.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from treadle_runtime.workspace import Workspace

__all__ = ["feature", "open", "stage"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def feature(function: F, /) -> F: ...
@overload
def feature(
    *,
    entity: str | None = None,
    event_time: str | None = None,
    known_at: str | None = None,
    static: bool = False,
    ttl: str | None = None,
    volatile: str | None = None,
    threads: int = 1,
    retries: int = 0,
    timeout: str | None = None,
    tags: tuple[str, ...] | list[str] = (),
    enabled: bool = True,
) -> Callable[[F], F]: ...
def feature(function: F | None = None, /, **_: object) -> F | Callable[[F], F]:
    """Mark a function in features/*.py as a feature: its parameters' names are the tables that it reads.

    The arguments are read from the source code and must be literal; the function itself is returned unchanged.

    Args:
        entity: whom its rows describe, as defined below `entities:`.
        event_time: the column that says since when a row is true.
        known_at: the column that says since when it could be known; by default event_time.
        static: every row is true at all times.
        ttl: how long a row stays valid, such as `30d`; by default for ever.
        volatile: `run` or `day`, for a function whose result changes although nothing that it reads does.
        threads: how many it may use.
        retries: how often it is tried again where it raises, its worker dies or its time is over.
        timeout: how long one try may take, such as `10m`.
        tags: words to select it by.
        enabled: whether it is part of the project.
    """
    return function if function is not None else _unchanged


def stage(*, pipeline: str, after: str | None = None, replaces: str | None = None) -> Callable[[F], F]:
    """Mark a function in pipelines/*.py as a stage: its parameters' names are the tables and models that it reads.

    Args:
        pipeline: whose stage it is.
        after: the stage that it stands after; it returns a table of its own.
        replaces: `split` (it returns the dataset's key and `part`: train, validation or test) or `choose` (it returns
            a model's name).
    """
    return _unchanged


def _unchanged(function: F) -> F:
    return function


def open(  # noqa: A001 the field's word for it
    path: str | Path = ".", *, env: str | None = None, variables: dict[str, Any] | None = None
) -> Workspace:
    """Open the project at or above a folder, to read its tables and models and to run its steps.

    Args:
        path: a folder of the project.
        env: the environment; by default the project's.
        variables: values that win over those of treadle.yml.

    Raises:
        ProjectError: there is no project, or it is wrong.
    """
    runtime = importlib.import_module("treadle_runtime.workspace")
    workspace: Workspace = runtime.open_workspace(Path(path), environment=env, variables=variables)
    return workspace
