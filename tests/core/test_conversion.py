"""A converted cache holds what the file says, trains like the teacher that wrote it, and claims no more."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distillctl import cli
from distillctl.core.conversion import convert_logits
from distillctl.core.data.encoding import Example
from distillctl.core.data.records import Record, read_jsonl
from distillctl.core.data.trident import read_trident
from distillctl.core.distillation import distil
from distillctl.core.errors import DataError
from distillctl.core.losses.term import Places
from distillctl.core.materials import make_encoder
from distillctl.core.models.loading import load_seq2seq
from distillctl.core.planning.plan import plan
from distillctl.core.teacher.batching import padded_batch
from distillctl.core.teacher.cached import CacheReader
from distillctl.core.teacher.converted import UNVERIFIED, ConvertedCacheOpener
from distillctl.core.teacher.live import LiveTeacher
from tests.runs import Notes, record, run_config
from tests.tiny import Tiny, file_bytes
from tests.trident import compressed, write_trident

Logits = dict[str, list[list[float]]]


@pytest.fixture(scope="module")
def examples(tiny: Tiny) -> dict[str, Example]:
    """The tokenised records by id."""
    encoded = make_encoder(tiny.config("unused"), tiny.tokenizer).encode(read_jsonl(tiny.corpus).records)
    return {one.id: example for one, example in zip(encoded.records, encoded.examples, strict=True)}


@pytest.fixture(scope="module")
def teacher_logits(tiny: Tiny, examples: dict[str, Example]) -> Logits:
    """What the tiny teacher says of each record's target."""
    live = LiveTeacher(load_seq2seq(str(tiny.teacher), "teacher"))
    found = {}
    for name, example in examples.items():
        inputs, mask, labels = padded_batch([example], live.padding_id, torch.device("cpu"))
        found[name] = live.logits(inputs, mask, labels, Places.of(labels)).tolist()
    return found


def rows_of(tiny: Tiny, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The tiny records in the earlier format, with ``compressed_logits`` by id where there are some."""
    rows = []
    for one in read_jsonl(tiny.corpus).records:
        row = asdict(one) | {"original_target": one.target, "focal_file": one.focal_method}
        del row["assertions"], row["focal_method"]
        rows.append(row | ({"compressed_logits": values[one.id]} if one.id in values else {}))
    return rows


@pytest.fixture(scope="module")
def whole(tiny: Tiny, teacher_logits: Logits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a file with all of the teacher's logits, and of what it was converted to; never written to."""
    folder = tmp_path_factory.mktemp("whole")
    assert prepare(tiny, old_file(tiny, folder / "old.jsonl", teacher_logits), folder) == 0
    return folder


def old_file(tiny: Tiny, path: Path, logits: Logits, bits: int = 32) -> Path:
    return write_trident(path, rows_of(tiny, {name: compressed(rows, bits) for name, rows in logits.items()}))


def prepare(tiny: Tiny, file: Path, folder: Path, *settings: str) -> int:
    """Converts to ``folder``/records.jsonl and ``folder``/cache."""
    flags = ("--from-trident", str(file), "-o", str(folder / "records.jsonl"))
    return cli.run(tiny.argv("prepare", "unused", f"teacher.cache_dir={folder / 'cache'}", *settings, flags=flags))


def converted(tiny: Tiny, folder: Path, *settings: str, run: str = "run") -> Any:
    """The configuration that learns from what ``prepare`` left."""
    own = (f"data.path={folder / 'records.jsonl'}", "teacher.mode=cached", f"teacher.cache_dir={folder / 'cache'}")
    return tiny.config(folder / run, *own, *settings)


def test_what_is_converted_is_shown_with_the_command_that_learns_from_it(
    tiny: Tiny, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tiny, whole / "old.jsonl", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "lines with logits: 62 of 62" in shown and "48 examples added to" in shown and UNVERIFIED in shown
    assert "old.jsonl:1: header line skipped" in shown
    assert f"distillctl train --data {tmp_path}/records.jsonl --set teacher.mode=cached" in shown


def test_training_from_the_file_is_training_from_the_teacher_that_wrote_it(
    tiny: Tiny, whole: Path, tmp_path: Path
) -> None:
    steps = ("training.max_steps=3", "evaluation.limit=1")
    live = run_config(tiny.config(tmp_path / "live", *steps))
    found = run_config(converted(tiny, whole, *steps, run=str(tmp_path / "found")))
    for one, other in zip(live.run.step_metrics(), found.run.step_metrics(), strict=True):
        names = [name for name in one if name.startswith("loss_")]
        assert [one[name] for name in names] == pytest.approx([other[name] for name in names], abs=1e-5)


def test_a_run_says_that_nobody_verified_the_cache(tiny: Tiny, teacher_logits: Logits, tmp_path: Path) -> None:
    file = old_file(tiny, tmp_path / "old.jsonl", teacher_logits, bits=16)
    assert prepare(tiny, file, tmp_path, "teacher.top_k=32") == 0
    reporter = Notes()
    distil(converted(tiny, tmp_path), reporter)
    run = record(tmp_path / "run")
    facts = run["teacher_cache"]
    assert facts["verified"] == UNVERIFIED and facts["difference_from_live"] is None
    assert facts["source"] == "converted from old.jsonl" and facts["precision"] == "16 bits in the file"
    assert facts["top_k"] == 32  # the cache's own, where the settings give none
    name = f"trident:{read_trident(file, None).sha256}"
    assert facts["teacher"] == run["fingerprints"]["teacher"] == name
    assert any(UNVERIFIED in line for line in reporter.lines)
    assert "converted from old.jsonl" in (tmp_path / "run/student/README.md").read_text()
    said = plan(converted(tiny, tmp_path, run="other"), Notes()).facts["teacher cache"]
    assert said == f"k=32; converted, {UNVERIFIED}; lacks 0 examples"


@pytest.mark.parametrize(("bits", "packed"), [(32, False), (16, False), (8, False), (4, False), (4, True)])
def test_rows_are_the_file_s_values(
    tiny: Tiny, examples: dict[str, Example], tmp_path: Path, bits: int, packed: bool
) -> None:
    width, generator = len(tiny.tokenizer), np.random.default_rng(1)
    values: dict[str, Any] = {}
    wanted: dict[str, np.ndarray] = {}
    for name, example in examples.items():
        shape = (len(example.labels), width)
        if bits >= 16:
            rows = generator.normal(0, 4, shape).astype(np.float16 if bits == 16 else np.float32)
            wanted[name], values[name] = rows.astype(np.float32), compressed(rows.tolist(), bits)
        else:
            codes = generator.integers(0, 2**bits, shape)
            values[name] = compressed(codes.tolist(), bits, packed=packed, scale=0.1, zero_point=3)
            wanted[name] = ((codes - 3) * 0.1).astype(np.float32)
    file = write_trident(tmp_path / "old.jsonl", rows_of(tiny, values))
    assert prepare(tiny, file, tmp_path) == 0
    reader, train = opened(tiny, tmp_path, examples)
    for name in train:
        rows = reader.rows(examples[name])["logits"]
        assert np.array_equal(rows, wanted[name] - wanted[name].max(axis=1, keepdims=True))


def opened(tiny: Tiny, folder: Path, examples: dict[str, Example]) -> tuple[CacheReader, list[str]]:
    """The converted cache, and the ids of the training records."""
    train = train_ids(read_jsonl(folder / "records.jsonl").records)
    config = converted(tiny, folder)
    opener = ConvertedCacheOpener(config, tiny.tokenizer, len(tiny.tokenizer), [examples[name] for name in train])
    return CacheReader(opener.cache), train


def train_ids(records: tuple[Record, ...]) -> list[str]:
    return [one.id for one in records[:48]]


def test_an_interrupted_conversion_goes_on(
    tiny: Tiny, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = whole / "old.jsonl"
    from distillctl.core import conversion

    real, seen = conversion.read_logits, []

    def stop(*call: Any) -> Any:
        seen.append(call)
        if len(seen) == 20:
            raise KeyboardInterrupt
        return real(*call)

    monkeypatch.setattr("distillctl.core.store.writer.SHARD_BYTES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "read_logits", stop)
        assert prepare(tiny, file, tmp_path) == 130
    before = file_bytes(tmp_path / "cache")
    capsys.readouterr()
    assert prepare(tiny, file, tmp_path) == 0
    assert "29 examples added" in capsys.readouterr().out
    after = file_bytes(tmp_path / "cache")
    assert all(after[name] == content for name, content in before.items() if name.startswith("shard"))
    assert prepare(tiny, file, tmp_path) == 0
    assert "0 examples added" in capsys.readouterr().out
    assert file_bytes(tmp_path / "cache") == after


def test_records_without_logits_are_told_and_a_training_on_them_is_refused(
    tiny: Tiny, teacher_logits: Logits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {name: rows for name, rows in teacher_logits.items() if name not in ("tiny-0", "tiny-1")}
    assert prepare(tiny, old_file(tiny, tmp_path / "old.jsonl", some), tmp_path) == 0
    assert "lines with logits: 60 of 62" in capsys.readouterr().out
    with pytest.raises(DataError, match="comes from a file and lacks 2 of 48 examples"):
        run_config(converted(tiny, tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_file_without_logits_is_only_records(tiny: Tiny, tmp_path: Path) -> None:
    assert prepare(tiny, old_file(tiny, tmp_path / "old.jsonl", {}), tmp_path) == 0
    assert set(read_jsonl(tmp_path / "records.jsonl").records) == set(read_jsonl(tiny.corpus).records)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.max_target_length=6",), "max target length 20 there, 6 here"),
        (("objective.jsd.temperature=2",), "temperature 1.0 there, 2.0 here"),
        (("teacher.top_k=8",), "top k"),
    ],
)
def test_a_run_with_other_settings_is_refused(
    tiny: Tiny, whole: Path, tmp_path: Path, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run_config(converted(tiny, whole, *settings, run=str(tmp_path / "run")))


def test_a_flipped_byte_and_a_changed_manifest_are_refused(tiny: Tiny, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    rows, manifest = tmp_path / "cache/shard-00000.rows", tmp_path / "cache/cache.json"
    whole, said = rows.read_bytes(), manifest.read_text()
    rows.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="not the bytes that were written"):
        run_config(converted(tiny, tmp_path))
    rows.write_bytes(whole)
    manifest.write_text(said.replace("converted from old", "converted from new"))
    with pytest.raises(DataError, match="damaged teacher cache"):
        run_config(converted(tiny, tmp_path))


def test_logits_of_another_target_or_vocabulary_name_the_line(
    tiny: Tiny, teacher_logits: Logits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [one.id for one in read_jsonl(tiny.corpus).records]
    for change, message in (
        (lambda rows: rows[:-1], "positions for a target of"),
        (lambda rows: [row[:-1] for row in rows], f"and this run's vocabulary has {len(tiny.tokenizer)}"),
    ):
        bad = dict(teacher_logits) | {ids[5]: change(teacher_logits[ids[5]])}
        assert prepare(tiny, old_file(tiny, tmp_path / "old.jsonl", bad), tmp_path) == 3
        error = capsys.readouterr().err
        assert f"{tmp_path}/old.jsonl:7: compressed_logits" in error and message in error
        assert len(error.strip().splitlines()) == 1


def test_the_default_directory_is_named_by_what_the_cache_is_made_of(tiny: Tiny, whole: Path) -> None:
    file = read_trident(whole / "old.jsonl", None)
    train = [one for one in file.loaded.records if one.id in train_ids(read_jsonl(tiny.corpus).records)]
    found = convert_logits(tiny.config("unused"), file, train, Notes())
    other = convert_logits(tiny.config("unused", "objective.jsd.temperature=2"), file, train, Notes())
    assert found["examples"] == len(train) and found["directory"] != other["directory"]
