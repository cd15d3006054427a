"""What tokens spell: the byte alphabet, SentencePiece's spaces and fallback bytes, tokens that are no text at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from distillctl.core.encoder.spelling import Notation, Spelling, byte_alphabet
from tests.tokenizers import byte_level_bpe, metaspace_words

CORPUS = ["x assert größe == 3", "self.assertEqual(alpha, beta)  # ✓"] * 4
BPE = byte_level_bpe(CORPUS, 320)


def test_the_alphabet_is_the_librarys() -> None:
    assert len(set(byte_alphabet())) == 256
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert (byte_alphabet()[ord(" ")], byte_alphabet()[ord("\n")], byte_alphabet()[ord("a")]) == ("Ġ", "Ċ", "a")


@given(st.text(max_size=40))
def test_the_tokens_of_a_text_spell_its_bytes(text: str) -> None:
    spelling = Spelling(BPE)
    ids = spelling.natural_ids([text])[0] if text else []
    assert b"".join(spelling.of(token) or b"?" for token in BPE.convert_ids_to_tokens(ids)) == text.encode()
    assert spelling.spells(ids, text.encode())
    assert not spelling.spells(ids, text.encode() + b" ")


@given(st.binary(min_size=1, max_size=12))
def test_the_model_alone_cuts_any_bytes(content: bytes) -> None:
    spelling = Spelling(BPE)
    assert spelling.spells(spelling.model_ids(content), content)


def test_every_ordinary_token_is_found_by_its_spelling() -> None:
    spelling = Spelling(BPE)
    assert spelling.notation is Notation.BYTES
    found = spelling.ids_by_spelling()
    assert len(found) == len(BPE) - len(spelling.special)
    assert found[b" assert"] == BPE.convert_tokens_to_ids("Ġassert")
    assert found[b"\xc3"] == BPE.convert_tokens_to_ids("Ã")
    assert b"<mask>" not in found  # it stands for no text


def test_an_added_run_of_spaces_is_what_it_looks_like() -> None:
    tokenizer = byte_level_bpe(CORPUS, 280)
    tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("Ġ", normalized=False)])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_7>"]})
    spelling = Spelling(tokenizer)
    assert spelling.of("    ") == b"    "
    assert {"<pad>", "<extra_id_0>", "<extra_id_7>"} <= spelling.special
    assert "    " not in spelling.special


def sentencepiece(tokens: list[str], byte_fallback: bool = True) -> PreTrainedTokenizerFast:
    vocab = {token: index for index, token in enumerate(["<unk>", *tokens])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=byte_fallback))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", clean_up_tokenization_spaces=False)


def test_sentencepiece_writes_spaces_and_fallback_bytes() -> None:
    spelling = Spelling(sentencepiece(["<0x41>", "<0x0A>", "▁assert", "é", "A"]))
    assert spelling.notation is Notation.SPACES
    assert spelling.of("▁assert") == b" assert"
    assert spelling.of("é") == "é".encode()
    assert spelling.of("<0x0A>") == b"\n"
    assert spelling.ids_by_spelling()[b"A"] == spelling.vocabulary["A"]  # and not the fallback's
    assert Spelling(sentencepiece(["<0x41>"], byte_fallback=False)).of("<0x41>") == b"<0x41>"
    assert Spelling(metaspace_words(["alpha"])).of("▁alpha") == b" alpha"


def test_a_notation_of_its_own_is_left_to_the_tokenizer() -> None:
    spelling = Spelling(ByT5Tokenizer())
    assert spelling.notation is Notation.TEXT
    assert spelling.of("=") == b"="
    assert spelling.of(chr(0xC3)) is None  # a part of a character, and no text
    assert spelling.ids_by_spelling() == {}
    assert spelling.model_ids(b"a") == []


@pytest.mark.parametrize("text", ["<mask>", "a <pad> b"])
def test_text_that_looks_like_a_special_token_stays_text(text: str) -> None:
    spelling = Spelling(BPE)
    assert spelling.spells(spelling.natural_ids([text])[0], text.encode())
