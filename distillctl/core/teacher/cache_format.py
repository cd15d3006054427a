"""What a teacher cache is made of. Its files are those of a directory of shards (:mod:`distillctl.core.store`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distillctl.core.store.identity import Identity as StoreIdentity
from distillctl.core.store.identity import Kind
from distillctl.core.store.shards import ShardDirectory
from distillctl.core.teacher.rows import Layout

SCHEMA = 1


@dataclass(frozen=True)
class Identity(StoreIdentity):
    """All that decides what a cache's rows are, but for the examples, which are named one by one.

    Attributes:
        teacher, tokenizer: fingerprints (SHA-256, hex).
        vocabulary: number of leading ids that teacher and student share; the rows are of these alone.
        max_source_length, max_target_length: where examples were cut, in tokens.
        top_k: ids kept a token; with ``vocabulary`` of them the rows are dense.
        temperature: of the loss.
        schema: version of the files.
    """

    kind: ClassVar[Kind] = Kind(
        "a cache", "teacher cache", "examples", "teacher.cache_dir", "give a smaller teacher.top_k"
    )

    teacher: str
    tokenizer: str
    vocabulary: int
    max_source_length: int
    max_target_length: int
    top_k: int
    temperature: float
    schema: int = SCHEMA

    @property
    def layout(self) -> Layout:
        """How the rows look."""
        return Layout(self.top_k, self.vocabulary, self.temperature)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """A row, that is a target token."""
        return self.layout.dtype


class CacheDirectory(ShardDirectory[Identity]):
    """The files of a teacher cache; see :class:`ShardDirectory`."""

    @property
    def layout(self) -> Layout:
        """How the rows look."""
        return self.identity.layout
