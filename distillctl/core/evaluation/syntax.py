"""Is a predicted text valid syntax in its language? Python by ``ast``, Java by tree-sitter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distillctl.core.data.java_parser import COMMENTS, parse_as_body
from distillctl.core.errors import DataError
from distillctl.core.evaluation.lines import parse_python_line, split_lines

if TYPE_CHECKING:
    from tree_sitter import Node

# The grammar lets any expression and any declaration stand as a statement; the language does not (JLS 14.8).
_JAVA_EXPRESSION_STATEMENTS = {
    "assignment_expression",
    "method_invocation",
    "object_creation_expression",
    "switch_expression",
    "update_expression",
}
_JAVA_NOT_IN_METHODS = {"import_declaration", "module_declaration", "package_declaration"}
# What the grammar takes and JLS 3.9 and 3.10 do not: one UTF-16 unit in single quotes, no line end in double ones, a
# text block that begins on its next line, reserved words as names.
_JAVA_ESCAPE = r"\\(?:[btnfrs\"'\\]|(?>[0-3][0-7]{2}|[0-7]{1,2})|u+[0-9a-fA-F]{4})"
_JAVA_CHARACTER = re.compile(rf"'(?:[^'\\\n\r\U00010000-\U0010ffff]|{_JAVA_ESCAPE})'")
_JAVA_STRING = re.compile(rf'"""[ \t\f]*[\r\n].*|"(?!"")(?:[^"\\\n\r]|{_JAVA_ESCAPE})*+"', re.DOTALL)
_JAVA_RESERVED = re.compile(
    "abstract|assert|boolean|break|byte|case|catch|char|class|const|continue|default|do|double|else|enum|extends|false|"
    "final|finally|float|for|goto|if|implements|import|instanceof|int|interface|long|native|new|null|package|private|"
    "protected|public|return|short|static|strictfp|super|switch|synchronized|this|throws?|transient|true|try|void|"
    "volatile|while"
)
_JAVA_LOCAL_MODIFIERS = {"final", "annotation", "marker_annotation", *COMMENTS}


def valid_syntax(text: str, language: str) -> bool:
    """Whether a predicted text could stand in a test method. An empty text, or comments alone, could not.

    Python: every line by itself is a statement inside a function, in the grammar of the running Python. Java:
    the whole text (a text block spans lines) is one or more statements inside one method of one class, and
    leaves exactly that class and that method. Never raises on any text; raises DataError for another
    language.
    """
    if language == "python":
        lines = split_lines(text)
        return bool(lines) and all(parse_python_line(line) is not None for line in lines)
    if language == "java":
        return bool(text.strip()) and _valid_java(text)
    raise DataError(f"language should be python or java. Found {language!r}")


def _valid_java(text: str) -> bool:
    try:
        parsed = parse_as_body(text.encode("utf-8"))
    except UnicodeEncodeError:  # lone surrogates: no source file holds them
        return False
    if parsed is None:
        return False
    block, _ = parsed
    statements = [child for child in block.named_children if child.type not in COMMENTS]
    return bool(statements) and all(map(_is_java_statement, statements)) and all(map(_is_java_token, _inside(block)))


def _inside(node: Node) -> Iterator[Node]:
    waiting = [node]  # not recursive: a text may nest as deep as it is long
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children


def _is_java_token(node: Node) -> bool:
    """Whether a name, literal or modifier is one of the language's; of any other node, yes."""
    if node.type == "modifiers" and node.parent is not None and node.parent.type == "local_variable_declaration":
        return all(modifier.type in _JAVA_LOCAL_MODIFIERS for modifier in node.children)
    if node.type not in ("character_literal", "string_literal", "identifier", "type_identifier"):
        return True
    text = (node.text or b"").decode("utf-8")
    if node.type == "character_literal":
        return _JAVA_CHARACTER.fullmatch(text) is not None
    if node.type == "string_literal":
        return _JAVA_STRING.fullmatch(text) is not None
    # `case null, default` and `Outer.super::f`: the grammar has them as names.
    above = node.parent.type if node.parent is not None else ""
    if (text, above) in (("default", "switch_label"), ("super", "scoped_type_identifier")):
        return True
    return _JAVA_RESERVED.fullmatch(text) is None


def _is_java_statement(node: Node) -> bool:
    if node.type == "expression_statement":
        inner = [child for child in node.named_children if child.type not in COMMENTS]
        return len(inner) == 1 and inner[0].type in _JAVA_EXPRESSION_STATEMENTS
    return node.type not in _JAVA_NOT_IN_METHODS
