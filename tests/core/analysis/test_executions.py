"""The report's section on tests that pass: both arms on the same samples, or a word on why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillctl import cli
from distillctl.core.analysis.acceptance import acceptance
from distillctl.core.analysis.comparison import Comparison, compare
from distillctl.core.analysis.document import Block, Notice, Paragraph, Table
from distillctl.core.analysis.executions import executed_samples, execution_blocks, execution_differences
from distillctl.core.analysis.markdown import to_markdown
from distillctl.core.analysis.report import build_report
from distillctl.core.analysis.run_data import read_run
from distillctl.core.errors import DataError
from distillctl.core.execution.execute import Executions
from distillctl.core.execution.outcomes import FAILED, PASSED, Verdict
from distillctl.core.execution.sandbox import Isolation
from distillctl.core.execution.session import Limits
from tests.core.analysis.arms import SAMPLES, Arm, edit_json, make_run

SYSTEMS = ("teacher", "student")
DRAWN = 40


def make_tested(path: Path, passing: int, *, teacher: int = 20, gold: int = 30, sandboxed: bool = True) -> str:
    """A made run of which 40 samples were run: the first ``gold`` pass, ``passing`` of them with the student's."""
    run = make_run(path, Arm())
    lines = [json.loads(line) for line in (path / "evaluation/validation/predictions.jsonl").read_text().splitlines()]
    ids = [row["id"] for row in lines[:DRAWN]]

    def verdict(place: int, right: int) -> Verdict:
        return Verdict(PASSED, can_fail=place % 2 == 0) if place < right else Verdict(FAILED)

    found = Executions(
        Limits(20.0, Isolation(sandboxed)),
        {name: Verdict(PASSED, can_fail=True) if n < gold else Verdict(FAILED) for n, name in enumerate(ids)},
        {name: {"teacher": verdict(n, teacher), "student": verdict(n, passing)} for n, name in enumerate(ids[:gold])},
    )
    for row in lines:
        if made := found.row(row["id"]):
            row["execution"] = made
    text = "".join(json.dumps(row) + "\n" for row in lines)
    (path / "evaluation/validation/predictions.jsonl").write_text(text)
    edit_json(
        path / "evaluation/validation/metrics.json", lambda metrics: metrics.update(execution=found.facts("student"))
    )
    return run


def compared(*paths: str) -> Comparison:
    runs = [read_run(path, "validation") for path in paths]
    half = len(runs) // 2
    # compare() would resample every metric, which nothing here looks at
    return Comparison("validation", tuple(runs[:half]), tuple(runs[half:]), {}, (), {}, None, (), ())


def tables(blocks: list[Block]) -> list[list[list[str]]]:
    return [[[cell.text for cell in row] for row in block.rows] for block in blocks if isinstance(block, Table)]


def test_rates_and_differences_are_those_of_the_rows(tmp_path: Path) -> None:
    comparison = compared(make_tested(tmp_path / "a", 6), make_tested(tmp_path / "b", 12))
    assert len(executed_samples(comparison)) == 30
    found = execution_differences(comparison)
    assert (found["pass"].baseline, found["pass"].candidate) == (pytest.approx(20), pytest.approx(40))
    assert (found["able"].baseline, found["able"].candidate) == (pytest.approx(10), pytest.approx(20))
    assert found["pass"].low is not None
    assert found["pass"].low < 20 < (found["pass"].high or 0)
    systems, differences = tables(list(execution_blocks(comparison)))
    assert [row[0] for row in systems] == ["gold", "teacher", "baseline", "candidate"]
    assert [row[1].split()[0] for row in systems] == ["100.0", "66.7", "20.0", "40.0"]
    assert [row[2].split()[0] for row in systems] == ["100.0", "33.3", "10.0", "20.0"]
    assert [row[3] for row in differences] == ["+20.00", "+10.00"]


def test_only_samples_that_all_runs_ran_are_compared(tmp_path: Path) -> None:
    comparison = compared(make_tested(tmp_path / "a", 6), make_tested(tmp_path / "b", 12, gold=24))
    assert len(executed_samples(comparison)) == 24
    systems, _ = tables(list(execution_blocks(comparison)))
    assert [row[0] for row in systems] == ["gold", "teacher", "baseline", "candidate"]


def test_a_teacher_that_ended_otherwise_is_shown_for_each_run(tmp_path: Path) -> None:
    comparison = compared(make_tested(tmp_path / "a", 6), make_tested(tmp_path / "b", 12, teacher=21))
    systems, _ = tables(list(execution_blocks(comparison)))
    assert [row[0] for row in systems][1:3] == ["teacher (baseline)", "teacher (candidate)"]


def test_without_running_there_is_no_section(tmp_path: Path) -> None:
    comparison = compared(make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    assert list(execution_blocks(comparison)) == []
    assert execution_differences(comparison) == {}


def test_a_run_that_did_not_run_them_is_named(tmp_path: Path) -> None:
    comparison = compared(make_tested(tmp_path / "a", 6), make_run(tmp_path / "b"))
    (words,) = (block.text for block in execution_blocks(comparison) if isinstance(block, Paragraph))
    assert f"not measured for {tmp_path / 'b'}" in words


def test_no_sandbox_and_other_options_are_said(tmp_path: Path) -> None:
    first, second = make_tested(tmp_path / "a", 6), make_tested(tmp_path / "b", 12, sandboxed=False)
    notices = [block.text for block in execution_blocks(compared(first, second)) if isinstance(block, Notice)]
    assert notices[0] == f"{second}: predictions ran without a sandbox (--unsafe-no-sandbox)"
    assert "sandboxed differs" in notices[1]


def test_the_report_has_it_after_the_table_of_metrics(tmp_path: Path) -> None:
    paths = make_tested(tmp_path / "a", 6), make_tested(tmp_path / "b", 12)
    runs = [read_run(path, "validation") for path in paths]
    comparison = compare(runs[:1], runs[1:], "validation")
    text = to_markdown(build_report(comparison, acceptance(comparison)))
    assert text.index("## Before and after") < text.index("## Do the tests pass?") < text.index("## Training")
    assert "| candidate | 40.0 (24.6 to 57.7) |" in text


@pytest.mark.slow
def test_the_command_shows_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_tested(tmp_path / "a", 6), make_tested(tmp_path / "b", 12, sandboxed=False)
    folder = tmp_path / "report"
    assert cli.run(["report", "--baseline", first, "--candidate", second, "-o", str(folder)]) == 0
    assert "Do the tests pass?" in capsys.readouterr().out
    for file in ("report.md", "report.html"):
        text = (folder / file).read_text()
        assert "Do the tests pass?" in text
        assert "without a sandbox" in text


def damage(change: Callable[[dict[str, Any]], None], run: Path) -> None:
    file = run / "evaluation/validation/predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines[1])
    file.write_text("".join(json.dumps(row) + "\n" for row in lines))


@pytest.mark.parametrize("value", [3, {}, {"gold": 1}, {"gold": {"outcome": "passed"}}, {"gold": {"can_fail": True}}])
def test_damaged_outcomes_are_refused_with_their_line(tmp_path: Path, value: Any) -> None:
    run = make_tested(tmp_path / "a", 6)
    damage(lambda row: row.update(execution=value), Path(run))
    with pytest.raises(DataError, match=r"predictions\.jsonl:2: execution should be"):
        read_run(run, "validation")


def test_damaged_facts_are_refused(tmp_path: Path) -> None:
    run = make_tested(tmp_path / "a", 6)
    edit_json(Path(run) / "evaluation/validation/metrics.json", lambda metrics: metrics["execution"].pop("drawn"))
    with pytest.raises(DataError, match=r"execution should say subject, .*drawn"):
        read_run(run, "validation")


def test_the_made_runs_have_more_samples_than_were_run() -> None:
    assert SAMPLES > DRAWN
