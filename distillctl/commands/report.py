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
    arms: Sequence[str] = (),
    split: str = "validation",
    output: str = "results/report",
    allow_unfinished: bool = False,
    check: bool = False,
) -> None:
    """Writes report.md, report.html and the plots, prints the tables; with ``check`` demands every criterion.

    ``arms`` are further runs, each as NAME=RUN, compared with the baselines of their seeds.

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
    comparison = _compare(baselines, candidates, arms, split, allow_unfinished, reporter)
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
    baselines: Sequence[str],
    candidates: Sequence[str],
    arms: Sequence[str],
    split: str,
    allow_unfinished: bool,
    reporter: ConsoleReporter,
) -> Comparison:
    from distillctl.core.analysis.comparison import compare
    from distillctl.core.analysis.run_data import read_run

    if not baselines or len(baselines) != len(candidates):
        raise UsageError(
            "--baseline and --candidate should be given equally often, at least once each. "
            f"Found {len(baselines)} and {len(candidates)}"
        )
    others = _named(arms)
    paths = list(dict.fromkeys([*baselines, *candidates, *(path for runs in others.values() for path in runs)]))
    runs = {}
    with reporter.task("scoring the stored predictions", len(paths)) as task:
        for done, path in enumerate(paths, start=1):
            runs[path] = read_run(path, split, allow_unfinished=allow_unfinished)
            task.update(done)
    with reporter.task("resampling"):
        return compare(
            [runs[path] for path in baselines],
            [runs[path] for path in candidates],
            split,
            {name: [runs[path] for path in found] for name, found in others.items()},
        )


def _named(arms: Sequence[str]) -> dict[str, list[str]]:
    """Runs by their arm's name, in the order given."""
    found: dict[str, list[str]] = {}
    for text in arms:
        name, sign, path = text.partition("=")
        if not (sign and name.strip() and path):
            raise UsageError(f"--arm: should be NAME=RUN, as in no-beta=results/no-beta-13. Found {text!r}")
        if name.strip() in ("baseline", "candidate"):
            raise UsageError(f"--arm: {name.strip()} has an option of its own (--{name.strip()} RUN)")
        found.setdefault(name.strip(), []).append(path)
    return found


def _show(comparison: Comparison, criteria: Sequence[Criterion], reporter: ConsoleReporter) -> None:
    from distillctl.core.analysis.criterion import criteria_table
    from distillctl.core.analysis.executions import execution_table
    from distillctl.core.analysis.report import notes_of, unfinished_mark
    from distillctl.core.analysis.tables import arms_table, before_after_table

    mark = unfinished_mark(comparison)
    reporter.show_table("Before and after", before_after_table(comparison), mark)
    every_arm = arms_table(comparison, brief=True)
    if every_arm is not None:
        reporter.show_table("All arms", every_arm, mark)
    passing = execution_table(comparison)
    if passing is not None:
        reporter.show_table("Do the tests pass?", passing, mark)
    reporter.show_table("Acceptance", criteria_table(criteria), mark)
    for note in notes_of(comparison):
        reporter.note(f"note: {note}")
