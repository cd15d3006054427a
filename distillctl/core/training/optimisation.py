"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distillctl.core.config.schema import TrainingConfig
from distillctl.core.errors import UsageError

_SCALE = "learning_rate_scale"


def make_optimizers(model: Any, settings: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW on all parameters; or Muon on the hidden matrices with AdamW on the rest.

    AdamW: Loshchilov & Hutter 2019, no decay on vectors (norms, biases). Muon: Jordan et al. 2024, with the update's
    root-mean-square matched to AdamW's (Liu et al. 2025, eq. 4), so that one learning rate serves both. The token
    embeddings' learning rate is ``embedding_learning_rate_scale`` times that of the rest: a new T5 draws them with
    standard deviation 1, ten times that of its matrices, and steps of one size for both leave them all but untouched
    (Adafactor's steps relative to a parameter's own size serve the same end: Shazeer & Stern 2018, section 8).
    """
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    tokens = model.get_input_embeddings().weight
    if settings.optimizer == "adamw":
        return [_adamw([p for _, p in parameters], tokens, settings)]
    if not hasattr(torch.optim, "Muon"):
        raise UsageError(
            f"training.optimizer=muon needs PyTorch 2.9 or later. Found {torch.__version__}: use adamw or upgrade"
        )
    embeddings = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    hidden = [p for name, p in parameters if p.ndim == 2 and id(p) not in embeddings and "lm_head" not in name]
    chosen = {id(p) for p in hidden}
    muon: torch.optim.Optimizer = torch.optim.Muon(
        hidden,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, _adamw([p for _, p in parameters if id(p) not in chosen], tokens, settings)]


def _adamw(parameters: list[nn.Parameter], tokens: nn.Parameter, settings: TrainingConfig) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim >= 2]
    decay = settings.weight_decay
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in matrices if p is tokens],
            "weight_decay": decay,
            _SCALE: settings.embedding_learning_rate_scale,
        },
        {"params": [p for p in matrices if p is not tokens], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
    )


def learning_rate_factor(settings: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Factor of the peak learning rate at step 0..steps-1: warm-up from 0, then down to 0 (or constant)."""
    warmup = math.ceil(settings.warmup_ratio * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if settings.lr_scheduler_type == "constant":
            return 1.0
        progress = (step - warmup) / max(1, steps - warmup)
        if settings.lr_scheduler_type == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return max(0.0, 1 - progress)

    return factor


def set_learning_rate(optimizers: list[torch.optim.Optimizer], value: float) -> None:
    """Sets it directly: a function of the step alone needs no scheduler object and no place in a checkpoint.

    A group with a scale of its own gets ``value`` times that.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = value * group.get(_SCALE, 1.0)
