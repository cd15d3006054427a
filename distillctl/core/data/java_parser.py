"""The Java grammar, loaded at its first use: Python corpora never need it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

COMMENTS = frozenset({"line_comment", "block_comment"})


@lru_cache(maxsize=1)
def java_parser() -> Parser:
    """The tree-sitter parser for Java."""
    import tree_sitter
    import tree_sitter_java

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_java.language()))


_BEFORE, _AFTER = b"class A { void a() {\n", b"\n} }"  # on a line of its own: a line comment must not swallow the end


def parse_as_body(content: bytes) -> tuple[Node, int] | None:
    """The block of a method whose body is ``content``, and where in its tree that starts (bytes).

    None where it does not parse, or leaves more than that one method of one class.
    """
    source = _BEFORE + content + _AFTER
    root = java_parser().parse(source).root_node
    if root.has_error:  # ERROR and missing nodes, anywhere
        return None
    declaration = _only_child(root, "class_declaration")
    body = declaration and declaration.child_by_field_name("body")
    method = body and _only_child(body, "method_declaration")
    block = method and method.child_by_field_name("body")
    # The method's braces must be ours, or the text closed the method and opened something else.
    if not block or block.start_byte != len(_BEFORE) - 2 or block.end_byte != len(source) - 2:
        return None
    return block, len(_BEFORE)


def _only_child(node: Node, kind: str) -> Node | None:
    children = [child for child in node.named_children if child.type not in COMMENTS]
    return children[0] if len(children) == 1 and children[0].type == kind else None
