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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from treadle.errors import StepError
from treadle.fingerprint import to_canonical_json
from treadle_runtime import engine, quarantine, readers
from treadle_runtime.connection_pool import ConnectionPool
from treadle_runtime.engine import PART, Connection, Written
from treadle_runtime.intervals import rule_of
from treadle_runtime.job import Job, Made
from treadle_runtime.pieces import Piece, Pieces, link_part
from treadle_runtime.quarantine_read import Files, find_form_of_any
from treadle_runtime.session import Lend
from treadle_runtime.sources import Observed
from treadle_runtime.state import SourcePart
from treadle_runtime.textfile import is_last_line_too_long
from treadle_runtime.timedtable import check_found, check_time
from treadle_runtime.times import part_times, read_statistics
from treadle_runtime.types import quote_text
from treadle_runtime.viewsql import escape_glob

REVISION = 1
"""Raised by one when Treadle itself would read a file differently."""


def is_read_by_file(config: Mapping[str, Any], observed: Observed) -> bool:
    """Return whether a source is kept file by file: it has a time, is text, and some of its files hold anything."""
    is_text = config["format"] in ("csv", "json")
    return is_text and bool(config.get("event_time")) and any(part.size for part in observed.parts)


def run_files(job: Job, config: Mapping[str, Any], lend: Lend, pieces: Pieces) -> Made:
    """Write a timed source of text files, a part for each file.

    Args:
        job: of the source.
        config: of the source, as `readers` takes it.
        lend: where connections come from.
        pieces: reads files, and keeps those that were read.

    Raises:
        StepError: what `readers.load` and `readers.reading` raise; TR706, TR712, TR731 of the event_time.
    """
    if job.observed is None:
        raise ValueError(f"{job.step.id} was not observed")
    files = [part for part in job.observed.parts if part.size]
    with ExitStack() as stack:
        reader = _Reader(job, config, job.observed, ConnectionPool(job, lend, stack, lambda con: None))
        unique = {reader.fingerprint(part): part for part in reversed(files)}
        made, n_new = pieces.compute([reader.piece(part) for part in unique.values()], kind="file", anew=job.anew)
    versions = {version.fingerprint: version for version in made}
    chosen = [versions[reader.fingerprint(part)] for part in files]
    names = [f"part-{n:05}.parquet" for n in range(len(chosen))]
    linked = {name: link_part(version, name, job.folder) for name, version in zip(names, chosen, strict=True)}
    n_bad = quarantine.unite([(part.path, version) for part, version in zip(files, chosen, strict=True)], job.folder)
    notes = quarantine.to_notes(job.step.name, n_bad, sum(part.rows for part in linked.values()))
    listed = [[name, version.fingerprint] for name, version in zip(names, chosen, strict=True)]
    info = {"files": listed, **quarantine.to_info(config, n_bad)}
    notes = (*readers.tell_empty(job.observed, config), *notes)
    return Made(chosen[0].columns, info=info, notes=notes, linked=linked, pieces=(n_new, len(unique)))


class _Reader:
    """Reads the files of one source."""

    def __init__(self, job: Job, config: Mapping[str, Any], observed: Observed, pool: ConnectionPool) -> None:
        self.job, self.config, self.observed, self._pool = job, config, observed, pool
        self.what = f'source "{job.step.name}"'
        with pool.use() as con, readers.reading(con, config, observed, job.root):
            self.form = find_form_of_any(Files(con, config, observed, job.root, job.scratch))
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
        with self._pool.use() as con, readers.reading(con, self.config, alone, self.job.root):
            written, n_bad = self._write_plain(con, file, folder), 0
            if written is None:
                written, n_bad = quarantine.write(
                    Files(con, self.config, alone, self.job.root, self.job.scratch),
                    folder,
                    partial(self._write_detected, con, file, folder, alone),
                    partial(self._run, con, folder=folder),
                    form=self.form,
                    has_names=False,
                )
            self._check_times(con, folder, part.path)
        info = quarantine.to_info(self.config, n_bad)
        return Made(written.columns, info=info, times=part_times(folder, self.config["event_time"]))

    def _check_times(self, con: Connection, folder: Path, path: str) -> None:
        """Raise TR731 where a row has no time, by which it would be found."""
        column = self.config["event_time"]
        told = read_statistics(folder / PART, column)
        if told is None or told.nulls or told.times is None:
            select = f"select * from read_parquet({quote_text(escape_glob(str(folder / PART)))})"
            kind = check_time(engine.describe(con, select), column, what=self.what)
            check_found(con, select, column, kind, what=self.what, path=path, where=self.job.step.where)

    def _write_plain(self, con: Connection, file: Path, folder: Path) -> Written | None:
        """Write a file that is as plain as most are, without any detection; None where it is not."""
        select = self.form.plain_select(file)
        if select is None or is_last_line_too_long(file):
            return None
        try:
            return self._run(con, select, folder)
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
