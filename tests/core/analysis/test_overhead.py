"""Step times to ratios: drift cancels, noise is said, capturing is paid back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.analysis.overhead import (
    FEWEST_BLOCKS,
    Ratio,
    StepTime,
    check_alike,
    judge,
    logging_share,
    parts_of_median_step,
    payback_epochs,
    ratio_of,
    ratio_record,
    read_ratio,
)
from distillctl.core.errors import DataError


def in_turn(costs: dict[str, float], steps: int, slower: float) -> dict[str, list[float]]:
    """Seconds of arms on a machine that takes ``slower`` more of the first step's time with every step it runs."""
    times: dict[str, list[float]] = {name: [] for name in costs}
    done = 0
    for place in range(steps):
        for name in costs if place % 2 == 0 else reversed(costs):
            times[name].append(costs[name] * (1 + slower * done))
            done += 1
    return times


@pytest.mark.parametrize("slower", [0.0, 0.02, 0.2])
def test_a_drifting_machine_changes_no_ratio(slower: float) -> None:
    times = in_turn({"plain": 1.0, "baseline": 1.2, "candidate": 1.3}, 30, slower)
    for arm, other, expected in (("candidate", "baseline", 1.3 / 1.2), ("candidate", "plain", 1.3)):
        assert ratio_of(times[arm], times[other]).median == pytest.approx(expected, rel=0.005)


def test_in_one_order_the_same_drift_would_change_it() -> None:
    plain = [1.0 * (1 + 0.2 * 2 * n) for n in range(30)]
    candidate = [1.0 * (1 + 0.2 * (2 * n + 1)) for n in range(30)]
    assert ratio_of(candidate, plain).median > 1.02


def test_steps_of_other_lengths_are_compared_with_themselves() -> None:
    lengths = np.random.default_rng(0).uniform(0.1, 10, 30)
    ratio = ratio_of((1.07 * lengths).tolist(), lengths.tolist())
    assert (ratio.median, ratio.low, ratio.high, ratio.of_sums) == pytest.approx((1.07, 1.07, 1.07, 1.07))
    assert ratio.blocks == 15


def test_one_step_that_was_disturbed_does_not_move_the_median() -> None:
    candidate = [1.05] * 30
    candidate[7] = 9.0
    ratio = ratio_of(candidate, [1.0] * 30)
    assert ratio.median == pytest.approx(1.05)
    assert ratio.of_sums > 1.3


def test_the_interval_covers_the_true_ratio() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        plain, candidate = np.exp(rng.normal(0, 0.05, (2, 30))) * np.array([[1.0], [1.05]])
        ratio = ratio_of(candidate.tolist(), plain.tolist())
        held += ratio.low <= 1.05 <= ratio.high
    assert 0.90 <= held / 200 <= 0.99


@given(st.lists(st.floats(0.001, 1000), min_size=2, max_size=12).filter(lambda values: len(values) % 2 == 0))
@settings(deadline=None, max_examples=30)
def test_swapping_the_arms_inverts_the_blocks(seconds: list[float]) -> None:
    ones = [1.0] * len(seconds)
    blocks = ratio_of(seconds[:2], ones[:2])
    assert blocks.median * ratio_of(ones[:2], seconds[:2]).median == pytest.approx(1.0)
    whole = ratio_of(seconds, ones)
    assert whole.low <= whole.median <= whole.high


@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([1.0], [1.0]), ([1.0] * 3, [1.0] * 3), ([1.0] * 4, [1.0] * 2)]
)
def test_steps_that_are_not_in_both_orders_are_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(DataError, match="same even number of steps"):
        ratio_of(first, second)


# --- verdicts -------------------------------------------------------------------------------------------------


def ratio(median: float, low: float, high: float, blocks: int = 15) -> Ratio:
    return Ratio(median, low, high, median, blocks)


@pytest.mark.parametrize(
    ("found", "within", "certain", "says"),
    [
        (ratio(1.02, 1.01, 1.03), True, True, "within the limit of 1.10"),
        (ratio(1.05, 1.01, 1.09), True, True, "the machine was noisy: the interval is 0.080 wide"),
        (ratio(1.08, 1.04, 1.12), True, False, "not certain: the interval reaches above it; the machine was too noisy"),
        (ratio(1.12, 1.08, 1.16), False, False, "above the limit of 1.10, not certain: the interval reaches below it"),
        (ratio(1.30, 1.28, 1.32), False, True, "above the limit of 1.10"),
        (ratio(1.02, 1.01, 1.03, FEWEST_BLOCKS - 1), True, False, "12 steps or more make an interval"),
    ],
)
def test_a_verdict_says_how_sure_it_is(found: Ratio, within: bool, certain: bool, says: str) -> None:
    verdict = judge(found, 1.10)
    assert (verdict.within, verdict.certain) == (within, certain)
    assert says in verdict.text


def test_a_median_that_misses_the_limit_is_not_written_as_it() -> None:
    assert ratio(1.1003, 1.09, 1.12).beside(1.10) == "1.1003 (1.0900 to 1.1200)"
    assert ratio(1.2, 1.09, 1.32).beside(1.10) == "1.200 (1.090 to 1.320)"
    assert judge(ratio(1.004, 1.003, 1.0045), 1.005).text.startswith("within the limit of 1.005")


def test_a_quiet_machine_is_not_called_noisy() -> None:
    assert judge(ratio(1.02, 1.01, 1.03), 1.10).text == "within the limit of 1.10"


# --- shares ---------------------------------------------------------------------------------------------------


def test_the_parts_add_up_to_the_median_step() -> None:
    times = [StepTime(1.0, {"a": 0.4, "b": 0.6}), StepTime(2.0, {"a": 1.0, "b": 1.0}), StepTime(6.0, {"a": 6.0})]
    parts = parts_of_median_step(times)
    assert parts == pytest.approx({"a": 2 * 7.4 / 9, "b": 2 * 1.6 / 9})
    assert sum(parts.values()) == pytest.approx(2.0)


def test_the_log_and_the_optimizer_are_told_apart() -> None:
    times = [StepTime(1.0, {"logging": 0.01, "optimizer": 0.3}), StepTime(3.0, {"logging": 0.01})]
    assert logging_share(times) == pytest.approx(0.005)
    assert [time.without_optimizer for time in times] == pytest.approx([0.7, 3.0])


def test_capturing_is_paid_back_by_what_steps_save() -> None:
    # 8 examples save 0.4 s a step, 0.05 s each; capturing one took 0.1 s
    assert payback_epochs(0.1, live_step=1.0, cached_step=0.6, batch_size=8) == pytest.approx(2.0)
    assert payback_epochs(0.1, live_step=0.6, cached_step=0.6, batch_size=8) is None
    assert payback_epochs(0.1, live_step=0.5, cached_step=0.6, batch_size=8) is None


# --- refusals -------------------------------------------------------------------------------------------------

SAME = {"batches": "a" * 64, "dtype": "torch.float32, autocast no", "device": "cpu"}


@pytest.mark.parametrize(("name", "value"), [("batches", "b" * 64), ("dtype", "torch.bfloat16"), ("device", "cuda:0")])
def test_arms_that_computed_something_else_are_refused(name: str, value: str) -> None:
    check_alike({"baseline": SAME, "candidate": dict(SAME)})
    with pytest.raises(DataError, match=f"cannot be compared: {name} of 'baseline' is .*, of 'candidate'"):
        check_alike({"baseline": SAME, "candidate": SAME | {name: value}})


def test_a_ratio_survives_json() -> None:
    found = ratio(1.02, 1.01, 1.03)
    assert read_ratio(ratio_record(found), "file") == found


@pytest.mark.parametrize(
    "values", [None, 1.0, {}, {"median": 1.0}, {**ratio_record(ratio(1.0, 1.0, 1.0)), "low": math.nan}]
)
def test_a_ratio_of_another_form_is_refused(values: object) -> None:
    with pytest.raises(DataError, match=r"overhead\.json: should be a ratio"):
        read_ratio(values, "overhead.json")
