"""The auxiliary share limit: how much of the update the terms behind the frozen encoder may take."""

from __future__ import annotations

import math
from collections.abc import Mapping

from distillctl.core.errors import RunError, UsageError


class ShareLimit:
    """``clip = min(1, share * |primary| / |auxiliary|)`` from running norms of earlier whole steps.

    Equal losses are not equal gradients: at the logits an unlimited auxiliary gradient was measured ten times
    the primary one and orthogonal to it. The limit scales it down, never up. It reads whole-step norms of
    *earlier* steps, so it depends on neither micro-batches nor ranks.

    Each norm's exponential mean starts at its first non-zero measurement (an average that started at 0 would
    underestimate for ``1 / (1 - decay)`` steps). Until both have one, the clip is 1: measure one step before
    the first update (``Objective.end_step`` of a step whose gradient is thrown away) to have step 1 limited
    too. A run without primary terms is never clipped.

    Args:
        share: largest allowed ``|auxiliary| / |primary|``, > 0.
        decay: of the exponential mean, in [0, 1).

    Raises:
        UsageError: an argument is out of range.
    """

    def __init__(self, share: float, decay: float = 0.9) -> None:
        if not (math.isfinite(share) and share > 0):
            raise UsageError(f"objective.max_auxiliary_share should be finite and > 0. Found {share}.")
        if not 0 <= decay < 1:
            raise UsageError(f"The share limit's decay should be in [0, 1). Found {decay}.")
        self.share = share
        self.decay = decay
        self._primary = 0.0
        self._auxiliary = 0.0

    @property
    def seeded(self) -> bool:
        """Whether both norms have been measured, so that the clip means something."""
        return self._primary > 0 and self._auxiliary > 0

    @property
    def clip(self) -> float:
        """The factor in (0, 1] for the next step's auxiliary gradient."""
        if not self.seeded:
            return 1.0
        return min(1.0, self.share * self._primary / self._auxiliary)

    def observe(self, primary: float, auxiliary: float) -> None:
        """Take in one whole step's gradient norms, the auxiliary one before clipping.

        Raises:
            RunError: a norm is not finite or negative.
        """
        for name, norm in (("primary", primary), ("auxiliary", auxiliary)):
            if not (math.isfinite(norm) and norm >= 0):
                raise RunError(
                    f"The {name} gradient norm should be finite and >= 0. Found {norm}: lower the learning rate."
                )
        self._primary = self._mean(self._primary, primary)
        self._auxiliary = self._mean(self._auxiliary, auxiliary)

    def _mean(self, running: float, norm: float) -> float:
        return norm if running == 0 else self.decay * running + (1 - self.decay) * norm

    def state_dict(self) -> dict[str, float]:
        """The running norms as plain floats, for a JSON checkpoint (which keeps every bit of a float)."""
        return {"primary": self._primary, "auxiliary": self._auxiliary}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take back what :meth:`state_dict` gave; share and decay stay the configured ones."""
        self._primary = float(state["primary"])
        self._auxiliary = float(state["auxiliary"])
