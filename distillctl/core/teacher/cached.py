"""A teacher that is read from its cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError
from distillctl.core.losses.term import LossBatch
from distillctl.core.store.reader import ShardReader
from distillctl.core.teacher.cache_format import CacheDirectory


class CacheReader:
    """Rows by example, wherever they lie; see :class:`ShardReader`."""

    def __init__(self, cache: CacheDirectory) -> None:
        self._cache, self._reader = cache, ShardReader(cache)

    def missing(self, examples: Iterable[Example]) -> list[Example]:
        """The examples that it does not hold, each once."""
        return self._reader.missing(examples, Example.digest)

    def rows(self, example: Example) -> np.ndarray:
        """[tokens of the target] of the layout's dtype.

        Raises:
            DataError: the cache does not hold the example, or a shard is missing or cut.
        """
        place = self._reader.place(example.digest())
        if place is None:
            raise DataError(
                f"{self._cache.path}: the teacher cache does not hold example {example.key}: "
                "run distillctl prepare with this run's settings"
            )
        return self._reader.rows(place)

    def padded(self, examples: Sequence[Example], length: int) -> np.ndarray:
        """[B,T] of the layout's dtype, zeros at padding."""
        result = np.zeros((len(examples), length), self._cache.dtype)
        for number, example in enumerate(examples):
            rows = self.rows(example)
            result[number, : len(rows)] = rows
        return result


class CachedTeacher:
    """A teacher that was run once, on every example; see :class:`Teacher`."""

    model = None

    def __init__(self, cache: CacheDirectory) -> None:
        self.cache, self._layout = cache, cache.layout
        self.reader = CacheReader(cache)
        self.has_tail = not cache.layout.is_dense

    def guide(
        self, batch: LossBatch, examples: Sequence[Example], input_ids: Tensor, attention_mask: Tensor
    ) -> LossBatch:
        """The batch with what the cache keeps of the teacher's distributions; with k = V, with its logits."""
        return self.read(batch, examples)

    def read(self, batch: LossBatch, examples: Sequence[Example]) -> LossBatch:
        """:meth:`guide`, without the inputs that it does not need."""
        rows = self.reader.padded(examples, batch.labels.shape[1])
        device = batch.labels.device
        if self._layout.is_dense:
            return replace(batch, teacher_logits=self._layout.unpack_dense(rows, device))
        return replace(batch, teacher_top=self._layout.unpack(rows, device))


def tail_mass(batch: LossBatch) -> Tensor:
    """0-d sum over target tokens of the teacher's probability of the ids that are not kept."""
    if batch.teacher_top is None:
        return torch.zeros((), device=batch.labels.device)
    return (torch.exp(batch.teacher_top.tail) * batch.valid).sum()
