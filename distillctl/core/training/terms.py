"""From configuration to objective: which terms, with which settings, schedules and scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from distillctl.core.config.objective import ObjectiveConfig
from distillctl.core.losses.auxiliary import ShareLimit
from distillctl.core.losses.balance import BandBalance, balanced_terms
from distillctl.core.losses.objective import Objective
from distillctl.core.losses.registry import make_term
from distillctl.core.losses.schedules import LinearSchedule

TEACHER_TERMS = frozenset({"jsd"})
ENCODER_TERMS = frozenset({"semantic", "contrastive"})


def make_objective(
    settings: ObjectiveConfig,
    shared_vocabulary: int | None,
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Objective:
    """The composite objective that a configuration describes."""
    own: dict[str, dict[str, Any]] = {
        "focal": {"alpha": settings.focal.alpha, "gamma": settings.focal.gamma},
        "jsd": {
            "temperature": settings.jsd.temperature,
            "gating": settings.jsd.gating,
            "shared_vocab": shared_vocabulary,
            "mixture": settings.jsd.mixture,
        },
        "semantic": {},
        "contrastive": {
            "temperature": settings.contrastive.temperature,
            "direction": settings.contrastive.direction,
        },
    }
    active = settings.active_terms
    weights = {name: settings.terms[name].weight for name in active}
    scales = {"semantic": settings.semantic_loss_scale} if "semantic" in active else {}
    balanced = {name: scales.get(name, 1.0) for name in balanced_terms(settings.trained_terms)}
    return Objective(
        terms=[make_term(name, **own[name]) for name in active],
        schedules={name: LinearSchedule(weight.start, weight.end) for name, weight in weights.items()},
        scales=scales,
        log_only=[name for name in active if settings.terms[name].log_only],
        share_limit=ShareLimit(settings.max_auxiliary_share) if settings.max_auxiliary_share is not None else None,
        sum_over_ranks=sum_over_ranks,
        balance=BandBalance(balanced) if settings.balance == "band" and len(balanced) > 1 else None,
    )
