"""``distillctl train`` from the command line: what a run leaves, how it stops, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distillctl import cli
from distillctl.core.config import load_config
from distillctl.core.losses import registry
from distillctl.core.losses.term import Group, LossBatch, StudentOutputs, TermSum
from distillctl.core.models.loading import load_seq2seq, save_model
from distillctl.core.planning.throughput import Throughput
from distillctl.core.run_dir import RunDirectory, step_metric_columns
from distillctl.core.training.stepper import Stepper
from tests.contract import (
    assert_every_term_has_a_gradient,
    assert_has_every_file,
    assert_record_says_what_ran,
    assert_student_loads,
)
from tests.tiny import ALL_TERMS, RECORDS, Tiny, file_bytes, rows_of, tiny_teacher

Err = pytest.CaptureFixture[str]


@dataclass
class Shown:
    path: Path
    out: str


@pytest.fixture(scope="module")
def finished(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The issue's command on the tiny world, with everything on."""
    path = tmp_path_factory.mktemp("contract") / "run"
    argv = tiny.argv(
        "train",
        path,
        "logging.tensorboard=true",
        "evaluation.on_epoch_end=true",
        "evaluation.limit=5",
        flags=("--beta", "5", "--contrastive-weight", "0.1"),
    )
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.run(argv) == 0
    return Shown(path, out.getvalue())


# --- what a run leaves ----------------------------------------------------------------------------------------


def test_a_run_leaves_every_file_of_the_contract(finished: Shown) -> None:
    assert_has_every_file(finished.path, last_step=6)
    assert list(finished.path.glob("tensorboard/events*"))


def test_the_student_loads_with_transformers_alone(finished: Shown) -> None:
    model = assert_student_loads(finished.path)
    assert (model.config.num_layers, model.config.num_decoder_layers) == (1, 1)


def test_the_record_says_what_ran_and_on_what(finished: Shown) -> None:
    assert_record_says_what_ran(finished.path)
    record = json.loads((finished.path / "run.json").read_text())
    phases = ("data", "models", "tokenising", "scoring before training", "bank", "training", "scoring")
    assert record["seconds"].keys() == set(phases)
    assert record["seeds"] == {"seed": 13}
    assert record["truncation"]["train"]["examples"] == RECORDS["train"]
    assert record["truncation"]["train"]["inputs_truncated"] > 0
    assert record["training"]["steps"] == record["training"]["planned_steps"] == 6
    assert record["training"]["dev_f1"].keys() == {"6"}
    assert record["encoder"]["width"] == 16
    assert record["bank"]["examples"] == RECORDS["train"]
    assert record["corpus"]["sizes"] == RECORDS
    config = load_config([finished.path / "config.yaml"])
    assert config.fingerprint() == record["fingerprints"]["config"]


def test_every_weighted_term_has_a_gradient_in_every_gradient_step(finished: Shown) -> None:
    assert_every_term_has_a_gradient(finished.path, steps=6, every=2)


def test_beta_and_the_contrastive_weight_are_seen_in_the_log(finished: Shown) -> None:
    rows = RunDirectory.open(finished.path).step_metrics()
    assert rows[0]["scale_semantic"] == 5.0  # from where the balance may move it, by 8 % a step
    assert all(row["scale_semantic"] == pytest.approx(5.0, rel=0.5) for row in rows)
    expected = [0.1 + 0.1 * step / 5 for step in range(6)]
    assert [row["weight_contrastive"] for row in rows] == pytest.approx(expected)


def test_tensorboard_mirrors_every_scalar(finished: Shown) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.path / "tensorboard"))
    events.Reload()
    tags = {tag.partition("/")[2]: tag for tag in events.Tags()["scalars"]}
    assert set(step_metric_columns(ALL_TERMS)) - {"step"} <= tags.keys()
    assert "dev/f1" in events.Tags()["scalars"]
    for row in RunDirectory.open(finished.path).step_metrics():
        (value,) = (e.value for e in events.Scalars(tags["loss_total"]) if e.step == row["step"])
        assert value == pytest.approx(row["loss_total"], rel=1e-6)


def test_predictions_and_scores_are_stored(finished: Shown) -> None:
    lines = (finished.path / "evaluation/validation/predictions.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    metrics = json.loads((finished.path / "evaluation/validation/metrics.json").read_text())
    assert len(rows) == 5
    assert all(row["gold"] for row in rows)
    assert set(metrics["beside"]) == {
        "most frequent assertion",
        "previous assertion",
        "teacher",
        "student before training",
    }
    card = (finished.path / "student/README.md").read_text()
    assert "5 records of the validation split" in card
    for system in (*metrics["beside"], "student"):
        assert f"| {system} | {metrics['beside'].get(system, metrics['scores'])['f1']:.2f} |" in card


def test_the_end_is_told_in_a_table(finished: Shown) -> None:
    lines = [line.replace("│", " ").split() for line in finished.out.splitlines()]
    for system in ("most frequent assertion", "previous assertion", "teacher", "student before training", "student"):
        assert any(
            line[: len(system.split())] == system.split() and len(line) == len(system.split()) + 3 for line in lines
        )
    assert "F1 on dev" in finished.out
    assert "inputs truncated" in finished.out
    for name in ("student", "step_metrics.csv", "evaluation/validation", "run.json"):
        assert str(finished.path / name) in finished.out


def test_what_is_switched_off_is_not_there(tiny: Tiny, tmp_path: Path) -> None:
    assert cli.run(tiny.argv("train", tmp_path / "run", "training.max_steps=1", "objective.jsd.weight=0")) == 0
    assert not (tmp_path / "run/tensorboard").exists()
    (row,) = rows_of(tmp_path / "run")
    assert "loss_jsd" not in row
    assert "loss_semantic" in row


def test_the_plan_writes_nothing(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    assert cli.run(tiny.argv("train", tmp_path / "run", flags=("--dry-run",))) == 0
    out = capsys.readouterr().out
    assert "Plan (nothing was written)" in out
    assert "optimizer steps" in out
    assert "semantic_loss_scale: 5.0" in out
    assert not (tmp_path / "run").exists()


def test_the_plan_of_models_that_are_out_of_reach_says_what_it_can(
    tiny: Tiny, tmp_path: Path, capsys: Err, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    argv = ["train", "--config", "codet5p", "--data", str(tiny.corpus), "--device", "cpu"]
    argv += ["--set", "training.bf16=false", "--output-dir", str(tmp_path / "run")]
    monkeypatch.setattr("distillctl.core.planning.forecast.measure_throughput", lambda *args: Throughput(1e12, 0, "x"))
    assert cli.run([*argv, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for title in ("Plan (nothing was written)", "Tokens", "Models", "Memory of one process", "Time"):
        assert f"\n{title}\n" in out
    for words in ("222,882,048", "737,639,424", "2.42 GB to download", "sources cut", "targets cut", "H100"):
        assert words in out
    flat = " ".join(out.split())
    assert "not looked at: teacher 'Salesforce/codet5p-770m', student 'Salesforce/codet5p-220m', encoder" in flat
    assert "HF_HUB_OFFLINE is set" in flat and "--teacher DIR --student DIR --encoder DIR" in flat
    assert list(tmp_path.iterdir()) == []
    assert cli.run(argv) == 2  # which a training is refused for
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_the_plan_of_unknown_models_is_without_estimates(
    tiny: Tiny, tmp_path: Path, capsys: Err, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = ["student.model=some/student", "student.init=pretrained"]
    assert cli.run(tiny.argv("train", tmp_path / "run", *settings, flags=("--dry-run",))) == 0
    out = capsys.readouterr().out
    assert "optimizer steps" in out and "Tokens" in out
    assert "Memory of one process" not in out
    assert "memory and time are not estimated" in " ".join(out.split())


def test_overwrite_empties_a_run_and_nothing_else(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    argv = tiny.argv("train", tmp_path / "run", "training.max_steps=1")
    assert cli.run(argv) == 0
    (tmp_path / "run/older").touch()
    before = file_bytes(tmp_path / "run")
    capsys.readouterr()
    assert cli.run(argv) == 2
    assert "not empty; --overwrite empties it, train --resume goes on" in capsys.readouterr().err
    assert file_bytes(tmp_path / "run") == before
    assert cli.run([*argv, "--overwrite"]) == 0
    assert not (tmp_path / "run/older").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    assert cli.run([*tiny.argv("train", tmp_path / "other"), "--overwrite"]) == 2
    assert "--overwrite only empties a run directory" in capsys.readouterr().err
    assert (tmp_path / "other/thesis.tex").exists()


# --- silent terms and NaN -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted:
    """Stands in for the semantic term, and computes what it is told to."""

    value: Callable[[StudentOutputs, LossBatch], Tensor]
    name: str = "semantic"
    group: Group = "auxiliary"

    def count(self, batch: LossBatch) -> Tensor:
        return batch.valid.any(dim=1).sum().float()

    def __call__(self, outputs: StudentOutputs, batch: LossBatch) -> TermSum:
        return TermSum(self.value(outputs, batch), self.count(batch))


def decoded_similarity(outputs: StudentOutputs, batch: LossBatch) -> Tensor:
    """The ancestor's way: a number from decoded tokens, wrapped as a fresh tensor."""
    matches = (outputs.logits.argmax(-1) == batch.labels).float().mean().item()
    return torch.tensor(1 - matches, requires_grad=True)


@pytest.mark.parametrize(
    "value",
    [lambda outputs, batch: torch.tensor(0.7), decoded_similarity],
    ids=["constant", "a fresh tensor with requires_grad"],
)
def test_a_planted_silent_term_stops_the_run_before_step_1(
    value: Callable[[StudentOutputs, LossBatch], Tensor],
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Err,
) -> None:
    monkeypatch.setitem(registry.TERMS, "semantic", lambda **settings: Planted(value))
    argv = tiny.argv("train", tmp_path / "run")
    assert cli.run(argv) == 5
    error = capsys.readouterr().err
    assert "Loss term 'semantic' sends no gradient to the student" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run/step_metrics.csv").exists()
    assert not (tmp_path / "run/checkpoints").exists()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["status"] == "failed"
    assert "semantic" in record["reason"]
    # Logged and not trained on, it may be as silent as it likes.
    logged = tiny.argv("train", tmp_path / "logged", "objective.semantic.log_only=true", "training.max_steps=2")
    assert cli.run(logged) == 0
    assert float(rows_of(tmp_path / "logged")[0]["loss_semantic"]) > 0


def test_nan_in_the_student_stops_the_run(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    broken = tiny_teacher(tiny.tokenizer)
    with torch.no_grad():
        broken.decoder.final_layer_norm.weight.fill_(torch.nan)
    save_model(broken, tiny.tokenizer, tmp_path / "broken")
    assert cli.run([*tiny.argv("train", tmp_path / "run"), "--student", str(tmp_path / "broken")]) == 5
    assert "'focal' is nan before step 1" in capsys.readouterr().err
    assert not (tmp_path / "run/checkpoints").exists()


# --- Ctrl-C and going on --------------------------------------------------------------------------------------


def test_ctrl_c_leaves_a_student_and_the_printed_command_goes_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Err
) -> None:
    whole = tiny.argv("train", tmp_path / "whole", "training.num_train_epochs=2", "training.dropout_rate=0.1")
    assert cli.run(whole) == 0
    monkeypatch.chdir(tmp_path)
    stopped = tiny.argv("train", "a run", "training.num_train_epochs=2", "training.dropout_rate=0.1")
    original = Stepper.take

    def step(self: Stepper, number: int) -> dict[str, float | int | None]:
        row = original(self, number)
        if number + 1 == 4:
            signal.raise_signal(signal.SIGINT)
        return row

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", step)
        capsys.readouterr()
        assert cli.run(stopped) == 130
    shown = capsys.readouterr()
    assert shown.err == "error: interrupted\n"
    run = tmp_path / "a run"
    assert f"stopped after step 4. The student so far: {run / 'student'}" in shown.out
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["reason"]) == ("interrupted", "stopped by the user")
    assert load_seq2seq(str(run / "student"), "student").config.d_model == 16
    assert (run / "checkpoints/step-4/trainer.json").is_file()
    assert len(rows_of(run)) == 4
    (line,) = (line for line in shown.out.splitlines() if line.startswith("To go on: "))
    command = shlex.split(line.removeprefix("To go on: "))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command[0] == "distillctl"
    assert cli.run(command[1:]) == 0
    assert "going on after step 4" in capsys.readouterr().out
    for name in ("student/model.safetensors", "evaluation/validation/predictions.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert rows_of(run) == rows_of(tmp_path / "whole")
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


def test_nothing_to_resume_is_a_usage_error(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    assert cli.run([*tiny.argv("train", tmp_path / "run"), "--resume"]) == 2
    assert "no run to resume here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_without_checkpoints_is_not_trained_over(
    finished: Shown, tiny: Tiny, tmp_path: Path, capsys: Err
) -> None:
    run = Path(shutil.copytree(finished.path, tmp_path / "run"))
    argv = ["train", "--config", str(run / "config.yaml"), "--output-dir", str(run), "--resume"]
    assert cli.run([*argv, "--dry-run"]) == 0
    assert "after step" in capsys.readouterr().out
    shutil.rmtree(run / "checkpoints")
    before = file_bytes(run)
    for more in ([], ["--dry-run"]):
        assert cli.run([*argv, *more]) == 3
        assert "finished and its checkpoints are gone" in capsys.readouterr().err
    assert file_bytes(run) == before
    RunDirectory.open(run).note(status="interrupted")
    assert cli.run([*argv, "--dry-run"]) == 0
    assert "at step 1: there is no checkpoint yet" in capsys.readouterr().out


def test_another_configuration_is_not_resumed(finished: Shown, tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    run = Path(shutil.copytree(finished.path, tmp_path / "run"))
    before = file_bytes(run)
    assert (
        cli.run(["train", "--config", str(run / "config.yaml"), "--output-dir", str(run), "--resume", "--beta", "7"])
        == 3
    )
    error = capsys.readouterr().err
    assert "made with another configuration (objective.semantic_loss_scale: " in error
    assert "-> 7.0).\nResume with the run's own config.yaml" in error
    assert file_bytes(run) == before
