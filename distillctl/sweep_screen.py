"""What a person sees of a sweep: its trials while they run, and the ranking at the end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.live import Live
from rich.table import Table

from distillctl.console import ConsoleReporter, table
from distillctl.core.analysis.figures import interval_text, signed, value_text
from distillctl.core.progress import Reporter, Task

if TYPE_CHECKING:
    from distillctl.core.evaluation.significance import Difference
    from distillctl.core.sweep.plan import Sweep, Trial
    from distillctl.core.sweep.ranking import Ranking
    from distillctl.core.sweep.study import Entry

_STATES = ("done", "running", "waiting", "failed")
_VERDICTS = {"not told apart from the best": "tied"}


class _TrialReporter:
    """Turns a trial's progress into the words of its row; its notes are for those who train one student."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def note(self, text: str) -> None:
        pass

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        yield _TrialTask(self._say, title, total)


class _TrialTask:
    def __init__(self, say: Callable[[str], None], title: str, total: int | None) -> None:
        self._say, self._title, self._total = say, title, total
        self.update(0)

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self._total = total or self._total
        self._say(f"{self._title} {done:,}/{self._total:,}" if self._total else self._title)


class SweepScreen:
    """A sweep's trials as a table that stays up to date; away from a terminal, a line for each change."""

    def __init__(self, reporter: ConsoleReporter, sweep: Sweep) -> None:
        self._reporter, self._sweep = reporter, sweep
        self._entries: list[Entry] = []
        self._shown: dict[int, str] = {}
        self._mine: int | None = None
        self._progress, self._started = "", 0.0
        self._lock = threading.Lock()  # the worker's heart shows things too
        console = reporter.console
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._reporter.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mine = None
        if self._live.is_started:
            self._live.stop()
            for trial, entry in zip(self._sweep.trials, self._entries, strict=False):
                if entry.reason:  # too long for the table
                    self._reporter.note(f"{self._place(trial)}: failed: {entry.reason}")

    def show(self, entries: Sequence[Entry], mine: int | None) -> None:
        """How every trial stands; ``mine`` is the one that this process is on."""
        with self._lock:
            if mine != self._mine:
                self._progress, self._started = "", time.perf_counter()
            self._entries, self._mine = list(entries), mine
            if not self._reporter.console.is_terminal:
                self._tell_changes()

    def reporter(self, trial: Trial) -> Reporter:
        """Who hears of a trial's own progress."""
        return _TrialReporter(self._say)

    def _say(self, text: str) -> None:
        self._progress = text

    def _tell_changes(self) -> None:
        for trial, entry in zip(self._sweep.trials, self._entries, strict=True):
            words = self._state(trial.number, entry)
            if entry.f1 is not None:
                words = f"F1 {entry.f1:.2f} on dev, {entry.seconds or 0:.1f} s"
            elif entry.reason:
                words = f"failed: {entry.reason}"
            if words != self._shown.get(trial.number, "waiting"):
                self._reporter.note(f"{self._place(trial)}: {words}")
            self._shown[trial.number] = words

    def _place(self, trial: Trial) -> str:
        return f"{trial.number + 1}/{len(self._sweep.trials)} {self._sweep.text(trial)}"

    def _state(self, number: int, entry: Entry) -> str:
        elsewhere = entry.state == "running" and number != self._mine
        return "running in another worker" if elsewhere else entry.state

    def _table(self) -> Table:
        """All trials, or as many as the screen holds, around those at work."""
        entries = self._entries
        room = max(5, self._reporter.console.height - 8)
        first = next((place for place, entry in enumerate(entries) if not entry.finished), 0)
        start = max(0, min(first - room // 2, len(entries) - room))
        columns = ["", "state", *(_narrow(axis.label) for axis in self._sweep.axes), "seed", "F1 on dev", "seconds"]
        places = range(start, min(len(entries), start + room))
        rows = [self._row(self._sweep.trials[place], entries[place]) for place in places]
        counts = {state: sum(entry.state == state for entry in entries) for state in dict.fromkeys(_STATES)}
        caption = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return table("Trials", columns, rows, caption, words=2)

    def _row(self, trial: Trial, entry: Entry) -> list[str]:
        words, seconds = self._state(trial.number, entry), entry.seconds
        if trial.number == self._mine:
            words, seconds = self._progress or words, time.perf_counter() - self._started
        f1 = "" if entry.f1 is None else f"{entry.f1:.2f}"
        values = [value_text(value) for value in (*trial.point, trial.seed)]
        return [str(trial.number + 1), words, *values, f1, "" if seconds is None else f"{seconds:.0f}"]


def ranking_table(sweep: Sweep, ranking: Ranking) -> Table:
    """The grid points, the best first, each with its interval and its difference to the best."""
    # With several axes the points' own intervals would not fit on a usual screen; the plot has them.
    own, several = len(sweep.axes) == 1, len(sweep.seeds) > 1
    rows = []
    for rank in ranking.ranks:
        difference = rank.to_best
        to_best = ["", ""] if difference is None else [signed(difference.difference), _range(difference)]
        interval = "none" if rank.low is None else f"{rank.low:.2f} to {rank.high:.2f}"
        scores = [f"{rank.f1:.2f}", *[interval] * own, *[_texts(rank.by_seed)] * several]
        rows.append([_VERDICTS.get(rank.verdict, rank.verdict), *map(value_text, rank.point), *scores, *to_best])
    for point, f1 in ranking.unranked:
        words = f"{len(sweep.seeds) - len(f1)} failed"
        rows.append([words, *map(value_text, point), "", *[""] * own, *[_texts(f1)] * several, "", ""])
    scores = ["F1", *["95 % interval"] * own, *["each seed"] * several]
    caption = (
        f"{ranking.samples:,} records of dev in {ranking.files:,} files; points of 100; intervals over files, the same "
        "ones for all\ntied: not told apart from the best, the interval of the difference holds 0\n"
        "The best of several is flattered by having been chosen: report it on validation"
    )
    columns = ["", *(_narrow(axis.label) for axis in sweep.axes), *scores, "- best", "95 % interval"]
    return table("Ranking", columns, rows, caption)


def _texts(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _narrow(label: str) -> str:
    """A field's name broken where it has its joints, for the head of a column of short values."""
    lines = [""]
    for part in re.split(r"(?<=[_.])", label):
        if len(lines[-1]) + len(part) > 12:
            lines.append("")
        lines[-1] += part
    return "\n".join(line for line in lines if line)


def _range(difference: Difference) -> str:
    return "none" if difference.low is None else interval_text(difference.low, difference.high)
