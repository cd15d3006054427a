"""``distillctl profile-overhead``: what an objective costs, against the baseline and plain cross-entropy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillctl.console import TONE_STYLES, ConsoleReporter
from distillctl.core.errors import GateError, UsageError

if TYPE_CHECKING:
    from distillctl.core.config import Config
    from distillctl.core.profiling.request import Request

Configure = Callable[[str, Mapping[str, Any]], "Config"]
"""(file, values by dotted name) -> the configuration that results."""


def run(
    configure: Configure,
    *,
    baseline: str,
    candidate: str,
    settings: Sequence[str] = (),
    output: str = "results/overhead",
    trace: str | None = None,
    check: bool = False,
    **asked: Any,
) -> None:
    """Measures, prints the tables, and writes overhead.json and its picture to ``output``, or to a run's analysis/.

    ``asked`` are the fields of a :class:`Request`. Raises UsageError, DataError (before anything is written), RunError,
    or with ``check`` GateError (after all else).
    """
    # Its profiler, which counts memory, tells the terminal that it starts and stops; read once, when torch is loaded.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from distillctl.core.analysis.overhead import read_ratio
    from distillctl.core.analysis.overhead_plot import PLOT, draw_overhead
    from distillctl.core.analysis.overhead_record import OVERHEAD_FILE, overhead_record
    from distillctl.core.profiling.overhead import measure_overhead
    from distillctl.core.profiling.request import Request
    from distillctl.core.run_dir import write_atomically
    from distillctl.core.store.files import to_json

    request = Request(**asked)
    request.check()
    request.refuse_fixed(settings)
    first, second = (_configured(configure, file, request) for file in (baseline, candidate))
    folder, trace_file = _folder(output), _writable(trace)
    reporter = ConsoleReporter()
    measured = measure_overhead(first, second, request, reporter, trace_file)
    record = overhead_record(measured)
    _show(record, reporter)
    write_atomically(folder / PLOT, draw_overhead(record))
    write_atomically(folder / OVERHEAD_FILE, to_json(record) + "\n")
    for path in (folder / OVERHEAD_FILE, folder / PLOT, *([trace_file] if trace_file else [])):
        reporter.note(str(path))
    if check and not record["within"]:
        ratio = read_ratio(record["ratio"], "ratio").beside(record["limit"])
        raise GateError(f"candidate / baseline {ratio} is {record['verdict']}")


def _configured(configure: Configure, file: str, request: Request) -> Config:
    """A configuration with what the measurement sets; the number of steps follows from the device."""
    steps = request.steps_on(configure(file, {}).device)
    return configure(file, request.settings(steps))


def _folder(output: str) -> Path:
    """Where to write: analysis/ of a run, from which ``report`` takes it, or a folder of its own."""
    from distillctl.core.run_dir import RunDirectory
    from distillctl.core.store.files import creating

    path = Path(output)
    run = RunDirectory(path)
    if run.record_file.is_file():
        return run.analysis
    with creating(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def _writable(trace: str | None) -> Path | None:
    from distillctl.core.store.files import creating

    if trace is None:
        return None
    path = Path(trace)
    if path.is_dir():
        raise UsageError(f"--trace {trace}: should be a file. Found a folder")
    with creating(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _show(record: Mapping[str, Any], reporter: ConsoleReporter) -> None:
    """The verdict first, then what was asked for, then where the time goes."""
    from distillctl.core.analysis.overhead import read_ratio
    from distillctl.core.analysis.overhead_record import OVERHEAD_FILE
    from distillctl.core.analysis.overhead_tables import (
        arms_table,
        asked_table,
        parts_table,
        payback_text,
        ratios_table,
        terms_table,
    )

    tone = ("good" if record["certain"] else "unsure") if record["within"] else "bad"
    ratio = read_ratio(record["ratio"], "ratio")
    reporter.show_text(f"candidate / baseline {ratio.beside(record['limit'])}: {record['verdict']}", TONE_STYLES[tone])
    terms = terms_table(record, OVERHEAD_FILE)
    reporter.show_table("Asked for", asked_table(record, OVERHEAD_FILE), slim=True)
    reporter.show_table("Step times", ratios_table(record, OVERHEAD_FILE), slim=True)
    if terms is not None:
        reporter.show_table("What each term adds", terms, slim=True)
    reporter.show_table("Where the time goes", parts_table(record), slim=True)
    reporter.show_table("Arms", arms_table(record), slim=True)
    if payback_text(record):
        reporter.show_text(payback_text(record))
