"""What a user asks for with ``evaluate --run-tests``, checked before anything is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from distillctl.core.errors import CollectedUsageError, UsageError
from distillctl.core.execution.sandbox import choose_isolation
from distillctl.core.execution.session import Limits

MOST_SAMPLES = 300
TIMEOUT = 20.0
LONGEST_TIMEOUT = 600.0
_NEEDED = ("pytest", "hypothesis")


@dataclass(frozen=True, slots=True)
class RunTests:
    """How many records to run at most, and how."""

    most: int
    limits: Limits


def check_request(
    *, run_tests: bool, allowed: bool, most: int | None, timeout: float | None, unsafe_no_sandbox: bool
) -> RunTests | None:
    """The request, or None where none was made.

    Raises UsageError, with all that is wrong: options without ``--run-tests``, no permission, values out of range, a
    missing package, no sandbox.
    """
    if not run_tests:
        given = {
            "--allow-code-execution": allowed,
            "--max-run-tests": most is not None,
            "--timeout": timeout is not None,
            "--unsafe-no-sandbox": unsafe_no_sandbox,
        }
        alone = [name for name, value in given.items() if value]
        if alone:
            raise UsageError(f"{', '.join(alone)}: only with --run-tests")
        return None
    wrong = []
    if not allowed:
        wrong.append(
            "--run-tests runs code that a model has written: add --allow-code-execution if you agree (README, "
            '"Does the assertion pass?", says what is protected)'
        )
    if most is not None and most < 1:
        wrong.append(f"--max-run-tests should be at least 1. Found {most}")
    if timeout is not None and not 0 < timeout <= LONGEST_TIMEOUT:
        wrong.append(f"--timeout should be more than 0 and at most {LONGEST_TIMEOUT:g} seconds. Found {timeout:g}")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        wrong.append(f"--run-tests needs {' and '.join(missing)}: pip install 'distillctl[execution]'")
    if wrong:
        raise CollectedUsageError(wrong)
    limits = Limits(TIMEOUT if timeout is None else timeout, choose_isolation(unsafe_no_sandbox))
    return RunTests(MOST_SAMPLES if most is None else most, limits)
