"""step_metrics.csv as columns: the same numbers as row by row, quickly, and every damage named with its line."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from distillctl.core.errors import DataError, UsageError
from distillctl.core.run_dir import read_step_metrics
from distillctl.core.run_dir.step_table import read_step_table
from tests.core.analysis.logs import Log, write_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return Path(write_log(tmp_path, Log(steps=30, noise=0.1))) / "step_metrics.csv"


def test_the_numbers_are_those_of_the_reader_by_rows(log: Path) -> None:
    table, rows = read_step_table(log), read_step_metrics(log)
    assert list(table) == list(rows[0])
    for name, values in table.items():
        found = [np.nan if row[name] is None else row[name] for row in rows]
        np.testing.assert_allclose(values, np.array(found, dtype=np.float64), rtol=1e-14)


def test_windows_line_ends_are_read(log: Path) -> None:
    plain = read_step_table(log)["loss_jsd"]
    log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n"))
    assert read_step_table(log)["loss_jsd"].tolist() == plain.tolist()


def test_a_hundred_thousand_rows_take_less_than_a_second(tmp_path: Path) -> None:
    path = Path(write_log(tmp_path, Log(steps=1000, noise=0.1))) / "step_metrics.csv"
    header, *rows = path.read_text().splitlines()
    cells = [row.partition(",")[2] for row in rows]
    path.write_text("\n".join([header, *(f"{n + 1},{cells[n % 1000]}" for n in range(100_000))]) + "\n")
    read_step_table(path)  # pandas is loaded, the file is in memory
    started = time.perf_counter()
    assert len(read_step_table(path)["step"]) == 100_000
    assert time.perf_counter() - started < 1


def test_no_file_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        read_step_table(tmp_path / "step_metrics.csv")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\n20,", "\ntwenty,", r":21: could not convert string to float: 'twenty'"),
        ("\n20,", "\n20,1,", r":21: should have 33 cells\. Found 34"),
        ("\n20,", "\n", r":21: should have 33 cells\. Found 32"),
        ("\n20,", "\n19,", r":21: steps should rise from row to row\. Found 19"),
        ("\n20,", "\nnan,", r":21: step is nan"),
        ("\n20,", "\n,", r":21: steps should rise from row to row\. Found nan"),
        ("step,epoch", "Step,epoch", r":1: should be a header of distinct columns, the first of them step"),
        ("step,epoch", "step,step", r":1: should be a header of distinct columns"),
    ],
)
def test_damage_names_its_line(log: Path, old: str, new: str, words: str) -> None:
    text = log.read_text()
    assert old in text
    log.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=words):
        read_step_table(log)


def test_short_and_long_rows_do_not_make_up_for_each_other(log: Path) -> None:
    log.write_text(log.read_text().replace("\n20,", "\n20,1,").replace("\n10,", "\n"))
    with pytest.raises(DataError, match=r":11: should have 33 cells\. Found 32"):
        read_step_table(log)


def test_empty_files_and_a_cut_last_line_are_refused(log: Path) -> None:
    text = log.read_text()
    log.write_text(text[:-4])
    with pytest.raises(DataError, match=r":31: the last line is cut short .*train --resume.*delete that line"):
        read_step_table(log)
    log.write_text(text.partition("\n")[0] + "\n")
    with pytest.raises(DataError, match="holds a header and no step"):
        read_step_table(log)
    for nothing in ("", "\n"):
        log.write_text(nothing)
        with pytest.raises(DataError, match="is empty"):
            read_step_table(log)
    log.unlink()
    log.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_step_table(log)
