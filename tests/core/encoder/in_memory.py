"""A bank that never saw a disk: what the stored one has to equal."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from distillctl.core.encoder.bank import DistinctGolds, EmbeddingBank, Progress, encode_golds, mean_of
from distillctl.core.encoder.frozen import FrozenEncoder


def build_bank(
    encoder: FrozenEncoder,
    examples: Iterable[tuple[Hashable, Sequence[int]]],
    batch_size: int = 64,
    on_progress: Progress | None = None,
) -> EmbeddingBank:
    """A bank in host memory, for as many golds as fit there: one no-gradient pass over them.

    Args:
        encoder: on the device that should do the work.
        examples: (key, label ids without padding).
        batch_size: golds per encoder pass.
        on_progress: called with (golds done, golds in all) after every batch.

    Raises:
        DataError: there is no example, a key occurs twice, or a gold is empty.
        RunError: a state does not fit in fp16.
    """
    golds = DistinctGolds.of(examples)
    found: dict[int, Tensor] = {}
    for gold, rows in encode_golds(encoder, golds.labels, batch_size, on_progress):
        found[gold] = rows
    states = _InMemory([found[gold] for gold in range(len(golds.labels))])
    return EmbeddingBank(golds.numbers, states, mean_of(states, golds.uses))


@dataclass(frozen=True)
class _InMemory:
    """Gold states as tensors, by gold number."""

    states: Sequence[Tensor]

    @property
    def width(self) -> int:
        return self.states[0].shape[1]

    def length(self, gold: int) -> int:
        return len(self.states[gold])

    def read(self, gold: int) -> Tensor:
        return self.states[gold]
