"""How long the records are in tokens, and what the steps of a run make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Example
from distillctl.core.planning.estimate import Micro
from distillctl.core.training.batches import StepPlan, share_of

MOST_STEPS = 1000
"""Steps that are looked at, from the first on: blocks of them are drawn alike."""


@dataclass(frozen=True)
class Lengths:
    """Sums and extremes of some sequences, in tokens."""

    total: int
    longest: int
    count: int

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> Lengths:
        """Of sequences of ids; of none all is 0."""
        sizes = [len(ids) for ids in sequences]
        return cls(sum(sizes), max(sizes, default=0), len(sizes))

    @property
    def mean(self) -> float:
        """Tokens of one."""
        return self.total / max(1, self.count)


def micro_batches(config: Config, plan: StepPlan, examples: Sequence[Example], ranks: int) -> list[list[Micro]]:
    """The micro-batches of the first process in each of the first :data:`MOST_STEPS` steps, with their padding."""
    accumulation = config.training.gradient_accumulation_steps
    return [
        [_padded([examples[index] for index in share]) for share in share_of(plan.step(number), accumulation, 0, ranks)]
        for number in range(min(plan.steps, MOST_STEPS))
    ]


def _padded(examples: Sequence[Example]) -> Micro:
    targets = [len(example.labels) for example in examples]
    return Micro(len(examples), max(len(example.input_ids) for example in examples), max(targets), sum(targets))


def typical(steps: Sequence[Sequence[Micro]]) -> Micro:
    """A micro-batch of the mean size of some."""
    flat = [micro for step in steps for micro in step]
    count, examples = len(flat), sum(micro.examples for micro in flat)
    source = sum(micro.examples * micro.source for micro in flat) / examples
    target = sum(micro.examples * micro.target for micro in flat) / examples
    tokens = sum(micro.tokens for micro in flat) / count
    return Micro(max(1, round(examples / count)), max(1, round(source)), max(1, round(target)), max(1, round(tokens)))
