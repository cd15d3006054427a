"""What a process holds at the fullest moment of a training, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from distillctl.core.config.schema import Config
from distillctl.core.planning.duration import Shapes
from distillctl.core.planning.estimate import (
    BFLOAT16,
    FLOAT32,
    Micro,
    Shape,
    activation_bytes,
    logit_bytes,
    optimizer_bytes,
    reading_bytes,
)
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS

CUDA_CONTEXT = 2**30
"""Kernels and workspaces, beside what torch's allocator counts."""
CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 141)
"""GiB of common GPUs."""
ROOM = 1.15
"""What an allocator loses to gaps."""


@dataclass(frozen=True)
class Memory:
    """Bytes by part, ``kept`` between micro-batches and ``passing`` for one; of one process on its device."""

    kept: Mapping[str, int]
    passing: Mapping[str, int]

    @property
    def peak(self) -> int:
        """All of it together."""
        return sum(self.kept.values()) + sum(self.passing.values())


def memory(config: Config, shapes: Shapes, micro: Micro, *, dropout: bool, recompute: bool) -> Memory:
    """Of a training whose largest micro-batch is ``micro``; what Python itself needs is not in it.

    Args:
        config: resolved.
        shapes: of the models. A teacher that only its cache speaks for is let go before the first step.
        micro: the largest micro-batch.
        dropout: the student has some.
        recompute: gradient checkpointing, whatever the configuration says.
    """
    training, student = config.training, shapes.student
    bf16, active = training.bf16 is True, set(config.objective.active_terms)
    reads = shapes.encoder is not None and bool(active & ENCODER_TERMS)
    live = config.teacher.mode == "live" and bool(active & TEACHER_TERMS)
    kept = {
        "student, float32": FLOAT32 * student.parameters,
        "its gradients": FLOAT32 * student.parameters,
        f"state of {training.optimizer}": optimizer_bytes(student, training.optimizer == "muon"),
    }
    precision = "bfloat16" if bf16 else "float32"
    if live and shapes.teacher is not None:
        kept[f"teacher, {precision}"] = _frozen_bytes(shapes.teacher, bf16)
    passing = {}
    if bf16:
        passing["student's matrices in bfloat16"] = BFLOAT16 * student.hidden
    passing[f"activations of {_size(micro)}"] = activation_bytes(
        student, micro, bf16=bf16, dropout=dropout, recompute=recompute
    )
    passing["logits and their gradients"] = logit_bytes(student.vocabulary, micro.tokens, auxiliary=reads, live=live)
    if reads and shapes.encoder is not None:
        teachers = config.encoder.model == "teacher"  # and its table is the teacher's embedding
        own = 0 if teachers and live else _frozen_bytes(shapes.encoder, bf16)
        table = 0 if teachers else FLOAT32 * student.vocabulary * shapes.encoder.encoder.width
        kept[f"encoder and its table, {precision}"] = own + table
        passing["encoder's activations"] = reading_bytes(shapes.encoder, micro, bf16=bf16)
    return Memory(kept, passing)


def _frozen_bytes(shape: Shape, bf16: bool) -> int:
    """Of a frozen model while training: under bf16 its layers' matrices are kept in it (``store_in_bf16``)."""
    return FLOAT32 * shape.parameters - ((FLOAT32 - BFLOAT16) * shape.hidden if bf16 else 0)


def _size(micro: Micro) -> str:
    return f"{micro.examples} x ({micro.source} + {micro.target}) tokens"


def largest(config: Config, shapes: Shapes, steps: Sequence[Sequence[Micro]], dropout: bool) -> Micro:
    """The micro-batch that needs most memory."""
    recompute = config.training.gradient_checkpointing

    def peak(micro: Micro) -> int:
        return memory(config, shapes, micro, dropout=dropout, recompute=recompute).peak

    return max((micro for step in steps for micro in step), key=peak)


def device_bytes(device: torch.device) -> int:
    """Memory of a CUDA device, or of this machine, or what a container or a batch job may have of it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return min([int(psutil.virtual_memory().total), *group_limits()])


def group_limits(root: Path = Path("/")) -> Iterator[int]:
    """Bytes that this process's control group, and each above it, may use (cgroup v2, and v1); none without a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, kind, name = line.split(":", 2)
        if "memory" in kind.split(","):
            top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        elif not kind:
            top, file = root / "sys/fs/cgroup", "memory.max"
        else:
            continue
        own = top / name.strip("/")
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            with suppress(OSError, ValueError):  # not seen from in here; "max"
                yield int((folder / file).read_text(encoding="utf-8"))


def process_bytes(device: torch.device) -> int:
    """What this process holds besides: on a GPU the context there, elsewhere Python, the libraries and the records.

    Call it when the records have been read and no model has been loaded.
    """
    return CUDA_CONTEXT if device.type == "cuda" else int(psutil.Process().memory_info().rss)


def card_for(needed: Memory) -> int | None:
    """GiB of the smallest common GPU on which it has room; None where none is large enough."""
    wanted = (ROOM * needed.peak + CUDA_CONTEXT) / 2**30
    return next((size for size in CARDS if size >= wanted), None)


def fitting_batch(
    config: Config, shapes: Shapes, micro: Micro, available: int, *, dropout: bool
) -> tuple[int, int] | None:
    """(per_device_train_batch_size, gradient_accumulation_steps) of the same step that fits; None if none does.

    Args:
        available: bytes of the device that the training may have.
    """
    size, count = config.training.per_device_train_batch_size, config.training.gradient_accumulation_steps
    while size > 1 and size % 2 == 0:
        size, count = size // 2, count * 2
        share = size / config.training.per_device_train_batch_size
        smaller = Micro(max(1, round(micro.examples * share)), micro.source, micro.target, round(micro.tokens * share))
        recompute = config.training.gradient_checkpointing
        if ROOM * memory(config, shapes, smaller, dropout=dropout, recompute=recompute).peak <= available:
            return size, count
    return None
