"""The LM head: float32 under autocast, and target tokens only, with the model's own logits and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    LEDConfig,
    MBartConfig,
    MT5Config,
    PegasusConfig,
    PLBartConfig,
    T5Config,
    UMT5Config,
)

from distillctl.core.losses.term import Places
from distillctl.core.models.head import ROW_WISE_FAMILIES, head_at, run_head_in_float32
from distillctl.core.teacher.live import forced_logits

INPUTS = torch.tensor([[5, 6, 7, 1], [9, 1, 0, 0], [8, 8, 1, 0]])
MASK = (INPUTS != 0).long()
LABELS = torch.tensor([[20, 21, 1, -100], [3, 1, -100, -100], [7, 8, 9, 1]])
PLACES = Places.of(LABELS)

T5_SHAPE: dict[str, Any] = {"vocab_size": 40, "d_model": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1, "d_ff": 16}
BART_SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
MODELS = {
    "t5 tied": T5Config(**T5_SHAPE),
    "t5 untied gated": T5Config(**T5_SHAPE, tie_word_embeddings=False, feed_forward_proj="gated-gelu"),
    "mt5": MT5Config(**T5_SHAPE),
    "umt5": UMT5Config(**T5_SHAPE),
    "bart": BartConfig(**BART_SHAPE),
    "mbart": MBartConfig(**BART_SHAPE),
    "plbart": PLBartConfig(**BART_SHAPE),
    "pegasus": PegasusConfig(**BART_SHAPE),
}


def made(name: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(MODELS[name]).float().eval()
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    return model


def plain_logits(model: Any) -> Tensor:
    """What the model itself gives, of all positions, the labels cut down afterwards."""
    decoder_inputs = torch.cat([torch.full((3, 1), 2), LABELS[:, :-1].clamp(min=0)], dim=1)
    outputs = model(input_ids=INPUTS, attention_mask=MASK, decoder_input_ids=decoder_inputs, use_cache=False)
    logits: Tensor = outputs.logits
    return logits[LABELS >= 0]


def our_logits(model: Any) -> Tensor:
    return forced_logits(model, INPUTS, MASK, LABELS, PLACES, start_id=2, padding_id=0)


def gradients(model: Any, logits: Tensor, upstream: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    logits.backward(upstream)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def rows_through(model: Any) -> list[int]:
    """Numbers of rows that the head's matrix product has seen."""
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, output: seen.append(output[..., 0].numel())
    )
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_the_models_own(name: str) -> None:
    plain, ours = made(name), made(name)
    run_head_in_float32(ours)
    seen = rows_through(ours)
    expected, found = plain_logits(plain), our_logits(ours)
    assert seen == [9]  # of 12 positions
    assert_close(found, expected)
    upstream = torch.randn_like(expected)
    theirs, mine = gradients(plain, expected, upstream), gradients(ours, found, upstream)
    assert theirs.keys() == mine.keys()
    for parameter in theirs:
        assert_close(mine[parameter], theirs[parameter], rtol=1e-4, atol=1e-5)


def test_every_family_that_is_trusted_is_tested() -> None:
    assert {config.model_type for config in MODELS.values()} == ROW_WISE_FAMILIES


def test_another_family_takes_the_plain_path_to_the_same_rows() -> None:
    shape = BART_SHAPE | {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 32}
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(LEDConfig(**shape, attention_window=4)).float().eval()
    expected = plain_logits(model)
    run_head_in_float32(model)
    seen = rows_through(model)
    assert_close(our_logits(model), expected)
    assert seen == [12]


def test_the_head_is_whole_again_afterwards_even_after_an_error() -> None:
    model = made("t5 tied")
    run_head_in_float32(model)
    with pytest.raises(ZeroDivisionError), head_at(model, PLACES.flat) as at_places:
        assert at_places
        raise ZeroDivisionError
    assert model(input_ids=INPUTS, decoder_input_ids=INPUTS).logits.shape == (3, 4, 40)


def test_a_wrapped_model_is_called_through_its_wrapper() -> None:
    class Wrapper(nn.parallel.DistributedDataParallel):
        """As data parallelism wraps a model, without a process group."""

        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module = module
            self.calls = 0

        def forward(self, *inputs: Any, **named: Any) -> Any:
            self.calls += 1
            return self.module(*inputs, **named)

    model = made("t5 tied")
    expected = plain_logits(model)
    run_head_in_float32(model)
    wrapped, seen = Wrapper(model), rows_through(model)
    assert_close(our_logits(wrapped), expected)
    assert (wrapped.calls, seen) == (1, [9])


def test_a_copy_of_a_model_has_a_head_of_its_own() -> None:
    model = made("t5 untied gated")
    run_head_in_float32(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.zero_()
    assert our_logits(other).abs().max() == 0
    assert our_logits(model).abs().max() > 0


def test_a_batch_without_targets_gives_no_rows_and_a_gradient_of_zeros() -> None:
    model = made("t5 tied")
    run_head_in_float32(model)
    empty = torch.full_like(LABELS, -100)
    logits = forced_logits(model, INPUTS, MASK, empty, Places.of(empty), start_id=2, padding_id=0)
    assert logits.shape == (0, 40)
    logits.sum().backward()
    assert model.lm_head.weight.grad.abs().max() == 0
