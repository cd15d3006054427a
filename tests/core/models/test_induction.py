"""Starting weights that copy: a new T5 goes on with what its input says, before any training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config

from distillctl.core.errors import UsageError
from distillctl.core.models.induction import start_with_induction_heads
from distillctl.core.models.student import draw_weights, embedded_shape
from tests.core.models.test_student import tiny_bart

VOCABULARY = 2000


def drawn(init: str, decoder_layers: int = 2, **changes: Any) -> Any:
    torch.manual_seed(0)
    shape = embedded_shape(VOCABULARY)
    shape.update({"num_layers": 2, "num_decoder_layers": decoder_layers, **changes})
    return draw_weights(shape, init).eval()


@torch.no_grad()
def share_continued(model: Any, sources: torch.Tensor, starts: torch.Tensor, length: int = 8) -> float:
    """Share of positions where the likeliest next token is the source's own, given two tokens of it or more."""
    rows = torch.arange(len(sources))[:, None]
    spans = sources[rows, starts[:, None] + torch.arange(length)]
    prefix = torch.cat([torch.zeros(len(sources), 1, dtype=torch.long), spans], dim=1)
    predicted = model(input_ids=sources, decoder_input_ids=prefix[:, :-1]).logits.argmax(-1)
    return float((predicted[:, 2:] == spans[:, 2:]).float().mean())


def distinct_sources(count: int = 16, length: int = 100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randperm(VOCABULARY - 10, generator=generator)[:length] + 10 for _ in range(count)])


@pytest.mark.parametrize("decoder_layers", [1, 2, 3])
def test_a_new_model_goes_on_with_its_input(decoder_layers: int) -> None:
    sources = distinct_sources()
    starts = torch.arange(len(sources)) * 5
    assert share_continued(drawn("induction", decoder_layers), sources, starts) >= 0.95
    assert share_continued(drawn("random", decoder_layers), sources, starts) <= 0.05


def test_two_tokens_tell_apart_what_one_cannot() -> None:
    """Where a token stands twice with different successors, the token before it decides."""
    sources = distinct_sources()
    sources[:, 70] = sources[:, 11]  # the second token of the span stands again, with another token after it
    starts = torch.full((len(sources),), 10)
    continued = share_continued(drawn("induction", 2), sources, starts, length=3)
    assert continued >= 0.9
    assert continued > share_continued(drawn("induction", 1), sources, starts, length=3)


def test_what_is_drawn_comes_from_the_seed_and_everything_can_learn() -> None:
    first, again = drawn("induction"), drawn("induction")
    for (name, weight), other in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name
        assert torch.isfinite(weight).all(), name
    sources = distinct_sources(4)
    first.train()(input_ids=sources, labels=sources[:, 10:20].contiguous()).loss.backward()
    gradients = {name: float(weight.grad.abs().max()) for name, weight in first.named_parameters()}
    # behind an output matrix that starts at 0 nothing can move in the first step; the output matrix itself does
    assert all(value > 0 for name, value in gradients.items() if name.endswith((".o.weight", ".wo.weight")))
    assert gradients["shared.weight"] > 0


@pytest.mark.parametrize("changes", [{"d_kv": 8}, {"d_model": 48, "num_heads": 2, "d_kv": 16}, {"d_kv": 160}])
def test_any_width_and_head_size_is_filled_within_its_bounds(changes: dict[str, Any]) -> None:
    model = drawn("induction", **changes)
    logits = model(input_ids=distinct_sources(2), decoder_input_ids=torch.zeros(2, 3, dtype=torch.long)).logits
    assert torch.isfinite(logits).all()


def test_what_has_no_place_for_the_heads_is_refused() -> None:
    with pytest.raises(UsageError, match=r"student\.init=induction .* found model_type bart.*Use random"):
        start_with_induction_heads(tiny_bart())
    one_head = T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=1)
    with pytest.raises(UsageError, match="1 heads"):
        start_with_induction_heads(AutoModelForSeq2SeqLM.from_config(one_head))
