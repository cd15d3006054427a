"""What a person sees: progress on long work, notes, tables. Quiet when the output is not a terminal."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from distillctl.core.analysis.figures import interval_text, signed, value_text
from distillctl.core.evaluation.evaluate_assertions import METRICS_FILE, NEEDS_CHECKOUT, PREDICTIONS_FILE
from distillctl.core.progress import Reporter, Task

if TYPE_CHECKING:
    from distillctl.core.assessment import Assessment
    from distillctl.core.distillation import Outcome
    from distillctl.core.evaluation.significance import Difference
    from distillctl.core.sweep.plan import Sweep, Trial
    from distillctl.core.sweep.ranking import Ranking
    from distillctl.core.sweep.study import Entry

SHOWN = {"f1": "F1", "exact_match": "exact match", "valid_syntax": "valid syntax"}
SHOWN_IN_FULL = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "exact_match": "exact",
    "exact_match_normalised": "exact, spaces aside",
    "bleu": "BLEU",
    "chrf": "chrF",
    "token_accuracy": "token accuracy",
    "edit_similarity": "edit similarity",
    "valid_syntax": "valid syntax",
    "non_empty": "not empty",
    "contains_assertion": "asserts",
}
MOST_KINDS = 12


class _Bar:
    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self._progress = progress
        self._id = progress.add_task(title, total=total, note="")

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        if total is not None:
            self._progress.update(self._id, total=total)
        self._progress.update(self._id, completed=done, note=note)


class _Silent:
    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        pass


class ConsoleReporter:
    """Progress bars on a terminal; elsewhere one line when a piece of work is done, for logs."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)

    def note(self, text: str) -> None:
        """One line that stays. The text is shown as it is: it may hold brackets from files."""
        self.console.print(text, markup=False, emoji=False)

    @contextmanager
    def task(self, title: str, total: int | None = None) -> Iterator[Task]:
        """A bar with speed and time left while inside; then a line with the seconds it took."""
        started = time.perf_counter()
        if not self.console.is_terminal:
            yield _Silent()
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                yield _Bar(progress, title, total)
        self.note(f"{title}: {time.perf_counter() - started:.1f} s")

    def show_outcome(self, outcome: Outcome) -> None:
        """Scores beside what they must beat, seconds per phase, and where the files are."""
        caption = f"{outcome.records_scored:,} records of {outcome.split}; points of 100"
        rows = [[system, *(f"{values[name]:.2f}" for name in SHOWN)] for system, values in outcome.scores.items()]
        self.console.print(table("Scores", ["", *SHOWN.values()], rows, caption))
        self.show_facts("Seconds", {**outcome.seconds, "total": sum(outcome.seconds.values())})
        for name in ("student", "step_metrics.csv", f"evaluation/{outcome.split}", "run.json"):
            self.note(str(outcome.run.path / name))

    def show_assessment(self, found: Assessment) -> None:
        """Every score of every system, the student's by project and by kind of assertion, and where the files are."""
        samples = found.metrics["counts"]["samples"]
        rows = [[title, *(f"{of[name]:.2f}" for of in found.scores.values())] for name, title in SHOWN_IN_FULL.items()]
        unmeasured = [[name.replace("_", " "), *[found.metrics[name]] * len(found.scores)] for name in NEEDS_CHECKOUT]
        title = f"{samples:,} records of {found.split}, points of 100"
        caption = f"{found.seconds:.1f} s"
        self.console.print(table(title, ["", *found.scores], [*rows, *unmeasured], caption))
        for name in ("project", "kind"):
            self.console.print(self._breakdown(f"Student by {name}", found.metrics[f"by_{name}"]))
        for file in (METRICS_FILE, PREDICTIONS_FILE):
            self.note(str(found.folder / file))

    @staticmethod
    def _breakdown(title: str, groups: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
        """The largest groups first; the many small ones are in metrics.json."""
        ordered = sorted(groups.items(), key=lambda item: (-item[1]["counts"]["samples"], item[0]))
        rows = [
            [name, f"{group['counts']['samples']:,}", *(f"{group['scores'][metric]:.2f}" for metric in SHOWN)]
            for name, group in ordered[:MOST_KINDS]
        ]
        rest = len(ordered) - len(rows)
        caption = f"and {rest} smaller ones, in {METRICS_FILE}" if rest else None
        return table(title, ["", "records", *SHOWN.values()], rows, caption)

    def show_facts(self, title: str, facts: Mapping[str, object]) -> None:
        """A table of names and values."""
        rows = [[name, f"{v:,.1f}" if isinstance(v, float) else str(v)] for name, v in facts.items()]
        self.console.print(table(title, ["", ""], rows))


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None, *, words: int = 1
) -> Table:
    """A table whose first ``words`` columns are text and whose others are numbers; all of it is shown as it is."""
    below = None if caption is None else Text(caption)
    result = Table(title=Text(title), caption=below, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        result.add_column(Text(column), justify="left" if index < words else "right", overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


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


_STATES = ("done", "running", "waiting", "failed")


_VERDICTS = {"not told apart from the best": "tied"}


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
