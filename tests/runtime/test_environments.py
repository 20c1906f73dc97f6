"""Environments: compared, promoted, rolled back and dropped, each in one step, without moving data."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest
from records import record_version

from treadle.errors import UsageError
from treadle_runtime.environments import Environments
from treadle_runtime.mapstate import Candidate
from treadle_runtime.schema import MIGRATIONS
from treadle_runtime.state import State
from treadle_runtime.store import Column, Store
from treadle_runtime.views import write_views

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

THREE = {"treadle.yml": "name: shop\nenvironments: {staging: {}, production: {}}\n"}
VIEWS = {
    "features/recent.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where id >= 200",
    "features/above.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('recent') }} where id < 250",
}


@pytest.fixture
def shop(make_project: MakeProject) -> ProjectFolder:
    """A source, a feature, a view and a view over it, built in dev."""
    project = make_project("features", THREE, VIEWS)
    project.build()
    return project


def query(project: ProjectFolder, sql: str, env: str) -> list[tuple[object, ...]]:
    """Ask the catalog, as `duckdb -readonly` does."""
    with duckdb.connect(str(project.root / f".treadle/{env}.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


def maps(project: ProjectFolder) -> dict[str, dict[str, str]]:
    with State(project.root / ".treadle/state.db") as state:
        return {env: state.environment(env) for env in ("dev", "staging", "production")}


def change_spend(project: ProjectFolder, n: int) -> None:
    """Give `spend` the n-th definition: its n begins at n."""
    path = project.root / "features/spend.sql"
    head, _, tail = path.read_text().partition("count(*)")
    path.write_text(f"{head}count(*) + {n} as n\n{tail[tail.index('from') :]}")


def spend(project: ProjectFolder, env: str) -> int:
    """Return which definition of `spend` an environment's catalog shows."""
    [(least,)] = query(project, "select min(n) - 1 from spend", env)
    assert isinstance(least, int)
    return least


# what the environments share


def test_dev_reuses_what_production_has(make_project: MakeProject) -> None:
    project = make_project("features", "profile", THREE)
    project.treadle("build", "--env", "production")
    before = project.metas()
    assert {step["action"] for step in project.json("plan", "--env", "dev")} == {"reuse"}
    done = project.json("build", "--env", "dev")
    assert {step["status"] for step in done["steps"]} == {"reused"}
    assert project.metas() == before
    assert maps(project)["dev"] == maps(project)["production"] != {}
    change_spend(project, 1)
    done = project.json("build", "--env", "dev")
    assert [s["id"] for s in done["steps"] if s["status"] == "built" and s["kind"] != "test"] == ["spend"]
    assert spend(project, "dev") == 1
    assert spend(project, "production") == 0


# list, show, diff


def test_list_names_what_is_defined_and_what_is_known(shop: ProjectFolder) -> None:
    shop.treadle("env", "promote", "dev", "production", "--yes")
    lines = shop.treadle("env", "list").stdout.splitlines()
    assert lines[0].split() == ["environment", "steps", "published", "(UTC)", "by", "note"]
    assert [line.split()[:2] for line in lines[1:]] == [["dev", "6"], ["production", "6"], ["staging", "0"]]
    assert lines[1].endswith("default")
    assert "treadle env promote dev production --yes" in lines[2]
    assert lines[3].split() == ["staging", "0", "never"]
    shop.write("treadle.yml", "name: shop\n")
    found = {each["name"]: each for each in shop.json("env", "list")}
    assert set(found) == {"dev", "production"}
    assert (found["production"]["is_defined"], found["production"]["steps"]) == (False, 6)
    assert "not in treadle.yml" in shop.treadle("env", "list").stdout


def test_show_prints_the_map_and_the_aliases(churn: ProjectFolder) -> None:
    text = churn.treadle("env", "show").stdout
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["kind", "name", "version", "rows", "built", "(UTC)"]
    with State(churn.root / ".treadle/state.db") as state:
        published = state.environment("dev")
    assert ["feature", "spend", published["spend"][:12]] in [line[:3] for line in lines]
    assert text.splitlines()[-3:] == [
        "churn: candidate is version 1",
        f"{len(published)} steps in dev",
        "next: treadle env show dev --history",
    ]
    found = churn.json("env", "show", "dev")
    assert {step["step"]: step["fingerprint"] for step in found["steps"]} == published
    assert {step["rows"] for step in found["steps"] if step["step"] == "orders"} == {300}
    assert found["aliases"] == {"churn": {"candidate": 1}}


def test_show_of_views_and_of_nothing(shop: ProjectFolder) -> None:
    line = next(line for line in shop.treadle("env", "show").stdout.splitlines() if " recent " in line)
    assert line.split()[0] == "feature"
    assert line.endswith("in place")
    assert shop.treadle("env", "show", "staging").stdout.splitlines()[-2:] == [
        "0 steps in staging",
        "next: treadle build --env staging",
    ]
    assert shop.treadle("env", "show", "staging", "--history").stdout.splitlines()[-1] == (
        "next: treadle build --env staging"
    )


def test_diff_groups_what_differs(shop: ProjectFolder) -> None:
    shop.treadle("env", "promote", "dev", "production", "--yes")
    assert shop.treadle("env", "diff", "dev", "production").stdout == "dev and production are the same\n"
    change_spend(shop, 7)
    shop.write("features/more.sql", "select user, max(amount) as most from {{ ref('orders') }} group by user")
    (shop.root / "features/above.sql").unlink()
    shop.build()
    found = shop.json("env", "diff", "dev", "production")
    now, before = maps(shop)["dev"], maps(shop)["production"]
    assert found == {
        "first": "dev",
        "second": "production",
        "only_first": {"more": now["more"]},
        "only_second": {"above": before["above"]},
        "different": {"spend": [now["spend"], before["spend"]]},
    }
    assert shop.treadle("env", "diff", "dev", "production").stdout.splitlines() == [
        "only in dev: 1",
        f"  more  {now['more'][:12]}",
        "only in production: 1",
        f"  above  {before['above'][:12]}",
        "different: 1",
        f"  spend  {now['spend'][:12]} / {before['spend'][:12]}  code of features/spend.sql changed",
        "next: treadle env promote dev production",
    ]


def test_diff_of_many_is_cut_and_complete_as_json(shop: ProjectFolder) -> None:
    for n in range(30):
        shop.write(f"features/many_{n:02}.sql", f"{{{{ config(materialized='view') }}}}\nselect {n} as n")
    shop.build(tests="without")
    lines = shop.treadle("env", "diff", "staging", "dev").stdout.splitlines()
    assert lines[0] == "only in dev: 36"
    assert lines[-1] == "  and 16 more: --json lists all"
    assert len(lines) == 22
    assert len(shop.json("env", "diff", "staging", "dev")["only_second"]) == 36


# promote


def test_promote_gives_the_map_and_the_catalog_and_builds_nothing(shop: ProjectFolder) -> None:
    before = shop.metas()
    lines = shop.treadle("env", "promote", "dev", "production", answers="y\n").stdout.splitlines()
    assert lines[0].startswith("new: above, orders, recent, spend, ")
    assert lines[1] == "Promote dev to production: 6 new? [y/N]: production: 6 new"
    assert lines[2] == "next: treadle env show production --history"
    assert shop.metas() == before
    assert maps(shop)["production"] == maps(shop)["dev"]
    for sql in ("select count(*), min(id), max(id) from above", "select count(*), sum(total) from spend"):
        assert query(shop, sql, "production") == query(shop, sql, "dev")
    [entry] = shop.json("env", "show", "production", "--history")
    assert (entry["command"], entry["run_id"], entry["restores"]) == ("treadle env promote dev production", None, None)
    assert {step: after for step, (_, after) in entry["changes"].items()} == maps(shop)["dev"]
    assert shop.json("plan", "--env", "production") == shop.json("plan", "--env", "dev")
    assert shop.leftovers() == []


def test_promote_asks_and_no_means_no(shop: ProjectFolder) -> None:
    shop.treadle("env", "promote", "dev", "production", answers="n\n")
    found = shop.json("env", "promote", "dev", "production")
    assert found["promoted"] is False
    assert {step: after for step, (_, after) in found["changes"].items()} == maps(shop)["dev"]
    assert maps(shop)["production"] == {}
    assert shop.json("env", "promote", "dev", "production", "--yes") == {**found, "promoted": True}
    text = shop.treadle("env", "promote", "dev", "production").stdout  # does not ask
    assert text.splitlines()[0] == "production has what dev has"
    assert len(shop.json("env", "show", "production", "--history")) == 1


def test_promote_gives_only_what_was_shown(shop: ProjectFolder) -> None:
    """Between the question and the answer another build publishes."""
    with shop.start("env", "promote", "dev", "production", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        shown = ""
        while not shown.endswith("? [y/N]: "):
            character = process.stdout.read(1)
            assert character, shown
            shown += character
        change_spend(shop, 1)
        shop.build()
        _, stderr = process.communicate("y\n", timeout=60)
    assert process.returncode == 1
    assert stderr == (
        'error[TR808]: what is to be promoted from "dev" to "production" is no longer what was shown\n'
        "  spend\n"
        "  fix: run the same command again, and look at what it shows now\n"
    )
    assert maps(shop)["production"] == {}
    shop.treadle("env", "promote", "dev", "production", answers="y\n")
    assert maps(shop)["production"] == maps(shop)["dev"]


def test_promote_takes_away_what_the_source_does_not_have(shop: ProjectFolder) -> None:
    shop.treadle("env", "promote", "dev", "production", "--yes")
    (shop.root / "features/above.sql").unlink()
    change_spend(shop, 3)
    shop.build()
    text = shop.treadle("env", "promote", "dev", "production", "--yes").stdout
    assert text.splitlines()[0] == "production: 1 changed, 1 gone"
    assert maps(shop)["production"] == maps(shop)["dev"]
    names = {name for (name,) in query(shop, "select view_name from duckdb_views() where not internal", "production")}
    assert names == {"orders", "recent", "spend"}
    assert spend(shop, "production") == 3


def test_promote_shows_views_as_they_were_published(shop: ProjectFolder) -> None:
    shop.edit("features/recent.sql", "200", "240")
    for _ in range(2):  # by a copy of dev's catalog, and without it
        shop.treadle("env", "promote", "dev", "production", "--yes")
        assert query(shop, "select min(id), max(id) from above", "production") == [(200, 249)]
        for env in ("dev", "production"):
            (shop.root / f".treadle/{env}.duckdb").unlink(missing_ok=True)
            (shop.root / f".treadle/{env}.catalog.json").unlink(missing_ok=True)


def test_promote_of_a_selection_takes_what_it_stands_on(shop: ProjectFolder) -> None:
    shop.treadle("env", "promote", "dev", "production", "--yes")
    before = maps(shop)["production"]
    change_spend(shop, 2)
    shop.edit("features/recent.sql", "200", "210")
    shop.write("data/orders.csv", (shop.root / "data/orders.csv").read_text().replace("\n0,", "\n1000,"))
    shop.build()
    now = maps(shop)["dev"]
    shop.treadle("env", "promote", "dev", "production", "--select", "above", "--yes")
    moved = {"above", "recent", "orders", "test:not_null_orders_id", "test:unique_orders_id"}
    assert maps(shop)["production"] == {**before, **{step: now[step] for step in moved}}
    assert spend(shop, "production") == 0
    assert query(shop, "select max(id) from orders", "production") == [(1000,)]
    assert query(shop, "select min(id) from above", "production") == [(210,)]


def test_candidate_moves_with_its_pipeline_and_the_champion_stays(churn: ProjectFolder) -> None:
    churn.write("treadle.yml", THREE["treadle.yml"])
    churn.treadle("models", "promote", "churn")
    churn.treadle("env", "promote", "dev", "production", "--select", "spend", "--yes")
    assert churn.json("env", "show", "production")["aliases"] == {}
    lines = churn.treadle("env", "promote", "dev", "production", "--yes").stdout.splitlines()
    assert lines[1:] == [
        "churn: version 1 is the candidate in production",
        "next: treadle models promote churn --env production",
    ]
    assert churn.json("env", "show", "production")["aliases"] == {"churn": {"candidate": 1}}
    assert churn.json("env", "show", "dev")["aliases"] == {"churn": {"candidate": 1, "champion": 1}}
    churn.treadle("models", "promote", "churn", "--env", "production")
    assert churn.json("env", "show", "production")["aliases"] == {"churn": {"candidate": 1, "champion": 1}}


def told(project: ProjectFolder, *arguments: str) -> str:
    """Return the error that a command ends with, in full."""
    return project.treadle(*arguments, code=2).stderr


def test_promote_refuses_what_does_not_hold(shop: ProjectFolder) -> None:
    assert told(shop, "env", "promote", "dev", "dev") == (
        'error[TR603]: "dev" cannot be promoted to itself\n'
        "  fix: name two environments, as in `treadle env promote dev production`\n"
    )
    assert told(shop, "env", "promote", "dev", "prodution") == (
        'error[TR109]: environment "prodution" is not defined\n'
        "  treadle.yml:2:1   environments: {staging: {}, production: {}}\n"
        "  did you mean: production\n"
        "  fix: add `prodution: {}` below `environments:`, or use one of dev, production, staging\n"
    )
    assert told(shop, "env", "promote", "staging", "production") == (
        'error[TR807]: environment "staging" has nothing to promote\n'
        "  nothing is published in it\n"
        "  fix: run `treadle build --env staging`\n"
    )
    shop.write("features/more.sql", "select user from {{ ref('orders') }}")
    assert told(shop, "env", "promote", "dev", "production", "--select", "more+", "--yes") == (
        'error[TR807]: environment "dev" has not published all that is selected\n'
        "  it lacks more\n"
        "  fix: run `treadle build --env dev`, or select what it has\n"
    )
    published = maps(shop)["dev"]
    with shop.open() as workspace:
        workspace.store.remove([published["spend"], published["orders"]])
    assert told(shop, "env", "promote", "dev", "production", "--yes") == (
        'error[TR807]: the map of "dev" names 2 versions that are not in the store\n'
        f"  orders ({published['orders'][:12]}), spend ({published['spend'][:12]})\n"
        "  fix: run `treadle build --env dev`\n"
    )
    assert maps(shop)["production"] == {}
    assert shop.json("env", "show", "production", "--history") == []
    shop.treadle("build", "--env", "dev")
    shop.treadle("env", "promote", "dev", "production", "--yes")
    assert maps(shop)["production"] == maps(shop)["dev"]


# rollback


def test_rollback_goes_back_and_forth(shop: ProjectFolder) -> None:
    for n in (1, 2, 3):
        change_spend(shop, n)
        shop.build()
    before, built = shop.metas(), {n: entry["id"] for n, entry in enumerate(reversed(history(shop)))}
    assert list(built) == [0, 1, 2, 3]
    assert shop.treadle("env", "rollback", "dev").stdout.splitlines() == [
        f"dev: back to publication {built[2]}: 1 changed",
        "next: treadle env show dev --history",
    ]
    assert spend(shop, "dev") == 2
    shop.treadle("env", "rollback", "dev")
    assert spend(shop, "dev") == 1
    assert shop.json("env", "rollback", "dev", "--to", str(built[3]))["restores"] == built[3]
    assert spend(shop, "dev") == 3
    shop.treadle("env", "rollback", "dev")
    assert spend(shop, "dev") == 2
    change_spend(shop, 5)
    shop.build()
    shop.treadle("env", "rollback", "dev")
    assert spend(shop, "dev") == 2
    shop.treadle("env", "rollback", "dev")
    assert spend(shop, "dev") == 1
    shop.treadle("env", "rollback", "dev")
    assert spend(shop, "dev") == 0
    assert told(shop, "env", "rollback", "dev") == (
        'error[TR603]: environment "dev" has nothing to go back to\n'
        f"  publication {built[0]} was its first\n"
        "  fix: name a publication with --to; `treadle env show dev --history` lists them\n"
    )
    entries = history(shop)
    assert entries[0]["command"] == "treadle env rollback dev"
    assert entries[0]["restores"] == built[0]
    assert f"treadle env rollback dev: back to {built[0]}" in shop.treadle("env", "show", "--history").stdout
    assert set(before) < set(shop.metas())
    assert shop.leftovers() == []


def history(project: ProjectFolder, env: str = "dev") -> list[dict[str, object]]:
    found: list[dict[str, object]] = project.json("env", "show", env, "--history", "--limit", "100")
    return found


def test_rollback_shows_views_as_they_were(shop: ProjectFolder) -> None:
    shop.edit("features/recent.sql", "200", "240")
    shop.edit("features/above.sql", "*", "id, user")
    shop.build()
    assert query(shop, "from above limit 0", "dev") == []
    shop.treadle("env", "rollback", "dev")
    assert query(shop, "select min(id), max(amount) > 0 from above", "dev") == [(200, True)]
    shop.treadle("env", "rollback", "dev", "--to", str(history(shop)[1]["id"]))
    assert query(shop, "select min(id) from above", "dev") == [(240,)]
    with pytest.raises(duckdb.BinderException):
        query(shop, "select amount from above", "dev")


def test_rollback_brings_the_candidate_back(tmp_path: Path) -> None:
    env = Folder(tmp_path)
    first = env.publish("production", {"a": "1"}, candidate="a")
    env.publish("production", {"a": "2"}, candidate="b")
    env.publish("production", {"a": "3"})
    aliases = "SELECT number FROM aliases WHERE env = 'production' AND alias = 'candidate'"
    assert env.state.read(aliases)[0][0] == 2
    assert env.environments.rollback("production").candidates == {}
    move = env.environments.rollback("production")
    assert (move.candidates, move.restores) == ({"p": 1}, first)
    assert env.state.read(aliases)[0][0] == 1
    env.environments.rollback("production", to=first + 2)
    assert env.state.read(aliases)[0][0] == 2


def test_rollback_refuses_what_does_not_hold(shop: ProjectFolder) -> None:
    assert told(shop, "env", "rollback", "staging") == (
        'error[TR603]: environment "staging" has nothing to go back to\n'
        "  nothing was published in it\n"
        "  fix: name a publication with --to; `treadle env show staging --history` lists them\n"
    )
    assert told(shop, "env", "rollback", "dev", "--to", "77") == (
        'error[TR603]: environment "dev" has no publication 77\n  fix: `treadle env show dev --history` lists them\n'
    )
    assert "error[TR109]" in told(shop, "env", "rollback", "live")
    old = maps(shop)["dev"]
    change_spend(shop, 1)
    shop.edit("features/recent.sql", "200", "201")
    shop.build()
    now = maps(shop)["dev"]
    shop.treadle("clean", "--older-than", "0s", "--keep", "0", "--yes")
    first = history(shop)[-1]["id"]
    assert told(shop, "env", "rollback", "dev") == (
        f'error[TR807]: the map of "dev" after publication {first} names 3 versions that are not in the store\n'
        f"  above ({old['above'][:12]}), recent ({old['recent'][:12]}), spend ({old['spend'][:12]})\n"
        "  fix: choose another publication with --to: `treadle env show dev --history` lists them; a build makes again"
        " only what the files still say\n"
    )
    assert maps(shop)["dev"] == now
    assert spend(shop, "dev") == 1


# drop


def test_drop_takes_the_map_the_aliases_and_the_catalog(churn: ProjectFolder) -> None:
    churn.write("treadle.yml", THREE["treadle.yml"])
    churn.treadle("env", "promote", "dev", "staging", "--yes")
    before = churn.metas()
    text = churn.treadle("env", "drop", "staging", answers="n\n").stdout
    assert text == f"Drop staging, {len(maps(churn)['dev'])} steps, with its aliases and its catalog? [y/N]: "
    assert churn.json("env", "drop", "staging")["dropped"] is False
    assert maps(churn)["staging"] == maps(churn)["dev"]
    assert churn.treadle("env", "drop", "staging", "--yes").stdout.splitlines() == [
        "staging is dropped; its versions are in the store",
        "next: treadle clean",
    ]
    assert maps(churn)["staging"] == {}
    assert churn.json("env", "show", "staging")["aliases"] == {}
    assert not list((churn.root / ".treadle").glob("staging.*"))
    assert churn.metas() == before
    assert maps(churn)["dev"] != {}
    churn.treadle("env", "rollback", "staging")
    assert maps(churn)["staging"] == maps(churn)["dev"]
    assert query(churn, "select count(*) from orders", "staging") == [(300,)]
    assert churn.json("env", "show", "staging")["aliases"] == {"churn": {"candidate": 1}}


def test_an_environment_that_left_treadle_yml_can_be_dropped(shop: ProjectFolder) -> None:
    shop.treadle("env", "promote", "dev", "staging", "--yes")
    shop.write("treadle.yml", "name: shop\n")
    assert "error[TR109]" in told(shop, "env", "promote", "staging", "dev")
    shop.treadle("env", "drop", "staging", "--yes")
    assert [each["name"] for each in shop.json("env", "list")] == ["dev"]
    assert "error[TR109]" in told(shop, "env", "drop", "never")


# maps without a project: many moves, many steps


class Folder:
    """A `.treadle` folder with versions that hold one number each."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / ".treadle", durable=False)
        self.state = State(root / ".treadle" / "state.db")
        self.environments = Environments(self.state, self.store, command="a move")
        self.run = self.state.start_run("dev", "treadle build")

    def version(self, name: str, value: str) -> str:
        """Make a version of a feature and return its fingerprint."""
        found = hashlib.sha256(f"{name} {value}".encode()).hexdigest()
        with self.store.draft(found, kind="feature") as draft:
            draft.publish([Column("x", "VARCHAR")], {})
        record_version(self.state, found, step=name, components={"code:x": value})
        return found

    def publish(self, env: str, values: dict[str, str], *, candidate: str = "", drop: tuple[str, ...] = ()) -> int:
        """Publish versions by name, and a model of the pipeline `p`; return the publication's number."""
        mapping = {name: self.version(name, value) for name, value in values.items()}
        if candidate:
            mapping["p.validate"] = self.version("p.validate", candidate)
        stages = ("choose", "twin", "shipped", "validate", "evaluate", "split", "dataset")
        models = [Candidate(pipeline="p", model="m", **dict.fromkeys(stages, candidate))] if candidate else []
        self.state.publish(env, self.run, mapping, drop=drop, candidates=models)
        return self.state.history(env, 1)[0].id


@pytest.mark.parametrize("seed", range(8))
def test_random_moves_agree_with_whole_maps_kept_aside(tmp_path: Path, seed: int) -> None:
    rng, env = random.Random(seed), Folder(tmp_path)
    present: dict[str, dict[str, str]] = {"dev": {}, "production": {}}
    kept: dict[str, list[tuple[int, dict[str, str], int]]] = {"dev": [], "production": []}

    def note(name: str, now: dict[str, str], leads_to: int | None = None) -> None:
        if now != present[name]:
            number = env.state.history(name, 1)[0].id
            kept[name].append((number, now, number if leads_to is None else leads_to))
        present[name] = now
        assert env.state.environment(name) == now

    for _ in range(60):
        name, other = rng.sample(["dev", "production"], 2)
        match rng.choice(["publish", "publish", "promote", "rollback", "rollback", "to", "drop"]):
            case "publish":
                values = {step: rng.choice("123") for step in rng.sample("abcd", rng.randrange(1, 4))}
                gone = tuple(step for step in "abcd" if step not in values and rng.random() < 0.2)
                env.state.publish(name, env.run, {s: env.version(s, v) for s, v in values.items()}, drop=gone)
                published = {step: env.version(step, value) for step, value in values.items()}
                note(name, {s: f for s, f in {**present[name], **published}.items() if s not in gone})
            case "promote" if present[name]:
                steps = rng.choice([None, ["a", "b"]])
                env.environments.promote(name, other, steps=steps)
                taken = {s: f for s, f in present[name].items() if steps is None or s in steps}
                note(other, {**(present[other] if steps else {}), **taken})
            case "drop" if rng.random() < 0.3:
                env.environments.drop(name)
                note(name, {})
            case "rollback" | "to" as kind if kept[name]:
                maps_by_number = {number: (found, leads_to) for number, found, leads_to in kept[name]}
                if kind == "to":
                    target = rng.choice(list(maps_by_number))
                    to = target
                else:
                    to, here = None, kept[name][-1][2]
                    target = max((number for number in maps_by_number if number < here), default=0)
                found, leads_to = maps_by_number.get(target, ({}, 0))
                if not found:
                    with pytest.raises(UsageError, match="nothing to go back to"):
                        env.environments.rollback(name, to=to)
                    continue
                assert env.environments.rollback(name, to=to).restores == leads_to
                note(name, found, leads_to)
    assert len(kept["dev"]) + len(kept["production"]) > 20


READER = """
import json, sys
from pathlib import Path
import duckdb
from treadle_runtime.catalog import open_catalog
from treadle_runtime.state import State

folder = Path(sys.argv[1])
seen = {"map": set(), "catalog": set()}
with State(folder / "state.db") as state:
    known = {env: state.environment(env) for env in ("dev", "production")}
    print("ready", flush=True)
    while not (folder / "stop").exists():
        found = state.environment("production")
        names = [name for name, whole in known.items() if whole == found]
        seen["map"].add(names[0] if names else f"a mixture of {len(found)}")
        with open_catalog(folder / "production.duckdb") as con:
            texts = dict(con.execute("select view_name, sql from duckdb_views() where not internal").fetchall())
        names = [e for e, whole in known.items() if set(texts) == set(whole) and all(whole[s] in texts[s] for s in whole)]
        seen["catalog"].add(names[0] if names else f"a mixture of {len(texts)}")
        if all(len(found) > 1 for found in seen.values()):
            (folder / "enough").touch()
print(json.dumps({key: sorted(found) for key, found in seen.items()}))
"""


def test_reader_sees_the_old_map_or_the_new_one(tmp_path: Path) -> None:
    n, env = 300, Folder(tmp_path)
    source = tmp_path / "one.parquet"
    duckdb.sql(f"copy (select 1 as x) to '{source}' (format parquet)")
    for name in ("production", "dev"):
        mapping = {}
        for i in range(n):
            found = hashlib.sha256(f"{name} {i}".encode()).hexdigest()
            with env.store.draft(found, kind="feature") as draft:
                (draft.folder / "part-0.parquet").write_bytes(source.read_bytes())
                draft.publish([Column("x", "INTEGER")], {})
            record_version(env.state, found, step=f"f{i}")
            mapping[f"f{i}" if i % 10 or name == "dev" else f"only_{i}"] = found
        env.state.publish(name, env.run, mapping)
        assert write_views(env.state, env.store, name) == ()
    folder = tmp_path / ".treadle"
    command = [sys.executable, "-c", READER, str(folder)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for n_moves in range(300):
        if n_moves >= 12 and (folder / "enough").exists():
            break
        env.environments.promote("dev", "production")
        assert write_views(env.state, env.store, "production", like="dev") == ()
        env.environments.rollback("production")
        assert write_views(env.state, env.store, "production") == ()
    (folder / "stop").touch()
    stdout, stderr = reader.communicate(timeout=60)
    assert reader.returncode == 0, stderr
    assert json.loads(stdout) == {"map": ["dev", "production"], "catalog": ["dev", "production"]}


# the state of an earlier Treadle


def test_maps_of_the_first_schema_are_promoted_and_rolled_back(tmp_path: Path) -> None:
    path = tmp_path / ".treadle" / "state.db"
    with State(path, migrations=MIGRATIONS[:1]) as old:
        run = "20260101T000000-ab12"
        with old.transaction() as con:
            con.execute(
                "INSERT INTO runs VALUES (1, ?, 'dev', 'treadle build', NULL, '2026-01-01', '2026-01-01', 'passed')",
                (run,),
            )
            for number, before, after in ((1, None, "1" * 64), (2, "1" * 64, "2" * 64)):
                changes = json.dumps({"seen": [before, after]})
                con.execute("INSERT INTO publications VALUES (?, 'dev', ?, 'at', ?)", (number, run, changes))
            con.execute("INSERT INTO environments VALUES ('dev', 'seen', ?)", ("2" * 64,))
    env = Folder(tmp_path)
    assert [(e.id, e.command, e.restores) for e in env.state.history("dev")] == [
        (2, "treadle build", None),
        (1, "treadle build", None),
    ]
    [entry] = env.state.entries("dev")  # a view: what has no version has a text, which only the catalog knew
    assert (entry.is_inline, entry.sql) == (True, None)
    assert env.environments.promote("dev", "production").changes == {"seen": (None, "2" * 64)}
    with pytest.raises(UsageError, match="not in the store"):
        env.environments.rollback("dev")


# runs


def test_runs_of_one_environment(shop: ProjectFolder) -> None:
    shop.treadle("build", "--env", "production")
    assert [run["env"] for run in shop.json("runs")] == ["production", "dev"]
    assert [run["env"] for run in shop.json("runs", "--env", "production")] == ["production"]
    assert shop.json("runs", "--env", "staging") == []
    assert "error[TR109]" in told(shop, "runs", "--env", "stagin")
