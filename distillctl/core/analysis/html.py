"""A document as one HTML page that needs nothing else: styles inline, pictures as data, no scripts."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

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

STYLE = Path(__file__).with_name("report.css")
_CODE = re.compile(r"`([^`]+)`")
# What XML, and so a browser, does not take as a character.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def to_html(document: Document, pictures: Mapping[str, bytes]) -> str:
    """The page; ``pictures`` are PNG bytes by name."""
    mark = f'<p class="mark" role="alert">{_plain(document.mark)}</p>\n' if document.mark else ""
    body = "\n".join(_block(block, pictures) for block in document.blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        f"<title>{_plain(document.title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n{mark}<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _block(block: Block, pictures: Mapping[str, bytes]) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_text(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Notice(text):
            return f'<p class="notice" role="note">{_text(text)}</p>'
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"
        case Tiles():
            return _tiles(block)
        case Table():
            return _table(block)
        case Picture():
            return _picture(block, pictures[block.name])
        case Code(label, text):
            return f'<p class="label">{_text(label)}</p>\n<pre><code>{_plain(text)}</code></pre>'
        case Details(summary, blocks):
            inner = "\n".join(_block(inside, pictures) for inside in blocks)
            return f"<details>\n<summary>{_text(summary)}</summary>\n{inner}\n</details>"


def _tiles(block: Tiles) -> str:
    tiles = "\n".join(
        f'<div class="tile {tile.tone}"><div class="name">{_text(tile.label)}</div>'
        f'<div class="value">{_text(tile.value)}</div><div class="below">{_text(tile.note)}</div></div>'
        for tile in block.tiles
    )
    return f'<div class="tiles">\n{tiles}\n</div>'


def _table(table: Table) -> str:
    first_number = len(table.columns) - table.numbers

    def row(cells: list[str], tag: str) -> str:
        classes = (' class="number"' if index >= first_number else "" for index in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{c}>{cell}</{tag}>" for c, cell in zip(classes, cells, strict=True)) + "</tr>"

    head = row([_text(name) for name in table.columns], "th")
    body = "\n".join(row([_cell(cell) for cell in cells], "td") for cells in table.rows)
    caption = f'\n<p class="caption">{_text(table.caption)}</p>' if table.caption else ""
    return f'<div class="table"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>{caption}'


def _cell(cell: Cell) -> str:
    text = f"<code>{_plain(cell.text)}</code>" if cell.code and cell.text else _plain(cell.text)
    return text if cell.tone == "plain" else f'<span class="badge {cell.tone}">{text}</span>'


def _picture(picture: Picture, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    caption = f"<figcaption>{_text(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        f'<figure><img src="data:image/png;base64,{data}" width="{picture.width}" '
        f'alt="{_plain(picture.description)}"/>{caption}</figure>'
    )


def _text(text: str) -> str:
    """Escaped; what stands between backticks is code."""
    parts = _CODE.split(text)
    return "".join(f"<code>{_plain(part)}</code>" if index % 2 else _plain(part) for index, part in enumerate(parts))


def _plain(text: str) -> str:
    return escape(_CONTROL.sub("\ufffd", text))
