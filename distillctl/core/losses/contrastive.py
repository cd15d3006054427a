"""Contrastive semantics (InfoNCE): a prediction should be closer to its own gold than to the other golds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distillctl.core.errors import UsageError
from distillctl.core.losses.term import Group, LossBatch, StudentOutputs, TermSum, masked_mean, require

Direction = Literal["both", "triplet"]


def unit_vectors(states: Tensor, mean_state: Tensor, mask: Tensor) -> Tensor:
    """Masked mean over positions, centred, unit norm: [B,T,D], [D], [B,T] bool -> [B,D]."""
    return normalize(masked_mean(states, mask) - mean_state.detach().to(states.dtype), dim=-1)


def negatives(gold_keys: Tensor, rows: Tensor) -> Tensor:
    """[B,N] bool: which of the step's golds differ from each anchor's, by key ([N] int64, [B] int64 rows)."""
    return gold_keys[rows].unsqueeze(1) != gold_keys.unsqueeze(0)


def contrastive_per_example(
    predictions: Tensor,
    gold_vectors: Tensor,
    rows: Tensor,
    is_negative: Tensor,
    temperature: float = 0.1,
    direction: Direction = "both",
) -> Tensor:
    r"""InfoNCE (van den Oord et al. 2018, eq. 4) on triplets anchor g_i, positive u_i, negatives g_j.

    ``triplet``: ``-log softmax`` at the pair u_i.g_i over {u_i.g_i, g_i.g_j}, all divided by the temperature;
    here the negatives are constants. ``both``: the mean of that and of the same over {u_i.g_i, u_i.g_j}, in
    which the negatives carry gradient too.

    Args:
        predictions: [B,D] unit vectors u.
        gold_vectors: [N,D] unit vectors g of all golds of the optimizer step.
        rows: [B] int64, each example's own row in gold_vectors.
        is_negative: [B,N] bool, see :func:`negatives`.
        temperature: divides every similarity.
        direction: ``both`` or ``triplet``.

    Returns:
        [B] in nats; exactly 0, without gradient, for an example that has no negative. One negative, u = g_i,
        g_i.g_j = 0, temperature 1: ln(1 + 1/e) = 0.3133 in either direction.
    """
    # Under bf16 autocast these products would lose what a division by 0.1 then shows: keep them in full
    # precision.
    with torch.autocast(predictions.device.type, enabled=False):
        golds = gold_vectors.detach().to(predictions.dtype)
        own = golds[rows]
        pair = (predictions * own).sum(dim=-1) / temperature
        by_anchor = _minus_log_softmax(pair, own @ golds.T / temperature, is_negative)
        if direction == "triplet":
            return by_anchor
        by_prediction = _minus_log_softmax(pair, predictions @ golds.T / temperature, is_negative)
        return 0.5 * (by_anchor + by_prediction)


def _minus_log_softmax(pair: Tensor, others: Tensor, is_negative: Tensor) -> Tensor:
    """-log softmax at ``pair`` [B] over it and the negatives in ``others`` [B,N]; 0 without negatives."""
    candidates = torch.cat([pair.unsqueeze(1), others.masked_fill(~is_negative, -torch.inf)], dim=1)
    return torch.logsumexp(candidates, dim=1) - pair


@dataclass(frozen=True)
class ContrastiveTerm:
    """Sum of :func:`contrastive_per_example`; counts examples with a valid token and at least one negative.

    Raises:
        UsageError: temperature is not positive, or the direction is unknown.
    """

    temperature: float = 0.1
    direction: Direction = "both"
    name: ClassVar[str] = "contrastive"
    group: ClassVar[Group] = "auxiliary"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"objective.contrastive.temperature should be > 0. Found {self.temperature}.")
        if self.direction not in get_args(Direction):
            raise UsageError(
                f"objective.contrastive.direction should be one of {', '.join(get_args(Direction))}. Found "
                f"'{self.direction}'."
            )

    def count(self, batch: LossBatch) -> Tensor:
        return self._counted(batch, self._negatives(batch)).sum().to(torch.get_default_dtype())

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        mean_state = require(batch.mean_state, "mean_state", self.name)
        is_negative = self._negatives(batch)
        counted = self._counted(batch, is_negative)
        losses = contrastive_per_example(
            unit_vectors(outputs.predicted_states(batch.valid), mean_state, batch.valid),
            require(batch.step_gold_vectors, "step_gold_vectors", self.name),
            require(batch.step_rows, "step_rows", self.name),
            is_negative,
            self.temperature,
            self.direction,
        )
        return TermSum((losses * counted).sum(), counted.sum().to(torch.get_default_dtype()))

    def _negatives(self, batch: LossBatch) -> Tensor:
        keys = require(batch.step_gold_keys, "step_gold_keys", self.name)
        return negatives(keys, require(batch.step_rows, "step_rows", self.name))

    @staticmethod
    def _counted(batch: LossBatch, is_negative: Tensor) -> Tensor:
        return batch.valid.any(dim=1) & is_negative.any(dim=1)
