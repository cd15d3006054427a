"""Which examples make which step: a function of seed, epoch and step alone, each epoch a permutation."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from distillctl.core.data.encoding import Example
from distillctl.core.training.batches import BUCKET_STEPS, StepPlan, collate, share_of

SIZES = [(48, 8, 3.0), (50, 8, 3.0), (7, 3, 5.0), (5, 8, 4.0), (1, 4, 2.0), (1000, 4, 1.5), (1203, 4, 2.0)]


def lengths(examples: int) -> list[tuple[int, int]]:
    return [(3 + 37 * i % 101, 1 + 13 * i % 17) for i in range(examples)]


def plan(examples: int, step_size: int, epochs: float, seed: int = 1) -> StepPlan:
    return StepPlan(lengths(examples), step_size, epochs, seed)


def steps(of: StepPlan) -> list[list[int]]:
    return [of.step(number) for number in range(of.steps)]


@pytest.mark.parametrize(("examples", "step_size", "epochs"), SIZES)
def test_steps_are_full_and_no_example_comes_again_before_all_have_come(
    examples: int, step_size: int, epochs: float
) -> None:
    seen: Counter[int] = Counter(dict.fromkeys(range(examples), 0))
    made = plan(examples, step_size, epochs)
    for step in steps(made):
        assert len(step) == step_size
        seen.update(step)
        assert max(seen.values()) - min(seen.values()) <= 1
    assert seen.total() >= examples * epochs > seen.total() - step_size


@pytest.mark.parametrize("seed", [0, 7])
def test_every_epoch_is_another_permutation_drawn_from_seed_and_epoch(seed: int) -> None:
    made = steps(plan(48, 8, 3, seed))
    epochs = [list(chain(*made[6 * epoch : 6 * epoch + 6])) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(48)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert made == steps(plan(48, 8, 3, seed))
    assert made != steps(plan(48, 8, 3, seed + 1))
    # Within a fraction of an epoch, the stream's own beginning: sorting takes nothing from later steps.
    order = np.random.default_rng([seed, 1]).permutation(48).tolist()
    assert set(chain(*steps(plan(48, 8, 1.5, seed))[6:])) == set(order[:24])


@pytest.mark.parametrize(("examples", "step_size", "epochs"), SIZES)
def test_a_step_alone_is_the_step_in_sequence(examples: int, step_size: int, epochs: float) -> None:
    sequence = steps(plan(examples, step_size, epochs))
    alone = plan(examples, step_size, epochs)
    for number in np.random.default_rng(0).permutation(len(sequence))[:60].tolist():
        assert alone.step(number) == sequence[number]
        assert plan(examples, step_size, epochs).step(number) == sequence[number]


def test_a_longer_run_begins_with_the_same_examples() -> None:
    assert [sorted(chain(*steps(plan(48, 8, 1)))), steps(plan(48, 8, 2))[:6]] == [
        sorted(chain(*steps(plan(48, 8, 2))[:6])),
        steps(plan(48, 8, 1)),
    ]


def padded(made: list[list[int]], of: list[tuple[int, int]]) -> int:
    return sum(len(step) * max(of[index][0] for index in step) for step in made)


def test_buckets_save_padding_and_steps_stay_mixed() -> None:
    examples = 40 * BUCKET_STEPS
    made = steps(plan(examples, 8, 1))
    unsorted = np.random.default_rng(3).permutation(examples).reshape(-1, 8).tolist()
    tokens = sum(length for length, _ in lengths(examples))
    waste = padded(made, lengths(examples)) - tokens
    assert waste < 0.2 * (padded(unsorted, lengths(examples)) - tokens)
    longest = [max(lengths(examples)[i][0] for i in step) for step in made[:BUCKET_STEPS]]
    assert longest != sorted(longest)
    assert all(step == sorted(step, key=lambda i: (lengths(examples)[i], i)) for step in made)


def test_epochs_are_counted_in_examples() -> None:
    made = plan(50, 8, 2)
    assert made.steps == 13
    assert made.epoch_after(0) == pytest.approx(0.16)
    assert made.epoch_after(12) == pytest.approx(2.08)
    assert plan(48, 8, 0.01).steps == 1
    assert plan(3, 8, 2).steps == 1


@pytest.mark.parametrize(("micro_batches", "ranks"), [(1, 1), (4, 1), (2, 2), (1, 4), (8, 1)])
def test_micro_batches_of_all_ranks_are_the_step(micro_batches: int, ranks: int) -> None:
    step = plan(48, 8, 1).step(2)
    shares = [share_of(step, micro_batches, rank, ranks) for rank in range(ranks)]
    assert {len(share) for share in shares} == {micro_batches}
    assert {len(micro) for share in shares for micro in share} == {8 // (micro_batches * ranks)}
    assert sorted(chain(*chain(*shares))) == sorted(step)


def test_a_micro_batch_is_padded_to_its_longest() -> None:
    examples = [Example("a", (5, 6, 7), (8, 1)), Example("b", (9,), (1,)), Example("c", (1,) * 9, (2,) * 9)]
    micro = collate(examples, [1, 0], padding_id=3)
    assert micro.examples == (1, 0)
    assert micro.input_ids.tolist() == [[9, 3, 3], [5, 6, 7]]
    assert micro.attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert micro.labels.tolist() == [[1, -100], [8, 1]]
    moved = micro.to(torch.device("cpu"))
    assert moved.labels.tolist() == micro.labels.tolist()
    assert moved.examples == (1, 0)
