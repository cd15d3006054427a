"""Device, precision and processes, by Accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from distillctl.core.config.schema import Config, TrainingConfig
from distillctl.core.errors import UsageError
from distillctl.core.processes import Processes, current, join, launched
from distillctl.core.training.memory import keep_freed_memory

TIMEOUT = timedelta(hours=1)
"""Of a collective. Long work of one process (decoding, checkpoints) is not waited for in one, see ``Processes``."""

DEEPSPEED, FSDP = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"

REFUSED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
    "ACCELERATE_USE_TP": "tensor parallelism",
}
"""What Accelerate's configuration files can ask for and this trainer does not do, by the variables they set."""

REFUSED_OF_FSDP = {
    "FSDP_ACTIVATION_CHECKPOINTING": "set training.gradient_checkpointing",
    "FSDP_IGNORED_MODULES": "leave fsdp_ignored_modules out: every weight is trained",
}
"""The same of its FSDP section, and what to do instead."""


NOT_DEEPSPEEDS = {
    "optimizer": "training.optimizer",
    "scheduler": "training.lr_scheduler_type and training.warmup_ratio",
    "train_batch_size": "training.per_device_train_batch_size",
    "train_micro_batch_size_per_gpu": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
    "fp16": "training.bf16",
    "amp": "training.bf16",
    "torch_autocast": "training.bf16",
}
"""Sections of a DeepSpeed configuration that say what a run's own configuration says, and where that says it."""


@dataclass(frozen=True)
class Sharding:
    """FSDP2 as Accelerate's configuration asks for it.

    Attributes:
        reshard: a layer's whole weights are let go after its forward pass, and put together again for the backward.
        offload: parts of weights, gradients and moments lie in the CPU's memory.
        layers: class names of the modules that are put together one at a time; None takes the model's own, () none.
    """

    reshard: bool = True
    offload: bool = False
    layers: tuple[str, ...] | None = None


def sharding_asked_for() -> Sharding | None:
    """What the variables that ``accelerate launch`` sets say of FSDP; None where they ask for none.

    Raises UsageError for what is not done: FSDP1, wrapping by size, and :data:`REFUSED_OF_FSDP`.
    """
    if not _is_on(FSDP):
        return None
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UsageError(
            f"Accelerate's fsdp_version={version}: should be 2. FSDP1 flattens weights, and the optimizers here treat "
            "matrices, vectors and embeddings differently"
        )
    for variable, instead in REFUSED_OF_FSDP.items():
        if os.environ.get(variable, "false").lower() not in ("", "false", "none", "0"):
            raise UsageError(f"Accelerate's {variable.lower()} is not read: {instead}")
    policy = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP").upper()
    if policy not in ("TRANSFORMER_BASED_WRAP", "NO_WRAP"):
        raise UsageError(f"Accelerate's fsdp_auto_wrap_policy={policy}: should be TRANSFORMER_BASED_WRAP or NO_WRAP")
    named = [name.strip() for name in os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",") if name.strip()]
    layers = () if policy == "NO_WRAP" else tuple(named) or None
    reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() not in ("false", "0", "shard_grad_op")
    return Sharding(reshard, _is_on("FSDP_OFFLOAD_PARAMS"), layers)


def deepspeed_asked_for(training: TrainingConfig) -> dict[str, Any] | None:
    """DeepSpeed's configuration as Accelerate's asks for it, for a run's settings; None where it asks for none.

    What says "auto" is the run's, or left to DeepSpeed. Stage 0 asks for whole copies: that is none.

    Raises UsageError for what the run's configuration says otherwise, see :data:`NOT_DEEPSPEEDS`, and for an optimizer
    that is several.
    """
    if not _is_on(DEEPSPEED):
        return None
    asked = _without_auto(_deepspeed_file())
    asked.pop("bf16", None)  # resolve_precision has read it
    own: dict[str, Any] = {"gradient_accumulation_steps": 1, "gradient_clipping": training.max_grad_norm}
    for name, instead in NOT_DEEPSPEEDS.items():
        found = asked.pop(name, None)
        if found is not None and found != own.get(name) and (not isinstance(found, dict) or _enabled(found)):
            raise UsageError(f"DeepSpeed's {name}={found}: leave it out or say auto, and set {instead}")
    if not asked.get("zero_optimization", {}).get("stage"):
        return None
    if training.optimizer != "adamw":
        raise UsageError(f"training.optimizer={training.optimizer}: DeepSpeed takes one optimizer, adamw")
    own["train_micro_batch_size_per_gpu"] = 1  # which it only counts with
    return {**asked, **own, "zero_allow_untrusted_optimizer": True, "zero_force_ds_cpu_optimizer": False}


def _deepspeed_file() -> dict[str, Any]:
    """What Accelerate makes of its variables and of the file that they may name."""
    from accelerate.utils import DeepSpeedPlugin

    try:
        found: dict[str, Any] = DeepSpeedPlugin().deepspeed_config
    except (ValueError, OSError) as error:
        raise UsageError(f"Accelerate's configuration of DeepSpeed: {error}") from error
    return found


def _without_auto(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_auto(value) if isinstance(value, Mapping) else value
        for name, value in section.items()
        if value != "auto" and value is not None
    }


def _enabled(section: Mapping[str, Any]) -> bool:
    """Whether a section of DeepSpeed's is in force: one of a "type" always, another where it says so."""
    return bool(section.get("enabled", "type" in section))


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")


def resolve_precision(config: Config) -> Config:
    """The configuration with ``training.bf16: auto`` decided for this machine, as config.yaml will say it.

    Raises UsageError where Accelerate's own configuration asks for another precision than this one.
    """
    wanted = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if _is_on(DEEPSPEED) and _enabled(_without_auto(_deepspeed_file().get("bf16", {}))):
        wanted = "bf16"
    if wanted not in ("no", "bf16"):
        raise UsageError(f"Accelerate's mixed_precision={wanted}: should be no or bf16 (training.bf16)")
    if wanted == "bf16" and config.training.bf16 is False:
        raise UsageError("Accelerate's mixed_precision=bf16 and training.bf16=false: leave one of them out")
    if config.training.bf16 != "auto":
        return config
    bf16 = wanted == "bf16" or computes_in_bf16(config.device)
    return config.with_section("training", bf16=bf16)


def computes_in_bf16(device: str) -> bool:
    """Whether a device (auto, cpu, cuda, cuda:N, mps) has bfloat16 arithmetic of its own.

    Emulated, it would cost time instead of saving it.
    """
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8  # Ampere and later
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return False
    # Not public, and not in every version: without an answer the safe one.
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asks)


def make_accelerator(device: str, bf16: bool) -> Accelerator:
    """The accelerator of a configuration: ``device`` is auto, cpu, cuda, cuda:N or mps.

    It never accumulates by itself: ``backward`` would divide by its setting, and only the objective divides. Launched
    several times (``accelerate launch``, ``torchrun``) it joins the other processes, see
    :mod:`distillctl.core.processes`; how the student lies in them is said in :mod:`distillctl.core.training.layout`.

    Raises UsageError for a device that is not there, and for what Accelerate's configuration asks for and is not done.
    """
    _check_available(device)
    _check_launch(device)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    # Accelerate keeps its state in the process: a second run in it may want another precision.
    AcceleratorState._reset_state()
    alone = launched()[2] == 1
    if alone:
        _check_offload()
    # One process has nothing to share out, and Accelerate would cut its student all the same. Several have to say it.
    with _hidden(DEEPSPEED, *([FSDP] if alone else [])):
        accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if bf16 else "no",
            gradient_accumulation_steps=1,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
    join(accelerator.process_index, accelerator.num_processes)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def _check_offload() -> None:
    """Raise UsageError where one process is asked to keep parts in the CPU's memory: they are whole, and on its GPU."""
    sharding = sharding_asked_for()
    zero = _without_auto(_deepspeed_file()).get("zero_optimization", {}) if _is_on(DEEPSPEED) else {}
    places = [zero.get(name, {}).get("device", "none") for name in ("offload_optimizer", "offload_param")]
    if places != ["none", "none"] or (sharding is not None and sharding.offload):
        raise UsageError(
            "Accelerate's configuration asks for offloading, which one process does not do: leave it out and set "
            "training.gradient_checkpointing, or launch two processes or more"
        )


@contextmanager
def _hidden(*variables: str) -> Iterator[None]:
    """Without these variables. By DEEPSPEED, Accelerate would let DeepSpeed start the group and go its own way."""
    asked = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(asked)


def wait_for(device: torch.device) -> None:
    """Returns when the device has done what it was given; a CPU has done it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def training_device(device: str) -> torch.device:
    """The device that a configuration's name (auto, cpu, cuda, cuda:N, mps) means here, as Accelerate would choose it.

    Raises UsageError for one that is not there.
    """
    _check_available(device)
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def start_together(config: Config) -> tuple[Accelerator, Processes]:
    """The accelerator of a configuration with its precision resolved, and the processes that were started together.

    Raises UsageError as :func:`make_accelerator` and :func:`deepspeed_asked_for` do, for a DeepSpeed that is not
    installed, and where they do not have the same settings.
    """
    asked = deepspeed_asked_for(config.training)  # before anything is read
    if asked is not None and launched()[2] > 1 and find_spec("deepspeed") is None:
        raise UsageError(
            "Accelerate's configuration asks for DeepSpeed, which is not installed: pip install 'distillctl[deepspeed]'"
        )
    accelerator = make_accelerator(config.device, bf16=config.training.bf16 is True)
    processes = current()
    if processes.share(config.fingerprint) != config.fingerprint():
        raise UsageError("the processes of this job have different settings: give all of them the same command line")
    return accelerator, processes


def _check_launch(device: str) -> None:
    """Refuses what would be ignored, or would break what the trainer relies on."""
    for variable, name in REFUSED.items():
        if _is_on(variable):
            raise UsageError(
                f"Accelerate's configuration switches on {name}, which distillctl does not do: use a MULTI_GPU or "
                "MULTI_CPU configuration (whole copies), FSDP with fsdp_version 2 or DeepSpeed (shards), or torchrun"
            )
    if sharding_asked_for() is not None:
        # transformers would give all processes but one models without weights, the teacher and the encoder too.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps != "1":
        raise UsageError(
            f"Accelerate's gradient_accumulation_steps={steps}: should be 1. Set training.gradient_accumulation_steps"
        )
    count = launched()[2]
    if device.startswith("cuda:") and count > 1:
        raise UsageError(
            f"device={device} is one device, and {count} processes were launched. Use --device cuda or auto"
        )


def _check_available(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device={device}: PyTorch sees no CUDA device here. Use --device cpu or auto")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise UsageError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device=mps: PyTorch sees no Metal device here. Use --device cpu or auto")
