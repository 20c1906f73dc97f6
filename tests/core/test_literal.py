"""Templates of literal calls: what is read without Jinja renders as Jinja renders it, line by line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.errors import Problem, ProjectError
from treadle.literal import Call, Text, read_literal
from treadle.render import Rendered, Renderer, _Rendering

MACROS = {
    "macros/a.sql": "{% macro cents(column, digits=2) %}\nround({{ column }} * 100, {{ digits }})\n{%- endmacro %}"
    "{% macro other() %}(select 1 from {{ ref('deep') }}){% endmacro %}"
}

BLOCKS = st.sampled_from(
    [
        "{{ ref('a') }}",
        '{{ref("b")}}',
        "{{- ref('a') }}",
        "{{ ref('a') -}}",
        "{{ ref(\n'c') }}",
        "{{\n  ref('d') }}",
        "{{ source('raw', 'e') }}",
        "{{ config(entity='user', ttl='3d') }}",
        "{{ config(\n  windows=['1d', '7d'],\n  aggregates={'x': ['mean', 'max']},\n  static=true) }}",
        "{{ var('n') }}",
        "{{ var('names') }}",
        "{{ var('missing', 7) }}",
        "{{ var('missing', none) }}",
        "{{ var('missing', -1.5) }}",
        "{{ cents('a.b') }}",
        "{{ cents('a.b', digits=3) }}",
        "{{ cents('a', 4) -}}",
        "{{ other() }}",
        "{{ this }}",
        "{{- this -}}",
        "{{ env_var('TREADLE_X', 'y') }}",
        "{# a comment #}",
        "{#- a comment\nof lines -#}",
        "{# {{ ref('no') }} #}",
        "{{ 'text' }}",
        "{{ ref('a') | upper }}",
        "{{ ref('a' 'b') }}",
        "{{ cents(['a', 'b']) }}",
        "{{ cents({'a': 1}) }}",
        "{{ cents((1, 2)) }}",
        "{{ cents(True) }}",
        "{{ cents(1_000) }}",
        "{{ cents(r'a') }}",
        "{{ cents('it\\'s') }}",
        "{{ cents('}}') }}",
        "{{ cents('é') }}",
        "{{ range(3) }}",
        "{% if true %}x{% endif %}",
        "{{+ this }}",
    ]
)
TEXTS = st.text(alphabet=" \nab,{}%#'-+", max_size=8)


def render_by_jinja(renderer: Renderer, source: str) -> Rendered:
    """Render as `Renderer.render` does where a template is more than literal calls."""
    rendering = _Rendering("me")
    renderer._local.rendering = rendering
    text, line_of = renderer._run(source, "features/me.sql")
    refs = rendering.refs
    return Rendered(
        text,
        "features/me.sql",
        source,
        tuple(refs),
        tuple(refs.values()),
        rendering.config,
        line_of,
        rendering.uses_as_of,
    )


def outcome(render: Callable[[], Rendered]) -> Rendered | tuple[Problem, ...]:
    """Return what is rendered, or what is wrong."""
    try:
        return render()
    except ProjectError as error:
        return error.problems


RENDERER = Renderer(macros=MACROS, variables={"n": 3, "names": ["a", "b"]}, environ={})


@settings(max_examples=600, deadline=None)
@given(st.lists(st.one_of(BLOCKS, TEXTS), max_size=7))
def test_literal_templates_render_as_by_jinja(parts: list[str]) -> None:
    source = "".join(parts)
    assert outcome(lambda: RENDERER.render(source, path="features/me.sql", name="me")) == outcome(
        lambda: render_by_jinja(RENDERER, source)
    )


@pytest.mark.parametrize(
    "source",
    [
        "{% set x = 1 %}",
        "{{ x }",
        "{{ f(x) }}",
        "{{ f(g('a')) }}",
        "{{ f('a').b }}",
        "{{ f(*['a']) }}",
        "{{ f(**{'a': 1}) }}",
        "{{ f('a\\n') }}",
        "{{ f(1j) }}",
        "{{ f(b'a') }}",
        "{{ f('a') + 1 }}",
        "{{ f(lambda: 1) }}",
    ],
)
def test_more_than_literal_calls_is_left_to_jinja(source: str) -> None:
    assert read_literal(source) is None


def test_pieces_have_their_lines() -> None:
    source = "a\n{{ ref('b') }} c\n\n{{ config(\n x=1,\n y=[true, none]) -}}\n\n d {# e #}"
    assert read_literal(source) == [
        Text("a\n", 1),
        Call("ref", 2, ("b",)),
        Text(" c\n\n", 2),
        Call("config", 4, (), {"x": 1, "y": [True, None]}),
        Text("d ", 8),
    ]
