"""Device, precision and processes, by Accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distillctl.core.config.schema import Config
from distillctl.core.errors import UsageError


def resolve_precision(config: Config) -> Config:
    """The configuration with ``training.bf16: auto`` decided for this machine, as config.yaml will say it."""
    if config.training.bf16 != "auto":
        return config
    training = config.training.model_copy(update={"bf16": computes_in_bf16(config.device)})
    return config.model_copy(update={"training": training})


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

    It never accumulates by itself: ``backward`` would divide by its setting, and only the objective divides.
    """
    _check_available(device)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    # Accelerate keeps its state in the process: a second run in it may want another precision.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=1,
    )


def _check_available(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device={device}: PyTorch sees no CUDA device here. Use --device cpu or auto")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise UsageError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device=mps: PyTorch sees no Metal device here. Use --device cpu or auto")
