"""How many ids a cache has to keep: measured, on the gradient that a student would get.

A student that has just begun is nearly flat over the ids that are not kept, and there a single tail atom takes nothing
from its gradient: k would be chosen too small. Of the embedded teacher k = 8 had a cosine of 0.993 with the student as
it begins, and of 0.961 after an epoch; k = 256 is what that one needs (0.993). So two students are stood in for the
later ones, and the worst of the three decides: one that only knows how frequent tokens are, and one that gives half of
its probability to what the teacher says of another token. For k = 8, 64, 256 the worst of the three has cosines of
0.951, 0.980, 0.993 where the student after an epoch has 0.961, 0.984, 0.993; at temperature 2 it has 0.832, 0.882,
0.917 and the student 0.825, 0.862, 0.891.
"""

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
from distillctl.core.losses.term import Places
from distillctl.core.models.vocabulary import special_ids
from distillctl.core.teacher.batching import batches, padded_batch
from distillctl.core.teacher.live import LiveTeacher, forced_logits
from distillctl.core.teacher.rows import Layout

COSINE = 0.99
SAMPLED_TOKENS = 1000
STUDENTS = 3


@dataclass(frozen=True)
class Fidelity:
    """What keeping ``top_k`` ids does, over a sample of target tokens.

    Attributes:
        top_k: ids kept.
        cosine: between the gradients of the top-k and of the dense divergence at the student's logits; of the
            student that is worst off.
        bound: the most that the tail hides of a token's divergence, in nats, mean; of the student that is worst off.
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


def choose_top_k(width: int, measure: Callable[[int], Fidelity]) -> Fidelity:
    """The fewest ids, a power of two, whose gradient is the dense one's to ``COSINE``; more ids are taken to be closer.

    Raises DataError where even the largest of :func:`candidates` is not enough.
    """
    powers = candidates(width)
    best = measure(powers[-1]) if powers else None
    if best is None or best.cosine < COSINE:
        raise DataError(
            "teacher.top_k: no number of ids that would be smaller than dense logits keeps the gradient"
            f"{'' if best is None else f' ({best})'}. "
            "Set teacher.mode=live, lower objective.jsd.temperature, or give a teacher.top_k"
        )
    low, high = 0, len(powers) - 1
    while low < high:
        middle = (low + high) // 2
        found = measure(powers[middle])
        if found.cosine >= COSINE:
            best, high = found, middle
        else:
            low = middle + 1
    return best


def candidates(width: int) -> list[int]:
    """Powers of two whose rows are smaller than dense half-precision logits."""
    powers = (2**power for power in range(1, width.bit_length()))
    return [k for k in powers if k < width and Layout(k, width, 1.0).row_bytes < 2 * width]


class FidelityProbe:
    """Some 1,000 target tokens on which :meth:`measure` says what a k keeps of the gradient.

    The student is taken as it is, without dropout, and left in the mode it was in; no random number is drawn.

    Args:
        student: on the device where it is trained.
        teacher: the live one.
        examples: of the run; the sample depends on what they are, not on their order.
        width: ids that the two share.
        temperature, mixture: of the loss.
    """

    def __init__(
        self,
        student: Any,
        teacher: LiveTeacher,
        examples: Sequence[Example],
        width: int,
        temperature: float,
        mixture: float = 0.5,
    ) -> None:
        self._width, self._temperature, self._mixture = width, temperature, mixture
        self._samples = _sampled_logits(student, teacher, examples, width)
        self._tokens = sum(len(labels) for _, _, labels in self._samples)
        masses = [torch.softmax(logits, dim=-1).sum(dim=0) for _, logits, _ in self._samples]
        self._common = torch.stack(masses).sum(dim=0) / self._tokens

    def measure(self, k: int) -> Fidelity:
        """What ``k`` ids keep, 1 <= k < width."""
        layout, tau, mixture = Layout(k, self._width, self._temperature), self._temperature, self._mixture
        found = [_Sums() for _ in range(STUDENTS)]
        for z, teacher_logits, labels in self._samples:
            top = layout.top(teacher_logits, labels)
            p_tail = torch.exp(top.tail)
            for sums, logits in zip(found, _students(z, teacher_logits, self._common), strict=True):
                whole = partial(jsd_per_token, teacher_logits=teacher_logits, temperature=tau, mixture=mixture)
                dense = _gradient(logits, whole)
                cut = _gradient(logits, partial(jsd_top_k, teacher=top, mixture=mixture))
                q_tail = torch.softmax(logits / tau, dim=-1).scatter(-1, top.ids, 0.0).sum(dim=-1)
                sums.add(dense, cut, p_tail, tail_bound(p_tail, q_tail, tau, mixture))
        return Fidelity(
            k,
            min(sums.cosine for sums in found),
            max(sums.bound for sums in found) / self._tokens,
            found[0].tail / self._tokens,
            self._tokens,
        )


def _students(z: Tensor, teacher_logits: Tensor, common: Tensor) -> tuple[Tensor, ...]:
    """Logits [N,width] of the student as it begins, and of the two that stand in for later ones."""
    teacher = torch.softmax(teacher_logits, dim=-1)
    half_right = (teacher + teacher.roll(1, dims=0)) / 2
    tiny = torch.finfo(z.dtype).tiny
    return z, common.clamp(min=tiny).log().expand_as(z), half_right.clamp(min=tiny).log()


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

    @property
    def cosine(self) -> float:
        """1 where there is no gradient to be changed: of a student that is its teacher."""
        scale = math.sqrt(self.dense * self.cut)
        return 1.0 if self.dense == 0 else self.dot / scale if scale > 0 else 0.0


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
            places = Places.of(labels)
            with torch.no_grad():
                logits = forced_logits(student, inputs, mask, labels, places, start, padding)
            teacher_logits = teacher.logits(inputs, mask, labels, places)
            result.append((logits[:, :width], teacher_logits[:, :width], places.take(labels)))
    finally:
        student.train(was_training)
    return result
