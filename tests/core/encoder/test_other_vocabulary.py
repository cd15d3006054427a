"""Trainings through an encoder with a vocabulary of its own, as a user starts them: what is said, kept and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaModel

from distillctl import cli
from distillctl.core.data.corpus import cache_directory
from distillctl.core.data.records import read_jsonl
from distillctl.core.encoder import map_file
from distillctl.core.models.loading import save_model
from tests.runs import record
from tests.tiny import RECORDS, Tiny, rows_of
from tests.tokenizers import roberta_bpe

Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def roberta(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa with a byte-level BPE of another text; tests never write to it."""
    path = tmp_path_factory.mktemp("encoder")
    texts = [record.test_method_masked for record in read_jsonl(tiny.corpus).records]
    tokenizer = roberta_bpe(texts, 360)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer) + 4,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=42,
        pad_token_id=1,
    )
    save_model(RobertaModel(config, add_pooling_layer=False), tokenizer, path)
    return path


def argv(tiny: Tiny, command: str, run: Path, encoder: Path, *settings: str, flags: tuple[str, ...] = ()) -> list[str]:
    more = (f"encoder.model={encoder}", f"encoder.cache_dir={run}-bank", "training.max_steps=2", *settings)
    return tiny.argv(command, run, *more, flags=flags)


@pytest.fixture(scope="module")
def trained(tiny: Tiny, roberta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps; tests never write to it."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert cli.run(argv(tiny, "train", path, roberta)) == 0
    return path


def test_the_terms_behind_it_train_the_student(trained: Path) -> None:
    row = rows_of(trained)[0]
    assert float(row["grad_norm_semantic"]) > 0 and float(row["grad_norm_contrastive"]) > 0
    assert record(trained)["gate"]["semantic"] > 0


def test_the_record_says_how_the_tokens_were_found_and_what_is_lost(tiny: Tiny, trained: Path, roberta: Path) -> None:
    facts = record(trained)["encoder"]
    assert (facts["model"], facts["width"], facts["same_vocabulary"]) == (str(roberta), 24, False)
    tokens, targets = facts["student_tokens"], facts["target_tokens"]
    assert sum(tokens.values()) == len(tiny.tokenizer)
    assert sum(targets.values()) > 5 * RECORDS["train"]
    assert tokens["exact"] > 256 and tokens["by_pieces"] > 0 and tokens["altered"] == 0
    assert tokens["none"] == 8 and targets["none"] == 0  # the masks, which no target holds
    assert set(facts["without_counterpart"]) == {f"<extra_id_{index}>" for index in range(8)}
    error = facts["alignment"]
    assert 2 < error["golds"] <= RECORDS["train"]
    assert error["own"]["low"] <= error["own"]["median"] <= error["own"]["high"] <= 1.001
    assert error["own"]["mean"] > error["others"]["mean"]
    assert error["retrieved"] > 1 / error["golds"]


def test_it_is_said_while_it_happens_and_by_verify(tiny: Tiny, trained: Path, roberta: Path, capsys: Out) -> None:
    facts = record(trained)["encoder"]
    assert cli.run(argv(tiny, "prepare", trained, roberta, flags=("--verify",))) == 0
    shown = capsys.readouterr().out
    assert f"encoder {roberta}: {facts['summary']}" in shown
    assert f"encoder {roberta}: {facts['alignment']['summary']}" in shown
    table = " ".join(shown[shown.index("Embedding bank") :].split())
    assert "vocabulary │ of" in table and "alignment │" in table


def test_a_dry_run_says_it_too(tiny: Tiny, trained: Path, roberta: Path, tmp_path: Path, capsys: Out) -> None:
    assert cli.run(argv(tiny, "train", tmp_path / "run", roberta, flags=("--dry-run",))) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(record(trained)["encoder"]["summary"].split()[:6]) in shown
    assert list(tmp_path.iterdir()) == []


def test_a_later_run_opens_the_map(
    tiny: Tiny, trained: Path, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list((cache_directory() / "alignments").iterdir())
    monkeypatch.setattr(map_file, "align_vocabularies", lambda *call: pytest.fail("aligned"))
    assert cli.run(argv(tiny, "train", tmp_path / "run", roberta, f"encoder.cache_dir={trained}-bank")) == 0
    assert record(tmp_path / "run")["encoder"] == record(trained)["encoder"]
    assert rows_of(tmp_path / "run") == rows_of(trained)


def test_the_teachers_own_encoder_loses_nothing_and_measures_nothing(tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    assert cli.run(tiny.argv("train", tmp_path / "run", "training.max_steps=1")) == 0
    facts = record(tmp_path / "run")["encoder"]
    assert (facts["same_vocabulary"], facts["summary"]) == (True, "the student's own vocabulary")
    assert facts["student_tokens"]["exact"] == len(tiny.tokenizer)
    assert "alignment" not in facts
    assert "counterpart" not in capsys.readouterr().out


def gpt(path: Path, tiny: Tiny) -> Path:
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny.tokenizer), n_embd=8, n_layer=1, n_head=2))
    save_model(model, tiny.tokenizer, path)
    return path


def test_a_decoder_is_refused_before_anything_is_written(tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    assert cli.run(argv(tiny, "train", tmp_path / "run", gpt(tmp_path / "gpt", tiny))) == 3
    error = capsys.readouterr().err
    assert "gpt' is a gpt2 model, a decoder: a token's state knows nothing of what follows" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_targets_longer_than_it_can_read_are_refused(tiny: Tiny, roberta: Path, tmp_path: Path, capsys: Out) -> None:
    assert cli.run(argv(tiny, "train", tmp_path / "run", roberta, "data.max_target_length=41")) == 2
    assert "data.max_target_length=41: the encoder" in (error := capsys.readouterr().err)
    assert "reads 40 tokens at most. Lower it, or name another encoder" in error
    assert not (tmp_path / "run").exists()
