"""Where an optimizer step's time goes: the names of its parts, and how the code that runs them says so.

The training loop always says so. Only ``profile-overhead`` listens: with :data:`UNTIMED` nothing is measured, and no
device is waited for.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

DATA = "data"
STUDENT_FORWARD = "student forward"
TEACHER = "teacher"
OBJECTIVE = "objective"
"""What the objective does besides its terms: sums, dot products, the gradient handed on."""
ENCODER_FORWARD = "encoder forward"
ENCODER_BACKWARD = "encoder backward"
STUDENT_BACKWARD = "student backward"
OPTIMIZER = "optimizer"
"""Clipping, the update, letting the gradients go."""
LOGGING = "logging"
"""Reading what was measured, the row of step_metrics.csv, TensorBoard."""
OTHER = "other"


class Phases(Protocol):
    """Is told which part of a step begins. Parts may lie inside each other: time counts for the innermost."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """The part called ``name``, while inside."""
        ...

    def backward_of(self, name: str, tensor: Any) -> None:  # a torch tensor: readers of results import this, too
        """In the phase under way then, time counts as ``name`` from when a backward pass comes to ``tensor`` on."""
        ...


class _Untimed:
    def __init__(self) -> None:
        self._nothing = nullcontext()

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self._nothing

    def backward_of(self, name: str, tensor: Any) -> None:
        pass


UNTIMED: Phases = _Untimed()
