"""Blocks as Markdown: each kind by hand, and no text that becomes markup."""

from __future__ import annotations

import pytest
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
from distillctl.core.analysis.markdown import escaped, to_markdown


def written(*blocks: Block) -> str:
    return to_markdown(Document("title", blocks))


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (Heading("A_b", 3), "### A\\_b\n"),
        (Paragraph("x `a_b|<c>` y_z"), "x `a_b|<c>` y\\_z\n"),
        (Notice("stop *now*"), "> **stop \\*now\\***\n"),
        (Bullets(["a", "b\nc"]), "- a\n- b c\n"),
        (Tiles([Tile("a", "b", "c")]), "\n"),
        (Picture("a.png", "what it shows", "more"), "![what it shows](a.png)\n\nmore\n"),
        (Code("gold", "a\n```\nb"), "gold\n\n````\na\n```\nb\n````\n"),
        (Details("<b> a_b", [Paragraph("in")]), "<details>\n<summary>&lt;b&gt; a_b</summary>\n\nin\n\n</details>\n"),
    ],
)
def test_a_block_by_hand(block: Block, text: str) -> None:
    assert written(block) == text


def test_a_table_by_hand() -> None:
    cells = [[Cell("a|b", code=True), Cell("c_d", code=True), Cell("met", "good"), Cell("1")], [Cell("")] * 4]
    assert written(Table(["x", "y", "z", "n"], cells, numbers=1, caption="about")) == (
        "| x | y | z | n |\n| --- | --- | --- | ---: |\n| a\\|b | `c_d` | **met** | 1 |\n|  |  |  |  |\n\nabout\n"
    )


def test_blocks_are_separated_by_blank_lines() -> None:
    assert written(Heading("a", 1), Tiles([]), Paragraph("b")) == "# a\n\nb\n"


@pytest.mark.parametrize(
    "text", ["> quote", "- item", "+ item", "# head", "<script>", "[a](b)", "a*b*", "a & b", "~~a~~"]
)
def test_nothing_becomes_markup(text: str) -> None:
    assert escaped(text) != text


@given(st.text())
def test_any_cell_stays_in_its_row(text: str) -> None:
    table = written(Table(["a", "b"], [[Cell(text), Cell(text, code=True)]]))
    assert len(table.splitlines()) == 3
    row = table.splitlines()[-1].replace("\\\\", "").replace("\\|", "")
    assert row.count("|") == 3


def test_lone_surrogates_can_be_written() -> None:
    assert written(Code("x", "a\ud800")).encode("utf-8").decode() == "x\n\n```\na\ufffd\n```\n"


@given(st.text())
def test_code_is_never_closed_early(text: str) -> None:
    lines = written(Code("x", text)).split("\n")
    fence = lines[2]
    assert set(fence) == {"`"}
    assert not any(line.strip().startswith(fence) for line in "\n".join(lines[3:-2]).split("\n"))
