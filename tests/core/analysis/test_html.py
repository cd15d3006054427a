"""The page: well formed, self-contained, escaped."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

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
    Tile,
    Tiles,
)
from distillctl.core.analysis.html import to_html

NASTY = "<script>alert(1)</script> & \"quotes\" 'here' ]]> \x00\x1b \ud800"


def parsed(page: str) -> ElementTree.Element:
    """The page as XML: what is not well formed raises. The styles are CSS, not XML, and left out."""
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))


def every_block(text: str) -> list[Block]:
    cells = [[Cell(text), Cell(text, "good"), Cell(text, code=True)]]
    return [
        Heading(text, 1),
        Notice(text),
        Paragraph(text),
        Bullets([text, text]),
        Tiles([Tile(text, text, text, "bad")]),
        Table([text] * 3, cells, numbers=1, caption=text),
        Picture("a.png", text, text),
        Details(text, [Code(text, text), Details(text, [Paragraph(text)])]),
    ]


def test_a_page_is_well_formed_and_says_its_text() -> None:
    root = parsed(
        to_html(Document("a <b>", every_block("it's 1 < 2 & `code <x>`"), mark="UNFINISHED: x"), {"a.png": b"p"})
    )
    assert root.findtext("head/title") == "a <b>"
    assert root.findtext("body/p") == "UNFINISHED: x"
    main = root.find("body/main")
    assert main is not None
    assert "".join(main.find("h1").itertext()) == "it's 1 < 2 & code <x>"  # type: ignore[union-attr]
    assert main.findtext("p/code") == "code <x>"
    assert [cell.get("class") for cell in main.iter("td")] == [None, None, "number"]
    image = main.find("figure/img")
    assert image is not None
    assert image.get("src") == "data:image/png;base64," + base64.b64encode(b"p").decode()
    assert image.get("alt") == "it's 1 < 2 & `code <x>`"


def test_text_is_never_markup() -> None:
    page = to_html(Document(NASTY, every_block(NASTY), mark=NASTY), {"a.png": b"p"})
    assert "<script" not in page
    assert "\x00" not in page
    page.encode("utf-8")
    parsed(page)


def test_a_page_needs_nothing_else() -> None:
    page = to_html(Document("t", every_block("x")), {"a.png": b"p"})
    assert not re.search(r"https?://|//cdn|@import|url\(", page)
    assert not re.search(r"<(script|link|iframe|object|embed)\b", page)
    sources = re.findall(r"\bsrc=\"([^\"]*)\"", page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_a_page_fits_phones_and_dark_rooms() -> None:
    page = to_html(Document("t", []), {})
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert "max-width: 100%" in page


def test_without_a_mark_there_is_none() -> None:
    assert 'class="mark"' not in to_html(Document("t", []), {})


@given(st.text(st.characters()))
def test_any_text_gives_a_well_formed_page(text: str) -> None:
    parsed(to_html(Document(text, every_block(text), mark=text), {"a.png": b""}))
