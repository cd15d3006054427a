"""Peak memory of this process, or of the accelerator it trains on."""

from __future__ import annotations

import sys

import psutil
import torch


def peak_memory_mb(device: torch.device) -> float:
    """Most memory ever held, in MiB: of the CUDA allocator on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
