"""``distillctl sweep``: tiny real trainings, from the command line to the configuration that won."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillctl import cli
from distillctl.core import distillation, scoring
from distillctl.core.config import load_config
from distillctl.core.evaluation import decoding
from distillctl.core.run_dir import RunDirectory
from distillctl.core.sweep import trial as trial_module
from distillctl.core.training.stepper import Stepper
from tests.runs import StopAt, ctrl_c, record
from tests.tiny import Tiny, file_bytes

pytestmark = pytest.mark.usefixtures("small_pictures")

Out = pytest.CaptureFixture[str]
DEV = 4  # records of the tiny corpus's dev split
QUICK = ("training.max_steps=2", "evaluation.limit=0")


def argv(tiny: Tiny, folder: Path, *flags: str, grid: str = "beta=3,5") -> list[str]:
    settings = tiny.settings("not-used", *QUICK)[1:]  # the output directory is the sweep's own
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["sweep", *sets, "--grid", grid, "-o", str(folder), *flags]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Directory of each trial that is trained, in order."""
    seen: list[str] = []
    original = distillation.distil

    def distil(config: Any, *rest: Any, **options: Any) -> Any:
        seen.append(Path(config.output_dir).name)
        return original(config, *rest, **options)

    monkeypatch.setattr(trial_module, "distil", distil)
    return seen


def test_a_sweep_trains_scores_on_dev_and_ranks(tiny: Tiny, tmp_path: Path, trained: list[str], capsys: Out) -> None:
    folder = tmp_path / "sweep"
    assert cli.run(argv(tiny, folder, "--data-fraction", "0.5", "--seeds", "2")) == 0
    assert len(trained) == 4
    shown = capsys.readouterr().out
    for words in (
        "sweep over semantic_loss_scale {3, 5}, seeds 13, 14: 4 trials",
        f"each trains on 24 of 48 records and is scored on {DEV} of {DEV} records of dev; validation is not looked at",
        "1/4 semantic_loss_scale=3, seed=13: running",
        "4/4 semantic_loss_scale=5, seed=14: F1 ",
        "Ranking",
        "best",
        str(folder / "f1.png"),
        f"distillctl train --config {folder / 'best.yaml'}",
    ):
        assert words in shown
    runs = [RunDirectory.open(path) for path in sorted((folder / "trials").iterdir())]
    assert [run.path.name for run in runs] == trained
    assert len({run.record()["fingerprints"]["data"] for run in runs}) == 1  # the same records, whatever the seed
    for run in runs:
        assert run.record()["status"] == "finished"
        assert run.metrics("dev")["counts"]["samples"] == DEV
        assert not (run.path / "evaluation" / "validation").exists()
    facts = json.loads((folder / "ranking.json").read_text())
    scores = [run.metrics("dev")["scores"]["f1"] for run in runs]
    by_seed = {found["values"]["objective.semantic_loss_scale"]: found["f1_by_seed"] for found in facts["ranking"]}
    assert by_seed == {3: pytest.approx(scores[::2]), 5: pytest.approx(scores[1::2])}
    best = load_config([folder / "best.yaml"])
    assert best.evaluation.split == "validation" and best.data.max_train_samples is None
    assert (folder / "f1.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_again_trains_nothing_and_ends_with_the_same_files(
    tiny: Tiny, tmp_path: Path, trained: list[str]
) -> None:
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 0
    first = file_bytes(tmp_path / "sweep")
    trained.clear()
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 0
    assert trained == []
    again = file_bytes(tmp_path / "sweep")
    assert {name for name in first if first[name] != again.get(name)} <= {"sweep.db"}


def test_the_winning_configuration_trains(tiny: Tiny, tmp_path: Path) -> None:
    assert cli.run(argv(tiny, tmp_path / "sweep", "--data-fraction", "0.2", grid="beta=3")) == 0
    assert cli.run(["train", "--config", str(tmp_path / "sweep/best.yaml"), "--set", "evaluation.limit=3"]) == 0
    assert record(tmp_path / "sweep/best")["truncation"]["train"]["examples"] == 48


def test_two_trials_make_a_report(tiny: Tiny, tmp_path: Path) -> None:
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 0
    one, two = sorted((tmp_path / "sweep/trials").iterdir())
    arms = ["--baseline", str(one), "--candidate", str(two)]
    assert cli.run(["report", *arms, "--split", "dev", "-o", str(tmp_path / "report")]) == 0


def test_the_untrained_student_and_the_teacher_are_decoded_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLCTL_CACHE", str(tmp_path / "cache"))
    asked: list[int] = []
    original = decoding.decode_groups

    def decode_groups(model: Any, tokenizer: Any, examples: Any, *rest: Any, **options: Any) -> Any:
        asked.append(len(examples))
        return original(model, tokenizer, examples, *rest, **options)

    monkeypatch.setattr(scoring, "decode_groups", decode_groups)
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 0
    assert asked == [DEV, DEV, DEV, 0, 0, DEV]


def test_another_sweep_in_the_folder_is_refused(tiny: Tiny, tmp_path: Path, trained: list[str], capsys: Out) -> None:
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 0
    before = file_bytes(tmp_path / "sweep")
    assert cli.run(argv(tiny, tmp_path / "sweep", grid="beta=3,7")) == 3
    assert "--grid objective.semantic_loss_scale [3, 5] there, [3, 7] here" in capsys.readouterr().err
    assert cli.run(argv(tiny, tmp_path / "sweep", "--set", "training.learning_rate=0.1")) == 3
    assert "training.learning_rate 0.01 there, 0.1 here" in capsys.readouterr().err
    assert file_bytes(tmp_path / "sweep") == before


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--grid", "objective.jsd.temperature=-1"], 2, "should be greater than 0"),
        (["--teacher", "./nowhere"], 2, "teacher './nowhere': no such directory"),
        (["--encoder", "./nowhere"], 2, "encoder './nowhere': no such directory"),
        (["--grid", "student.model=./nowhere"], 2, "student './nowhere': no such directory"),
        (["--data", "./nowhere.jsonl"], 2, "nowhere.jsonl"),
        (["--device", "cuda:77"], 2, "device=cuda:77"),
        (["--storage", "nosuch://x"], 2, "--storage nosuch://x: cannot be opened"),
        (["--data-fraction", "2"], 2, "--data-fraction"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    tiny: Tiny, tmp_path: Path, flags: list[str], code: int, words: str, capsys: Out
) -> None:
    assert cli.run(argv(tiny, tmp_path / "sweep", *flags)) == code
    assert words in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_failed_trial_is_shown_and_the_others_are_ranked(
    tiny: Tiny, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    step = Stepper.take

    def fail_for_three(self: Stepper, number: int) -> Any:
        if self.config.objective.semantic_loss_scale == 3:
            raise ZeroDivisionError("as a defect would")
        return step(self, number)

    monkeypatch.setattr(Stepper, "take", fail_for_three)
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 0
    shown = capsys.readouterr().out
    assert "1/2 semantic_loss_scale=3, seed=13: failed: ZeroDivisionError: as a defect would" in shown
    assert "1 failed" in shown
    monkeypatch.setattr(Stepper, "take", step)
    trained.clear()
    assert cli.run(argv(tiny, tmp_path / "sweep", "--retry-failed")) == 0
    assert trained == ["1-semantic_loss_scale=3-seed=13"]


def test_a_sweep_of_which_nothing_worked_ends_with_an_error(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    def fail(self: Stepper, number: int) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Stepper, "take", fail)
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 5
    assert "no grid point has all its seeds" in capsys.readouterr().err
    assert not (tmp_path / "sweep/best.yaml").exists()


@pytest.mark.slow
def test_after_ctrl_c_the_trial_goes_on_where_it_was(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt, trained: list[str], capsys: Out
) -> None:
    assert cli.run(argv(tiny, tmp_path / "whole")) == 0
    stop_at(1, ctrl_c)
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 130
    assert "the same command goes on" in capsys.readouterr().out
    assert cli.run(argv(tiny, tmp_path / "sweep")) == 0
    name = "1-semantic_loss_scale=3-seed=13/student/model.safetensors"
    assert (tmp_path / "sweep/trials" / name).read_bytes() == (tmp_path / "whole/trials" / name).read_bytes()
    assert "resumed_at" in record(tmp_path / "sweep/trials/1-semantic_loss_scale=3-seed=13")


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_with_what_is_missing(
    tiny: Tiny, tmp_path: Path, trained: list[str], capsys: Out
) -> None:
    """kill -9 in the second trial's training, by a real process."""
    folder = tmp_path / "sweep"
    command = argv(tiny, folder, "--set", "training.max_steps=60", "--set", "checkpoints.save_total_limit=2")
    process = subprocess.Popen([sys.executable, "-m", "distillctl", *command], stdout=subprocess.DEVNULL)
    second = folder / "trials/2-semantic_loss_scale=5-seed=13"
    _wait(lambda: (second / "step_metrics.csv").is_file() or process.poll() is not None, 240)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = file_bytes(folder / "trials/1-semantic_loss_scale=3-seed=13")
    assert record(second)["status"] == "running"
    assert cli.run(command) == 0
    assert trained == ["2-semantic_loss_scale=5-seed=13"]
    assert record(second)["status"] == "finished"
    assert file_bytes(folder / "trials/1-semantic_loss_scale=3-seed=13") == done
    assert "Ranking" in capsys.readouterr().out


def _wait(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
