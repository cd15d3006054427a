"""``distillctl teach``: a model trained with plain cross-entropy that ``train`` takes as its teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from distillctl import cli
from distillctl.core.run_dir import RunDirectory
from tests.tiny import Tiny, rows_of


def test_an_embedded_teacher_is_taught_and_then_teaches(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["student.encoder_layers=2", "student.decoder_layers=1"]
    argv = tiny.argv("teach", tmp_path / "teacher", *shape, "training.max_steps=2", "training.learning_rate=0.001")
    assert cli.run(argv) == 0
    out = capsys.readouterr().out
    assert "training the tokenizer" in out
    assert "student before training" in out
    (first, second) = RunDirectory.open(tmp_path / "teacher").step_metrics()
    assert first["loss_total"] == first["loss_focal"] == first["weighted_focal"]
    assert second["weight_focal"] == 1
    assert "loss_semantic" not in first
    record = json.loads((tmp_path / "teacher/run.json").read_text())
    assert record["status"] == "finished"
    assert "teacher" not in record["fingerprints"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher/student")
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == 3
    more = ["training.max_steps=2", "training.per_device_train_batch_size=4"]
    student = [*tiny.argv("train", tmp_path / "run", *more), "--teacher", str(tmp_path / "teacher/student")]
    assert cli.run(student) == 0
    assert float(rows_of(tmp_path / "run")[0]["grad_norm_jsd"]) > 0


def test_a_pretrained_model_is_taught_on(tiny: Tiny, tmp_path: Path) -> None:
    argv = tiny.argv("teach", tmp_path / "run", "training.max_steps=1", "student.init=pretrained")
    assert cli.run([*argv, "--student", str(tiny.teacher)]) == 0
    assert json.loads((tmp_path / "run/student/config.json").read_text())["d_model"] == 16


def test_bad_input_is_told_as_in_training(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*tiny.argv("teach", tmp_path / "run"), "--data", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert cli.run(tiny.argv("teach", tmp_path / "run", "student.init=teacher-layers")) == 2
    assert "there is no teacher to take layers from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.run(tiny.argv("teach", tiny.teacher)) == 2
    assert "not empty; choose another directory" in capsys.readouterr().err
