"""How much of what the frozen encoder knows of a text is left when it reads the student's tokens in place of its own.

Two readings of the same golds: **aligned**, as in training, where each student token is a row of the table E; and
**natural**, by the encoder's own tokenizer with its own special tokens. Both are the mean of the text's states, centred
by the bank's mean state (uncentred, all code looks alike). A similarity says nothing by itself, so the one with another
gold's natural reading stands beside it, and how often the own one is the nearest of all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distillctl.core.data.encoding import Example, ids_digest
from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.encoder.frozen import FrozenEncoder

SAMPLE = 128
"""Distinct golds that are read naturally: the standard error of the mean cosine is then 0.01 or so, and CodeBERT's size
takes some 6 s of one core (2026-11-25, random weights, 19 tokens a gold)."""
_BATCH = 32
_LONGEST = 512  # tokens of a gold that are read where the encoder itself has no limit
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Spread:
    """Mean and quantiles of cosines."""

    mean: float
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, cosines: Tensor) -> Spread:
        """Of [n] cosines, n > 0; ``low`` and ``high`` are the 5 % and 95 % quantiles."""
        low, median, high = torch.quantile(cosines, cosines.new_tensor(_QUANTILES)).tolist()
        return cls(float(cosines.mean()), low, median, high)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class AlignmentError:
    """What the aligned reading keeps of the natural one.

    Attributes:
        golds: number of distinct golds that were compared.
        own: cosine of a gold's aligned reading with its own natural one; 1 is nothing lost.
        others: with the natural reading of every other gold: what ``own`` has to be above.
        retrieved: share of golds whose own natural reading is the nearest of all; chance is ``1 / golds``.
    """

    golds: int
    own: Spread
    others: Spread
    retrieved: float

    @classmethod
    def of(cls, aligned: Tensor, natural: Tensor) -> AlignmentError:
        """From two [N,D] float tensors of unit vectors in the same order, N > 1."""
        cosines = aligned @ natural.T
        count = len(cosines)
        own = cosines.diagonal()
        others = cosines[~torch.eye(count, dtype=torch.bool)]
        nearest = cosines.argmax(dim=1) == torch.arange(count)
        return cls(count, Spread.of(own), Spread.of(others), float(nearest.float().mean()))

    def __str__(self) -> str:
        return (
            f"{self.golds} golds read by the student's tokens against the encoder's own: cosine {self.own}, with "
            f"another gold {self.others}; the own one is the nearest for {100 * self.retrieved:.1f} %"
        )


def alignment_error(
    encoder: FrozenEncoder, bank: EmbeddingBank, student_tokenizer: Any, examples: Sequence[Example]
) -> AlignmentError | None:
    """Reads some golds naturally and compares; None where there is no tokenizer to do it with, or a single gold.

    The aligned readings are the bank's own vectors: those that the contrastive term compares.

    Args:
        encoder: on the device that should do the work, with its ``own_tokenizer``.
        bank: of at least these examples.
        student_tokenizer: that made the examples' labels.
        examples: of the run; up to :data:`SAMPLE` distinct golds of them are taken, always the same.
    """
    chosen = _sample(examples)
    if encoder.own_tokenizer is None or len(chosen) < 2:
        return None
    natural = natural_means(encoder, student_tokenizer, [example.labels for example in chosen])
    aligned = bank.vectors([example.key for example in chosen])
    return AlignmentError.of(aligned, normalize(natural - bank.mean_state, dim=-1))


def _sample(examples: Sequence[Example]) -> list[Example]:
    distinct = {example.labels: example for example in reversed(examples)}.values()
    return sorted(distinct, key=lambda e: hashlib.sha256(b"aligned" + ids_digest(e.labels)).digest())[:SAMPLE]


@dataclass(frozen=True)
class _Reading:
    """A gold as the encoder's own tokenizer cuts it: its ids, and 1 for each that counts for the mean."""

    ids: list[int]
    counts: list[int]


def natural_means(encoder: FrozenEncoder, student_tokenizer: Any, golds: Sequence[Sequence[int]]) -> Tensor:
    """Mean states of golds that the encoder reads as its own tokenizer cuts them, [N,D] float32 on the host.

    The text's tokens count, and the tokens that start and end it where the student's labels have theirs too; other
    special tokens are read and not counted.

    Args:
        encoder: with its ``own_tokenizer``.
        student_tokenizer: that made the labels.
        golds: label ids without padding.
    """
    readings = _readings(encoder, student_tokenizer, golds)
    padding, device = encoder.own_tokenizer.pad_token_id or 0, encoder.table.device
    means = torch.zeros(len(golds), encoder.width)
    order = sorted(range(len(golds)), key=lambda gold: -len(readings[gold].ids))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        ids = _padded([readings[gold].ids for gold in batch], padding)
        there = _padded([[1] * len(readings[gold].ids) for gold in batch], 0)
        states = encoder.natural_states(ids.to(device), there.to(device).bool()).cpu()
        counts = _padded([readings[gold].counts for gold in batch], 0).unsqueeze(-1)
        means[batch] = (states * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    return means


def _readings(encoder: FrozenEncoder, student_tokenizer: Any, golds: Sequence[Sequence[int]]) -> list[_Reading]:
    own, special, end = encoder.own_tokenizer, set(student_tokenizer.all_special_ids), student_tokenizer.eos_token_id
    texts = [
        student_tokenizer.decode([i for i in ids if i not in special], clean_up_tokenization_spaces=False)
        for ids in golds
    ]
    found = own(texts, return_special_tokens_mask=True, truncation=True, max_length=encoder.longest or _LONGEST)
    starts, ends = {own.bos_token_id, own.cls_token_id}, {own.eos_token_id, own.sep_token_id}
    begins = {student_tokenizer.bos_token_id, student_tokenizer.cls_token_id} - {None}
    readings = []
    for gold, ids, mask in zip(golds, found["input_ids"], found["special_tokens_mask"], strict=True):
        framing = (starts if gold[0] in begins else set()) | (ends if gold[-1] == end else set())
        counts = [int(not special or i in framing) for i, special in zip(ids, mask, strict=True)]
        readings.append(_Reading(ids, counts))
    return readings


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """[B,T] int64, T the longest row's length."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
