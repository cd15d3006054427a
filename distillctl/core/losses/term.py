"""What a loss term sees and what it returns.

Shape legend, used in every name and docstring here: B examples of a micro-batch, T target positions, V
vocabulary, D encoder width, N examples of the whole optimizer step (all micro-batches, all ranks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from distillctl.core.errors import RunError

IGNORE_INDEX = -100

Group = Literal["primary", "auxiliary"]
EncodeLogits = Callable[[Tensor, Tensor], Tensor]
"""(logits [B,T,V], mask [B,T] bool) -> the frozen encoder's states of the predicted tokens [B,T,D]."""

Value = TypeVar("Value")


class TermSum(NamedTuple):
    """A term's value before any division: 0-d ``sum`` (with gradient) and 0-d float ``count``.

    Token terms count valid target tokens, sequence terms count examples. A batch with nothing to count gives
    a differentiable 0 and the count 0.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count on purpose: the contract names this field


@dataclass(frozen=True, eq=False)
class TeacherTop:
    """What a teacher cache knows of a teacher's distributions: the ids it keeps, and one atom for all the others.

    A token's probability of a kept id is ``exp(logits / temperature - log_sum_exp)``, that of all others together
    ``exp(tail)``; the two add up to 1. At padding stands anything finite.

    Attributes:
        ids: [B,T,k] int64, distinct at every target token, the gold id among them.
        logits: [B,T,k] float32, the token's largest logit subtracted.
        log_sum_exp: [B,T] float32, of ``logits / temperature`` over all ids.
        tail: [B,T] float32, log-probability of the ids that are not kept.
        temperature: that of the loss, which the two were taken at.
        width: number of ids of the distribution, kept or not.
    """

    ids: Tensor
    logits: Tensor
    log_sum_exp: Tensor
    tail: Tensor
    temperature: float
    width: int


@dataclass(frozen=True, eq=False)
class LossBatch:
    """All that a term may know of a micro-batch besides the student's outputs; no tensor carries gradient.

    Attributes:
        labels: [B,T] int64 target ids, -100 at padding.
        teacher_logits: [B,T,V'] of the live teacher (V' may exceed V by padded rows), or None.
        teacher_top: the same from a teacher cache, of the most likely ids only, or None.
        token_weights: [B,T] float weights of the critical tokens, already warm-started, or None for all ones.
        gold_states: [B,T,D] float states that the frozen encoder gives the gold tokens, not centred, or None.
        mean_state: [D] float mean state of the embedding bank, or None.
        step_gold_vectors: [N,D] float masked-mean, centred, unit-norm gold vectors of all examples of the
            optimizer step, or None.
        step_gold_keys: [N] int64; two examples have the same gold exactly when their keys are equal, or None.
        step_rows: [B] int64 row of each example of this micro-batch in the two step tensors, or None.
    """

    labels: Tensor
    teacher_logits: Tensor | None = None
    teacher_top: TeacherTop | None = None
    token_weights: Tensor | None = None
    gold_states: Tensor | None = None
    mean_state: Tensor | None = None
    step_gold_vectors: Tensor | None = None
    step_gold_keys: Tensor | None = None
    step_rows: Tensor | None = None

    @cached_property
    def valid(self) -> Tensor:
        """[B,T] bool, True at target tokens; the same object every time, so that caches can rely on it."""
        return self.labels != IGNORE_INDEX


class StudentOutputs:
    """The student's logits and, made on first use and then shared, the encoder's states of what they predict.

    Args:
        logits: [B,T,V] float32 (float64 in gradient checks).
        encode: maps (logits, mask) to predicted states; None where no term needs them.

    Example:
        >>> outputs = StudentOutputs(torch.zeros(1, 2, 3))
        >>> outputs.with_logits_as_leaf().logits.requires_grad
        True
    """

    def __init__(self, logits: Tensor, encode: EncodeLogits | None = None) -> None:
        self.logits = logits
        self._encode = encode
        self._states: Tensor | None = None
        self._states_mask: Tensor | None = None
        self._states_have_graph = False

    def predicted_states(self, mask: Tensor) -> Tensor:
        """States [B,T,D] of the predicted tokens: one encoder pass for all terms that ask with one mask.

        States made without gradient are never handed to a caller that needs one: a silent term would go
        unnoticed.

        Raises:
            RunError: no encoder was given.
        """
        if self._encode is None:
            raise RunError(
                "A loss term asked for predicted states, but the run has no frozen encoder: set `encoder`, "
                "or turn the semantic and contrastive terms off."
            )
        grad = torch.is_grad_enabled()
        usable = self._states_have_graph or not grad
        if self._states is None or self._states_mask is not mask or not usable:
            self._states = self._encode(self.logits, mask)
            self._states_mask = mask
            self._states_have_graph = grad
        return self._states

    def with_logits_as_leaf(self) -> StudentOutputs:
        """A copy cut from the student's graph: logits a leaf that requires gradient, nothing cached."""
        return StudentOutputs(self.logits.detach().requires_grad_(True), self._encode)


class Term(Protocol):
    """A loss term: ``term(outputs, batch) -> TermSum``.

    ``group`` says which of the two gradients of an ordinary step it belongs to: ``primary`` (token level:
    focal, jsd) or ``auxiliary`` (through the frozen encoder), the one that the share limit scales down.
    """

    @property
    def name(self) -> str: ...

    @property
    def group(self) -> Group: ...

    def count(self, batch: LossBatch) -> Tensor:
        """The 0-d float count that ``__call__`` will return, known before any forward pass."""
        ...

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum: ...


def require(value: Value | None, field: str, term: str) -> Value:
    """``value``, or a RunError that names the batch field a term is missing."""
    if value is None:
        raise RunError(
            f"Term '{term}' needs `{field}` in the batch, which holds none: switch its source on or the term off."
        )
    return value


def valid_tokens(batch: LossBatch) -> Tensor:
    """0-d float number of valid target tokens: the count of every token term."""
    return batch.valid.sum().to(torch.get_default_dtype())


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over valid positions, [B,T,...] and [B,T] bool -> [B,...]; 0 where an example has none."""
    weights = mask.to(states.dtype).reshape(*mask.shape, *([1] * (states.dim() - 2)))
    lengths = weights.sum(dim=1).clamp(min=1)
    return (states * weights).sum(dim=1) / lengths
