"""What dbt's users write otherwise: other keys in YAML, `{% test %}`, packages of macros, seeds, docs blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from treadle.errors import ProjectError
from treadle.files import Found, find_files
from treadle.graph import compile_graph
from treadle.project import read_project
from treadle.step import Graph

Files = dict[str, str]
WriteProject = Callable[[Files], Path]

BASE: Files = {
    "treadle.yml": "name: shop\n",
    "data/orders.csv": "id,amount\n1,2\n",
    "features/big.sql": "select * from {{ ref('orders') }} where amount > 1\n",
}


def graph_of(root: Path) -> Graph:
    return compile_graph(read_project(root), environ={})


def refused(root: Path) -> str:
    with pytest.raises(ProjectError) as raised:
        graph_of(root)
    return str(raised.value)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("{data_tests: [not_null]}", "{tests: [not_null]}"),
        ("{tests: [{unique: {config: {severity: warn}}}]}", "{tests: [{unique: {severity: warn}}]}"),
        (
            "{tests: [{accepted_values: {arguments: {values: [1]}, config: {where: id > 1}}}]}",
            "{tests: [{accepted_values: {values: [1], where: id > 1}}]}",
        ),
        ("{tests: [{test_name: not_null, name: whole}]}", "{tests: [{not_null: {name: whole}}]}"),
        ("{data_type: int, config: {meta: {a: b}, tags: [t]}}", "{type: int, meta: {a: b}, tags: [t]}"),
    ],
)
def test_forms_of_columns_mean_the_same(theirs: str, ours: str, write_project: WriteProject) -> None:
    graphs = []
    for column in (theirs, ours):
        described = f"features:\n  - name: big\n    columns:\n      - {{name: id, {column[1:]}\n"
        graph = graph_of(write_project({**BASE, "features/big.yml": described}))
        graphs.append({step.id: (step.config, step.settings, step.code) for step in graph})
    assert graphs[0] == graphs[1]


def test_config_of_an_entry_and_of_a_folder(write_project: WriteProject) -> None:
    nested = "version: 2\nfeatures:\n  - name: big\n    config: {materialized: ephemeral, tags: one, meta: {a: 1}}\n"
    graph = graph_of(write_project({**BASE, "features/big.yml": nested}))
    assert (graph["big"].config["materialized"], graph["big"].tags) == ("view", ("one",))
    assert graph["big"].settings["meta"] == {"a": 1}
    plus = "name: shop\ndefaults:\n  features: {+materialized: view, +tags: [all]}\n"
    graph = graph_of(write_project({**BASE, "treadle.yml": plus}))
    assert (graph["big"].config["materialized"], graph["big"].tags) == ("view", ("all",))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"features/big.yml": "features:\n  - name: big\n    config:\n      materialised: view\n"},
            (
                'error[TR003]: "materialised" is no key here\n  features/big.yml:4:7   materialised: view\n'
                "  did you mean: materialized\n"
            ),
        ),
        (
            {"features/big.yml": "features:\n  - name: big\n    tags: [a]\n    config: {tags: [b]}\n"},
            '"tags" is given twice, in two forms; keep one of them',
        ),
        (
            {"treadle.yml": "name: shop\ndefaults:\n  features: {+materialised: view}\n"},
            'error[TR003]: "materialised" is no key here\n  treadle.yml:3:14',
        ),
        (
            {"features/big.yml": "features:\n  - name: big\n    columns: [{name: id, tests: [in_pst]}]\n"},
            (
                'error[TR104]: test "in_pst" is not defined\n  features/big.yml:3:34   columns: [{name: id, tests: [in_pst]}]\n'
                "  did you mean: in_past\n"
                "  fix: known here: accepted_range, accepted_values, in_past, not_null, relationships, unique"
            ),
        ),
        (
            {
                "features/big.yml": "features:\n  - name: big\n    columns: [{name: id, tests: [{in_past: {untl: 3}}]}]\n"
            },
            "features/big.yml:3:34",
        ),
        (
            {"features/big.yml": "features:\n  - {name: big, description: \"{{ doc('bg') }}\"}\n"},
            'error[TR104]: docs block "bg" is not defined\n  features/big.sql:1',
        ),
        (
            {"features/a.md": "{% docs big %}a{% enddocs %}\n", "features/b.md": "\n{% docs big %}b{% enddocs %}\n"},
            'error[TR102]: docs block "big" is defined twice\n  features/b.md:2\n  it stands at features/a.md:1 too\n',
        ),
        (
            {"data/more.yml": "seeds:\n  - {name: ordrs}\n"},
            'error[TR103]: seed "ordrs" is described but has no file\n  data/more.yml:2:6',
        ),
        (
            {"macros/a/m.sql": "{% macro f() %}1{% endmacro %}{% macro f() %}2{% endmacro %}"},
            'error[TR102]: macro "f" is defined twice',
        ),
        (
            {"macros/open.sql": "{% test late(model) %}select 1\n"},
            "error[TR201]: the template does not parse\n  macros/open.sql:1",
        ),
    ],
)
def test_what_is_wrong_in_them_is_told_at_its_place(files: Files, expected: str, write_project: WriteProject) -> None:
    generic = {"tests/generic/past.sql": "{% test in_past(model, column_name, until=0) %}select 1 as x{% endtest %}"}
    assert expected in refused(write_project({**BASE, **generic, **files}))


def test_own_test_is_a_query_over_the_table_and_what_it_names(write_project: WriteProject) -> None:
    own = """{% test matches(model, column_name, to, texts=[], most=none) %}
    select * from {{ model }} where {{ column_name }} not in (select {{ column_name }} from {{ to }})
    {% for text in texts %} or '{{ text }}' = '' {% endfor %} {% if most is not none %} or id > {{ most }} {% endif %}
    {% endtest %}"""
    described = """features:
  - name: big
    columns:
      - name: id
        tests: [{matches: {to: orders, texts: ["it's"], most: 3, where: amount > 2, tags: [slow]}}]
"""
    files = {**BASE, "macros/tests.sql": own.replace("{{ to }}", "{{ ref(to) }}"), "features/big.yml": described}
    files["features/big.yml"] = described.replace("it's", "its")
    step = graph_of(write_project(files))["test:matches_big_id"]
    assert step.inputs == ("big", "orders")
    assert step.tags == ("slow",)
    assert step.query is not None
    assert '(select * from "big" where amount > 2)' in step.query.text
    assert "or id > 3" in step.query.text
    other = files | {"macros/tests.sql": files["macros/tests.sql"].replace("or id >", "or id >=")}
    assert graph_of(write_project(other))["test:matches_big_id"].code != step.code


def test_macros_of_a_package(write_project: WriteProject) -> None:
    macros = {
        "macros/money/m.sql": "{% macro cents(c) %}{{ c }} * 100{% endmacro %}{% macro only() %}{{ cents('2') }}{% endmacro %}",
        "macros/old/m.sql": "{% macro cents(c) %}{{ c }} * 10{% endmacro %}",
        "features/big.sql": "select {{ money.cents('1') }} as a, {{ old.cents('1') }} as b, {{ m.cents('1') }} as c",
    }
    own = {"macros/m/m.sql": "{% macro cents(c) %}{{ c }}{% endmacro %}"}
    text = graph_of(write_project({**BASE, **macros, **own}))["big"].query
    assert text is not None
    assert text.text == "select 1 * 100 as a, 1 * 10 as b, 1 as c"
    plain = {"features/big.sql": "select {{ cents('1') }} as a"}
    assert "cents" in refused(write_project({**BASE, **macros, **plain}))
    root = {"macros/m.sql": "{% macro cents(c) %}{{ c }} * 1000{% endmacro %}"}
    found = graph_of(write_project({**BASE, **macros, **plain, **root}))["big"].query
    assert found is not None
    assert found.text == "select 1 * 1000 as a"


def test_seeds_are_tables_where_a_text_names_them_and_nothing_else_has_their_name(write_project: WriteProject) -> None:
    files = {
        **BASE,
        "data/unused.csv": "id\n1\n",
        "data/raw.csv": "id\n1\n",
        "data/seeds/deep.csv": "id\n1\n",
        "data/images/not_walked.csv": "id\n1\n",
        "data/big.csv": "id\n1\n",
        "features/two.sql": "select * from {{ ref('deep') }} join {{ ref('given') }} using (id) join {{ ref('big') }} using (id)",
        "features/raw.yml": "sources: [{name: given, path: data/raw.csv}] # raw, not_walked\n",
        "data/data.yml": "- this is data\n",
        "data/seeds.yml": "seeds:\n  - {name: orders, config: {column_types: {amount: double}}, columns: [{name: id, tests: [unique]}]}\n",
    }
    graph = graph_of(write_project(files))
    sources = {step.name: step for step in graph if step.kind == "source"}
    assert {name: step.settings["paths"] for name, step in sources.items()} == {
        "orders": ["data/orders.csv"],
        "deep": ["data/seeds/deep.csv"],
        "given": ["data/raw.csv"],
    }
    assert sources["orders"].config["columns"] == {"amount": "double"}
    assert "test:unique_orders_id" in graph.steps
    assert graph["big"].kind == "feature"


@pytest.mark.parametrize("content", [b"\xff\xfe no text", b"a: " + b"x" * (5 << 20), b"a: [unclosed"])
def test_yaml_in_data_that_describes_no_seeds_is_data(content: bytes, write_project: WriteProject) -> None:
    root = write_project(BASE)
    (root / "data/raw.yml").write_bytes(content)
    project = read_project(root)
    assert project.problems == ()
    assert Found({path: stamp for path, (stamp, _) in project.files.items()}, ()).signature == (
        find_files(root, [root]).signature
    ), "the cache knows it again"


def test_seeds_whose_description_cannot_be_read_are_no_further_problem(write_project: WriteProject) -> None:
    files = {
        "data/orders.csv": "",
        "data/seeds.yml": "seeds: [\n",
        "features/big.sql": "select * from {{ ref('other') }}",
    }
    root = write_project({**BASE, **files})
    (root / "data/orders.csv").unlink()
    assert "TR104" not in (text := refused(root)), text
    assert "error[TR002]" in text
