"""A teacher that is read from its cache.

Rows are read from the file by their place and not mapped into memory: the system's page cache serves both alike, but
so the process stays as small as its index (28 bytes an example) however large the cache is, and a file that is cut
while it is in use is an error with a name instead of a bus error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError
from distillctl.core.losses.term import LossBatch
from distillctl.core.teacher.cache_format import CacheDirectory


class CacheReader:
    """Rows by example, wherever they lie. What is appended to the cache later is not seen.

    Args:
        cache: the open cache.

    Raises:
        DataError: an index is missing or cut.
    """

    def __init__(self, cache: CacheDirectory) -> None:
        self._cache = cache
        self._entries, self._shards = cache.index()

    def missing(self, examples: Iterable[Example]) -> list[Example]:
        """The examples that it does not hold, each once."""
        seen: dict[bytes, Example] = {}
        for example in examples:
            seen.setdefault(example.digest(), example)
        return [example for digest, example in seen.items() if self._place(digest) is None]

    def rows(self, example: Example) -> np.ndarray:
        """[tokens of the target] of the layout's dtype.

        Raises:
            DataError: the cache does not hold the example, or a shard is missing or cut.
        """
        place = self._place(example.digest())
        if place is None:
            raise DataError(
                f"{self._cache.path}: the teacher cache does not hold example {example.key}: "
                "run distillctl prepare with this run's settings"
            )
        entry, shard = self._entries[place], int(self._shards[place])
        rows = np.empty(int(entry["tokens"]), self._cache.layout.dtype)
        file = self._cache.rows_file(shard)
        with self._cache.reading(file) as content:
            content.seek(int(entry["row"]) * rows.itemsize)
            found = content.readinto(rows.view(np.uint8))  # type: ignore[attr-defined]  # it is a raw file
        if found != rows.nbytes:
            raise self._cache.damaged(file, "cut short")
        return rows

    def padded(self, examples: Sequence[Example], length: int) -> np.ndarray:
        """[B,T] of the layout's dtype, zeros at padding."""
        result = np.zeros((len(examples), length), self._cache.layout.dtype)
        for number, example in enumerate(examples):
            rows = self.rows(example)
            result[number, : len(rows)] = rows
        return result

    def _place(self, digest: bytes) -> int | None:
        high, low = np.frombuffer(digest, "<u8")
        first, last = (int(np.searchsorted(self._entries["high"], high, side=side)) for side in ("left", "right"))
        for place in range(first, last):  # one, but for a chance of 2^-64
            if self._entries["low"][place] == low:
                return place
        return None


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
