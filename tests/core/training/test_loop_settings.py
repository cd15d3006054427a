"""Every setting of a training does something: no switch is stored and never read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distillctl.core.training.checkpoints import latest_checkpoint
from distillctl.core.training.loop import Trainer
from tests.runs import Make, column, run, train
from tests.tiny import Tiny, distance, make_trainer, weights_of


def test_a_log_only_term_is_logged_and_trains_nothing(make: Make) -> None:
    """The Trident objective as the ancestor ran it: its semantic loss was printed and reached nobody."""
    without = make("without", "objective.semantic.weight=0", "objective.contrastive.weight=0")
    logged = make("logged", "objective.semantic.log_only=true", "objective.contrastive.weight=0")
    assert distance(train(without), train(logged)) == 0
    for row, plain in zip(logged.run.step_metrics(), without.run.step_metrics(), strict=True):
        assert row["loss_semantic"] is not None and row["loss_semantic"] > 0
        assert row["loss_total"] == plain["loss_total"]
        assert row["grad_norm_auxiliary"] == 0
    trained = make("trained", "objective.contrastive.weight=0")
    assert distance(weights_of(logged.stepper.student), train(trained)) > 1e-4


CHANGES = [
    "training.learning_rate=0.02",
    "training.weight_decay=0.9",
    "training.adam_beta1=0.5",
    "training.adam_beta2=0.5",
    "training.adam_epsilon=0.01",
    "training.warmup_ratio=0.9",
    "training.lr_scheduler_type=constant",
    "training.lr_scheduler_type=cosine",
    "training.max_grad_norm=0.0001",
    "training.optimizer=muon",
    "training.dropout_rate=0.5",
    "training.bf16=true",
    "objective.critical_tokens.weight=1",
    "objective.critical_tokens.warmup_epochs=0",
    "objective.critical_tokens.extra=[stack]",
    "objective.max_auxiliary_share=null",
    "objective.balance=fixed",
    "objective.jsd.temperature=3",
    "objective.jsd.gating=false",
    "objective.jsd.mixture=0.2",
    "objective.focal.gamma=0",
    "objective.contrastive.direction=triplet",
    "student.encoder_layers=2",
    "student.init=random",
    "student.init=induction",
    "data.max_source_length=40",
    "data.max_train_samples=9",
    "seed=99",
]
# focal as heavy as in the baseline: what changes it should be seen within three steps
STEPS = ("training.max_steps=3", "training.warmup_ratio=0", "objective.focal.weight=0.3")


@pytest.fixture(scope="module")
def reference(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    config = tiny.config(tmp_path_factory.mktemp("reference") / "run", *STEPS)
    return train(make_trainer(config))


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_changes_the_student(make: Make, change: str, reference: dict[str, Tensor]) -> None:
    if "muon" in change and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs PyTorch 2.9")
    student = train(make("run", *STEPS, change))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in student.values())
    assert student.keys() != reference.keys() or distance(reference, student) > 1e-5


def test_the_same_settings_give_the_same_student(make: Make, reference: dict[str, Tensor]) -> None:
    assert distance(reference, train(make("run", *STEPS))) == 0


@pytest.mark.parametrize(
    ("settings", "steps", "epoch"),
    [
        (["training.num_train_epochs=0.5"], 3, 0.5),
        (["training.num_train_epochs=1.1"], 7, 7 / 6),
        (["training.max_steps=2", "training.num_train_epochs=9"], 2, 1 / 3),
        (["data.max_train_samples=10"], 2, 1.6),
    ],
)
def test_how_long_a_run_is(make: Make, settings: list[str], steps: int, epoch: float) -> None:
    trainer = make("run", "logging.gradient_steps=1", *settings)
    assert run(trainer).steps == steps
    assert column(trainer, "step") == list(range(1, steps + 1))
    assert column(trainer, "epoch")[-1] == pytest.approx(epoch)


def head_inputs(trainer: Trainer) -> list[torch.dtype]:
    """Remembers the precision of what the student's last decoder layer gives, by training step."""
    seen: list[torch.dtype] = []

    def look(module: Any, inputs: Any, output: Any) -> None:
        if module.training:
            seen.append(output.dtype)

    trainer.stepper.student.decoder.block[-1].layer[-1].DenseReluDense.wo.register_forward_hook(look)
    return seen


@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_lasts_beyond_an_epochs_end_and_a_resume(make: Make, bf16: bool, tiny: Tiny, tmp_path: Path) -> None:
    wanted = torch.bfloat16 if bf16 else torch.float32
    settings = [f"training.bf16={str(bf16).lower()}", "training.num_train_epochs=2", "data.max_train_samples=24"]
    trainer = make("run", *settings, "evaluation.on_epoch_end=true", score_dev=lambda model: 1.0)
    seen = head_inputs(trainer)
    logits = []
    trainer.stepper.student.lm_head.register_forward_hook(lambda *call: logits.append(call[2].dtype))
    run(trainer)
    assert set(seen) == {wanted}
    assert len(seen) >= 6
    assert set(logits) == {torch.float32}
    again = make("again", *settings, "evaluation.on_epoch_end=true")
    checkpoint = latest_checkpoint(trainer.run)
    assert checkpoint is not None
    again._restore(checkpoint)
    seen = head_inputs(again)
    again.stepper.take(3)
    assert set(seen) == {wanted}


def test_runs_of_other_seeds_can_train_on_the_same_records(make: Make) -> None:
    few = "data.max_train_samples=9"
    fingerprints = {
        name: make(name, few, *settings).data_fingerprint
        for name, settings in {
            "a": ["seed=1"],
            "b": ["seed=2"],
            "c": ["seed=1", "data.sample_seed=2"],
            "d": ["seed=2", "data.sample_seed=1"],
        }.items()
    }
    assert fingerprints["a"] == fingerprints["d"] != fingerprints["b"] == fingerprints["c"]
