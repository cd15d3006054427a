"""Device and precision: what ``auto`` becomes."""

from __future__ import annotations

import pytest
import torch

from distillctl.core.config import load_config
from distillctl.core.training.accelerator import computes_in_bf16, resolve_precision


@pytest.mark.parametrize("native", [True, False])
def test_auto_follows_the_processor(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    config = resolve_precision(load_config(settings=["device=cpu"]))
    assert config.training.bf16 is native
    assert resolve_precision(config) == config


@pytest.mark.parametrize("chosen", ["true", "false"])
def test_a_choice_is_kept(chosen: str) -> None:
    config = load_config(settings=["device=cpu", f"training.bf16={chosen}"])
    assert resolve_precision(config) == config


def test_a_torch_that_cannot_say_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not computes_in_bf16("cpu")
    assert not computes_in_bf16("mps")


@pytest.mark.gpu
def test_auto_on_a_gpu_that_has_it() -> None:
    assert computes_in_bf16("cuda") == (torch.cuda.get_device_capability()[0] >= 8)
