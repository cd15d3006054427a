"""What running a test with another assertion showed, and rates of such outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PASSED, ASSERTS_NOTHING, FAILED, ERROR, TIMEOUT, EMPTY = (
    "passed",
    "asserts nothing",
    "failed",
    "error",
    "timeout",
    "empty",
)
OUTCOMES = (PASSED, ASSERTS_NOTHING, FAILED, ERROR, TIMEOUT, EMPTY)
"""Of a prediction. ``passed``: the test passed and an assertion that inspects a value was executed. ``failed``: an
assertion failed. ``error``: anything else went wrong, from a syntax error to the death of the process."""

SKIPPED, NOT_COLLECTED, NOT_PLACED = "skipped", "not collected", "not in an installed package"
"""Further outcomes of a gold. Not collected: pytest finds no such test here (a missing module, a skipped file)."""

UNTRIED = "whether it can fail was not tried to the end"
"""The detail of a pass whose second run, with other values, ended early."""
GOLD = "gold"
EXECUTION = "execution"
"""The name of what running showed, in ``metrics.json`` and in the rows of ``predictions.jsonl``."""
HOW_IT_RAN = (
    "subject",
    "sandboxed",
    "isolation",
    "timeout_seconds",
    "most_parameter_sets",
    "drawn",
    "collected",
    "run",
    "excluded",
    "gold_pass_rate_of_collected",
)
"""What a report reads of it in ``metrics.json``."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One run of one test. ``items``: the parameter sets that passed. ``detail``: the reason, for a reader."""

    outcome: str
    can_fail: bool = False
    detail: str = ""
    items: tuple[str, ...] = ()
    alone: bool = False  # in a process of its own

    @property
    def passed(self) -> bool:
        """Whether it passed, and asserted something."""
        return self.outcome == PASSED

    @property
    def is_final(self) -> bool:
        """Whether its assertion was reached and judged, which another run on a quieter machine would not change."""
        return self.outcome in (PASSED, FAILED, ASSERTS_NOTHING) and self.detail != UNTRIED

    @property
    def passed_and_can_fail(self) -> bool:
        """Whether it passed, and would not have with another value under test."""
        return self.passed and self.can_fail


@dataclass(frozen=True, slots=True)
class Rate:
    """A share in points of 100 with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """As ``metrics.json`` has it."""
        return {"value": self.value, "low": self.low, "high": self.high}


def judge(answer: Mapping[str, Any] | None) -> Verdict:
    """The verdict on a run from what its runner answered; None is no answer. A pass needs proof of every part.

    Proof: the fork's own report with its secret; every phase of every parameter set passed, or was skipped, at least
    one passed; no failed assertion left the test; an assertion with a value was executed.
    """
    if answer is None:
        return Verdict(ERROR, detail="the process that ran it died")
    status = answer["status"]
    if status == "not collected":
        return Verdict(NOT_COLLECTED, detail=answer["detail"])
    if status == "timeout":
        return Verdict(TIMEOUT)
    if status != "ended":
        return Verdict(ERROR, detail=_ENDINGS[status])
    report = answer["report"]
    for kind, outcome in (("not_collected", NOT_COLLECTED), ("invalid", ERROR), ("error", ERROR)):
        if kind in report:
            return Verdict(outcome, detail=report[kind])
    return _judge_report(report)


_ENDINGS = {"died": "its process ended before pytest did", "memory": "it took more memory than allowed"}


def _judge_report(report: Mapping[str, Any]) -> Verdict:
    if report["failures"]:
        return Verdict(FAILED, detail=report["failures"][0])
    failed = next((item for item in report["items"] if item["outcome"] == "failed"), None)
    if failed is not None:
        # A failure that the test's own frame swallowed (a subTest) reaches pytest only.
        outcome = FAILED if "AssertionError" in failed["detail"] else ERROR
        return Verdict(outcome, detail=", ".join(report["errors"][:1]) or failed["detail"])
    passed = tuple(item["id"] for item in report["items"] if item["outcome"] == "passed")
    if not passed:
        reasons = [item["detail"] for item in report["items"]]
        return Verdict(SKIPPED, detail=reasons[0] if reasons else "nothing to run")
    if not report["started"] or not report["ended"]:
        return Verdict(ERROR, detail="the test was not executed to its end")
    if not report["ran"]:
        detail = "not executed" if report["asserting"] else "no assertion inspects a value of the test"
        return Verdict(ASSERTS_NOTHING, detail=detail, items=passed)
    return Verdict(PASSED, items=passed)


def as_prediction(verdict: Verdict) -> Verdict:
    """What a verdict means for a prediction, on a sample whose gold passes: it may not skip the test."""
    if verdict.outcome in OUTCOMES:
        return verdict
    return Verdict(ERROR, detail=f"{verdict.outcome}: {verdict.detail}")


def verdict_of(stored: Mapping[str, Any]) -> Verdict:
    """The verdict in a row of ``predictions.jsonl``."""
    return Verdict(stored["outcome"], stored["can_fail"], stored.get("detail", ""))


def is_stored_execution(value: Any) -> bool:
    """Whether a value read from a row is what running left there: verdicts by system, the gold's among them."""
    return (
        isinstance(value, Mapping)
        and GOLD in value
        and all(
            isinstance(one, Mapping) and isinstance(one.get("outcome"), str) and isinstance(one.get("can_fail"), bool)
            for one in value.values()
        )
    )


def wilson(part: int, whole: int, confidence: float = 0.95) -> Rate:
    """A share with Wilson's score interval, which stays within 0 and 100 and is honest near them (Wilson 1927)."""
    if whole == 0:
        return Rate(0.0, 0.0, 100.0)
    from scipy.stats import binomtest  # here: the console, which shows rates and makes none, reads this module too

    interval = binomtest(part, whole).proportion_ci(confidence, method="wilson")
    return Rate(100 * part / whole, 100 * float(interval.low), 100 * float(interval.high))


def summarise(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Counts of each outcome, the pass rate and the pass-and-can-fail rate, as ``metrics.json`` has them."""
    found = list(verdicts)
    counts = {outcome: sum(verdict.outcome == outcome for verdict in found) for outcome in OUTCOMES}
    able = sum(verdict.passed_and_can_fail for verdict in found)
    return {
        "samples": len(found),
        "counts": counts,
        "rates": {outcome: wilson(count, len(found)).to_dict() for outcome, count in counts.items()},
        "pass_rate": wilson(counts[PASSED], len(found)).to_dict(),
        "pass_and_can_fail_rate": wilson(able, len(found)).to_dict(),
    }


def excluded_counts(golds: Sequence[Verdict]) -> dict[str, int]:
    """How many samples are left out because their own assertion does not pass here, by reason."""
    names = (FAILED, ERROR, TIMEOUT, SKIPPED, ASSERTS_NOTHING, NOT_COLLECTED, NOT_PLACED)
    return {name: sum(gold.outcome == name for gold in golds) for name in names}


def rate_text(rate: Mapping[str, float]) -> str:
    """``41.3 (37.0 to 45.8)``."""
    return f"{rate['value']:.1f} ({rate['low']:.1f} to {rate['high']:.1f})"


def about(facts: Mapping[str, Any]) -> str:
    """How the part of ``metrics.json`` came about: what was drawn, what was left out and why, how it was run."""
    reasons = ", ".join(f"{name} {count:,}" for name, count in facts["excluded"].items() if count)
    return (
        f"Of {facts['drawn']:,} samples drawn, {facts['collected']:,} could be run here; with their own assertion "
        f"{facts['run']:,} of them pass ({rate_text(facts['gold_pass_rate_of_collected'])} %). "
        f"Left out: {reasons or 'none'}. At most {facts['most_parameter_sets']} parameter sets and "
        f"{facts['timeout_seconds']:g} s a test. {facts['isolation']}."
    )
