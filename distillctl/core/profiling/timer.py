"""Listens to a training step: seconds per part, or the parts' names in a trace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from distillctl.core.analysis.overhead import StepTime
from distillctl.core.phases import OTHER
from distillctl.core.training.accelerator import wait_for


class StepTimer:
    """Seconds of a step and of each of its parts, which add up to the step.

    On a CUDA device the parts are told apart by events on its stream, read when the step is over, so that timing them
    waits for nothing; only the step's two ends wait for the device.

    Args:
        device: that computes the step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_cuda = device.type == "cuda"
        self._stack: list[str] = [OTHER]
        self._marks: list[tuple[str, Any]] = []
        self._started = 0.0

    def start(self) -> None:
        """The step begins."""
        wait_for(self._device)
        self._stack, self._marks = [OTHER], []
        self._started = time.perf_counter()
        self._mark()

    def stop(self) -> StepTime:
        """The step is over."""
        self._mark()
        wait_for(self._device)  # on Apple's GPUs the parts are where the host waited
        seconds = time.perf_counter() - self._started
        parts: dict[str, float] = {}
        for (name, begins), (_, ends) in zip(self._marks, self._marks[1:], strict=False):
            parts[name] = parts.get(name, 0.0) + self._between(begins, ends)
        # A device's clock is not the host's: what the two differ by is nobody's part.
        parts[OTHER] = max(0.0, seconds - sum(taken for name, taken in parts.items() if name != OTHER))
        return StepTime(seconds, parts)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See :class:`~distillctl.core.phases.Phases`."""
        self._stack.append(name)
        self._mark()
        try:
            yield
        finally:
            self._stack.pop()
            self._mark()

    def backward_of(self, name: str, tensor: Tensor) -> None:
        """See :class:`~distillctl.core.phases.Phases`."""
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: self._turn_to(name))

    def _turn_to(self, name: str) -> None:
        # The hook may run in autograd's own thread, while the one that opened the phase waits for it.
        self._stack[-1] = name
        self._mark()

    def _mark(self) -> None:
        self._marks.append((self._stack[-1], self._stamp()))

    def _stamp(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, begins: Any, ends: Any) -> float:
        return float(begins.elapsed_time(ends)) / 1000 if self._on_cuda else float(ends - begins)


class TracedPhases:
    """Gives the parts of a step their names in a trace of torch.profiler."""

    def phase(self, name: str) -> AbstractContextManager[Any]:
        """See :class:`~distillctl.core.phases.Phases`."""
        return record_function(name)

    def backward_of(self, name: str, tensor: Tensor) -> None:
        """The trace shows autograd's own nodes."""
