"""``distillctl train`` on bad input: one clear error with its exit code, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from transformers import GPT2Config, GPT2LMHeadModel

from distillctl import cli
from distillctl.core.models.loading import save_model
from tests.tiny import Tiny, rows_of, tiny_teacher

Err = pytest.CaptureFixture[str]


def corpus_with(tiny: Tiny, tmp_path: Path, **changes: Any) -> str:
    """The tiny corpus with its third record changed; None drops a field."""
    lines = tiny.corpus.read_text().splitlines()
    record = json.loads(lines[2]) | changes
    lines[2] = json.dumps({name: value for name, value in record.items() if value is not None})
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "bad.jsonl")


def text_with(tiny: Tiny, tmp_path: Path, number: int, line: str) -> str:
    lines = tiny.corpus.read_text().splitlines()
    lines[number - 1] = line
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "bad.jsonl")


def first_lines(tiny: Tiny, tmp_path: Path, number: int) -> str:
    (tmp_path / "bad.jsonl").write_text("".join(tiny.corpus.read_text().splitlines(keepends=True)[:number]))
    return str(tmp_path / "bad.jsonl")


BadData = Callable[[Tiny, Path], str]
BAD_DATA: dict[str, tuple[BadData, int, str]] = {
    "missing file": (lambda t, p: str(p / "none.jsonl"), 2, "none.jsonl: no such file. Give --data a JSONL file"),
    "malformed": (lambda t, p: text_with(t, p, 7, '{"id": 1,'), 3, "bad.jsonl:7: not valid JSON"),
    "missing field": (lambda t, p: corpus_with(t, p, path=None), 3, "bad.jsonl:3: missing field path"),
    "no assertions": (lambda t, p: corpus_with(t, p, assertions=[]), 3, "bad.jsonl:3: assertions are empty"),
    "blank assertion": (lambda t, p: corpus_with(t, p, assertions=["  "]), 3, "bad.jsonl:3: assertions are empty"),
    "no mask": (
        lambda t, p: corpus_with(t, p, test_method_masked="def test(): pass"),
        3,
        "bad.jsonl:3: test_method_masked has no mask: write <extra_id_0>",
    ),
    "language": (lambda t, p: corpus_with(t, p, language="c"), 3, "bad.jsonl:3: language should be one of python"),
    "empty split": (lambda t, p: first_lines(t, p, 20), 3, "the validation split has no records (splits are by file"),
    "empty file": (lambda t, p: first_lines(t, p, 0), 3, "bad.jsonl: holds no record"),
}


@pytest.mark.parametrize(("make", "code", "words"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_records_are_one_clear_error(
    make: BadData, code: int, words: str, tiny: Tiny, tmp_path: Path, capsys: Err
) -> None:
    data = make(tiny, tmp_path)
    assert cli.run([*tiny.argv("train", tmp_path / "run"), "--data", data]) == code
    assert_one_error(capsys, words)
    assert not (tmp_path / "run").exists()


def assert_one_error(capsys: Err, words: str) -> None:
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error


def other_ids(tiny: Tiny, path: Path) -> None:
    content = json.loads((path / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = (token for token, index in vocabulary.items() if index in (50, 51))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (path / "tokenizer.json").write_text(json.dumps(content))


def pickled(tiny: Tiny, path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def no_config(tiny: Tiny, path: Path) -> None:
    (path / "config.json").unlink()


def half(tiny: Tiny, path: Path) -> None:
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])


def decoder_only(tiny: Tiny, path: Path) -> None:
    shape = GPT2Config(vocab_size=len(tiny.tokenizer), n_embd=8, n_layer=1, n_head=2)
    GPT2LMHeadModel(shape).save_pretrained(path)


def wide(tiny: Tiny, path: Path) -> None:
    save_model(tiny_teacher(tiny.tokenizer, width=24), tiny.tokenizer, path)


def padded(tiny: Tiny, path: Path) -> None:
    """A vocabulary with room behind it, and a token in that room that the other does not know."""
    save_model(tiny_teacher(tiny.tokenizer, vocab_size=len(tiny.tokenizer) + 64), tiny.tokenizer, path)
    content = json.loads((path / "tokenizer.json").read_text())
    content["model"]["vocab"]["surprise"] = len(tiny.tokenizer) + 3
    (path / "tokenizer.json").write_text(json.dumps(content))


BadModel = Callable[[Tiny, Path], None]
BAD_MODELS: dict[str, tuple[BadModel, str, int, str]] = {
    "other ids": (other_ids, "--student", 3, "use different token ids (2 differ; 50: "),
    "padded, with another token": (padded, "--student", 3, "use different token ids (1 differ"),
    "pickled": (pickled, "--teacher", 2, "holds no safetensors but pytorch_model.bin, which can run code when loaded"),
    "no config": (no_config, "--teacher", 2, "holds no config.json, so it is no model directory"),
    "half a file": (half, "--student", 3, "is damaged or does not fit the others"),
    "decoder only": (decoder_only, "--teacher", 3, "is a gpt2 model, not an encoder-decoder"),
    "an encoder without config": (no_config, "--encoder", 2, "encoder '"),
}


@pytest.mark.parametrize(("edit", "option", "code", "words"), BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_a_bad_model_is_one_clear_error(
    edit: BadModel, option: str, code: int, words: str, tiny: Tiny, tmp_path: Path, capsys: Err
) -> None:
    shutil.copytree(tiny.teacher, tmp_path / "model")
    edit(tiny, tmp_path / "model")
    capsys.readouterr()
    assert cli.run([*tiny.argv("train", tmp_path / "run"), option, str(tmp_path / "model")]) == code
    assert_one_error(capsys, words)
    assert not (tmp_path / "run").exists()


def test_room_behind_a_vocabulary_is_no_difference(tiny: Tiny, tmp_path: Path) -> None:
    wider = tiny_teacher(tiny.tokenizer, vocab_size=len(tiny.tokenizer) + 64)
    save_model(wider, tiny.tokenizer, tmp_path / "model")
    argv = tiny.argv("train", tmp_path / "run", "training.max_steps=1")
    assert cli.run([*argv, "--student", str(tmp_path / "model")]) == 0


def test_first_differing_ids_are_shown_with_their_tokens(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    shutil.copytree(tiny.teacher, tmp_path / "model")
    other_ids(tiny, tmp_path / "model")
    assert cli.run([*tiny.argv("train", tmp_path / "run"), "--student", str(tmp_path / "model")]) == 3
    tokens = {index: token for token, index in tiny.tokenizer.get_vocab().items()}
    error = capsys.readouterr().err
    assert f"50: {tokens[51]!r} for the student, {tokens[50]!r} for the teacher" in error
    assert f"51: {tokens[50]!r} for the student, {tokens[51]!r} for the teacher" in error


def test_another_width_cannot_be_filled_from_the_teachers_layers(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    wide(tiny, tmp_path / "wide")
    argv = tiny.argv("train", tmp_path / "run", f"student.model={tmp_path / 'wide'}", "student.init=teacher-layers")
    assert cli.run(argv) == 3
    assert_one_error(capsys, "has no counterpart in the teacher")


@pytest.mark.parametrize("option", ["--student", "--teacher", "--encoder"])
def test_a_name_that_is_neither_local_nor_reachable_fails_at_once(
    option: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Err
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "*")
    assert cli.run([*tiny.argv("train", tmp_path / "run"), option, "nobody/nothing"]) == 2
    assert_one_error(capsys, "'nobody/nothing': there is no such directory, it is not in the local hub cache")
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_has_no_negatives(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    argv = tiny.argv("train", tmp_path / "run", "training.per_device_train_batch_size=1")
    assert cli.run(argv) == 2
    assert_one_error(capsys, "a batch of one with in-batch negatives has no negatives")
    accumulated = [*argv, "--set", "training.gradient_accumulation_steps=4", "--set", "training.max_steps=2"]
    assert cli.run(accumulated) == 0
    assert float(rows_of(tmp_path / "run")[0]["grad_norm_contrastive"]) > 0
    alone = tiny.argv("train", tmp_path / "alone", "training.per_device_train_batch_size=1", "training.max_steps=1")
    assert cli.run([*alone, "--contrastive-weight", "0"]) == 0


def test_a_step_without_negatives_names_the_term(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    lines = [json.loads(line) | {"assertions": ["assert same"]} for line in tiny.corpus.read_text().splitlines()]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.run([*tiny.argv("train", tmp_path / "run"), "--data", str(tmp_path / "same.jsonl")]) == 5
    assert_one_error(capsys, "'contrastive' had nothing to count in the first batch")


def test_a_target_without_a_token_is_dropped_and_counted(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    # Only a tokenizer that drops text makes one; records themselves cannot be empty.
    content = json.loads((tiny.teacher / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "assert nothing"}, "content": ""}
    shutil.copytree(tiny.teacher, tmp_path / "teacher")
    (tmp_path / "teacher/tokenizer.json").write_text(json.dumps(content))
    data = corpus_with(tiny, tmp_path, assertions=["assert nothing"])
    argv = [*tiny.argv("train", tmp_path / "run", "training.max_steps=1"), "--data", data]
    assert cli.run([*argv, "--teacher", str(tmp_path / "teacher")]) == 0
    assert "train: 47 examples" in (out := capsys.readouterr().out)
    assert "dropped 1" in out
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["truncation"]["train"]["dropped"] == 1
    assert record["truncation"]["train"]["examples"] == 47


def test_every_mistake_of_a_configuration_is_told_at_once(tiny: Tiny, tmp_path: Path, capsys: Err) -> None:
    argv = tiny.argv("train", tmp_path / "run", "training.learning_rat=1", "training.warmup_ratio=3")
    assert cli.run([*argv, "--beta", "-2"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 3
    assert "learning_rate" in error
    assert not (tmp_path / "run").exists()
