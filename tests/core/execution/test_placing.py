"""A record finds its test again, and another text takes the assertion's place and nothing else."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from distillctl.core.data.python_tests import read_tests
from distillctl.core.data.records import Record
from distillctl.core.execution.placing import Place, find_place, put
from tests.core.execution.shelf import TESTS, install_shelf


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    return install_shelf(tmp_path / "site", monkeypatch)


def placed_lines(record: Record, prediction: str) -> tuple[list[str], int]:
    """The function's lines with the prediction in it, and its first line's number."""
    place = find_place(record)
    assert place is not None
    placed = put(place, prediction)
    ast.parse(placed.source)
    return placed.source.split("\n")[placed.line - 1 : -1], placed.line


def test_every_record_finds_its_test_again(records: dict[str, Record]) -> None:
    assert len(records) == 10
    for name, record in records.items():
        place = find_place(record)
        assert place is not None, name
        assert place.file.is_file()


def test_the_gold_in_its_own_place_gives_the_files_own_lines(records: dict[str, Record]) -> None:
    lines, first = placed_lines(records["test_fixture@1"], "assert shelf.things[0] == FIRST")
    assert lines == TESTS.split("\n")[first - 1 : first - 1 + len(lines)]


def test_only_the_assertions_text_changes(records: dict[str, Record]) -> None:
    lines, first = placed_lines(records["test_fixture@0"], "assert size\nassert shelf")
    own = TESTS.split("\n")[first - 1 : first + 3]
    assert lines == [*own[:2], "    assert size", "    assert shelf", own[3]]


def test_beside_another_statement_a_text_stays_on_its_line(records: dict[str, Record]) -> None:
    lines, first = placed_lines(records["TestShelf.test_private@0"], "assert é\nassert 2")
    assert lines[-1] == "        if text: assert é; assert 2; self.shelf = None"
    assert lines[:-1] == TESTS.split("\n")[first - 1 : first + 3]


def test_the_span_is_where_the_text_stands(records: dict[str, Record]) -> None:
    for name, text in (("test_fixture@0", "assert a\nassert b"), ("TestShelf.test_private@0", "assert é == 'ü'")):
        place = find_place(records[name])
        assert place is not None
        placed = put(place, text)
        ((start, end),) = placed.spans
        inside = [
            node
            for node in ast.walk(ast.parse(placed.source))
            if isinstance(node, ast.Assert)
            and start <= (node.lineno, node.col_offset)
            and ((node.end_lineno or 0), (node.end_col_offset or 0)) <= end
        ]
        assert len(inside) == len(text.split("\n"))


def test_all_masked_assertions_are_replaced_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: dict[str, Record]
) -> None:
    one = records["test_fixture@0"]
    masked = one.test_method_masked.replace("assert shelf.things[0] == FIRST", "<extra_id_1>")
    both = replace(one, id=one.id.partition("@")[0], test_method_masked=masked, assertions=("a", "b"))
    assert placed_lines(both, "assert 1\nassert 2\nassert 3")[0][2:] == [
        "    assert 1",
        "    assert 2",
        "    assert 3",
    ]
    assert placed_lines(both, "assert 1")[0][2:] == ["    assert 1", "    pass"]


@pytest.mark.parametrize(
    ("prediction", "line"),
    [
        ("assert x\nassert longer < 5", "    assert x; assert longer < 5; y = 2"),
        ("assert é == 1234567\nassert x", "    assert é == 1234567; assert x; y = 2"),
        ("assert x # one\nassert z # two", "    assert x; assert z; y = 2"),
        ("assert x\nassert y\nassert z", "    assert x; assert y; assert z; y = 2"),
        ("assert '#'", "    assert '#'; pass; y = 2"),
        ("", "    pass; pass; y = 2"),
    ],
)
def test_masks_that_share_a_line(tmp_path: Path, prediction: str, line: str) -> None:
    source = "def test_it():\n    x = 1\n    assert x == 1; assert x < 5; y = 2\n    assert y\n"
    (tmp_path / "test_it.py").write_text(source)
    (test,) = read_tests(source).tests
    placed = put(Place("p", tmp_path, "test_it.py", test, (0, 1)), prediction)
    lines = placed.source.split("\n")
    assert lines == ["def test_it():", "    x = 1", line, "    assert y", ""]
    compile(placed.source, "test_it.py", "exec")
    inside = [lines[row - 1].encode()[column:end].decode() for (row, column), (_, end) in placed.spans]
    assert "; ".join(inside) + "; y = 2" == line.strip()


def test_what_no_package_has_has_no_place(records: dict[str, Record]) -> None:
    record = records["test_fixture@0"]
    for changes in (
        {"project": "not-installed"},
        {"path": "shelf/tests/other.py"},
        {"language": "java"},
        {"test_method_masked": record.test_method_masked + " "},
        {"id": "shelf/shelf/tests/test_shelf_1.py::test_other@0"},
    ):
        assert find_place(replace(record, **changes)) is None
