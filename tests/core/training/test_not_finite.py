"""A NaN or an infinity on the way: named with step and samples, its batch kept, never trained on, never forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distillctl.core.errors import NotFiniteError, RunError
from distillctl.core.losses.term import StudentOutputs
from distillctl.core.progress import SilentReporter
from distillctl.core.training.batches import MicroBatch
from distillctl.core.training.checkpoints import latest_checkpoint
from distillctl.core.training.diagnostics import MOST_IN_A_ROW, too_many
from distillctl.core.training.loop import Trainer
from distillctl.core.training.stepper import Stepper
from tests.runs import Make, Notes, column, record, run, run_config, student_bytes
from tests.tiny import Tiny, distance, rows_of, weights_of

SKIP = "training.on_nan=skip"


def poison(trainer: Trainer, *steps: int) -> Trainer:
    """Makes the losses of those steps (from 1) NaN, every time they are computed."""
    outputs = trainer.stepper._outputs

    def poisoned(logits: Tensor, micro: MicroBatch) -> StudentOutputs:
        is_bad = trainer.state.step + 1 in steps and logits.requires_grad
        return outputs(logits * torch.nan if is_bad else logits, micro)

    trainer.stepper._outputs = poisoned  # type: ignore[method-assign]
    return trainer


def test_the_error_names_term_step_and_samples_and_the_batch_is_kept(make: Make) -> None:
    trainer = poison(make("run", "checkpoints.save_steps=2"), 4)
    with pytest.raises(NotFiniteError, match=r"step 4: .*'focal' is nan") as caught:
        run(trainer)
    assert caught.value.exit_code == 5
    first, second = str(caught.value).split("\n")
    about = json.loads((trainer.run.path / "diagnostics/step-4.json").read_text())
    assert about["step"] == 4 and about["found"] == first
    assert second.startswith(f"Samples {', '.join(about['sample_ids'])}; the batch is in diagnostics/step-4.json")
    assert "--resume --on-nan skip" in second
    examples = [trainer.stepper.loader._examples[index] for index in trainer.plan.step(3)]
    assert about["sample_ids"] == [example.id for example in examples]
    assert all(name.startswith("tiny-") for name in about["sample_ids"])
    batch = load_file(trainer.run.path / "diagnostics" / about["batch"])
    for row, example in zip(batch["input_ids"], examples, strict=True):
        assert tuple(row[: len(example.input_ids)].tolist()) == example.input_ids
    assert batch["labels"].shape[0] == batch["attention_mask"].shape[0] == 8
    checkpoint = latest_checkpoint(trainer.run)
    assert checkpoint is not None and checkpoint.state.step == 2


def test_a_long_batch_is_named_in_part(make: Make) -> None:
    trainer = poison(make("run", "training.per_device_train_batch_size=20"), 2)
    with pytest.raises(NotFiniteError, match=r"Samples (tiny-[0-9]+, ){7}tiny-[0-9]+ and 12 more; the batch"):
        run(trainer)


def test_a_nan_before_the_first_step_names_its_samples_too(make: Make) -> None:
    trainer = make("run", SKIP)
    with torch.no_grad():
        trainer.stepper.student.shared.weight[5] = torch.nan
    with pytest.raises(NotFiniteError, match=r"'focal' is nan before step 1.*\nSamples tiny-.*/step-1\.json"):
        run(trainer)


@pytest.mark.parametrize("kind", ["a loss", "a parameter's gradient"])
def test_a_skipped_step_changes_nothing_is_counted_and_told(make: Make, kind: str) -> None:
    trainer, notes = make("run", SKIP), Notes()
    taken: list[dict[str, Tensor]] = []
    if kind == "a loss":
        poison(trainer, 3)
    else:
        weight = trainer.stepper.student.decoder.block[0].layer[0].SelfAttention.q.weight
        weight.register_hook(lambda gradient: gradient * (torch.inf if trainer.state.step == 2 else 1))
    step = trainer.stepper.take

    def watched(number: int) -> dict[str, float | int | None]:
        if number in (2, 3):
            taken.append(weights_of(trainer.stepper.student))
        return step(number)

    trainer.stepper.take = watched  # type: ignore[method-assign]
    assert trainer.train(notes).steps == 6
    assert distance(*taken) == 0
    assert column(trainer, "step") == [1, 2, 4, 5, 6]
    assert trainer.state.skipped == [3]
    assert record(trainer.run.path)["training"]["skipped_steps"] == [3]
    assert [line.partition(":")[0] for line in notes.lines if "skipped" in line] == ["skipped"]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights_of(trainer.stepper.student).values())
    assert (trainer.run.path / "diagnostics/step-3.safetensors").is_file()


def test_without_a_nan_skip_and_stop_are_the_same(make: Make) -> None:
    one, other = make("stop", "training.max_steps=3"), make("skip", "training.max_steps=3", SKIP)
    for trainer in (one, other):
        run(trainer)
    assert distance(weights_of(one.stepper.student), weights_of(other.stepper.student)) == 0
    assert "skipped_steps" not in record(other.run.path).get("training", {})


def test_a_skipped_step_is_remembered_over_a_resume(make: Make) -> None:
    whole = poison(make("whole", SKIP, "checkpoints.save_steps=4"), 3)
    run(whole)
    checkpoint = latest_checkpoint(whole.run)
    assert checkpoint is not None
    resumed = make("resumed", SKIP, "checkpoints.save_steps=4")
    whole.run.checkpoint(6).rename(whole.run.path / "later")
    checkpoint = latest_checkpoint(whole.run)
    assert checkpoint is not None and checkpoint.state.skipped == [3]
    resumed.run.step_metrics_file.write_bytes(whole.run.step_metrics_file.read_bytes())
    resumed.train(SilentReporter(), checkpoint)
    assert record(resumed.run.path)["training"]["skipped_steps"] == [3]
    assert rows_of(resumed.run.path) == rows_of(whole.run.path)
    assert distance(weights_of(resumed.stepper.student), weights_of(whole.stepper.student)) == 0


def test_a_run_that_stopped_goes_on_without_the_bad_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Stepper.take

    def bad(self: Stepper, number: int) -> dict[str, float | int | None]:
        if number == 3:
            raise NotFiniteError("step 4: Loss term 'jsd' is nan")
        return step(self, number)

    monkeypatch.setattr(Stepper, "take", bad)
    settings = ("checkpoints.save_steps=2",)
    with pytest.raises(NotFiniteError):
        run_config(tiny.config(tmp_path / "run", *settings))
    assert record(tmp_path / "run")["status"] == "failed"
    outcome = run_config(tiny.config(tmp_path / "run", *settings, SKIP), resume=True)
    assert outcome.training is not None and outcome.training.steps == 6
    assert record(tmp_path / "run")["training"]["skipped_steps"] == [4]
    assert [row["step"] for row in rows_of(tmp_path / "run")] == ["1", "2", "3", "5", "6"]
    assert student_bytes(tmp_path / "run")


def test_a_student_that_is_nan_for_good_stops_after_all(make: Make) -> None:
    trainer = poison(make("run", SKIP, "training.max_steps=30"), *range(2, 31))
    with pytest.raises(RunError, match=rf"step {MOST_IN_A_ROW + 1}: ") as caught:
        run(trainer)
    assert "lower training.learning_rate" in str(caught.value)
    assert "--on-nan" not in str(caught.value)  # it is on


def test_a_command_that_cannot_resume_is_not_told_to(make: Make) -> None:
    trainer = poison(make("run"), 2)
    trainer.resumes = False
    with pytest.raises(RunError, match=r"A new run with --set training\.on_nan=skip"):
        run(trainer)


def test_ten_in_a_row_are_too_many_and_ten_in_all_are_not() -> None:
    assert too_many(range(5, 15))
    assert not too_many(range(5, 14))
    assert not too_many([1, *range(5, 14)])
    assert not too_many([*range(5, 14), 15])
