"""A teacher cache made from a file of the earlier pipeline, where the teacher itself may no longer be at hand.

Its identity names the file (``trident:`` and its SHA-256) in the teacher's place. Such a cache is opened where
``teacher.cache_dir`` names it. It can neither be completed nor be compared with a live teacher, and both are said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError, UsageError
from distillctl.core.progress import Reporter
from distillctl.core.store.shards import MANIFEST
from distillctl.core.store.writer import ShardWriter, check_room
from distillctl.core.teacher.cache_format import CacheDirectory, Identity, asked_top_k, cache_identity
from distillctl.core.teacher.cached import CachedTeacher, CacheReader

PREFIX = "trident:"
UNVERIFIED = "not verified against a live teacher"


def converted_identity(config: Config, tokenizer: Any, vocabulary: int, sha256: str) -> Identity:
    """What a cache from the file of that SHA-256 is made of.

    Where no ``teacher.top_k`` is given it keeps every id: what the file says, and no choice that a teacher would have
    to be run for. Raises DataError for a ``top_k`` above the vocabulary.
    """
    top_k = asked_top_k(config, vocabulary) or vocabulary
    return cache_identity(config, f"{PREFIX}{sha256}", tokenizer, vocabulary, top_k)


def fill(
    cache: CacheDirectory,
    rows: Iterator[tuple[Example, np.ndarray]],
    examples: Sequence[Example],
    facts: dict[str, Any],
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Adds dense logits to a cache, as its layout keeps them; returns how many examples were added.

    Args:
        cache: examples that it holds already are left as they are.
        rows: (example, its logits [target tokens, >= vocabulary] float32).
        examples: that ``rows`` gives at most, for the room on the disk.
        facts: what the manifest says besides.
        on_progress: called with (examples done, examples in all).

    Raises:
        RunError: the disk is or would be full.
    """
    check_room(cache, cache.bytes_of(sum(len(example.labels) for example in examples), len(examples)))
    held = CacheReader(cache)
    added: set[bytes] = set()
    with ShardWriter(cache, facts) as writer:
        for done, (example, logits) in enumerate(rows, start=1):
            if example.digest() not in added and held.missing([example]):
                added.add(example.digest())
                writer.add(example.digest(), pack(cache, example, logits))
            if on_progress is not None:
                on_progress(done, len(examples))
    return len(added)


def pack(cache: CacheDirectory, example: Example, logits: np.ndarray) -> np.ndarray:
    """An example's rows. [T, >= vocabulary] float32 -> [T] of the layout's dtype"""
    kept = torch.from_numpy(np.ascontiguousarray(logits[:, : cache.layout.width]))
    return cache.layout.pack(kept, torch.tensor(example.labels))


def is_converted(path: str | None) -> bool:
    """Does a ``teacher.cache_dir`` hold a cache that was made from a file?"""
    return path is not None and str(_said_identity(Path(path)).get("teacher", "")).startswith(PREFIX)


def _said_identity(path: Path) -> dict[str, Any]:
    """What the manifest claims, unchecked; empty where there is none or it cannot be read."""
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    identity = content.get("identity") if isinstance(content, dict) else None
    return identity if isinstance(identity, dict) else {}


class ConvertedCacheOpener:
    """Opens such a cache for a run, in the place of :class:`CacheOpener`.

    Args:
        config: ``teacher.cache_dir`` names the cache; a ``teacher.top_k`` has to be the cache's.
        tokenizer: of the examples.
        vocabulary: leading ids that student and teacher share.
        examples: of the run.

    Raises:
        DataError: the cache is damaged or of something else.
    """

    def __init__(self, config: Config, tokenizer: Any, vocabulary: int, examples: Sequence[Example]) -> None:
        assert config.teacher.cache_dir is not None
        self.path, self._examples = Path(config.teacher.cache_dir), examples
        said = _said_identity(self.path)
        wanted = converted_identity(config, tokenizer, vocabulary, str(said["teacher"]).removeprefix(PREFIX))
        if config.teacher.top_k is None and isinstance(said.get("top_k"), int):
            wanted = replace(wanted, top_k=said["top_k"])
        self.identity = wanted
        self.cache = CacheDirectory(self.path, wanted)

    def missing(self) -> list[Example]:
        """None: what it lacks cannot be captured."""
        return []

    def outlook(self) -> str:
        """One line: what is there, and that nobody can vouch for it."""
        lacking = len(CacheReader(self.cache).missing(self._examples))
        return f"k={self.identity.top_k}; converted, {UNVERIFIED}; lacks {lacking:,} examples"

    def open(self, reporter: Reporter, *, capture: bool = True) -> tuple[CachedTeacher, dict[str, Any]]:
        """The teacher that reads the cache, and facts about it. ``capture`` changes nothing: there is no teacher.

        Raises:
            DataError: it is damaged, or lacks an example of the run.
        """
        with reporter.task("checking the teacher cache", len(self.cache.shards)) as task:
            self.cache.check_files(task.update)
        missing = CacheReader(self.cache).missing(self._examples)
        if missing:
            raise DataError(
                f"{self.path}: this teacher cache comes from a file and lacks {len(missing):,} of "
                f"{len(self._examples):,} examples (first {missing[0].key}), which only a teacher could add. Train on "
                "the records of that file, with the settings it was converted with, or convert it again"
            )
        reporter.note(f"teacher cache {self.path}: {self.cache.facts['source']}, {UNVERIFIED}")
        return CachedTeacher(self.cache), self._facts()

    def _facts(self) -> dict[str, Any]:
        """The same names as of a captured cache; what only a live teacher could say is None."""
        cache = self.cache
        return {
            **cache.holdings(cache.facts["precision"]),
            "source": cache.facts["source"],
            "verified": UNVERIFIED,
            **dict.fromkeys(("gradient_cosine", "tail_mass", "tail_bound", "fidelity_tokens", "difference_from_live")),
        }


def cache_to_fill(path: Path, identity: Identity) -> CacheDirectory:
    """The cache that a conversion adds to. Raises UsageError where the path is a file."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path}: teacher.cache_dir should be a directory. Found a file")
    return CacheDirectory(path, identity)
