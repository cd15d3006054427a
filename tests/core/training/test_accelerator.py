"""Device and precision: what ``auto`` becomes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from distillctl.core.config import load_config
from distillctl.core.errors import UsageError
from distillctl.core.training import accelerator
from distillctl.core.training.accelerator import (
    FSDP,
    REFUSED,
    Sharding,
    computes_in_bf16,
    deepspeed_asked_for,
    make_accelerator,
    resolve_precision,
    sharding_asked_for,
    start_together,
)


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


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without what a launcher may have set for the tests themselves."""
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("variable", REFUSED)
def test_what_is_not_done_is_refused_and_says_what_to_use(launch: pytest.MonkeyPatch, variable: str) -> None:
    launch.setenv(variable, "true")
    with pytest.raises(UsageError, match=f"switches on {REFUSED[variable]}, which distillctl does not do: use a MULTI"):
        make_accelerator("cpu", bf16=False)
    launch.setenv(variable, "false")
    assert make_accelerator("cpu", bf16=False).num_processes == 1


def test_one_process_is_not_cut_by_accelerate(launch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    make = accelerator.Accelerator

    def made(**options: Any) -> Any:
        seen.append(os.environ.get(FSDP))
        return make(**options)

    launch.setattr(accelerator, "Accelerator", made)
    launch.setenv(FSDP, "true")
    launch.setenv("FSDP_VERSION", "2")
    assert make_accelerator("cpu", bf16=False).num_processes == 1
    assert (seen, os.environ[FSDP]) == ([None], "true")
    launch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    with pytest.raises(UsageError, match="asks for offloading, which one process does not do"):
        make_accelerator("cpu", bf16=False)


def test_shards_are_as_accelerates_configuration_says(launch: pytest.MonkeyPatch) -> None:
    assert sharding_asked_for() is None
    launch.setenv("ACCELERATE_USE_FSDP", "true")
    launch.setenv("FSDP_VERSION", "2")
    assert sharding_asked_for() == Sharding(reshard=True, offload=False, layers=None)
    launch.setenv("FSDP_RESHARD_AFTER_FORWARD", "false")
    launch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    launch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "T5Block, Other")
    assert sharding_asked_for() == Sharding(reshard=False, offload=True, layers=("T5Block", "Other"))
    launch.setenv("FSDP_AUTO_WRAP_POLICY", "NO_WRAP")
    assert sharding_asked_for() == Sharding(reshard=False, offload=True, layers=())


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("FSDP_VERSION", "1", "fsdp_version=1: should be 2"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "fsdp_auto_wrap_policy=SIZE_BASED_WRAP: should be TRANSFORMER_"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", r"is not read: set training\.gradient_checkpointing"),
        ("FSDP_IGNORED_MODULES", "shared", "leave fsdp_ignored_modules out"),
    ],
)
def test_what_is_not_done_of_fsdp_is_refused(launch: pytest.MonkeyPatch, variable: str, value: str, words: str) -> None:
    launch.setenv("ACCELERATE_USE_FSDP", "true")
    launch.setenv("FSDP_VERSION", "2")
    launch.setenv(variable, value)
    with pytest.raises(UsageError, match=words):
        make_accelerator("cpu", bf16=False)


@pytest.fixture
def zero(launch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any] | None]:
    """What is asked of DeepSpeed by a file of these sections, for a run of these settings."""

    def asked(sections: Mapping[str, Any], *settings: str) -> dict[str, Any] | None:
        file = tmp_path / "deepspeed.json"
        file.write_text(json.dumps({"zero_optimization": {"stage": 2}, **sections}))
        launch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        launch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
        return deepspeed_asked_for(load_config(settings=list(settings)).training)

    return asked


Asked = Callable[..., dict[str, Any] | None]


def test_deepspeed_is_asked_for_by_accelerates_variables(launch: pytest.MonkeyPatch) -> None:
    training = load_config(settings=["training.max_grad_norm=0.5"]).training
    assert deepspeed_asked_for(training) is None
    launch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    launch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    launch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    asked = deepspeed_asked_for(training)
    assert asked is not None
    assert asked["zero_optimization"]["stage"] == 3
    assert asked["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert asked["gradient_clipping"] == 0.5
    with pytest.raises(UsageError, match="asks for offloading, which one process does not do"):
        make_accelerator("cpu", bf16=False)
    launch.delenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE")
    assert make_accelerator("cpu", bf16=False).num_processes == 1
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"


def test_what_a_deepspeed_file_leaves_to_the_run_is_the_runs(zero: Asked) -> None:
    auto = dict.fromkeys(("train_batch_size", "gradient_accumulation_steps", "gradient_clipping"), "auto")
    bucket = {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": True}}
    asked = zero({**auto, **bucket, "fp16": {"loss_scale": 0}, "comms_logger": {"enabled": False}})
    assert asked is not None
    assert asked["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert asked["gradient_clipping"] == 1.0
    assert asked["comms_logger"] == {"enabled": False}
    assert "fp16" not in asked and "train_batch_size" not in asked
    assert zero({"gradient_clipping": 1.0, "gradient_accumulation_steps": 1}) is not None


def test_stage_zero_asks_for_whole_copies(zero: Asked) -> None:
    assert zero({"zero_optimization": {"stage": 0}}) is None


@pytest.mark.parametrize(
    ("sections", "settings", "words"),
    [
        (
            {"gradient_clipping": 2.0},
            (),
            r"gradient_clipping=2\.0: leave it out or say auto, and set training\.max_",
        ),
        ({"optimizer": {"type": "Adam"}}, (), r"leave it out or say auto, and set training\.optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, (), r"set training\.lr_scheduler_type and training\.warmup_ratio"),
        ({"train_micro_batch_size_per_gpu": 8}, (), r"set training\.per_device_train_batch_size"),
        ({"fp16": {"enabled": True}}, (), r"fp16={'enabled': True}: leave it out or say auto, and set training\.bf16"),
        ({}, ("training.optimizer=muon",), r"training\.optimizer=muon: DeepSpeed takes one optimizer, adamw"),
    ],
)
def test_what_a_deepspeed_file_says_against_the_run_is_refused(
    zero: Asked, sections: dict[str, Any], settings: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        zero(sections, *settings)


def test_a_deepspeed_file_that_is_not_there_is_an_error_of_use(zero: Asked, launch: pytest.MonkeyPatch) -> None:
    zero({})
    launch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "nowhere.json")
    with pytest.raises(UsageError, match=r"Accelerate's configuration of DeepSpeed: .*nowhere\.json"):
        deepspeed_asked_for(load_config().training)


def test_a_deepspeed_that_is_not_installed_is_said_before_anything_is_read(launch: pytest.MonkeyPatch) -> None:
    launch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    launch.setenv("WORLD_SIZE", "2")
    launch.setattr(accelerator, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed: pip install 'distillctl\[deepspeed\]'"):
        start_together(load_config(settings=["device=cpu"]))


def test_deepspeeds_bf16_is_the_answer_to_auto(zero: Asked) -> None:
    zero({"bf16": {"enabled": True}})
    assert resolve_precision(load_config(settings=["device=cpu"])).training.bf16 is True
    zero({"bf16": {"enabled": "auto"}})
    auto = resolve_precision(load_config(settings=["device=cpu"])).training.bf16
    assert auto is computes_in_bf16("cpu")


def test_every_process_loads_its_models_whole(launch: pytest.MonkeyPatch) -> None:
    """Accelerate's questionnaire says otherwise: transformers would leave all teachers but one without weights."""
    launch.setenv("ACCELERATE_USE_FSDP", "true")
    launch.setenv("FSDP_VERSION", "2")
    launch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    assert make_accelerator("cpu", bf16=False).num_processes == 1
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"


def test_accelerates_own_accumulation_is_refused(launch: pytest.MonkeyPatch) -> None:
    launch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UsageError, match="gradient_accumulation_steps=4: should be 1"):
        make_accelerator("cpu", bf16=False)


def test_accelerates_mixed_precision_is_the_answer_to_auto(launch: pytest.MonkeyPatch) -> None:
    launch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert resolve_precision(load_config(settings=["device=cpu"])).training.bf16 is True
    with pytest.raises(UsageError, match=r"mixed_precision=bf16 and training\.bf16=false: leave one of them out"):
        resolve_precision(load_config(settings=["device=cpu", "training.bf16=false"]))
    launch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UsageError, match="mixed_precision=fp16: should be no or bf16"):
        resolve_precision(load_config(settings=["device=cpu"]))


def test_one_device_is_not_for_several_processes(launch: pytest.MonkeyPatch) -> None:
    launch.setenv("WORLD_SIZE", "2")
    launch.setattr(torch.cuda, "is_available", lambda: True)
    launch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="device=cuda:1 is one device, and 2 processes were launched"):
        make_accelerator("cuda:1", bf16=False)
