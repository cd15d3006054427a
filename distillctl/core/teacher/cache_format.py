"""What a teacher cache is made of. Its files are those of a directory of shards (:mod:`distillctl.core.store`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from distillctl.core.config.schema import Config
from distillctl.core.data.corpus import cache_directory
from distillctl.core.errors import DataError
from distillctl.core.models.loading import tokenizer_fingerprint
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

    def holdings(self, precision: str) -> dict[str, Any]:
        """What it is of, holds and costs, for run.json and for the eye; ``precision`` is of the teacher's logits."""
        return {
            "directory": str(self.path),
            "teacher": self.identity.teacher,
            "top_k": self.identity.top_k,
            "vocabulary": self.identity.vocabulary,
            "temperature": self.identity.temperature,
            "precision": precision,
            "examples": self.examples,
            "target_tokens": self.tokens,
            "shards": len(self.shards),
            "bytes": self.nbytes,
            "bytes_per_token": self.nbytes / max(1, self.tokens),
        }


def cache_identity(config: Config, teacher: str, tokenizer: Any, vocabulary: int, top_k: int) -> Identity:
    """What a run's cache has to be made of; ``teacher`` is a fingerprint, ``vocabulary`` the number of shared ids."""
    return Identity(
        teacher=teacher,
        tokenizer=tokenizer_fingerprint(tokenizer),
        vocabulary=vocabulary,
        max_source_length=config.data.max_source_length,
        max_target_length=config.data.max_target_length,
        top_k=top_k,
        temperature=config.objective.jsd.temperature,
    )


def cache_path(config: Config, identity: Identity) -> Path:
    """``teacher.cache_dir``, else a directory of the user's cache that the identity names."""
    chosen = config.teacher.cache_dir
    return Path(chosen) if chosen else cache_directory() / "teacher" / identity.name


def asked_top_k(config: Config, vocabulary: int) -> int | None:
    """``teacher.top_k``, None where it is to be chosen. Raises DataError for more ids than the two models share."""
    asked = config.teacher.top_k
    if asked is not None and asked > vocabulary:
        raise DataError(
            f"teacher.top_k={asked:,}: teacher and student share {vocabulary:,} ids. Give {vocabulary:,} for all, or "
            "fewer"
        )
    return asked
