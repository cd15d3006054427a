"""A report as a list of blocks, which Markdown and HTML write each in their own way. Texts are plain, unescaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "bad", "unsure", "plain"]


@dataclass(frozen=True, slots=True)
class Cell:
    """Text of a table cell; ``tone`` colours it where colours are to be had, ``code`` sets it as code."""

    text: str
    tone: Tone = "plain"
    code: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text; parts between backticks are code."""

    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning that must not be overlooked."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """Short remarks, one an item."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the first screen: what it is, its value, and a line below."""

    label: str
    value: str
    note: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Tiles:
    """Figures to be seen first. Pages show them; in Markdown the tables say the same."""

    tiles: Sequence[Tile]


@dataclass(frozen=True, slots=True)
class Table:
    """``numbers`` is how many of the last columns are numbers, to be aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: int = 0
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG by its name in the report's folder; ``width`` in CSS pixels."""

    name: str
    description: str
    caption: str = ""
    width: int = 850


@dataclass(frozen=True, slots=True)
class Code:
    """Text shown as it is, with what it is above it."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are folded away behind a line."""

    summary: str
    blocks: Sequence[Block]


Block = Heading | Paragraph | Notice | Bullets | Tiles | Table | Picture | Code | Details


@dataclass(frozen=True, slots=True)
class Document:
    """A report. ``mark``, if any, stands on every page."""

    title: str
    blocks: Sequence[Block]
    mark: str = ""
