"""How many ids a cache has to keep: measured, on the gradient that the student would get."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distillctl.core.data.encoding import Example
from distillctl.core.errors import DataError
from distillctl.core.losses.jsd import jsd_per_token, jsd_top_k, tail_bound
from distillctl.core.losses.term import IGNORE_INDEX
from distillctl.core.models.vocabulary import special_ids
from distillctl.core.teacher.batching import batches, padded_batch
from distillctl.core.teacher.live import LiveTeacher, shift_right
from distillctl.core.teacher.rows import Layout

COSINE = 0.99
SAMPLED_TOKENS = 1000


@dataclass(frozen=True)
class Fidelity:
    """What keeping ``top_k`` ids does, over a sample of target tokens.

    Attributes:
        top_k: ids kept.
        cosine: between the gradients of the top-k and of the dense divergence at the student's logits.
        bound: the most that the tail hides of a token's divergence, in nats, mean.
        tail_mass: the teacher's probability of the ids that are not kept, mean.
        tokens: how many were sampled.
    """

    top_k: int
    cosine: float
    bound: float
    tail_mass: float
    tokens: int

    def __str__(self) -> str:
        return (
            f"k={self.top_k}: gradient cosine {self.cosine:.4f}; the tail, {self.tail_mass:.2%} of the teacher, hides "
            f"at most {self.bound:.2g} nats a token ({self.tokens:,} tokens)"
        )


def choose_top_k(fidelities: Sequence[Fidelity]) -> Fidelity:
    """The fewest ids whose gradient is the dense one's to ``COSINE``. Raises DataError where none are enough."""
    for fidelity in fidelities:
        if fidelity.cosine >= COSINE:
            return fidelity
    best = f" ({fidelities[-1]})" if fidelities else ""
    raise DataError(
        f"teacher.top_k: no number of ids that would be smaller than dense logits keeps the gradient{best}. "
        "Set teacher.mode=live, lower objective.jsd.temperature, or give a teacher.top_k"
    )


def candidates(width: int) -> list[int]:
    """Powers of two whose rows are smaller than dense half-precision logits."""
    powers = (2**power for power in range(1, width.bit_length()))
    return [k for k in powers if k < width and Layout(k, width, 1.0).row_bytes < 2 * width]


def measure_fidelity(
    student: Any,
    teacher: LiveTeacher,
    examples: Sequence[Example],
    width: int,
    temperature: float,
    top_ks: Sequence[int],
) -> list[Fidelity]:
    """What each of ``top_ks`` keeps of the gradient, on some 1,000 target tokens of the examples.

    The student is taken as it is, without dropout, and left in the mode it was in; no random number is drawn.

    Args:
        student: on the device where it is trained.
        teacher: the live one.
        width: ids that the two share.
        temperature: of the loss.
        top_ks: 1 <= k < width.
    """
    sums = {k: _Sums() for k in top_ks}
    tokens = 0
    for z, teacher_logits, labels in _sampled_logits(student, teacher, examples, width):
        tokens += len(labels)
        dense = _gradient(z, partial(jsd_per_token, teacher_logits=teacher_logits, temperature=temperature))
        q = torch.softmax(z / temperature, dim=-1)
        for k, found in sums.items():
            top = Layout(k, width, temperature).top(teacher_logits, labels)
            gradient = _gradient(z, partial(jsd_top_k, teacher=top))
            q_tail = (1 - q.gather(-1, top.ids).sum(dim=-1)).clamp(min=0)
            found.add(dense, gradient, torch.exp(top.tail), tail_bound(torch.exp(top.tail), q_tail, temperature))
    return [found.fidelity(k, tokens) for k, found in sums.items()]


@dataclass
class _Sums:
    dot: float = 0.0
    dense: float = 0.0
    cut: float = 0.0
    tail: float = 0.0
    bound: float = 0.0

    def add(self, dense: Tensor, cut: Tensor, tail: Tensor, bound: Tensor) -> None:
        self.dot += float((dense * cut).sum())
        self.dense += float(dense.square().sum())
        self.cut += float(cut.square().sum())
        self.tail += float(tail.sum())
        self.bound += float(bound.sum())

    def fidelity(self, k: int, tokens: int) -> Fidelity:
        scale = math.sqrt(self.dense * self.cut)
        # A student that is its teacher has no gradient to be changed.
        cosine = 1.0 if self.dense == 0 else self.dot / scale if scale > 0 else 0.0
        return Fidelity(k, cosine, self.bound / tokens, self.tail / tokens, tokens)


def _gradient(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    leaf = logits.clone().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    return gradient


def _sampled_logits(
    student: Any, teacher: LiveTeacher, examples: Sequence[Example], width: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(student logits [N,width], teacher logits [N,width], gold ids [N]) per batch: examples as their digests fall."""
    chosen: list[Example] = []
    tokens = 0
    for example in sorted(examples, key=Example.digest):
        chosen.append(example)
        tokens += len(example.labels)
        if tokens >= SAMPLED_TOKENS:
            break
    start, padding = special_ids(student, "student")
    device = next(student.parameters()).device
    was_training = student.training
    student.eval()
    result = []
    try:
        for batch in batches(chosen, width, most=16):
            inputs, mask, labels = padded_batch(batch, padding, device)
            valid = labels != IGNORE_INDEX
            with torch.no_grad():
                outputs = student(
                    input_ids=inputs,
                    attention_mask=mask,
                    decoder_input_ids=shift_right(labels, start, padding),
                    use_cache=False,
                )
            teacher_logits = teacher.logits(inputs, mask, labels)[..., :width][valid]
            result.append((outputs.logits[..., :width][valid].float(), teacher_logits, labels[valid]))
    finally:
        student.train(was_training)
    return result
