"""step_metrics.csv: its columns, its numbers, and its mirror."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.run_dir import RunDirectory, StepLog, read_step_metrics, step_metric_columns
from distillctl.core.run_dir.step_log import cut_after

TERMS = ["focal", "jsd"]


def row(step: int, **values: float | None) -> dict[str, float | None]:
    blank: dict[str, float | None] = dict.fromkeys(step_metric_columns(TERMS))
    return blank | {"step": step} | values


CONTRACT = """
step epoch samples_seen target_tokens learning_rate loss_total
loss_focal scale_focal weight_focal weighted_focal grad_norm_focal
loss_jsd scale_jsd weight_jsd weighted_jsd grad_norm_jsd
loss_semantic scale_semantic weight_semantic weighted_semantic grad_norm_semantic
grad_cos_focal_jsd grad_cos_focal_semantic grad_cos_jsd_semantic
grad_norm_primary grad_norm_auxiliary auxiliary_clip grad_norm_total teacher_tail_mass
step_seconds data_seconds tokens_per_second peak_memory_mb
"""


def test_the_columns_are_the_contract() -> None:
    assert step_metric_columns(["focal", "jsd", "semantic"]) == CONTRACT.split()


def test_rows_read_back_and_blanks_are_none(tmp_path: Path) -> None:
    path = tmp_path / "step_metrics.csv"
    with StepLog(path, TERMS) as log:
        log.write(row(1, loss_focal=0.1, grad_norm_focal=2.0))
        log.write(row(2, loss_focal=1e-12))
    first, second = read_step_metrics(path)
    assert (first["step"], first["loss_focal"], first["grad_norm_focal"]) == (1, 0.1, 2.0)
    assert (second["loss_focal"], second["grad_norm_focal"]) == (1e-12, None)
    assert path.read_text().splitlines()[1].startswith("1,,,,,,0.1,,,,2,")


def test_a_float32_comes_back_exactly(tmp_path: Path) -> None:
    value = struct.unpack("f", struct.pack("f", 0.123456789))[0]
    with StepLog(tmp_path / "log.csv", TERMS) as log:
        log.write(row(1, loss_total=value, samples_seen=123456789012))
    (read,) = read_step_metrics(tmp_path / "log.csv")
    assert read["loss_total"] is not None
    assert struct.pack("f", read["loss_total"]) == struct.pack("f", value)
    assert read["samples_seen"] == 123456789012


def test_a_row_is_on_disk_before_the_next(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.csv", TERMS)
    log.write(row(1))
    assert len(read_step_metrics(tmp_path / "log.csv")) == 1
    log.close()
    log.close()


def test_unknown_and_forgotten_columns_are_refused(tmp_path: Path) -> None:
    with StepLog(tmp_path / "log.csv", TERMS) as log:
        with pytest.raises(ValueError, match=r"unknown \['loss_contrastive'\]"):
            log.write(row(1, loss_contrastive=1.0))
        incomplete = row(1)
        del incomplete["loss_jsd"]
        with pytest.raises(ValueError, match=r"forgotten \['loss_jsd'\]"):
            log.write(incomplete)
        without_gradients = {name: value for name, value in row(1).items() if not name.startswith("grad_")}
        log.write(without_gradients)
    assert len(read_step_metrics(tmp_path / "log.csv")) == 1


def test_appending_needs_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with StepLog(path, TERMS) as log:
        log.write(row(1))
    with StepLog(path, TERMS, after=1) as log:
        log.write(row(2))
    assert [read["step"] for read in read_step_metrics(path)] == [1, 2]
    with pytest.raises(DataError, match=r"log\.csv:1: the columns differ .*active loss terms changed"):
        StepLog(path, ["focal"], after=1)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", DataError, r":1: should start with a header"),
        ("a,b\n", DataError, r":1: should start with a header"),
        ("step,b\n1\n", DataError, r":2: should have 2 cells. Found 1"),
        ("step,b\n1,2\n1,x\n", DataError, r":3: could not convert"),
        ("step,b\n1,2\n\n3,4\n", DataError, r":3: should have 2 cells. Found 0"),
        ("step,b\n1\n2,3", DataError, r":2: should have 2 cells. Found 1"),
        (None, UsageError, "no such file"),
    ],
)
def test_a_broken_log_names_the_line(text: str | None, error: type[Exception], words: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=words):
        read_step_metrics(path)


@pytest.mark.parametrize("cut", ["3", "3,0.5", "3,0.25,7", "3,x", "3,nan", '3,"', "\x00"])
def test_a_last_line_that_a_kill_cut_short_is_left_out_with_a_note(cut: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,b\n1,2\n2,\n" + cut)
    notes: list[str] = []
    assert read_step_metrics(path, notes.append) == [{"step": 1, "b": 2}, {"step": 2, "b": None}]
    assert notes == [f"{path}:4: the last line was cut short and is left out"]
    assert read_step_metrics(path) == [{"step": 1, "b": 2}, {"step": 2, "b": None}]


def test_a_whole_log_has_no_note(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "log.csv").write_text("step,b\n1,2\n")
    assert read_step_metrics(tmp_path / "log.csv", notes.append) == [{"step": 1, "b": 2}]
    assert notes == []


def test_a_cut_header_is_damage(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,b")
    with pytest.raises(DataError, match=r"log\.csv:1: should start with a header"):
        read_step_metrics(tmp_path / "log.csv")


def test_a_folder_that_is_gone_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot write"):
        StepLog(tmp_path / "gone" / "log.csv", TERMS)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events: Any = EventAccumulator(str(folder))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in events.Tags()["tensors"]:
        found[tag] = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)]
    return found


def test_tensorboard_mirrors_every_number(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    full = row(1) | {name: 0.5 + index for index, name in enumerate(step_metric_columns(TERMS)) if name != "step"}
    with run.step_log(TERMS) as log:
        log.write(full)
        log.write(row(2, loss_total=0.25))
        log.mirror(2, {"evaluation/dev_f1": 9.5, "evaluation/none": None})
    found = scalars(run.path / "tensorboard")
    by_column = {tag.rpartition("/")[2]: points for tag, points in found.items()}
    assert by_column.pop("dev_f1") == [(2, 9.5)]
    assert by_column.pop("loss_total") == [(1, full["loss_total"]), (2, 0.25)]
    assert by_column == {name: [(1, value)] for name, value in full.items() if name not in ("step", "loss_total")}
    assert {tag.partition("/")[0] for tag in found} >= {"loss", "weight", "gradient", "progress", "cost"}


def test_going_on_cuts_both_back_and_no_step_is_there_twice(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    killed = run.step_log(TERMS)
    for step in range(1, 6):
        killed.write(row(step, loss_total=step))
    killed.mirror(4, {"dev/f1": 1.0})
    killed.flush()  # a kill: nobody closes it
    with run.step_log(TERMS, after=3) as log:
        for step in range(4, 7):
            log.write(row(step, loss_total=10 * step))
    found = scalars(run.path / "tensorboard")
    assert found["loss/loss_total"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]
    assert found.get("dev/f1", []) == []
    assert [read["loss_total"] for read in run.step_metrics()] == [1.0, 2.0, 3.0, 40.0, 50.0, 60.0]
    killed.close()


def test_what_is_flushed_is_in_tensorboard_before_the_end(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    log = run.step_log(TERMS)
    log.write(row(1, loss_total=0.5))
    log.flush()
    assert scalars(run.path / "tensorboard")["loss/loss_total"] == [(1, 0.5)]
    log.close()


def test_beginning_anew_leaves_nothing_of_before(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    for value in (0.5, 0.25):
        with run.step_log(TERMS) as log:
            log.write(row(1, loss_total=value))
    assert scalars(run.path / "tensorboard")["loss/loss_total"] == [(1, 0.25)]
    assert [read["loss_total"] for read in run.step_metrics()] == [0.25]


def test_tensorboard_can_be_left_out(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path)
    with run.step_log(TERMS, tensorboard=False) as log:
        log.write(row(1))
        log.mirror(1, {"evaluation/dev_f1": 9.5})
    assert not (run.path / "tensorboard").exists()


def test_rows_after_a_step_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with StepLog(path, TERMS) as log:
        for step in (1, 2, 4, 7, 10):
            log.write(row(step, loss_focal=step / 3))
    before = path.read_text()
    assert cut_after(path, 10) == 0
    assert path.read_text() == before
    assert cut_after(path, 5) == 2
    assert path.read_text() == "".join(before.splitlines(keepends=True)[:4])
    assert cut_after(path, 0) == 3
    assert read_step_metrics(path) == []


def test_a_row_that_a_kill_cut_short_goes_too(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with StepLog(path, TERMS) as log:
        log.write(row(1))
    whole = path.read_text()
    for half in ("2", "2,0.1,", "2" + "," * 20):
        path.write_text(whole + half)
        assert cut_after(path, 5) == 1
        assert path.read_text() == whole


def test_cutting_nothing_and_nonsense(tmp_path: Path) -> None:
    assert cut_after(tmp_path / "none.csv", 3) == 0
    assert not (tmp_path / "none.csv").exists()
    (tmp_path / "empty.csv").touch()
    assert cut_after(tmp_path / "empty.csv", 3) == 0
    (tmp_path / "odd.csv").write_text("step,loss\n1,2\nx,3\n")
    with pytest.raises(DataError, match=r"odd\.csv:3: should start with a step\. Found 'x'"):
        cut_after(tmp_path / "odd.csv", 3)
