"""``distillctl prepare``: shows what is in a corpus, and writes it where asked to."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from distillctl import cli
from distillctl.core.data.records import read_jsonl
from distillctl.core.data.splits import split_of
from tests.javaproject import TEST, put, write_java_project
from tests.tiny import RECORDS, Tiny
from tests.together import SECONDS


def test_sizes_are_shown_and_records_written_split_by_split(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    monkeypatch.chdir(tmp_path)
    assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    cells = [line.replace("│", " ").split() for line in shown.splitlines()]
    assert ["tiny", *(str(count) for count in RECORDS.values())] in cells
    assert ["all", *(str(count) for count in RECORDS.values())] in cells
    assert f"with focal method: {sum(RECORDS.values())}" in shown
    assert f"{sum(RECORDS.values())} records written to {output}" in shown
    written = read_jsonl(output).records
    assert set(written) == set(read_jsonl(tiny.corpus).records)
    order = [split_of(record.project, record.path) for record in written]
    assert order == [split for split, count in RECORDS.items() for _ in range(count)]
    assert list(tmp_path.iterdir()) == [output]


def test_nothing_is_written_unless_asked(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(tiny.argv("prepare", "unused")) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_is_shown_as_zero(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(tiny.corpus.read_text().splitlines(keepends=True)[:3]))
    assert cli.run(tiny.argv("prepare", "unused", f"data.path={few}")) == 0
    assert ["all", "3", "0", "0"] in [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]


def test_the_file_that_is_read_is_not_replaced(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny.corpus.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(tiny.corpus)
    for output in (tiny.corpus, link):
        assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(output)]) == 2
        assert "is the file that the records are read from" in capsys.readouterr().err
    assert tiny.corpus.read_bytes() == before


def test_a_link_stays_and_a_device_is_no_place(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link, target = tmp_path / "link.jsonl", tmp_path / "target.jsonl"
    target.touch()
    link.symlink_to(target)
    assert cli.run(tiny.argv("prepare", "unused", flags=("-o", str(link)))) == 0
    assert link.is_symlink() and target.stat().st_size > 0
    os.mkfifo(tmp_path / "pipe")
    assert cli.run(tiny.argv("prepare", "unused", flags=("-o", str(tmp_path / "pipe")))) == 2
    assert "should be a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["", "missing/out.jsonl"])
def test_where_nothing_can_be_written_is_refused_before_the_work(
    output: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distillctl.core.materials.read_corpus", lambda *call: pytest.fail("read"))
    assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(tmp_path / output)]) == 2
    assert "should be a file in a folder that exists" in capsys.readouterr().err


def test_a_full_disk_leaves_what_was_there(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("older\n")

    def full(path: Path, records: Any) -> int:
        path.write_text("half a rec")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("distillctl.core.data.records.write_jsonl", full)
    assert cli.run(["prepare", "--data", str(tiny.corpus), "-o", str(output)]) == 5
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert output.read_text() == "older\n"
    assert list(tmp_path.iterdir()) == [output]


def test_bad_records_are_told_as_in_training(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(tiny.corpus.read_text().splitlines()[0] + "\n{\n")
    assert cli.run(["prepare", "--data", str(broken)]) == 3
    assert f"{broken}:2: not valid JSON" in capsys.readouterr().err
    assert cli.run(["prepare", "--data", str(tmp_path / "none.jsonl")]) == 2
    assert "no such file" in capsys.readouterr().err


# --- the teacher cache ----------------------------------------------------------------------------------------


def prepare(tiny: Tiny, cache: Path, *flags: str, settings: tuple[str, ...] = ()) -> int:
    """Exit code of ``prepare`` for a cache of 64 ids."""
    own = ("teacher.mode=cached", "teacher.top_k=64", f"teacher.cache_dir={cache}", *settings)
    return cli.run(tiny.argv("prepare", "unused", *own, flags=flags))


def cells(shown: str) -> dict[str, str]:
    """The rows of two columns, by the first."""
    rows = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in shown.splitlines() if "│" in line]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_the_teacher_is_captured_and_shown(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    assert prepare(tiny, cache) == 0
    shown = capsys.readouterr().out
    assert "capturing the teacher: " in shown and "teacher cache, k=64: gradient cosine 0." in shown
    found = cells(shown)
    assert found["ids kept"] == f"64 of {len(tiny.tokenizer)}"
    assert found["examples"] == "48"
    assert 264 < float(found["bytes per token"]) < 270
    tokens = int(found["target tokens"].split()[0])
    total = sum(file.stat().st_size for file in cache.iterdir())
    assert float(found["bytes per token"]) == pytest.approx(total / tokens, abs=0.06)
    assert {"directory", "teacher", "size", "gradient cosine", "tail", "live teacher"} <= found.keys()


@pytest.mark.parametrize(
    "settings", [(), ("data.max_train_samples=12", "data.sample_seed=99")], ids=["all", "a sample"]
)
def test_what_prepare_captured_a_training_only_reads(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...]
) -> None:
    assert prepare(tiny, tmp_path / "cache", settings=settings) == 0
    moved = (tmp_path / "cache").rename(tmp_path / "from another machine")
    before = {file.name: file.read_bytes() for file in moved.iterdir()}
    own = ("teacher.mode=cached", "teacher.top_k=64", f"teacher.cache_dir={moved}", *settings)
    assert cli.run(tiny.argv("train", tmp_path / "run", *own)) == 0
    assert "capturing" not in capsys.readouterr().out.split("Teacher cache")[-1]
    assert {file.name: file.read_bytes() for file in moved.iterdir()} == before


def test_verify_checks_and_captures_nothing(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    assert prepare(tiny, cache, "--verify") == 2
    assert f"{cache}: there is no teacher cache. distillctl prepare makes it" in capsys.readouterr().err
    assert not cache.exists()
    assert prepare(tiny, cache, settings=("data.max_train_samples=20",)) == 0
    assert prepare(tiny, cache, "--verify", settings=("data.max_train_samples=20",)) == 0
    assert cells(capsys.readouterr().out)["examples"] == "20"
    assert prepare(tiny, cache, "--verify") == 3
    assert "lacks 28 of 48 examples. distillctl prepare captures them" in capsys.readouterr().err
    assert prepare(tiny, cache) == 0
    # Whatever the mode of the training: who asks to verify asks for the cache.
    assert prepare(tiny, cache, "--verify", settings=("teacher.mode=live",)) == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "other k"])
def test_a_bad_cache_is_exit_code_3(
    tiny: Tiny, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert prepare(tiny, cache) == 0
    rows, index = cache / "shard-00000.rows", cache / "shard-00000.index"
    if damage == "flip":
        rows.write_bytes(rows.read_bytes()[:-1] + bytes([rows.read_bytes()[-1] ^ 1]))
    elif damage == "cut":
        index.write_bytes(index.read_bytes()[:-1])
    elif damage == "missing":
        rows.unlink()
    other = ("teacher.top_k=32",) if damage == "other k" else ()
    for flags in ((), ("--verify",)):
        assert prepare(tiny, cache, *flags, settings=other) == 3
        message = capsys.readouterr().err
        assert len(message.strip().splitlines()) <= 2
        assert ("something else" if other else "damaged teacher cache") in message


def test_a_full_disk_while_capturing_is_exit_code_5_and_goes_on_later(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from distillctl.core.store import files

    write, written = files.write_atomically, []

    def full(path: Path, content: str | bytes) -> None:
        written.append(path)
        if len(written) > 5:
            with files.writing(path):
                raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("distillctl.core.store.shards.write_atomically", full)
        patch.setattr("distillctl.core.store.writer.SHARD_BYTES", 1)
        patch.setattr("distillctl.core.teacher.batching.LOGITS", 100_000)
        assert prepare(tiny, tmp_path / "cache") == 5
    message = capsys.readouterr().err
    assert "No space left on device; free some space. The " in message and "start again, and it goes on" in message
    assert prepare(tiny, tmp_path / "cache") == 0
    assert cells(capsys.readouterr().out)["examples"] == "48"


def test_a_cache_that_nothing_would_read_is_not_made(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tiny, tmp_path / "cache", settings=("objective.jsd.weight=0",)) == 2
    assert "objective.jsd is off, so nothing reads a teacher cache" in capsys.readouterr().err


# --- the embedding bank ---------------------------------------------------------------------------------------


def prepare_bank(tiny: Tiny, bank: Path, *flags: str, settings: tuple[str, ...] = ()) -> int:
    """Exit code of ``prepare`` with the teacher live, as is the default."""
    return cli.run(tiny.argv("prepare", "unused", f"encoder.cache_dir={bank}", *settings, flags=flags))


def test_the_golds_are_captured_shown_and_only_read_by_a_training(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = tmp_path / "bank"
    assert prepare_bank(tiny, bank) == 0
    shown = capsys.readouterr().out
    found = cells(shown)
    assert "encoding the golds: " in shown and "Teacher cache" not in shown
    assert found["examples"] == "48"
    assert found["golds"].endswith(" of these; 48 in the bank")
    tokens, total = int(found["gold tokens"].split()[0]), sum(file.stat().st_size for file in bank.iterdir())
    assert float(found["bytes per token"]) == pytest.approx(total / tokens, abs=0.06)
    assert {"directory", "encoder", "size", "live encoder"} <= found.keys()
    moved = bank.rename(tmp_path / "from another machine")
    before = {file.name: file.read_bytes() for file in moved.iterdir()}
    assert cli.run(tiny.argv("train", tmp_path / "run", f"encoder.cache_dir={moved}", "training.max_steps=1")) == 0
    assert "encoding the golds" not in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in moved.iterdir()} == before


def test_verify_checks_the_bank_and_captures_nothing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = tmp_path / "bank"
    assert prepare_bank(tiny, bank, "--verify") == 2
    assert f"{bank}: there is no embedding bank. distillctl prepare makes it" in capsys.readouterr().err
    assert not bank.exists()
    assert prepare_bank(tiny, bank, settings=("data.max_train_samples=20",)) == 0
    assert prepare_bank(tiny, bank, "--verify", settings=("data.max_train_samples=20",)) == 0
    assert cells(capsys.readouterr().out)["examples"] == "20"
    assert prepare_bank(tiny, bank, "--verify") == 3
    assert "the embedding bank lacks 28 of 48 golds" in capsys.readouterr().err


def test_a_damaged_bank_is_exit_code_3(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_bank(tiny, tmp_path / "bank") == 0
    rows = tmp_path / "bank/shard-00000.rows"
    rows.write_bytes(rows.read_bytes()[:-1] + bytes([rows.read_bytes()[-1] ^ 1]))
    for flags in ((), ("--verify",)):
        assert prepare_bank(tiny, tmp_path / "bank", *flags) == 3
        message = capsys.readouterr().err
        assert "damaged embedding bank (shard-00000.rows: not the bytes that were written)" in message
        assert len(message.strip().splitlines()) <= 2


def test_nothing_to_check_is_said(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    off = ("objective.semantic.weight=0", "objective.contrastive.weight=0")
    assert prepare_bank(tiny, tmp_path / "bank", settings=off) == 0
    assert not (tmp_path / "bank").exists()
    assert prepare_bank(tiny, tmp_path / "bank", "--verify", settings=off) == 2
    assert "reads nothing from disk" in capsys.readouterr().err


# --- source trees and files of the earlier pipeline ------------------------------------------------------------


def test_a_source_tree_is_mined_shown_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = write_java_project(tmp_path / "demo", files=12), tmp_path / "out.jsonl"
    put(root, f"{TEST}/BadTest.java", "class BadTest { @Test void a() { assertTrue(a b); } }")
    argv = ["prepare", "--source", str(root), "--language", "java", "--project", "named", "-o", str(output)]
    assert cli.run(argv) == 0
    shown = capsys.readouterr().out
    assert "test files: 13" in shown and "with focal method: 36" in shown
    assert "tests left out for syntax errors: 1" in shown and "test files with syntax errors: 1" in shown
    found = read_jsonl(output).records
    assert len(found) == 36 and {record.project for record in found} == {"named"}
    assert cli.run([*argv, "--mask", "all"]) == 0
    assert len(read_jsonl(output).records) == 24


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--source", "demo"], 2, "--language should be one of python, java"),
        (["--source", "none", "--language", "java"], 2, "none: no such folder"),
        (["--source", "demo", "--language", "python"], 3, "no python test file below it"),
        (["--source", "demo", "--language", "java", "--data", "x"], 2, "give one of them"),
        (["--source", "demo", "--language", "java", "--verify"], 2, "--verify checks the cache of a training"),
        (["--source", "demo", "--language", "java", "--device", "cpu"], 2, "--device: no model reads a --source"),
        (["--language", "java"], 2, "--language and --project say what a --source is"),
        (["--from-trident", "none.jsonl"], 2, "none.jsonl: no such file"),
        (["--from-trident", "old.jsonl"], 3, "old.jsonl:1: does not say its language"),
        (["--from-trident", "old.jsonl", "-o", "old.jsonl"], 2, "is the file that the records are read from"),
    ],
)
def test_what_cannot_be_mined_or_converted_is_explained(
    flags: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_java_project(tmp_path / "demo", files=1)
    put(tmp_path, "old.jsonl", '{"focal_file": "a", "test_method_masked": "<extra_id_0>", "original_target": "b"}\n')
    assert cli.run(["prepare", *flags]) == code
    assert message in capsys.readouterr().err


def start_several(tiny: Tiny, tmp_path: Path, *more: str) -> Any:
    own = ("teacher.mode=cached", "teacher.top_k=64", f"teacher.cache_dir={tmp_path / 'cache'}")
    argv = tiny.argv("prepare", tmp_path / "run", *own, flags=("--processes", "2", *more))
    command = [sys.executable, "-m", "distillctl", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_several_processes_capture_and_one_shows(tiny: Tiny, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    process = start_several(tiny, tmp_path, "-o", str(records))
    shown, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert shown.count("48 examples;") == 1
    assert "in 2 shards" in shown
    assert len(read_jsonl(records).records) == sum(RECORDS.values())
    # The other process's error is told once, and its code is the command's.
    (tmp_path / "cache/shard-00001.rows").unlink()
    again = start_several(tiny, tmp_path)
    assert again.communicate(timeout=SECONDS)[1].count("error: ") == 1
    assert again.returncode == 3


@pytest.mark.slow
def test_a_killed_process_ends_the_capture_and_the_next_one_goes_on(tiny: Tiny, tmp_path: Path) -> None:
    process = start_several(tiny, tmp_path)
    parent = psutil.Process(process.pid)
    while len(parent.children()) < 2:
        time.sleep(0.05)
    parent.children()[1].kill()
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 5
    assert "error: process 1 of 2 was ended by signal 9. What was written is kept" in errors
    process = start_several(tiny, tmp_path)
    assert "in 2 shards" in process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0


def test_several_processes_are_not_started_twice(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert cli.run(tiny.argv("prepare", tmp_path, flags=("--processes", "2"))) == 2
    assert "--processes 2: 4 processes were launched already. Leave it out" in capsys.readouterr().err
