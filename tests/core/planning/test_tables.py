"""What the tables of a plan say, cell by cell."""

from __future__ import annotations

import pytest

from distillctl.core.analysis.document import Table
from distillctl.core.data.encoding import Encoded, Example
from distillctl.core.planning.duration import SCORING, TRAINING, Phase
from distillctl.core.planning.memory import Memory
from distillctl.core.planning.sources import Source
from distillctl.core.planning.tables import duration, memory_table, source_table, time_table, token_table
from distillctl.core.planning.throughput import Throughput

GIB = 2**30


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_tokens_of_each_split_and_what_was_cut() -> None:
    examples = (Example("a", (1, 2, 3), (4,)), Example("b", (1,) * 9, (4, 5, 6)))
    part = Encoded(examples, (), inputs_truncated=1, targets_truncated=0, dropped=2)
    table = token_table({"train": part}, "the tokenizer of x")
    assert table.columns == ["", "train"]
    assert dict(texts(table)) == {
        "records": "2",
        "source tokens": "12",
        "source, mean": "6.0",
        "source, longest": "9",
        "sources cut": "1 (50.0 %)",
        "target tokens": "4",
        "target, mean": "2.0",
        "target, longest": "3",
        "targets cut": "0 (0.0 %)",
        "dropped": "2",
    }
    assert "the tokenizer of x" in table.caption
    assert dict(texts(token_table({"dev": Encoded((), (), 0, 0, 0)}, "x")))["sources cut"] == "0 (0.0 %)"


def test_models_and_what_is_to_be_downloaded() -> None:
    here = Source("teacher", "embedded", "package", None)
    there = Source("student", "a/b", "hub", None, 1_500_000_000)
    unknown = Source("encoder", "c/d", "out of reach", None, None, "offline")
    table = source_table({"teacher": here, "student": there, "encoder": unknown}, {"teacher": 1234})
    assert texts(table) == [
        ["teacher", "embedded", "package", "1,234", "nothing"],
        ["student", "a/b", "hub", "?", "1.50 GB"],
        ["encoder", "c/d", "out of reach", "?", "?"],
    ]
    assert table.caption.startswith("1.50 GB to download and what is not known")
    assert source_table({"teacher": here}, {}).caption == ""


@pytest.mark.parametrize("chosen", [True, False])
def test_memory_adds_up_in_both_columns(chosen: bool) -> None:
    one, other = Memory({"a": GIB}, {"b": GIB}), Memory({"a": GIB}, {"b": 3 * GIB})
    table = memory_table(one, other, ("Python", GIB), chosen, "")
    assert texts(table)[-1] == ["at most, about", "3.00", "5.00"]
    assert [("(chosen)" in column) for column in table.columns] == [False, chosen, not chosen]


def test_time_adds_up_here_and_elsewhere() -> None:
    found = [Phase(TRAINING, "5 steps", 1e12), Phase(SCORING, "7 texts", 1e12)]
    table = time_table(found, Throughput(1e11, 0, "here"), {"a card": Throughput(1e12, 0, "")}, "")
    assert texts(table) == [
        ["training", "5 steps", "1.0 TFLOP", "10 s", "7 s - 14 s"],
        ["scoring", "7 texts", "1.0 TFLOP", "10 s", "5 s - 40 s"],
        ["all of it", "here", "2.0 TFLOP", "20 s", "12 s - 54 s"],
        ["the same", "a card", "2.0 TFLOP", "2 s", "1 s - 5 s"],
    ]


def test_durations_are_in_the_unit_that_reads_best() -> None:
    seconds = (0.2, 89, 90, 5000, 6000, 200_000)
    assert [duration(value) for value in seconds] == ["0 s", "89 s", "2 min", "83 min", "1.7 h", "2.3 days"]
