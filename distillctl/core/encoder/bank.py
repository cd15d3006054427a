"""The embedding bank: the frozen encoder's states of every gold target, made once, looked up in training.

In memory here, fp16 per valid token. A memory-mapped bank needs the same four methods over the same three
arrays (states, vectors, offsets).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.errors import DataError, RunError

Labels = tuple[int, ...]
_PADDING = -100


class EmbeddingBank:
    """Gold states by example key, never by position: shuffling cannot misalign them.

    Equal golds are encoded and stored once. Build one with :func:`build_bank`.

    Args:
        golds: gold number of each example key.
        offsets: first row of each gold in ``states``, and the total at the end.
        states: [sum of lengths, D] float16, the valid tokens of all golds.
        vectors: [golds, D] float32, masked-mean, centred, unit-norm.
        mean_state: [D] float32, mean over all tokens of all examples.
    """

    def __init__(
        self,
        golds: Mapping[Hashable, int],
        offsets: Sequence[int],
        states: Tensor,
        vectors: Tensor,
        mean_state: Tensor,
    ) -> None:
        self._golds = dict(golds)
        self._offsets = list(offsets)
        self._states = states
        self._vectors = vectors
        self.mean_state = mean_state

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._golds)

    @property
    def nbytes(self) -> int:
        """Memory the states and vectors take."""
        return self._states.nbytes + self._vectors.nbytes

    def gold_keys(self, keys: Sequence[Hashable]) -> Tensor:
        """[N] int64, equal exactly for examples with the same gold (``LossBatch.step_gold_keys``)."""
        return torch.tensor([self._gold(key) for key in keys], dtype=torch.int64)

    def vectors(self, keys: Sequence[Hashable]) -> Tensor:
        """[N,D] float32 masked-mean, centred, unit-norm gold vectors (``LossBatch.step_gold_vectors``)."""
        return self._vectors[self.gold_keys(keys)]

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
        spans = [(self._offsets[gold], self._offsets[gold + 1]) for gold in golds]
        longest = max((end - start for start, end in spans), default=0)
        if length is not None and longest > length:
            raise DataError(
                f"The embedding bank holds a gold of {longest} tokens for a batch {length} tokens long: its "
                "labels were made with another tokenizer or truncation; rebuild the bank."
            )
        result = torch.zeros(len(keys), longest if length is None else length, self._states.shape[1])
        for row, (start, end) in enumerate(spans):
            result[row, : end - start] = self._states[start:end]
        return result

    def _gold(self, key: Hashable) -> int:
        if key not in self._golds:
            raise DataError(f"The embedding bank holds no example {key!r}: rebuild it from the same data and split.")
        return self._golds[key]


def build_bank(
    encoder: FrozenEncoder,
    examples: Iterable[tuple[Hashable, Sequence[int]]],
    batch_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> EmbeddingBank:
    """One no-gradient pass over the golds, in batches of like length.

    Args:
        encoder: on the device that should do the work; the bank lies in host memory.
        examples: (key, label ids without padding).
        batch_size: golds per encoder pass.
        on_progress: called with (golds done, golds in all) after every batch.

    Raises:
        DataError: there is no example, a key occurs twice, or a gold is empty.
        RunError: a state does not fit in fp16.
    """
    golds, uses = _distinct(examples)
    lengths = [len(labels) for labels in uses]
    offsets = [0]
    for length in lengths:
        offsets.append(offsets[-1] + length)
    states = torch.empty(offsets[-1], encoder.width, dtype=torch.float16)
    means = torch.empty(len(uses), encoder.width)
    done = 0
    for batch in _batches(list(uses), batch_size):
        for gold, rows in _encode(encoder, batch):
            states[offsets[gold] : offsets[gold + 1]] = rows
            # From the rounded states, so that a bank read back from a file gives the same vectors.
            means[gold] = states[offsets[gold] : offsets[gold + 1]].float().mean(dim=0)
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(uses))
    if not torch.isfinite(means).all():
        raise RunError("The frozen encoder's states of the golds do not fit in fp16 or are NaN: use another encoder.")
    tokens = torch.tensor(lengths, dtype=torch.float64) * torch.tensor(list(uses.values()), dtype=torch.float64)
    mean_state = ((tokens @ means.double()) / tokens.sum()).float()
    return EmbeddingBank(golds, offsets, states, normalize(means - mean_state, dim=-1), mean_state)


def _distinct(
    examples: Iterable[tuple[Hashable, Sequence[int]]],
) -> tuple[dict[Hashable, int], dict[Labels, int]]:
    """(gold number per key, number of examples per distinct gold in the order of the gold numbers)."""
    golds: dict[Hashable, int] = {}
    numbers: dict[Labels, int] = {}
    uses: dict[Labels, int] = {}
    for key, ids in examples:
        labels = tuple(int(i) for i in ids)
        if key in golds:
            raise DataError(f"Example key {key!r} occurs twice: keys should be distinct.")
        if not labels or min(labels) < 0:
            raise DataError(f"The gold of example {key!r} should be token ids without padding. Found {labels[:8]}.")
        golds[key] = numbers.setdefault(labels, len(numbers))
        uses[labels] = uses.get(labels, 0) + 1
    if not golds:
        raise DataError("An embedding bank should be built from at least one example. Found none.")
    return golds, uses


def _batches(golds: list[Labels], batch_size: int) -> Iterator[list[tuple[int, Labels]]]:
    """(gold number, labels), longest first: memory peaks at once, and hardly any padding is encoded."""
    ordered = sorted(enumerate(golds), key=lambda item: (-len(item[1]), item[0]))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _encode(encoder: FrozenEncoder, batch: list[tuple[int, Labels]]) -> Iterator[tuple[int, Tensor]]:
    """(gold number, its states [length, D] on the host)."""
    labels = torch.full((len(batch), len(batch[0][1])), _PADDING)
    for row, (_, ids) in enumerate(batch):
        labels[row, : len(ids)] = torch.tensor(ids)
    states = encoder.gold_states(labels.to(encoder.table.device)).cpu()
    for row, (gold, ids) in enumerate(batch):
        yield gold, states[row, : len(ids)]
