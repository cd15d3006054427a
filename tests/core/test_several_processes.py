"""Two processes train what one does, one of them writes, and the failure of one ends both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.runs import record, run_config
from tests.tiny import Tiny, distance, rows_of
from tests.together import run_jobs

CLOSE = 1e-5
CACHED = ("teacher.mode=cached", "teacher.top_k=32")
WHOLE = ("training.per_device_train_batch_size=8",)
HALVES = ("training.per_device_train_batch_size=4",)
QUARTERS = ("training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2")


def same_losses(one: Path, other: Path) -> None:
    first, second = rows_of(one), rows_of(other)
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name, text in a.items():
            assert (text == "") == (b[name] == ""), name
            if text and name.startswith(("loss", "scale", "weight", "grad_norm", "auxiliary", "teacher")):
                assert float(b[name]) == pytest.approx(float(text), rel=CLOSE, abs=1e-9), (name, a["step"])
            elif text and not name.startswith("grad_cos"):
                assert float(b[name]) == pytest.approx(float(text), rel=1e-8), name


def same_student(one: Path, other: Path) -> None:
    assert distance(*(load_file(run / "student/model.safetensors") for run in (one, other))) < CLOSE


def test_two_processes_train_the_student_of_one_and_fail_as_one(tiny: Tiny, tmp_path: Path) -> None:
    live = tiny.settings(tmp_path / "live", *QUARTERS, "evaluation.on_epoch_end=true")
    cached = tiny.settings(tmp_path / "cached", *HALVES, *CACHED, f"teacher.cache_dir={tmp_path / 'shared'}")
    jobs: list[dict[str, Any]] = [
        {"settings": live},
        {"settings": cached},
        {"settings": tiny.settings(tmp_path / "failed", *HALVES), "fault": [1, 2, "bad data"]},
    ]
    ends = run_jobs(tmp_path, jobs)
    assert [code for code, _, _ in ends] == [3, 3]
    assert "".join(error for _, _, error in ends) == "error: process 1: a shard of the cache is gone\n"
    assert "".join(output for _, output, _ in ends) == ""

    run_config(tiny.config(tmp_path / "one", *WHOLE, "evaluation.on_epoch_end=true"))
    alone = [*WHOLE, *CACHED, f"teacher.cache_dir={tmp_path / 'own'}"]
    run_config(tiny.config(tmp_path / "one-cached", *alone))
    for one, two in (("one", "live"), ("one-cached", "cached")):
        same_losses(tmp_path / one, tmp_path / two)
        same_student(tmp_path / one, tmp_path / two)
        assert record(tmp_path / one)["training"] == record(tmp_path / two)["training"]
        assert (record(tmp_path / one)["processes"], record(tmp_path / two)["processes"]) == (1, 2)
    assert record(tmp_path / "cached")["teacher_cache"]["examples"] == 48
    failed = record(tmp_path / "failed")
    assert (failed["status"], failed["reason"]) == ("failed", "process 1: a shard of the cache is gone")
    assert len(rows_of(tmp_path / "failed")) == 2
