"""Whole optimizer steps of the objective over a toy world, for its tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from distillctl.core.losses.objective import Objective
from distillctl.core.losses.registry import make_term
from distillctl.core.losses.schedules import LinearSchedule
from distillctl.core.losses.step_report import StepReport
from distillctl.core.losses.term import LossBatch, StudentOutputs
from tests.toys import World, micro_batch

NAMES = ("focal", "jsd", "semantic", "contrastive")
SCHEDULES = {
    "focal": LinearSchedule.constant(0.3),
    "jsd": LinearSchedule(0.7, 0.2),
    "semantic": LinearSchedule(0.05, 0.35),
    "contrastive": LinearSchedule(0.1, 0.2),
}
LENGTHS = (5, 2, 4, 1, 3, 5, 2, 3)


def make_objective(beta: float = 5.0, names: tuple[str, ...] = NAMES, **settings: Any) -> Objective:
    schedules = {name: SCHEDULES[name] for name in names} | settings.pop("schedules", {})
    scales = {"semantic": beta} if "semantic" in names else {}
    return Objective([make_term(name) for name in names], schedules, scales, **settings)


def run_step(
    objective: Objective,
    world: World,
    size: int = 8,
    separate: bool = True,
    progress: float = 0.5,
    observe: bool = True,
) -> tuple[Tensor, StepReport]:
    """(gradient at all logits of the step, report) with micro-batches of ``size``."""
    parts = list(_parts(world, size))
    counts: dict[str, Tensor] = {}
    for _, batch in parts:
        for name, count in objective.counts(batch).items():
            counts[name] = counts.get(name, torch.zeros(())) + count
    objective.begin_step(counts, progress, separate)
    gradients = [objective.logit_gradient(outputs, batch) for outputs, batch in parts]
    return torch.cat(gradients), objective.end_step(observe)


def _parts(world: World, size: int) -> Iterator[tuple[StudentOutputs, LossBatch]]:
    for start in range(0, len(world.logits), size):
        rows = slice(start, start + size)
        yield world.outputs(world.logits[rows]), micro_batch(world.batch, rows)


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def direct_total(world: World, logits: Tensor, weights: Mapping[str, float], beta: float = 5.0) -> Tensor:
    """The objective written out, for plain autograd."""
    total = torch.zeros((), dtype=logits.dtype)
    for name, weight in weights.items():
        value = make_term(name)(world.outputs(logits), world.batch)
        total = total + (beta if name == "semantic" else 1.0) * weight * value.sum / value.count
    return total
