"""Frozen models kept in bfloat16: half the memory, and under autocast the same numbers to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

from distillctl.core.encoder.frozen import FrozenEncoder, teacher_encoder
from distillctl.core.models.frozen import store_in_bf16
from distillctl.core.models.loading import freeze
from distillctl.core.teacher.live import LiveTeacher
from tests.tiny import Tiny, tiny_teacher

INPUTS, LABELS = torch.tensor([[7, 8, 9, 1]]), torch.tensor([[11, 12, 1]])


def logits(teacher: LiveTeacher) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return teacher.logits(INPUTS, torch.ones_like(INPUTS), LABELS)


@pytest.mark.parametrize("projection", ["relu", "gated-gelu"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_teacher_says_the_same_under_autocast(tiny: Tiny, projection: str, tied: bool) -> None:
    model = tiny_teacher(tiny.tokenizer, feed_forward_proj=projection)
    if not tied:
        model.lm_head = nn.Linear(model.config.d_model, model.config.vocab_size, bias=False)
    teacher = LiveTeacher(model)
    before = logits(teacher)
    store_in_bf16(model)
    assert torch.equal(logits(teacher), before)
    halved = {name for name, weights in model.named_parameters() if weights.dtype == torch.bfloat16}
    assert {name.split(".")[-2] for name in halved} >= {"q", "k", "v", "o", "wo"}
    kept = {name for name, _ in model.named_parameters()} - halved
    assert all(
        "layer_norm" in name or "relative" in name or name in ("shared.weight", "lm_head.weight") for name in kept
    )


def roberta(tiny: Tiny) -> nn.Module:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return RobertaModel(RobertaConfig(vocab_size=len(tiny.tokenizer), **shape), add_pooling_layer=False)


@pytest.mark.parametrize("make", [roberta, lambda tiny: teacher_encoder(tiny_teacher(tiny.tokenizer))])
def test_an_encoder_gives_the_same_states_and_gradients(tiny: Tiny, make: Callable[[Tiny], Any]) -> None:
    torch.manual_seed(1)
    model = make(tiny)
    encoder = FrozenEncoder(model, model.get_input_embeddings().weight.detach().clone())
    mask = torch.tensor([[True, True, False], [True, True, True]])
    drawn = torch.randn(2, 3, len(encoder.table))

    def run() -> tuple[Tensor, Tensor]:
        z = drawn.clone().requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = encoder.predicted_states(z, mask)
        (gradient,) = torch.autograd.grad(states.square().sum(), z)
        return states.detach(), gradient

    before = run()
    store_in_bf16(model)
    assert sum(weights.dtype == torch.bfloat16 for weights in model.parameters()) >= 12
    for ours, theirs in zip(run(), before, strict=True):
        assert torch.equal(ours, theirs)


def test_a_model_that_is_trained_is_refused(tiny: Tiny) -> None:
    model = tiny_teacher(tiny.tokenizer)
    with pytest.raises(ValueError, match="frozen"):
        store_in_bf16(model)
    store_in_bf16(freeze(model))
