"""Runs the teacher on every example once and fills its cache; compares a cache with the live teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError, RunError
from distillctl.core.losses.term import LossBatch, Places
from distillctl.core.store.completion import verified_sample
from distillctl.core.store.writer import ShardWriter
from distillctl.core.teacher.batching import batches, padded_batch
from distillctl.core.teacher.cache_format import CacheDirectory
from distillctl.core.teacher.cached import CachedTeacher
from distillctl.core.teacher.live import LiveTeacher
from distillctl.core.teacher.rows import Layout

TOLERANCES = {"float32": 2e-3, "bf16": 0.1}
"""Largest difference of a probability. Half-precision logits alone move one by up to 2e-4."""

Autocast = Callable[[], AbstractContextManager[Any]]


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
    device, done = next(teacher.model.parameters()).device, 0
    with ShardWriter(cache, facts) as writer:
        for batch in batches(examples, cache.layout.width):
            inputs, mask, labels = padded_batch(batch, teacher.padding_id, device)
            places = Places.of(labels)
            with autocast():
                logits = teacher.logits(inputs, mask, labels, places)
            for example, rows in zip(batch, _rows(cache.layout, logits, places.take(labels), batch), strict=True):
                writer.add(example.digest(), rows)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(examples))


def _rows(layout: Layout, logits: Tensor, gold: Tensor, batch: Sequence[Example]) -> list[np.ndarray]:
    """Rows per example, of the logits [R,V'] of the batch's target tokens and their gold ids [R]."""
    kept = logits[:, : layout.width]
    if not bool(torch.isfinite(kept).all()):
        raise RunError(
            f"the teacher's logits are not finite (among {len(batch)} examples from {batch[0].key} on): turn "
            "training.bf16 off, or use another teacher"
        )
    rows = layout.pack(kept, gold)
    return np.split(rows, np.cumsum([len(example.labels) for example in batch])[:-1])


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
        examples: of the run; some of them are taken, always the same.
        autocast, precision: of the live teacher: float32 or bf16.

    Raises:
        DataError: a probability differs by more than rounding explains.
    """
    chosen = verified_sample(examples, Example.digest)
    device = next(teacher.model.parameters()).device
    inputs, mask, labels = padded_batch(chosen, teacher.padding_id, device)
    layout, found = cached.cache.layout, cached.read(LossBatch(labels), chosen)
    with autocast():
        logits = teacher.logits(inputs, mask, labels, found.places)
    live = torch.softmax(logits[:, : layout.width] / layout.temperature, dim=-1)
    top = found.top_rows
    if top is None:
        assert found.teacher_rows is not None
        difference = (torch.softmax(found.teacher_rows / layout.temperature, dim=-1) - live).abs().amax(dim=-1)
    else:
        kept = torch.exp(top.logits / top.temperature - top.log_sum_exp.unsqueeze(-1))
        expected = live.gather(-1, top.ids)
        tail = (torch.exp(top.tail) - (1 - expected.sum(dim=-1))).abs()
        difference = torch.maximum((kept - expected).abs().amax(dim=-1), tail)
    largest = float(difference.max())
    tolerance = max(TOLERANCES[name] for name in {precision, *cached.cache.facts["precisions"]})
    if not largest <= tolerance:
        raise DataError(
            f"{cached.cache.path}: the live teacher gives other probabilities than its cache (by up to {largest:.2g}, "
            f"{tolerance:g} is allowed). Delete that directory and it is captured anew"
        )
    return largest
