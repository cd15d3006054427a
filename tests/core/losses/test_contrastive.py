"""Contrastive semantics: two references, negatives, held-out triplets, and the shared properties."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.contrastive import (
    ContrastiveTerm,
    Direction,
    contrastive_per_example,
    negatives,
    unit_vectors,
)
from distillctl.core.losses.term import LossBatch, masked_mean
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
from tests.toys import TinyStudent, make_world, outputs_of, tiny_t5_encoder, with_golds

BOTH: tuple[Direction, ...] = ("both", "triplet")


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_matches_a_plain_loop(direction: Direction, temperature: float) -> None:
    world = make_world(lengths=(5, 2, 4, 1, 3))
    keys = torch.tensor([1, 2, 1, 3, 4])  # the first and the third share their gold
    world.batch = batch = replace(world.batch, step_gold_keys=keys)
    assert batch.mean_state is not None
    assert batch.gold_states is not None
    mean, labels = batch.mean_state.tolist(), batch.labels.tolist()
    states = world.outputs().predicted_states(batch.valid).tolist()
    predictions = [naive.pooled(row, mean, y) for row, y in zip(states, labels, strict=True)]
    golds = [naive.pooled(row, mean, y) for row, y in zip(batch.gold_states.tolist(), labels, strict=True)]
    reference = naive.contrastive(predictions, golds, range(5), keys.tolist(), temperature, direction)
    assert reference[1] == 5
    assert_matches_naive(ContrastiveTerm(temperature, direction), world, reference)


def test_hand_computed_value() -> None:
    golds = torch.eye(2)
    rows, is_negative = torch.tensor([0]), torch.tensor([[False, True]])

    def loss(prediction: list[float], direction: Direction) -> float:
        u = torch.tensor([prediction])
        return contrastive_per_example(u, golds, rows, is_negative, 1.0, direction).item()

    # u = g_0, orthogonal to g_1: -ln(e / (e + 1)) both ways
    assert loss([1.0, 0.0], "both") == pytest.approx(math.log(1 + 1 / math.e))
    assert loss([1.0, 0.0], "triplet") == pytest.approx(math.log(1 + 1 / math.e))
    # u = g_1: pair 0; against g_0.g_1 = 0 ln 2, against u.g_1 = 1 ln(1 + e)
    assert loss([0.0, 1.0], "triplet") == pytest.approx(math.log(2))
    assert loss([0.0, 1.0], "both") == pytest.approx(0.5 * (math.log(2) + math.log(1 + math.e)))


def test_negatives_are_the_other_golds_only() -> None:
    found = negatives(torch.tensor([7, 8, 7]), torch.tensor([2, 1]))
    assert found.tolist() == [[False, True, False], [True, False, True]]


def test_an_example_without_a_negative_is_not_counted() -> None:
    world, term = make_world(), ContrastiveTerm()
    same = replace(world.batch, step_gold_keys=torch.tensor([5, 5, 5, 5]))
    logits = world.logits.requires_grad_(True)
    value = term(world.outputs(logits), same)
    (gradient,) = torch.autograd.grad(value.sum, logits)
    assert (value.sum.item(), value.count.item(), term.count(same).item()) == (0, 0, 0)
    assert gradient.abs().max().item() == 0
    # An anchor alone with its gold keeps its negatives; the two that share one keep the others.
    partly = replace(world.batch, step_gold_keys=torch.tensor([5, 5, 6, 6]))
    assert term.count(partly).item() == 4


def test_negatives_come_from_the_whole_step_not_from_the_micro_batch() -> None:
    world, term = make_world(), ContrastiveTerm()
    alone = replace(
        world.batch,
        labels=world.batch.labels[:1],
        gold_states=None,
        step_rows=torch.tensor([0]),
    )
    assert term(world.outputs(world.logits[:1]), alone).count.item() == 1


def test_shared_properties() -> None:
    world = make_world()
    for direction in BOTH:
        term = ContrastiveTerm(direction=direction)
        assert_reaches_student(term, world)
        assert_term_gradcheck(term, world)
        assert_ignores_padding(term, world)
        assert_all_masked_is_differentiable_zero(term, world)
        assert_micro_batch_split_equal(term, world)
        assert_frozen_untouched(term, world)
        golds, rows, keys = world.batch.step_gold_vectors, world.batch.step_rows, world.batch.step_gold_keys
        assert golds is not None
        assert rows is not None
        assert keys is not None

        is_negative = negatives(keys, rows)
        loss = partial(
            contrastive_per_example,
            gold_vectors=golds,
            rows=rows,
            is_negative=is_negative,
            direction=direction,
        )
        assert_gradcheck(loss, golds.flip(0))


def test_full_precision_under_autocast() -> None:
    world = make_world(dtype=torch.float32)
    term = ContrastiveTerm()
    states = world.outputs().predicted_states(world.batch.valid)
    plain = term(world.outputs(), world.batch).sum
    outputs = world.outputs()
    outputs._encode = lambda logits, mask: states
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = term(outputs, world.batch).sum
    assert cast.item() == pytest.approx(plain.item(), rel=1e-6)


def test_bad_settings_and_missing_sources_are_named() -> None:
    with pytest.raises(UsageError, match="temperature"):
        ContrastiveTerm(temperature=-0.1)
    with pytest.raises(UsageError, match=r"both, triplet\. Found 'left'"):
        ContrastiveTerm(direction="left")  # type: ignore[arg-type]
    world = make_world()
    with pytest.raises(RunError, match="'contrastive' needs `step_gold_keys`"):
        ContrastiveTerm()(world.outputs(), replace(world.batch, step_gold_keys=None))


@pytest.mark.parametrize("direction", BOTH)
def test_training_it_alone_lowers_the_triplet_distance_on_held_out_triplets(direction: Direction) -> None:
    """Mean of d(gold, prediction) - d(gold, other gold), d = 1 - cos: falls by >= 0.03 within 1,000 steps."""
    vocab, features, examples, length = 24, 12, 96, 5
    encoder = tiny_t5_encoder(vocab, 16)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, vocab, (examples, length), generator=generator)
    meaning = torch.randn(vocab, features, generator=generator)
    inputs = meaning[labels] + 0.3 * torch.randn(examples, length, features, generator=generator)
    train, held_out = slice(0, 64), slice(64, examples)
    torch.manual_seed(0)
    student = TinyStudent(features, vocab, dtype=torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    term = ContrastiveTerm(direction=direction)
    mean = encoder.gold_states(labels[train]).mean(dim=(0, 1))

    def triplet_distance() -> float:
        batch = _step(labels[held_out], mean)
        with torch.no_grad():
            states = outputs_of(encoder, student(inputs[held_out])).predicted_states(batch.valid)
            gold = unit_vectors(encoder.gold_states(batch.labels), mean, batch.valid)
            prediction = unit_vectors(states, mean, batch.valid)
        return ((gold * gold.roll(1, dims=0)).sum(-1) - (gold * prediction).sum(-1)).mean().item()

    def _step(rows: Tensor, mean: Tensor) -> LossBatch:
        batch = with_golds(LossBatch(rows), encoder)
        assert batch.gold_states is not None
        vectors = unit_vectors(batch.gold_states, mean, batch.valid)
        return replace(batch, mean_state=mean, step_gold_vectors=vectors)

    before = triplet_distance()
    for _ in range(300):
        rows = torch.randint(0, 64, (8,), generator=generator)
        batch = _step(labels[rows], mean)
        value, count = term(outputs_of(encoder, student(inputs[rows])), batch)
        optimizer.zero_grad()
        (value / count.clamp(min=1)).backward()
        optimizer.step()
    after = triplet_distance()
    assert after <= before - 0.03, (before, after)


def test_masked_mean_of_an_empty_example_is_zero() -> None:
    states = torch.ones(2, 3, 4)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(states, mask).tolist() == [[1.0] * 4, [0.0] * 4]
