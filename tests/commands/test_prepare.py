"""``distillctl prepare``: shows what is in a corpus, and writes it where asked to."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from distillctl import cli
from distillctl.core.data.records import read_jsonl
from distillctl.core.data.splits import split_of
from tests.tiny import RECORDS, Tiny


def test_sizes_are_shown_and_records_written_split_by_split(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    cells = [line.replace("│", " ").split() for line in shown.splitlines()]
    assert ["tiny", *(str(count) for count in RECORDS.values())] in cells
    assert ["all", *(str(count) for count in RECORDS.values())] in cells
    assert f"with focal method: {sum(RECORDS.values())}" in shown
    assert f"{sum(RECORDS.values())} records written to {output}" in shown
    written = read_jsonl(output).records
    assert set(written) == set(read_jsonl(tiny.corpus).records)
    order = [split_of(record.project, record.path) for record in written]
    assert order == [split for split, count in RECORDS.items() for _ in range(count)]
    assert list(tmp_path.iterdir()) == [output]


def test_nothing_is_written_unless_asked(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["prepare", "--data", str(tiny.corpus)]) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_is_shown_as_zero(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(tiny.corpus.read_text().splitlines(keepends=True)[:3]))
    assert cli.run(["prepare", "--data", str(few)]) == 0
    assert ["all", "3", "0", "0"] in [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]


def test_the_file_that_is_read_is_not_replaced(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny.corpus.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(tiny.corpus)
    for output in (tiny.corpus, link):
        assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(output)]) == 2
        assert "is the file that --data reads" in capsys.readouterr().err
    assert tiny.corpus.read_bytes() == before


@pytest.mark.parametrize("output", ["", "missing/out.jsonl"])
def test_where_nothing_can_be_written_is_refused_before_the_work(
    output: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distillctl.core.materials.read_corpus", lambda *call: pytest.fail("read"))
    assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(tmp_path / output)]) == 2
    assert "should be a file in a folder that exists" in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_there(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("older\n")

    def full(path: Path, records: Any) -> int:
        path.write_text("half a rec")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distillctl.core.data.records.write_jsonl", full)
    assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(output)]) == 5
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert output.read_text() == "older\n"
    assert list(tmp_path.iterdir()) == [output]


def test_bad_records_are_told_as_in_training(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(tiny.corpus.read_text().splitlines()[0] + "\n{\n")
    assert cli.run(["prepare", "--data", str(broken)]) == 3
    assert f"{broken}:2: not valid JSON" in capsys.readouterr().err
    assert cli.run(["prepare", "--data", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
