"""Semantic similarity: per position, how far the predicted token's state is from the gold token's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from distillctl.core.losses.term import (
    Group,
    LossBatch,
    StudentOutputs,
    TermSum,
    masked_mean,
    require,
)


def semantic_per_example(states: Tensor, gold_states: Tensor, mean_state: Tensor, mask: Tensor) -> Tensor:
    r"""Masked mean over positions of ``1 - cos(h_t - c, g_t - c)``, c the mean state.

    Without centring all code looks alike (cosines above 0.97 between unrelated golds). Position by position,
    because a pooled vector does not see a target shifted by one token.

    Args:
        states: [B,T,D] float states h of the predicted tokens.
        gold_states: [B,T,D] states g of the gold tokens, from the same encoder by the same path.
        mean_state: [D] mean c over the bank's tokens.
        mask: [B,T] bool, True at valid positions.

    Returns:
        [B] in [0, 2], unitless; 0 for an example without a valid position. Orthogonal centred states: 1.
    """
    gold = gold_states.detach().to(states.dtype)
    centre = mean_state.detach().to(states.dtype)
    distances = 1 - cosine_similarity(states - centre, gold - centre, dim=-1)
    return masked_mean(distances, mask)


@dataclass(frozen=True)
class SemanticTerm:
    """Sum of :func:`semantic_per_example`; counts examples with at least one valid token.

    Its scale, ``semantic_loss_scale`` (beta), is the objective's, not the term's: the raw value stays
    comparable.
    """

    name: ClassVar[str] = "semantic"
    group: ClassVar[Group] = "auxiliary"

    def count(self, batch: LossBatch) -> Tensor:
        return batch.valid.any(dim=1).sum().to(torch.get_default_dtype())

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        losses = semantic_per_example(
            outputs.predicted_states(batch.valid),
            require(batch.gold_states, "gold_states", self.name),
            require(batch.mean_state, "mean_state", self.name),
            batch.valid,
        )
        return TermSum(losses.sum(), self.count(batch))
