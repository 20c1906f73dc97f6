"""What a query reads, what it may not do, and what its identity depends on.

The cases stand in tests/fixtures/sql/. DuckDB itself is the judge of what is valid and of what is equal.
"""

from __future__ import annotations

import gc
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sqlglot.dialects.dialect import Dialect

from treadle import sqlwords
from treadle.errors import Problem, ProjectError
from treadle.render import Rendered, Renderer
from treadle.sql import Query, read_query

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sql"
ACCEPTED = (FIXTURES / "accepted.sql").read_text().splitlines()


def read_cases(name: str) -> list[tuple[str, str, str]]:
    """Return (name, input, expected) of a file of cases."""
    found = []
    for case in re.split(r"^### ", (FIXTURES / name).read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = case.partition("\n")
        source, _, expected = body.partition("\n\n")
        found.append((title, source, expected.strip("\n")))
    return found


def as_parameters(name: str) -> pytest.MarkDecorator:
    cases = read_cases(name)
    return pytest.mark.parametrize(("first", "second"), [case[1:] for case in cases], ids=[case[0] for case in cases])


def read(text: str, *, refs: tuple[str, ...] = ("a", "b", "c", "t", "u"), volatile: bool = True) -> Query:
    """Read a text as if it had been rendered from a file of the same text."""
    lines = tuple(range(1, text.count("\n") + 2))
    rendered = Rendered(text, "x.sql", text, refs, (1,) * len(refs), {}, lines, False)
    return read_query(rendered, path="x.sql", volatile=volatile)


def read_template(source: str, *, volatile: bool = False) -> Query:
    rendered = Renderer().render(source, path="features/x.sql", name="x")
    return read_query(rendered, path="features/x.sql", volatile=volatile)


@cache
def to_tree(text: str) -> str | None:
    """Return DuckDB's own tree of a query without positions; None when it does not parse."""
    found = json.loads(duckdb.execute("select json_serialize_sql(?)", [text]).fetchall()[0][0])
    return None if found["error"] else json.dumps(without_positions(found))


def without_positions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_positions(item) for key, item in value.items() if not key.startswith("query_location")}
    return [without_positions(item) for item in value] if isinstance(value, list) else value


# what is accepted and what is not


@pytest.mark.parametrize("text", ACCEPTED)
def test_query_that_duckdb_reads_is_accepted(text: str) -> None:
    assert duckdb.extract_statements(text)
    query = read(text, volatile=False)
    assert text.startswith(query.text)


@as_parameters("query_errors.sql")
def test_query_error_reads(first: str, second: str) -> None:
    with pytest.raises(ProjectError) as caught:
        read_template(first)
    assert str(caught.value) == second


def test_text_that_runs_is_the_users_own() -> None:
    source = "\n-- why\nSELECT  a,1.50  FROM {{ ref('t') }} -- last\n;\n-- after"
    query = read_template(source)
    assert query.text == '\n-- why\nSELECT  a,1.50  FROM "t"'
    assert query.refs == ("t",)


def test_volatile_query_may_call_what_changes_but_not_read_files() -> None:
    assert read_template("select now(), random() from {{ ref('t') }} using sample 3", volatile=True)
    with pytest.raises(ProjectError, match="TR207"):
        read_template("select now() from read_csv('x.csv')", volatile=True)


def test_error_after_non_ascii_text_has_its_column() -> None:
    with pytest.raises(ProjectError) as caught:
        read_template("select 'ÄÖ😀', now()")
    assert str(caught.value.problems[0].where) == "features/x.sql:1:15"


@pytest.mark.parametrize("opening", ["not ", "- ", "case when ", "cast(", "[", "(select ", "lambda x: ", "interval "])
def test_deep_nesting_is_an_error(opening: str) -> None:
    with pytest.raises(ProjectError) as caught:
        read("select " + opening * 5_000 + "1")
    assert caught.value.problems[0].code == "TR204"


def test_joins_that_wait_are_few_and_joins_with_conditions_many() -> None:
    assert read('from "a"' + ' join "b" using (x)' * 200)
    assert read('from "a"' + ' cross join "b"' * 200)
    with pytest.raises(ProjectError, match="wait for their ON or USING"):
        read('from "a"' + ' join "b"' * 50)


# the lists of words


def test_keywords_are_those_that_name_nothing_in_duckdb() -> None:
    rows = duckdb.sql(
        "select upper(keyword_name), list(keyword_category) from duckdb_keywords() group by all"
    ).fetchall()
    strict = {name for name, kinds in rows if set(kinds) <= {"reserved", "type_function"}}
    assert strict - {"BINARY"} == sqlwords.KEYWORDS  # BINARY is a type's name too


def test_functions_that_duckdb_calls_volatile_are_listed() -> None:
    names = duckdb.sql(
        "select distinct function_name from duckdb_functions() "
        "where stability in ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
    ).fetchall()
    assert {name for (name,) in names} - {"error"} <= sqlwords.VOLATILE_FUNCTIONS


def test_table_functions_of_duckdb_are_refused_but_for_a_few() -> None:
    rows = duckdb.sql(
        "select distinct function_name from duckdb_functions() where function_type like 'table%'"
    ).fetchall()
    for (name,) in rows:
        if name not in sqlwords.TABLE_FUNCTIONS:
            with pytest.raises(ProjectError, match=r"TR20[67]"):
                read(f"select * from {name}('x')", volatile=False)


# identity


@as_parameters("same_tokens.sql")
def test_same_query_has_the_same_tokens(first: str, second: str) -> None:
    assert read(first).tokens == read(second).tokens


@as_parameters("different_tokens.sql")
def test_different_query_has_other_tokens(first: str, second: str) -> None:
    assert digest(first) != digest(second)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 1", "38f09ae81ed56c3bbca0dd1d19e3987c6052098629459e40edefee230504a7bf"),
        (
            "SELECT a.b, 1.5::int, x->>'k', $1 -- c\nfrom t\nleft join u using (a)\ngroup by all",
            "ca672bcd99669f899e9fadd0af3ce0edb6126b85e82be3e2c6b6e044dc69e80d",
        ),
        (
            "with recursive w as (select 'It''s' as \"Q x\" union all select * from w) select count(*) over (partition by a order by b) from w where a is not null and interval '1 day' > b",
            "ae04a6b5a2e6e1ac501f8a7265de2acf497ea1dacc192e52c6c5bd81d131dc4d",
        ),
    ],
)
def test_identity_of_a_query_is_what_it_always_was(text: str, expected: str) -> None:
    assert read(text).tokens == expected


def test_looking_at_a_query_leaves_no_garbage() -> None:
    read(ACCEPTED[0])
    gc.collect()
    gc.disable()
    try:
        for text in ACCEPTED[:50]:
            read(text)
        assert gc.collect() < 50
    finally:
        gc.enable()


def digest(text: str) -> str | None:
    try:
        return read(text).tokens
    except ProjectError:
        return None


@cache
def spans(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((token.start, token.end + 1) for token in Dialect.get_or_raise("duckdb").tokenize(text))


PLAIN = [text for text in ACCEPTED if "--" not in text and "/*" not in text]
GAPS = st.sampled_from([" ", "\n", "\t", "  \n ", " -- x\n", "/* x */", " /* ' */ ", "\r\n"])


@given(st.sampled_from(PLAIN), st.data())
def test_comments_and_layout_keep_the_tokens(text: str, data: st.DataObject) -> None:
    parts = [text[: spans(text)[0][1]]]
    for (_, before), (start, end) in zip(spans(text), spans(text)[1:], strict=False):
        gap = text[before:start]
        parts.append(data.draw(GAPS) if gap or text[start] in "()," else gap)
        parts.append(text[start:end])
    assert read("".join(parts)).tokens == read(text).tokens


@given(st.sampled_from(ACCEPTED), st.data())
def test_case_of_keywords_keeps_the_tokens(text: str, data: st.DataObject) -> None:
    changed = text
    for start, end in spans(text):
        word = text[start:end]
        named = re.search(r"(\bas|\.)\s*$", text[:start], re.IGNORECASE)
        if word.upper() in sqlwords.KEYWORDS and not named and data.draw(st.booleans()):
            changed = changed[:start] + word.swapcase() + changed[end:]
    assert read(changed).tokens == read(text).tokens


@given(st.sampled_from(ACCEPTED), st.data())
def test_case_that_duckdb_keeps_changes_the_tokens(text: str, data: st.DataObject) -> None:
    start, end = data.draw(st.sampled_from(spans(text)))
    changed = text[:start] + text[start:end].swapcase() + text[end:]
    if to_tree(changed) != to_tree(text):
        assert digest(changed) != digest(text)


@given(st.sampled_from(ACCEPTED), st.data())
def test_any_other_token_changes_the_tokens(text: str, data: st.DataObject) -> None:
    start, end = data.draw(st.sampled_from(spans(text)))
    new = data.draw(st.sampled_from(["", "x", "'x'", '"x"', "1", "1.0", "+", "-", ",", "not", "x y", "(x)", "*"]))
    changed = text[:start] + new + text[end:]
    assume(changed[start : start + len(new)] != text[start:end])
    assert digest(changed) != digest(text)


@given(st.sampled_from(ACCEPTED), st.data())
def test_equal_tokens_mean_an_equal_tree_whatever_character_changes(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    removed = data.draw(st.integers(0, 2))
    added = data.draw(st.text(alphabet=" \n'\"-/*_.1aA<>=#$@~!", max_size=2))
    changed = text[:at] + added + text[at + removed :]
    tree, other = to_tree(text), to_tree(changed)
    if tree is not None and other is not None and digest(changed) == digest(text):
        assert other == tree


WORDS = [*sorted(word.lower() for word in sqlwords.KEYWORDS), "partition", "over", "interval", "recursive"]
PLACES = [
    "select {} from a",
    "select 1 {} from a",
    "select 1 as {} from a",
    "select a.{} from a",
    "select {}: 1",
    "select {{'{}': 1}}",
    "select f({} := 1)",
    "select f({} => 1)",
    "select x::struct({} int)",
    "from {}",
    "from a {}",
    "from a as t({})",
    "from range(3) {}(i)",
    "select lambda {}: 1",
    "select x.{}() from a",
    "with {} as (select 1) from b",
    "with {}(x) as (select 1) from b",
    "select * exclude ({}) from a",
    "select * rename (a as {}) from a",
    "select sum(x) over {} from a",
    "select sum(x) over ({}) from a",
    "from a join b using ({})",
    "select {} 1",
    "unpivot a on x into name {} value v",
    "select x {} y from a",
    "select count(*) {} (order by x) from a",
]


@pytest.mark.parametrize("place", PLACES)
def test_no_keyword_is_folded_where_duckdb_keeps_its_case(place: str) -> None:
    for word in WORDS:
        lower, upper = place.format(word), place.format(word.upper())
        if to_tree(lower) != to_tree(upper):
            assert digest(lower) is None or digest(lower) != digest(upper), lower


PIECES = """
select from where join on ( ) [ ] { } , ; . :: -> := ' " $$ -- /* */ a 1 'x' "t" as with recursive union case when then
end not - + * < > = interval date cast lambda x: pivot using values group by order over ä 😀
"""


@given(st.lists(st.sampled_from([*PIECES.split(), "\n"]), max_size=25))
def test_any_text_is_read_or_refused(pieces: list[str]) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        assert read(" ".join(pieces), volatile=False).text.strip()
    except ProjectError as error:
        problems = error.problems
    assert all(problem.where is not None and problem.where.line for problem in problems)
