"""The main job as a library call: resuming, repeating, teaching, and what each part of a configuration does."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillctl import cli
from distillctl.core.config import Config, dump_yaml
from distillctl.core.data.records import read_jsonl
from distillctl.core.distillation import cross_entropy_only, teach
from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.losses.term import LossBatch, StudentOutputs
from distillctl.core.materials import Models, load_models, new_teacher, open_data
from distillctl.core.models.frozen import store_in_bf16
from distillctl.core.models.loading import load_seq2seq, save_model, weights_fingerprint
from distillctl.core.planning.plan import plan
from distillctl.core.progress import SilentReporter
from distillctl.core.training.loop import Trainer, TrainingResult
from distillctl.core.training.stepper import Stepper
from distillctl.core.training.terms import make_objective
from tests.runs import EPOCHS, Notes, StopAt, ctrl_c, kill, record, student_bytes
from tests.runs import run_config as run
from tests.tiny import Tiny, distance, file_bytes, tiny_teacher, weights_of

# --- the same and another ------------------------------------------------------------------------------------


def test_equal_configurations_give_equal_students(tiny: Tiny, tmp_path: Path, uninterrupted: Path) -> None:
    run(tiny.config(tmp_path / "again", *EPOCHS))
    assert student_bytes(tmp_path / "again") == student_bytes(uninterrupted)
    predictions = "evaluation/validation/predictions.jsonl"
    assert (tmp_path / "again" / predictions).read_bytes() == (uninterrupted / predictions).read_bytes()
    run(tiny.config(tmp_path / "other", *EPOCHS, "seed=5"))
    assert student_bytes(tmp_path / "other") != student_bytes(uninterrupted)


def test_what_is_scored_is_as_configured(tiny: Tiny, tmp_path: Path) -> None:
    settings = ["evaluation.split=dev", "evaluation.limit=0", "evaluation.num_beams=2", "evaluation.batch_tokens=64"]
    outcome = run(tiny.config(tmp_path / "run", *settings, "training.max_steps=1"))
    assert (outcome.split, outcome.records_scored) == ("dev", 4)
    metrics = json.loads((tmp_path / "run/evaluation/dev/metrics.json").read_text())
    assert metrics["decoding"] == {"num_beams": 2, "max_new_tokens": 20, "bf16": False}
    assert metrics["beside"].keys() == outcome.scores.keys() - {"student"}
    assert list(outcome.scores) == [
        "most frequent assertion",
        "previous assertion",
        "teacher",
        "student before training",
        "student",
    ]


@pytest.mark.parametrize("scored", [True, False])
def test_dev_is_scored_at_each_epochs_end_where_asked_for(tiny: Tiny, tmp_path: Path, scored: bool) -> None:
    path = tmp_path / "run"
    outcome = run(tiny.config(path, f"evaluation.on_epoch_end={str(scored).lower()}", "training.num_train_epochs=1.5"))
    assert outcome.training is not None
    assert list(outcome.training.dev_f1) == (["6", "9"] if scored else [])
    assert record(path)["truncation"]["dev"]["examples"] == (2 if scored else 0)
    assert (record(path)["training"]["best_step"] is not None) == scored


# --- failures -------------------------------------------------------------------------------------------------


def test_a_failure_is_noted_in_the_record(tiny: Tiny, tmp_path: Path, stop_at: StopAt) -> None:
    stop_at(1, kill)
    with pytest.raises(RunError):
        run(tiny.config(tmp_path / "run"))
    assert (record(tmp_path / "run")["status"], record(tmp_path / "run")["reason"]) == (
        "failed",
        "as if the power had gone",
    )
    assert record(tmp_path / "run")["seconds"]["training"] > 0


def test_device_memory_that_ran_out_is_explained(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Stepper, number: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Stepper, "take", full)
    with pytest.raises(RunError, match=r"out of memory on the device: lower training\.per_device_train_batch_size"):
        run(tiny.config(tmp_path / "run"))


OLDER = {"run.json": "{}", "student/model.safetensors": "precious"}


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("encoder.model=./nowhere", UsageError),
        ("teacher.model=./nowhere", UsageError),
        ("student.model=./nowhere", UsageError),
        ("student.init=./nowhere", UsageError),
        ("student.encoder_layers=7", UsageError),
        ("data.path=./nowhere.jsonl", UsageError),
        ("device=cuda:77", UsageError),
    ],
)
def test_bad_input_leaves_an_older_run_as_it_was(
    tiny: Tiny, tmp_path: Path, setting: str, kind: type[Exception]
) -> None:
    for name, content in OLDER.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = file_bytes(tmp_path)
    with pytest.raises(kind):
        run(tiny.config(tmp_path, setting), overwrite=True)
    assert file_bytes(tmp_path) == before


# --- memory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["live", "cached"])
def test_a_teacher_is_kept_while_somebody_runs_it(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    made: list[weakref.ref[torch.nn.Module]] = []
    alive: list[bool] = []
    original = Trainer.train

    def load(config: Config) -> Models:
        models = load_models(config)
        made.append(weakref.ref(models.teacher))
        return models

    def train(self: Trainer, *given: Any) -> TrainingResult:
        alive.append(made[0]() is not None)
        return original(self, *given)

    monkeypatch.setattr("distillctl.core.distillation.load_models", load)
    monkeypatch.setattr(Trainer, "train", train)
    run(tiny.config(tmp_path / "run", f"teacher.mode={mode}", "teacher.top_k=8", "training.max_steps=1"))
    assert alive == [mode == "live"]


def test_frozen_models_in_bf16_teach_the_same_student(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("training.bf16=true", "training.max_steps=2")
    halved: list[torch.nn.Module] = []
    monkeypatch.setattr(
        "distillctl.core.materials.guides.store_in_bf16", lambda model: (halved.append(model), store_in_bf16(model))
    )
    run(tiny.config(tmp_path / "halved", *settings))
    assert len(halved) == 2  # teacher and encoder
    assert torch.bfloat16 in {weights.dtype for weights in halved[0].parameters()}
    monkeypatch.setattr("distillctl.core.materials.guides.store_in_bf16", lambda model: None)
    run(tiny.config(tmp_path / "whole", *settings))
    assert student_bytes(tmp_path / "halved") == student_bytes(tmp_path / "whole")


# --- models ---------------------------------------------------------------------------------------------------


def padded(tiny: Tiny, path: Path, width: int, seed: int = 3) -> Path:
    save_model(tiny_teacher(tiny.tokenizer, seed=seed, vocab_size=width), tiny.tokenizer, path)
    return path


def test_vocabularies_may_be_padded_differently(tiny: Tiny, tmp_path: Path) -> None:
    student = padded(tiny, tmp_path / "wide", 448)
    config = tiny.config(tmp_path / "run", f"student.model={student}")
    assert config.student.init == "pretrained"
    assert load_models(config).shared_vocabulary == len(tiny.tokenizer)
    outcome = run(config)
    rows = outcome.run.step_metrics()
    assert all(row["grad_norm_jsd"] and row["grad_norm_semantic"] for row in rows[::2])
    teacher = padded(tiny, tmp_path / "wide_teacher", 512)
    both = tiny.config(
        tmp_path / "both", f"student.model={student}", f"teacher.model={teacher}", "training.max_steps=1"
    )
    assert load_models(both).shared_vocabulary == len(tiny.tokenizer)  # padding means nothing, whoever has it
    assert run(both).run.step_metrics()[0]["loss_jsd"]


def other_tokenizer(tiny: Tiny, path: Path) -> Path:
    """The tiny teacher with two tokens exchanged."""
    shutil.copytree(tiny.teacher, path)
    content = json.loads((path / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = (token for token, index in vocabulary.items() if index in (50, 51))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (path / "tokenizer.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("role", ["student.model", "student.init"])
def test_other_token_ids_are_refused_wherever_the_student_comes_from(tiny: Tiny, tmp_path: Path, role: str) -> None:
    other = other_tokenizer(tiny, tmp_path / "other")
    with pytest.raises(DataError, match=r"use different token ids \(2 differ; 50: "):
        load_models(tiny.config(tmp_path / "run", f"{role}={other}"))


def test_ready_weights_and_another_architecture_exclude_each_other(tiny: Tiny, tmp_path: Path) -> None:
    other = padded(tiny, tmp_path / "wide", 448)
    config = tiny.config(tmp_path / "run", f"student.model={tiny.teacher}", f"student.init={other}")
    with pytest.raises(UsageError, match="brings its own architecture and tokenizer"):
        load_models(config)


def test_a_students_weights_can_come_from_a_path(tiny: Tiny, tmp_path: Path, uninterrupted: Path) -> None:
    models = load_models(tiny.config(tmp_path / "run", f"student.init={uninterrupted / 'student'}"))
    assert distance(weights_of(models.student), weights_of(load_seq2seq(str(uninterrupted / "student"), "x"))) == 0
    assert models.tokenizer.get_vocab() == tiny.tokenizer.get_vocab()


@pytest.mark.parametrize("missing", ["decoder_start_token_id", "pad_token_id"])
def test_a_model_that_does_not_say_how_to_begin_is_refused_beforehand(tiny: Tiny, tmp_path: Path, missing: str) -> None:
    teacher = Path(shutil.copytree(tiny.teacher, tmp_path / "teacher"))
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(config | {missing: None}))
    with pytest.raises(DataError, match=f"the teacher's config has no {missing}"):
        run(tiny.config(tmp_path / "run", f"teacher.model={teacher}"))
    assert not (tmp_path / "run").exists()


# --- plan -----------------------------------------------------------------------------------------------------


def test_a_plan_counts_and_writes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    facts = plan(tiny.config(tmp_path / "run", "data.max_train_samples=20"), SilentReporter()).facts
    assert facts["training records"] == "20 of 48"
    assert facts["validation records"] == "3"
    assert facts["optimizer steps"] == "3"
    assert facts["loss terms"] == "focal, jsd, semantic, contrastive"
    assert facts["teacher parameters"] == f"{tiny_teacher(tiny.tokenizer).num_parameters():,}"
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match=r"encoder '\./nowhere': no such directory"):
        plan(tiny.config(tmp_path / "run", "encoder.model=./nowhere"), SilentReporter())


# --- teaching -------------------------------------------------------------------------------------------------


def test_cross_entropy_is_hugging_faces_own_loss(tiny: Tiny, tmp_path: Path) -> None:
    config = cross_entropy_only(tiny.config(tmp_path, "objective.focal.log_only=true", "objective.jsd.log_only=true"))
    objective = make_objective(config.objective, None)
    assert objective.names == ("focal",)
    assert objective.share_limit is None
    labels = torch.tensor([[9, 8, 7, 1], [5, 1, -100, -100]])
    model = tiny_teacher(tiny.tokenizer)
    outputs = model(input_ids=torch.tensor([[4, 5, 1], [6, 1, 0]]), labels=labels)
    batch = LossBatch(labels=labels)
    for separate in (True, False):
        objective.begin_step(objective.counts(batch), 0.5, separate)
        gradient = objective.logit_gradient(StudentOutputs(outputs.logits), batch)
        report = objective.end_step()
        assert report.loss_total == pytest.approx(outputs.loss.item(), rel=1e-6)
        (expected,) = torch.autograd.grad(outputs.loss, outputs.logits, retain_graph=True)
        assert torch.allclose(gradient, expected, atol=1e-8)


def test_teaching_a_named_architecture_lowers_the_loss(tiny: Tiny, tmp_path: Path) -> None:
    settings = [f"student.model={tiny.teacher}", "student.init=random", "training.num_train_epochs=4"]
    outcome = teach(tiny.config(tmp_path / "run", *settings, "teacher.model=./not-needed"), SilentReporter())
    rows = outcome.run.step_metrics()
    first, last = rows[0]["loss_total"], rows[-1]["loss_total"]
    assert first and last and last < 0.8 * first
    assert "loss_jsd" not in rows[0]
    assert rows[0]["teacher_tail_mass"] is None
    assert "teacher" not in outcome.scores and "teacher" not in record(tmp_path / "run")["fingerprints"]
    assert "none (plain cross-entropy)" in (tmp_path / "run/student/README.md").read_text()
    assert load_seq2seq(str(tmp_path / "run/student"), "teacher").config.d_model == 16
    again = tiny.config(tmp_path / "next", f"teacher.model={tmp_path / 'run/student'}", "training.max_steps=1")
    assert run(again).training is not None


def test_the_embedded_teacher_has_a_tokenizer_made_for_its_records(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny.config(tmp_path, "student.init=random", "student.encoder_layers=1", "student.decoder_layers=1")
    data = open_data(config, SilentReporter())
    models = new_teacher(config, data, SilentReporter())
    assert (models.student.config.num_layers, models.student.config.num_decoder_layers) == (1, 1)
    assert models.student.config.d_model == 256
    assert models.student.config.vocab_size == len(models.tokenizer)
    assert models.teacher is None
    with pytest.raises(UsageError, match="cannot generate"):
        new_teacher(tiny.config(tmp_path, "student.init=random", "student.encoder_layers=1"), data, SilentReporter())
    whole = new_teacher(tiny.config(tmp_path, "student.init=random"), data, SilentReporter())
    assert (whole.student.config.num_layers, whole.student.config.num_decoder_layers) == (6, 2)
    # All training records shape it, chosen or not; nothing of what is scored does.
    assert {r.id for r in data.all_train} == {r.id for r in read_jsonl(tiny.corpus).records if r in data.all_train}


def test_a_teacher_has_no_teacher_to_take_layers_from(tiny: Tiny, tmp_path: Path) -> None:
    for settings in (["student.init=teacher-layers"], ["student.init=teacher-layers", f"student.model={tiny.teacher}"]):
        with pytest.raises(UsageError, match="there is no teacher to take layers from; use random"):
            teach(tiny.config(tmp_path / "run", *settings), SilentReporter())
    assert not (tmp_path / "run").exists()


def test_an_interrupted_teaching_says_how_to_go_on_from_its_weights(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"student.model={tiny.teacher}", "student.init=random", "student.decoder_layers=1"]
    stop_at(2, ctrl_c)
    reporter = Notes()
    with pytest.raises(KeyboardInterrupt):
        teach(tiny.config("my run", *settings), reporter)
    last = reporter.lines[-1]
    assert last.startswith("To go on: distillctl teach --config '")
    import shlex

    saved = weights_fingerprint(load_seq2seq("my run/student", "teacher"))
    assert cli.run(shlex.split(last.removeprefix("To go on: "))[1:]) == 0
    assert record(tmp_path / "my run-continued")["fingerprints"]["student_before"] == saved
    assert record(tmp_path / "my run")["status"] == "interrupted"


def test_the_resolved_configuration_comes_back_the_same(tiny: Tiny, tmp_path: Path) -> None:
    from distillctl.core.config import load_config

    for settings in ([], ["student.init=random"], [f"student.model={tiny.teacher}"]):
        config = tiny.config(tmp_path, *settings)
        (tmp_path / "config.yaml").write_text(dump_yaml(config.to_dict()))
        assert load_config([tmp_path / "config.yaml"]).fingerprint() == config.fingerprint()


def test_every_weight_of_the_student_moves(uninterrupted: Path, tiny: Tiny, tmp_path: Path) -> None:
    before = weights_of(load_models(tiny.config(tmp_path / "run", *EPOCHS)).student)
    after = load_file(uninterrupted / "student/model.safetensors")
    assert all(not torch.equal(tensor, before[name]) for name, tensor in after.items())
