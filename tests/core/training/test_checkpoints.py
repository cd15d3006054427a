"""Checkpoints: complete or not there, exact to the bit, and refused when they are not what was written."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from distillctl.core.config import TrainingConfig
from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.run_dir import RunDirectory
from distillctl.core.training import checkpoints
from distillctl.core.training.checkpoints import (
    TrainerState,
    latest_checkpoint,
    load_optimizers,
    load_student,
    optimizer_tensors,
    read_checkpoint,
    save_checkpoint,
)
from distillctl.core.training.optimisation import make_optimizers
from tests.tiny import Tiny, distance, tiny_teacher, weights_of


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run")


def state(step: int, **dev_f1: float) -> TrainerState:
    scores = {name.removeprefix("at_"): value for name, value in dev_f1.items()}
    return TrainerState(step, 10 * step, "data", {"scales": {"focal": 1 / 3}}, scores)


def save(run: RunDirectory, tiny: Tiny, at: TrainerState, keep: int = 9, seed: int = 0) -> Path:
    student = tiny_teacher(tiny.tokenizer, seed=seed)
    moments = optimizer_tensors(stepped(student, "adamw"))
    return save_checkpoint(run, at, student, tiny.tokenizer, moments, {"seed": 1}, keep)


def stepped(model: nn.Module, name: str) -> list[torch.optim.Optimizer]:
    """Optimizers with a state: two steps on made-up gradients."""
    optimizers = make_optimizers(model, TrainingConfig(optimizer=name, weight_decay=0.1))  # type: ignore[arg-type]
    for seed in (1, 2):
        move(model, optimizers, seed)
    return optimizers


def move(model: nn.Module, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    for optimizer in optimizers:
        optimizer.step()


def test_everything_comes_back_to_the_last_bit(run: RunDirectory, tiny: Tiny) -> None:
    torch.manual_seed(11)
    random = torch.get_rng_state()
    student = tiny_teacher(tiny.tokenizer)
    optimizers = stepped(student, "adamw")
    torch.set_rng_state(random)
    written = state(7, at_7=1 / 3)
    path = save_checkpoint(run, written, student, tiny.tokenizer, optimizer_tensors(optimizers), {"seed": 1}, 2)
    assert path == run.path / "checkpoints/step-7"
    found = latest_checkpoint(run)
    assert found is not None
    assert found.state == written
    assert found.config == {"seed": 1}
    assert torch.equal(found.random.tensors["torch"], random)
    fresh = tiny_teacher(tiny.tokenizer, seed=3)
    load_student(fresh, found)
    assert distance(weights_of(student), weights_of(fresh)) == 0
    assert fresh.lm_head.weight.data_ptr() == fresh.shared.weight.data_ptr()
    saved = optimizer_tensors(optimizers)
    assert saved.keys() == found.optimizers.keys()
    assert all(torch.equal(saved[name], found.optimizers[name]) for name in saved)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers_go_on_as_if_nothing_had_happened(run: RunDirectory, tiny: Tiny, name: str) -> None:
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs PyTorch 2.9")
    student = tiny_teacher(tiny.tokenizer)
    optimizers = stepped(student, name)
    save_checkpoint(run, state(2), student, tiny.tokenizer, optimizer_tensors(optimizers), {}, 2)
    found = latest_checkpoint(run)
    assert found is not None
    fresh = tiny_teacher(tiny.tokenizer, seed=3)
    others = make_optimizers(fresh, TrainingConfig(optimizer=name, weight_decay=0.1))  # type: ignore[arg-type]
    load_student(fresh, found)
    load_optimizers(others, found.optimizers)
    move(student, optimizers, 5)
    move(fresh, others, 5)
    assert distance(weights_of(student), weights_of(fresh)) == 0


def test_a_checkpoint_is_safetensors_and_json_and_loads_as_a_model(run: RunDirectory, tiny: Tiny) -> None:
    path = save(run, tiny, state(1))
    assert {file.suffix for file in path.iterdir()} <= {".json", ".safetensors"}
    assert json.loads((path / "run_config.json").read_text()) == {"seed": 1}
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    assert AutoModelForSeq2SeqLM.from_pretrained(path).config.d_model == 16
    assert len(AutoTokenizer.from_pretrained(path)) == len(tiny.tokenizer)


def test_the_last_and_the_best_are_kept(run: RunDirectory, tiny: Tiny) -> None:
    scores: dict[str, float] = {}
    for step, f1 in ((1, 1.0), (2, 5.0), (3, 2.0), (4, 5.0), (5, 3.0)):
        scores[f"at_{step}"] = f1
        save(run, tiny, state(step, **scores), keep=2)
    assert list(run.checkpoints()) == [2, 4, 5]
    assert state(5, **scores).best_step == 2  # the earliest of equals
    assert state(5).best_step is None


def test_saving_a_step_again_replaces_it_and_leftovers_go(run: RunDirectory, tiny: Tiny) -> None:
    save(run, tiny, state(4))
    leftover = run.folder("checkpoints", ".step-3.tmp")
    (leftover / "model.safetensors").touch()
    (run.folder("checkpoints", ".step-4.tmp") / "old").touch()
    path = save(run, tiny, state(4), seed=8)
    assert [entry.name for entry in (run.path / "checkpoints").iterdir()] == ["step-4"]
    assert not (path / "old").exists()
    expected = weights_of(stepped_teacher(tiny, 8))
    assert distance(expected, expected | read_checkpoint(path).student) == 0


def stepped_teacher(tiny: Tiny, seed: int) -> nn.Module:
    student = tiny_teacher(tiny.tokenizer, seed=seed)
    stepped(student, "adamw")
    return student


def test_an_unfinished_checkpoint_is_passed_over(run: RunDirectory, tiny: Tiny) -> None:
    assert latest_checkpoint(run) is None
    save(run, tiny, state(2))
    path = save(run, tiny, state(4))
    (path / "manifest.json").unlink()
    found = latest_checkpoint(run)
    assert found is not None
    assert found.state.step == 2


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "random.safetensors"])
@pytest.mark.parametrize("damage", [flip_a_byte, lambda p: p.write_bytes(p.read_bytes()[:50]), lambda p: p.unlink()])
def test_damage_is_found_and_the_way_out_told(run: RunDirectory, tiny: Tiny, name: str, damage: Any) -> None:
    path = save(run, tiny, state(2))
    damage(path / name)
    with pytest.raises(DataError, match=rf"step-2: damaged checkpoint \({name}.*--resume begins anew"):
        latest_checkpoint(run)
    shutil.move(save(run, tiny, state(3)), path.with_name("step-1"))
    with pytest.raises(DataError, match=r"step-2: damaged .*Delete that directory, and --resume goes on from step-1"):
        latest_checkpoint(run)


@pytest.mark.parametrize("name", ["manifest.json", "trainer.json", "optimizer.safetensors"])
def test_what_cannot_be_read_is_not_called_damaged(
    run: RunDirectory, tiny: Tiny, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody should delete a whole checkpoint because a disk is away."""
    save(run, tiny, state(2))
    opened = io.open

    def refused(file: Any, *arguments: Any, **options: Any) -> Any:
        if Path(file).name == name:
            raise PermissionError(13, "Permission denied")
        return opened(file, *arguments, **options)

    monkeypatch.setattr("io.open", refused)
    with pytest.raises(UsageError, match=r"step-2: cannot be read: Permission denied$"):
        latest_checkpoint(run)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"step": 1, "odd": 2}'])
def test_a_damaged_state_is_found(run: RunDirectory, tiny: Tiny, text: str) -> None:
    path = save(run, tiny, state(2))
    (path / "trainer.json").write_text(text)
    with pytest.raises(DataError, match="damaged checkpoint"):
        latest_checkpoint(run)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("No space left")], ids=repr)
def test_a_full_disk_leaves_the_checkpoints_there_were(
    run: RunDirectory, tiny: Tiny, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(run, tiny, state(2))
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    def full(*call: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoints, "save_file", full)
    for step in (2, 3):
        with pytest.raises(RunError, match=r"the checkpoint cannot be written: .*No space left.*--resume"):
            save(run, tiny, state(step))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert list(run.checkpoints()) == [2]


@pytest.mark.parametrize("change", ["less", "more"])
def test_weights_of_another_student_are_refused(run: RunDirectory, tiny: Tiny, change: str) -> None:
    path = save(run, tiny, state(2))
    found = read_checkpoint(path)
    tensors = dict(found.student)
    if change == "less":
        del tensors["decoder.block.1.layer.0.SelfAttention.q.weight"]
    else:
        tensors["odd.weight"] = torch.zeros(1)
    other = replace(found, student=tensors)
    with pytest.raises(DataError, match=r"are not this student's \((decoder\.block\.1|odd)"):
        load_student(tiny_teacher(tiny.tokenizer), other)


def test_a_checkpoint_can_be_moved(run: RunDirectory, tiny: Tiny, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(save(run, tiny, state(2)), moved)
    assert read_checkpoint(moved).state.step == 2
