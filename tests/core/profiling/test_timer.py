"""The listener: parts add up to the step, the innermost counts, and backward passes are told apart."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from distillctl.core.phases import OTHER, UNTIMED
from distillctl.core.profiling.timer import StepTimer

CPU = torch.device("cpu")


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass on a clock that stands still otherwise."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def pass_seconds(seconds: float) -> None:
        now[0] += seconds

    return pass_seconds


def test_the_innermost_part_counts(wait: Callable[[float], None]) -> None:
    timer = StepTimer(CPU)
    timer.start()
    wait(1)
    with timer.phase("outer"):
        wait(2)
        with timer.phase("inner"):
            wait(4)
        wait(8)
    wait(16)
    found = timer.stop()
    assert found.parts == {OTHER: 17, "outer": 10, "inner": 4}
    assert found.seconds == 31


def test_a_part_that_comes_twice_is_summed_and_the_next_step_begins_anew(wait: Callable[[float], None]) -> None:
    timer = StepTimer(CPU)
    for _ in range(2):
        timer.start()
        for _ in range(3):
            with timer.phase("part"):
                wait(2)
        found = timer.stop()
        wait(50)
        assert (found.parts["part"], found.seconds) == (6, 6)


def test_time_counts_for_a_term_from_when_its_backward_begins(wait: Callable[[float], None]) -> None:
    class Costly(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, tensor: torch.Tensor, seconds: float) -> torch.Tensor:
            ctx.seconds = seconds  # type: ignore[attr-defined]
            return tensor.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
            wait(ctx.seconds)  # type: ignore[attr-defined]
            return gradient, None

    timer = StepTimer(CPU)
    leaf = torch.ones(2, requires_grad=True)
    timer.start()
    states = Costly.apply(leaf, 8.0)
    timer.backward_of("encoder", states)
    values = []
    for name, seconds in (("first", 1.0), ("second", 2.0)):
        value = Costly.apply(states, seconds).sum()
        timer.backward_of(name, value)
        values.append(value)
    with timer.phase("objective"):
        torch.autograd.grad(torch.stack(values).sum(), leaf)
        wait(4)
    parts = timer.stop().parts
    assert (parts["first"], parts["second"]) == (1, 2)
    assert parts["encoder"] == 12  # what comes behind the last mark, to the phase's end, is still its own
    assert parts["objective"] == 0


def test_a_value_without_gradient_has_no_backward() -> None:
    StepTimer(CPU).backward_of("term", torch.ones(1))


def test_an_error_leaves_no_part_open(wait: Callable[[float], None]) -> None:
    timer = StepTimer(CPU)
    timer.start()
    with pytest.raises(KeyError), timer.phase("part"):
        raise KeyError
    wait(3)
    assert timer.stop().parts[OTHER] == 3


def test_nobody_listening_measures_nothing() -> None:
    with UNTIMED.phase("part"):
        UNTIMED.backward_of("part", torch.ones(1, requires_grad=True))


@pytest.mark.gpu
def test_parts_add_up_on_a_cuda_device_too() -> None:
    device = torch.device("cuda")
    weights = torch.randn(2048, 2048, device=device)
    timer = StepTimer(device)
    timer.start()
    for name, times in (("short", 5), ("long", 200)):
        with timer.phase(name):
            for _ in range(times):
                weights @ weights
    found = timer.stop()
    assert found.parts["long"] > 5 * found.parts["short"] > 0
    assert sum(found.parts.values()) == pytest.approx(found.seconds, rel=0.05)
