"""The loop: its gradient is the objective's, micro-batches change nothing, and every setting does something."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from distillctl.core.errors import RunError
from distillctl.core.losses.step_report import StepReport
from distillctl.core.losses.term import StudentOutputs
from distillctl.core.progress import SilentReporter
from distillctl.core.training.batches import MicroBatch
from distillctl.core.training.checkpoints import latest_checkpoint
from distillctl.core.training.loop import Trainer
from tests.host_reads import HostReads
from tests.runs import Make, Notes, column, ctrl_c, run, train
from tests.tiny import ALL_TERMS, Tiny, distance, rows_of, weights_of

# --- the gradient ---------------------------------------------------------------------------------------------


def gradients_of_step(trainer: Trainer, number: int) -> dict[str, Tensor]:
    """What the optimizer of a step is given, taken just before clipping."""
    taken: dict[str, Tensor] = {}
    update = trainer.stepper._update

    def capture(step: int) -> float:
        taken.update({n: p.grad.clone() for n, p in trainer.stepper.student.named_parameters() if p.grad is not None})
        return update(step)

    trainer.stepper._update = capture  # type: ignore[method-assign,assignment]
    trainer.stepper.take(number)
    return taken


def direct_gradients(trainer: Trainer, number: int) -> dict[str, Tensor]:
    """Plain autograd of the objective written out over the whole step."""
    inputs = trainer.stepper.loader.load(number)
    objective, limit = trainer.stepper.objective, trainer.stepper.objective.share_limit
    progress = number / (trainer.plan.steps - 1)
    counts = {term.name: sum(float(term.count(batch)) for batch in inputs.loss_batches) for term in objective.terms}
    total = torch.zeros(())
    for micro, batch in zip(inputs.micro_batches, inputs.loss_batches, strict=True):
        outputs = trainer.stepper._outputs(trainer.stepper._logits(trainer.stepper.student, micro), micro)
        full = trainer.stepper._with_teacher(batch, micro)
        for term in objective.terms:
            factor = objective.scales[term.name] * objective.schedules[term.name].at(progress) / counts[term.name]
            if limit is not None and term.group == "auxiliary":
                factor *= limit.clip
            total = total + factor * term(outputs, full).sum
    parameters = dict(trainer.stepper.student.named_parameters())
    found = torch.autograd.grad(total, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("split", [(8, 1), (2, 4)])
@pytest.mark.parametrize("number", [2, 3])  # a gradient step and an ordinary one
def test_the_steps_gradient_is_autograds_of_the_total(make: Make, number: int, split: tuple[int, int]) -> None:
    size, accumulated = split
    trainer = make(
        "run",
        f"training.per_device_train_batch_size={size}",
        f"training.gradient_accumulation_steps={accumulated}",
        "training.max_grad_norm=1000",
        "objective.max_auxiliary_share=0.05",
    )
    trainer.stepper.pass_gate()
    assert trainer.stepper.objective.share_limit is not None
    assert trainer.stepper.objective.share_limit.clip < 0.5
    expected = direct_gradients(trainer, number)
    found = gradients_of_step(trainer, number)
    assert distance(expected, found) < 1e-5
    assert all(gradient.norm() > 0 for gradient in found.values())


def test_one_batch_of_eight_is_four_of_two(make: Make) -> None:
    whole = make("whole", "training.per_device_train_batch_size=8")
    split = make("split", "training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=4")
    before = weights_of(whole.stepper.student)
    assert distance(before, weights_of(split.stepper.student)) == 0
    first, second = train(whole), train(split)
    assert distance(before, first) > 0.01
    assert distance(first, second) < 1e-5
    assert whole.stepper.objective.names == ALL_TERMS
    for one, other in zip(whole.run.step_metrics(), split.run.step_metrics(), strict=True):
        for name, value in one.items():
            if name.startswith(("loss", "weight", "grad_norm", "scale", "auxiliary", "target")):
                assert other[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-9)), name


def test_gradient_checkpointing_changes_memory_not_the_result(make: Make) -> None:
    plain = train(make("plain", "training.max_steps=3"))
    trainer = make("saving", "training.max_steps=3", "training.gradient_checkpointing=true")
    assert distance(plain, train(trainer)) < 1e-6
    assert trainer.stepper.student.encoder.gradient_checkpointing


# --- what a step logs -----------------------------------------------------------------------------------------


def test_gradient_steps_measure_every_term_and_other_rows_are_blank(make: Make) -> None:
    trainer = make("run", "logging.gradient_steps=3", "objective.beta=7", "objective.balance=fixed")
    run(trainer)
    for row in trainer.run.step_metrics():
        assert row["step"] is not None
        measured = (row["step"] - 1) % 3 == 0
        for name in ALL_TERMS:
            norm = row[f"grad_norm_{name}"]
            assert (norm is not None and 0 < norm < float("inf")) if measured else norm is None
            loss, scale, weight = row[f"loss_{name}"], row[f"scale_{name}"], row[f"weight_{name}"]
            assert loss is not None and scale is not None and weight is not None
            assert row[f"weighted_{name}"] == pytest.approx(scale * weight * loss, rel=1e-6)
        assert row["scale_semantic"] == 7
        assert (row["grad_cos_focal_jsd"] is not None) == measured
        assert row["loss_total"] == pytest.approx(sum(row[f"weighted_{name}"] or 0 for name in ALL_TERMS), rel=1e-6)
    assert column(trainer, "samples_seen") == [8 * step for step in range(1, 7)]
    assert column(trainer, "epoch")[-1] == 1
    assert column(trainer, "teacher_tail_mass") == [0.0] * 6


def test_a_gradient_steps_row_is_written_whatever_logging_steps_says(make: Make) -> None:
    trainer = make("run", "logging.steps=4", "logging.gradient_steps=3", "training.max_steps=7")
    run(trainer)
    assert column(trainer, "step") == [1, 4, 7]
    trainer = make("other", "logging.steps=3", "logging.gradient_steps=100", "training.max_steps=5")
    run(trainer)
    assert column(trainer, "step") == [1, 3, 5]


def test_weights_follow_their_schedule_from_the_first_step_to_the_last(make: Make) -> None:
    trainer = make("run", "objective.semantic.weight=[0, 1]")
    run(trainer)
    assert column(trainer, "weight_semantic") == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    first = trainer.run.step_metrics()[0]
    assert first["weighted_semantic"] == 0
    assert first["loss_semantic"] is not None and first["loss_semantic"] > 0


@pytest.mark.parametrize("mode", ["live", "cached"])
def test_a_micro_batch_never_waits_for_the_device(make: Make, mode: str) -> None:
    """But inside the models, where transformers looks whether an attention mask masks anything."""
    settings = ["training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2"]
    trainer = make("run", *settings, f"teacher.mode={mode}", *(["teacher.top_k=8"] if mode == "cached" else []))
    begin, end, host = trainer.stepper._begin, trainer.stepper._end_step, HostReads(counting=False)

    def begun(*call: Any, **named: Any) -> int:
        tokens = begin(*call, **named)
        host.counting = True
        return tokens

    def ended(number: int) -> StepReport:
        host.counting = False
        return end(number)

    guides = trainer.stepper.guides
    assert guides.encoder is not None and guides.teacher is not None
    for model in (trainer.stepper.student, guides.encoder.encoder, guides.teacher.model):
        if model is not None:
            _count_within(model, host, False)
    _count_within(trainer.stepper.student.lm_head, host, True)
    trainer.stepper._begin = begun  # type: ignore[method-assign]
    trainer.stepper._end_step = ended  # type: ignore[method-assign]
    for number in (0, 1):  # a gradient step and an ordinary one
        with host:
            trainer.stepper.take(number)
    assert host.found == []


def _count_within(module: torch.nn.Module, host: HostReads, counting: bool) -> None:
    """Whether the module's forward is counted; around it what was so before, since modules nest."""
    before: list[bool] = []

    def enter(*_: Any) -> None:
        before.append(host.counting)
        host.counting = counting

    def leave(*_: Any) -> None:
        host.counting = before.pop()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


# --- frozen, gate, failures -----------------------------------------------------------------------------------


def test_teacher_and_encoder_keep_every_byte(make: Make, tiny: Tiny) -> None:
    trainer = make("run", f"encoder.model={tiny.teacher}", "training.dropout_rate=0.2", "training.weight_decay=0.5")
    guides = trainer.stepper.guides
    assert guides.teacher is not None and guides.encoder is not None and guides.bank is not None
    assert guides.encoder.encoder is not guides.teacher.model.encoder
    before = [
        weights_of(guides.teacher.model),
        weights_of(guides.encoder),
        {"bank": guides.bank.vectors(keys(trainer))},
    ]
    assert run(trainer).steps == 6
    after = [weights_of(guides.teacher.model), weights_of(guides.encoder), {"bank": guides.bank.vectors(keys(trainer))}]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert not guides.teacher.model.training and not guides.encoder.encoder.training
    assert all(p.grad is None for module in (guides.teacher.model, guides.encoder) for p in module.parameters())


def keys(trainer: Trainer) -> list[str]:
    return [example.key for example in trainer.stepper.loader._examples]


def test_the_gate_measures_without_a_trace(make: Make) -> None:
    trainer = make("run", "training.dropout_rate=0.3")
    before, state = weights_of(trainer.stepper.student), torch.get_rng_state()
    norms = trainer.stepper.pass_gate()
    assert list(norms) == list(ALL_TERMS)
    assert all(0 < norm < float("inf") for norm in norms.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert distance(before, weights_of(trainer.stepper.student)) == 0
    assert all(parameter.grad is None for parameter in trainer.stepper.student.parameters())
    assert trainer.stepper.objective.share_limit is not None and trainer.stepper.objective.share_limit.seeded


def test_the_first_steps_auxiliary_gradient_is_limited_too(make: Make) -> None:
    trainer = make("run", "objective.max_auxiliary_share=0.1")
    run(trainer)
    first = trainer.run.step_metrics()[0]
    primary, auxiliary, clip = (first[n] for n in ("grad_norm_primary", "grad_norm_auxiliary", "auxiliary_clip"))
    assert primary and auxiliary and clip
    assert clip * auxiliary == pytest.approx(0.1 * primary, rel=1e-4)


def test_nan_before_the_first_step_stops_at_the_gate(make: Make) -> None:
    trainer = make("run")
    with torch.no_grad():
        trainer.stepper.student.shared.weight[5] = torch.nan
    with pytest.raises(RunError, match="'focal' is nan before step 1"):
        run(trainer)
    assert not trainer.run.step_metrics_file.exists()
    assert trainer.run.checkpoints() == {}


def test_nan_on_the_way_stops_names_the_step_and_updates_nothing(make: Make) -> None:
    trainer = make("run")
    taken: list[dict[str, Tensor]] = []
    outputs = trainer.stepper._outputs

    def poisoned(logits: Tensor, micro: MicroBatch) -> StudentOutputs:
        if trainer.state.step == 3:
            taken.append(weights_of(trainer.stepper.student))
            logits = logits * torch.nan
        return outputs(logits, micro)

    trainer.stepper._outputs = poisoned  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"step 4: .*'focal' is nan.*nothing was updated"):
        run(trainer)
    assert distance(taken[0], weights_of(trainer.stepper.student)) == 0
    assert column(trainer, "step") == [1, 2, 3]


def test_an_infinite_parameter_gradient_updates_nothing(make: Make) -> None:
    trainer = make("run")
    before = weights_of(trainer.stepper.student)
    parameter = trainer.stepper.student.decoder.block[0].layer[0].SelfAttention.q.weight
    parameter.register_hook(lambda gradient: gradient * torch.inf if trainer.stepper.model.training else gradient)
    trainer.stepper.pass_gate = dict  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"step 1: the gradient of the student's parameters is (inf|nan)"):
        run(trainer)
    assert distance(before, weights_of(trainer.stepper.student)) == 0


# --- epochs, checkpoints, interrupts --------------------------------------------------------------------------


def test_epochs_end_with_a_score_and_a_checkpoint_and_the_best_is_kept(make: Make) -> None:
    scores = iter([3.0, 1.0, 2.0, 2.5])
    four = ["data.max_train_samples=16", "training.num_train_epochs=4"]
    settings = [*four, "evaluation.on_epoch_end=true", "checkpoints.save_total_limit=2"]
    trainer = make("run", *settings, score_dev=lambda model: next(scores))
    result = run(trainer)
    assert result.dev_f1 == {"2": 3.0, "4": 1.0, "6": 2.0, "8": 2.5}
    assert list(trainer.run.checkpoints()) == [2, 6, 8]
    assert trainer.state.best_step == 2
    limit = make("limit", *four, "checkpoints.save_total_limit=3")
    assert run(limit).dev_f1 == {}
    assert list(limit.run.checkpoints()) == [4, 6, 8]


@pytest.mark.parametrize("failing", [1, 2])
def test_an_epoch_whose_scoring_fails_is_kept_and_scored_when_the_run_goes_on(make: Make, failing: int) -> None:
    settings = ["data.max_train_samples=16", "training.num_train_epochs=2", "evaluation.on_epoch_end=true"]
    whole = make("whole", *settings, score_dev=lambda model: 1.0)
    run(whole)
    asked: list[int] = []

    def fails(model: Any) -> float:
        asked.append(len(asked) + 1)
        if asked[-1] == failing:
            raise RunError("out of memory")
        return 1.0

    trainer = make("run", *settings, score_dev=fails)
    with pytest.raises(RunError, match="out of memory"):
        run(trainer)
    assert list(trainer.run.checkpoints()) == [2 * epoch for epoch in range(1, failing + 1)]
    again = make("again", *settings, score_dev=lambda model: 1.0)
    result = again.train(SilentReporter(), latest_checkpoint(trainer.run))
    assert result.dev_f1 == {"2": 1.0, "4": 1.0}
    assert distance(weights_of(whole.stepper.student), weights_of(again.stepper.student)) == 0
    assert again.state.best_step == whole.state.best_step


def test_who_stops_while_a_finished_run_is_scored_again_is_heard(make: Make) -> None:
    settings = ["data.max_train_samples=16", "evaluation.on_epoch_end=true"]

    def fails(model: Any) -> float:
        raise RunError("out of memory")

    trainer = make("run", *settings, score_dev=fails)
    with pytest.raises(RunError):
        run(trainer)

    def stopped(model: Any) -> float:
        ctrl_c()
        return 1.0

    again = make("again", *settings, score_dev=stopped)
    result = again.train(SilentReporter(), latest_checkpoint(trainer.run))
    assert (result.steps, result.interrupted, result.dev_f1) == (2, True, {"2": 1.0})


def test_an_epoch_that_can_be_neither_scored_nor_kept_says_why_it_was_not_scored(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: Any) -> float:
        raise RunError("out of memory")

    def full(log: object) -> None:
        raise RunError("disk full")

    trainer = make("run", "data.max_train_samples=16", "evaluation.on_epoch_end=true", score_dev=fails)
    monkeypatch.setattr(trainer, "_save", full)
    with pytest.raises(RunError, match="out of memory"):
        run(trainer)
    assert trainer.run.checkpoints() == {}


def test_scores_on_dev_can_be_off(make: Make) -> None:
    trainer = make("run", "evaluation.on_epoch_end=false", score_dev=lambda model: pytest.fail("scored"))
    assert run(trainer).dev_f1 == {}


def test_a_balanced_run_starts_from_beta_says_when_it_moves_and_keeps_the_others_still(make: Make) -> None:
    trainer, notes = make("run", "objective.balance=band", "objective.semantic_loss_scale=200"), Notes()
    trainer.train(notes)
    scales = column(trainer, "scale_semantic")
    assert scales[0] == 200
    assert all(later is not None and later < 200 for later in scales[1:])
    assert set(column(trainer, "scale_focal")) == set(column(trainer, "scale_contrastive")) == {1.0}
    (said,) = [line for line in notes.lines if "scale_semantic" in line]
    assert said.startswith("step 1: the scaled semantic loss is ")
    assert said.endswith("scale_semantic moves from 200 until they are alike")

    fixed, notes = make("fixed", "objective.balance=fixed", "objective.semantic_loss_scale=200"), Notes()
    fixed.train(notes)
    assert set(column(fixed, "scale_semantic")) == {200.0}
    assert not [line for line in notes.lines if "scale_" in line]


@pytest.mark.parametrize("at", [1, 4, 6])
def test_an_interrupt_finishes_the_step_and_saves_it(make: Make, at: int) -> None:
    trainer = make("run")
    step = trainer.stepper.take

    def interrupted(number: int) -> dict[str, float | int | None]:
        row = step(number)
        if number + 1 == at:
            signal.raise_signal(signal.SIGINT)
        return row

    trainer.stepper.take = interrupted  # type: ignore[method-assign]
    result = run(trainer)
    assert result.interrupted
    assert result.steps == at
    assert column(trainer, "step") == list(range(1, at + 1))
    checkpoint = latest_checkpoint(trainer.run)
    assert checkpoint is not None
    assert checkpoint.state.step == at
    assert distance(weights_of(trainer.stepper.student), weights_of(trainer.stepper.student) | checkpoint.student) == 0


@pytest.mark.parametrize("settings", [[], ["training.optimizer=muon"], ["training.bf16=true"]], ids=str)
def test_a_restored_trainer_goes_on_bit_for_bit(make: Make, settings: list[str]) -> None:
    if "muon" in str(settings) and not hasattr(torch.optim, "Muon"):
        pytest.skip("needs PyTorch 2.9")
    common = ["data.max_train_samples=24", "training.num_train_epochs=2", "training.dropout_rate=0.2", *settings]
    whole = make("whole", *common)
    run(whole)
    first = make("first", *common, "checkpoints.save_total_limit=9")
    run(first)
    first.run.checkpoint(6).rename(first.run.path / "later")
    checkpoint = latest_checkpoint(first.run)
    assert checkpoint is not None
    assert checkpoint.state.step == 3
    second = make("second", *common, "checkpoints.save_total_limit=9")
    torch.manual_seed(123)
    (second.run.step_metrics_file).write_bytes(first.run.step_metrics_file.read_bytes())
    result = second.train(SilentReporter(), checkpoint)
    assert result.gate_norms == {}
    assert distance(weights_of(whole.stepper.student), weights_of(second.stepper.student)) == 0
    assert rows_of(second.run.path) == rows_of(whole.run.path)
