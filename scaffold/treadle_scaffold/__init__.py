"""Files to start from: a project from a template or from a table of one's own, and pieces of a project.

init       a template -> a new project
init_from  a CSV or Parquet file and a label -> a new project about it
new        a project -> one more feature, dataset, model, pipeline or test
"""

from __future__ import annotations

from treadle_scaffold.from_data import init_from
from treadle_scaffold.piece import new
from treadle_scaffold.template import init

__all__ = ["init", "init_from", "new"]
