"""A pass needs proof of every part; rates come with intervals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.execution.outcomes import (
    ASSERTS_NOTHING,
    ERROR,
    FAILED,
    NOT_COLLECTED,
    OUTCOMES,
    PASSED,
    SKIPPED,
    TIMEOUT,
    Verdict,
    as_prediction,
    judge,
    rate_text,
    summarise,
    wilson,
)


def ended(**changes: Any) -> dict[str, Any]:
    report = {
        "items": [{"id": "t", "outcome": "passed", "detail": ""}],
        "asserting": 1,
        "started": 1,
        "ended": 1,
        "failures": [],
        "errors": [],
        "ran": [0],
        "can_fail": [],
    }
    return {"status": "ended", "report": report | changes}


def item(outcome: str, detail: str = "") -> list[dict[str, str]]:
    return [{"id": "t", "outcome": outcome, "detail": detail}]


CASES: list[tuple[dict[str, Any] | None, str]] = [
    (ended(), PASSED),
    (None, ERROR),
    ({"status": "died"}, ERROR),
    ({"status": "memory"}, ERROR),
    ({"status": "timeout"}, TIMEOUT),
    ({"status": "not collected", "detail": "no module"}, NOT_COLLECTED),
    ({"status": "ended", "report": {"invalid": "SyntaxError"}}, ERROR),
    ({"status": "ended", "report": {"error": "SystemExit: 0"}}, ERROR),
    ({"status": "ended", "report": {"not_collected": "no such test"}}, NOT_COLLECTED),
    (ended(failures=["AssertionError"]), FAILED),
    (ended(failures=["AssertionError"], items=item("failed")), FAILED),
    (ended(items=item("failed", "call: AssertionError")), FAILED),
    (ended(items=item("failed", "setup: OSError"), errors=["OSError"]), ERROR),
    (ended(items=item("skipped", "no")), SKIPPED),
    (ended(items=[]), SKIPPED),
    (ended(started=0), ERROR),
    (ended(ended=0), ERROR),
    (ended(ran=[]), ASSERTS_NOTHING),
    (ended(ran=[], asserting=0), ASSERTS_NOTHING),
]


@pytest.mark.parametrize(("answer", "outcome"), CASES)
def test_an_answer_has_its_verdict(answer: dict[str, Any] | None, outcome: str) -> None:
    assert judge(answer).outcome == outcome


def test_a_prediction_may_not_skip_the_test() -> None:
    assert as_prediction(Verdict(SKIPPED, detail="why")) == Verdict(ERROR, detail="skipped: why")
    assert as_prediction(Verdict(PASSED)) == Verdict(PASSED)


def test_wilsons_interval_is_the_published_one() -> None:
    rate = wilson(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert (round(rate.value, 2), round(rate.low, 2), round(rate.high, 2)) == (30.80, 25.53, 36.62)
    assert (wilson(0, 20).low, wilson(20, 20).high) == (0, 100)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0, 100)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None, max_examples=50)
def test_the_interval_holds_the_rate(counts: tuple[int, int]) -> None:
    rate = wilson(*counts)
    assert 0 <= rate.low <= rate.value + 1e-9
    assert rate.value - 1e-9 <= rate.high <= 100


def test_a_summary_counts_every_outcome() -> None:
    verdicts = [Verdict(outcome) for outcome in OUTCOMES] + [Verdict(PASSED, can_fail=True), Verdict(FAILED, True)]
    facts = summarise(verdicts)
    assert facts["samples"] == 8
    assert facts["counts"] == dict.fromkeys(OUTCOMES, 1) | {PASSED: 2, FAILED: 2}
    assert (facts["pass_rate"]["value"], facts["pass_and_can_fail_rate"]["value"]) == (25.0, 12.5)
    assert rate_text(facts["pass_rate"]).startswith("25.0 (")
