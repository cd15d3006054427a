"""``distillctl evaluate``: score a run's student, or any encoder-decoder model, on a split."""

from __future__ import annotations

from distillctl.console import ConsoleReporter
from distillctl.core.config.schema import Config


def run(
    config: Config, *, target: str, output: str | None = None, teacher: str | None = None, with_teacher: bool = True
) -> None:
    """Scores as configured, prints the scores with their breakdowns, and says where the files are."""
    from distillctl.core.assessment import assess

    reporter = ConsoleReporter()
    reporter.show_assessment(
        assess(target, config, reporter, output=output, teacher=teacher, with_teacher=with_teacher)
    )
