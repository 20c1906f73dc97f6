"""LightGBM for Treadle: the trainer `lightgbm`. The library is imported when a model is fitted or read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from treadle.errors import Problem, ProjectError
from treadle.hooks import RegisterTrainer, hook
from treadle_lightgbm.table import TABLE

NAME = "lightgbm"


@hook
def register_trainers(register: RegisterTrainer) -> None:
    """Add the trainer `lightgbm`."""
    register(NAME, load=_load, table=_table)


def _load(_name: str) -> object:
    _check_installed()
    from treadle_lightgbm.trainer import LightgbmTrainer

    return LightgbmTrainer()


def _table(_cache: Path) -> Mapping[str, Any]:
    _check_installed()
    return TABLE


def _check_installed() -> None:
    if find_spec("lightgbm") is None:
        raise ProjectError(
            Problem(
                "TR501",
                'trainer "lightgbm" needs a library that is not installed',
                why="LightGBM is an extra of Treadle",
                fix="pip install 'treadle[lightgbm]'",
            )
        )
