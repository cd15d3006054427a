"""Memory by part, against what a trainer really keeps; and what fits where."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Any

import pytest
import torch

from distillctl.core.config import Config, load_config
from distillctl.core.models.frozen import store_in_bf16
from distillctl.core.planning.duration import Shapes
from distillctl.core.planning.estimate import Micro, Shape
from distillctl.core.planning.memory import (
    Memory,
    card_for,
    device_bytes,
    fitting_batch,
    group_limits,
    largest,
    memory,
    process_bytes,
)
from distillctl.core.planning.shapes import encoder_shape, sequence_shape
from distillctl.core.profiling.arms import Arm
from distillctl.core.profiling.codet5p import published_config
from distillctl.core.profiling.memory import kept_bytes, step_bytes
from tests.runs import Make

GIB = 2**30


def published() -> Shapes:
    student = sequence_shape(published_config("Salesforce/codet5p-220m"))
    assert student is not None
    teacher = sequence_shape(published_config("Salesforce/codet5p-770m"))
    return Shapes(student, teacher, encoder_shape(published_config("microsoft/codebert-base")))


def of(config: Config, micro: Micro, **changes: Any) -> Memory:
    return memory(config, published(), micro, **{"dropout": True, "recompute": True} | changes)


def test_a_trainer_keeps_and_allocates_what_is_estimated(make: Make) -> None:
    """Of the tiny world, with a live teacher: what is kept to the byte but for optimizers' counters and buffers."""
    trainer = make("run", "training.dropout_rate=0.1")
    shape, config = sequence_shape(trainer.stepper.student.config), trainer.config
    assert shape is not None and trainer.stepper.guides.encoder is not None
    with trainer.run.step_log(trainer.stepper.objective.names, tensorboard=False) as log:
        arm = Arm("arm", trainer.stepper, log)
        trainer.stepper.step(0, log)
        allocated, kept = step_bytes(arm, 1), kept_bytes(arm)
    inputs = trainer.stepper.loader.load(1).micro_batches[0]
    micro = Micro(*inputs.input_ids.shape, inputs.labels.shape[1], len(inputs.places.flat))
    shapes = Shapes(shape, sequence_shape(trainer.stepper.guides.teacher.model.config), Shape(0, 0, shape.encoder))
    found = memory(config, shapes, micro, dropout=True, recompute=False)
    gradients = found.kept["its gradients"]
    assert sum(found.kept.values()) - gradients == pytest.approx(kept, rel=0.02)
    assert 0.6 < (sum(found.passing.values()) + gradients) / allocated < 1.6


@pytest.mark.parametrize("bf16", [False, True])
def test_frozen_models_are_held_as_is_said(make: Make, bf16: bool) -> None:
    trainer = make("run", f"training.bf16={str(bf16).lower()}")
    model = trainer.stepper.guides.teacher.model
    if bf16:
        store_in_bf16(model)
    shape = sequence_shape(model.config)
    assert shape is not None
    shapes = Shapes(shape, shape, None)
    found = memory(trainer.config, shapes, Micro(1, 8, 8, 8), dropout=False, recompute=False)
    held = sum(parameter.nbytes for parameter in model.parameters())
    assert found.kept[f"teacher, {'bfloat16' if bf16 else 'float32'}"] == held


def test_codet5p_by_part() -> None:
    micro = Micro(8, 512, 128, 800)
    found = of(load_config(["codet5p"]), micro)
    assert found.kept["student, float32"] == 4 * 222_882_048
    assert found.kept["state of adamw"] == 8 * 222_882_048
    assert not any("teacher" in name for name in found.kept)  # its cache speaks for it
    live = of(load_config(["codet5p"], ["teacher.mode=live"]), micro).kept["teacher, bfloat16"]
    assert 2 * 737_639_424 < live < 2.2 * 737_639_424
    assert "activations of 8 x (512 + 128) tokens" in found.passing
    assert found.peak == sum([*found.kept.values(), *found.passing.values()])
    assert of(load_config(["codet5p"]), micro, recompute=False).peak > found.peak + 5 * GIB


def test_what_no_term_reads_takes_nothing() -> None:
    off = ["objective.semantic.weight=0", "objective.contrastive.weight=0"]
    micro, config = Micro(1, 512, 128, 128), load_config(["codet5p"], off)
    assert not any("encoder" in name for name in {**of(config, micro).kept, **of(config, micro).passing})
    own = load_config(["codet5p"], ["encoder.model=teacher", "teacher.mode=live"])
    assert of(own, micro).kept["encoder and its table, bfloat16"] == 0


def test_the_largest_micro_batch_decides() -> None:
    steps = [[Micro(8, 100, 20, 100)], [Micro(8, 512, 20, 100), Micro(8, 300, 128, 1024)]]
    recomputing = load_config(["codet5p"])
    keeping = load_config(["codet5p"], ["training.gradient_checkpointing=false"])
    assert largest(keeping, published(), steps, dropout=True).source == 512
    assert largest(recomputing, published(), steps, dropout=True).source == 300  # there the logits weigh more


def test_a_card_has_room_and_the_next_smaller_one_has_not() -> None:
    assert card_for(Memory({}, {"all": 18 * GIB})) == 24
    assert card_for(Memory({}, {"all": 6 * GIB})) == 8
    assert card_for(Memory({}, {"all": 500 * GIB})) is None


def test_the_same_step_in_smaller_parts() -> None:
    config, micro = load_config(["codet5p"], ["training.gradient_checkpointing=false"]), Micro(8, 512, 128, 1024)
    size, count = fitting_batch(config, published(), micro, 14 * GIB, dropout=True) or (0, 0)
    assert 0 < size < 8 and size * count == config.training.step_batch_size
    assert fitting_batch(config, published(), micro, GIB, dropout=True) is None


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/a/b\n", {"a/memory.max": "8000\n", "a/b/memory.max": "max\n", "memory.max": "9000"}, [8000, 9000]),
        ("0::/../elsewhere\n", {"memory.max": "7000\n"}, [7000]),
        ("5:cpu:/a\n4:memory,x:/a\n", {"memory/a/memory.limit_in_bytes": "6000\n", "a/memory.max": "1"}, [6000]),
        ("0::/\n", {}, []),
    ],
)
def test_a_container_or_a_job_has_less_than_the_machine(
    groups: str, files: dict[str, str], limits: list[int], tmp_path: Path
) -> None:
    for name, text in {"../../../proc/self/cgroup": groups, **files}.items():
        path = Path(os.path.normpath(tmp_path / "sys/fs/cgroup" / name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert list(group_limits(tmp_path)) == limits


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(group_limits(tmp_path)) == []


def test_this_machine_has_memory_and_this_process_some_of_it() -> None:
    cpu = torch.device("cpu")
    assert GIB / 20 < process_bytes(cpu) < device_bytes(cpu)
