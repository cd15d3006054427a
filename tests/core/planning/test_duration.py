"""Phases of a run: what each computes, added up by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distillctl.core.config import load_config
from distillctl.core.planning.duration import (
    BANK,
    CAPTURE,
    RANGES,
    SCORING,
    TRAINING,
    Phase,
    Shapes,
    Work,
    phases,
    step_flops,
)
from distillctl.core.planning.estimate import (
    Micro,
    Shape,
    Stack,
    encoder_flops,
    forward_flops,
    guiding_flops,
    training_flops,
)
from distillctl.core.planning.lengths import Lengths
from distillctl.core.planning.throughput import Throughput

STACK = Stack(layers=2, width=8, heads=2, inner=8, feed_forward=16)
STUDENT, TEACHER = Shape(1000, 50, STACK, STACK), Shape(4000, 50, STACK, STACK)
ENCODER = Shape(500, 0, STACK)
MICRO = Micro(2, 10, 4, 7)
WORK = Work(
    steps=5,
    captured=(Lengths(60, 20, 6), Lengths(24, 8, 6)),
    golds=Lengths(20, 8, 5),
    dev=Lengths(30, 10, 3),
    final=Lengths(40, 10, 4),
    target=4.0,
    epochs=2,
)
CONFIG = load_config(settings=["logging.gradient_steps=10"])


def by_kind(found: list[Phase]) -> dict[str, Phase]:
    return {phase.kind: phase for phase in found}


def test_every_phase_is_its_own_sum() -> None:
    found = by_kind(phases(CONFIG, Shapes(STUDENT, TEACHER, ENCODER), [[MICRO, MICRO]], WORK))
    assert list(found) == [CAPTURE, BANK, TRAINING, SCORING]
    assert found[CAPTURE].flops == forward_flops(TEACHER, Micro(6, 10, 4, 24))
    assert found[BANK].flops == 5 * sum(encoder_flops(STACK, 4))
    # Two terms read through the encoder: every tenth step has a backward pass for each.
    step = 2 * (training_flops(STUDENT, MICRO, False) + guiding_flops(ENCODER, 50, MICRO, 1.1))
    assert found[TRAINING].flops == pytest.approx(5 * step)
    assert found[TRAINING].update_parameters == 5 * 1000
    dev, final = forward_flops(STUDENT, Micro(3, 10, 4, 12)), forward_flops(STUDENT, Micro(4, 10, 4, 16))
    assert found[SCORING].flops == 2 * dev + 2 * final + forward_flops(TEACHER, Micro(4, 10, 4, 16))
    assert found[SCORING].what == "18 texts"


def test_processes_share_capture_and_bank() -> None:
    shapes = Shapes(STUDENT, TEACHER, ENCODER)
    one, four = (by_kind(phases(CONFIG, shapes, [[MICRO]], replace(WORK, processes=n))) for n in (1, 4))
    for kind, share in ((CAPTURE, 4), (BANK, 4), (TRAINING, 1), (SCORING, 1)):
        assert one[kind].flops == share * four[kind].flops


def test_each_beam_is_decoded_and_the_source_read_once() -> None:
    beams = load_config(settings=["evaluation.num_beams=3"])
    greedy, searched = (phases(config, Shapes(STUDENT), [[MICRO]], WORK)[-1].flops for config in (CONFIG, beams))
    texts = 2 * WORK.dev.count + 2 * WORK.final.count
    reading = texts * sum(encoder_flops(STACK, 10))
    assert searched == pytest.approx(reading + 3 * (greedy - reading))


def test_what_is_there_already_is_no_phase() -> None:
    nothing = Work(5, None, None, Lengths(0, 0, 0), WORK.final, 4.0, 1)
    found = by_kind(phases(CONFIG, Shapes(STUDENT, None, None), [[MICRO]], nothing))
    assert list(found) == [TRAINING, SCORING]
    assert found[TRAINING].flops == 5 * training_flops(STUDENT, MICRO, False)
    assert found[SCORING].flops == 2 * forward_flops(STUDENT, Micro(4, 10, 4, 16))


def test_a_live_teacher_checkpointing_and_muon_are_seen() -> None:
    settings = ["teacher.mode=live", "training.gradient_checkpointing=true", "training.optimizer=muon"]
    off = ["objective.semantic.weight=0", "objective.contrastive.weight=0"]
    live, shapes = load_config(settings=[*settings, *off]), Shapes(STUDENT, TEACHER, ENCODER)
    expected = training_flops(STUDENT, MICRO, True) + forward_flops(TEACHER, MICRO)
    assert step_flops(live, shapes, [MICRO]) == expected
    found = by_kind(phases(live, shapes, [[MICRO]], WORK))
    assert found[TRAINING].update_parameters == 5 * STUDENT.hidden


def test_seconds_are_operations_and_updates() -> None:
    phase = Phase(TRAINING, "", flops=100.0, update_parameters=10.0)
    speed = Throughput(flops=50.0, update_seconds=0.2, where="here")
    assert phase.seconds(speed) == 2 + 2
    low, high = RANGES[TRAINING]
    assert phase.span(speed) == (4 * low, 4 * high)
    assert all(low < 1 < high for low, high in RANGES.values())
