"""Tokens of records, and the micro-batches that steps make of them."""

from __future__ import annotations

from distillctl.core.config import load_config
from distillctl.core.data.encoding import Example
from distillctl.core.planning.estimate import Micro
from distillctl.core.planning.lengths import MOST_STEPS, Lengths, micro_batches, typical
from distillctl.core.training.step_inputs import plan_steps


def test_lengths_of_nothing_are_nothing() -> None:
    assert Lengths.of([]) == Lengths(0, 0, 0)
    assert Lengths.of([]).mean == 0
    found = Lengths.of([(1, 2, 3), (1,)])
    assert (found.total, found.longest, found.count, found.mean) == (4, 3, 2, 2.0)


def examples(*lengths: tuple[int, int]) -> tuple[Example, ...]:
    return tuple(Example(f"e{n}", (5,) * source, (5,) * target) for n, (source, target) in enumerate(lengths))


def test_micro_batches_are_the_trainers_own_with_their_padding() -> None:
    settings = ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2"]
    config = load_config(settings=settings)
    four = examples((10, 3), (20, 5), (30, 2), (40, 9))
    (step,) = micro_batches(config, plan_steps(config, four, 1), four, 1)
    assert step == [Micro(2, 20, 5, 8), Micro(2, 40, 9, 11)]
    (of_two,) = micro_batches(config, plan_steps(config, four * 2, 2), four * 2, 2)
    assert sum(micro.examples for micro in of_two) == 4  # the first process has half of the step
    assert typical([step]) == Micro(2, 30, 7, 10)


def test_of_a_long_run_the_beginning_is_looked_at() -> None:
    config = load_config(settings=["training.per_device_train_batch_size=2", "training.num_train_epochs=3000"])
    four = examples((10, 3), (20, 5), (30, 2), (40, 9))
    assert len(micro_batches(config, plan_steps(config, four, 1), four, 1)) == MOST_STEPS
