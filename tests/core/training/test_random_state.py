"""Every random generator goes on where it was, and its state is tensors and JSON."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distillctl.core.errors import DataError
from distillctl.core.training.random_state import RandomState, random_state, restore_random_state


def draw() -> list[float]:
    """Two numbers of each generator; an odd count of normal ones leaves half a pair behind."""
    python = [random.random(), random.gauss(0, 1)]
    return [*python, *np.random.normal(size=1), *np.random.random(2), *torch.randn(2).tolist()]


@pytest.fixture(autouse=True)
def generators_as_before() -> Any:
    before = random_state()
    yield
    restore_random_state(before)


def test_all_generators_go_on_through_json(tmp_path: Any) -> None:
    draw()
    state = random_state()
    plain = json.loads(json.dumps(state.plain))
    expected = [draw() for _ in range(3)]
    restore_random_state(RandomState(state.tensors, plain))
    assert [draw() for _ in range(3)] == expected
    assert all(tensor.dtype == torch.uint8 for tensor in state.tensors.values())


@pytest.mark.gpu
def test_cuda_goes_on_too() -> None:
    state = random_state()
    expected = torch.randn(3, device="cuda")
    restore_random_state(state)
    assert torch.equal(torch.randn(3, device="cuda"), expected)


@pytest.mark.parametrize(
    "change",
    [
        {"python": [3, [1, 2], None]},
        {"python": "x"},
        {"numpy": ["MT19937", [1], 5, 0, 0.0]},
        {"numpy": ["other", [1], 5, 0, 0.0]},
        {"numpy": ["MT19937", [-1] * 624, 5, 0, 0.0]},
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"torch": torch.zeros(5056)},
    ],
    ids=str,
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    now = random_state()
    state = replace(now, tensors=change) if "torch" in change else replace(now, plain=now.plain | change)
    with pytest.raises(DataError, match="no state of the random generators"):
        restore_random_state(state)
