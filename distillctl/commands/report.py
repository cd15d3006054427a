"""``distillctl report``: lay runs side by side, with intervals, pictures and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distillctl.console import ConsoleReporter
from distillctl.core.errors import UsageError

if TYPE_CHECKING:
    from distillctl.core.analysis.comparison import Comparison
    from distillctl.core.analysis.criterion import Criterion


def run(
    baselines: Sequence[str],
    candidates: Sequence[str],
    *,
    split: str = "validation",
    output: str = "results/report",
    allow_unfinished: bool = False,
    check: bool = False,
) -> None:
    """Writes report.md, report.html and the plots, prints the two tables; with ``check`` demands every criterion.

    Raises UsageError, DataError (before anything is written), or GateError (after).
    """
    from distillctl.core.analysis.acceptance import acceptance
    from distillctl.core.analysis.criterion import demand
    from distillctl.core.analysis.plots import draw_plots
    from distillctl.core.analysis.report import build_report
    from distillctl.core.analysis.report_folder import check_folder, write_report

    folder = Path(output)
    check_folder(folder)
    reporter = ConsoleReporter()
    comparison = _compare(baselines, candidates, split, allow_unfinished, reporter)
    criteria = acceptance(comparison)
    with reporter.task("drawing"):
        pictures = draw_plots(comparison)
    written = write_report(folder, build_report(comparison, criteria), pictures)
    _show(comparison, criteria, reporter)
    for path in written:
        reporter.note(str(path))
    if check:
        demand(criteria)


def _compare(
    baselines: Sequence[str], candidates: Sequence[str], split: str, allow_unfinished: bool, reporter: ConsoleReporter
) -> Comparison:
    from distillctl.core.analysis.comparison import compare
    from distillctl.core.analysis.run_data import read_run

    if not baselines or len(baselines) != len(candidates):
        raise UsageError(
            "--baseline and --candidate should be given equally often, at least once each. "
            f"Found {len(baselines)} and {len(candidates)}"
        )
    paths = list(dict.fromkeys([*baselines, *candidates]))
    runs = {}
    with reporter.task("scoring the stored predictions", len(paths)) as task:
        for done, path in enumerate(paths, start=1):
            runs[path] = read_run(path, split, allow_unfinished=allow_unfinished)
            task.update(done)
    with reporter.task("resampling"):
        return compare([runs[path] for path in baselines], [runs[path] for path in candidates], split)


def _show(comparison: Comparison, criteria: Sequence[Criterion], reporter: ConsoleReporter) -> None:
    from distillctl.core.analysis.criterion import criteria_table
    from distillctl.core.analysis.executions import execution_table
    from distillctl.core.analysis.report import notes_of, unfinished_mark
    from distillctl.core.analysis.tables import before_after_table

    mark = unfinished_mark(comparison)
    reporter.show_table("Before and after", before_after_table(comparison), mark)
    passing = execution_table(comparison)
    if passing is not None:
        reporter.show_table("Do the tests pass?", passing, mark)
    reporter.show_table("Acceptance", criteria_table(criteria), mark)
    for note in notes_of(comparison):
        reporter.note(f"note: {note}")
