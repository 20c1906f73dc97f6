"""Selection by state in every command: beside the environment, another one, and a manifest of another checkout."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from conftest import ProjectFolder

if TYPE_CHECKING:
    from conftest import MakeProject

MORE = {
    "treadle.yml": "name: shop\nenvironments: {production: {}}\n",
    "features/large.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where amount > 10\n",
    "features/days.sql": "select ts::date as day, count(*) as n from {{ ref('large') }} group by all\n",
    "features/users.sql": "select user, count(*) as n from {{ ref('orders') }} group by all\n",
}


@pytest.fixture
def shop(make_project: MakeProject) -> ProjectFolder:
    return make_project("features", MORE)


def listed(project: ProjectFolder, *arguments: str) -> list[str]:
    return sorted(step["id"] for step in project.json("list", *arguments))


def test_all_is_new_where_nothing_is_built(shop: ProjectFolder) -> None:
    everything = listed(shop)
    assert listed(shop, "--select", "state:new") == listed(shop, "-s", "state:modified") == everything
    shop.build()
    assert listed(shop, "--select", "state:new") == listed(shop, "-s", "state:modified+") == []
    assert listed(shop, "--select", "state:new", "--state", "production") == everything


def test_edit_is_selected_with_what_reads_it(shop: ProjectFolder) -> None:
    shop.build()
    shop.edit("features/large.sql", "amount > 10", "amount > 20")
    assert listed(shop, "--select", "state:modified") == ["large"]
    assert listed(shop, "--select", "state:modified+") == ["days", "large"]
    assert listed(shop, "--select", "state:modified.configs") == []
    assert listed(shop, "--select", "+state:modified.body,kind:source") == ["orders"]
    assert listed(shop, "--select", "users state:modified") == ["large", "users"]
    assert listed(shop, "--select", "kind:feature", "--exclude", "state:modified+") == ["spend", "users"]
    planned = shop.json("plan", "--select", "state:modified+")
    assert {step["id"]: step["action"] for step in planned} == {"large": "inline", "days": "build"}
    assert shop.build("state:modified+").of("built") == {"days"}
    assert listed(shop, "--select", "state:modified+") == []


def test_changed_data_modifies_nothing(shop: ProjectFolder) -> None:
    shop.build()
    shop.edit("data/orders.csv", "\n7,u", "\n1007,u")
    assert listed(shop, "--select", "state:modified+") == []
    assert "orders" in shop.reasons()


def test_build_of_nothing_succeeds(shop: ProjectFolder) -> None:
    shop.build()
    for command in ("build", "run", "test"):
        printed = shop.treadle(command, "--select", "state:modified+")
        assert printed.stdout.startswith("0 built, 0 reused in ")
    assert shop.treadle("plan", "--select", "state:new").stdout == "0 to build, 0 to reuse in dev\nnothing to do\n"


def test_tests_of_what_is_modified_are_run(shop: ProjectFolder) -> None:
    shop.build()
    shop.edit("features/orders.yml", "data/orders.csv", "data/orders.csv\n    csv: {header: true}")
    assert listed(shop, "--select", "state:modified") == ["orders"]
    done = shop.build("state:modified", tests="only")
    assert done.of("built") >= {"test:not_null_orders_id", "test:unique_orders_id"}


def test_another_environment(shop: ProjectFolder) -> None:
    with shop.open(environment="production") as workspace:
        workspace.build()
    shop.edit("features/users.sql", "count(*) as n", "count(*) + 1 as n")
    shop.build()
    assert listed(shop, "--select", "state:modified") == []
    assert listed(shop, "--select", "state:modified", "--state", "production") == ["users"]
    assert listed(shop, "--env", "production", "--select", "state:modified") == ["users"]


def test_manifest_of_another_checkout(shop: ProjectFolder, make_project: MakeProject) -> None:
    other = make_project("features", MORE, name="main")
    other.treadle("compile")
    shop.edit("features/users.sql", "count(*) as n", "count(*) + 1 as n")
    shop.write("features/recent.sql", "select * from {{ ref('spend') }} where n > 1\n")
    for path in ("../main/target", "../main/target/manifest.json", str(other.root / "target")):
        assert listed(shop, "--select", "state:modified+", "--state", path) == ["recent", "users"]
    assert listed(shop, "--select", "state:new", "--state", "../main/target") == ["recent"]
    tested = {"test:not_null_orders_id", "test:unique_orders_id"}  # of the source that is published with them
    built = shop.build("state:modified", state=str(other.root / "target")).of("built")
    assert built == {"orders", "spend", "recent", "users"} | tested
    shutil.copy(other.root / "target/manifest.json", shop.root / "production")
    everything = listed(shop, "--select", "state:new", "--state", "production")
    assert everything == listed(shop), "an environment goes before a file of that name"


def test_view_that_was_published_without_a_record_is_modified_once(shop: ProjectFolder) -> None:
    shop.build()
    with shop.open() as workspace, workspace.state.transaction() as con:
        con.execute("DELETE FROM inlined_identities")  # as an earlier Treadle left it
    assert listed(shop, "--select", "state:modified") == ["large"]
    assert listed(shop, "--select", "state:new") == []
    shop.build()
    assert listed(shop, "--select", "state:modified") == []


def test_as_of_is_taken_wherever_the_project_is_compiled(shop: ProjectFolder) -> None:
    shop.write("features/past.sql", "select * from {{ ref('orders') }} where ts < {{ as_of }}\n")
    for command in (["list"], ["compile"], ["plan"], ["why", "past"], ["show", "past"]):
        assert "TR202" in shop.treadle(*command, code=2).stderr
    shop.build(as_of="2024-01-10T00:00:00+00:00")
    as_of = ("--as-of", "2024-01-10")
    assert listed(shop, *as_of, "--select", "state:modified") == []
    assert listed(shop, "--as-of", "2024-01-11", "--select", "state:modified") == ["past"]
    assert "unchanged" in shop.treadle("why", "past", *as_of).stdout
    assert "2024-01-11 00:00:00'" in shop.treadle("why", "past", "--as-of", "2024-01-11").stdout
    assert shop.json("show", "past", *as_of)["rows"] == 90
    shop.treadle("compile", *as_of)
    assert "2024-01-10 00:00:00" in (shop.root / "target/manifest.json").read_text()
