"""``distillctl analyse-scaling``: are the loss terms of a run balanced, and what to change if not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from distillctl.console import TONE_STYLES, ConsoleReporter, write_plainly
from distillctl.core.errors import UsageError

if TYPE_CHECKING:
    from distillctl.core.analysis.scaling_verdicts import Assessed

RECORD = "loss_scaling.json"


def run(path: str, *, window: int = 100, check: bool = False, as_json: bool = False) -> None:
    """Prints one screen (or, with ``as_json``, the JSON object only) and writes it with plots to the run's analysis/.

    ``window`` is in optimizer steps, at least 1. Raises UsageError, DataError (before anything is written), RunError
    (where the files cannot be written), or with ``check`` GateError (after all else).
    """
    from distillctl.core.analysis.criterion import demand
    from distillctl.core.analysis.scaling import analyse
    from distillctl.core.analysis.scaling_plots import draw_scaling
    from distillctl.core.analysis.scaling_run import read_scaling_run
    from distillctl.core.analysis.scaling_tables import to_record
    from distillctl.core.analysis.scaling_verdicts import assess_scaling
    from distillctl.core.run_dir import RunDirectory, write_atomically

    if window < 1:
        raise UsageError(f"--window: should be at least 1 optimizer step. Found {window}")
    data = read_scaling_run(path)
    assessed = assess_scaling(data, analyse(data, window))
    record = json.dumps(to_record(assessed), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if as_json:
        write_plainly(record)
    else:
        _show(assessed, ConsoleReporter())
    folder = RunDirectory(Path(path)).analysis
    for name, png in draw_scaling(data, window).items():
        write_atomically(folder / name, png)
    write_atomically(folder / RECORD, record)
    if check:
        demand(assessed.criteria)


def _show(assessed: Assessed, reporter: ConsoleReporter) -> None:
    """The verdict first, the command to try last."""
    from distillctl.core.analysis.criterion import criteria_table
    from distillctl.core.analysis.scaling_plots import COSINES, GRADIENTS, LOSSES
    from distillctl.core.analysis.scaling_tables import facts_line, gradient_table, loss_table, pair_table
    from distillctl.core.analysis.scaling_verdicts import SEPARATE

    scaling = assessed.scaling
    reporter.show_text(assessed.headline, TONE_STYLES[assessed.tone])
    reporter.note(facts_line(assessed))
    reporter.note("")
    reporter.show_table("Verdicts", criteria_table(assessed.criteria), slim=True)
    reporter.show_text(SEPARATE)
    tables = {
        "Losses, running mean ± std (steps)": loss_table(scaling),
        "Gradient norms at the logits": gradient_table(scaling),
        "Each two terms: scaled losses, and cosines of their gradients": pair_table(scaling),
    }
    for title, shown in tables.items():
        if shown.rows:
            reporter.note("")
            reporter.show_table(title, shown, slim=True)
    reporter.note("")
    for title, sentences in (("Findings", assessed.findings), ("What to change", assessed.change)):
        if sentences:
            reporter.show_list(title, sentences)
    files = ", ".join((RECORD, LOSSES, GRADIENTS, COSINES))
    reporter.note(f"Files in {Path(assessed.run.path) / 'analysis'}: {files}")
    reporter.note(
        f"Try:\n  {assessed.command}" if assessed.command else "Nothing to try: leave the scales as they are."
    )
