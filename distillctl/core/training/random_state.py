"""The state of every random generator, as tensors and JSON: nothing that could run code when it is read."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillctl.core.errors import DataError


@dataclass(frozen=True)
class RandomState:
    """``tensors``: torch's generators, uint8, on the CPU and on each CUDA device; ``plain``: Python's and numpy's."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


def random_state() -> RandomState:
    """The state of the generators of Python, numpy and torch as it is now."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    plain = {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
    }
    return RandomState(tensors, plain)


def restore_random_state(state: RandomState) -> None:
    """Takes back what :func:`random_state` gave; of CUDA devices that are not there, nothing.

    Raises DataError for anything that is no state of these generators.
    """
    try:
        version, numbers, gauss = state.plain["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, position, has_gauss, cached = state.plain["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
        torch.set_rng_state(state.tensors["torch"])
        for index in range(torch.cuda.device_count()):
            if f"cuda.{index}" in state.tensors:
                torch.cuda.set_rng_state(state.tensors[f"cuda.{index}"], index)
    except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(f"no state of the random generators: {error}") from error
