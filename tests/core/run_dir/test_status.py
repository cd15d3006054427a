"""Seconds per phase, and the status that run.json ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillctl.core.errors import RunError
from distillctl.core.run_dir import Clock, RunDirectory, RunStatus


def test_seconds_add_up_by_phase_even_on_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.5, 10.0, 12.0])
    monkeypatch.setattr("distillctl.core.run_dir.status.time.perf_counter", lambda: next(ticks))
    clock = Clock()
    with clock.phase("training"):
        pass
    with pytest.raises(RunError), clock.phase("training"):
        raise RunError("NaN")
    assert clock.seconds == {"training": 3.5}


def test_a_run_that_ends_well_is_finished(tmp_path: Path) -> None:
    run, clock = RunDirectory.create(tmp_path), Clock()
    with RunStatus(run, clock), clock.phase("training"):
        pass
    assert run.record()["status"] == "finished"
    assert run.record()["seconds"].keys() == {"training"}


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "stopped by the user"),
        (RunError("Loss term 'jsd' is nan"), "failed", "Loss term 'jsd' is nan"),
        (ZeroDivisionError("oops"), "failed", "ZeroDivisionError: oops"),
    ],
)
def test_what_ended_a_run_is_written_down(tmp_path: Path, error: BaseException, status: str, reason: str) -> None:
    run = RunDirectory.create(tmp_path)
    with pytest.raises(type(error)), RunStatus(run, Clock()):
        raise error
    assert (run.record()["status"], run.record()["reason"]) == (status, reason)
