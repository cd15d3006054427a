"""Which examples make which step, and the tensors they become.

The examples of a step are a function of the seed, the epoch and the step's number alone, so a run can go on at any
step without replaying the ones before, and the split over micro-batches and processes changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.losses.term import Places
from distillctl.core.teacher.batching import padded_batch

# Steps whose examples are sorted by length together: little padding, yet steps differ in what they hold.
BUCKET_STEPS = 50


class StepPlan:
    """The examples of every optimizer step of a run.

    The stream of examples is one permutation per epoch, (seed, epoch) -> order, and a step takes the next
    ``step_size`` of it. Within an epoch, blocks of ``BUCKET_STEPS`` steps are sorted by length and cut into steps,
    whose order is shuffled again. A step may begin in one epoch and end in the next, so every step is full.

    Args:
        lengths: cost of each example, e.g. (source tokens, target tokens), for sorting.
        step_size: examples of one optimizer step, over all micro-batches and processes.
    """

    def __init__(self, lengths: Sequence[tuple[int, int]], step_size: int, epochs: float, seed: int) -> None:
        self._lengths = list(lengths)
        self.examples = len(lengths)
        self.step_size = step_size
        self.seed = seed
        self.steps = max(1, math.ceil(self.examples * epochs / step_size - 1e-9))
        self._made: tuple[int, int] = (-1, -1)
        self._block: list[list[int]] = []

    def step(self, number: int) -> list[int]:
        """Example indices of step ``number`` (from 0), sorted by length."""
        epoch = number * self.step_size // self.examples
        taken = -epoch * self.examples % self.step_size  # of this epoch, by a step that began in the one before
        first = (epoch * self.examples + taken) // self.step_size  # step that begins in this epoch
        whole = min((self.examples - taken) // self.step_size, self.steps - first)  # steps inside it, in this run
        if number - first >= whole:
            return self._by_length(self._across_epochs(number))
        block, within = divmod(number - first, BUCKET_STEPS)
        if self._made != (epoch, block):
            self._block = self._make_block(epoch, block, taken, whole)
            self._made = (epoch, block)
        return self._block[within]

    def epoch_after(self, number: int) -> float:
        """Epochs seen when step ``number`` (from 0) is done."""
        return (number + 1) * self.step_size / self.examples

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.examples)

    def _by_length(self, indices: list[int]) -> list[int]:
        return sorted(indices, key=lambda index: (self._lengths[index], index))

    def _across_epochs(self, number: int) -> list[int]:
        epoch, skip = divmod(number * self.step_size, self.examples)
        stream: list[int] = []
        while len(stream) < self.step_size:
            stream += self._order(epoch).tolist()[skip:]
            epoch, skip = epoch + 1, 0
        return stream[: self.step_size]

    def _make_block(self, epoch: int, block: int, taken: int, whole: int) -> list[list[int]]:
        """Steps of a block of ``BUCKET_STEPS`` of an epoch that has ``whole`` steps behind ``taken`` examples."""
        start = taken + block * BUCKET_STEPS * self.step_size
        # The last block may end with the run: sorting must not pull examples of later steps into it.
        end = min(start + BUCKET_STEPS * self.step_size, taken + whole * self.step_size)
        stream = self._by_length(self._order(epoch)[start:end].tolist())
        steps = [stream[i : i + self.step_size] for i in range(0, len(stream), self.step_size)]
        shuffled = np.random.default_rng([self.seed, epoch, block]).permutation(len(steps))
        return [steps[position] for position in shuffled]


def share_of(indices: Sequence[int], micro_batches: int, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    """This process's micro-batches of a step: consecutive runs of the length-sorted examples, dealt to processes."""
    size = math.ceil(len(indices) / (micro_batches * ranks))
    pieces = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
    return pieces[rank::ranks]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Token ids of a micro-batch, padded on the right.

    Attributes:
        examples: their positions in the training set.
        input_ids, attention_mask: [B,S] int64.
        labels: [B,T] int64, -100 at padding.
        places: where their target tokens are.
    """

    examples: tuple[int, ...]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    places: Places

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        return MicroBatch(
            self.examples,
            self.input_ids.to(device, non_blocking=True),
            self.attention_mask.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.places.to(device),
        )


def collate(examples: Sequence[Example], indices: Sequence[int], padding_id: int) -> MicroBatch:
    """Pads the chosen examples to their longest."""
    chosen = [examples[index] for index in indices]
    input_ids, attention_mask, labels = padded_batch(chosen, padding_id, torch.device("cpu"))
    return MicroBatch(tuple(indices), input_ids, attention_mask, labels, Places.of(labels))
