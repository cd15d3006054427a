"""Examples as padded tensors, and as batches for passes over all of them in which nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.losses.term import IGNORE_INDEX

SOURCE_TOKENS = 16_384
LOGITS = 2**26
"""Padded source tokens and logits of one batch: 256 MiB of the latter in float32."""


def padded_batch(examples: Sequence[Example], padding_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids [B,S], attention_mask [B,S], labels [B,T] with -100 at padding), int64."""
    inputs = _padded([example.input_ids for example in examples], padding_id)
    lengths = torch.tensor([len(example.input_ids) for example in examples])
    mask = (torch.arange(inputs.shape[1]) < lengths.unsqueeze(1)).long()
    labels = _padded([example.labels for example in examples], IGNORE_INDEX)
    return inputs.to(device), mask.to(device), labels.to(device)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    padded = np.full((len(rows), lengths.max()), value, dtype=np.int64)
    taken = np.arange(padded.shape[1]) < lengths[:, None]
    # All rows at once: a tensor for each takes ten times as long.
    padded[taken] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(padded)


def batches(examples: Sequence[Example], width: int, most: int = 64) -> Iterator[list[Example]]:
    """The examples by length, longest first: memory peaks at once, and little padding is computed.

    Args:
        examples: in any order; the batches depend on what they are, not on that.
        width: logits of a token.
        most: examples of a batch at most.
    """
    ordered = sorted(examples, key=lambda e: (-len(e.labels), -len(e.input_ids), e.input_ids, e.labels))
    batch: list[Example] = []
    source = target = 0
    for example in ordered:
        source, target = max(source, len(example.input_ids)), max(target, len(example.labels))
        size = len(batch) + 1
        if batch and (size > most or size * source > SOURCE_TOKENS or size * target * width > LOGITS):
            yield batch
            batch, source, target = [], len(example.input_ids), len(example.labels)
        batch.append(example)
    if batch:
        yield batch
