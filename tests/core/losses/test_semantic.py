"""Semantic similarity: two references, the shifted target, and the shared properties."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distillctl.core.errors import RunError
from distillctl.core.losses.contrastive import unit_vectors
from distillctl.core.losses.semantic import SemanticTerm, semantic_per_example
from distillctl.core.losses.term import StudentOutputs
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
from tests.toys import make_world, tiny_t5_encoder


def test_matches_a_plain_loop() -> None:
    world = make_world()
    states = world.outputs().predicted_states(world.batch.valid)
    assert world.batch.gold_states is not None
    assert world.batch.mean_state is not None
    reference = naive.semantic(
        states.tolist(),
        world.batch.gold_states.tolist(),
        world.batch.mean_state.tolist(),
        world.batch.labels.tolist(),
    )
    assert_matches_naive(SemanticTerm(), world, reference)


def test_hand_computed_value() -> None:
    mean = torch.tensor([1.0, 1.0])
    gold = mean + torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]]])
    # equal direction: 0; orthogonal: 1; opposite: 2; the mean over three positions is 1, over the first two
    # 1/2
    states = mean + torch.tensor([[[3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert semantic_per_example(states, gold, mean, mask).item() == pytest.approx(1.0)
    mask[0, 2] = False
    assert semantic_per_example(states, gold, mean, mask).item() == pytest.approx(0.5)


def test_zero_when_the_student_predicts_the_gold() -> None:
    world = make_world()
    labels = world.batch.labels.clamp(min=0)
    logits = 9.0 * torch.nn.functional.one_hot(labels, world.logits.shape[-1]).double()
    assert SemanticTerm()(world.outputs(logits), world.batch).sum.item() == pytest.approx(0, abs=1e-9)


def test_a_shifted_target_costs_at_least_a_third_of_random_tokens() -> None:
    vocab, width = 200, 32
    encoder = tiny_t5_encoder(vocab, width)
    gold = torch.randint(3, vocab, (64, 12), generator=torch.Generator().manual_seed(0))
    shifted = torch.cat([torch.zeros(64, 1, dtype=torch.int64), gold[:, :-1]], dim=1)
    scattered = torch.randint(3, vocab, (64, 12), generator=torch.Generator().manual_seed(1))
    states = encoder.gold_states(gold)
    mean, mask = states.mean(dim=(0, 1)), gold >= 0

    def cost(tokens: Tensor) -> float:
        return semantic_per_example(encoder.gold_states(tokens), states, mean, mask).mean().item()

    assert cost(gold) == pytest.approx(0, abs=1e-6)
    assert cost(shifted) >= cost(scattered) / 3
    assert cost(scattered) > 0.5
    # The counter-example that made the term positional: a pooled vector hardly sees the shift.
    moved = unit_vectors(encoder.gold_states(shifted), mean, mask)
    pooled = (moved * unit_vectors(states, mean, mask)).sum(-1)
    assert 1 - pooled.mean().item() < cost(scattered) / 3


def test_shared_properties() -> None:
    world, term = make_world(), SemanticTerm()
    assert_reaches_student(term, world)
    assert_term_gradcheck(term, world)
    assert_ignores_padding(term, world)
    assert_all_masked_is_differentiable_zero(term, world)
    assert_micro_batch_split_equal(term, world)
    assert_frozen_untouched(term, world)
    gold, mean, mask = world.batch.gold_states, world.batch.mean_state, world.batch.valid
    assert gold is not None
    assert mean is not None
    states = world.outputs().predicted_states(mask)
    assert_gradcheck(lambda h: semantic_per_example(h, gold, mean, mask), states)


def test_states_made_without_gradient_are_never_handed_to_a_term_that_trains() -> None:
    world = make_world()
    outputs = world.outputs(world.logits.requires_grad_(True))
    with torch.no_grad():
        bare = outputs.predicted_states(world.batch.valid)
    trained = outputs.predicted_states(world.batch.valid)
    assert (bare.requires_grad, trained.requires_grad) == (False, True)
    assert outputs.predicted_states(world.batch.valid) is trained
    other_mask = world.batch.valid.clone()
    assert outputs.predicted_states(other_mask) is not trained


def test_missing_sources_are_named() -> None:
    world = make_world()
    with pytest.raises(RunError, match="no frozen encoder"):
        SemanticTerm()(StudentOutputs(world.logits), world.batch)
    with pytest.raises(RunError, match="'semantic' needs `gold_states`"):
        SemanticTerm()(world.outputs(), replace(world.batch, gold_states=None))
