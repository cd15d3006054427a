"""What a person sees: bars on a terminal, lines elsewhere, texts as they are."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from distillctl.console import ConsoleReporter, SweepScreen, ranking_table, table
from distillctl.core.distillation import Outcome
from distillctl.core.progress import SilentReporter
from distillctl.core.run_dir import RunDirectory
from distillctl.core.sweep.claims import Claim
from distillctl.core.sweep.plan import Sweep
from distillctl.core.sweep.ranking import rank
from distillctl.core.sweep.study import DONE, FAILED, RUNNING, WAITING, Entry
from tests.core.sweep.sweeps import planned, result


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


FREE = Claim(None, 0, 0)
TAKEN = Claim("somebody", 0, 0)


def sweep_screen(terminal: bool) -> tuple[SweepScreen, Sweep, io.StringIO]:
    shown, output = reporter(terminal)
    sweep = planned(Path("sweep"), "beta=3,5,7")
    return SweepScreen(shown, sweep), sweep, output


def test_away_from_a_terminal_each_change_of_a_trial_is_one_line() -> None:
    screen, sweep, output = sweep_screen(terminal=False)
    done, failed = Entry(DONE, FREE, 0, 4.256, 61.24), Entry(FAILED, FREE, 2, reason="NaN [focal]")
    with screen:
        screen.show([Entry(WAITING, FREE)] * 3, None)
        screen.show([Entry(RUNNING, TAKEN), Entry(RUNNING, TAKEN), Entry(WAITING, FREE)], 0)
        with screen.reporter(sweep.trials[0]).task("training", 9) as task:
            task.update(4, note="loss 1.2")
        for _ in range(2):
            screen.show([done, Entry(RUNNING, TAKEN), failed], None)
    assert output.getvalue().splitlines() == [
        "1/3 semantic_loss_scale=3, seed=13: running",
        "2/3 semantic_loss_scale=5, seed=13: running in another worker",
        "1/3 semantic_loss_scale=3, seed=13: F1 4.26 on dev, 61.2 s",
        "3/3 semantic_loss_scale=7, seed=13: failed: NaN [focal]",
    ]


def test_on_a_terminal_a_table_shows_every_trial_and_its_progress() -> None:
    screen, sweep, output = sweep_screen(terminal=True)
    with screen:
        screen.show(
            [Entry(DONE, FREE, 0, 4.256, 61.24), Entry(RUNNING, TAKEN, 1), Entry(FAILED, FREE, 2, reason="NaN")], 1
        )
        with screen.reporter(sweep.trials[1]).task("training") as task:
            task.update(1_200, total=3_000)
            Console(file=output, width=100).print(screen._table())
    rows = [line.replace("│", " ").split() for line in output.getvalue().splitlines()]
    assert ["1", "done", "3", "13", "4.26", "61"] in rows
    assert ["2", "training", "1,200/3,000", "5", "13", "0"] in rows
    assert ["3", "failed", "7", "13"] in rows
    assert "1 done, 1 running, 1 failed" in output.getvalue()
    assert output.getvalue().splitlines()[-1].endswith("3/3 semantic_loss_scale=7, seed=13: failed: NaN")


def test_a_long_sweep_shows_the_trials_around_those_at_work() -> None:
    screen, _, _ = sweep_screen(terminal=False)
    sweep = planned(Path("sweep"), "beta=" + ",".join(map(str, range(1, 101))))
    screen._sweep = sweep
    screen._entries = [Entry(DONE, FREE, 0, 1.0, 1.0)] * 60 + [Entry(WAITING, FREE)] * 40
    shown = io.StringIO()
    Console(file=shown, width=100).print(screen._table())
    assert "│ 61" in shown.getvalue() and "│ 60" in shown.getvalue()
    assert "│ 20 " not in shown.getvalue() and "│ 95 " not in shown.getvalue()
    assert "60 done, 40 waiting" in shown.getvalue()


def test_the_ranking_marks_what_cannot_be_told_apart() -> None:
    sweep = planned(Path("sweep"), "beta=3,5,7")
    output = io.StringIO()
    ranking = rank(sweep, {0: result(4), 1: result(10), 2: result(10)})
    Console(file=output, width=80).print(ranking_table(sweep, ranking))
    rows = [line.replace("│", " ").split() for line in output.getvalue().splitlines()]
    assert next(row for row in rows if row[:1] == ["best"])[:3] == ["best", "5", "50.00"]
    assert next(row for row in rows if row[:1] == ["tied"])[:3] == ["tied", "7", "50.00"]
    assert next(row for row in rows if row[:1] == ["worse"])[-4:] == ["-30.00", "-30.00", "to", "-30.00"]
    assert "not told apart from the best" in output.getvalue()
    several = planned(Path("sweep"), "beta=3,5", seeds=2)
    output = io.StringIO()
    partly = rank(several, {0: result(4), 1: result(10), 2: result(6)})
    Console(file=output, width=80).print(ranking_table(several, partly))
    rows = [line.replace("│", " ").split() for line in output.getvalue().splitlines()]
    assert next(row for row in rows if row[:1] == ["best"])[:3] == ["best", "3", "25.00"]
    assert ["1", "failed", "5", "50.00"] in rows


def test_silence_takes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    silent = SilentReporter()
    silent.note("x")
    with silent.task("y", 3) as task:
        task.update(1, 2, "z")
    assert capsys.readouterr() == ("", "")
