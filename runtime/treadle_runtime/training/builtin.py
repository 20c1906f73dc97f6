"""The trainers that come with Treadle, registered through the hook that plugins use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from treadle.hooks import RegisterTrainer, hook
from treadle_runtime.training import table
from treadle_runtime.training.estimators import PREFIX


@hook
def register_trainers(register: RegisterTrainer) -> None:
    """Add scikit-learn's estimators."""
    register(PREFIX + "*", load=_load_sklearn, table=_sklearn_table)


def _load_sklearn(name: str) -> object:
    from treadle_runtime.training.sklearn_trainer import SklearnTrainer

    return SklearnTrainer(name)


def _sklearn_table(cache: Path) -> Mapping[str, Any]:
    return table.read_or_build(cache)
