"""Frozen models in half the memory, where they compute in bfloat16 anyway."""

from __future__ import annotations

import torch
from torch import nn

from distillctl.core.models.head import Float32Head


def store_in_bf16(model: nn.Module) -> None:
    """Keeps the matrices of a frozen model's linear layers in bfloat16, in place: half the memory.

    Under bf16 autocast not a bit of its outputs changes: autocast rounds the same matrices the same way for every
    product, which it then need not do each time. Without autocast the model does not work any more. What autocast
    leaves in float32 stays so: embeddings and what is tied to them, normalisations, a :class:`Float32Head`.

    Raises ValueError for a model that is trained.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("store_in_bf16 is for frozen models: rounded weights cannot be trained")
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        in_float32 = isinstance(vars(module).get("forward"), Float32Head)
        if isinstance(module, nn.Linear) and not in_float32 and id(module.weight) not in embeddings:
            module.to(torch.bfloat16)
