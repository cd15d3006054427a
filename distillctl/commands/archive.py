"""``distillctl archive``: keep what reports need of finished runs, small enough to commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distillctl.console import ConsoleReporter
from distillctl.core.errors import UsageError

MIB = 2**20


def run(paths: Sequence[str], *, output: str, overwrite: bool = False, allow_unfinished: bool = False) -> None:
    """Copies each run to a folder of its own name in ``output``; prints where, and how small.

    Raises UsageError or DataError (before anything of that run is written), or RunError.
    """
    from distillctl.core.run_dir import RunDirectory, archive_run, demand_finished

    runs = [RunDirectory.open(path) for path in paths]
    twice = [name for name, times in Counter(run.path.name for run in runs).items() if times > 1]
    if twice:
        raise UsageError(f"several runs are called {', '.join(twice)}: archive them to different folders")
    for run in runs:
        if not allow_unfinished:
            demand_finished(run.record(), str(run.path))
    reporter = ConsoleReporter()
    with reporter.task("archiving", len(runs)) as task:
        for done, run in enumerate(runs, start=1):
            archived = archive_run(run, Path(output) / run.path.name, overwrite=overwrite)
            reporter.note(f"{archived.path}: {archived.after / MIB:.2f} MiB, of {archived.before / MIB:.1f}")
            task.update(done)
