"""A copy of a run without its weights, which says exactly what the run says."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillctl.core.analysis.run_data import read_run
from distillctl.core.errors import DataError, UsageError
from distillctl.core.run_dir import RunDirectory, archive_run
from tests.core.analysis.arms import Arm, make_run
from tests.tiny import file_bytes


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A sealed run with weights, a checkpoint and measured costs."""
    made = RunDirectory.open(make_run(tmp_path / "run", Arm()))
    (made.student / "model.safetensors").write_bytes(bytes(100_000))
    (made.folder("checkpoints", "step-3") / "model.safetensors").write_bytes(bytes(100_000))
    (made.analysis / "overhead.json").write_text('{"ratio": {"median": 1.01, "low": 1.0, "high": 1.02}}')
    made.seal()
    return made


def test_what_is_read_of_it_is_what_is_read_of_the_run(run: RunDirectory, tmp_path: Path) -> None:
    archived = archive_run(run, tmp_path / "kept")
    before, after = read_run(str(run.path), "validation"), read_run(str(archived.path), "validation")
    assert after.rows == before.rows
    assert after.steps == before.steps
    assert after.record == before.record
    assert after.config == before.config
    assert after.overhead is not None
    assert after.overhead.median == 1.01
    assert (before.notes, after.notes) == ((), ())


def test_no_weights_and_the_large_files_packed(run: RunDirectory, tmp_path: Path) -> None:
    archived = archive_run(run, tmp_path / "kept")
    assert set(file_bytes(archived.path)) == {
        "config.yaml",
        "run.json",
        "step_metrics.csv.xz",
        "evaluation/validation/metrics.json",
        "evaluation/validation/predictions.jsonl.xz",
        "analysis/overhead.json",
    }
    assert archived.after == sum(map(len, file_bytes(archived.path).values()))
    assert archived.before == sum(map(len, file_bytes(run.path).values()))


def test_an_archive_of_an_archive_is_the_same(run: RunDirectory, tmp_path: Path) -> None:
    first = archive_run(run, tmp_path / "first")
    second = archive_run(RunDirectory.open(first.path), tmp_path / "second")
    assert file_bytes(second.path) == file_bytes(first.path)


def test_an_evaluation_that_was_stopped_is_left_out(run: RunDirectory, tmp_path: Path) -> None:
    (run.folder("evaluation", "dev") / ".partial-1.jsonl").write_text("{}\n")
    assert not (archive_run(run, tmp_path / "kept").path / "evaluation" / "dev").exists()


def test_a_changed_file_is_not_vouched_for(run: RunDirectory, tmp_path: Path) -> None:
    run.step_metrics_file.write_text(run.step_metrics_file.read_text().replace("0.5", "0.4", 1))
    with pytest.raises(DataError, match=r"step_metrics\.csv changed since"):
        archive_run(run, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_changed_archive_is_noticed(run: RunDirectory, tmp_path: Path) -> None:
    archived = archive_run(run, tmp_path / "kept")
    other = RunDirectory.open(make_run(tmp_path / "other", Arm(right=range(20))))
    packed = archive_run(other, tmp_path / "kept-other").path / "evaluation/validation/predictions.jsonl.xz"
    (archived.path / "evaluation/validation/predictions.jsonl.xz").write_bytes(packed.read_bytes())
    notes = read_run(str(archived.path), "validation").notes
    assert any("predictions.jsonl: changed since" in note for note in notes)


def test_a_link_out_of_the_run_is_not_followed(run: RunDirectory, tmp_path: Path) -> None:
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (run.analysis / "more.json").symlink_to(outside)
    with pytest.raises(DataError, match="leads out of the run"):
        archive_run(run, tmp_path / "kept")


def test_what_is_there_stays_unless_told(run: RunDirectory, tmp_path: Path) -> None:
    archive_run(run, tmp_path / "kept")
    before = file_bytes(tmp_path / "kept")
    with pytest.raises(UsageError, match="not empty"):
        archive_run(run, tmp_path / "kept")
    assert file_bytes(tmp_path / "kept") == before
    archive_run(run, tmp_path / "kept", overwrite=True)
    assert file_bytes(tmp_path / "kept") == before


def test_it_does_not_empty_what_it_is_made_of(run: RunDirectory) -> None:
    with pytest.raises(UsageError, match="would delete"):
        archive_run(run, run.path, overwrite=True)
    assert run.step_metrics_file.is_file()
