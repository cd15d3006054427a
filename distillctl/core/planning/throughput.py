"""How fast this machine trains such a student: measured on one layer of it, with its own widths, precision and dropout.

A product of large matrices would give the machine's best; a training has norms, attention, an optimizer, and small
products besides. So the probe is a student of one encoder and one decoder layer with random weights; it takes forward
and backward passes of a micro-batch of the run's mean size, through the code that the training calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM

from distillctl.core.config.schema import Config
from distillctl.core.losses.term import Places
from distillctl.core.models.loading import quiet_transformers
from distillctl.core.models.student import prepare_student, with_layers
from distillctl.core.models.vocabulary import special_ids
from distillctl.core.planning.estimate import Micro, training_flops
from distillctl.core.planning.shapes import sequence_shape
from distillctl.core.teacher.live import forced_logits
from distillctl.core.training.accelerator import wait_for
from distillctl.core.training.optimisation import make_optimizers

SOURCE_TOKENS = 2048
"""Of the probe's micro-batch, at most: more makes no product faster."""
ENOUGH_SECONDS = 2.0
MOST_RUNS = 10


@dataclass(frozen=True)
class Throughput:
    """What was measured.

    Attributes:
        flops: floating-point operations a second, forward and backward.
        update_seconds: the optimizer's step, per parameter (of a matrix of a layer, with Muon).
        where: device, threads, precision.
    """

    flops: float
    update_seconds: float
    where: str


def measure_throughput(config: Config, student: Any, micro: Micro, device: torch.device) -> Throughput:
    """Measures, in some seconds; draws random numbers.

    Args:
        config: resolved; its training settings count.
        student: Hugging Face configuration of the student.
        micro: a typical micro-batch of the run.
        device: that will train.
    """
    one_layer = with_layers(student, {"encoder": 1, "decoder": 1})
    shape = sequence_shape(one_layer)
    assert shape is not None
    with quiet_transformers():
        model = AutoModelForSeq2SeqLM.from_config(one_layer).float().to(device)
    prepare_student(model, config)
    few = max(1, min(micro.examples, SOURCE_TOKENS // micro.source))
    sample = Micro(few, micro.source, micro.target, few * micro.target)
    training = _seconds(_pass(model, sample, device, bf16=config.training.bf16 is True), device)
    optimizers = make_optimizers(model, config.training)
    update = _seconds(lambda: [optimizer.step() for optimizer in optimizers], device)
    counted = shape.hidden if config.training.optimizer == "muon" else shape.parameters
    flops = training_flops(shape, sample, config.training.gradient_checkpointing)
    return Throughput(flops / training, update / counted, _where(config, device))


def _pass(model: Any, micro: Micro, device: torch.device, bf16: bool) -> Callable[[], object]:
    start, padding = special_ids(model, "student")
    sizes = ((micro.examples, micro.source), (micro.examples, micro.target))
    source, labels = (torch.randint(4, model.config.vocab_size, size, device=device) for size in sizes)
    mask, places = torch.ones_like(source), Places.of(labels)

    def once() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
            logits = forced_logits(model, source, mask, labels, places, start, padding)
        nn.functional.cross_entropy(logits, labels.flatten()).backward()

    return once


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of some repetitions, after one that warms up."""
    taken: list[float] = []
    for _ in range(1 + MOST_RUNS):
        started = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - started)
        if len(taken) > 2 and sum(taken) > ENOUGH_SECONDS:
            break
    return median(taken[1:])


def _where(config: Config, device: torch.device) -> str:
    precision = "bfloat16" if config.training.bf16 is True else "float32"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    threads = torch.get_num_threads()
    return (
        f"{device.type}, {threads} thread{'s' * (threads > 1)}, {precision}"
        if device.type == "cpu"
        else (f"{device.type}, {precision}")
    )
