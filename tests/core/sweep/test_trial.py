"""A trial whose worker died: what it left is gone on with, or given up, and never stands in the way for good."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.config import Config, load_config
from distillctl.core.errors import DataError, InUseError
from distillctl.core.progress import SilentReporter
from distillctl.core.run_dir.lock import LOCK, locked
from distillctl.core.sweep import trial as trials
from distillctl.core.sweep.plan import plan_sweep
from distillctl.core.sweep.trial import TrainedTrial, check_models
from tests.core.sweep.sweeps import planned


class Reached(Exception):
    """Training began."""


def begun(folder: Path, distil: Any, monkeypatch: pytest.MonkeyPatch, status: str = "running") -> tuple[Any, Path]:
    """The first trial of a sweep, in which a worker died; and its directory."""
    trial = planned(folder).trials[0]
    directory = Path(trial.config.output_dir)
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps({"status": status}), encoding="utf-8")
    monkeypatch.setattr(trials, "distil", distil)
    return trial, directory


def attempt(trial: Any) -> None:
    corpus: Any = None  # the training is replaced
    TrainedTrial(corpus)(trial, SilentReporter())


def test_a_lock_that_a_dead_worker_of_another_machine_left_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distil(config: Any, reporter: Any, *, resume: bool, corpus: Any) -> Any:
        with locked(Path(config.output_dir)):
            raise Reached(resume)

    trial, directory = begun(tmp_path, distil, monkeypatch)
    (directory / LOCK).write_text(json.dumps({"pid": 7, "host": "elsewhere"}), encoding="utf-8")
    with pytest.raises(Reached, match="True"):
        attempt(trial)


def test_a_lock_that_is_held_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, directory = begun(tmp_path, None, monkeypatch, status="failed")
    with locked(directory), pytest.raises(InUseError, match="in use by process"):
        attempt(trial)
    assert (directory / "run.json").exists()


@pytest.mark.parametrize(
    ("grid", "times"), [("training.learning_rate=1e-3,1e-4", 0), ("objective.semantic.weight=0,0.1,0.2", 1)]
)
def test_an_encoder_is_loaded_where_a_trial_reads_it(
    grid: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(trials, "load_models", lambda config: None)
    monkeypatch.setattr(trials, "load_encoder", lambda name, revision: loaded.append(name))
    settings = ["encoder.model=some/encoder", "objective.contrastive.weight=0", "objective.semantic.weight=0"]

    def chosen(values: Mapping[str, Mapping[str, Any]]) -> Config:
        return load_config(settings=settings, flags=values)

    check_models(plan_sweep(chosen, [grid], seeds=1, output=tmp_path))
    assert loaded == times * ["some/encoder"]


@pytest.mark.parametrize("checkpoints", [True, False])
def test_what_cannot_be_gone_on_with_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: bool
) -> None:
    def distil(config: Any, reporter: Any, *, resume: bool, corpus: Any) -> Any:
        if resume:
            raise DataError("made with another configuration (training.bf16: true -> false)")
        assert not directory.exists()
        raise Reached

    trial, directory = begun(tmp_path, distil, monkeypatch)
    if checkpoints:
        (directory / "checkpoints").mkdir()
    with pytest.raises(Reached):
        attempt(trial)


def test_bad_data_of_a_fresh_training_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def distil(config: Any, reporter: Any, *, resume: bool, corpus: Any) -> Any:
        calls.append(resume)
        raise DataError("line 3: no record")

    trial, directory = begun(tmp_path, distil, monkeypatch, status="failed")
    (directory / "checkpoints").mkdir()
    with pytest.raises(DataError, match="line 3"):
        attempt(trial)
    assert calls == [False]
