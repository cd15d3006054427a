"""What happens to processes: signals, full disks, no memory, files that vanish, clocks that jump, a second process."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distillctl import cli
from distillctl.core.errors import DataError, Terminated
from distillctl.core.run_dir.lock import LOCK, locked
from distillctl.core.training.stepper import Stepper
from tests.runs import EPOCHS, StopAt, record, run_config, student_bytes
from tests.tiny import Tiny, rows_of

Err = pytest.CaptureFixture[str]


def assert_told(capsys: Err, *words: str) -> None:
    """One error, in one or two lines, with these words and no traceback."""
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert 1 <= len(error.splitlines()) <= 2
    assert "Traceback" not in error
    for word in words:
        assert word in error


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: the system refuses to write more. Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(20_000, id="checkpoint"),
        *(pytest.param(size, id=str(size), marks=pytest.mark.slow) for size in (100, 1_000, 3_000, 8_000, 30_000)),
    ],
)
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    size: int, tiny: Tiny, tmp_path: Path, uninterrupted: Path, capsys: Err
) -> None:
    argv = tiny.argv("train", tmp_path / "run", *EPOCHS, "checkpoints.save_steps=5")
    with no_file_larger_than(size):
        assert cli.run(argv) in (2, 5)
    assert_told(capsys, "File too large")
    assert not list((tmp_path / "run").rglob(f"*{LOCK}"))
    assert cli.run([*argv, "--resume"] if (tmp_path / "run/run.json").is_file() else argv) == 0
    assert student_bytes(tmp_path / "run") == student_bytes(uninterrupted)
    assert rows_of(tmp_path / "run") == rows_of(uninterrupted)
    assert not list((tmp_path / "run").rglob("*.tmp"))


def mount(*arguments: str) -> str:
    """What the system says against mounting; nothing where it does not."""
    if os.name == "nt" or shutil.which("mount") is None:
        return "there is no mount"
    ended = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return ended.stderr.strip() if ended.returncode else ""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    refused = mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder))
    if refused:
        pytest.skip(f"no disk may be mounted here: {refused}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 16, 64, 100, 200, 260, 300, 340, 400])
def test_a_disk_that_is_really_full_is_told_and_the_run_goes_on_when_there_is_room(
    kilobytes: int, tiny: Tiny, disk: Path, uninterrupted: Path, capsys: Err
) -> None:
    argv = tiny.argv("train", disk / "run", *EPOCHS, "checkpoints.save_steps=5")
    assert mount("-o", f"remount,size={kilobytes}k", str(disk)) == ""
    assert cli.run(argv) in (2, 5)
    assert_told(capsys, "No space left on device")
    assert mount("-o", "remount,size=64m", str(disk)) == ""
    assert not list((disk / "run").rglob(f"*{LOCK}"))
    assert cli.run([*argv, "--resume"] if (disk / "run/run.json").is_file() else argv) == 0
    assert student_bytes(disk / "run") == student_bytes(uninterrupted)
    assert rows_of(disk / "run") == rows_of(uninterrupted)
    assert not list((disk / "run").rglob("*.tmp"))


def test_sigterm_puts_the_run_away_and_clocks_that_jump_back_change_nothing(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    config = tiny.config(tmp_path / "run", *EPOCHS, "logging.tensorboard=true")
    stop_at(7, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Terminated):
        run_config(config)
    assert (record(tmp_path / "run")["status"], record(tmp_path / "run")["reason"]) == ("interrupted", "terminated")
    run_config(config, resume=True)
    assert student_bytes(tmp_path / "run") == student_bytes(uninterrupted)
    assert rows_of(tmp_path / "run") == rows_of(uninterrupted)
    assert all(seconds >= 0 for seconds in record(tmp_path / "run")["seconds"].values())
    assert all(float(row["step_seconds"]) > 0 for row in raw_rows(tmp_path / "run"))


def raw_rows(run: Path) -> list[dict[str, str]]:
    header, *lines = (run / "step_metrics.csv").read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_no_memory_ends_in_order(
    error: Exception, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Err
) -> None:
    def full(self: Stepper, number: int) -> None:
        raise error

    monkeypatch.setattr(Stepper, "take", full)
    assert cli.run(tiny.argv("train", tmp_path / "run")) == 5
    assert_told(capsys, "out of memory: lower training.per_device_train_batch_size")
    assert record(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_second_process_on_one_directory_is_told_who_is_there(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    holder = os.fork()
    if holder == 0:
        with locked(tmp_path / "run"):
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / "run" / LOCK).is_file() or not (tmp_path / "run" / LOCK).read_text():
        time.sleep(0.01)
    for flags in (("--resume",), ("--overwrite",)):
        assert cli.run(tiny.argv("train", tmp_path / "run", flags=flags)) == 2
        assert_told(capsys, f"in use by process {holder} on ", "choose another directory")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == holder
    with locked(tmp_path / "run"):  # its process is gone
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()


def test_a_data_file_that_vanished_is_named(tiny: Tiny, tmp_path: Path, stop_at: StopAt, capsys: Err) -> None:
    shutil.copyfile(tiny.corpus, tmp_path / "own.jsonl")
    argv = [*tiny.argv("train", tmp_path / "run"), "--data", str(tmp_path / "own.jsonl")]
    stop_at(2, (tmp_path / "own.jsonl").unlink)
    assert cli.run(argv) == 0  # the records had been read
    capsys.readouterr()
    assert cli.run([*argv, "--resume"]) == 2
    assert_told(capsys, "own.jsonl: no such file")


def test_a_teacher_cache_that_vanishes_under_way_is_an_error_with_its_name(
    tiny: Tiny, tmp_path: Path, stop_at: StopAt
) -> None:
    cache = tmp_path / "cache"
    stop_at(2, lambda: shutil.rmtree(cache))
    settings = ("teacher.mode=cached", "teacher.top_k=16", f"teacher.cache_dir={cache}")
    with pytest.raises(DataError, match=r"cache: damaged teacher cache \(shard-00000\.rows: missing\)"):
        run_config(tiny.config(tmp_path / "run", *settings))
    assert record(tmp_path / "run")["status"] == "failed"
