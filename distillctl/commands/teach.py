"""``distillctl teach``: train a teacher with plain cross-entropy."""

from __future__ import annotations

from distillctl.console import ConsoleReporter
from distillctl.core.config.schema import Config


def run(config: Config, *, overwrite: bool = False) -> None:
    """Teaches as configured and prints the scores and where the files are."""
    from distillctl.core.distillation import teach

    reporter = ConsoleReporter()
    reporter.show_outcome(teach(config, reporter, overwrite=overwrite))
