"""Automatic balance: the scaled core losses are held within a factor of two of each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from distillctl.core.errors import RunError, UsageError

CORE_TERMS: Final = ("focal", "jsd", "semantic")
"""The terms that the request wants pairwise within 0.5-2x; the first that is trained is the others' reference."""

BAND: Final = math.sqrt(2.0)
"""Each core term is kept within [1 / BAND, BAND] of the reference, so any two of them within 2x."""

STARTS_AT: Final = BAND**0.8
"""A correction starts before the band's edge is reached, since the mean lags behind the loss ..."""
ENDS_AT: Final = BAND**0.2
"""... and goes on to about the middle: without this hysteresis it would start and end at every step of noise."""

STEP: Final = 1.08
"""Largest factor of one optimizer step. All terms moving at once change the total loss by 8 % at the most."""

LIMIT: Final = 100.0
"""A correction stays within [1 / LIMIT, LIMIT]: a loss that vanishes must not be blown up without end."""

ROUNDING: Final = 1e-5
"""A loss may be below 0 by this much: ``1 - cosine`` in float32 is, where a student says just what is wanted."""

DECAY: Final = 0.95
"""Of the running means of the raw losses: 20 steps; the first 20 steps are a plain mean."""


class BandBalance:
    """A correction of each core term's scale from running means of scale x raw loss of earlier whole steps.

    Weights are left out of the comparison, or the balance would undo their schedules. Only losses of whole steps,
    summed over micro-batches and ranks, are read, so neither changes a correction.

    Args:
        scales: the configured scale of each trained core term (beta for semantic), > 0. The first of
            :data:`CORE_TERMS` among them is the reference and is never corrected.

    Raises:
        UsageError: a name is no core term, or a scale is not finite and > 0.
    """

    def __init__(self, scales: Mapping[str, float]) -> None:
        if set(scales) - set(CORE_TERMS):
            raise UsageError(f"Only {list(CORE_TERMS)} can be balanced. Found {sorted(scales)}.")
        if not all(math.isfinite(scale) and scale > 0 for scale in scales.values()):
            raise UsageError(f"A balanced term's scale should be finite and > 0. Found {dict(scales)}.")
        self.base = {name: float(scales[name]) for name in CORE_TERMS if name in scales}
        self._steps = dict.fromkeys(self.base, 0)
        self._means = dict.fromkeys(self.base, 0.0)
        self._corrections = dict.fromkeys(self.base, 1.0)
        self._moving = dict.fromkeys(self.base, False)

    @property
    def scales(self) -> dict[str, float]:
        """What each core term is to be multiplied by in the next step: configured scale x correction."""
        return {name: base * self._corrections[name] for name, base in self.base.items()}

    def ratio(self, name: str) -> float | None:
        """Scaled running mean of a term over the reference's; None until both have been measured."""
        reference = next(iter(self.base))
        scales = self.scales
        mine, its = scales[name] * self._means[name], scales[reference] * self._means[reference]
        return mine / its if mine > 0 and its > 0 else None

    def observe(self, losses: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """Take in one whole step's raw mean losses and move the corrections that have to.

        A term without examples in this step (count 0), or with a loss of 0 to rounding, keeps its mean.

        Returns:
            term -> ratio to the reference, of the corrections that began to move with this step.

        Raises:
            RunError: a core loss is not finite or negative.
        """
        for name in self.base:
            self._take_in(name, losses[name], counts[name])
        began = {}
        for name in list(self.base)[1:]:
            ratio = self.ratio(name)
            if ratio is not None and self._move(name, ratio):
                began[name] = ratio
        return began

    def _take_in(self, name: str, loss: float, count: float) -> None:
        if not (math.isfinite(loss) and loss >= -ROUNDING):
            raise RunError(f"Loss term '{name}' should be finite and >= 0. Found {loss}: lower the learning rate.")
        if count > 0 and loss > 0:
            self._steps[name] += 1
            share = max(1 - DECAY, 1 / self._steps[name])
            self._means[name] += share * (loss - self._means[name])

    def _move(self, name: str, ratio: float) -> bool:
        """Moves a correction by a step towards ratio 1, where it has to; True where it begins to."""
        away = max(ratio, 1 / ratio)
        before = self._moving[name]
        self._moving[name] = away > (ENDS_AT if before else STARTS_AT)
        if not self._moving[name]:
            return False
        factor = min(STEP, max(1 / STEP, 1 / ratio))
        was = self._corrections[name]
        self._corrections[name] = min(LIMIT, max(1 / LIMIT, was * factor))
        return not before and self._corrections[name] != was

    def state_dict(self) -> dict[str, Any]:
        """Means, corrections and what is moving, JSON-able to the last bit."""
        return {
            "steps": dict(self._steps),
            "means": dict(self._means),
            "corrections": dict(self._corrections),
            "moving": dict(self._moving),
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take back what :meth:`state_dict` gave. Raises RunError if it is of other terms."""
        if set(state["corrections"]) != set(self.base):
            raise RunError(
                f"The checkpoint balances {sorted(state['corrections'])}, this run {sorted(self.base)}: resume with "
                "the run's own config."
            )
        self._steps = {name: int(state["steps"][name]) for name in self.base}
        self._means = {name: float(state["means"][name]) for name in self.base}
        self._corrections = {name: float(state["corrections"][name]) for name in self.base}
        self._moving = {name: bool(state["moving"][name]) for name in self.base}


def balanced_terms(trained: Sequence[str]) -> tuple[str, ...]:
    """Those of the trained terms that are core ones, in :data:`CORE_TERMS`' order."""
    return tuple(name for name in CORE_TERMS if name in trained)
