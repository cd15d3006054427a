"""What a person sees: progress on long work, notes, tables. Quiet when the output is not a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from distillctl.core.evaluation.evaluate_assertions import METRICS_FILE, NEEDS_CHECKOUT, PREDICTIONS_FILE
from distillctl.core.execution.outcomes import EXECUTION, OUTCOMES, about, rate_text
from distillctl.core.processes import launched
from distillctl.core.progress import Task

if TYPE_CHECKING:
    from distillctl.core.analysis import document
    from distillctl.core.assessment import Assessment
    from distillctl.core.distillation import Outcome
    from distillctl.core.planning.plan import Plan

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
READABLE = 110
"""The most columns of running text."""
TONE_STYLES = {"good": "green", "bad": "bold red", "unsure": "yellow", "plain": ""}


class _Console(Console):
    """Whose reader may leave, as ``| head`` does: nothing is shown any more, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Instead of ending the process."""
        self.quiet = True
        leave_stdout()


def leave_stdout() -> None:
    """Throws away what is written to stdout from now on, and what waits in its buffer."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def write_plainly(text: str) -> None:
    """``text`` alone on stdout, for other programs; nothing happens if they have gone."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        leave_stdout()


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
    """Progress bars on a terminal; elsewhere one line when a piece of work is done, for logs.

    Of several processes only the main one is heard.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _Console(soft_wrap=True, highlight=False, quiet=launched()[0] != 0)

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

    def show_plan(self, found: Plan) -> None:
        """What a training would do, hold and take; last what could not be checked."""
        self.show_facts("Plan (nothing was written)", found.facts)
        for title, shown in found.tables.items():
            self.show_table(title, shown)
        for note in found.notes:
            self.show_text(note, "yellow")

    def show_assessment(self, found: Assessment) -> None:
        """Every score of every system, the student's by project and by kind of assertion, and where the files are."""
        samples = found.metrics["counts"]["samples"]
        rows = [[title, *(f"{of[name]:.2f}" for of in found.scores.values())] for name, title in SHOWN_IN_FULL.items()]
        unmeasured = [
            [name.replace("_", " "), *[found.metrics[name]] * len(found.scores)]
            for name in NEEDS_CHECKOUT
            if isinstance(found.metrics[name], str)
        ]
        title = f"{samples:,} records of {found.split}, points of 100"
        caption = f"{found.seconds:.1f} s"
        self.console.print(table(title, ["", *found.scores], [*rows, *unmeasured], caption))
        if EXECUTION in found.metrics:
            for part in _executions(found.metrics[EXECUTION]):
                self.console.print(part)
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

    def show_table(self, title: str, shown: document.Table, mark: str = "", *, slim: bool = False) -> None:
        """A table of a report, its tones as colours; ``mark`` stands above its caption, ``slim`` is without a frame."""
        caption = "\n".join(part for part in (mark, shown.caption) if part)
        rows = [[Text(cell.text, TONE_STYLES[cell.tone]) for cell in row] for row in shown.rows]
        words = len(shown.columns) - shown.numbers
        self.console.print(table(title, shown.columns, rows, caption or None, words=words, slim=slim))

    def show_text(self, text: str, style: str = "", bullet: str = "") -> None:
        """Running text, wrapped between words at a width that reads well; ``bullet`` hangs before its first line."""
        width = min(self.console.width, READABLE) - len(bullet)
        for number, line in enumerate(Text(text, style).wrap(self.console, width)):
            line.rstrip()
            self.console.print(Text(" " * len(bullet) if number else bullet).append_text(line))

    def show_list(self, title: str, sentences: Sequence[str]) -> None:
        """Sentences, one an item."""
        self.note(title)
        for sentence in sentences:
            self.show_text(sentence, bullet="- ")

    def show_facts(self, title: str, facts: Mapping[str, object]) -> None:
        """A table of names and values."""
        rows = [[name, f"{v:,.1f}" if isinstance(v, float) else str(v)] for name, v in facts.items()]
        self.console.print(table(title, ["", ""], rows))


def _executions(facts: Mapping[str, Any]) -> tuple[Table, Table]:
    """What running the predictions showed: rates with their intervals, and how each system's predictions ended.

    Two tables, since one with all of it would break its words in a terminal of 80 columns.
    """
    systems = facts["systems"].items()
    shown = ("pass_rate", "pass_and_can_fail_rate")
    rates = [[name, *(rate_text(found[rate]) for rate in shown)] for name, found in systems]
    counts = [[name, *(str(found["counts"][outcome]) for outcome in OUTCOMES)] for name, found in systems]
    title = f"Do the tests pass? {facts['run']:,} samples, points of 100 with 95 % intervals"
    return (
        table(title, ["", "pass", "pass, can fail"], rates),
        table("How they ended", ["", *OUTCOMES], counts, about(facts), slim=True),
    )


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    caption: str | None = None,
    *,
    words: int = 1,
    slim: bool = False,
) -> Table:
    """A table whose first ``words`` columns are text and whose others are numbers; all of it is shown as it is."""
    below = None if caption is None else Text(caption)
    result = Table(
        title=Text(title),
        caption=below,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD if slim else HEAVY_HEAD,
        show_edge=not slim,
        pad_edge=not slim,
    )
    for index, column in enumerate(columns):
        result.add_column(Text(column), justify="left" if index < words else "right", overflow="fold")
    for row in rows:
        result.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return result
