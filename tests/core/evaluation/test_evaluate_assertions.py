"""Scoring a split and storing it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distillctl.core.data.records import Record
from distillctl.core.errors import DataError, RunError
from distillctl.core.evaluation.evaluate_assertions import (
    METRICS_FILE,
    NOT_MEASURED,
    PREDICTIONS_FILE,
    Scores,
    input_fingerprint,
    rescore,
    rescore_samples,
    score,
    write,
)

RECORDS = [
    Record("r1", "python", "p", "a.py", "def f(): ...", "def test(): <extra_id_0>", ("assert a == 1",)),
    Record("r2", "java", "q", "B.java", "int f() {}", "void t() { <extra_id_0> }", ("assertTrue(x);",)),
    Record("r3", "python", "p", "b.py", "", "def test(): <extra_id_0>", ("assert \u00e9", "assert b")),
]
PREDICTIONS = ["assert a == 1", "} } class Evil { void m() {", "assert \u00e9\nassert '\ud800\u2028'"]


@pytest.fixture
def scores() -> Scores:
    return score(RECORDS, PREDICTIONS)


def test_rows_hold_what_a_report_needs(scores: Scores) -> None:
    assert [row["id"] for row in scores.rows] == ["r1", "r2", "r3"]
    row = scores.rows[2]
    assert row["gold"] == ["assert \u00e9", "assert b"]
    assert row["prediction"] == PREDICTIONS[2]
    assert (row["tp"], row["fp"], row["fn"], row["kind"]) == (1, 1, 1, "assert other")
    assert row["valid_syntax"] is False
    assert row["input_fingerprint"] == input_fingerprint(RECORDS[2])
    assert scores.rows[1]["valid_syntax"] is False
    assert scores.metrics["counts"]["tp"] == 2


def test_what_needs_a_checkout_is_not_measured(scores: Scores) -> None:
    assert scores.metrics["compiles"] == scores.metrics["tests_pass"] == NOT_MEASURED == "not measured"


def test_fingerprint_is_of_the_input_alone() -> None:
    record = RECORDS[0]
    same = replace(record, id="other", path="c.py", assertions=("assert z",))
    assert input_fingerprint(same) == input_fingerprint(record)
    assert input_fingerprint(replace(record, focal_method="def g(): ...")) != input_fingerprint(record)
    assert input_fingerprint(replace(record, language="java")) != input_fingerprint(record)


def test_rescoring_stored_rows_gives_the_same_and_believes_no_stored_number(scores: Scores, tmp_path: Path) -> None:
    write(tmp_path, scores)
    lines = (tmp_path / PREDICTIONS_FILE).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert rows == scores.rows
    for row in rows:
        row["tp"], row["valid_syntax"] = 99, True
    assert rescore(rows) == scores
    assert rescore_samples(rows) == scores.rows


def test_files_are_stable_utf8_and_tied_together(scores: Scores, tmp_path: Path) -> None:
    write(tmp_path / "one", scores, {"decoding": {"num_beams": 1}})
    write(tmp_path / "two", score(RECORDS, PREDICTIONS), {"decoding": {"num_beams": 1}})
    for name in (METRICS_FILE, PREDICTIONS_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [METRICS_FILE, PREDICTIONS_FILE]
    metrics = json.loads((tmp_path / "one" / METRICS_FILE).read_text(encoding="utf-8"))
    content = (tmp_path / "one" / PREDICTIONS_FILE).read_bytes()
    assert metrics["predictions_sha256"] == hashlib.sha256(content).hexdigest()
    assert metrics["decoding"] == {"num_beams": 1}
    assert metrics["scores"] == scores.metrics["scores"]
    write(tmp_path / "one", score(RECORDS[:1], ["assert \u00e9"]))  # written anew, not appended
    assert "assert \u00e9".encode() in (tmp_path / "one" / PREDICTIONS_FILE).read_bytes()
    assert content.count(b"\n") == 3


def test_details_may_not_hide_a_metric(scores: Scores, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scores"):
        write(tmp_path, scores, {"scores": {}})
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_a_run_error(scores: Scores, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="cannot be written"):
        write(tmp_path / "file", scores)


def test_errors_name_the_trouble(scores: Scores) -> None:
    with pytest.raises(DataError, match="3 and 1"):
        score(RECORDS, ["assert a"])
    with pytest.raises(DataError, match="empty"):
        score([], [])
    with pytest.raises(DataError, match="empty"):
        rescore_samples([])
    with pytest.raises(DataError, match="'r1' occurs twice"):
        score([RECORDS[0], RECORDS[0]], ["", ""])
    with pytest.raises(DataError, match="prediction 2: missing field gold"):
        rescore([scores.rows[0], {name: value for name, value in scores.rows[1].items() if name != "gold"}])


def test_scoring_python_needs_neither_torch_nor_tree_sitter() -> None:
    program = (
        "import sys\n"
        "from distillctl.core.evaluation import baselines, evaluate_assertions, lines, metrics, syntax\n"
        "assert metrics.score_sample('s', 'p', 'f', 'python', ['assert a'], 'assert a').valid_syntax\n"
        "baselines.previous_assertion('def t():\\n    assert a\\n    <extra_id_0>', 'python')\n"
        "print(sorted({'torch', 'transformers', 'tree_sitter'} & set(sys.modules)))\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
