"""Rendering: what templates may do, what their errors say, and that none of them can hurt.

The cases stand in tests/fixtures/sql/: `### name`, the template, a blank line, what comes out.
"""

from __future__ import annotations

import json
import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.errors import ProjectError
from treadle.render import Rendered, Renderer, render

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sql"
MONEY = """{% macro cents(column) %}({{ column }} / 100){% endmacro %}
{% macro broken() %}
  {{ missing }}
{% endmacro %}
{% macro pair(a) %}
  {{ cents(a) }},
  {{ cents(a) }}
{% endmacro %}
"""
LONG_BOMBS = {
    "text in a loop": "{% for i in range(100000) %}" + "x" * 10_000 + "{% endfor %}",
    "brackets": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "ifs": "{% if 1 %}" * 3_000 + "{% endif %}" * 3_000,
    "fors": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "a long sum": "{{ 1" + "+1" * 100_000 + " }}",
    "many outputs": "{{ 1 }}" * 100_000,
    "a long number": "{{ " + "9" * 100_000 + " }}",
    "a long hexadecimal number": "{{ 0x" + "f" * 100_000 + " }}",
    "a large file": "x" * 2**21 + "{{ 1 }}",
    "nested calls": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    + "{% call f() %}" * 15
    + "x" * 1_000
    + "{% endcall %}" * 15,
    "comparisons": "{% set s = [1] * 50000 %}" + "{% if s == s[0:] %}{% endif %}" * 1_500,
}


def read_cases(name: str) -> list[tuple[str, str, str]]:
    """Return (name, template, expected) of a file of cases."""
    found = []
    for case in re.split(r"^### ", (FIXTURES / name).read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = case.partition("\n")
        source, _, expected = body.partition("\n\n")
        found.append((title, source, expected.strip("\n")))
    return found


def as_parameters(name: str) -> pytest.MarkDecorator:
    cases = read_cases(name)
    return pytest.mark.parametrize(
        ("source", "expected"), [case[1:] for case in cases], ids=[case[0] for case in cases]
    )


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(
        macros={"macros/money.sql": MONEY},
        variables={"start": "2013-01-01", "carriers": ["AA", "UA"], "limits": {"low": 1}},
        environ={"TREADLE_REGION": "east", "TREADLE_SECRET_KEY": "hush", "HOME": "/home/ann"},
    )


def to_text(renderer: Renderer, source: str) -> Rendered:
    return renderer.render(source, path="features/x.sql", name="x")


@as_parameters("rendered.sql")
def test_template_renders(renderer: Renderer, source: str, expected: str) -> None:
    assert to_text(renderer, source).text.strip("\n") == expected


@as_parameters("template_errors.sql")
def test_template_error_reads(renderer: Renderer, source: str, expected: str) -> None:
    with pytest.raises(ProjectError) as caught:
        to_text(renderer, source)
    assert str(caught.value) == expected


def test_no_error_shows_a_secret_or_the_inside_of_the_program(renderer: Renderer) -> None:
    for _, source, expected in read_cases("template_errors.sql"):
        assert "hush" not in expected
        assert not re.search(
            r"\bobject at 0x|jinja|Door|Sandbox|Renderer|positional", expected.partition("error[")[2]
        ), source


def bombs() -> list[str]:
    lines = (FIXTURES / "bombs.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("source", [*bombs(), *(pytest.param(text, id=name) for name, text in LONG_BOMBS.items())])
def test_bomb_ends_within_its_limits(source: str) -> None:
    renderer = Renderer()
    tracemalloc.start()
    try:
        with pytest.raises(ProjectError) as caught:
            renderer.render(source, path="features/bomb.sql", name="bomb")
        assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    finally:
        tracemalloc.stop()
    assert caught.value.problems[0].code == "TR203"


def test_refs_come_once_in_the_order_of_their_first_use(renderer: Renderer) -> None:
    rendered = to_text(renderer, "select *\nfrom {{ ref('b') }}\njoin {{ ref('a') }} on {{ ref('b') }}.x = 1")
    assert rendered.refs == ("b", "a")
    assert rendered.ref_lines == (2, 3)
    assert str(rendered.locate_ref("a")) == "features/x.sql:3"


def test_ref_in_a_macro_stands_where_the_macro_is_called() -> None:
    renderer = Renderer(macros={"macros/m.sql": "\n\n{% macro base() %}\n{{ ref('base') }}{% endmacro %}"})
    rendered = renderer.render("select *\nfrom {{ base() }}", path="features/x.sql", name="x")
    assert (rendered.refs, rendered.ref_lines) == (("base",), (2,))


def test_name_in_a_ref_is_quoted_whole(renderer: Renderer) -> None:
    assert to_text(renderer, """from {{ ref('a"; drop table b; --') }}""").text == 'from "a""; drop table b; --"'


def test_config_keeps_values_as_json(renderer: Renderer) -> None:
    rendered = to_text(renderer, "{{ config(a=1, b=('x', none), c={'d': [true, 1.5]}) }}{{ config(e=var('start')) }}")
    expected = {"a": 1, "b": ["x", None], "c": {"d": [True, 1.5]}, "e": "2013-01-01"}
    assert rendered.config == expected
    assert json.loads(json.dumps(rendered.config)) == expected


def test_as_of_is_a_timestamp_in_utc_and_noted() -> None:
    renderer = Renderer(
        as_of="2013-11-01T02:30:00+02:00", macros={"m.sql": "{% macro now_() %}{{ as_of }}{% endmacro %}"}
    )
    assert to_text(renderer, "select {{ as_of }}").text == "select TIMESTAMP '2013-11-01 00:30:00'"
    assert to_text(renderer, "select {{ now_() }}").uses_as_of
    assert not to_text(renderer, "select 1 {% if false %}{{ as_of }}{% endif %}").uses_as_of


def test_line_of_names_the_line_of_the_file(renderer: Renderer) -> None:
    source = """{{ config(
    entity='carrier') }}
select
  {% for carrier in var('carriers') %}
  '{{ carrier }}',
  {% endfor %}
  {{ pair('fare') }}
from {{ ref('flights') }}"""
    rendered = to_text(renderer, source)
    lines = [(at, line.strip()) for at, line in zip(rendered.line_of, rendered.text.split("\n"), strict=True)]
    assert [line for line in lines if line[1]] == [
        (3, "select"),
        (5, "'AA',"),
        (5, "'UA',"),
        (7, "(fare / 100),"),
        (7, "(fare / 100)"),
        (8, 'from "flights"'),
    ]


@given(st.lists(st.sampled_from(["plain {}", "'{{{{ 1 }}}}' {}", "{{# gone #}}{}", "{{% set x = 1 %}}{}", ""])))
def test_line_of_counts_lines_as_the_file_does(forms: list[str]) -> None:
    renderer = Renderer()
    lines = [form.format(f"mark{number}") for number, form in enumerate(forms, 1)]
    rendered = renderer.render("\n".join(lines), path="x.sql", name="x")
    for at, line in zip(rendered.line_of, rendered.text.split("\n"), strict=True):
        if mark := re.search(r"mark(\d+)", line):
            assert at == int(mark[1])


def test_line_ends_of_windows_are_line_ends(renderer: Renderer) -> None:
    assert to_text(renderer, "select 1\r\n{{ '' }}from x").text == "select 1\nfrom x"
    assert to_text(renderer, "select 1\r\nfrom x").text == "select 1\nfrom x"


def test_macros_of_two_files_call_each_other_in_any_order() -> None:
    macros = {
        "macros/a.sql": "{% macro first() %}{{ second() }}{% endmacro %}",
        "macros/b.sql": "{% macro second() %}{{ this }} {{ _own() }}{% endmacro %}{% macro _own() %}own{% endmacro %}",
    }
    assert to_text(Renderer(macros=macros), "{{ first() }}").text == '"x" own'


def test_problems_of_all_macro_files_are_told_at_once() -> None:
    macros = {
        "macros/a.sql": "{% macro f() %}{% endmacro %}",
        "macros/b.sql": "\n{% macro f() %}{% endmacro %}\n{% macro ref() %}{% endmacro %}",
        "macros/c.sql": "{% macro g( %}{% endmacro %}",
    }
    with pytest.raises(ProjectError) as caught:
        Renderer(macros=macros)
    assert str(caught.value) == (
        'error[TR102]: macro "f" is defined twice\n'
        "  macros/b.sql:2   {% macro f() %}{% endmacro %}\n"
        "  it stands in macros/a.sql too\n"
        "  fix: rename one of them\n\n"
        'error[TR102]: macro "ref" has the name of a function that Treadle offers\n'
        "  macros/b.sql:3   {% macro ref() %}{% endmacro %}\n"
        "  fix: give it another name\n\n"
        "error[TR201]: the template does not parse\n"
        "  macros/c.sql:1   {% macro g( %}{% endmacro %}\n"
        "  unexpected '}', expected ')'\n"
        "  fix: correct the {{ }}, {% %} or {# #} there"
    )


def test_one_file_leaves_nothing_for_the_next(renderer: Renderer) -> None:
    to_text(renderer, "{{ config(entity='carrier') }}{% set x = 1 %}{{ ref('a') }}")
    second = to_text(renderer, "select {{ x is defined }}")
    assert (second.text, second.refs, second.config) == ("select False", (), {})


def test_threads_share_a_renderer() -> None:
    renderer = Renderer(macros={"m.sql": "{% macro f(n) %}{{ ref('t' ~ n) }} {{ this }}{% endmacro %}"})

    def render_one(number: int) -> Rendered:
        source = "{% for i in range(50) %}{{ f(" + str(number) + ") }}\n{% endfor %}"
        return renderer.render(source, path=f"{number}.sql", name=f"x{number}")

    with ThreadPoolExecutor(4) as pool:
        for number, rendered in enumerate(pool.map(render_one, range(40))):
            assert rendered.refs == (f"t{number}",)
            assert rendered.text == f'"t{number}" "x{number}"\n' * 50


def test_render_is_a_renderer_for_one_file() -> None:
    rendered = render("{{ var('a') }}", path="x.sql", name="x", variables={"a": 1}, environ={}, macros={})
    assert rendered.text == "1"


PIECES = """
{{ }} {% %} {# #} if endif for in endfor set macro f() endmacro call endcall filter endfilter do x 'x' 1 1e9 ( ) [ ] , .
| ~ + * ** // % - is not ref('a') this as_of config(a=1) range(9) loop.index upper join string text
"""


@given(st.lists(st.sampled_from([*PIECES.split(), "\n"]), max_size=20))
def test_any_template_is_rendered_or_refused(pieces: list[str]) -> None:
    try:
        rendered = Renderer().render(" ".join(pieces), path="x.sql", name="x")
    except ProjectError:
        return
    assert len(rendered.line_of) == rendered.text.count("\n") + 1
