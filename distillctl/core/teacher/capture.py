"""Runs the teacher on every example once and fills its cache; compares a cache with the live teacher."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError, RunError
from distillctl.core.losses.term import IGNORE_INDEX, LossBatch
from distillctl.core.teacher.batching import batches, padded_batch
from distillctl.core.teacher.cache_format import INDEX_DTYPE, CacheDirectory
from distillctl.core.teacher.cached import CachedTeacher
from distillctl.core.teacher.live import LiveTeacher
from distillctl.core.teacher.rows import Layout

SHARD_BYTES = 16 * 2**20
"""Rows are kept in memory until they are a shard: what a kill loses at most."""
VERIFIED_EXAMPLES = 8
"""Examples that the live teacher recomputes when a cache is opened."""
TOLERANCES = {"float32": 2e-3, "bf16": 0.1}
"""Largest difference of a probability. Half-precision logits alone move one by up to 2e-4."""

Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass
class _Pending:
    """Rows on their way into a shard."""

    rows: list[np.ndarray]
    index: list[tuple[int, int, int, int]]
    tokens: int = 0

    def add(self, example: Example, rows: np.ndarray) -> None:
        high, low = np.frombuffer(example.digest(), "<u8")
        self.index.append((int(high), int(low), self.tokens, len(rows)))
        self.rows.append(rows)
        self.tokens += len(rows)


def share_of_capture(examples: Sequence[Example], rank: int, ranks: int) -> list[Example]:
    """The examples that one of several processes captures.

    By digest and not by position: however late it reads what the others have added, no example is left to nobody.
    """
    return [example for example in examples if int.from_bytes(example.digest()[:8], "little") % ranks == rank]


def capture(
    cache: CacheDirectory,
    teacher: LiveTeacher,
    examples: Sequence[Example],
    facts: dict[str, Any],
    autocast: Autocast = nullcontext,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Adds examples that the cache does not hold. Call it inside ``cache.capturing``.

    Args:
        cache: gets a shard whenever one is full, and the rest at the end, or when stopped by Ctrl-C.
        teacher: on the device that should do the work.
        examples: distinct.
        facts: what the manifest says besides: the precisions of the teacher so far.
        autocast: the precision of the teacher.
        on_progress: called with (examples done, examples in all) after every batch.

    Raises:
        RunError: the disk is full, or the teacher's logits are not finite.
    """
    pending, done = _Pending([], []), 0
    device = next(teacher.model.parameters()).device
    try:
        for batch in batches(examples, cache.layout.width):
            inputs, mask, labels = padded_batch(batch, teacher.padding_id, device)
            with autocast():
                logits = teacher.logits(inputs, mask, labels)
            for example, rows in zip(batch, _rows(cache.layout, logits, labels, batch), strict=True):
                pending.add(example, rows)
            done += len(batch)
            if pending.tokens * cache.layout.row_bytes >= SHARD_BYTES:
                full, pending = pending, _Pending([], [])
                _write(cache, full, facts)
            if on_progress is not None:
                on_progress(done, len(examples))
    except KeyboardInterrupt:
        _write(cache, pending, facts)
        raise
    _write(cache, pending, facts)


def _rows(layout: Layout, logits: Tensor, labels: Tensor, batch: Sequence[Example]) -> list[np.ndarray]:
    valid = labels != IGNORE_INDEX
    kept = logits[..., : layout.width][valid].float()
    if not bool(torch.isfinite(kept).all()):
        raise RunError(
            f"the teacher's logits are not finite (among {len(batch)} examples from {batch[0].key} on): turn "
            "training.bf16 off, or use another teacher"
        )
    rows = layout.pack(kept, labels[valid])
    return np.split(rows, np.cumsum([len(example.labels) for example in batch])[:-1])


def _write(cache: CacheDirectory, pending: _Pending, facts: dict[str, Any]) -> None:
    if pending.rows:
        cache.append(np.concatenate(pending.rows), np.array(pending.index, INDEX_DTYPE), facts)


def check_room(cache: CacheDirectory, examples: Sequence[Example]) -> None:
    """Raise RunError where the disk is too small for what is to be captured."""
    needed = expected_bytes(cache.layout, examples)
    free = shutil.disk_usage(_existing(cache.path)).free
    if needed > free:
        raise RunError(
            f"{cache.path}: the teacher cache needs {needed / 2**20:,.0f} MiB more, and {free / 2**20:,.0f} MiB are "
            "free. Free some, set DISTILLCTL_CACHE to another directory, or give a smaller teacher.top_k"
        )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def expected_bytes(layout: Layout, examples: Sequence[Example]) -> int:
    """Bytes of the rows and index entries of the examples."""
    return sum(len(example.labels) for example in examples) * layout.row_bytes + len(examples) * INDEX_DTYPE.itemsize


def verify_sample(
    cached: CachedTeacher,
    teacher: LiveTeacher,
    examples: Sequence[Example],
    autocast: Autocast = nullcontext,
    precision: str = "float32",
) -> float:
    """Recomputes some examples with the live teacher; returns the largest difference of a probability.

    Args:
        cached: holds every example.
        examples: of the run; ``VERIFIED_EXAMPLES`` of them are taken, always the same.
        autocast, precision: of the live teacher: float32 or bf16.

    Raises:
        DataError: a probability differs by more than rounding explains.
    """
    chosen = sorted(examples, key=lambda e: hashlib.sha256(b"verified" + e.digest()).digest())[:VERIFIED_EXAMPLES]
    device = next(teacher.model.parameters()).device
    inputs, mask, labels = padded_batch(chosen, teacher.padding_id, device)
    with autocast():
        logits = teacher.logits(inputs, mask, labels)
    layout, batch = cached.cache.layout, LossBatch(labels)
    live = torch.softmax(logits[..., : layout.width] / layout.temperature, dim=-1)
    found = cached.read(batch, chosen)
    if found.teacher_top is None:
        assert found.teacher_logits is not None
        difference = (torch.softmax(found.teacher_logits / layout.temperature, dim=-1) - live).abs().amax(dim=-1)
    else:
        top = found.teacher_top
        kept = torch.exp(top.logits / top.temperature - top.log_sum_exp.unsqueeze(-1))
        expected = live.gather(-1, top.ids)
        tail = (torch.exp(top.tail) - (1 - expected.sum(dim=-1))).abs()
        difference = torch.maximum((kept - expected).abs().amax(dim=-1), tail)
    largest = float((difference * batch.valid).max())
    tolerance = max(TOLERANCES[name] for name in {precision, *cached.cache.facts["precisions"]})
    if not largest <= tolerance:
        raise DataError(
            f"{cached.cache.path}: the live teacher gives other probabilities than its cache (by up to {largest:.2g}, "
            f"{tolerance:g} is allowed). Delete that directory and it is captured anew"
        )
    return largest
