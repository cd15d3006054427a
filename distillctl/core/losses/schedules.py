"""Weights that move over a run: linear from the first step to the last."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distillctl.core.errors import RunError, UsageError


@dataclass(frozen=True)
class LinearSchedule:
    """``start + (end - start) * progress`` over whole-run progress 0..1; start = end is a constant.

    Raises:
        UsageError: a bound is negative or not finite.

    Example:
        >>> LinearSchedule(0.7, 0.35).at(0.5)
        0.525
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        for field in ("start", "end"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"A weight's {field} should be finite and >= 0. Found {value}.")

    @classmethod
    def constant(cls, value: float) -> LinearSchedule:
        """The schedule that stays at ``value``."""
        return cls(value, value)

    def at(self, progress: float) -> float:
        """The weight at ``progress``; both ends are met exactly.

        Raises:
            RunError: progress lies outside 0..1.
        """
        if not 0 <= progress <= 1:
            raise RunError(f"Progress of the run should be in 0..1. Found {progress}.")
        return self.end if progress == 1 else self.start + (self.end - self.start) * progress
