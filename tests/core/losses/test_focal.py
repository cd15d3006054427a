"""Focal cross-entropy: two references and the shared properties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from distillctl.core.errors import UsageError
from distillctl.core.losses.focal import FocalTerm, focal_per_token
from tests import naive
from tests.asserts import (
    assert_all_masked_is_differentiable_zero,
    assert_frozen_untouched,
    assert_gradcheck,
    assert_ignores_padding,
    assert_matches_naive,
    assert_micro_batch_split_equal,
    assert_reaches_student,
    assert_term_gradcheck,
)
from tests.toys import make_world


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (1.0, 0.0), (0.5, 0.5), (0.25, 3.0)])
@pytest.mark.parametrize("weighted", [True, False])
def test_matches_a_plain_loop(alpha: float, gamma: float, weighted: bool) -> None:
    world = make_world()
    weights = world.batch.token_weights
    assert weights is not None
    if not weighted:
        world.batch = replace(world.batch, token_weights=None)
    reference = naive.focal(
        world.logits.tolist(),
        world.batch.labels.tolist(),
        alpha,
        gamma,
        weights.tolist() if weighted else None,
    )
    assert_matches_naive(FocalTerm(alpha, gamma), world, reference)


def test_hand_computed_value() -> None:
    # q = (1/2, 1/2): 0.25 * (1 - 1/2)^2 * ln 2
    loss = focal_per_token(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64))
    assert loss.item() == pytest.approx(0.25 * 0.25 * math.log(2))
    # q = 3/4 on the gold token: 0.25 * (1/4)^2 * ln(4/3)
    loss = focal_per_token(torch.tensor([[[math.log(3.0), 0.0]]]), torch.zeros(1, 1, dtype=torch.int64))
    assert loss.item() == pytest.approx(0.25 / 16 * math.log(4 / 3), rel=1e-5)


def test_gamma_0_is_alpha_times_cross_entropy() -> None:
    world = make_world()
    expected = 0.25 * cross_entropy(world.logits.flatten(0, 1), world.batch.labels.flatten(), reduction="sum")
    assert_close(focal_per_token(world.logits, world.batch.labels, 0.25, 0.0).sum(), expected)


def test_a_certain_student_has_no_loss_and_a_finite_gradient() -> None:
    for gamma in (0.0, 0.5, 2.0):
        logits = torch.tensor([[[100.0, 0.0]]], requires_grad=True)
        loss = focal_per_token(logits, torch.zeros(1, 1, dtype=torch.int64), 0.25, gamma).sum()
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


def test_shared_properties() -> None:
    world, term = make_world(), FocalTerm()
    assert_reaches_student(term, world)
    assert_term_gradcheck(term, world)
    assert_gradcheck(lambda z: focal_per_token(z, world.batch.labels, 0.3, 0.5), world.logits)
    assert_ignores_padding(term, world)
    assert_all_masked_is_differentiable_zero(term, world)
    assert_micro_batch_split_equal(term, world)
    assert_frozen_untouched(term, world)


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"gamma": -1.0}, {"alpha": math.nan}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="should be"):
        FocalTerm(**settings)
