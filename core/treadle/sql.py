"""What a rendered SELECT reads, whether it may, and its identity.

    Rendered  ->  tokens (positions, identity)  ->  syntax tree (tables and their scopes)  ->  Query

The text that runs is always the user's own; sqlglot's tree is only looked at. Identity is taken from tokens,
each with its exact text: a tree forgets what DuckDB keeps, such as the case of a column's name.
"""

from __future__ import annotations

import re
import threading
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias, cast

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ParseError, TokenError

from treadle.errors import Location, Problem, ProjectError
from treadle.names import close_match
from treadle.program import Query
from treadle.sqltokens import Token, digest_tokens, split_tokens
from treadle.sqlwords import (
    READERS,
    STATEMENTS,
    TABLE_FUNCTIONS,
    VOLATILE_FUNCTIONS,
    VOLATILE_WORDS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlglot.tokenizer_core import Token as RawToken

    from treadle.render import Rendered

_DUCKDB = Dialect.get_or_raise("duckdb")
_STARTS = frozenset(("SELECT", "WITH", "FROM", "VALUES", "PIVOT", "UNPIVOT", "TABLE", "("))
_CHANGES = (
    exp.Insert,
    exp.Update,
    exp.Delete,
    exp.Merge,
    exp.DDL,
    exp.Into,
    exp.Drop,
    exp.Copy,
    exp.Set,
    exp.Attach,
    exp.Pragma,
    exp.Command,
)
_LOOKED_AT = (*_CHANGES, exp.Table, exp.TableSample, exp.With)
_PATH = re.compile(r"[./*:]")
_OPENING = frozenset("([{")
_CLOSING = frozenset(")]}")
_BEFORE_TABLE = frozenset(("FROM", "JOIN", ",", "(", ".", "LATERAL"))
_WATCHED = READERS | VOLATILE_FUNCTIONS | VOLATILE_WORDS | {"age"}
_WATCHED_FORMS = frozenset(form for name in _WATCHED for form in (name.upper(), f'"{name.upper()}"'))
_NO_SCOPE: frozenset[str] = frozenset()
MAX_DEPTH = 100
MAX_OPEN_JOINS = 8


class _Ready(threading.local):
    """sqlglot's tokenizer and parser, one of each a thread: to set them up takes as long as half a query."""

    def __init__(self) -> None:
        self.tokenizer, self.parser = _DUCKDB.tokenizer(), _DUCKDB.parser()


_ready = _Ready()
_Locate: TypeAlias = "Callable[[int], Location]"


def read_query(rendered: Rendered, *, path: str, volatile: bool) -> Query:
    """Check a rendered SELECT and return it with its identity.

    Args:
        rendered: the file after rendering.
        path: the file, relative to the project's root.
        volatile: whether it may call functions whose result depends on more than the data.

    Raises:
        ProjectError: with everything that is wrong with the query.
    """
    text = rendered.text
    locate = _locator(rendered, path)
    raw = _tokenize(text, locate)
    tokens = _read_statement(text, raw, locate)
    tree = _parse(text, _before(raw, tokens[-1].end), locate)
    nodes = list(tree.walk())
    # mypy takes the hash of an expression for that of its class.
    looked_at = [one for one in nodes if _is_looked_at(one.__class__)]  # type: ignore[arg-type]
    problems = [*_check_kind(tree, looked_at, tokens, locate), *_check_calls(tokens, locate, volatile=volatile)]
    problems += _check_tables(tree, looked_at, rendered.refs, text, locate)
    problems += [] if volatile else _check_samples(looked_at, tokens, locate)
    for one in nodes:
        one.parent = None  # without its cycles the tree is freed at once, and not by the garbage collector
    if problems:
        unique = {(problem.code, problem.where, problem.what): problem for problem in problems}
        raise ProjectError(sorted(unique.values(), key=lambda one: one.where or Location(path)))
    first = tokens[0].start
    text = text[:first].replace(";", " ") + text[first : tokens[-1].end]
    return Query(text=text, tokens=digest_tokens(text, tokens), refs=rendered.refs)


@cache
def _is_looked_at(kind: type) -> bool:
    return issubclass(kind, _LOOKED_AT)


def _locator(rendered: Rendered, path: str) -> _Locate:
    """Return what turns an offset in the rendered text into a place in the user's file."""

    def locate(offset: int) -> Location:
        before = rendered.text[:offset]
        found = rendered.locate(before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)
        return Location(path, found.line, found.column, found.text)

    return locate


# tokens


def _tokenize(text: str, locate: _Locate) -> list[RawToken]:
    """Return sqlglot's tokens, without semicolons before the first."""
    try:
        raw = _ready.tokenizer.tokenize(text)
    except TokenError:
        raise ProjectError(_not_closed(text, locate)) from None
    first = next((number for number, token in enumerate(raw) if text[token.start] != ";"), len(raw))
    return raw[first:]


def _read_statement(text: str, raw: Sequence[RawToken], locate: _Locate) -> list[Token]:
    """Return the tokens of the one statement of `text`, without its semicolon."""
    tokens = split_tokens(text, raw)
    if not tokens:
        fix = "write one SELECT, or delete the file"
        raise ProjectError(Problem("TR208", "the file holds no query", locate(0), fix=fix))
    if problem := _wrong_start(tokens[0], locate):
        raise ProjectError(problem)
    end = len(tokens)
    if ";" in text:
        end = next((number for number, token in enumerate(tokens) if token.text == ";"), end)
    more = [token for token in tokens[end:] if token.text != ";"]
    if more:
        where = locate(more[0].start)
        why = "a second statement starts here"
        fix = "keep one, and make files of their own of the others"
        raise ProjectError(Problem("TR208", "the file holds more than one query", where, why, fix=fix))
    del tokens[end:]
    if sum(map(text.count, "([{")) > MAX_DEPTH and _deepest(tokens) > MAX_DEPTH:
        why = f"brackets are nested more than {MAX_DEPTH} deep"
        raise ProjectError(_syntax_problem(locate(tokens[0].start), why))
    if text.upper().count("JOIN") > MAX_OPEN_JOINS and (join := _open_join(tokens)):
        why = f"{MAX_OPEN_JOINS} joins before it wait for their ON or USING"
        raise ProjectError(_syntax_problem(locate(join.start), why))
    return tokens


def _deepest(tokens: Sequence[Token]) -> int:
    return max(accumulate((one.text in _OPENING) - (one.text in _CLOSING) for one in tokens))


def _open_join(tokens: Sequence[Token]) -> Token | None:
    """Return the join that is one too many without ON or USING; sqlglot tries all ways to nest such joins."""
    open_joins = [0]
    for number, token in enumerate(tokens):
        if token.text == "(":
            open_joins.append(0)
        elif token.text == ")" and len(open_joins) > 1:
            open_joins.pop()
        elif token.upper == "JOIN" and tokens[number - 1].upper not in ("CROSS", "NATURAL", "POSITIONAL"):
            open_joins[-1] += 1
            if open_joins[-1] > MAX_OPEN_JOINS:
                return token
        elif token.upper in ("ON", "USING"):
            open_joins[-1] = max(0, open_joins[-1] - 1)
        elif token.upper in ("SELECT", "FROM", "WHERE"):
            open_joins[-1] = 0
    return None


def _wrong_start(token: Token, locate: _Locate) -> Problem | None:
    word = token.upper
    if word in _STARTS:
        return None
    if word in STATEMENTS:
        fix = "write the SELECT alone; Treadle makes the table"
        return Problem("TR208", f"{word} is no query", locate(token.start), fix=fix)
    why = f"found {token.text[:40]} where a query starts"
    return _syntax_problem(locate(token.start), why, close_match(word, _STARTS))


def _syntax_problem(where: Location, why: str, suggestion: str | None = None) -> Problem:
    return Problem("TR204", "the SQL does not parse", where, why, suggestion or "", "correct the SQL there")


def _not_closed(text: str, locate: _Locate) -> Problem:
    """Find the quote or comment that is never closed: the last opening one that no pattern consumes."""
    whole = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$"""
    opening = re.compile(rf"{whole}|(?P<open>['\"]|/\*|\$\w*\$)", re.DOTALL)
    for match in opening.finditer(text):
        if match["open"]:
            return _syntax_problem(locate(match.start()), f"{match['open']} is opened and never closed")
    return _syntax_problem(locate(0), "a quote or comment is never closed")


# the syntax tree


def _before(raw: list[RawToken], end: int) -> list[RawToken]:
    return raw if raw[-1].start < end else [one for one in raw if one.start < end]


def _parse(text: str, raw: list[RawToken], locate: _Locate) -> exp.Expr:
    try:
        found = _ready.parser.parse(raw, text)
    except ParseError as error:
        report = error.errors[0] if error.errors else {}
        spots = [one.start for one in raw if (one.line, one.col) == (report.get("line"), report.get("col"))]
        start = spots[0] if spots else 0
        why = _plain(report, ends=start == raw[-1].start)
        raise ProjectError(_syntax_problem(locate(start), why)) from None
    except RecursionError:
        raise ProjectError(_syntax_problem(locate(0), "it is nested too deeply")) from None
    except Exception as error:  # the compiled parser trips over some wrong SQL, as in `a < -> b`
        raise ProjectError(_syntax_problem(locate(0), "its form is not understood")) from error
    return cast("exp.Expr", found[0])


def _plain(report: dict[str, object], *, ends: bool) -> str:
    """Return a parser's report in plain words."""
    near = str(report.get("highlight", ""))[:40]
    what = str(report.get("description", ""))
    if match := re.match(r"Required keyword: '\w+' missing for <class '[\w.]*?(\w+)'>", what):
        what = f"something is missing in {match[1].upper()}"
    elif what.startswith("Invalid expression"):
        what = "unexpected"
    elif match := re.match(r"Expect(?:ing|ed) (.+)", what):
        what = f"expected {match[1]}"
    place = "at the end, after" if ends and what != "unexpected" else "at"
    return f"{what} {place} {near}".strip()


def _check_kind(
    tree: exp.Expr, looked_at: Sequence[exp.Expr], tokens: Sequence[Token], locate: _Locate
) -> Iterator[Problem]:
    is_change = any(isinstance(one, _CHANGES) for one in looked_at)
    if not is_change and isinstance(tree, (exp.Query, exp.Values, exp.Pivot)):
        return
    names = {"INTO", "INSERT", "UPDATE", "DELETE", "MERGE", "CREATE", "DROP", "COPY"}
    token = next((one for one in tokens if one.text.upper() in names), tokens[0])
    fix = "write the SELECT alone; Treadle makes the table"
    yield Problem("TR208", f"{token.text.upper()} is no part of a query", locate(token.start), fix=fix)


def _check_calls(tokens: Sequence[Token], locate: _Locate, *, volatile: bool) -> Iterator[Problem]:
    """Find what reads files and what depends on the moment, wherever it stands, by name."""
    if _WATCHED_FORMS.isdisjoint([token.upper for token in tokens]):
        return
    for number, token in enumerate(tokens):
        name = token.name
        if name not in _WATCHED:
            continue
        before = tokens[number - 1].upper if number else ""
        called = _is_called(tokens, number)
        if called and name in READERS:
            if name != "glob" or before in _BEFORE_TABLE:  # elsewhere it is an operator
                yield _reads(name, locate(token.start))
        elif called and not volatile:
            if name != "age" or _has_one_argument(tokens, number):  # which counts from today
                yield _depends(f"{name}()", locate(token.start))
        elif not volatile and token.is_word and name in VOLATILE_WORDS and before not in (".", "AS"):
            yield _depends(name, locate(token.start))


def _reads(name: str, where: Location) -> Problem:
    return Problem(
        "TR207",
        f"{name}() reads what Treadle cannot see",
        where,
        "a query reads sources and features only, so that a change of their data is noticed",
        fix="describe the file as a source in features/*.yml and write {{ ref('its_name') }}",
    )


def _depends(
    name: str,
    where: Location,
    fix: str = "use {{ as_of }} for the moment of the run, or say volatile='run' or 'day'",
) -> Problem:
    return Problem(
        "TR206",
        f"{name} gives another result in another run",
        where,
        "the result would be kept and taken for the same query's result later",
        fix=f"{fix} in config()" if "volatile" in fix else fix,
    )


def _is_called(tokens: Sequence[Token], number: int) -> bool:
    """Return whether `(` follows a name and makes it a call, not an alias as in `WITH now(x) AS (`."""
    if number + 1 >= len(tokens) or tokens[number + 1].text != "(" or (number and tokens[number - 1].name == "as"):
        return False
    end = _closing(tokens, number + 1)
    following = [token.text.upper() for token in tokens[end + 1 : end + 4]]
    heads = (["AS", "("], ["AS", "MATERIALIZED", "("], ["AS", "NOT", "MATERIALIZED"])
    return not any(following[: len(head)] == head for head in heads)


def _has_one_argument(tokens: Sequence[Token], number: int) -> bool:
    end, depth = _closing(tokens, number + 1), 0
    for token in tokens[number + 1 : end]:
        depth += (token.text in "([{") - (token.text in ")]}")
        if token.text == "," and depth == 1:
            return False
    return True


def _closing(tokens: Sequence[Token], opening: int) -> int:
    depth = 0
    for number in range(opening, len(tokens)):
        depth += (tokens[number].text == "(") - (tokens[number].text == ")")
        if depth == 0:
            return number
    return len(tokens)


def _check_samples(looked_at: Sequence[exp.Expr], tokens: Sequence[Token], locate: _Locate) -> Iterator[Problem]:
    if any(isinstance(one, exp.TableSample) and one.args.get("seed") is None for one in looked_at):
        words = ("SAMPLE", "TABLESAMPLE")
        token = next((one for one in tokens if one.text.upper() in words), tokens[0])
        yield _depends("a sample without a seed", locate(token.start), "add repeatable (42), a seed of your choice")


def _check_tables(
    tree: exp.Expr, looked_at: Sequence[exp.Expr], refs: Sequence[str], text: str, locate: _Locate
) -> Iterator[Problem]:
    known = {name.lower() for name in refs}
    has_scopes = any(isinstance(one, exp.With) for one in looked_at)
    plain = ((one, _NO_SCOPE) for one in looked_at if isinstance(one, exp.Table))
    for table, scope in _tables(tree) if has_scopes else plain:
        name = table.name
        if not isinstance(table.this, exp.Identifier):
            if isinstance(table.this, exp.GenerateSeries):
                continue
            called = table.this.name if isinstance(table.this, exp.Anonymous) else _function_name(table.this)
            if called.lower() not in TABLE_FUNCTIONS | READERS | VOLATILE_FUNCTIONS:
                yield _reads(called.lower(), locate(_find(text, called)))
        elif table.db or name.lower() not in known | scope:
            full, where = ".".join(part.name for part in table.parts), locate(_offset(table))
            quoted = text[_offset(table) : _offset(table) + 1]
            if quoted == "'" or (not table.db and _PATH.search(name)):
                yield _reads_path(full, where)
            else:
                yield _unknown_table(full, where, [*refs, *scope])


def _unknown_table(full: str, where: Location, near: Sequence[str]) -> Problem:
    match = close_match(full, near)
    return Problem(
        "TR205",
        f'table "{full}" is named without ref()',
        where,
        "only what ref() names is known to be built before, and rebuilt when it changes",
        match or "",
        f"write {{{{ ref('{match or full.rpartition('.')[2]}') }}}}",
    )


def _reads_path(full: str, where: Location) -> Problem:
    return Problem(
        "TR207",
        f"the file '{full}' is read in SQL",
        where,
        "a query reads sources and features only, so that a change of their data is noticed",
        fix="describe the file as a source in features/*.yml and write {{ ref('its_name') }}",
    )


def _tables(tree: exp.Expr) -> Iterator[tuple[exp.Table, frozenset[str]]]:
    """Yield every table that is named, with the common table expressions it can see, in lower case."""
    stack: list[tuple[exp.Expr, frozenset[str]]] = [(tree, frozenset())]
    while stack:
        node, scope = stack.pop()
        clause = node.args.get("with_")
        if isinstance(clause, exp.With):
            for cte in clause.expressions:
                name = cte.alias_or_name.lower()
                stack.append((cte, scope | {name} if clause.args.get("recursive") else scope))
                scope |= {name}
        if isinstance(node, exp.Table):
            yield node, scope
        stack.extend((child, scope) for child in node.iter_expressions() if child is not clause)


def _offset(table: exp.Table) -> int:
    part = table.parts[0] if table.parts else table
    start = part.meta.get("start", 0)
    return start if isinstance(start, int) else 0


def _function_name(node: exp.Expr | None) -> str:
    return node.sql_name() if isinstance(node, exp.Func) else "this function"


def _find(text: str, name: str) -> int:
    match = re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
    return match.start() if match else 0
