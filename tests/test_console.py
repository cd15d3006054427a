"""What a person sees: bars on a terminal, lines elsewhere, texts as they are."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from distillctl.console import READABLE, ConsoleReporter, _executions, table, write_plainly
from distillctl.core.analysis.document import Cell, Table
from distillctl.core.distillation import Outcome
from distillctl.core.execution.outcomes import OUTCOMES
from distillctl.core.progress import SilentReporter
from distillctl.core.run_dir import RunDirectory


def reporter(terminal: bool) -> tuple[ConsoleReporter, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=160, highlight=False, color_system=None)
    return ConsoleReporter(console), output


def test_away_from_a_terminal_a_task_is_one_line() -> None:
    shown, output = reporter(terminal=False)
    with shown.task("training", 2) as task:
        task.update(1, note="loss 1.0")
        task.update(2, total=3)
        assert output.getvalue() == ""
    title, seconds = output.getvalue().split(": ")
    assert title == "training"
    assert seconds.endswith(" s\n")
    assert float(seconds.removesuffix(" s\n")) < 5


def test_on_a_terminal_a_bar_shows_progress_and_the_note() -> None:
    shown, output = reporter(terminal=True)
    with shown.task("training", 10) as task:
        task.update(4, total=8, note="loss 1.234 12 tokens/s")
    text = output.getvalue()
    assert "4/8" in text
    assert "loss 1.234 12 tokens/s" in text


def test_notes_from_within_a_task_are_kept() -> None:
    shown, output = reporter(terminal=True)
    with shown.task("training"):
        shown.note("step 6: F1 on dev 3.00")
    assert "step 6: F1 on dev 3.00" in output.getvalue()


def test_a_failed_task_is_not_told_as_done() -> None:
    shown, output = reporter(terminal=False)
    with pytest.raises(ZeroDivisionError), shown.task("training"):
        raise ZeroDivisionError
    assert output.getvalue() == ""


def test_notes_are_shown_as_they_are() -> None:
    shown, output = reporter(terminal=False)
    shown.note("a[bold]b[/bold] [/nonsense] :smile:")
    assert output.getvalue() == "a[bold]b[/bold] [/nonsense] :smile:\n"


def test_facts_keep_their_brackets_and_numbers_their_commas() -> None:
    shown, output = reporter(terminal=False)
    shown.show_facts("Plan", {"steps": "1,200", "seconds": 1234.56, "teacher": "dir/[x]", "count": 3})
    text = output.getvalue()
    for part in ("Plan", "1,200", "1,234.6", "dir/[x]", "3"):
        assert part in text


def test_a_table_aligns_numbers_to_the_right() -> None:
    output = io.StringIO()
    Console(file=output, width=80).print(table("Scores", ["", "F1"], [["teacher", "9.50"], ["student", "10.25"]], "n"))
    assert "│ teacher │  9.50 │" in output.getvalue()
    assert "│ student │ 10.25 │" in output.getvalue()


def test_several_columns_of_words_and_no_word_is_cut() -> None:
    output = io.StringIO()
    rows = [["F1", "met", "x" * 60]]
    Console(file=output, width=40).print(table("Acceptance", ["", "verdict", "measured"], rows, words=3))
    assert "│ met     │" in output.getvalue()
    assert output.getvalue().count("x") == 60
    assert "…" not in output.getvalue()


def test_tones_are_colours_on_a_terminal_and_the_frame_can_be_left_out() -> None:
    shown = Table(["a", "b"], [[Cell("good one", "good"), Cell("[bad] one", "bad")]], numbers=1, caption="below")
    output = io.StringIO()
    ConsoleReporter(Console(file=output, force_terminal=True, width=60, color_system="standard")).show_table("T", shown)
    assert "\x1b[32mgood one" in output.getvalue()
    assert "\x1b[1;31m[bad] one" in output.getvalue()
    plain, text = reporter(terminal=False)
    plain.show_table("T", shown, "mark", slim=True)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert [lines[0], *lines[3:]] == ["T", "good one   [bad] one", "mark", "below"]


def test_running_text_is_wrapped_between_words_and_hangs_after_its_bullet() -> None:
    shown, output = reporter(terminal=False)
    shown.show_list("Findings", ["word " * 40, "short [x]"])
    lines = output.getvalue().splitlines()
    assert lines[0] == "Findings"
    assert lines[1].startswith("- word word") and lines[2].startswith("  word word")
    assert all(len(line) <= READABLE and line == line.rstrip() for line in lines)
    assert " ".join(lines[1:-1]).split() == ["-", *["word"] * 40]
    assert lines[-1] == "- short [x]"


def test_the_outcome_names_scores_seconds_and_files(tmp_path: Path) -> None:
    scores = {"f1": 1.234, "exact_match": 2.0, "valid_syntax": 99.5, "bleu": 7.0}
    outcome = Outcome(
        RunDirectory.create(tmp_path / "run"),
        1500,
        "validation",
        {"teacher": scores, "student": scores},
        {"training": 61.0, "scoring": 0.5},
    )
    shown, output = reporter(terminal=False)
    shown.show_outcome(outcome)
    text = output.getvalue()
    lines = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["teacher", "1.23", "2.00", "99.50"] in lines
    assert ["student", "1.23", "2.00", "99.50"] in lines
    assert ["total", "61.5"] in lines
    assert "1,500 records of validation" in text
    for name in ("student", "step_metrics.csv", "evaluation/validation", "run.json"):
        assert str(tmp_path / "run" / name) in text


def test_how_tests_ended_fits_a_terminal_of_80_columns() -> None:
    rate = {"value": 100.0, "low": 100.0, "high": 100.0}
    system = {"pass_rate": rate, "pass_and_can_fail_rate": rate, "counts": dict.fromkeys(OUTCOMES, 9999)}
    facts = {"systems": {"most frequent assertion": system}, "run": 9999, "drawn": 9999, "collected": 9999}
    facts |= {"excluded": {}, "gold_pass_rate_of_collected": rate, "most_parameter_sets": 3, "timeout_seconds": 10.0}
    output = io.StringIO()
    for part in _executions({**facts, "isolation": "Alone"}):
        Console(file=output, width=80).print(part)
    assert all(any(outcome in line for line in output.getvalue().splitlines()) for outcome in OUTCOMES)
    assert "100.0 (100.0 to 100.0) │ 100.0 (100.0 to 100.0) │" in output.getvalue()


def test_silence_takes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    silent = SilentReporter()
    silent.note("x")
    with silent.task("y", 3) as task:
        task.update(1, 2, "z")
    assert capsys.readouterr() == ("", "")


def test_of_several_processes_the_main_one_is_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank, shown in (("0", "a note\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        ConsoleReporter().note("a note")
        assert capsys.readouterr().out == shown


def test_text_for_a_program_that_has_gone_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        write_plainly("more than anybody reads")
        write_plainly("and more")
