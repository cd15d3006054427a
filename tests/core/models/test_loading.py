"""Models by name: one clear error where there is none to be had, and files every transformers reads."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
)
from transformers.utils import logging as transformers_logging

from distillctl.core.errors import DataError, RunError, UsageError
from distillctl.core.models.head import run_head_in_float32
from distillctl.core.models.loading import (
    embedded_teacher_path,
    freeze,
    load_config,
    load_seq2seq,
    load_tokenizer,
    model_path,
    quiet_transformers,
    save_model,
    settings_fingerprint,
    tokenizer_fingerprint,
    weights_fingerprint,
)
from tests.tiny import Tiny, distance, tiny_teacher, weights_of

Edit = Callable[[Path], Any]


@pytest.fixture
def copy(tiny: Tiny, tmp_path: Path) -> Callable[[Edit], str]:
    """The path of a copy of the tiny teacher, with something changed."""

    def made(edit: Edit) -> str:
        shutil.copytree(tiny.teacher, tmp_path / "model")
        edit(tmp_path / "model")
        return str(tmp_path / "model")

    return made


def config_with(**changes: Any) -> Edit:
    def edit(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | changes))

    return edit


def without(*names: str) -> Edit:
    def edit(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return edit


def half(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def without_a_tensor(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    del tensors["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


# --- what loads -----------------------------------------------------------------------------------------------


def test_a_saved_model_comes_back_to_the_last_bit(tiny: Tiny) -> None:
    model = load_seq2seq(str(tiny.teacher), "teacher")
    assert distance(weights_of(tiny_teacher(tiny.tokenizer)), weights_of(model)) == 0
    assert model.dtype == torch.float32
    tokenizer = load_tokenizer(str(tiny.teacher))
    text = "assert stack.push(3) == 3 <extra_id_0>"
    assert tokenizer(text).input_ids == tiny.tokenizer(text).input_ids
    assert tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(tiny.tokenizer)


def test_half_precision_weights_are_read_as_float32(copy: Callable[[Edit], str], tiny: Tiny) -> None:
    def edit(path: Path) -> None:
        tiny_teacher(tiny.tokenizer).bfloat16().save_pretrained(path)

    assert {p.dtype for p in load_seq2seq(copy(edit), "teacher").parameters()} == {torch.float32}


def test_the_embedded_teacher_lies_in_the_package() -> None:
    assert model_path("embedded") == str(embedded_teacher_path())
    assert model_path("a/b") == "a/b"
    assert load_config("embedded", "teacher").is_encoder_decoder


# --- what does not --------------------------------------------------------------------------------------------

INDEX = "model.safetensors.index.json"


def index_of(file: str) -> Edit:
    """Weights that are said to lie in another file."""
    return lambda path: (path / INDEX).write_text(json.dumps({"weight_map": {"shared.weight": file}}))


def header(length: int) -> Edit:
    """Weights whose header claims to be that long."""

    def edit(path: Path) -> None:
        file = path / "model.safetensors"
        file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])

    return edit


BAD_MODELS: list[tuple[str, Edit, type[Exception], str]] = [
    ("no config", without("config.json"), UsageError, "holds no config.json, so it is no model directory"),
    ("no weights", without("model.safetensors"), UsageError, "holds no model.safetensors"),
    (
        "pickled",
        pickled,
        UsageError,
        r"no safetensors but pytorch_model.bin, .*safe_serialization=True",
    ),
    ("half a file", half, DataError, "damaged or does not fit the others"),
    ("junk", lambda p: (p / "model.safetensors").write_bytes(b"junk" * 99), DataError, "damaged"),
    ("a tensor short", without_a_tensor, DataError, r"lack 1 of the tensors.*block\.1\.layer\.0\.SelfAttention\.q"),
    ("more layers", config_with(num_layers=3), DataError, r"lack 8 of the tensors.*encoder\.block\.2"),
    ("other shapes", config_with(d_model=24), DataError, "damaged or does not fit the others"),
    ("wrong type", config_with(d_model="wide"), DataError, "damaged"),
    ("unknown family", config_with(model_type="nope"), DataError, "nope"),
    ("no JSON", lambda p: (p / "config.json").write_text("{"), DataError, "JSON"),
    (
        "an index that escapes",
        index_of("../../elsewhere.safetensors"),
        DataError,
        "names '../../elsewhere.safetensors'",
    ),
    ("an index with a root", index_of("/etc/passwd.safetensors"), DataError, "no safetensors file of this directory"),
    ("an index of others", index_of("pytorch_model.bin"), DataError, "names 'pytorch_model.bin'"),
    ("a broken index", lambda p: (p / INDEX).write_text('{"weight_map": 3}'), DataError, "index.json is damaged"),
    ("a deep index", lambda p: (p / INDEX).write_text("[" * 100_000), DataError, "index.json is damaged"),
    ("a deep config", lambda p: (p / "config.json").write_text("[" * 100_000), DataError, "damaged"),
    ("a huge header", header(2**62), DataError, "damaged"),
    ("a header beyond the file", header(2**20), DataError, "damaged"),
    ("a million layers", config_with(num_layers=10**6), DataError, "num_layers 1,000,000: no model is that large"),
    ("a vast vocabulary", config_with(vocab_size=10**12), DataError, "vocab_size 1,000,000,000,000: no model"),
    ("own code", config_with(model_type="x", auto_map={"AutoConfig": "a.B"}), DataError, "execute"),
]


@pytest.mark.parametrize(("edit", "kind", "words"), [bad[1:] for bad in BAD_MODELS], ids=[bad[0] for bad in BAD_MODELS])
def test_a_bad_directory_is_one_clear_error(
    copy: Callable[[Edit], str], edit: Edit, kind: type[Exception], words: str
) -> None:
    path = copy(edit)
    with pytest.raises(kind, match=words) as caught:
        load_seq2seq(path, "teacher")
    assert str(caught.value).startswith(f"teacher '{path}'")
    assert len(str(caught.value).splitlines()) == 1


BAD_TOKENIZERS: list[tuple[str, Edit, type[Exception], str]] = [
    ("none", without("tokenizer.json", "tokenizer_config.json"), UsageError, "holds no tokenizer"),
    ("empty", lambda p: (p / "tokenizer.json").write_text("{}"), DataError, "damaged"),
    ("no JSON", lambda p: (p / "tokenizer.json").write_text("{"), DataError, "damaged"),
    ("deep", lambda p: (p / "tokenizer.json").write_text("[" * 100_000), DataError, "damaged"),
]


@pytest.mark.parametrize(
    ("edit", "kind", "words"), [bad[1:] for bad in BAD_TOKENIZERS], ids=[bad[0] for bad in BAD_TOKENIZERS]
)
def test_a_bad_tokenizer_is_one_clear_error(
    copy: Callable[[Edit], str], edit: Edit, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        load_tokenizer(copy(edit), "student")


def test_a_decoder_only_model_is_a_data_error(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt")
    with pytest.raises(DataError, match=r"is a gpt2 model, not an encoder-decoder"):
        load_seq2seq(str(tmp_path / "gpt"), "student")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere", "x" * 300])
def test_a_path_to_nothing_is_told_without_asking_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillctl.core.models.loading.check_hub_name", lambda *call: pytest.fail("asked"))
    with pytest.raises(UsageError, match=r"no such directory|cannot be a directory"):
        load_config(name, "teacher")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError, match=r"should be a directory made by save_pretrained\. Found a file"):
        load_seq2seq(str(tmp_path / "model.safetensors"), "teacher")


# --- what is done to models -----------------------------------------------------------------------------------


def test_a_head_in_float32_gives_the_same_logits_and_saves_the_same_files(tiny: Tiny, tmp_path: Path) -> None:
    plain, changed = tiny_teacher(tiny.tokenizer), tiny_teacher(tiny.tokenizer)
    run_head_in_float32(changed)
    inputs = {"input_ids": torch.tensor([[5, 6, 1]]), "labels": torch.tensor([[7, 1]])}
    assert torch.equal(plain(**inputs).logits, changed(**inputs).logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plain(**inputs).logits.dtype == torch.bfloat16
        assert changed(**inputs).logits.dtype == torch.float32
    assert weights_fingerprint(plain) == weights_fingerprint(changed)
    changed.save_pretrained(tmp_path)
    assert distance(weights_of(plain), weights_of(load_model(tmp_path))) == 0


def load_model(path: Path) -> Any:
    return AutoModelForSeq2SeqLM.from_pretrained(path)


def test_a_heads_bias_is_kept() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 5)

        def get_output_embeddings(self) -> nn.Module:
            return self.head

    model, hidden = Model(), torch.randn(2, 3)
    expected = model.head(hidden)
    run_head_in_float32(model)
    assert torch.allclose(model.head(hidden), expected)


def test_freezing_stops_gradient_and_dropout(tiny: Tiny) -> None:
    model = freeze(tiny_teacher(tiny.tokenizer).train())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_fingerprint_is_of_names_shapes_and_values(tiny: Tiny) -> None:
    first = weights_fingerprint(tiny_teacher(tiny.tokenizer))
    assert first == weights_fingerprint(tiny_teacher(tiny.tokenizer))
    changed = tiny_teacher(tiny.tokenizer)
    with torch.no_grad():
        changed.shared.weight[3, 3] += 1e-6
    assert weights_fingerprint(changed) != first
    assert len(first) == 64
    scalar = nn.BatchNorm1d(2)  # has a number without a shape
    assert weights_fingerprint(scalar) != weights_fingerprint(nn.BatchNorm1d(3))


def test_the_settings_fingerprint_is_of_what_changes_the_texts(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny_teacher(tiny.tokenizer)
    first = settings_fingerprint(model)
    model.config.dropout_rate, model.config.use_cache = 0.5, False
    model.save_pretrained(tmp_path / "elsewhere")
    assert settings_fingerprint(load_seq2seq(str(tmp_path / "elsewhere"), "teacher")) == first
    model.config.decoder_start_token_id = 5
    assert settings_fingerprint(model) != first
    model.config.decoder_start_token_id = 0
    model.generation_config.forced_eos_token_id = 1
    assert settings_fingerprint(model) != first


def test_silence_ends_with_the_loading() -> None:
    before = transformers_logging.get_verbosity()
    with pytest.raises(ZeroDivisionError), quiet_transformers():
        assert transformers_logging.get_verbosity() == logging.ERROR
        raise ZeroDivisionError
    assert transformers_logging.get_verbosity() == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("no space")], ids=repr)
def test_a_full_disk_is_a_run_error(
    error: Exception, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*call: Any, **more: Any) -> None:
        raise error

    model = tiny_teacher(tiny.tokenizer)
    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(RunError, match=r"student: the model cannot be written: .*space"):
        save_model(model, tiny.tokenizer, tmp_path / "student")
