"""Finds what makes the host wait for the device: invisible on a CPU, a stall of the whole GPU there."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
# A value is read (item, bool, float, int, tolist), or a result's size depends on values.
WAITS = {
    ATEN._local_scalar_dense,
    ATEN.equal,
    ATEN.is_nonzero,
    ATEN.nonzero,
    ATEN.masked_select,
    ATEN._unique2,
    ATEN.bincount,
}


class HostReads(TorchDispatchMode):
    """Names the operations that read a device value on the host, while ``counting``."""

    def __init__(self, counting: bool = True) -> None:
        super().__init__()
        self.counting = counting
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = func.overloadpacket in WAITS or _indexes_by_mask(func, args)
        if self.counting and reads and not _asked_by_transformers():
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def _asked_by_transformers() -> bool:
    """Its attention masks ask whether there is any padding (``masking_utils``): not ours to change."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if "/transformers/masking_utils" in frame.f_code.co_filename:
            return True
    return False


def _indexes_by_mask(func: Any, args: Any) -> bool:
    if func.overloadpacket not in {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}:
        return False
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
