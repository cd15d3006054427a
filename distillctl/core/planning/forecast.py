"""A plan's memory and time: from shapes, lengths, and a throughput measured here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from distillctl.core.analysis.document import Table
from distillctl.core.config.schema import Config
from distillctl.core.data.encoding import Example
from distillctl.core.materials import EncodedData
from distillctl.core.planning.duration import Shapes, Work, phases
from distillctl.core.planning.lengths import Lengths, micro_batches, typical
from distillctl.core.planning.memory import (
    ROOM,
    Memory,
    card_for,
    device_bytes,
    fitting_batch,
    largest,
    memory,
)
from distillctl.core.planning.tables import memory_table, time_table
from distillctl.core.planning.throughput import Throughput, measure_throughput
from distillctl.core.progress import Reporter
from distillctl.core.training.batches import StepPlan

LARGE = 50_000_000
"""Parameters of a student that is trained on a GPU: for such a one a CPU's plan says what some GPUs would take."""
BFLOAT16_PEAK = {"RTX 4090, 24 GB": 165e12, "A100": 312e12, "H100 SXM": 989e12}
"""Dense bfloat16 operations a second with float32 sums, by NVIDIA's data sheets."""
SHARE_OF_PEAK = 0.3
"""That a training of this kind has of it with large batches; not measured by us. With 8 examples of 512 tokens a step
CodeT5+ 220M had 2 %, by cross-entropy, on an H200 (results/published/2026-11-26-cost-codet5p-h200)."""


@dataclass(frozen=True)
class Known:
    """What a plan has found out so far.

    Attributes:
        config: resolved.
        device: that would train.
        process: bytes that Python, the libraries and the records take on it.
        student: its Hugging Face configuration, None where nobody can know it here.
        shapes: of all models, None where the student's is not known.
        encoded: the records as token ids.
        steps, ranks: of the run.
        to_capture: examples that the teacher has to be run on first.
        golds: label ids that the encoder has to read first.
    """

    config: Config
    device: torch.device
    process: int
    student: Any | None
    shapes: Shapes | None
    encoded: EncodedData
    steps: StepPlan
    ranks: int
    to_capture: Sequence[Example]
    golds: Sequence[Sequence[int]]


def forecast(known: Known, reporter: Reporter, notes: list[str]) -> dict[str, Table]:
    """The tables of memory and time; a line in ``notes`` where the shapes are not known."""
    if known.shapes is None or known.student is None:
        notes.append("memory and time are not estimated: the student's shape is not known here")
        return {}
    micro = micro_batches(known.config, known.steps, known.encoded.train.examples, known.ranks)
    with reporter.task("measuring how fast this machine is"):
        speed = measure_throughput(known.config, known.student, typical(micro), known.device)
    return {
        "Memory of one process": _memory(known, known.shapes, micro),
        "Time": _time(known, known.shapes, micro, speed),
    }


def _memory(known: Known, shapes: Shapes, micro: list[list[Any]]) -> Table:
    config, device = known.config, known.device
    dropout = has_dropout(known.student, config.training.dropout_rate)
    most = largest(config, shapes, micro, dropout)
    both = [memory(config, shapes, most, dropout=dropout, recompute=recompute) for recompute in (True, False)]
    chosen = both[0 if config.training.gradient_checkpointing else 1]
    name = "CUDA context" if device.type == "cuda" else "Python, libraries, records"
    here = device_bytes(device)
    if device.type != "cuda":  # the machine's memory is shared by the processes that a launcher starts on it
        here //= int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    available = here - known.process
    fits = ROOM * chosen.peak <= available
    said = f"{here / 2**30:.1f} GiB here ({device}): {'it fits' if fits else 'it does not fit'}"
    if not fits:
        smaller = fitting_batch(config, shapes, most, available, dropout=dropout)
        if smaller is not None:
            said += "; per_device_train_batch_size={} with gradient_accumulation_steps={} would".format(*smaller)
    caption = f"{said}. {_card(chosen)}. An estimate"
    return memory_table(both[0], both[1], (name, known.process), config.training.gradient_checkpointing, caption)


def has_dropout(student: Any, chosen: float | None) -> bool:
    """Is anything dropped in training? ``chosen`` is ``training.dropout_rate``; None leaves the model's own."""
    own = [getattr(student, name, 0.0) for name in ("dropout_rate", "dropout", "attention_dropout")]  # T5, then BART
    return any(own if chosen is None else [chosen])


def _card(chosen: Memory) -> str:
    card = card_for(chosen)
    return "No single GPU that is common has room for it" if card is None else f"A GPU of {card} GB has room for it"


def _time(known: Known, shapes: Shapes, micro: list[list[Any]], speed: Throughput) -> Table:
    config, encoded = known.config, known.encoded
    inputs = [[example.input_ids for example in part.examples] for part in (encoded.dev, encoded.final)]
    captured = None
    if known.to_capture:
        sides = ([e.input_ids for e in known.to_capture], [e.labels for e in known.to_capture])
        captured = Lengths.of(sides[0]), Lengths.of(sides[1])
    work = Work(
        steps=known.steps.steps,
        captured=captured,
        golds=Lengths.of(list(dict.fromkeys(map(tuple, known.golds)))) if known.golds else None,
        dev=Lengths.of(inputs[0]),
        final=Lengths.of(inputs[1]),
        target=Lengths.of([example.labels for example in encoded.train.examples]).mean,
        epochs=max(1, round(known.steps.epoch_after(known.steps.steps - 1))),
        processes=known.ranks,
    )
    elsewhere = {}
    if shapes.student.parameters > LARGE and known.device.type != "cuda":
        elsewhere = {name: Throughput(SHARE_OF_PEAK * peak, 0.0, name) for name, peak in BFLOAT16_PEAK.items()}
    caption = (
        f"at {speed.flops / 1e9:,.1f} GFLOP/s, which one layer of the student reached on {speed.where}, with what "
        "else this machine does now"
    )
    if elsewhere:
        caption += f"; GPUs at {SHARE_OF_PEAK:.0%} of what their data sheets say, which small batches do not reach"
    return time_table(phases(config, shapes, micro, work), speed, elsewhere, f"{caption}. An estimate")
