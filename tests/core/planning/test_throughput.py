"""The probe: one layer of the student, through the trainer's own code."""

from __future__ import annotations

import time

import pytest
import torch

from distillctl.core.config import load_config
from distillctl.core.planning import throughput
from distillctl.core.planning.estimate import Micro
from distillctl.core.planning.throughput import MOST_RUNS, measure_throughput
from distillctl.core.training.accelerator import resolve_precision
from tests.core.planning.models import t5

CPU = torch.device("cpu")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_something_is_measured_and_said_where(optimizer: str) -> None:
    if optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    settings = [f"training.optimizer={optimizer}", "training.bf16=true", "training.gradient_checkpointing=true"]
    config = resolve_precision(load_config(settings=settings))
    found = measure_throughput(config, t5(dropout=0.1), Micro(2, 30, 8, 12), CPU)
    assert 1e6 < found.flops < 1e15
    assert 0 < found.update_seconds < 1e-3
    assert found.where.startswith("cpu, ") and found.where.endswith("bfloat16")


def test_the_median_of_some_runs_counts_and_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    lasts = iter([9.0, 1.0, 3.0, 2.0])

    def work() -> None:
        now[0] += next(lasts)

    monkeypatch.setattr(throughput, "ENOUGH_SECONDS", 14.5)
    assert throughput._seconds(work, CPU) == 2.0
    calls: list[None] = []
    assert throughput._seconds(lambda: calls.append(None), CPU) == 0
    assert len(calls) == 1 + MOST_RUNS
