"""Who may use a directory, and what is written into it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distillctl import __version__
from distillctl.core.config import load_config
from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.run_dir import RunDirectory, write_atomically


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def store_metrics(run: RunDirectory, split: str, metrics: dict[str, float]) -> None:
    write_atomically(run.evaluation(split) / "metrics.json", json.dumps(metrics))


def store_predictions(run: RunDirectory, split: str, rows: list[dict[str, str]]) -> Path:
    path = run.evaluation(split) / "predictions.jsonl"
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run = RunDirectory.create(tmp_path / "run")
    run.write_config(load_config().to_dict())
    (run.folder("checkpoints", "step-3") / "model").write_text("weights")
    run.finish("finished")
    return tmp_path / "run"


# --- claiming -----------------------------------------------------------------------------------------------


def test_a_new_directory_is_made_and_claimed(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a" / "b")
    record = run.record()
    assert record["status"] == "running"
    assert record["distillctl"]["version"] == __version__
    assert {"commit", "dirty"} <= record["distillctl"].keys()
    assert record["libraries"]["torch"]
    assert record["hardware"]["cores"] >= 1
    assert list(tree(run.path)) == ["run.json"]


def test_an_empty_directory_is_fine(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path).path == tmp_path.resolve()


@pytest.mark.parametrize("method", ["check", "create"])
def test_a_used_directory_is_left_alone(finished: Path, method: str) -> None:
    before = tree(finished)
    with pytest.raises(UsageError, match=r"not empty; --overwrite empties it, train --resume goes on") as caught:
        getattr(RunDirectory, method)(finished)
    assert caught.value.exit_code == 2
    assert tree(finished) == before


def test_overwrite_empties_a_run(finished: Path) -> None:
    run = RunDirectory.create(finished, overwrite=True)
    assert list(tree(finished)) == ["run.json"]
    assert run.record()["status"] == "running"


@pytest.mark.parametrize("method", ["check", "create"])
def test_overwrite_never_empties_anything_else(tmp_path: Path, method: str) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"only empties a run directory"):
        getattr(RunDirectory, method)(tmp_path, overwrite=True)
    with pytest.raises(UsageError, match=r"not empty; choose another directory"):
        getattr(RunDirectory, method)(tmp_path)
    assert tree(tmp_path) == {"thesis.tex": b"years of work"}


def test_overwrite_removes_links_and_not_what_they_lead_to(finished: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("precious")
    (finished / "link").symlink_to(outside)
    RunDirectory.create(finished, overwrite=True)
    assert not (finished / "link").exists()
    assert (outside / "data").read_text() == "precious"


def test_overwrite_never_deletes_what_the_run_reads(finished: Path) -> None:
    before = tree(finished)
    teacher = finished / "checkpoints" / "step-3"
    with pytest.raises(UsageError, match=r"would delete .*step-3, which this run reads"):
        RunDirectory.create(finished, overwrite=True, inputs=["a/hub-name", teacher])
    assert tree(finished) == before


def test_resume_goes_on_with_a_run_and_needs_one(finished: Path, tmp_path: Path) -> None:
    started = RunDirectory.open(finished).record()["started_at"]
    record = RunDirectory.create(finished, resume=True).record()
    assert (record["status"], record["started_at"]) == ("running", started)
    assert (finished / "checkpoints" / "step-3" / "model").exists()
    with pytest.raises(UsageError, match=r"no run to resume here"):
        RunDirectory.create(tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(UsageError, match=r"exclude each other"):
        RunDirectory.create(finished, resume=True, overwrite=True)


@pytest.mark.parametrize(("status", "marked"), [("finished", False), ("interrupted", True), ("failed", True)])
def test_only_a_run_that_was_cut_off_counts_as_resumed(finished: Path, status: str, marked: bool) -> None:
    """Nothing of a finished one is trained twice, and its wall time stays evidence, unless it lost its checkpoints."""
    RunDirectory.open(finished).finish(status)
    assert ("resumed_at" in RunDirectory.create(finished, resume=True).record()) == marked
    RunDirectory.open(finished).finish(status)
    assert "resumed_at" in RunDirectory.create(finished, resume=True, steps_left=True).record()


def test_paths_that_cannot_be_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "run", "Not a directory"),
        (tmp_path / "dangling", "a link to nothing"),
        (tmp_path / ("x" * 300), "choose a shorter path"),
    ):
        with pytest.raises(UsageError, match=words):
            RunDirectory.create(path)
    assert not (tmp_path / "nowhere").exists()


def test_a_directory_one_may_not_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere, so it is told
    for method in (RunDirectory.check, RunDirectory.create):
        with pytest.raises(UsageError, match=r"cannot write .*choose a directory you may write to"):
            method(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_a_run_directory_opens(finished: Path, tmp_path: Path) -> None:
    assert RunDirectory.open(finished).path == finished.resolve()
    with pytest.raises(UsageError, match=r"not a run directory \(there is no run.json\)"):
        RunDirectory.open(tmp_path)


# --- files --------------------------------------------------------------------------------------------------


def test_the_config_reads_back(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    values = load_config(["trident"]).to_dict()
    run.write_config(values)
    assert run.config() == values
    assert load_config([str(run.config_file)]).to_dict() == values


def test_facts_are_merged_into_the_record(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.note(fingerprints={"data": "abc"}, seeds={"run": 13})
    run.note(fingerprints={"teacher": "def"}, records=5)
    record = run.record()
    assert record["fingerprints"] == {"data": "abc", "teacher": "def"}
    assert (record["seeds"], record["records"]) == ({"run": 13}, 5)


def test_a_run_ends_with_a_status_and_a_reason(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.finish("failed", "NaN in jsd at step 3")
    record = run.record()
    assert (record["status"], record["reason"]) == ("failed", "NaN in jsd at step 3")
    assert record["finished_at"] >= record["started_at"]
    with pytest.raises(ValueError, match="should be one of"):
        run.finish("running")


def test_scores_and_predictions_read_back(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    rows = [{"id": "a", "prediction": "assert x == '\u2028\u00e9'"}, {"id": "b", "prediction": "line\nbreak"}]
    store_metrics(run, "validation", {"f1": 9.5})
    path = store_predictions(run, "validation", rows)
    assert path == run.path / "evaluation" / "validation" / "predictions.jsonl"
    assert run.metrics("validation") == {"f1": 9.5}
    assert run.predictions("validation") == rows


def test_a_broken_predictions_file_names_the_line(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    path = store_predictions(run, "dev", [{"id": "a"}])
    path.write_text('{"id": "a"}\n{"id": \n')
    with pytest.raises(DataError, match=r"predictions\.jsonl:2: not valid JSON"):
        run.predictions("dev")
    path.write_text("[1]\n")
    with pytest.raises(DataError, match=r":1: should be a JSON object. Found list"):
        run.predictions("dev")


def test_missing_and_broken_records_are_clear_errors(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        run.metrics("dev")
    with pytest.raises(UsageError, match="cannot be read"):
        run.config()
    run.record_file.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        run.record()
    run.record_file.write_text("[]")
    with pytest.raises(DataError, match="should be a JSON object"):
        run.record()


@pytest.mark.parametrize("split", ["../up", "", "a/b", ".hidden", "x" * 65])
def test_a_split_is_a_plain_name(split: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="should be letters"):
        RunDirectory.create(tmp_path).evaluation(split)


def test_checkpoints_are_listed_by_step(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    assert run.checkpoints() == {}
    for name in ("step-10", "step-9", "step-x", "step-11.tmp"):
        run.folder("checkpoints", name)
    assert run.checkpoints() == {9: run.checkpoint(9), 10: run.checkpoint(10)}
    assert list(run.checkpoints()) == [9, 10]


def test_nothing_is_written_through_a_link_out_of_the_run(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("student", "analysis", "evaluation", "tensorboard"):
        (run.path / name).symlink_to(outside)
    (run.path / "step_metrics.csv").symlink_to(outside / "log.csv")
    for write in (
        lambda: run.student,
        lambda: run.analysis,
        lambda: store_metrics(run, "dev", {}),
        lambda: run.folder("tensorboard"),
        lambda: run.step_log(["focal"], tensorboard=False),
    ):
        with pytest.raises(RunError, match="leads out of the run directory"):
            write()
    (run.path / "config.yaml").symlink_to(outside / "config.yaml")
    run.write_config({"seed": 1})  # replaces the link
    assert list(outside.iterdir()) == []
    assert not run.config_file.is_symlink()


def test_a_run_may_itself_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run = RunDirectory.create(tmp_path / "run")
    store_metrics(run, "dev", {"f1": 1.0})
    assert (tmp_path / "disk" / "evaluation" / "dev" / "metrics.json").exists()


def test_a_nan_never_enters_json(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.note(f1=float("nan"))
    assert "f1" not in run.record()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distillctl.core.store.files.os.fsync", full)
    with pytest.raises(RunError, match=r"cannot write .*run\.json: No space left on device; free some space"):
        write_atomically(path, "new")
    assert tree(tmp_path) == {"run.json": b"old"}


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_atomically(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    assert json.loads(run.record_file.read_text()) == run.record()


def test_a_run_says_which_of_its_files_were_changed(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    run.write_config({"seed": 1})
    with run.step_log(["focal"], tensorboard=False):
        pass
    (run.student / "model.safetensors").write_bytes(b"weights")
    store_metrics(run, "dev", {"f1": 1.0})
    run.seal()
    assert run.changed_files() == []
    run.step_metrics_file.write_text("step\n")
    store_metrics(run, "dev", {"f1": 2.0})
    (run.student / "model.safetensors").unlink()
    changed = ["step_metrics.csv", "student/model.safetensors", "evaluation/dev/metrics.json"]
    assert run.changed_files() == changed
    run.seal_scores()  # an evaluation vouches for its own files alone
    assert run.changed_files() == changed[:2]
    run.record_file.write_text(run.record_file.read_text().replace('"running"', '"finished"'))
    assert run.changed_files() == ["run.json", *changed[:2]]
    assert RunDirectory.create(tmp_path, resume=True).changed_files() == []  # they are written anew
