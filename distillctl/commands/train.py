"""``distillctl train``: distil a student and show what came of it."""

from __future__ import annotations

from distillctl.console import ConsoleReporter
from distillctl.core.config import dump_yaml
from distillctl.core.config.schema import Config


def run(config: Config, *, overwrite: bool = False, resume: bool = False, dry_run: bool = False) -> None:
    """Distils as configured and prints the scores, the seconds per phase and where the files are."""
    from distillctl.core.distillation import distil
    from distillctl.core.planning.plan import plan

    reporter = ConsoleReporter()
    if dry_run:
        reporter.note(dump_yaml(config.to_dict()))
        reporter.show_plan(plan(config, reporter, overwrite=overwrite, resume=resume))
    else:
        reporter.show_outcome(distil(config, reporter, overwrite=overwrite, resume=resume))
