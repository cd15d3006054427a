"""From configuration to objective: every setting of the section arrives in its term."""

from __future__ import annotations

import torch

from distillctl.core.config import load_config
from distillctl.core.losses.contrastive import ContrastiveTerm
from distillctl.core.losses.focal import FocalTerm
from distillctl.core.losses.jsd import JsdTerm
from distillctl.core.losses.objective import Objective
from distillctl.core.losses.semantic import SemanticTerm
from distillctl.core.training.terms import make_objective


def objective(*settings: str, shared_vocabulary: int | None = None) -> Objective:
    return make_objective(
        load_config(settings=[f"objective.{setting}" for setting in settings]).objective, shared_vocabulary
    )


def test_the_defaults_are_all_four_terms() -> None:
    made = objective()
    assert made.names == ("focal", "jsd", "semantic", "contrastive")
    assert made.scales == {"focal": 1.0, "jsd": 1.0, "semantic": 5.0, "contrastive": 1.0}
    assert {name: (s.start, s.end) for name, s in made.schedules.items()} == {
        "focal": (0.05, 0.05),
        "jsd": (1.0, 0.7),
        "semantic": (0.05, 0.35),
        "contrastive": (0.1, 0.2),
    }
    assert made.log_only == frozenset()
    assert made.share_limit is not None
    assert made.share_limit.share == 0.1


def test_settings_arrive_in_their_terms() -> None:
    made = objective(
        "focal.alpha=0.5",
        "focal.gamma=1",
        "jsd.temperature=2",
        "jsd.gating=true",
        "jsd.mixture=0.2",
        "contrastive.temperature=0.3",
        "contrastive.direction=triplet",
        "beta=7",
        "max_auxiliary_share=0.7",
        shared_vocabulary=11,
    )
    assert made.terms == (
        FocalTerm(alpha=0.5, gamma=1.0),
        JsdTerm(temperature=2.0, gating=True, shared_vocab=11, mixture=0.2),
        SemanticTerm(),
        ContrastiveTerm(temperature=0.3, direction="triplet"),
    )
    assert made.scales["semantic"] == 7
    assert made.share_limit is not None
    assert made.share_limit.share == 0.7


def test_terms_of_weight_zero_are_left_out_unless_they_are_logged() -> None:
    made = objective("jsd.weight=0", "semantic.weight=0", "contrastive.weight=0", "contrastive.log_only=true")
    assert made.names == ("focal", "contrastive")
    assert made.log_only == {"contrastive"}
    assert "semantic" not in made.scales
    assert objective("semantic.weight=[0, 0.35]").names == ("focal", "jsd", "semantic", "contrastive")


def test_the_share_limit_can_be_off_and_sums_cross_ranks() -> None:
    assert objective("max_auxiliary_share=null").share_limit is None
    doubled = make_objective(load_config().objective, None, lambda tensor: 2 * tensor)
    assert doubled._sum_over_ranks(torch.ones(1)).item() == 2
