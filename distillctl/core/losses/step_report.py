"""What one optimizer step measured, and the check that all of it is finite."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from distillctl.core.errors import NotFiniteError


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step measured. Keys are term names, in the objective's order.

    Attributes:
        counts: what each raw loss was divided by (tokens or examples); 0 means that the step had none.
        losses: raw mean per term, 0 where the count is 0.
        scales, weights: the factors in use; weighted: their product with the loss.
        loss_total: sum of ``weighted`` over the terms that are trained on (not log_only).
        grad_norms: norm of each weighted term's gradient at the logits, unclipped; None unless taken
            separately.
        grad_cosines: cosine per pair (a, b); None where a gradient is 0; empty unless taken separately.
        grad_norm_primary, grad_norm_auxiliary: norms of the two groups' gradients at the logits, unclipped.
        auxiliary_clip: the factor that was applied to the auxiliary gradient in this step.
        rebalanced: ratio to the reference term, of the terms whose scale begins to be corrected after this step.
    """

    counts: dict[str, float]
    losses: dict[str, float]
    scales: dict[str, float]
    weights: dict[str, float]
    weighted: dict[str, float]
    loss_total: float
    grad_norms: dict[str, float] | None
    grad_cosines: dict[tuple[str, str], float | None]
    grad_norm_primary: float
    grad_norm_auxiliary: float
    auxiliary_clip: float
    rebalanced: dict[str, float] = field(default_factory=dict)


def check_finite(report: StepReport) -> None:
    """Raise a NotFiniteError that names the first term whose loss or gradient is NaN or infinite."""
    for name, loss in report.losses.items():
        if not math.isfinite(loss):
            raise NotFiniteError(
                f"Loss term '{name}' is {loss}: lower the learning rate or look at the batch; nothing was updated."
            )
    norms = {
        **{f"term '{name}'": norm for name, norm in (report.grad_norms or {}).items()},
        "the primary terms": report.grad_norm_primary,
        "the auxiliary terms": report.grad_norm_auxiliary,
    }
    for owner, norm in norms.items():
        if not math.isfinite(norm):
            raise NotFiniteError(
                f"The logit gradient of {owner} is {norm}: lower the learning rate; nothing was updated."
            )
