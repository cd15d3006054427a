"""What a loss term sees and what it returns.

Shape legend, used in every name and docstring here: B examples of a micro-batch, T target positions, R target tokens
of a micro-batch (its positions without padding, in order), V vocabulary, D encoder width, N examples of the whole
optimizer step (all micro-batches, all ranks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from distillctl.core.errors import RunError
from distillctl.core.losses.fused import log_atoms

IGNORE_INDEX = -100

Group = Literal["primary", "auxiliary"]
EncodeLogits = Callable[[Tensor, Tensor], Tensor]
"""(logits as the student gave them, mask [B,T] bool) -> the frozen encoder's states of the predictions [B,T,D]."""

Value = TypeVar("Value")


class TermSum(NamedTuple):
    """A term's value before any division: 0-d ``sum`` (with gradient) and 0-d float ``count``.

    Token terms count valid target tokens, sequence terms count examples. A batch with nothing to count gives
    a differentiable 0 and the count 0.
    """

    sum: Tensor
    count: Tensor  # type: ignore[assignment]  # shadows tuple.count on purpose: the contract names this field


@dataclass(frozen=True, eq=False)
class Places:
    """Where the R target tokens of a micro-batch stand among its B x T positions.

    Known before the labels lie on the device, so that nobody has to ask it how many there are.

    Attributes:
        flat: [R] int64, ascending, in the flattened [B,T].
        shape: (B, T).
    """

    flat: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, labels: Tensor) -> Places:
        """Of labels [B,T]; on a GPU this waits for the device."""
        return cls((labels != IGNORE_INDEX).flatten().nonzero().squeeze(-1), (labels.shape[0], labels.shape[1]))

    def to(self, device: torch.device) -> Places:
        """The same on another device."""
        return Places(self.flat.to(device, non_blocking=True), self.shape)

    def take(self, tensor: Tensor) -> Tensor:
        """[B,T,...] -> [R,...], differentiable."""
        return tensor.flatten(0, 1).index_select(0, self.flat)

    def spread(self, rows: Tensor) -> Tensor:
        """[R,...] -> [B,T,...] with zeros at padding, differentiable."""
        empty = rows.new_zeros(self.shape[0] * self.shape[1], *rows.shape[1:])
        return empty.index_copy(0, self.flat, rows).reshape(*self.shape, *rows.shape[1:])


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

    def at(self, places: Places) -> TeacherTop:
        """The same of the target tokens alone: [R,k] and [R]."""
        ids, logits = places.take(self.ids), places.take(self.logits)
        log_sum_exp, tail = places.take(self.log_sum_exp), places.take(self.tail)
        return replace(self, ids=ids, logits=logits, log_sum_exp=log_sum_exp, tail=tail)


@dataclass(frozen=True, eq=False)
class LossBatch:
    """All that a term may know of a micro-batch besides the student's outputs; no tensor carries gradient.

    Attributes:
        labels: [B,T] int64 target ids, -100 at padding.
        teacher_logits: of the live teacher, [B,T,V'] or [R,V'] (V' may exceed V by padded ids), or None; terms
            read ``teacher_rows``.
        teacher_top: the same from a teacher cache, of the most likely ids only, or None.
        token_weights: [B,T] float weights of the critical tokens, already warm-started, or None for all ones.
        gold_states: [B,T,D] float states that the frozen encoder gives the gold tokens, not centred, or None.
        mean_state: [D] float mean state of the embedding bank, or None.
        step_gold_vectors: [N,D] float masked-mean, centred, unit-norm gold vectors of all examples of the
            optimizer step, or None.
        step_gold_keys: [N] int64; two examples have the same gold exactly when their keys are equal, or None.
        step_rows: [B] int64 row of each example of this micro-batch in the two step tensors, or None.
        targets: where the target tokens are, or None, and then they are looked for in the labels.
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
    targets: Places | None = None

    @cached_property
    def valid(self) -> Tensor:
        """[B,T] bool, True at target tokens; the same object every time, so that caches can rely on it."""
        return self.labels != IGNORE_INDEX

    @cached_property
    def places(self) -> Places:
        """Where the R target tokens are."""
        return Places.of(self.labels) if self.targets is None else self.targets

    @cached_property
    def gold(self) -> Tensor:
        """[R] int64 ids of the target tokens."""
        return self.places.take(self.labels)

    @cached_property
    def top_rows(self) -> TeacherTop | None:
        """``teacher_top`` at the target tokens: [R,k] and [R]; the same object every time."""
        return None if self.teacher_top is None else self.teacher_top.at(self.places)

    @cached_property
    def teacher_rows(self) -> Tensor | None:
        """[R,V'] ``teacher_logits`` at the target tokens."""
        if self.teacher_logits is None or self.teacher_logits.dim() == 2:
            return self.teacher_logits
        return self.places.take(self.teacher_logits)


class StudentOutputs:
    """The student's logits and what terms share of them, made on first use.

    Args:
        logits: float32 (float64 in gradient checks), as the student gave them: [B,T,V], or with ``places`` those of
            the target tokens alone, [R,V], for which padding never reached its LM head.
        encode: maps (these logits, mask) to predicted states; None where no term needs them.
        places: where the R target tokens are.

    Attributes:
        given: the logits as the student gave them, which the objective's gradient is taken at.

    Example:
        >>> outputs = StudentOutputs(torch.zeros(1, 2, 3))
        >>> outputs.with_logits_as_leaf().logits.requires_grad
        True
    """

    def __init__(self, logits: Tensor, encode: EncodeLogits | None = None, places: Places | None = None) -> None:
        assert (logits.dim() == 2) == (places is not None), "logits of target tokens alone come with their places"
        self.given = logits
        self._encode = encode
        self._places = places
        self._shared: dict[tuple[Any, ...], tuple[Tensor, bool, Tensor]] = {}

    @property
    def logits(self) -> Tensor:
        """[B,T,V], 0 at padding that never reached the head: a dense copy then. ``rows`` are cheaper."""
        return self.given if self._places is None else self._places.spread(self.given)

    @property
    def width(self) -> int:
        """V, the number of logits of a token."""
        return self.given.shape[-1]

    def rows(self, batch: LossBatch) -> Tensor:
        """[R,V] logits of the target tokens alone."""
        return self.given if self._places is not None else batch.places.take(self.given)

    def log_atoms(self, batch: LossBatch, ids: Tensor, temperature: float, width: int) -> Tensor:
        """[R,k + 1] log-probabilities of ``ids`` [R,k] and of all others together: one dense pass for all terms.

        See :mod:`distillctl.core.losses.fused`. Those terms share it that ask with the same ``ids`` object.
        """
        key = ("log_atoms", id(ids), temperature, width)
        return self._once(key, ids, lambda: log_atoms(self.rows(batch), ids, temperature, width))

    def predicted_states(self, mask: Tensor) -> Tensor:
        """States [B,T,D] of the predicted tokens: one encoder pass for all terms that ask with one mask.

        Raises:
            RunError: no encoder was given.
        """
        encode = self._encode
        if encode is None:
            raise RunError(
                "A loss term asked for predicted states, but the run has no frozen encoder: set `encoder`, "
                "or turn the semantic and contrastive terms off."
            )
        return self._once(("states", id(mask)), mask, lambda: encode(self.given, mask))

    def _once(self, key: tuple[Any, ...], named: Tensor, make: Callable[[], Tensor]) -> Tensor:
        """What ``make`` gives, made once per key, in which ``named`` stands as its id and is therefore kept alive.

        What was made without gradient is never handed to a caller that needs one: a silent term would go unnoticed.
        """
        found = self._shared.get(key)
        grad = torch.is_grad_enabled()
        if found is None or (grad and not found[1]):
            found = self._shared[key] = (make(), grad, named)
        return found[0]

    def with_logits_as_leaf(self) -> StudentOutputs:
        """A copy cut from the student's graph: logits a leaf that requires gradient, nothing shared yet."""
        return StudentOutputs(self.given.detach().requires_grad_(True), self._encode, self._places)


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
