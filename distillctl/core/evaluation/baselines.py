"""Trivial answers that a model has to beat: the most frequent assertion and the test's previous one."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from distillctl.core.data.java_parser import java_parser
from distillctl.core.data.python_tests import one_line
from distillctl.core.data.records import join_java
from distillctl.core.errors import DataError
from distillctl.core.evaluation.lines import OTHER, assertion_kind, call_names

if TYPE_CHECKING:
    from tree_sitter import Node

_MASK = re.compile(r"<extra_id_(\d+)>")
_PLACEHOLDER = re.compile(r"_distillctl_mask_\d+_")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")

Position = tuple[int, int]  # (line from 1, column from 0 in UTF-8 bytes), as ``ast`` counts


def most_frequent(targets: Iterable[Sequence[str]]) -> str:
    """The answer given most often in a training split; an answer is a record's assertions joined by newlines.

    Of equally frequent ones the alphabetically first, so the order of records does not matter. Raises
    DataError when there is no target.
    """
    counts = Counter("\n".join(target) for target in targets)
    if not counts:
        raise DataError("no target to count: the training split is empty")
    return min(counts, key=lambda text: (-counts[text], text))


def previous_assertion(test_method_masked: str, language: str) -> str:
    """For each mask the last visible assertion before it, one a line; empty where a test shows none.

    Assertions are ``assert`` statements and calls named ``assert...``, in order of their text, on one logical
    line as in the targets. Python is read by ``ast``, Java by tree-sitter (which goes on past errors). Text
    that ``ast`` refuses is read line by line, which finds assertions of one line only. With all assertions
    masked there is nothing to repeat. Raises DataError for another language.
    """
    if language not in ("python", "java"):
        raise DataError(f"language should be python or java. Found {language!r}")
    masks = list(_MASK.finditer(test_method_masked))
    if not masks or "assert" not in test_method_masked[: masks[-1].start()]:
        return ""  # most tests without an earlier assertion end here, unparsed
    read = _previous_java if language == "java" else _previous_python
    return "\n".join(line for line in read(test_method_masked) if line)


def _previous_python(text: str) -> list[str]:
    code = textwrap.dedent(text.replace("\r\n", "\n").replace("\r", "\n"))
    code = _MASK.sub(r"_distillctl_mask_\1_", code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [_previous_by_line(text[: mask.start()], "python") for mask in _MASK.finditer(text)]
    assertions = sorted(
        (statement for statement in _statements(tree) if _is_assertion(statement)), key=_end, reverse=True
    )
    found = []
    for mask in _PLACEHOLDER.finditer(code):
        place = _position(code, mask.start())
        earlier = (one_line(_source(code, node)) for node in assertions if _end(node) <= place)
        found.append(next((line for line in earlier if line), ""))
    return found


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Every statement at any depth. Expressions are not entered: several times as fast as ast.walk."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.stmt):
            yield node
        for name in _BLOCKS:
            pending += getattr(node, name, ())


def _is_assertion(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Assert):
        return True
    return isinstance(statement, ast.Expr) and any(name.startswith("assert") for name in call_names(statement.value))


def _end(node: ast.stmt) -> Position:
    return node.end_lineno or node.lineno, node.end_col_offset or 0


def _position(code: str, index: int) -> Position:
    start_of_line = code.rfind("\n", 0, index) + 1
    return code.count("\n", 0, index) + 1, len(code[start_of_line:index].encode("utf-8", "surrogatepass"))


def _source(code: str, node: ast.stmt) -> str:
    return ast.get_source_segment(code, node) or ""


def _previous_by_line(before: str, language: str) -> str:
    lines = reversed(before.split("\n"))
    return next((line.strip() for line in lines if assertion_kind(line, language) != OTHER), "")


def _previous_java(text: str) -> list[str]:
    # A call stands wherever a statement or an expression does; a second semicolon is an empty statement.
    code = "class Wrapper {\n" + _MASK.sub(r"_distillctl_mask_\1_();", text) + "\n}"
    source = code.encode("utf-8", "replace")
    assertions = sorted(_java_assertions(java_parser().parse(source).root_node), reverse=True)
    found = []
    for mask in _PLACEHOLDER.finditer(code):
        place = len(code[: mask.start()].encode("utf-8", "replace"))
        earlier = (_java_line(source[start:end]) for end, start in assertions if end <= place)
        found.append(next((line for line in earlier if "\n" not in line), ""))
    return found


def _java_assertions(root: Node) -> Iterator[tuple[int, int]]:
    """(end, start) in bytes of each assertion statement."""
    pending = [root]
    while pending:
        node = pending.pop()
        pending += node.named_children
        if node.type in ("assert_statement", "expression_statement"):
            text = (node.text or b"").decode("utf-8", "replace")
            if assertion_kind(text, "java") != OTHER:
                yield node.end_byte, node.start_byte


def _java_line(statement: bytes) -> str:
    """One logical line, joined as golds are; only a text block keeps its line breaks."""
    return join_java(statement.decode("utf-8", "replace").replace("\r\n", "\n")).strip()
