"""Reads Python test files: test functions, their assertions, and the calls that name the method under test."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from distillctl.core.data.records import MASK

TestFunction = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Assertion:
    """One assertion statement: where it stands in its test's text (in bytes), and as one logical line."""

    start: int
    end: int
    line: str


@dataclass(frozen=True, slots=True)
class FoundTest:
    """A test function as written, dedented, with its assertions in order of appearance."""

    qualified_name: str
    text: str
    assertions: tuple[Assertion, ...]
    # (byte offset, name) of each call: what the test exercises, and where.
    calls: tuple[tuple[int, str], ...]

    def masked(self, chosen: list[int]) -> str:
        """The test with the chosen assertions replaced by <extra_id_0>, <extra_id_1>, ... in order."""
        raw, parts, position = self.text.encode("utf-8"), [], 0
        for mask, index in enumerate(chosen):
            assertion = self.assertions[index]
            parts += [raw[position : assertion.start], MASK.format(mask).encode()]
            position = assertion.end
        return b"".join([*parts, raw[position:]]).decode("utf-8")


def find_tests(source: str) -> list[FoundTest]:
    """All ``test*`` functions and methods of a file that hold an assertion. A file that does not parse gives none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like, in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    lines = source.encode("utf-8").split(b"\n")
    found = (_read_test(name, node, lines) for name, node in _test_functions(tree, ""))
    return [test for test in found if test is not None and test.assertions]


def _test_functions(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, TestFunction]]:
    for child in node.body:
        if isinstance(child, TestFunction) and child.name.startswith("test"):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef):
            yield from _test_functions(child, f"{prefix}{child.name}.")


def _read_test(name: str, node: TestFunction, lines: list[bytes]) -> FoundTest | None:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    indent = lines[first - 1][: node.col_offset]
    if indent.strip():  # `if x: def test...` on one line: not worth a special form
        return None
    text, starts = _dedent(lines[first - 1 : node.end_lineno], indent)

    def offset(line: int, column: int) -> int:
        start, removed = starts[line - first]
        return start + column - removed

    assertions = []
    for statement in ast.walk(node):
        if not _is_assertion(statement):
            continue
        start = offset(statement.lineno, statement.col_offset)
        end = offset(statement.end_lineno or statement.lineno, statement.end_col_offset or 0)
        line = one_line(text[start:end].decode("utf-8"))
        if line is None:  # a multi-line string inside: it cannot be one line
            return None
        assertions.append(Assertion(start, end, line))
    assertions.sort(key=lambda assertion: assertion.start)
    calls = sorted(
        (offset(call.lineno, call.col_offset), callee)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and (callee := last_name(call.func))
    )
    return FoundTest(name, text.decode("utf-8"), tuple(assertions), tuple(calls))


def _dedent(lines: list[bytes], indent: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """Joined lines without the common indent, and per line (its byte offset, bytes removed)."""
    kept, starts, position = [], [], 0
    for line in lines:
        removed = len(indent) if line.startswith(indent) else 0
        kept.append(line[removed:].rstrip(b"\r"))
        starts.append((position, removed))
        position += len(kept[-1]) + 1
    return b"\n".join(kept), starts


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
    """A statement on one logical line with the same syntax tree, comments dropped; None where that cannot be."""
    if "\n" not in statement:
        return statement.strip()
    pieces: list[str] = []
    line_of_previous, end_column = 1, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(statement).readline):
            if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
                continue
            if token.type in (tokenize.INDENT, tokenize.DEDENT):
                continue
            if token.start[0] != line_of_previous:
                glued = pieces and pieces[-1][-1:] in "([{" or token.string in (")", "]", "}", ",", ".", ":")
                pieces.append("" if glued else " ")
            elif pieces:
                pieces.append(" " * (token.start[1] - end_column))
            pieces.append(token.string)
            line_of_previous, end_column = token.end
    except (tokenize.TokenError, SyntaxError):
        return None
    joined = _drop_hanging_comma("".join(pieces).strip())
    if "\n" in joined:
        return None
    try:
        same = ast.dump(ast.parse(joined)) == ast.dump(ast.parse(statement))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return joined if same else None


def _drop_hanging_comma(line: str) -> str:
    """``f(a, b,)`` left over from one argument a line reads ``f(a, b)``; a tuple's comma stays: the tree is checked."""
    shorter = re.sub(r",(?=\)$)", "", line)
    try:
        return shorter if ast.dump(ast.parse(shorter)) == ast.dump(ast.parse(line)) else line
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return line
