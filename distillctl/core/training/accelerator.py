"""Device, precision and processes, by Accelerate."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distillctl.core.errors import UsageError


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
