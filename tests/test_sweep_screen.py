"""What a person sees of a sweep: a table on a terminal, a line for each change elsewhere, the ranking."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from distillctl.console import ConsoleReporter
from distillctl.core.sweep.claims import Claim
from distillctl.core.sweep.plan import Sweep
from distillctl.core.sweep.ranking import rank
from distillctl.core.sweep.study import DONE, FAILED, RUNNING, WAITING, Entry
from distillctl.sweep_screen import SweepScreen, ranking_table
from tests.core.sweep.sweeps import planned, result

FREE = Claim(None, 0, 0)
TAKEN = Claim("somebody", 0, 0)


def sweep_screen(terminal: bool) -> tuple[SweepScreen, Sweep, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=160, highlight=False, color_system=None)
    sweep = planned(Path("sweep"), "beta=3,5,7")
    return SweepScreen(ConsoleReporter(console), sweep), sweep, output


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
