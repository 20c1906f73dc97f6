"""A project about a table of one's own: `treadle init NAME --from FILE --label COLUMN`."""

from __future__ import annotations

from pathlib import Path

from treadle_scaffold.folder import check_target, to_identifier, write_folder


def init_from(
    target: Path, *, name: str = "", data: Path, label: str, time: str | None = None, entity: str | None = None
) -> list[Path]:
    """Write a project that learns a column of a file.

    The task, the key, the inputs and the split are guessed from the file and written down, to be changed. The file is
    copied to data/.

    Args:
        target: a folder that does not exist, or an empty one.
        name: the project's name; empty: the folder's.
        data: a CSV or Parquet file with one row for each thing to predict.
        label: the column to predict: numbers, true and false, or a few texts or whole numbers.
        time: the column that says when a row happened; with it the split is by time.
        entity: the column that says whom a row is about; without `time` no entity stands in two parts, with it the
            entity's earlier rows become a feature.

    Returns:
        the files written.

    Raises:
        UsageError: the folder is not empty, the file cannot be read, a column is missing or does not fit.
    """
    from treadle_scaffold.generate import generate
    from treadle_scaffold.guess import guess
    from treadle_scaffold.parts import choose_split
    from treadle_scaffold.profile import read_profile

    check_target(target)
    with read_profile(data) as profile:
        table = to_identifier(data.name.split(".")[0], default="rows").lower()
        design = guess(profile, table=table, label=label, time=time, entity=entity)
        files = generate(design, choose_split(design), name=to_identifier(name or target.resolve().name))
    return write_folder(target, files)
