"""The frozen encoder: frozen for good, straight-through towards the logits, blind to padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import RobertaConfig, RobertaForMaskedLM, T5ForConditionalGeneration

from distillctl.core.encoder.frozen import FrozenEncoder, straight_through_embedding, teacher_encoder
from distillctl.core.errors import DataError
from tests.asserts import assert_gradcheck
from tests.toys import VOCAB, tiny_encoder, tiny_t5_config, tiny_t5_encoder

ENCODERS = [tiny_encoder(dtype=torch.float32), tiny_t5_encoder()]


def some_logits(encoder: FrozenEncoder, batch: int = 3, length: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, length, len(encoder.table), generator=generator).to(encoder.table.dtype)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gold_and_predicted_tokens_take_the_same_path(encoder: FrozenEncoder) -> None:
    labels = torch.tensor([[3, 4, 5, -100], [6, 7, -100, -100]])
    logits = torch.nn.functional.one_hot(labels.clamp(min=0), VOCAB).float()
    predicted = encoder.predicted_states(logits, labels >= 0)
    assert_close(predicted, encoder.gold_states(labels))
    assert (predicted[1, 2:] == 0).all()


def test_states_are_those_of_the_encoder_itself() -> None:
    encoder = tiny_t5_encoder()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        expected = encoder.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert_close(encoder.gold_states(ids), expected)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_has_no_influence(encoder: FrozenEncoder) -> None:
    logits = some_logits(encoder)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    noisy = torch.where(mask.unsqueeze(-1), logits, 30 * torch.randn_like(logits))
    assert_close(encoder.predicted_states(noisy, mask), encoder.predicted_states(logits, mask))
    alone = encoder.predicted_states(logits[1:2, :1], mask[1:2, :1])
    assert_close(encoder.predicted_states(logits, mask)[1, :1], alone[0])


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("soft", [True, False])
def test_logits_of_the_valid_positions_alone_give_the_same_states_and_gradient(
    encoder: FrozenEncoder, soft: bool
) -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
    whole = some_logits(encoder).requires_grad_(True)
    rows = whole.detach()[mask].requires_grad_(True)
    expected = encoder.predicted_states(whole, mask, soft)
    found = encoder.predicted_states(rows, mask, soft, places=mask.flatten().nonzero().squeeze(-1))
    assert_close(found, expected)
    (expected_gradient,) = torch.autograd.grad(expected.pow(3).sum(), whole)
    (gradient,) = torch.autograd.grad(found.pow(3).sum(), rows)
    assert_close(gradient, expected_gradient[mask])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_example_without_tokens_is_zero_and_differentiable(encoder: FrozenEncoder) -> None:
    logits = some_logits(encoder).requires_grad_(True)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]).bool()
    states = encoder.predicted_states(logits, mask)
    states.square().sum().backward()
    assert (states[1] == 0).all()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] == 0).all()
    assert logits.grad[0].norm() > 0


def test_straight_through_is_argmax_forward_and_soft_backward() -> None:
    torch.manual_seed(0)
    table, logits = torch.randn(7, 3).double(), torch.randn(2, 4, 7).double().requires_grad_(True)
    upstream = torch.randn(2, 4, 3).double()
    hard = straight_through_embedding(logits, table)
    assert_close(hard, table[logits.argmax(-1)])
    (found,) = torch.autograd.grad((hard * upstream).sum(), logits)
    (expected,) = torch.autograd.grad(((torch.softmax(logits, -1) @ table) * upstream).sum(), logits)
    assert_close(found, expected)


def test_the_soft_path_passes_gradcheck() -> None:
    encoder = tiny_encoder()
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    assert_gradcheck(lambda z: encoder.predicted_states(z, mask, soft=True), some_logits(encoder))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_float32_out_under_autocast(encoder: FrozenEncoder) -> None:
    logits = some_logits(encoder).requires_grad_(True)
    mask = torch.ones(3, 4, dtype=torch.bool)
    exact = encoder.predicted_states(logits, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = encoder.predicted_states(logits, mask)
    assert states.dtype == torch.float32
    assert (states - exact).norm() < 0.05 * exact.norm()
    states.square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.float32


def test_it_stays_frozen_and_in_eval_mode() -> None:
    encoder = tiny_t5_encoder()
    parent = nn.ModuleList([encoder])
    parent.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.table.requires_grad
    labels = torch.tensor([[3, 4, 5]])
    assert torch.equal(encoder.gold_states(labels), encoder.gold_states(labels))
    assert not encoder.gold_states(labels).requires_grad


def test_the_teachers_own_encoder() -> None:
    teacher = T5ForConditionalGeneration(tiny_t5_config())
    stack = teacher_encoder(teacher)
    assert stack is teacher.get_encoder()
    encoder = FrozenEncoder(stack, stack.get_input_embeddings().weight)
    assert encoder.gold_states(torch.tensor([[3, 4]])).shape == (1, 2, encoder.width)
    lone = RobertaForMaskedLM(
        RobertaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(DataError, match="RobertaForMaskedLM"):
        teacher_encoder(lone)


def test_widths_and_ids_that_do_not_fit_are_refused() -> None:
    encoder = tiny_t5_encoder()
    with pytest.raises(DataError, match="12 wide, the encoder's table has 11 rows"):
        encoder.predicted_states(torch.zeros(1, 2, 12), torch.ones(1, 2).bool())
    with pytest.raises(DataError, match="Label id 11"):
        encoder.gold_states(torch.tensor([[3, 11]]))
