"""Reads Python test files: test functions, their assertions, and the calls that name what they test."""

from __future__ import annotations

import ast
import io
import textwrap
import tokenize
import warnings
from collections.abc import Iterator, Sequence

from distillctl.core.data.found_tests import Assertion, Call, FileTests, FoundTest, dedent, with_line_feeds

TestFunction = ast.FunctionDef | ast.AsyncFunctionDef

_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_CLOSING = (")", "]", "}")


def read_tests(source: str) -> FileTests:
    """``test*`` functions and methods with an assertion to mask; none where the file does not parse."""
    source = with_line_feeds(source)
    tree = _parse(source)
    if tree is None:
        return FileTests(broken=True)
    lines = source.encode("utf-8").split(b"\n")
    found = (_read_test(name, node, lines) for name, node in _test_functions(tree, ""))
    return FileTests(tuple(test for test in found if any(assertion.line for assertion in test.assertions)))


def _parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like, in other people's code
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def is_python(code: str) -> bool:
    """Whether it parses, indented as a whole or not."""
    return _parse(textwrap.dedent(code)) is not None


def _test_functions(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, TestFunction]]:
    for child in node.body:
        if isinstance(child, TestFunction) and child.name.startswith("test"):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _test_functions(child, f"{prefix}{child.name}.")


def _read_test(name: str, node: TestFunction, lines: list[bytes]) -> FoundTest:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    while node.decorator_list and not lines[first - 1].lstrip().startswith(b"@"):
        first -= 1  # `@(` on a line of its own: the decorator's expression starts below
    indent = lines[first - 1][: len(lines[first - 1]) - len(lines[first - 1].lstrip())]
    text, starts = dedent(lines[first - 1 : node.end_lineno], indent)

    def span(part: ast.stmt | ast.expr) -> tuple[int, int]:
        start, start_removed = starts[part.lineno - first]
        end, end_removed = starts[(part.end_lineno or part.lineno) - first]
        return start + part.col_offset - start_removed, end + (part.end_col_offset or 0) - end_removed

    assertions, calls = [], []
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and (callee := last_name(part.func)):
            calls.append(Call(span(part)[1], callee))
        elif isinstance(part, ast.stmt) and _is_assertion(part):
            start, end = span(part)
            assertions.append(Assertion(start, end, one_line(text[start:end].decode("utf-8"))))
    assertions.sort(key=lambda assertion: assertion.start)
    return FoundTest(name, text.decode("utf-8"), tuple(assertions), tuple(sorted(calls)), first, indent)


def _is_assertion(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return last_name(node.value.func).startswith("assert")
    return False


def last_name(node: ast.expr) -> str:
    """``c`` of ``a.b.c`` or ``c``; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def one_line(statement: str) -> str | None:
    """A statement on one logical line with the same syntax tree, comments dropped; None where that cannot be.

    A text that is one line already comes back stripped, whatever it is.
    """
    if "\n" not in statement:
        return statement.strip()
    try:
        pieces, hanging = _pieces_on_one_line(statement)
    except (tokenize.TokenError, SyntaxError, ValueError):
        return None
    if any("\n" in piece for piece in pieces) or (wanted := _dump(statement)) is None:
        return None
    joined = "".join(_without(hanging, pieces, wanted)).strip()
    return joined if _dump(joined) == wanted else None


def _without(hanging: Sequence[int], pieces: list[str], wanted: str) -> list[str]:
    """``pieces`` without the commas left over from one argument a line, where the tree stays the same (a tuple's may
    not): all at once, or else half by half.
    """
    dropped = set(hanging)
    shorter = ["" if place in dropped else piece for place, piece in enumerate(pieces)]
    if not dropped or _dump("".join(shorter)) == wanted:
        return shorter
    if len(hanging) == 1:
        return pieces
    middle = len(hanging) // 2
    return _without(hanging[middle:], _without(hanging[:middle], pieces, wanted), wanted)


def _pieces_on_one_line(statement: str) -> tuple[list[str], list[int]]:
    """The text of each token and of each gap between them; and the places of hanging commas.

    A gap that holds a line end becomes one space, or nothing at a bracket; other text is copied from the
    source, not from the tokens, which do not repeat all of an f-string.
    """
    lines = statement.split("\n")
    pieces: list[str] = []
    hanging: list[int] = []
    row, column = 1, 0
    for token in tokenize.generate_tokens(io.StringIO(statement).readline):
        if token.type in _LAYOUT or not token.string:
            continue
        (start_row, start_column), (end_row, end_column) = token.start, token.end
        if start_row == row:
            pieces.append(lines[row - 1][column:start_column])
        elif token.string in _CLOSING:
            hanging += [len(pieces) - 1] if pieces[-1:] == [","] else []
        elif pieces and pieces[-1] not in ("(", "[", "{") and token.string not in (",", ".", ":"):
            pieces.append(" ")
        pieces.append(lines[start_row - 1][start_column:end_column] if start_row == end_row else token.string)
        row, column = end_row, end_column
    return pieces, hanging


def _dump(code: str) -> str | None:
    tree = _parse(code)
    try:
        return None if tree is None else ast.dump(tree)
    except (RecursionError, ValueError):  # of an integer that has too many digits to be written out
        return None
