"""The Java grammar, loaded at its first use: Python corpora never need it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Parser

COMMENTS = frozenset({"line_comment", "block_comment"})


@lru_cache(maxsize=1)
def java_parser() -> Parser:
    """The tree-sitter parser for Java."""
    import tree_sitter
    import tree_sitter_java

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_java.language()))
