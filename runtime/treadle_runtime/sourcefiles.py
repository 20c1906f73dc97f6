"""A timed source of CSV or JSON files: a Parquet part for each, so that who reads by time reads the files it needs.

    form: how all files are read, from all of them (or from the declaration) -> each file by itself, once
    for each content -> link the parts, in the order of the files

A file gives the same rows as in a source without event_time. Its part is a piece in the store: a file that was read
before with the same form is not read again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from treadle.errors import StepError
from treadle.fingerprint import to_canonical_json
from treadle_runtime import engine, readers
from treadle_runtime.engine import Connection, Written
from treadle_runtime.intervals import rule_of
from treadle_runtime.job import Job, Made
from treadle_runtime.pieces import Piece, Pieces, link_part
from treadle_runtime.session import Lend
from treadle_runtime.sources import Observed
from treadle_runtime.spare import Spare
from treadle_runtime.state import SourcePart
from treadle_runtime.textfile import (
    Dialect,
    csv_sql,
    json_sql,
    plain_csv_sql,
    read_dialect,
    read_first_row,
    read_head,
    sniff_sql,
)
from treadle_runtime.timedtable import check_time
from treadle_runtime.times import part_times
from treadle_runtime.types import quote_name
from treadle_runtime.viewsql import escape_glob

REVISION = 1
"""Raised by one when Treadle itself would read a file differently."""


def is_read_by_file(config: Mapping[str, Any], observed: Observed) -> bool:
    """Return whether a source is kept file by file: it has a time, is text, and some of its files hold anything."""
    is_text = config["format"] in ("csv", "json")
    return is_text and bool(config.get("event_time")) and any(part.size for part in observed.parts)


@dataclass(frozen=True)
class Form:
    """How each file is read, so that all give the same columns.

    Attributes:
        columns: name -> type, in order.
        options: the source's `csv`, with what is detected once and holds for all files.
        dialect: of a CSV.
        first: the file whose columns the others are compared with.
    """

    columns: Mapping[str, str]
    options: Mapping[str, Any]
    dialect: Dialect | None = None
    first: str = ""

    def select(self, file: Path) -> str:
        """Return the SELECT that reads one file."""
        pattern = escape_glob(str(file))
        if self.dialect is None:
            return json_sql([pattern], self.columns)
        names = ", ".join(quote_name(name) for name in self.columns)
        return f"select {names} from ({csv_sql([pattern], self.dialect, self.options, columns=self.columns)})"

    def plain_select(self, file: Path) -> str | None:
        """Return the SELECT that reads a CSV file with just these columns in its first line; None for any other."""
        if self.dialect is None or not self.options.get("header"):
            return None
        first = read_first_row(file, self.dialect)
        if sorted(first) != sorted(self.columns):
            return None
        names = ", ".join(quote_name(name) for name in self.columns)
        columns = {name: self.columns[name] for name in first}
        return f"select {names} from ({plain_csv_sql(escape_glob(str(file)), self.dialect, self.options, columns)})"

    def digest(self) -> str:
        """Return text that is equal for forms that read alike."""
        return to_canonical_json([list(self.columns.items()), self.options, self.dialect and asdict(self.dialect)])


def run_files(job: Job, config: Mapping[str, Any], lend: Lend, pieces: Pieces) -> Made:
    """Write a timed source of text files, a part for each file.

    Args:
        job: of the source.
        config: of the source, as `readers` takes it.
        lend: where connections come from.
        pieces: reads files, and keeps those that were read.

    Raises:
        StepError: what `readers.load` and `readers.reading` raise; TR706, TR712 of the event_time.
    """
    if job.observed is None:
        raise ValueError(f"{job.step.id} was not observed")
    files = [part for part in job.observed.parts if part.size]
    with ExitStack() as stack:
        reader = _Reader(job, config, job.observed, Spare(job, lend, stack, lambda con: None))
        unique = {reader.fingerprint(part): part for part in reversed(files)}
        made, n_new = pieces.compute([reader.piece(part) for part in unique.values()], kind="file", anew=job.anew)
    versions = {version.fingerprint: version for version in made}
    chosen = [versions[reader.fingerprint(part)] for part in files]
    names = [f"part-{n:05}.parquet" for n in range(len(chosen))]
    linked = {name: link_part(version, name, job.folder) for name, version in zip(names, chosen, strict=True)}
    info = {"files": [[name, version.fingerprint] for name, version in zip(names, chosen, strict=True)]}
    return Made(chosen[0].columns, info=info, linked=linked, pieces=(n_new, len(unique)))


class _Reader:
    """Reads the files of one source."""

    def __init__(self, job: Job, config: Mapping[str, Any], observed: Observed, spare: Spare) -> None:
        self.job, self.config, self.observed, self._spare = job, config, observed, spare
        self.what = f'source "{job.step.name}"'
        with spare.use() as con, readers.reading(con, config, observed, job.root):
            self.form = _find_form(con, config, observed, job.root)
        check_time(list(self.form.columns.items()), config["event_time"], what=self.what, where=job.step.where)
        self._components = rule_of(job.components) | {"piece": f"file/{REVISION}", "form": self.form.digest()}

    def fingerprint(self, part: SourcePart) -> str:
        """Return the identity of a file's rows: its content, how it is compressed, and the form."""
        content = f"{os.path.splitext(part.path)[1]}:{part.digest}"
        return hashlib.sha256(to_canonical_json({**self._components, "file": content}).encode()).hexdigest()

    def piece(self, part: SourcePart) -> Piece:
        """Return the reading of a file."""
        return Piece(self.fingerprint(part), lambda folder: self._write(part, folder))

    def _write(self, part: SourcePart, folder: Path) -> Made:
        alone = replace(self.observed, parts=(part,))
        [file] = alone.files(self.job.root)
        with self._spare.use() as con, readers.reading(con, self.config, alone, self.job.root):
            written = self._write_plain(con, file, folder) or self._write_detected(con, file, folder, alone)
        return Made(written.columns, times=part_times(folder, self.config["event_time"]))

    def _write_plain(self, con: Connection, file: Path, folder: Path) -> Written | None:
        """Write a file that is as plain as most are, without any detection; None where it is not."""
        select = self.form.plain_select(file)
        try:
            return None if select is None else self._run(con, select, folder)
        except StepError as error:
            if isinstance(error.__cause__, duckdb.InterruptException):
                raise
            return None  # what is wrong is found, and told, where nothing is taken for granted

    def _write_detected(self, con: Connection, file: Path, folder: Path, alone: Observed) -> Written:
        if self.form.dialect is not None:
            known = {self.form.first: list(self.form.columns)}
            readers.check_same_columns(con, self.config, alone, self.job.root, known)
        return self._run(con, self.form.select(file), folder)

    def _run(self, con: Connection, select: str, folder: Path) -> Written:
        return engine.write_query(con, select, folder, what=self.what, where=self.job.step.where)


def _find_form(con: Connection, config: Mapping[str, Any], observed: Observed, root: Path) -> Form:
    options = dict(config.get("csv") or {})
    declared: Mapping[str, str] = config.get("columns") or {}
    if config["format"] == "json":
        return Form(dict(engine.describe(con, readers.load(con, config, observed, root))), options)
    filled = [part for part in observed.parts if part.size]
    both = zip(filled, replace(observed, parts=tuple(filled)).files(root), strict=True)
    # A file of a header alone tells nothing but names.
    first = next((part for part, file in both if len(read_head(file).strip().splitlines()) > 1), filled[0])
    alone = replace(observed, parts=(first,))
    [file] = alone.files(root)
    columns = dict(engine.describe(con, readers.load(con, config, alone, root)))
    if set(columns) - set(declared):
        columns = dict(engine.describe(con, readers.load(con, config, observed, root)))
    dialect = read_dialect(options, file)
    # As where all files are read at once, the first one tells how dates are written in all.
    sniff = sniff_sql(escape_glob(str(file)), dialect, options, columns=declared)
    header, date, timestamp = con.execute(sniff).fetchall()[0]
    found = {"header": header, "date_format": date, "timestamp_format": timestamp, **options}
    return Form(columns, {key: value for key, value in found.items() if value is not None}, dialect, first.path)
