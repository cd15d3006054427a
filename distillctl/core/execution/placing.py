"""Where a record's assertion stood in its package's test file, and the test with another text in its place.

A test is never written anywhere: the changed function alone is compiled, at its own line numbers, and put into the
function object that pytest collected from the file in site-packages (:mod:`distillctl.core.execution.runner`). So
imports relative to the package, data files beside the test, fixtures, decorators, parametrisation and conftest files
are exactly the file's own, nothing of the environment is touched, and a file is imported once for all its samples. A
copy of the tree would have to be imported anew for each prediction; an overlay needs rights that many machines refuse.
"""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path

from distillctl.core.data.found_tests import FoundTest, with_line_feeds
from distillctl.core.data.mining import locate
from distillctl.core.data.python_tests import read_tests
from distillctl.core.data.records import MASK, Record
from distillctl.core.data.source_files import PackageFiles, read_source
from distillctl.core.evaluation.lines import split_lines

Position = tuple[int, int]
"""Line in the file (from 1) and column (UTF-8 bytes, from 0), as ``ast`` counts."""


@dataclass(frozen=True, slots=True)
class Place:
    """A record's test in its file. ``assertions`` are the masked ones, as indices into ``test.assertions``."""

    package: str
    root: Path
    path: str
    test: FoundTest
    assertions: tuple[int, ...]

    @property
    def file(self) -> Path:
        """The test file."""
        return self.root / self.path


@dataclass(frozen=True, slots=True)
class PlacedTest:
    """Source of one function with other assertions in it, to be compiled for the function that the file has.

    ``source`` has the function (and the headers of the classes around it, for private names and ``super``) on the lines
    where the file has it, the lines before it empty. ``spans`` are where the new texts stand.
    """

    name: str
    line: int
    source: str
    spans: tuple[tuple[Position, Position], ...]


@lru_cache(maxsize=64)
def package_files(project: str) -> PackageFiles | None:
    """The installed package that a record names, asked for once."""
    return locate(project)


@lru_cache(maxsize=256)
def _tests_of(file: Path) -> tuple[FoundTest, ...]:
    return read_tests(read_source(file)).tests


@lru_cache(maxsize=256)
def _lines_of(file: Path) -> tuple[bytes, ...]:
    return tuple(with_line_feeds(read_source(file)).encode("utf-8").split(b"\n"))


def forget() -> None:
    """Drops what was read of packages: they may have changed since."""
    for remembered in (package_files, _tests_of, _lines_of):
        remembered.cache_clear()


def find_place(record: Record) -> Place | None:
    """The test that gives exactly the record's masked text; None where no installed package has it (any more)."""
    package = package_files(record.project)
    if record.language != "python" or package is None or record.path not in package.tests:
        return None
    name, masks = _name_in(record.id), len(record.assertions)
    for test in _tests_of(package.root / record.path):
        if test.qualified_name != name:
            continue
        for chosen in _choices(test, masks):
            if test.masked(chosen, MASK) == record.test_method_masked:
                return Place(package.name, package.root, record.path, test, tuple(chosen))
    return None


def _name_in(identity: str) -> str:
    """``Class.test`` of ``project/path::Class.test#2@0`` (see :mod:`distillctl.core.data.mining`)."""
    return identity.rpartition("::")[2].partition("@")[0].partition("#")[0]


def _choices(test: FoundTest, masks: int) -> list[list[int]]:
    """The sets of assertions that a record may have masked: each by itself, or all."""
    usable = [index for index, assertion in enumerate(test.assertions) if assertion.line]
    return [[index] for index in usable] if masks == 1 else [usable]


def put(place: Place, prediction: str) -> PlacedTest:
    """The test with a prediction's lines where the masked assertions stood; every other byte as in the file.

    Line i of the prediction goes to mask i, lines left over to the last mask, ``pass`` to a mask without a line; they
    get the indentation of what stood there.
    """
    test = place.test
    lines = list(_lines_of(place.file)[test.line - 1 :][: test.text.count("\n") + 1])
    places = [_rows(test, index, lines) for index in place.assertions]
    spans: list[tuple[Position, Position]] = []
    shift = 0  # lines that earlier texts added
    changed, wider = -1, 0  # the row in the file where the last text ended, and bytes that were added to that row
    for (start, end), text in zip(places, _share_out(split_lines(prediction), len(places)), strict=True):
        row, end_row = start[0] + shift, end[0] + shift
        column, end_column = (place[1] + (wider if place[0] == changed else 0) for place in (start, end))
        before, after = lines[row][:column], lines[end_row][end_column:]
        if before.strip() or after.strip():  # a comment would take the rest of the line with it
            text = [_without_comment(line) for line in text]
        new = _indented(text, before)
        spans.append(((test.line + row, column), (test.line + row + len(new) - 1, len(new[-1]))))
        changed, wider = end[0], len(new[-1]) - end[1]
        new[-1] += after
        lines[row : end_row + 1] = new
        shift += len(new) - (end_row - row + 1)
    return PlacedTest(test.qualified_name, test.line, _shell(test, lines), tuple(spans))


def _without_comment(line: str) -> str:
    """A line of Python without the comment at its end; as it is where it is no Python."""
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(StringIO(line).readline):
            if token.type == tokenize.COMMENT:
                return line[: token.start[1]].rstrip()
    return line


def _share_out(lines: Sequence[str], masks: int) -> list[list[str]]:
    """The lines that go to each mask."""
    shares = [[line] for line in lines[: masks - 1]]
    shares.append(list(lines[masks - 1 :]))
    shares += [[] for _ in range(masks - len(shares))]
    return [share or ["pass"] for share in shares]


def _indented(texts: Sequence[str], before: bytes) -> list[bytes]:
    """The lines of a new text that starts after ``before``: beside another statement they stay on its line."""
    raw = [text.encode("utf-8", "replace") for text in texts]
    return [before + b"; ".join(raw)] if before.strip() else [before + line for line in raw]


def _rows(test: FoundTest, index: int, lines: Sequence[bytes]) -> tuple[Position, Position]:
    """Start and end of an assertion, as (row in ``lines``, column in the file)."""
    raw = test.text.encode("utf-8")

    def position(offset: int) -> Position:
        row = raw.count(b"\n", 0, offset)
        removed = len(test.indent) if lines[row].startswith(test.indent) else 0
        return row, offset - (raw.rfind(b"\n", 0, offset) + 1) + removed

    return position(test.assertions[index].start), position(test.assertions[index].end)


def _shell(test: FoundTest, lines: Sequence[bytes]) -> str:
    """The function's lines below the headers of its classes, at its line number."""
    headers = [" " * depth + f"class {name}:" for depth, name in enumerate(test.qualified_name.split(".")[:-1])]
    empty = [""] * (test.line - 1 - len(headers))
    return "\n".join([*empty, *headers, *(line.decode("utf-8") for line in lines)]) + "\n"
