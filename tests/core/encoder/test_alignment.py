"""Vocabulary alignment: identity, same token, pieces, roles; and a report that counts every token once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import ByT5Tokenizer

from distillctl.core.encoder.alignment import align_vocabulary
from distillctl.core.errors import DataError
from tests.tokenizers import byte_level_bpe, metaspace_words

CORPUS = ["assert alpha == beta", "self.assertEqual(alpha, beta)"] * 4


def embedding(rows: int, width: int = 5) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_identity_when_the_vocabularies_are_the_same() -> None:
    tokenizer = byte_level_bpe(CORPUS, 280)
    source = embedding(len(tokenizer) + 3)
    table, coverage = align_vocabulary(tokenizer, tokenizer, source, rows=len(tokenizer) + 2)
    assert torch.equal(table, source[: len(tokenizer) + 2])
    assert (coverage.identical, coverage.exact, coverage.padded) == (True, len(tokenizer), 2)
    wider, _ = align_vocabulary(tokenizer, tokenizer, source, rows=len(source) + 4)
    assert torch.equal(wider[: len(source)], source)
    assert (wider[len(source) :] == 0).all()


def test_other_ids_and_longer_tokens() -> None:
    student = byte_level_bpe(CORPUS, 300)
    encoder = byte_level_bpe(CORPUS[1:2], 290, specials=["<unk>", "</s>", "<mask>", "<pad>"])
    source = embedding(len(encoder))
    table, coverage = align_vocabulary(student, encoder, source, rows=len(student) + 1)
    theirs = encoder.get_vocab()
    for role in ("pad_token_id", "eos_token_id", "unk_token_id", "mask_token_id"):
        assert torch.equal(table[getattr(student, role)], source[getattr(encoder, role)])
    assert torch.equal(table[student.get_vocab()["a"]], source[theirs["a"]])
    cut = [token for token in student.get_vocab() if token not in theirs and not token.startswith("<")]
    assert cut, "some student tokens should be unknown to the encoder"
    for token in cut:
        ids = encoder(student.decode([student.get_vocab()[token]]), add_special_tokens=False)["input_ids"]
        assert len(ids) > 1
        assert torch.allclose(table[student.get_vocab()[token]], source[ids].mean(0))
    # <extra_id_0> has no counterpart: the encoder's unknown token stands for it, and the report says so.
    assert torch.equal(table[student.get_vocab()["<extra_id_0>"]], source[encoder.unk_token_id])
    assert coverage.missing == ("<extra_id_0>",)
    assert (coverage.pieces, coverage.none, coverage.padded, coverage.identical) == (len(cut), 1, 1, False)
    assert coverage.exact + coverage.pieces + coverage.none == len(student)
    assert str(coverage).endswith("1 without counterpart")
    assert not table.requires_grad


def test_the_space_of_sentencepiece_is_part_of_the_text() -> None:
    student = metaspace_words(["assert", "alpha"])
    encoder = byte_level_bpe(CORPUS, 300)
    source = embedding(len(encoder))
    table, coverage = align_vocabulary(student, encoder, source)
    ids = encoder(" alpha", add_special_tokens=False)["input_ids"]
    assert torch.allclose(table[student.get_vocab()["▁alpha"]], source[ids].mean(0))
    assert coverage.none == 0


def test_parts_of_a_character_have_no_text_to_cut() -> None:
    student, encoder = ByT5Tokenizer(), byte_level_bpe(CORPUS, 270)
    table, coverage = align_vocabulary(student, encoder, embedding(len(encoder)), rows=400)
    ids = encoder("=", add_special_tokens=False)["input_ids"]
    assert torch.allclose(table[student.convert_tokens_to_ids("=")], embedding(len(encoder))[ids].mean(0))
    assert coverage.none > 0
    assert coverage.exact + coverage.pieces + coverage.none + coverage.padded == 400


def test_tables_that_do_not_fit_are_refused() -> None:
    tokenizer = byte_level_bpe(CORPUS, 280)
    with pytest.raises(DataError, match="its logits only 100 columns"):
        align_vocabulary(tokenizer, tokenizer, embedding(400), rows=100)
    with pytest.raises(DataError, match="its embedding only 100 rows"):
        align_vocabulary(tokenizer, tokenizer, embedding(100))
