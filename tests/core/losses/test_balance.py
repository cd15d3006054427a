"""Band balance: the scaled core losses come within 2x of each other, smoothly, and stay there."""

from __future__ import annotations

import json
import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.balance import BAND, ENDS_AT, LIMIT, STARTS_AT, STEP, BandBalance, balanced_terms
from tests.core.losses.steps import LENGTHS, make_objective, run_step
from tests.toys import make_world

BASE = {"focal": 1.0, "jsd": 1.0, "semantic": 5.0}
ALL = dict.fromkeys(BASE, 10.0)
SIZES = st.floats(0.02, 20.0)


def in_band(balance: BandBalance, losses: dict[str, float]) -> bool:
    scaled = [balance.scales[name] * losses[name] for name in BASE]
    return all(max(a / b, b / a) <= 2.0 for a, b in combinations(scaled, 2))


@settings(max_examples=50, deadline=None)
@given(SIZES, SIZES, SIZES)
def test_any_steady_losses_come_into_the_band_and_stay(focal: float, jsd: float, semantic: float) -> None:
    losses = {"focal": focal, "jsd": jsd, "semantic": semantic}
    balance = BandBalance(BASE)
    outside = []
    for _ in range(200):
        balance.observe(losses, ALL)
        outside.append(not in_band(balance, losses))
    reachable = all(losses[name] * BASE[name] / focal * LIMIT > 1 / 1.4 for name in ("jsd", "semantic"))
    reachable &= all(losses[name] * BASE[name] / focal / LIMIT < 1.4 for name in ("jsd", "semantic"))
    assert not reachable or not any(outside[100:])
    assert balance.scales["focal"] == 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=5, max_size=60))
def test_the_total_never_jumps_by_more_than_ten_percent(steps: list[tuple[float, float, float]]) -> None:
    """At the same raw losses, before and after a correction, whatever the losses and weights are."""
    balance = BandBalance(BASE)
    weights = {"focal": 0.3, "jsd": 0.7, "semantic": 0.35}
    for values in steps:
        losses = dict(zip(BASE, values, strict=True))
        before = sum(balance.scales[name] * weights[name] * losses[name] for name in BASE)
        balance.observe(losses, ALL)
        after = sum(balance.scales[name] * weights[name] * losses[name] for name in BASE)
        assert abs(after / before - 1) <= 0.1
        assert all(1 / LIMIT <= balance.scales[name] / BASE[name] <= LIMIT for name in BASE)


def test_hysteresis_starts_late_ends_early_and_tells_once() -> None:
    balance = BandBalance({"focal": 1.0, "semantic": 5.0})
    count = {"focal": 1.0, "semantic": 1.0}
    quiet = {"focal": 1.0, "semantic": 0.2 * (STARTS_AT - 0.01)}
    assert balance.observe(quiet, count) == {}
    assert balance.scales["semantic"] == 5.0

    balance = BandBalance({"focal": 1.0, "semantic": 5.0})
    loud = {"focal": 1.0, "semantic": 0.2 * 1.6}
    assert balance.observe(loud, count) == {"semantic": pytest.approx(1.6)}
    scales = [balance.scales["semantic"]]
    for _ in range(20):
        assert balance.observe(loud, count) == {}  # already moving
        scales.append(balance.scales["semantic"])
    assert all(later <= earlier for earlier, later in pairwise(scales))
    assert scales[0] == pytest.approx(5.0 / STEP)
    ratio = balance.ratio("semantic")
    assert ratio is not None and 1 <= ratio <= ENDS_AT  # past the edge where it began, about the middle
    assert STARTS_AT < BAND


def test_one_batch_of_another_kind_moves_little() -> None:
    balance = BandBalance(BASE)
    usual = {"focal": 1.0, "jsd": 1.0, "semantic": 0.2}
    for _ in range(40):
        balance.observe(usual, ALL)
    balance.observe({**usual, "semantic": 2.0}, ALL)
    assert balance.scales == BASE or balance.scales["semantic"] == pytest.approx(5.0 / STEP)
    for _ in range(60):
        balance.observe(usual, ALL)
    assert in_band(balance, usual)


def test_a_step_without_examples_or_loss_keeps_the_mean() -> None:
    balance = BandBalance(BASE)
    balance.observe({"focal": 1.0, "jsd": 0.0, "semantic": 0.0}, {**ALL, "semantic": 0.0})
    assert balance.ratio("jsd") is None and balance.ratio("semantic") is None
    assert balance.scales == BASE
    balance.observe({"focal": 1.0, "jsd": 1.0, "semantic": 0.2}, ALL)
    before = balance.ratio("semantic")
    balance.observe({"focal": 1.0, "jsd": 1.0, "semantic": 9.0}, {**ALL, "semantic": 0.0})
    assert balance.ratio("semantic") == pytest.approx(before)


def test_the_first_trained_core_term_is_the_reference() -> None:
    balance = BandBalance({"semantic": 5.0, "jsd": 1.0})
    for _ in range(80):
        balance.observe({"jsd": 1.0, "semantic": 1.0}, ALL)
    assert balance.scales["jsd"] == 1.0
    assert balance.scales["semantic"] == pytest.approx(1.0, rel=0.1)
    assert balanced_terms(("contrastive", "semantic", "focal")) == ("focal", "semantic")


@pytest.mark.parametrize("rounded", [-6e-8, -9e-6, 0.0])
def test_a_loss_that_rounding_brings_below_zero_keeps_its_mean(rounded: float) -> None:
    balance, as_it_was = BandBalance(BASE), BandBalance(BASE)
    for one in (balance, as_it_was):
        one.observe({"focal": 1.0, "jsd": 1.0, "semantic": 0.2}, ALL)
    balance.observe({"focal": 1.0, "jsd": 1.0, "semantic": rounded}, ALL)
    assert balance.ratio("semantic") == as_it_was.ratio("semantic")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, -1e-3])
def test_a_loss_that_is_no_loss_is_refused_by_name(bad: float) -> None:
    with pytest.raises(RunError, match="'jsd' should be finite"):
        BandBalance(BASE).observe({"focal": 1.0, "jsd": bad, "semantic": 1.0}, ALL)


@pytest.mark.parametrize("scales", [{"contrastive": 1.0}, {"focal": 0.0}, {"focal": math.nan}])
def test_scales_that_cannot_be_balanced_are_refused(scales: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"balance"):
        BandBalance(scales)


def test_a_resumed_balance_goes_on_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(3)
    steps = [dict(zip(BASE, row, strict=True)) for row in (torch.rand(60, 3, generator=generator) + 0.1).tolist()]
    whole, first, second = BandBalance(BASE), BandBalance(BASE), BandBalance(BASE)
    for losses in steps:
        whole.observe(losses, ALL)
    for losses in steps[:30]:
        first.observe(losses, ALL)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for losses in steps[30:]:
        second.observe(losses, ALL)
    assert second.state_dict() == whole.state_dict()
    assert second.scales == whole.scales
    with pytest.raises(RunError, match="resume with the run's own config"):
        second.load_state_dict(BandBalance({"focal": 1.0}).state_dict())


@pytest.mark.parametrize(("size", "steps"), [(8, 120), (3, 40), (1, 40)])
def test_the_objective_is_corrected_alike_for_every_split(size: int, steps: int) -> None:
    world = make_world(LENGTHS)
    objective = make_objective(beta=100.0, balance=BandBalance({**BASE, "semantic": 100.0}))
    _, report = run_step(objective, world, size)
    assert report.scales["semantic"] == 100.0  # the step itself has the scale it began with
    assert set(report.rebalanced) == {"semantic", "jsd"}
    for _ in range(steps):
        _, report = run_step(objective, world, size, separate=False)
    if steps == 120:  # long enough to be in the band
        scaled = [report.scales[name] * report.losses[name] for name in BASE]
        assert all(max(a / b, b / a) <= 2 for a, b in combinations(scaled, 2))
    reference = make_objective(beta=100.0, balance=BandBalance({**BASE, "semantic": 100.0}))
    for _ in range(steps + 1):
        run_step(reference, world, 8, separate=False)
    assert objective.scales == pytest.approx(reference.scales, rel=1e-9)


def test_a_step_can_leave_the_balance_alone_and_the_checkpoint_holds_it() -> None:
    world = make_world(LENGTHS)
    objective = make_objective(beta=100.0, balance=BandBalance({**BASE, "semantic": 100.0}))
    untouched = objective.state_dict()
    objective.begin_step(objective.counts(world.batch), 0.5, False)
    objective.logit_gradient(world.outputs(world.logits), world.batch)
    assert objective.end_step(rebalance=False).rebalanced == {}
    assert objective.state_dict() == untouched
    run_step(objective, world)
    assert objective.scales["semantic"] < 100.0
    other = make_objective(beta=100.0, balance=BandBalance({**BASE, "semantic": 100.0}))
    other.load_state_dict(json.loads(json.dumps(objective.state_dict())))
    assert other.state_dict() == objective.state_dict()
    with pytest.raises(RunError, match="resume with the run's own config"):
        make_objective(beta=100.0).load_state_dict(objective.state_dict())
    with pytest.raises(UsageError, match="name no term"):
        make_objective(names=("focal", "jsd"), balance=BandBalance(BASE))
