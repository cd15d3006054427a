"""What is asked for is checked at once, before anything is loaded."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from distillctl.core.errors import UsageError
from distillctl.core.execution import request, sandbox
from distillctl.core.execution.request import check_request

ASKED: dict[str, Any] = {
    "run_tests": True,
    "allowed": True,
    "most": None,
    "timeout": None,
    "unsafe_no_sandbox": True,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"allowed": False}, "add --allow-code-execution"),
        ({"most": 0}, "--max-run-tests should be at least 1. Found 0"),
        ({"timeout": 0.0}, "--timeout should be more than 0"),
        ({"timeout": float("nan")}, "--timeout should be more than 0"),
        ({"timeout": 1e6}, "at most 600 seconds"),
        ({"run_tests": False, "allowed": False}, "--unsafe-no-sandbox: only with --run-tests"),
        ({"run_tests": False, "most": 3}, "--allow-code-execution, --max-run-tests, --unsafe-no-sandbox: only with"),
    ],
)
def test_a_mistake_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("--", "[-][-]")):
        check_request(**ASKED | changes)


def test_nothing_asked_is_nothing_done() -> None:
    nothing = {"run_tests": False, "allowed": False, "most": None, "timeout": None, "unsafe_no_sandbox": False}
    assert check_request(**nothing) is None  # type: ignore[arg-type]


def test_defaults_are_filled_in() -> None:
    found = check_request(**ASKED)
    assert found is not None
    assert (found.most, found.limits.timeout, found.limits.isolation.sandboxed) == (300, 20.0, False)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "_NEEDED", ("pytest", "not_there_at_all"))
    assert importlib.util.find_spec("not_there_at_all") is None
    with pytest.raises(UsageError, match=r"needs not_there_at_all: pip install 'distillctl\[execution\]'"):
        check_request(**ASKED)


def test_without_a_sandbox_it_refuses_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "refusal", lambda: "user namespaces: Operation not permitted")
    with pytest.raises(UsageError, match=r"user namespaces: Operation not permitted.*--unsafe-no-sandbox"):
        check_request(**ASKED | {"unsafe_no_sandbox": False})


def test_the_trial_tells_the_systems_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "readable_paths", lambda roots: ["/usr"])  # not even Python can be seen
    reason = sandbox.refusal.__wrapped__()
    assert reason is not None
    assert reason.strip()


def test_other_systems_are_refused_with_or_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    for unsafe in (True, False):
        with pytest.raises(UsageError, match=r"needs Linux.*This is darwin"):
            check_request(**ASKED | {"unsafe_no_sandbox": unsafe})
