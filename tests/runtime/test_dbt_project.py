"""A shop as dbt's users write one builds after two changes: where its folders stand, and what its YAML calls models."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

if TYPE_CHECKING:
    from conftest import MakeProject, ProjectFolder

SHOP = Path(__file__).parents[1] / "fixtures/dbt_shop"
PROJECT = """\
name: shop
vars: {first_day: "2024-01-01"}
defaults:
  features/staging: {+materialized: view}
  features/marts: {+materialized: table}
"""


@pytest.fixture
def shop(make_project: MakeProject) -> ProjectFolder:
    project = make_project({"treadle.yml": PROJECT}, name="shop")
    for theirs, ours in (("models", "features"), ("seeds", "data"), ("macros", "macros"), ("tests", "tests")):
        shutil.copytree(SHOP / theirs, project.root / ours)
    for file in (project.root / "features").rglob("*.yml"):
        file.write_text(re.sub("^models:", "features:", file.read_text(), flags=re.MULTILINE))
    return project


def ask(project: ProjectFolder, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(project.root / ".treadle/dev.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


def test_the_shop_builds_and_its_tests_pass(shop: ProjectFolder) -> None:
    summary = shop.treadle("build").stdout
    assert "15 built, 0 reused, 26 tests passed" in summary
    steps = {step["id"]: step for step in shop.json("list")}
    assert {name for name, step in steps.items() if step["kind"] == "source"} == {
        f"raw_{name}" for name in ("customers", "items", "locations", "orders", "payments", "products", "supplies")
    }
    assert steps["stg_orders"]["description"] == "Orders, one row each, **from the first day on**."
    assert {
        "test:orders_after_opening",
        "test:expression_is_true_stg_products",
        "test:at_least_orders_order_total",
    } <= (steps.keys())


def test_what_it_builds_is_what_its_queries_say(shop: ProjectFolder) -> None:
    shop.build()
    seeds = {name: f"read_csv('{shop.root}/data/raw_{name}.csv')" for name in ("orders", "payments", "customers")}
    with duckdb.connect() as con:
        [paid] = con.execute(f"select sum(amount) / 100 from {seeds['payments']}").fetchall()
        [counted] = con.execute(f"select count(*) from {seeds['orders']}").fetchall()
    assert ask(shop, "select sum(amount_paid) from orders") == [paid]
    assert ask(shop, "select count(*) from orders") == [counted]
    assert ask(shop, "select count(*) from customers where customer_type not in ('new', 'returning')") == [(0,)]
    [revenue] = ask(shop, "select sum(revenue) from daily_revenue")
    assert ask(shop, "select sum(order_total) from orders") == [revenue]
    assert ask(shop, "select count(distinct supply_uuid) from supplies") == [(16,)]


def test_selections_in_its_words(shop: ProjectFolder) -> None:
    def chosen(*selectors: str) -> set[str]:
        return {step["id"] for step in shop.json("list", *(word for each in selectors for word in ("-s", each)))}

    assert chosen("tag:finance") == {"stg_payments", "daily_revenue"}
    assert chosen("config.materialized:table,fqn:marts") == chosen("path:features/marts,kind:feature")
    assert chosen("resource_type:seed") >= {"raw_orders"}
    assert chosen("config.meta.team:crm") == {"customers"}
    assert chosen("test_name:at_least") == {
        "test:at_least_orders_order_total",
        "test:at_least_orders_order_total_2",
        "test:at_least_daily_revenue_revenue",
    }
    assert chosen("test_type:singular") == {"test:assert_payments_cover_orders"}
    assert "raw_supplies" in chosen("+order_items") - chosen("stg_supplies+")


def test_generic_test_finds_rows(shop: ProjectFolder) -> None:
    shop.write("data/raw_payments.csv", "id,order_id,payment_method,amount\ny1,o1,credit_card,-5\n")
    shop.edit(
        "features/staging/staging.yml",
        "name: stg_customers\n",
        "name: stg_payments\n    columns:\n"
        "      - {name: amount, data_tests: [{at_least: {least: 0}}]}\n  - name: stg_customers\n",
    )
    result = shop.treadle("build", "--select", "stg_payments", code=1)
    assert "at_least_stg_payments_amount" in result.stderr
    assert "failed: 1 row" in result.stderr
