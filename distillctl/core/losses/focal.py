"""Focal cross-entropy on the gold tokens (Lin et al. 2017, "Focal Loss for Dense Object Detection")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillctl.core.errors import UsageError
from distillctl.core.losses.term import IGNORE_INDEX, Group, LossBatch, StudentOutputs, TermSum, valid_tokens


def focal_per_token(logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    r"""``-alpha * (1 - q_y)^gamma * log q_y`` with q = softmax(logits), in nats, 0 at padding (eq. 5).

    Args:
        logits: [...,V] float.
        labels: [...] int64 gold ids y, -100 at padding.
        alpha: overall factor of the term (the paper's class weight, here one for all classes).
        gamma: focusing exponent; 0 gives alpha times cross-entropy.

    Returns:
        [...] losses. gamma = 2, q_y = 0.5, alpha = 0.25: 0.25 * 0.25 * ln 2 = 0.0433.
    """
    valid = labels != IGNORE_INDEX
    gold = torch.where(valid, labels, 0).unsqueeze(-1)
    # log-sum-exp and one gathered column: no dense log-softmax is kept for the backward pass.
    log_q = logits.gather(-1, gold).squeeze(-1) - torch.logsumexp(logits, dim=-1)
    # Rounding can leave log q a hair above 0; the floor keeps pow's derivative finite when gamma < 1.
    missing = (-torch.expm1(log_q)).clamp(min=torch.finfo(log_q.dtype).tiny)
    return -alpha * missing.pow(gamma) * log_q * valid


@dataclass(frozen=True)
class FocalTerm:
    """Sum of :func:`focal_per_token` times the critical-token weight w(y); counts valid tokens.

    The weights change the sum, not the count: emphasis on some tokens adds to the loss instead of taking from
    the others.

    Raises:
        UsageError: alpha is not positive, or gamma is negative.
    """

    alpha: float = 0.25
    gamma: float = 2.0
    name: ClassVar[str] = "focal"
    group: ClassVar[Group] = "primary"

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise UsageError(f"objective.focal.alpha should be > 0. Found {self.alpha}.")
        if not self.gamma >= 0:
            raise UsageError(f"objective.focal.gamma should be >= 0. Found {self.gamma}.")

    def count(self, batch: LossBatch) -> Tensor:
        return valid_tokens(batch)

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        losses = focal_per_token(*_gold_among_atoms(outputs, batch), self.alpha, self.gamma)
        if batch.token_weights is not None:
            losses = losses * batch.places.take(batch.token_weights)
        return TermSum(losses.sum(), self.count(batch))


def _gold_among_atoms(outputs: StudentOutputs, batch: LossBatch) -> tuple[Tensor, Tensor]:
    """(log-probabilities of atoms [R,K], where the gold id is among them [R]).

    The gold id and all others; or jsd's atoms, whose dense pass then is this one too, where jsd looks at the same
    distribution: at temperature 1 and over the whole vocabulary.
    """
    top = batch.top_rows
    if top is None or top.temperature != 1 or top.width != outputs.width:
        ids = batch.gold.unsqueeze(-1)
        return outputs.log_atoms(batch, ids, 1.0, outputs.width), torch.zeros_like(batch.gold)
    found = top.ids == batch.gold.unsqueeze(-1)
    atoms = outputs.log_atoms(batch, top.ids, 1.0, outputs.width)
    # A cache keeps every gold id. Should one be missing, NaN stops the run, and asks the device nothing.
    atoms = torch.where(found.any(dim=-1, keepdim=True), atoms, torch.nan)
    return atoms, found.int().argmax(dim=-1)
