"""`treadle verify`: what is not as it was written is found, named, and made again; and nothing learns from it."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pytest

from treadle_runtime.version import FORMAT

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder


def fingerprint_of(project: ProjectFolder, step: str, env: str = "dev") -> str:
    with project.open() as workspace:
        return workspace.state.environment(env)[step]


def flip(path: Path, position: int) -> None:
    """Change one bit of a file and nothing else: neither its size nor its time."""
    times = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def part_of(project: ProjectFolder, step: str) -> Path:
    folder = project.root / ".treadle/store" / fingerprint_of(project, step)
    return next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "meta.json")


# nothing is wrong


def test_sound_project(churn: ProjectFolder) -> None:
    n = len(churn.metas())
    result = churn.run("verify")
    lines = result.stdout.splitlines()
    assert lines[0] == "state           ok"
    assert lines[1].startswith(f"versions        {n} of {n} are as they were written, 0.")
    assert lines[2:] == ["catalog of dev  made anew"]
    assert result.stderr == ""
    found = churn.json("verify")
    assert (found["sound"], found["versions"], found["wrong"], found["next"]) == (True, n, [], [])


def test_project_without_any_build(make_project: MakeProject) -> None:
    project = make_project("features")
    assert project.treadle("verify").stdout == "state     ok\nversions  0 of 0 are as they were written, 0.0 MiB\n"


# versions


def test_flipped_byte_is_found_named_and_made_again(churn: ProjectFolder) -> None:
    before, fingerprint = churn.metas(), fingerprint_of(churn, "spend")
    part = part_of(churn, "spend")
    flip(part, part.stat().st_size // 2)
    result = churn.treadle("verify", code=1)
    lines = result.stdout.splitlines()
    assert f" {len(before) - 1} of {len(before)} are as they were written" in lines[1]
    assert lines[3].split() == ["damaged", "spend", fingerprint[:12], "in", "dev"]
    assert lines[4].startswith("  part-0.parquet has sha256 ")
    assert lines[5] == "next: treadle verify --repair && treadle build --select spend"
    assert churn.metas() == before

    result = churn.treadle("verify", "--repair")
    lines = result.stdout.splitlines()
    assert lines[3].split() == ["withdrawn", "spend", fingerprint[:12], "in", "dev"]
    assert lines[-1] == "next: treadle build --select spend"
    assert set(before) - set(churn.metas()) == {fingerprint}
    churn.treadle("build", "--select", "spend")
    assert churn.metas() == before
    churn.treadle("verify")
    assert churn.leftovers() == []


def test_every_flipped_bit_of_any_file_is_found(churn: ProjectFolder) -> None:
    rng = random.Random(5)
    files = [path for path in sorted((churn.root / ".treadle/store").rglob("*")) if path.is_file()]
    for path in rng.sample(files, 12):
        position = rng.randrange(path.stat().st_size - 1)  # the line's end of meta.json says nothing
        flip(path, position)
        wrong, *suspects = churn.json("verify", code=1)["wrong"]
        assert {each["status"] for each in suspects} <= {"suspect"}
        assert (wrong["status"], wrong["fingerprint"]) == ("damaged", path.relative_to(churn.root).parts[2])
        flip(path, position)
    assert churn.json("verify")["sound"]


def test_missing_version_is_made_again(churn: ProjectFolder) -> None:
    before = churn.metas()
    for step in ("rows", "churn.refit"):
        shutil.rmtree(churn.root / ".treadle/store" / fingerprint_of(churn, step))
    found = churn.json("verify", code=1)
    assert [(each["status"], each["step"]) for each in found["wrong"]] == [
        ("missing", "churn.refit"),
        ("missing", "rows"),
    ]
    assert found["wrong"][0]["models"] == ["churn version 1"]
    assert found["next"] == ["treadle build --select 'churn.refit rows'"]
    churn.treadle("build", "--select", "churn.refit rows")
    assert churn.metas() == before
    assert churn.json("verify")["sound"]


def test_missing_version_is_noticed_by_a_build_and_a_missing_part_by_who_reads_it(make_project: MakeProject) -> None:
    """A build with nothing to do lists the store and opens no version."""
    project = make_project("features")
    project.build()
    before = project.metas()
    part = part_of(project, "orders")
    shutil.rmtree(part_of(project, "spend").parent)
    assert project.reasons() == {"spend": "its version is missing in the store"}
    assert project.build().of("built") == {"spend"}
    part.unlink()
    assert project.reasons() == {}
    project.treadle("build")
    assert project.json("verify", code=1)["wrong"][0]["why"] == "part-0.parquet is missing"
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    assert "part-0.parquet is missing" in project.treadle("build", code=1).stderr
    [wrong] = project.json("verify", "--repair")["wrong"]  # nothing can have been computed from it
    assert wrong == {
        "fingerprint": part.parent.name,
        "status": "damaged",
        "step": "orders",
        "why": "part-0.parquet is missing",
        "environments": ["dev"],
        "models": [],
        "holders": [],
        "is_withdrawn": True,
        "is_planned": True,
        "roots": [],
    }
    project.edit("features/spend.sql", "count(*) + 1 as n", "count(*) as n")
    project.treadle("build")
    assert project.metas() == before


def test_model_that_no_build_makes_again_is_named(churn: ProjectFolder) -> None:
    old = fingerprint_of(churn, "churn.refit")
    churn.edit(
        "models/churn.yml",
        "trainer: sklearn.logistic_regression",
        "trainer: sklearn.logistic_regression, params: {C: 0.5}",
    )
    churn.build()
    flip(part_of(churn, "churn.refit").parents[2] / old / "model/model.json", 5)
    [wrong] = churn.json("verify", code=1)["wrong"]
    assert (wrong["environments"], wrong["models"]) == ([], ["churn version 1"])
    result = churn.treadle("verify", "--repair", code=1)
    assert "churn version 1, no build makes it again: promote another version" in result.stdout
    [wrong] = churn.json("verify", "--repair", code=1)["wrong"]
    assert wrong["status"] == "missing"


def test_damaged_version_that_nothing_refers_to(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    old = part_of(project, "spend")
    project.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    project.build()
    flip(old, 20)
    result = project.treadle("verify", code=1)
    assert "nothing refers to it" in result.stdout
    assert result.stdout.splitlines()[-1] == "next: treadle verify --repair"
    assert "next" not in project.treadle("verify", "--repair").stdout
    assert project.json("verify")["sound"]


def test_version_of_a_newer_treadle_is_not_withdrawn(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    meta = part_of(project, "spend").with_name("meta.json")
    meta.chmod(0o644)
    meta.write_text(json.dumps({"format": 99}))
    [wrong] = project.json("verify", "--repair", code=1)["wrong"]
    assert (wrong["status"], wrong["is_withdrawn"]) == ("newer", False)
    assert wrong["why"] == f"its format is 99, this Treadle reads up to {FORMAT}"
    assert meta.exists()


def test_selection_reads_only_what_it_names(churn: ProjectFolder) -> None:
    flip(part_of(churn, "profile"), 30)
    found = churn.json("verify", "--select", "spend+", "--exclude", "churn")
    assert found["sound"]
    assert 0 < found["versions"] < len(churn.metas())
    assert found["catalogs"] == {}
    found = churn.json("verify", "--select", "profile", code=1)
    assert (found["versions"], [each["step"] for each in found["wrong"]]) == (1, ["profile"])


def test_version_that_somebody_reads_is_not_withdrawn(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    part = part_of(project, "spend")
    flip(part, 30)
    with project.open(command="treadle show spend") as workspace:
        workspace.step("spend")
        result = project.treadle("verify", "--repair", code=1)
        assert "treadle show spend reads it" in result.stdout
        assert part.exists()
    project.treadle("verify", "--repair")
    assert not part.exists()


# what was computed from damage


def test_what_was_computed_from_a_damaged_version_is_withdrawn_too(churn: ProjectFolder) -> None:
    before, fingerprint = churn.metas(), fingerprint_of(churn, "orders")
    part = part_of(churn, "orders")
    flip(part, part.stat().st_size // 2)
    result = churn.treadle("verify", code=1)
    assert "suspect, as computed from what is damaged: churn.baseline, churn.choose" in result.stdout
    assert "churn version 1 stands on it: the build makes it again" in result.stdout
    assert result.stdout.splitlines()[-1] == "next: treadle verify --repair && treadle build"
    assert churn.metas() == before

    found = churn.json("verify", "--repair")
    assert {each["fingerprint"] for each in found["wrong"] if each["is_withdrawn"]} == before.keys()
    assert {tuple(each["roots"]) for each in found["wrong"] if each["status"] == "suspect"} == {(fingerprint,)}
    assert found["next"] == ["treadle build"]
    assert churn.metas() == {}
    churn.treadle("build", "--threads", "1")
    assert churn.metas() == before
    assert churn.json("verify")["sound"]


def test_few_steps_to_build_again_are_named(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    flip(part_of(project, "orders"), 100)
    result = project.treadle("verify", "--repair")
    assert (
        "withdrawn too, as computed from what is damaged: spend, not_null_orders_id, unique_orders_id\n"
        in result.stdout
    )
    names = "orders spend test:not_null_orders_id test:unique_orders_id"
    assert result.stdout.splitlines()[-1] == f"next: treadle build --select '{names}'"
    project.treadle("build", "--select", names)
    assert project.json("verify")["sound"]


def test_damage_passes_through_views(make_project: MakeProject) -> None:
    project = make_project(
        "features",
        {
            "features/big.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where amount > 50",
            "features/top.sql": "select max(amount) as most from {{ ref('big') }}",
            "features/other.sql": "select 1 as one",
        },
    )
    project.build()
    flip(part_of(project, "orders"), 100)
    wrong = project.json("verify", "--repair", "--select", "orders")["wrong"]
    assert {each["step"] for each in wrong if not each["step"].startswith("test:")} == {"orders", "spend", "top"}
    assert len(project.metas()) == 1


def test_damage_stays_while_somebody_reads_what_was_computed_from_it(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    source, part = part_of(project, "orders"), part_of(project, "spend")
    flip(source, 100)
    with project.open(command="treadle show spend") as workspace:
        workspace.lease.add([part.parent.name])
        result = project.treadle("verify", "--repair", code=1)
        assert "suspect, as computed from what is damaged: spend\n" in result.stdout
        assert "treadle show spend reads it" in result.stdout
        assert source.exists()
        assert part.exists()
    project.treadle("verify", "--repair")
    assert not source.exists()
    assert not part.exists()


def test_model_that_no_build_makes_again_stays_though_it_may_be_wrong(churn: ProjectFolder) -> None:
    old = {step: fingerprint_of(churn, step) for step in ("profile", "rows", "churn.refit")}
    churn.edit("features/shares.py", "> 50", "> 51")
    churn.build()
    flip(part_of(churn, "orders"), 100)
    # What is pasted goes on after a repair that ends with 1, as it left a model that stands on damage.
    assert churn.json("verify", code=1)["next"] == ["treadle verify --repair; treadle build"]
    result = churn.treadle("verify", "--repair", code=1)
    assert "churn version 1 stands on it, and no build makes it again: promote another version" in result.stdout
    assert "churn version 2 stands on it: the build makes it again" in result.stdout
    assert {old["rows"], old["churn.refit"]} <= churn.metas().keys()
    assert old["profile"] not in churn.metas()


def test_several_model_versions_stand_on_damage(churn: ProjectFolder) -> None:
    for bound in (51, 52, 53):
        churn.edit("features/shares.py", f"> {bound - 1}", f"> {bound}")
        churn.build()
    flip(part_of(churn, "orders"), 100)
    text = churn.treadle("verify", code=1).stdout
    assert "  churn version 4 stands on it: the build makes it again\n" in text
    assert (
        "  churn version 1, churn version 2, churn version 3 stand on it, and no build makes them again: promote another"
        " version\n"
    ) in text


def test_model_of_another_environment_is_made_again_by_its_build(churn: ProjectFolder) -> None:
    churn.write("treadle.yml", "name: shop\nvars: {bound: 50}\nenvironments: {production: {vars: {bound: 60}}}\n")
    churn.edit("features/spend.sql", "count(*) as n", "count(*) + {{ var('bound') }} as n")
    churn.treadle("build", "--threads", "1")
    churn.treadle("build", "--threads", "1", "--env", "production")
    shipped = fingerprint_of(churn, "churn.refit", "production")
    assert shipped != fingerprint_of(churn, "churn.refit")
    flip(churn.root / ".treadle/store" / shipped / "model/model.json", 5)
    result = churn.treadle("verify", "--repair", code=0)
    assert "no build makes it again" not in result.stdout
    assert result.stdout.splitlines()[-1] == "next: treadle build --env production --select churn.refit"
    churn.treadle("build", "--env", "production", "--threads", "1", "--select", "churn.refit")
    assert churn.json("verify")["sound"]


# state


def test_damage_of_the_state_is_found(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    path = project.root / ".treadle/state.db"
    con = sqlite3.connect(path)
    con.execute("PRAGMA foreign_keys = OFF")
    con.execute("DELETE FROM runs")
    con.commit()
    con.close()
    result = project.treadle("verify", code=1)
    assert re.search(r"\.treadle/state\.db: \w+: a row refers to runs", result.stdout.splitlines()[0])
    assert "error[TR804]: the state is damaged" in result.stdout
    assert project.json("verify", code=1)["state"][0]["code"] == "TR804"


def test_damaged_index_of_the_state_is_found(make_project: MakeProject) -> None:
    """A page that no query of a build happens to read."""
    project = make_project("features")
    project.build()
    path = project.root / ".treadle/state.db"
    con = sqlite3.connect(path)
    [page] = con.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_runs_1'").fetchone()
    [size] = con.execute("PRAGMA page_size").fetchone()
    con.close()
    content = bytearray(path.read_bytes())
    start = (page - 1) * size
    content[start : start + size] = bytes([10, 0, 0, 0, 0, 16, 0, 0]) + bytes(size - 8)  # an index without entries
    path.write_bytes(content)
    assert project.build("spend").outcome.published
    assert project.json("verify", code=1)["state"][0]["code"] == "TR804"


# catalogs


def views(project: ProjectFolder, env: str = "dev") -> set[str]:
    with duckdb.connect(str(project.root / f".treadle/{env}.duckdb"), read_only=True) as con:
        return {row[0] for row in con.sql("select view_name from duckdb_views() where not internal").fetchall()}


def test_catalogs_of_all_environments_are_made_from_nothing(make_project: MakeProject) -> None:
    view = {
        "features/big.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where amount > 50"
    }
    project = make_project("features", view, {"treadle.yml": "name: shop\nenvironments: {dev: {}, prod: {}}\n"})
    project.build()
    project.treadle("build", "--env", "prod")
    with duckdb.connect(str(project.root / ".treadle/prod.duckdb")) as con:
        con.execute("drop view spend; drop view big; create table planted as select 1")
    (project.root / ".treadle/dev.duckdb").write_bytes(b"no catalog at all")
    found = project.json("verify")
    assert found["catalogs"] == {"dev": None, "prod": None}
    assert views(project) == views(project, "prod") == {"orders", "spend", "big"}
    with duckdb.connect(str(project.root / ".treadle/prod.duckdb"), read_only=True) as con:
        assert con.sql("select count(*) > 0 from big").fetchall() == [(True,)]
        assert con.sql("select table_name from duckdb_tables()").fetchall() == []


def test_catalog_is_made_anew_while_the_project_is_broken(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    project.write("features/bad.sql", "select * from {{ ref('ordrs') }}")
    (project.root / ".treadle/dev.duckdb").write_bytes(b"no database")
    assert "catalog of dev  made anew" in project.treadle("verify").stdout
    assert views(project) == {"orders", "spend"}


def damage_footer(project: ProjectFolder, step: str) -> str:
    """Change a byte of a Parquet part so that DuckDB cannot open it; return the version's fingerprint."""
    part = part_of(project, step)
    content = part.read_bytes()
    flip(part, len(content) - 8 - int.from_bytes(content[-8:-4], "little"))  # where the description of the file begins
    with pytest.raises(duckdb.Error, match="TProtocolException"):
        duckdb.sql(f"select count(*) from '{part}'").fetchall()
    return part.parent.name


def test_catalog_is_made_without_views_over_what_is_damaged(make_project: MakeProject) -> None:
    view = {"features/big.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('spend') }} where total > 50"}
    project = make_project("features", view)
    project.build()
    damage_footer(project, "spend")
    result = project.treadle("verify", code=1)
    assert "catalog of dev  made anew\n" in result.stdout
    assert "TR805" not in result.stdout
    assert views(project) == {"orders"}
    project.treadle("verify", "--repair")
    project.treadle("build")
    assert views(project) == {"orders", "spend", "big"}


def test_build_tells_of_damage_that_keeps_the_catalog_from_being_written(make_project: MakeProject) -> None:
    project = make_project("features")
    project.build()
    fingerprint = damage_footer(project, "spend")
    (project.root / ".treadle/dev.duckdb").unlink()
    stderr = project.treadle("build").stderr
    assert f'warning[TR804]: the stored version "{fingerprint[:12]}" is damaged\n' in stderr
    assert "fix: run `treadle verify --repair`" in stderr


def test_show_of_a_damaged_version_names_it(make_project: MakeProject) -> None:
    view = {"features/big.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('spend') }} where total > 50"}
    project = make_project("features", view)
    project.build()
    whole = part_of(project, "spend").read_bytes()
    fingerprint = damage_footer(project, "spend")
    project.treadle("show", "orders")
    for position in (None, 8):  # what cannot be opened, and what can be opened and not be read
        if position is not None:
            part_of(project, "spend").write_bytes(whole)
            flip(part_of(project, "spend"), position)
        stderr = project.treadle("show", "spend", code=1).stderr
        assert stderr.startswith(f'error[TR804]: the stored version "{fingerprint[:12]}" is damaged\n')
        assert "part-0.parquet has sha256 " in stderr
        assert stderr.endswith(
            "  fix: run `treadle verify --repair`, then the same command: what was damaged is made again\n"
        )
    assert "error[TR804]" in project.treadle("show", "big", code=1).stderr


# before it does harm


@pytest.mark.parametrize(
    ("damaged", "edit", "reader"),
    [
        ("orders", ("features/spend.sql", "count(*) as n", "count(*) + 1 as n"), "spend"),
        ("orders", ("features/shares.py", "> 50", "> 51"), "profile"),
        ("spend", ("models/churn.yml", "[spend, profile]", "[{spend: {columns: [total]}}, profile]"), "rows"),
        ("rows", ("models/churn.yml", "max_depth: 2", "max_depth: 3"), "churn.tree.train"),
        ("churn.linear.train", ("pipelines/churn.yml", "[roc_auc, brier]", "[roc_auc]"), "churn.linear.evaluate"),
    ],
)
def test_nothing_learns_from_a_flipped_byte(
    churn: ProjectFolder, damaged: str, edit: tuple[str, str, str], reader: str
) -> None:
    part = part_of(churn, damaged)
    flip(part, part.stat().st_size // 2)
    published = environment(churn)
    churn.edit(*edit)
    result = churn.treadle("build", "--threads", "1", code=1)
    fingerprint = part.relative_to(churn.root / ".treadle/store").parts[0]
    assert f'error[TR804]: the stored version "{fingerprint[:12]}" is damaged\n' in result.stderr
    assert f"\n  read by {reader}\n" in result.stderr
    assert result.stderr.endswith(
        "  fix: run `treadle verify --repair`, then the same command: what was damaged is made again\n"
    )
    assert environment(churn) == published
    # Where a feature read it, the model that stands in the registry may be wrong, and no build makes it again.
    churn.treadle("verify", "--repair", code=int(damaged == "orders"))
    churn.treadle("build", "--threads", "1")
    assert churn.json("verify")["sound"]


def environment(project: ProjectFolder) -> dict[str, Any]:
    with project.open() as workspace:
        return dict(workspace.state.environment("dev"))
