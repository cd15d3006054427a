"""Stopped anywhere and resumed, a run ends with the very student of an uninterrupted one, or refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from distillctl.core.errors import DataError, RunError
from distillctl.core.planning.plan import plan
from distillctl.core.progress import SilentReporter
from distillctl.core.run_dir import RunDirectory
from distillctl.core.training.resuming import how_to_go_on
from tests.runs import EPOCHS, StopAt, ctrl_c, kill, record, student_bytes
from tests.runs import run_config as run
from tests.tiny import Tiny, file_bytes, rows_of


@pytest.mark.parametrize(
    ("at", "how", "lost"), [(6, ctrl_c, 0), (3, ctrl_c, 0), (12, ctrl_c, 0), (9, kill, 3), (2, kill, 2)]
)
def test_stopped_and_resumed_is_uninterrupted_to_the_last_bit(
    tiny: Tiny, tmp_path: Path, uninterrupted: Path, stop_at: StopAt, at: int, how: Callable[[], None], lost: int
) -> None:
    config = tiny.config(tmp_path / "run", *EPOCHS)
    stop_at(at, how)
    with pytest.raises(KeyboardInterrupt if how is ctrl_c else RunError):
        run(config)
    assert record(tmp_path / "run")["status"] == ("interrupted" if how is ctrl_c else "failed")
    outcome = run(config, resume=True)
    assert student_bytes(tmp_path / "run") == student_bytes(uninterrupted)
    assert rows_of(tmp_path / "run") == rows_of(uninterrupted)
    after, whole = record(tmp_path / "run"), record(uninterrupted)
    assert after["status"] == "finished"
    for name in ("fingerprints", "gate", "training", "truncation"):
        assert after[name] == whole[name]
    assert outcome.scores == {**outcome.scores, "student": headline(uninterrupted)}


def headline(path: Path) -> dict[str, float]:
    scores: dict[str, float] = json.loads((path / "evaluation/validation/metrics.json").read_text())["scores"]
    return scores


def test_seconds_of_before_are_counted(tiny: Tiny, tmp_path: Path, stop_at: StopAt) -> None:
    config = tiny.config(tmp_path / "run")
    stop_at(2, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    before = record(tmp_path / "run")["seconds"]
    run(config, resume=True)
    after = record(tmp_path / "run")["seconds"]
    assert all(after[phase] > seconds for phase, seconds in before.items() if seconds > 0.01)
    assert "scoring" in after and "scoring" not in before


def test_resume_without_a_checkpoint_begins_anew(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt, uninterrupted: Path
) -> None:
    config = tiny.config(tmp_path / "run", *EPOCHS)
    stop_at(4, kill)
    with pytest.raises(RunError):
        run(config)
    assert RunDirectory(tmp_path / "run").checkpoints() == {}
    assert len(rows_of(tmp_path / "run")) == 3
    run(config, resume=True)
    assert student_bytes(tmp_path / "run") == student_bytes(uninterrupted)
    assert rows_of(tmp_path / "run") == rows_of(uninterrupted)


@pytest.fixture
def finished(uninterrupted: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "run"))


def test_a_finished_run_is_only_scored_again(tiny: Tiny, finished: Path) -> None:
    before = file_bytes(finished)
    run(tiny.config(finished, *EPOCHS), resume=True)
    after = file_bytes(finished)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {
        "run.json",
        "config.yaml",  # it names where the run lies, and this one was copied
        "student/README.md",
    }


def test_a_finished_run_that_lost_its_last_checkpoint_is_gone_on_with_and_says_so(
    tiny: Tiny, finished: Path, uninterrupted: Path
) -> None:
    """Its seconds are then those of more than one training, and no evidence of wall time. (Without any checkpoint it
    is refused: tests/commands/test_train.py.)"""
    shutil.rmtree(finished / "checkpoints" / "step-12")
    run(tiny.config(finished, *EPOCHS), resume=True)
    assert student_bytes(finished) == student_bytes(uninterrupted)
    assert record(finished)["resumed_at"] > record(uninterrupted)["finished_at"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.learning_rate=0.02", "training.learning_rate: 0.01 -> 0.02"),
        ("seed=14", "seed: 13 -> 14"),
        ("training.num_train_epochs=3", r"training.num_train_epochs: 2.0 -> 3.0"),
        ("objective.jsd.weight=[1.0, 0.1]", "objective.jsd.weight.end: 0.7 -> 0.1"),
    ],
)
def test_another_configuration_is_refused_and_nothing_touched(
    tiny: Tiny, finished: Path, change: str, words: str
) -> None:
    before = file_bytes(finished)
    config = tiny.config(finished, *EPOCHS, change)
    for attempt in (lambda: run(config, resume=True), lambda: plan(config, SilentReporter(), resume=True)):
        with pytest.raises(DataError, match=r"step-12: made with another configuration") as caught:
            attempt()
        assert f"({words})" in str(caught.value)
    assert file_bytes(finished) == before


def test_another_configuration_is_refused_before_the_first_checkpoint_too(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt
) -> None:
    stop_at(1, kill)
    with pytest.raises(RunError):
        run(tiny.config(tmp_path / "run", *EPOCHS))
    with pytest.raises(DataError, match=r"run: made with another configuration \(seed: 13 -> 14\)"):
        run(tiny.config(tmp_path / "run", *EPOCHS, "seed=14"), resume=True)


def test_what_decides_nothing_about_the_student_may_change_on_the_way(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt, uninterrupted: Path
) -> None:
    stop_at(7, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(tiny.config(tmp_path / "run", *EPOCHS))
    changes = [
        "evaluation.limit=2",
        "logging.steps=2",
        "training.on_nan=skip",
        "checkpoints.save_steps=2",
        "device=auto",
    ]
    config = tiny.config(tmp_path / "run", *EPOCHS, *changes)
    run(config, resume=True)
    assert student_bytes(tmp_path / "run") == student_bytes(uninterrupted)
    assert RunDirectory(tmp_path / "run").config() == config.to_dict()
    assert record(tmp_path / "run")["fingerprints"]["config"] == config.fingerprint()


def test_other_data_is_refused_and_nothing_touched(tiny: Tiny, tmp_path: Path, stop_at: StopAt) -> None:
    corpus = tmp_path / "own.jsonl"
    corpus.write_bytes(tiny.corpus.read_bytes())
    config = tiny.config(tmp_path / "run", f"data.path={corpus}")
    stop_at(2, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    before = file_bytes(tmp_path / "run")
    corpus.write_text(corpus.read_text().replace("push_stack", "shove_stack"))
    fingerprint = record(tmp_path / "run")["fingerprints"]["data"][:16]
    words = rf"made from other data \(fingerprint {fingerprint} there, [0-9a-f]{{16}} here\): .*data file changed"
    with pytest.raises(DataError, match=words):
        run(config, resume=True)
    assert file_bytes(tmp_path / "run") == before


@pytest.mark.parametrize("encoder", [False, True])
def test_another_teacher_or_encoder_is_refused_and_nothing_touched(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt, encoder: bool
) -> None:
    copy = Path(shutil.copytree(tiny.teacher, tmp_path / "copy"))
    config = tiny.config(tmp_path / "run", f"{'encoder' if encoder else 'teacher'}.model={copy}")
    stop_at(2, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    before = file_bytes(tmp_path / "run")
    weights = load_file(copy / "model.safetensors")
    weights["shared.weight"] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    words = f"made with another {'encoder' if encoder else 'teacher'} .*Put that one back, or start a new run"
    for go_on in (run, partial(plan, reporter=SilentReporter())):
        with pytest.raises(DataError, match=words):
            go_on(config, resume=True)
    assert file_bytes(tmp_path / "run") == before


def test_a_damaged_checkpoint_is_refused_and_nothing_touched(tiny: Tiny, finished: Path) -> None:
    weights = finished / "checkpoints/step-12/optimizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    before = file_bytes(finished)
    with pytest.raises(DataError, match=r"step-12: damaged checkpoint"):
        run(tiny.config(finished, *EPOCHS), resume=True)
    assert file_bytes(finished) == before
    shutil.rmtree(finished / "checkpoints/step-12")
    run(tiny.config(finished, *EPOCHS), resume=True)
    assert student_bytes(finished) == before["student/model.safetensors"]


def test_the_way_on_is_a_command_line(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny.config(tmp_path / "run")
    path = RunDirectory.create(tmp_path / "run")
    assert how_to_go_on(config, path, taught=False) == [
        "distillctl",
        "train",
        "--config",
        str(tmp_path / "run/config.yaml"),
        "--output-dir",
        str(tmp_path / "run"),
        "--resume",
    ]
    assert "student.encoder_layers=null" not in how_to_go_on(config, path, taught=True)
    assert "student.trusted_revision=null" not in how_to_go_on(config, path, taught=True)
    trusted = config.with_section("student", trusted_revision="a" * 40)
    assert "student.trusted_revision=null" in how_to_go_on(trusted, path, taught=True)
