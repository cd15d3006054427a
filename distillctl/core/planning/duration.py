"""The phases of a run, what each computes, and how long that takes at a given throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillctl.core.config.schema import Config
from distillctl.core.planning.estimate import (
    Micro,
    Shape,
    encoder_flops,
    forward_flops,
    guiding_flops,
    training_flops,
)
from distillctl.core.planning.lengths import Lengths
from distillctl.core.planning.throughput import Throughput
from distillctl.core.training.terms import ENCODER_TERMS, TEACHER_TERMS

TRAINING, CAPTURE, BANK, SCORING = "training", "teacher cache", "embedding bank", "scoring"
RANGES = {TRAINING: (0.7, 1.4), CAPTURE: (0.6, 1.8), BANK: (0.5, 2.0), SCORING: (0.5, 4.0)}
"""What a phase may take, as multiples of its estimate: decoding token by token is far from a training's throughput."""


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        kind: a key of :data:`RANGES`.
        what: how often, of what.
        flops: floating-point operations, all together.
        update_parameters: parameters that are updated, all together.
    """

    kind: str
    what: str
    flops: float
    update_parameters: float = 0.0

    def seconds(self, speed: Throughput) -> float:
        """At a throughput that was measured on the training; the middle of :meth:`span`."""
        return self.flops / speed.flops + self.update_parameters * speed.update_seconds

    def span(self, speed: Throughput) -> tuple[float, float]:
        """From (seconds) to (seconds)."""
        low, high = RANGES[self.kind]
        return low * self.seconds(speed), high * self.seconds(speed)


@dataclass(frozen=True)
class Shapes:
    """Shapes of a run's models; None where a run has none, or nobody knows it here."""

    student: Shape
    teacher: Shape | None = None
    encoder: Shape | None = None


@dataclass(frozen=True)
class Work:
    """What there is to do, besides the steps.

    Attributes:
        steps: optimizer steps.
        captured: source and target lengths of what the teacher has to be run on first; None is nothing.
        golds: target lengths of what the encoder has to read first.
        dev, final: source lengths of what is decoded at each epoch's end, and at the end.
        target: tokens of a mean target.
        epochs: that end.
        processes: that train, and that share capture and bank.
    """

    steps: int
    captured: tuple[Lengths, Lengths] | None
    golds: Lengths | None
    dev: Lengths
    final: Lengths
    target: float
    epochs: int
    processes: int = 1


def phases(config: Config, shapes: Shapes, looked_at: Sequence[Sequence[Micro]], work: Work) -> list[Phase]:
    """The phases in their order.

    Args:
        config: resolved.
        shapes: of the models.
        looked_at: micro-batches of the steps that the mean step is taken from.
        work: the rest.
    """
    found = []
    if work.captured is not None and shapes.teacher is not None:
        source, target = work.captured
        micro = Micro(source.count, round(source.mean), max(1, round(target.mean)), target.total)
        run = forward_flops(shapes.teacher, micro)
        found.append(Phase(CAPTURE, f"{source.count:,} examples", run / work.processes))
    if work.golds is not None and shapes.encoder is not None:
        read = sum(encoder_flops(shapes.encoder.encoder, max(1, round(work.golds.mean))))
        found.append(Phase(BANK, f"{work.golds.count:,} golds", work.golds.count * read / work.processes))
    step = sum(step_flops(config, shapes, step) for step in looked_at) / len(looked_at)
    updated = shapes.student.hidden if config.training.optimizer == "muon" else shapes.student.parameters
    found.append(Phase(TRAINING, f"{work.steps:,} steps", work.steps * step, float(work.steps * updated)))
    scored = [(shapes.student, work.dev)] * work.epochs + [(shapes.student, work.final)] * 2
    if shapes.teacher is not None:
        scored.append((shapes.teacher, work.final))
    beams = config.evaluation.num_beams
    decoded = sum(_decoding_flops(shape, lengths, work.target, beams) for shape, lengths in scored)
    count = sum(lengths.count for _, lengths in scored)
    found.append(Phase(SCORING, f"{count:,} texts", decoded))
    return found


def step_flops(config: Config, shapes: Shapes, step: Sequence[Micro]) -> float:
    """One optimizer step of one process: the student, a live teacher, the encoder; the measured steps' share in it."""
    objective = config.objective
    active, training = set(objective.active_terms), config.training
    total = 0.0
    for micro in step:
        total += training_flops(shapes.student, micro, training.gradient_checkpointing)
        if config.teacher.mode == "live" and active & TEACHER_TERMS and shapes.teacher is not None:
            total += forward_flops(shapes.teacher, micro)
        if shapes.encoder is not None and active & ENCODER_TERMS:
            more = (len(active & ENCODER_TERMS) - 1) / config.logging.gradient_steps
            total += guiding_flops(shapes.encoder, shapes.student.vocabulary, micro, 1 + more)
    return total


def _decoding_flops(shape: Shape, sources: Lengths, target: float, beams: int) -> float:
    """Decoding texts of a mean length: each token of a beam once through the decoder, as teacher forcing does."""
    if not sources.count:
        return 0.0
    tokens, source = max(1, round(target)), round(sources.mean)
    once = forward_flops(shape, Micro(sources.count, source, tokens, sources.count * tokens))
    reading = sources.count * sum(encoder_flops(shape.encoder, source))
    return float(reading + beams * (once - reading))
