"""The arms: a training's own steps with another objective, and the same student for all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillctl.core.analysis.overhead import check_alike
from distillctl.core.analysis.overhead_record import BASELINE, CANDIDATE, CROSS_ENTROPY, MEASURED, without
from distillctl.core.config.objective import WeightSchedule
from distillctl.core.config.schema import Config
from distillctl.core.distillation import cross_entropy_only
from distillctl.core.losses.term import Places
from distillctl.core.models.vocabulary import special_ids
from distillctl.core.profiling.bench import Bench
from distillctl.core.run_dir import RunDirectory, StepLog
from distillctl.core.teacher.live import forced_logits
from distillctl.core.training.stepper import Stepper
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS, make_objective

RARELY = 5
"""Steps from one that measures gradients to the next, of which two in a row hold one in less than half of all cases."""


@dataclass(frozen=True)
class Arm:
    """What takes the steps, under a name, with the log that they write to."""

    name: str
    stepper: Stepper
    log: StepLog


def main_arms(baseline: Config, candidate: Config) -> dict[str, Config]:
    """Plain cross-entropy, the two, and the candidate with its teacher in the other mode where it has one."""
    arms = {CROSS_ENTROPY: cross_entropy_only(candidate), BASELINE: baseline, CANDIDATE: candidate}
    if set(candidate.objective.active_terms) & TEACHER_TERMS:
        mode = "live" if candidate.teacher.mode == "cached" else "cached"
        arms[f"{CANDIDATE}, {mode}"] = candidate.with_section("teacher", mode=mode)
    return arms


def term_arms(candidate: Config) -> dict[str, Config]:
    """The candidate, itself without each of its terms and without all that need the encoder, and measuring always."""
    active = candidate.objective.active_terms
    dropped: list[tuple[str, ...]] = [(name,) for name in active]
    encoded = tuple(name for name in active if name in ENCODER_TERMS)
    dropped += [encoded] if len(encoded) > 1 else []
    arms = {CANDIDATE: candidate}
    for names in dropped:
        if len(names) < len(active):
            arms[without(names)] = _without(candidate, names)
    # The median block of a candidate that measures more often holds a measuring step itself: nothing to compare with.
    if candidate.logging.gradient_steps >= RARELY:
        arms[MEASURED] = candidate.with_section("logging", gradient_steps=1)
    return arms


def _without(config: Config, names: Sequence[str]) -> Config:
    off = WeightSchedule(start=0.0, end=0.0)
    terms = config.objective.terms
    changed = {name: terms[name].model_copy(update={"weight": off, "log_only": False}) for name in names}
    return config.with_section("objective", **changed)


def make_arms(
    bench: Bench, configs: dict[str, Config], folder: Path, logs: ExitStack, beside: Sequence[Arm] = ()
) -> list[Arm]:
    """A stepper per configuration, all on one student and one optimizer: time does not depend on the weights.

    So the memory of one student serves them all, and no arm's figures depend on where its weights lie.

    Args:
        bench: what they share.
        configs: by name.
        folder: gets each arm's run directory.
        logs: closes the step logs.
        beside: arms made before, whose student and optimizer these take over.

    Raises:
        DataError: the arms do not get the same batches, in one precision, on one device.
    """
    arms: list[Arm] = []
    for name, config in configs.items():
        run = RunDirectory.create(folder / f"arm-{len(list(folder.iterdir()))}")
        stepper = Stepper(
            config,
            bench.accelerator,
            bench.models.student,
            bench.train.examples,
            bench.guides(config),
            make_objective(config.objective, bench.models.shared_vocabulary),
        )
        log = run.step_log(stepper.objective.names, tensorboard=config.logging.tensorboard)
        arms.append(Arm(name, stepper, logs.enter_context(log)))
    first = (*beside, *arms)[0].stepper
    for arm in arms:
        arm.stepper.model, arm.stepper.optimizers = first.model, first.optimizers
    check_alike({arm.name: _facts(arm.stepper) for arm in (*beside[:1], *arms)})
    return arms


def _facts(stepper: Stepper) -> dict[str, Any]:
    """What has to be equal, taken from what the stepper really loads and computes with."""
    digest = hashlib.sha256()
    devices = set()
    for number in range(stepper.plan.steps):
        for micro in stepper.loader.load(number).micro_batches:
            devices.add(str(micro.labels.device))
            for tensor in (micro.input_ids, micro.attention_mask, micro.labels):
                digest.update(f"{tuple(tensor.shape)}".encode())
                digest.update(tensor.cpu().numpy().tobytes())
    weights = next(stepper.student.parameters())
    return {
        "batches": digest.hexdigest(),
        "dtype": f"weights {weights.dtype}, products {_dtype_of_products(stepper)}",
        "device": ", ".join(sorted({*devices, str(weights.device)})),
    }


@torch.no_grad()
def _dtype_of_products(stepper: Stepper) -> str:
    """What the student's first linear layer gives in a forward pass: what a setting says is not enough."""
    seen: list[torch.dtype] = []
    layer = next(module for module in stepper.student.modules() if isinstance(module, nn.Linear))
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    micro = stepper.loader.load(0).micro_batches[0]
    source, mask, labels = (tensor[:1] for tensor in (micro.input_ids, micro.attention_mask, micro.labels))
    start, padding = special_ids(stepper.student, "student")
    try:
        forced_logits(stepper.model, source, mask, labels, Places.of(labels), start, padding)
    finally:
        hook.remove()
    return ", ".join(sorted({str(dtype) for dtype in seen}))
