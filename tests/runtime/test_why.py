"""treadle why: the whole of what it says of each kind of change, and what it says where it cannot know."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from records import forget

from conftest import FEATURES, PROFILE, ProjectFolder

if TYPE_CHECKING:
    from conftest import MakeProject

SHOP = {
    **FEATURES,
    **PROFILE,
    "treadle.yml": "name: shop\nenvironments: {production: {}}\n",
    "features/large.sql": "{{ config(materialized='view') }}\nselect * from {{ ref('orders') }} where amount > {{ var('limit', 10) }}\n",
    "features/days.sql": "select ts::date as day, count(*) as n\nfrom {{ ref('large') }}\ngroup by all\n",
    "models/rows.yml": """\
datasets:
  - name: rows
    rows: orders
    key: id
    columns: [amount]
    at: ts
    label: churned
    features: [spend, profile]
""",
}
"""A source, a view, SQL on the view, Python with a helper, and a dataset on two features."""


@pytest.fixture(scope="session")
def shop_built_once(tmp_path_factory: pytest.TempPathFactory) -> ProjectFolder:
    project = ProjectFolder(tmp_path_factory.mktemp("shop").resolve() / "project")
    for path, text in SHOP.items():
        project.write(path, text)
    assert project.build().outcome.published
    return project


@pytest.fixture
def shop(shop_built_once: ProjectFolder, tmp_path: Path) -> ProjectFolder:
    """A built shop of the test's own."""
    project = ProjectFolder(tmp_path.resolve() / "shop")
    shutil.copytree(shop_built_once.root, project.root)
    return project


def why(project: ProjectFolder, *arguments: str) -> str:
    """Return what is said, with TIME and RUN for what differs from build to build."""
    text = project.treadle("why", *arguments).stdout
    text = re.sub(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    return re.sub(r"\b\d{8}T\d{6}-[0-9a-f]{4}\b", "RUN", text)


def test_nothing_changed(shop: ProjectFolder) -> None:
    assert (
        why(shop, "spend")
        == """\
spend is reused: unchanged
  built TIME by run RUN; nothing changed since
"""
    )
    shop.edit("features/spend.sql", "-- what a user spent so far", "-- what a user spent")
    assert why(shop, "spend").splitlines()[0] == "spend is reused: unchanged"
    (run,) = shop.json("runs")
    assert shop.json("why", "spend")["built"]["run"] == run["id"]


def test_sql_edit(shop: ProjectFolder) -> None:
    shop.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    assert (
        why(shop, "spend")
        == """\
spend would be built: code of features/spend.sql changed
  compared with dev: built TIME by run RUN

code of features/spend.sql changed
  @@ -1,5 +1,5 @@

   -- what a user spent so far
  -select user, ts, sum(sum(amount)) over (partition by user order by ts) as total, count(*) as n
  +select user, ts, sum(sum(amount)) over (partition by user order by ts) as total, count(*) + 1 as n
   from "orders"
   group by user, ts
next: treadle build --select spend
"""
    )


def test_variable_shows_in_the_rendered_text(shop: ProjectFolder) -> None:
    assert (
        why(shop, "large", "--vars", "{limit: 20}")
        == """\
large is part of what reads it: code of features/large.sql changed
  compared with dev: built TIME by run RUN

code of features/large.sql changed
  @@ -1,2 +1,2 @@

  -select * from "orders" where amount > 10
  +select * from "orders" where amount > 20
"""
    )


def test_python_helper_edit(shop: ProjectFolder) -> None:
    shop.edit("features/shares.py", "amount > 50", "amount > least")
    shop.edit("features/shares.py", "def large", "least = 60\n\n\ndef large")
    assert (
        why(shop, "profile")
        == """\
profile would be built: code of features/shares.py:large changed; code of features/shares.py:least is new
  compared with dev: built TIME by run RUN

code of features/shares.py:large changed
  @@ -1,2 +1,2 @@
   def large(amount):
  -    return (amount > 50).mean()
  +    return (amount > least).mean()
code of features/shares.py:least is new
  @@ -0,0 +1 @@
  +least = 60
next: treadle build --select profile
"""
    )


def test_file_with_effects_is_shown_as_a_whole(make_project: MakeProject) -> None:
    project = make_project(
        "features",
        "profile",
        {
            "features/shares.py": "import polars as pl\n\npl.Config.set_fmt_str_lengths(9)\n\n\ndef large(amount):\n    return (amount > 50).mean()\n"
        },
    )
    project.build()
    project.edit("features/shares.py", "lengths(9)", "lengths(10)")
    project.edit("features/shares.py", "50", "51")
    text = why(project, "profile")
    assert "code of features/shares.py:large changed: it is shown with its file\n" in text
    assert text.count("+") == text.count("-pl") + 2
    assert "  -pl.Config.set_fmt_str_lengths(9)\n  +pl.Config.set_fmt_str_lengths(10)\n" in text
    assert "  -    return (amount > 50).mean()\n  +    return (amount > 51).mean()\n" in text


def test_configuration_edit(shop: ProjectFolder) -> None:
    shop.edit("models/rows.yml", "[amount]", "[id, amount]")
    shop.edit("models/rows.yml", "[spend, profile]", "[{spend: {ttl: 7d}}, profile]")
    assert (
        why(shop, "rows")
        == """\
rows would be built: columns[0]: nothing -> "id"; features[0].ttl_us: null -> 604800000000
  compared with dev: built TIME by run RUN

columns[0]: nothing -> "id"
features[0].ttl_us: null -> 604800000000
next: treadle build --select rows
"""
    )


def test_source_file_appended(shop: ProjectFolder) -> None:
    size = (shop.root / "data/orders.csv").stat().st_size
    with (shop.root / "data/orders.csv").open("a") as file:
        file.write("300,u01,2024-01-31 00:00:00,5.0,0\n301,u02,2024-01-31 00:00:00,5.0,1\n")
    assert (
        why(shop, "orders")
        == f"""\
orders would be built: its data changed
  compared with dev: built TIME by run RUN

its data changed
  data/orders.csv was appended to: {size:,} -> {size + 68:,} bytes, 2 lines more
next: treadle build --select orders
"""
    )


def test_source_files_that_come_go_move_and_change(make_project: MakeProject) -> None:
    rows = {
        f"data/orders_{n}.csv": f"id,user,ts,amount,churned\n{n},u0,2024-01-0{n} 00:00:00,1.5,0\n" for n in range(1, 5)
    }
    project = make_project("features", rows)
    project.edit("features/orders.yml", "data/orders.csv", "data/orders_*.csv")
    project.build()
    (project.root / "data/orders_1.csv").unlink()
    (project.root / "data/orders_2.csv").rename(project.root / "data/orders_5.csv")
    project.edit("data/orders_3.csv", "1.5", "2.25")
    project.write("data/orders_6.csv", rows["data/orders_1.csv"].replace("\n1,", "\n6,"))
    assert (
        why(project, "spend")
        == """\
spend would be built: orders changed
  compared with dev: built TIME by run RUN

orders changed

because of orders
  its data changed
    data/orders_3.csv changed: 57 -> 58 bytes
    data/orders_2.csv was renamed to data/orders_5.csv
    data/orders_6.csv was added: 57 bytes
    data/orders_1.csv was removed: 57 bytes
next: treadle build --select spend
"""
    )


def test_input_changed_two_levels_up(shop: ProjectFolder) -> None:
    size = (shop.root / "data/orders.csv").stat().st_size
    text = (shop.root / "data/orders.csv").read_text()
    shop.write("data/orders.csv", text.replace("\n7,u", "\n1007,u"))
    shop.edit("features/large.sql", "amount >", "amount >=")
    assert (
        why(shop, "days")
        == f"""\
days would be built: large changed
  compared with dev: built TIME by run RUN

large changed

because of large
  code of features/large.sql changed
    @@ -1,2 +1,2 @@

    -select * from "orders" where amount > 10
    +select * from "orders" where amount >= 10

because of orders, through large
  its data changed
    data/orders.csv changed: {size:,} -> {size + 3:,} bytes
next: treadle build --select days
"""
    )


def test_cause_that_two_ways_lead_to_is_told_once(shop: ProjectFolder) -> None:
    shop.write("data/orders.csv", (shop.root / "data/orders.csv").read_text().replace("\n7,u", "\n1007,u"))
    found = shop.json("why", "rows")
    assert [(cause["id"], cause["way"]) for cause in found["causes"]] == [("orders", ["orders", "rows"])]
    changed = [each["component"] for each in found["differences"]]
    assert changed == ["input:orders", "input:profile", "input:spend"]


def replace_versions(project: ProjectFolder, **libraries: str) -> None:
    """Let what is published be what other versions of libraries computed: other components, other fingerprints."""
    with project.open() as workspace, workspace.state.transaction() as con:
        published = workspace.state.environment("dev")
        new = {fingerprint: f"{n:064x}" for n, fingerprint in enumerate(published.values(), start=1)}
        for table in ("versions", "inlined_identities"):
            for row in con.execute(f"SELECT fingerprint, components FROM {table}").fetchall():
                components = {name: new.get(value, value) for name, value in json.loads(row["components"]).items()}
                components |= {f"with:{n}": v for n, v in libraries.items() if f"with:{n}" in components}
                query = f"UPDATE {table} SET fingerprint = ?, components = ? WHERE fingerprint = ?"
                con.execute(query, (new[row["fingerprint"]], json.dumps(components), row["fingerprint"]))
        for before, after in new.items():
            con.execute("UPDATE environments SET fingerprint = ? WHERE fingerprint = ?", (after, before))


def test_version_of_a_library_changed(shop: ProjectFolder) -> None:
    replace_versions(shop, duckdb="1.9.9")
    assert (
        why(shop, "rows")
        == """\
rows is reused: orders changed; profile changed; spend changed; and 1 more
  compared with dev: built TIME by run RUN

duckdb 1.9.9 -> 2.0.0
orders changed
profile changed
spend changed

the same for: orders, profile, spend
"""
    )
    replace_versions(shop, polars="1.0.0")
    assert "because of profile\n  polars 1.0.0 -> " in why(shop, "rows")


def test_version_is_missing_in_the_store(shop: ProjectFolder) -> None:
    with shop.open() as workspace:
        workspace.store.remove([workspace.plan(["spend"]).identities["spend"].fingerprint])
    assert (
        why(shop, "spend")
        == """\
spend would be built: its version is missing in the store
  built TIME by run RUN; nothing changed since
next: treadle build --select spend
"""
    )


def test_new_step(shop: ProjectFolder) -> None:
    shop.write("features/recent.sql", "select * from {{ ref('spend') }} where n > 1\n")
    assert (
        why(shop, "recent")
        == """\
recent would be built: new
  dev holds none
next: treadle build --select recent
"""
    )


def test_edit_that_is_taken_back_is_reused(shop: ProjectFolder) -> None:
    shop.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    shop.build("spend")
    shop.edit("features/spend.sql", "count(*) + 1 as n", "count(*) as n")
    lines = why(shop, "spend").splitlines()
    assert lines[:3] == [
        "spend is reused: code of features/spend.sql changed",
        "  compared with dev: built TIME by run RUN",
        "  this one: built TIME by run RUN",
    ]
    found = shop.json("why", "spend")
    assert [found["built"]["run"], found["before"]["run"]] == [run["id"] for run in reversed(shop.json("runs"))]


def test_parent_is_taken_as_the_step_read_it(shop: ProjectFolder) -> None:
    """The environment has a newer parent by now, built alone."""
    shop.edit("features/large.sql", "amount > ", "amount >= ")
    shop.build("large")
    text = why(shop, "days")
    assert '    -select * from "orders" where amount > 10\n    +select * from "orders" where amount >= 10\n' in text


def test_moved_file_is_the_same_code_elsewhere(shop: ProjectFolder) -> None:
    (shop.root / "features/sums").mkdir()
    (shop.root / "features/spend.sql").rename(shop.root / "features/sums/spend.sql")
    assert why(shop, "spend").splitlines()[3:-1] == ["features/sums/spend.sql takes the place of features/spend.sql"]


def test_texts_that_were_not_kept_leave_the_file(shop: ProjectFolder) -> None:
    with shop.open() as workspace, workspace.state.transaction() as con:
        con.execute("UPDATE versions SET texts = NULL")
    shop.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    shop.write("data/orders.csv", (shop.root / "data/orders.csv").read_text().replace("\n7,u", "\n1007,u"))
    assert (
        why(shop, "spend")
        == """\
spend would be built: code of features/spend.sql changed; orders changed
  compared with dev: built TIME by run RUN

code of features/spend.sql changed: its earlier text is not known
orders changed

because of orders
  its data changed: which files it had is not known
next: treadle build --select spend
"""
    )


def test_records_that_are_lost_are_said_so(shop: ProjectFolder) -> None:
    shop.edit("features/spend.sql", "count(*) as n", "count(*) + 1 as n")
    shop.write("data/orders.csv", (shop.root / "data/orders.csv").read_text().replace("\n7,u", "\n1007,u"))
    with shop.open() as workspace:
        published = workspace.state.environment("dev")
        forget(workspace.state, [published["orders"]])
        assert "because of orders\n  its earlier identity is unknown\n" in why(shop, "spend")
        forget(workspace.state, [published["spend"]])
    assert (
        why(shop, "spend")
        == """\
spend would be built: its earlier identity is unknown
  dev holds a version of which no record is left
next: treadle build --select spend
"""
    )


# another side


def test_another_environment(shop: ProjectFolder) -> None:
    with shop.open(environment="production") as workspace:
        workspace.build(["days"])
    shop.edit("features/days.sql", "count(*)", "count(*) + 1")
    shop.build("days")
    assert why(shop, "days").splitlines()[0] == "days is reused: unchanged"
    assert (
        why(shop, "days", "--state", "production")
        == """\
days is reused: unchanged
  compared with production: built TIME by run RUN
  this one: built TIME by run RUN

code of features/days.sql changed
  @@ -1,3 +1,3 @@
  -select ts::date as day, count(*) as n
  +select ts::date as day, count(*) + 1 as n
   from "large"
   group by all
"""
    )


def test_manifest(shop: ProjectFolder) -> None:
    shop.treadle("compile")
    shop.edit("features/large.sql", "amount >", "amount >=")
    shop.edit("features/shares.py", "50", "51")
    shop.write("data/orders.csv", (shop.root / "data/orders.csv").read_text().replace("\n7,u", "\n1007,u"))
    assert (
        why(shop, "days", "--state", "target")
        == """\
days would be built: large changed
  compared with target/manifest.json, which tells nothing of data

large changed

because of large
  code of features/large.sql changed
    @@ -1,2 +1,2 @@

    -select * from "orders" where amount > 10
    +select * from "orders" where amount >= 10
next: treadle build --select days
"""
    )
    lines = why(shop, "rows", "--state", "target/manifest.json").splitlines()
    assert lines[3:-1] == [
        "profile changed",
        "",
        "because of profile",
        "  code of features/shares.py:large changed: its earlier text is not known",
    ]


# JSON and the terminal


def test_json_holds_all_of_it(shop: ProjectFolder) -> None:
    shop.edit("features/large.sql", "amount >", "amount >=")
    shop.edit("models/rows.yml", "[amount]", "[id, amount]")
    shop.edit("features/days.sql", "count(*)", "1 + count(*)")
    found = shop.json("why", "days")
    assert (found["id"], found["kind"], found["path"]) == ("days", "feature", "features/days.sql")
    assert (found["action"], found["compared_with"]) == ("build", "dev")
    assert found["built"] is None
    code, changed = found["differences"]
    assert code["what"] == "code of features/days.sql changed"
    assert code["diff"][0] == "@@ -1,3 +1,3 @@"
    assert len(code["before"]) == len(code["after"]) == 64
    assert changed["component"] == "input:large"
    (cause,) = found["causes"]
    assert (cause["id"], cause["way"]) == ("large", ["large", "days"])
    (columns,) = shop.json("why", "rows")["differences"]
    assert columns["values"] == [{"path": "columns[0]", "before": None, "after": '"id"'}]


def test_long_diffs_are_cut_and_say_so(make_project: MakeProject) -> None:
    columns = ",\n".join(f"amount + {n} as a{n}" for n in range(100))
    project = make_project("features", {"features/wide.sql": f"select\n{columns}\nfrom {{{{ ref('orders') }}}}\n"})
    project.build("wide")
    project.write("features/wide.sql", (project.root / "features/wide.sql").read_text().replace("amount +", "amount -"))
    lines = why(project, "wide").splitlines()
    assert lines[-2] == "  and 143 more lines; --json shows all"
    assert len(lines) == 4 + 60 + 2
    assert len(project.json("why", "wide")["differences"][0]["diff"]) == 203


def test_colours_are_for_terminals_alone_and_control_characters_for_none(
    shop: ProjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.edit("features/days.sql", "group by all", "group by all -- \x1b[31m")
    shop.edit("features/days.sql", "count(*)", "1 + count(*)")
    assert "\x1b" not in why(shop, "days")
    monkeypatch.setattr("click.utils.should_strip_ansi", lambda stream, color: color is False)
    coloured = why(shop, "days")
    assert "\x1b[32m+select" in coloured
    assert "\x1b[31m\n" not in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in why(shop, "days")


def test_step_is_named_by_its_id_or_its_name(shop: ProjectFolder) -> None:
    test = "test:not_null_orders_id"
    assert why(shop, test) == why(shop, "not_null_orders_id")
    assert why(shop, test).startswith(f"{test} is reused: unchanged\n")
    shop.treadle("why", "speng", code=2)
    assert "TR603" in shop.treadle("why", "*", code=2).stderr
