"""What a step is given to run, and what it gives back: plain values that travel to worker processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from treadle.step import Step
from treadle_runtime.intervals import Window
from treadle_runtime.sources import Observed
from treadle_runtime.store import Column, Part, Times, Version


@dataclass(frozen=True)
class Origin:
    """What an incremental feature has to know of a relation, beyond how it is read.

    Attributes:
        fingerprint: of its step, as planned.
        components: what that is the digest of.
        event_time: the column that says when its rows happened; empty for none.
        declared: column -> type, of those whose type a source declares.
        observed: for a source that is read in place, its parts, in the order of the relation's `paths`.
    """

    fingerprint: str
    components: Mapping[str, str]
    event_time: str = ""
    declared: Mapping[str, str] = field(default_factory=dict)
    observed: Observed | None = None


@dataclass(frozen=True)
class Relation:
    """What a logical name stands for while a step runs: a stored version, or a SELECT over earlier relations.

    Attributes:
        name: as SQL names it.
        version: the stored version; None for a view and for a source that is read in place.
        sql: the SELECT otherwise.
        paths: the files that the SELECT reads by itself.
        origin: for an incremental feature, where it comes from; None for all else.
    """

    name: str
    version: Version | None = None
    sql: str = ""
    paths: tuple[Path, ...] = ()
    origin: Origin | None = None


@dataclass(frozen=True)
class Opponent:
    """The champion that a candidate is judged against: its held-out twin and what that was trained on.

    Attributes:
        is_same_definition: whether the candidate's dataset is defined as the champion's was, so that columns of
            one name mean the same; their rows may differ.
    """

    number: int
    twin: Version
    dataset: Version
    split: Version
    is_same_definition: bool


@dataclass(frozen=True)
class Job:
    """One step to run.

    Attributes:
        step: what to run.
        root: the project's folder.
        folder: where the result's files go; it exists and is empty.
        scratch: a folder for temporary files of DuckDB.
        relations: what names stand for, each after those it reads.
        versions: step id -> version, of the inputs that have one.
        observed: for a source, its parts.
        python: path -> sha256 of the text of each Python file that the step's fingerprint covers.
        log: the file that gets what user code prints; None leaves it on the terminal.
        as_of: ISO 8601 in UTC, or `newest`.
        opponent: for `validate`, the champion.
        components: for a step that is put together from pieces, what its fingerprint is the digest of.
        window: for an incremental feature that is backfilled, which intervals to compute; None: all, and the table.
        anew: compute what the store holds too.
    """

    step: Step
    root: Path
    folder: Path
    scratch: Path
    relations: tuple[Relation, ...] = ()
    versions: Mapping[str, Version] = field(default_factory=dict)
    observed: Observed | None = None
    python: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    as_of: str = "newest"
    opponent: Opponent | None = None
    components: Mapping[str, str] = field(default_factory=dict)
    window: Window | None = None
    anew: bool = False


@dataclass(frozen=True)
class Made:
    """What a step made, besides the files in its folder.

    Attributes:
        columns: of a table; empty otherwise.
        info: what the step tells; JSON, without times and run ids.
        rows: part -> how many it holds, where the writer has counted them.
        reproducible: whether the same step would write the same bytes again.
        notes: what a person should look at; not stored.
        times: name of a part -> the times of its rows, where they are known.
        linked: name of a part -> what is known of it: it is a link to a part of another version.
        pieces: where the step is put together from pieces, (how many were computed now, how many there are); not
            stored.
        is_whole: False where only some pieces were asked for: there is nothing to publish, and `pieces` tells how many
            of them the store holds.
    """

    columns: tuple[Column, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    reproducible: bool = True
    notes: tuple[str, ...] = ()
    times: Mapping[str, Times] = field(default_factory=dict)
    linked: Mapping[str, Part] = field(default_factory=dict)
    pieces: tuple[int, int] | None = None
    is_whole: bool = True
