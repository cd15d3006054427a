"""``distillctl evaluate``: score a run's student, or any encoder-decoder model, on a split."""

from __future__ import annotations

from distillctl.console import ConsoleReporter
from distillctl.core.config.schema import Config


def run(
    config: Config,
    *,
    target: str,
    output: str | None = None,
    teacher: str | None = None,
    with_teacher: bool = True,
    run_tests: bool = False,
    allow_code_execution: bool = False,
    max_run_tests: int | None = None,
    timeout: float | None = None,
    unsafe_no_sandbox: bool = False,
) -> None:
    """Scores as configured, prints the scores with their breakdowns, and says where the files are.

    With ``run_tests`` the predictions are run too, if the user allows it and the system has a sandbox; both are asked
    before anything is loaded.
    """
    from distillctl.core.execution.request import check_request

    tests = check_request(
        run_tests=run_tests,
        allowed=allow_code_execution,
        most=max_run_tests,
        timeout=timeout,
        unsafe_no_sandbox=unsafe_no_sandbox,
    )
    from distillctl.core.assessment import assess

    reporter = ConsoleReporter()
    reporter.show_assessment(
        assess(target, config, reporter, output=output, teacher=teacher, with_teacher=with_teacher, tests=tests)
    )
