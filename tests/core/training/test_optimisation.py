"""Optimizers and the learning rate: who is decayed, who goes to Muon, and what the schedule is at each step."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch

from distillctl.core.config import TrainingConfig
from distillctl.core.errors import UsageError
from distillctl.core.training.optimisation import learning_rate_factor, make_optimizers, set_learning_rate
from tests.tiny import Tiny, tiny_teacher


def parameters_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def test_adamw_takes_every_parameter_once_and_decays_no_vector(tiny: Tiny) -> None:
    model = tiny_teacher(tiny.tokenizer)
    settings = TrainingConfig(weight_decay=0.3, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-5)
    (optimizer,) = make_optimizers(model, settings)
    given = list(chain(*(group["params"] for group in optimizer.param_groups)))
    assert sorted(map(id, given)) == sorted(map(id, model.parameters()))
    for group in optimizer.param_groups:
        assert {parameter.ndim >= 2 for parameter in group["params"]} == {group["weight_decay"] == 0.3}
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-5)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.3, 0.0}


def test_frozen_parameters_are_left_out(tiny: Tiny) -> None:
    model = tiny_teacher(tiny.tokenizer)
    model.encoder.requires_grad_(False)
    (optimizer,) = make_optimizers(model, TrainingConfig())
    assert parameters_of(optimizer) == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs PyTorch 2.9")
@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_hidden_matrices_and_adamw_the_rest(tiny: Tiny, tied: bool) -> None:
    model = tiny_teacher(tiny.tokenizer)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    muon, adamw = make_optimizers(model, TrainingConfig(optimizer="muon", weight_decay=0.2))
    hidden = {name for name, p in model.named_parameters() if id(p) in parameters_of(muon)}
    rest = {name for name, p in model.named_parameters() if id(p) in parameters_of(adamw)}
    assert "encoder.block.0.layer.0.SelfAttention.q.weight" in hidden
    assert "decoder.block.1.layer.2.DenseReluDense.wo.weight" in hidden
    assert {"shared.weight", "encoder.final_layer_norm.weight"} <= rest
    assert "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight" in rest
    assert ("lm_head.weight" in rest) == (not tied)
    assert not hidden & rest
    assert hidden | rest == {name for name, _ in model.named_parameters()}
    assert muon.param_groups[0]["adjust_lr_fn"] == "match_rms_adamw"
    assert muon.param_groups[0]["weight_decay"] == 0.2


def test_muon_without_pytorchs_own_is_a_usage_error(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(UsageError, match=r"needs PyTorch 2\.9 or later"):
        make_optimizers(tiny_teacher(tiny.tokenizer), TrainingConfig(optimizer="muon"))


def learning_rates(model: Any, settings: TrainingConfig) -> dict[str, float]:
    """What each parameter is given at a learning rate of 0.5, by name."""
    optimizers = make_optimizers(model, settings)
    set_learning_rate(optimizers, 0.5)
    of = {id(p): group["lr"] for o in optimizers for group in o.param_groups for p in group["params"]}
    return {name: of[id(parameter)] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_token_embeddings_have_their_own_learning_rate(tiny: Tiny, optimizer: str) -> None:
    if optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs PyTorch 2.9")
    model = tiny_teacher(tiny.tokenizer)
    rates = learning_rates(model, TrainingConfig(optimizer=optimizer, embedding_learning_rate_scale=4.0))
    assert rates.pop("shared.weight") == 2.0
    assert set(rates.values()) == {0.5}
    plain = learning_rates(model, TrainingConfig(optimizer=optimizer))
    assert set(plain.values()) == {0.5}


def factors(steps: int, **settings: Any) -> list[float]:
    factor = learning_rate_factor(TrainingConfig(**settings), steps)
    return [factor(step) for step in range(steps)]


def test_the_learning_rate_rises_to_its_peak_once_and_never_rests_at_zero() -> None:
    assert factors(8, warmup_ratio=0.5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.75, 0.5, 0.25])
    assert factors(4, warmup_ratio=0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert factors(4, warmup_ratio=0.0, lr_scheduler_type="constant") == [1.0] * 4
    assert factors(6, warmup_ratio=0.3, lr_scheduler_type="constant") == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    cosine = factors(4, warmup_ratio=0.0, lr_scheduler_type="cosine")
    assert cosine == pytest.approx([1.0, 0.853553, 0.5, 0.146447], rel=1e-5)
    assert min(factors(1, warmup_ratio=1.0)) == pytest.approx(0.5)
    for kind in ("linear", "cosine", "constant"):
        assert all(0 < value <= 1 for value in factors(37, lr_scheduler_type=kind))


def test_the_rate_is_set_in_every_group() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD([weight], lr=1.0), torch.optim.AdamW([weight], lr=1.0)]
    set_learning_rate(optimizers, 0.25)
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [0.25, 0.25]
