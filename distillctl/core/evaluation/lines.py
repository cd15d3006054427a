"""Assertion lines: how a decoded text is cut into them, compared, and sorted into kinds.

The text contract puts every assertion on one logical line, so a text is read line by line in both directions:
predictions and golds go through the same :func:`split_lines`.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

from distillctl.core.errors import DataError

OTHER = "other"
MIXED = "mixed"

# String literals first, so that what looks like spaces or quotes inside one is never touched. The
# alternatives of each body exclude one another, which keeps the search linear; an unterminated literal
# matches as plain characters.
STRING_LITERAL = (
    r'"""(?:\\.|[^\\])*?"""|'
    r"'''(?:\\.|[^\\])*?'''|"
    r'"(?:\\.|[^"\\\n])*"|'
    r"'(?:\\.|[^'\\\n])*'"
)
_STRING_OR_SPACES = re.compile(rf"({STRING_LITERAL})|\s+", re.DOTALL)
_CALL = re.compile(r"(?:[\w$]+\s*\.\s*)*(?:<[\w$<>,.?\s]*>\s*)?(assert[\w$]*)\s*\(")
_STATEMENT = re.compile(r"assert\b\s*[^\s;]")

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "assert ==",
    ast.Is: "assert is",
    ast.IsNot: "assert is",
    ast.In: "assert in",
    ast.NotIn: "assert in",
}


def split_lines(text: str) -> list[str]:
    """The assertion lines of a text: stripped, empty ones dropped, order and repeats kept."""
    # Not splitlines(): it also splits on characters that may stand inside a string literal (U+2028, form
    # feed).
    return [line for line in map(str.strip, text.split("\n")) if line]


def normalise_whitespace(line: str) -> str:
    """Collapses each run of white space outside string literals to one space, and strips the ends.

    ``assert  a ==  'x  y'`` becomes ``assert a == 'x  y'``. Spaces are never added or removed altogether:
    ``a==b`` and ``a == b`` stay different.
    """
    return _STRING_OR_SPACES.sub(lambda match: match[1] or " ", line).strip()


def parse_python_line(line: str) -> list[ast.stmt] | None:
    """The statements of one line, read as the body of a function; None when it is not valid Python.

    More than one statement comes from ``a; b``. A line that would end the function (a carriage return
    followed by unindented code) is not valid. Never raises and never warns, whatever the text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in predicted literals are not news
            module = ast.parse(f"async def _():\n {line.strip()}\n")
    # ValueError: null bytes, lone surrogates; the last two: nesting deeper than the parser's stack
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    function = module.body[0]
    if len(module.body) != 1 or not isinstance(function, ast.AsyncFunctionDef):
        return None
    return function.body


def assertion_kind(line: str, language: str) -> str:
    """What sort of assertion a line is, or ``other`` when it is none.

    Python: ``assert ==``, ``assert is`` and ``assert in`` (also negated), ``assert compare-other`` (other
    operators and chains), ``assert not``, ``assert call``, ``assert other``; for a call, its last name when
    that starts with ``assert`` (``assertEqual``, ``assert_allclose``), or the nearest such name down a chain
    of calls (``assert_that`` of ``assert_that(x).is_true()``). Java: ``assert`` for the statement, else the
    name of the ``assert...`` method the line starts with (``assertThat``). A line that does not parse is
    judged by its first words. Raises DataError for another language.
    """
    if language == "java":
        return _kind_by_words(line.strip(), "assert")
    if language != "python":
        raise DataError(f"language should be python or java. Found {language!r}")
    statements = parse_python_line(line)
    if statements is None:
        return _kind_by_words(line.strip(), "assert other")
    return next((kind for kind in map(_statement_kind, statements) if kind != OTHER), OTHER)


def kind_of_lines(lines: Sequence[str], language: str) -> str:
    """The kind that all lines share; ``mixed`` when they differ, ``other`` when there are none."""
    kinds = {assertion_kind(line, language) for line in lines}
    return kinds.pop() if len(kinds) == 1 else MIXED if kinds else OTHER


def _kind_by_words(line: str, statement_kind: str) -> str:
    if _STATEMENT.match(line):
        return statement_kind
    call = _CALL.match(line)
    return call[1] if call and call[1] != "assert" else OTHER


def _statement_kind(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Assert):
        return _assert_kind(statement.test)
    if isinstance(statement, ast.Expr):
        return next((name for name in call_names(statement.value) if name.startswith("assert")), OTHER)
    return OTHER


def _assert_kind(test: ast.expr) -> str:
    if isinstance(test, ast.Compare):
        operator = type(test.ops[0]) if len(test.ops) == 1 else ast.cmpop
        return _COMPARISONS.get(operator, "assert compare-other")
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return "assert not"
    return "assert call" if isinstance(test, ast.Call) else "assert other"


def call_names(expression: ast.expr) -> Iterator[str]:
    """Last names of the calls of a chain, outermost first: ``c``, ``a`` for ``x.a(1).b.c()``."""
    node: ast.expr = expression
    while isinstance(node, ast.Await | ast.Call | ast.Attribute):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr
            elif isinstance(node.func, ast.Name):
                yield node.func.id
            node = node.func
        else:
            node = node.value
