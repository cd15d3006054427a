"""The embedding bank: the frozen encoder's states of every gold target, made once, looked up in training.

The states lie on disk (:mod:`distillctl.core.encoder.stored`), fp16 per valid token. What depends on the
run's examples, the mean state and the centred vectors, is computed from them: the mean when the bank is opened, a
vector whenever it is asked for, so that nothing the size of the states, or of a vector for each gold, stays in memory.
That is some 50 microseconds of one core for a gold of 40 tokens and width 768
(``tests/benchmarks/bank_reading.py``), where the vectors of 100,000 golds would be 300 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.errors import DataError, RunError

Labels = tuple[int, ...]
Progress = Callable[[int, int], None]
_PADDING = -100


class GoldStates(Protocol):
    """The states of numbered golds, wherever they lie."""

    @property
    def width(self) -> int:
        """D, the width of a state."""

    def length(self, gold: int) -> int:
        """Tokens of a gold."""

    def read(self, gold: int) -> Tensor:
        """[tokens, D] float16 on the host."""


@dataclass(frozen=True)
class DistinctGolds:
    """The golds of some examples: equal ones are one.

    Attributes:
        numbers: gold number of each example key.
        labels: label ids per gold.
        uses: number of examples per gold.
    """

    numbers: Mapping[Hashable, int]
    labels: Sequence[Labels]
    uses: Sequence[int]

    @classmethod
    def of(cls, examples: Iterable[tuple[Hashable, Sequence[int]]]) -> DistinctGolds:
        """From (key, label ids without padding).

        Raises:
            DataError: there is no example, a key occurs twice, or a gold is empty or padded.
        """
        numbers: dict[Hashable, int] = {}
        golds: dict[Labels, int] = {}
        uses: list[int] = []
        for key, ids in examples:
            labels = tuple(ids)  # of a tuple it is no copy
            if key in numbers:
                raise DataError(f"Example key {key!r} occurs twice: keys should be distinct.")
            if not labels or min(labels) < 0:
                raise DataError(f"The gold of example {key!r} should be token ids without padding. Found {labels[:8]}.")
            gold = golds.setdefault(labels, len(golds))
            numbers[key] = gold
            if gold == len(uses):
                uses.append(0)
            uses[gold] += 1
        if not numbers:
            raise DataError("An embedding bank should be built from at least one example. Found none.")
        return cls(numbers, list(golds), uses)


class EmbeddingBank:
    """Gold states by example key, never by position: shuffling cannot misalign them.

    Args:
        numbers: gold number of each example key.
        states: of those golds.
        mean_state: [D] float32, mean over all tokens of all examples; see :func:`mean_of`.
    """

    def __init__(self, numbers: Mapping[Hashable, int], states: GoldStates, mean_state: Tensor) -> None:
        self._numbers = numbers
        self._states = states
        self.mean_state = mean_state

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._numbers)

    def gold_keys(self, keys: Sequence[Hashable]) -> Tensor:
        """[N] int64, equal exactly for examples with the same gold (``LossBatch.step_gold_keys``)."""
        return torch.tensor([self._gold(key) for key in keys], dtype=torch.int64)

    def vectors(self, keys: Sequence[Hashable]) -> Tensor:
        """[N,D] float32 masked-mean, centred, unit-norm gold vectors (``LossBatch.step_gold_vectors``)."""
        means = [mean_of_gold(self._states.read(self._gold(key))) for key in keys]
        return normalize(torch.stack(means) - self.mean_state, dim=-1)

    def lookup(self, keys: Sequence[Hashable], length: int | None = None) -> Tensor:
        """Gold states as the losses read them (``LossBatch.gold_states``).

        Args:
            keys: B example keys.
            length: T of the batch's labels; None is the longest of these golds.

        Returns:
            [B,T,D] float32, not centred, 0 at padding.

        Raises:
            DataError: a key is unknown, or a gold is longer than ``length``.
        """
        golds = [self._gold(key) for key in keys]
        longest = max((self._states.length(gold) for gold in golds), default=0)
        if length is not None and longest > length:
            raise DataError(
                f"The embedding bank holds a gold of {longest} tokens for a batch {length} tokens long: its "
                "labels were made with another tokenizer or truncation; rebuild the bank."
            )
        result = torch.zeros(len(keys), longest if length is None else length, self._states.width)
        for row, gold in enumerate(golds):
            states = self._states.read(gold)
            result[row, : len(states)] = states
        return result

    def _gold(self, key: Hashable) -> int:
        if key not in self._numbers:
            raise DataError(f"The embedding bank holds no example {key!r}: rebuild it from the same data and split.")
        return self._numbers[key]


def mean_of_gold(states: Tensor) -> Tensor:
    """[tokens, D] float16 -> [D] float32, the mean of the rounded states: those that the disk gives back."""
    return states.float().mean(dim=0)


def mean_of(states: GoldStates, uses: Sequence[int], on_progress: Progress | None = None) -> Tensor:
    """The mean state over all tokens of all examples, [D] float32, read gold by gold and summed in float64.

    Args:
        states: of all golds.
        uses: number of examples per gold.
        on_progress: called with (golds done, golds in all) now and then.
    """
    total = torch.zeros(states.width, dtype=torch.float64)
    tokens = 0
    for gold, count in enumerate(uses):
        rows = states.read(gold)
        total += count * len(rows) * mean_of_gold(rows).double()
        tokens += count * len(rows)
        if on_progress is not None and (gold + 1 == len(uses) or gold % 1000 == 999):
            on_progress(gold + 1, len(uses))
    return (total / tokens).float()


def encode_golds(
    encoder: FrozenEncoder, golds: Sequence[Labels], batch_size: int = 64, on_progress: Progress | None = None
) -> Iterator[tuple[int, Tensor]]:
    """(gold number, its states [tokens, D] float16 on the host), in batches of like length, the longest first.

    Args:
        encoder: on the device that should do the work.
        golds: label ids without padding; the batches depend on what they are, and on their order among equals.
        batch_size: golds per encoder pass.
        on_progress: called with (golds done, golds in all) after every batch.

    Raises:
        RunError: a state does not fit in fp16.
    """
    done = 0
    for batch in _batches(golds, batch_size):
        states = live_states(encoder, [ids for _, ids in batch]).half().cpu()
        if not torch.isfinite(states).all():
            raise RunError(
                "The frozen encoder's states of the golds do not fit in fp16 or are NaN: use another encoder."
            )
        for row, (gold, ids) in enumerate(batch):
            yield gold, states[row, : len(ids)].clone()  # a view would keep the whole batch
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(golds))


def live_states(encoder: FrozenEncoder, golds: Sequence[Labels]) -> Tensor:
    """[B,T,D] float32 on the encoder's device: the states of B golds (label ids), 0 at padding."""
    labels = torch.full((len(golds), max(map(len, golds))), _PADDING)
    for row, ids in enumerate(golds):
        labels[row, : len(ids)] = torch.tensor(ids)
    return encoder.gold_states(labels.to(encoder.table.device))


def _batches(golds: Sequence[Labels], batch_size: int) -> Iterator[list[tuple[int, Labels]]]:
    """(gold number, labels), longest first: memory peaks at once, and hardly any padding is encoded."""
    ordered = sorted(enumerate(golds), key=lambda item: (-len(item[1]), item[0]))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]
