"""Reads Java test files: JUnit 3 to 5 and TestNG methods, their assertions, and the calls that name what they test.

An assertion is a whole statement: Java's own ``assert``, or a chain of calls that begins with one whose name begins
with ``assert``, be it JUnit's or TestNG's ``assertEquals(...)``, Hamcrest's ``assertThat(x, is(y))``, or AssertJ's and
Truth's ``assertThat(x).isEqualTo(y)``; with a lambda or a group inside it is one assertion still. What declares a
variable (``var e = assertThrows(...)``) stays, since the test goes on with it, and so does ``fail()``, which says where
a test must not come to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillctl.core.data.found_tests import Assertion, Call, FileTests, FoundTest, dedent, with_line_feeds
from distillctl.core.data.java_parser import COMMENTS, java_parser
from distillctl.core.data.records import join_java

if TYPE_CHECKING:
    from tree_sitter import Node

TEST_ANNOTATIONS = frozenset(
    {"Test", "ParameterizedTest", "RepeatedTest", "TestFactory", "TestTemplate", "Theory"}  # the last one is JUnit 4's
)
TYPES = frozenset({"class_declaration", "record_declaration", "interface_declaration", "enum_declaration"})
_BODIES = frozenset({"class_body", "interface_body", "enum_body", "enum_body_declarations", "ERROR"})
_JUNIT_3_NAME = re.compile(r"test(?![a-z])")
_JUNIT_3_PARENT = re.compile(r"Test(Case|s|Suite)?$|^(Abstract)?Test")
_METHOD = "class Wrapper { void wrapper() {\n%s\n} }"
# Their parts are no tokens: what stands between the quotes is one.
_LITERALS = frozenset({"string_literal", "character_literal"})


@dataclass(frozen=True, slots=True)
class Member:
    """A method or constructor with a body: its node, and the names of the types around it, outermost first."""

    node: Node
    owners: tuple[Node, ...]

    @property
    def name(self) -> str:
        """Its own name; a constructor's is its type's."""
        return name_of(self.node)


def read_tests(source: str) -> FileTests:
    """The test methods of a file with an assertion to mask; one with a syntax error inside is left out and counted."""
    raw = with_line_feeds(source).encode("utf-8")
    root = java_parser().parse(raw).root_node
    members = list(find_members(root))
    own = {member.name for member in members}
    tests, broken = [], 0
    for member in members:
        if not _is_test(member):
            continue
        if member.node.has_error:
            broken += 1
            continue
        found = _read_test(member, raw, own)
        if any(assertion.line for assertion in found.assertions):
            tests.append(found)
    return FileTests(tuple(tests), root.has_error, broken)


def find_members(root: Node) -> Iterator[Member]:
    """Every method and constructor with a body, of nested types too (not those inside methods), in order.

    Code that does not parse is looked into: the methods around the mistake are there all the same.
    """
    pending: list[tuple[Node, tuple[Node, ...]]] = [(root, ())]
    while pending:
        node, owners = pending.pop()
        if node.type in TYPES:
            body = node.child_by_field_name("body")
            if body is not None:
                pending.append((body, (*owners, node)))
        elif node.type in _BODIES or node is root:
            pending += [(child, owners) for child in reversed(node.named_children)]
        elif node.type in _MEMBERS and node.child_by_field_name("body") is not None:
            yield Member(node, owners)


_MEMBERS = frozenset({"method_declaration", "constructor_declaration", "compact_constructor_declaration"})


def name_of(node: Node) -> str:
    """The name that a declaration gives, or a call uses; empty where there is none."""
    return text_of(node.child_by_field_name("name"))


def text_of(node: Node | None) -> str:
    """A node's source text; empty for None."""
    return "" if node is None else (node.text or b"").decode("utf-8")


def annotation_names(node: Node) -> set[str]:
    """Simple names of a declaration's annotations."""
    modifiers = _modifiers(node)
    found = [] if modifiers is None else modifiers.named_children
    return {name_of(one).rpartition(".")[2] for one in found if one.type in ("marker_annotation", "annotation")}


def _modifiers(node: Node) -> Node | None:
    return next((child for child in node.named_children if child.type == "modifiers"), None)


def _has(node: Node, modifier: str) -> bool:
    modifiers = _modifiers(node)
    return modifiers is not None and any(child.type == modifier for child in modifiers.children)


def _is_test(member: Member) -> bool:
    node = member.node
    if node.type != "method_declaration":
        return False
    if annotation_names(node) & TEST_ANNOTATIONS:
        return True
    if _has(node, "static") or not member.owners:
        return False
    owner = member.owners[-1]
    if "Test" in annotation_names(owner):  # TestNG: every public method of the class
        return _has(node, "public") and text_of(node.child_by_field_name("type")) == "void"
    parent = text_of(owner.child_by_field_name("superclass")).partition("<")[0].split(".")[-1].removeprefix("extends ")
    parameters = node.child_by_field_name("parameters")
    return bool(
        _JUNIT_3_NAME.match(member.name)
        and _JUNIT_3_PARENT.search(parent.strip())
        and parameters is not None
        and not [child for child in parameters.named_children if child.type not in COMMENTS]
    )


def source_of(node: Node, raw: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """A declaration as written, from its annotations on, dedented; and what :func:`dedent` says of its lines.

    The comment above it (Javadoc) is left out: it repeats in words, often with its results, what the method does, and
    takes the room of its code.
    """
    return dedent(raw[node.start_byte : node.end_byte].split(b"\n"), _indent_of(node, raw))


def _indent_of(node: Node, raw: bytes) -> bytes:
    line = raw[raw.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte]
    return line[: len(line) - len(line.lstrip())]


def _read_test(member: Member, raw: bytes, own: set[str]) -> FoundTest:
    text, starts = source_of(member.node, raw)
    first = member.node.start_point

    def place(point: tuple[int, int]) -> int:
        row, column = point[0] - first[0], point[1]
        start, removed = starts[row]
        return start + column - (first[1] if row == 0 else removed)

    assertions, calls = [], []
    pending = [(member.node, False)]
    while pending:
        node, is_inside = pending.pop()
        if not is_inside and _is_assertion(node):
            start, end = place(node.start_point), place(node.end_point)
            assertions.append(Assertion(start, end, _one_line(node)))
            is_inside = True
        call = _call(node, place(node.end_point), own) if node.type in _CALLS else None
        if call is not None:
            calls.append(call)
        pending += [(child, is_inside) for child in node.named_children]
    assertions.sort(key=lambda assertion: assertion.start)
    name = ".".join([*map(name_of, member.owners), member.name])
    indent = _indent_of(member.node, raw)
    return FoundTest(name, text.decode("utf-8"), tuple(assertions), tuple(sorted(calls)), first[0] + 1, indent)


_CALLS = frozenset({"method_invocation", "object_creation_expression"})


def _call(node: Node, end: int, own: set[str]) -> Call | None:
    """A call; None for one to a method that the test's file declares itself, its helpers."""
    arguments = node.child_by_field_name("arguments")
    count = 0 if arguments is None else sum(child.type not in COMMENTS for child in arguments.named_children)
    if node.type == "object_creation_expression":
        name = text_of(node.child_by_field_name("type")).partition("<")[0].rpartition(".")[2].strip()
        return Call(end, name, count, "new")
    receiver = node.child_by_field_name("object")
    if receiver is None or receiver.type in ("this", "super"):
        return None if name_of(node) in own else Call(end, name_of(node), count)
    if receiver.type == "field_access":
        return Call(end, name_of(node), count, text_of(receiver.child_by_field_name("field")))
    return Call(end, name_of(node), count, text_of(receiver) if receiver.type == "identifier" else "?")


def _is_assertion(node: Node) -> bool:
    if node.type == "assert_statement":
        return True
    if node.type != "expression_statement":
        return False
    call = next((child for child in node.named_children if child.type not in COMMENTS), None)
    while call is not None and call.type == "method_invocation":
        receiver = call.child_by_field_name("object")
        is_plain = receiver is None or receiver.type in ("identifier", "field_access", "this", "super")
        if is_plain:
            return name_of(call).startswith("assert")
        call = receiver
    return False


def _one_line(statement: Node) -> str | None:
    """A statement on one line with the same tokens, comments dropped; None where that cannot be (a text block)."""
    text = text_of(statement)
    joined = join_java(text).strip()
    if "\n" in joined:
        return None
    if "\n" not in text:
        return joined
    again = java_parser().parse((_METHOD % joined).encode("utf-8")).root_node
    tokens = _tokens(again)[len(_BEFORE) : -len(_AFTER)]
    return joined if not again.has_error and tokens == _tokens(statement) else None


_BEFORE, _AFTER = ["class", "Wrapper", "{", "void", "wrapper", "(", ")", "{"], ["}", "}"]


def _tokens(node: Node) -> list[str]:
    """The text of each token below a node, in order, without comments."""
    found, pending = [], [node]
    while pending:
        node = pending.pop()
        if node.type in _LITERALS or not node.children:
            found += [text_of(node)] if node.type not in COMMENTS else []
        else:
            pending += reversed(node.children)
    return found
