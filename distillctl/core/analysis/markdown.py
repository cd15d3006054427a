"""A document as Markdown, in the dialect of pull requests (tables, ``<details>``)."""

from __future__ import annotations

import re
from html import escape

from distillctl.core.analysis.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Details,
    Document,
    Heading,
    Notice,
    Paragraph,
    Picture,
    Table,
    Tiles,
)

_SPECIAL = re.compile(r"([\\`*_\[\]#|~$]|<(?=[A-Za-z/!?])|^\s*[>+-](?=\s))")
_CODE = re.compile(r"`([^`]+)`")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_BREAKS = re.compile(r"\s*[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\s*")


def to_markdown(document: Document) -> str:
    """The whole text, blocks separated by blank lines. Lone surrogates, which no file holds, become U+FFFD."""
    text = "\n\n".join(part for block in document.blocks if (part := _block(block))) + "\n"
    return _SURROGATE.sub("\ufffd", text)


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_text(text)}"
        case Paragraph(text):
            return _text(text)
        case Notice(text):
            return f"> **{_text(text)}**"
        case Bullets(items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case Tiles():
            return ""
        case Table():
            return _table(block)
        case Picture(name, description, caption):
            return f"![{_text(description)}]({name})" + (f"\n\n{_text(caption)}" if caption else "")
        case Code(label, text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{_text(label)}\n\n{fence}\n{text}\n{fence}"
        case Details(summary, blocks):
            # A line of HTML: Markdown's escapes mean nothing in it.
            inner = "\n\n".join(_block(inside) for inside in blocks)
            return f"<details>\n<summary>{escape(_BREAKS.sub(' ', summary))}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    words = len(table.columns) - table.numbers
    rule = ["---"] * words + ["---:"] * table.numbers
    rows = [[_text(name) for name in table.columns], rule, *([_cell(cell) for cell in row] for row in table.rows)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return lines + (f"\n\n{_text(table.caption)}" if table.caption else "")


def _cell(cell: Cell) -> str:
    # A backtick or a bar inside code cannot be escaped in a table: such text is set as plain text.
    if cell.code and cell.text.strip() and not re.search(r"[`|]", cell.text) and not _BREAKS.search(cell.text):
        return f"`{cell.text}`"
    text = escaped(cell.text)
    return f"**{text}**" if cell.tone != "plain" and text else text


def _text(text: str) -> str:
    """Escaped, but for what stands between backticks; on one line."""
    parts = _CODE.split(_BREAKS.sub(" ", text))
    return "".join(f"`{part}`" if index % 2 else escaped(part) for index, part in enumerate(parts))


def escaped(text: str) -> str:
    """Text in which nothing is read as Markdown or HTML; line breaks become spaces."""
    return _SPECIAL.sub(r"\\\1", _BREAKS.sub(" ", text)).replace("&", "&amp;")
