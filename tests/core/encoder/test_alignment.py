"""Vocabulary alignment: identity, same spelling, pieces, roles; and a report that counts every token once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from distillctl.core.encoder.alignment import Match, VocabularyMap, align_vocabularies
from distillctl.core.encoder.frozen import FrozenEncoder
from distillctl.core.encoder.spelling import Spelling, byte_alphabet
from distillctl.core.errors import DataError
from tests.tokenizers import CODET5_SPECIALS, byte_level_bpe, metaspace_words, roberta_bpe

CORPUS = ["assert alpha == beta", "self.assertEqual(alpha, beta)"] * 4
CODE = [
    "assert größe == 'naïve ✓'",
    "    self.assertEqual(stack.push(3), 3)",
    '\tassertThat(x).isEqualTo("日本語");\n',
    "for i in range(10):\n        assert i != 11",
    "np.testing.assert_allclose(a, b, rtol=1e-07)",
]


def embedding(rows: int, width: int = 5) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def ordinary(tokenizer: Any) -> dict[str, int]:
    special = Spelling(tokenizer).special
    return {token: index for token, index in tokenizer.get_vocab().items() if token not in special}


def matched(found: VocabularyMap, token_id: int) -> Match:
    return Match(int(found.matches[token_id]))


def assert_pieces_spell_the_token(student: Any, encoder: Any, found: VocabularyMap) -> None:
    """Of two byte-level vocabularies nothing is lost: together the pieces have the bytes of the token."""
    mine, theirs = Spelling(student), Spelling(encoder)
    for token, token_id in ordinary(student).items():
        pieces = [theirs.of(piece) for piece in encoder.convert_ids_to_tokens(found.ids_of(token_id))]
        assert b"".join(part or b"?" for part in pieces) == mine.of(token)
        assert matched(found, token_id) == (Match.EXACT if len(pieces) == 1 else Match.PIECES)


# --- properties -----------------------------------------------------------------------------------------------

CORPORA = st.lists(st.sampled_from(CODE), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(CORPORA, CORPORA, st.integers(263, 420), st.integers(263, 420), st.booleans())
def test_the_pieces_of_another_byte_level_bpe_have_the_tokens_bytes(
    ours: list[str], theirs: list[str], size: int, other_size: int, add_prefix_space: bool
) -> None:
    student = roberta_bpe(ours, size, CODET5_SPECIALS)
    encoder = roberta_bpe(theirs, other_size, add_prefix_space=add_prefix_space)
    assert_pieces_spell_the_token(student, encoder, align_vocabularies(student, encoder))


@settings(max_examples=10, deadline=None)
@given(CORPORA, st.integers(263, 420))
def test_the_same_tokens_at_other_ids_are_each_others_place(corpus: list[str], size: int) -> None:
    student, encoder = roberta_bpe(corpus, size, ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]), roberta_bpe(corpus, size)
    found = align_vocabularies(student, encoder)
    for token, token_id in student.get_vocab().items():
        assert encoder.convert_ids_to_tokens(found.ids_of(token_id)) == [token]
    assert (found.coverage().exact, found.identical) == (len(student), False)


@settings(max_examples=10, deadline=None)
@given(CORPORA, st.integers(263, 420))
def test_the_same_vocabulary_is_the_identity(corpus: list[str], size: int) -> None:
    tokenizer = roberta_bpe(corpus, size)
    found = align_vocabularies(tokenizer, tokenizer)
    assert found.identical and [found.ids_of(index) for index in range(3)] == [[0], [1], [2]]
    assert torch.equal(found.table(embedding(len(tokenizer))), embedding(len(tokenizer)))


# --- byte-level vocabularies ----------------------------------------------------------------------------------


def test_identity_when_the_vocabularies_are_the_same() -> None:
    tokenizer = byte_level_bpe(CORPUS, 280)
    source = embedding(len(tokenizer) + 3)
    found = align_vocabularies(tokenizer, tokenizer)
    table = found.table(source, rows=len(tokenizer) + 2)
    assert torch.equal(table, source[: len(tokenizer) + 2])
    assert table.data_ptr() == source.data_ptr()  # a view: no second copy of the teacher's embedding
    assert found.coverage().to_dict() == {"exact": len(tokenizer), "by_pieces": 0, "altered": 0, "none": 0}
    wider = found.table(source, rows=len(source) + 4)
    assert torch.equal(wider[: len(source)], source)
    assert_no_token(wider[len(source) :], source)


def assert_no_token(rows: Tensor, source: Tensor) -> None:
    """As long as the others, in the direction of their mean."""
    assert len(rows)
    torch.testing.assert_close(rows.norm(dim=1), source.norm(dim=1).median().expand(len(rows)))
    alike = torch.nn.functional.cosine_similarity(rows, source.mean(0, keepdim=True))
    torch.testing.assert_close(alike, torch.ones(len(rows)))


def test_a_prediction_of_no_token_is_no_explosion() -> None:
    """A zero row would give a T5 encoder's RMS norm a Jacobian of 1,000."""
    tokenizer = byte_level_bpe(CORPUS, 280)
    model = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    weight = model.get_input_embeddings().weight
    table = align_vocabularies(tokenizer, tokenizer).table(weight, rows=len(tokenizer) + 1)
    encoder, mask = FrozenEncoder(model, table), torch.ones(1, 2, dtype=torch.bool)

    def gradient(predicted: list[int]) -> float:
        logits = torch.nn.functional.one_hot(torch.tensor([predicted]), len(table)).float().requires_grad_(True)
        encoder.predicted_states(logits, mask)[..., 0].sum().backward()
        assert logits.grad is not None
        return float(logits.grad.norm())

    assert gradient([9, len(tokenizer)]) < 20 * gradient([9, 9])


def test_a_pad_token_that_is_the_end_as_well_is_the_end() -> None:
    student, encoder = (byte_level_bpe(CORPUS, 280) for _ in range(2))
    student.pad_token = student.eos_token
    found = align_vocabularies(student, encoder)
    assert found.ids_of(student.eos_token_id) == [encoder.eos_token_id]


def naive_table(student: Any, encoder: Any, found: VocabularyMap, source: Tensor, rows: int) -> Tensor:
    """One token after the other."""
    nothing = source.mean(0) / source.mean(0).norm() * source.norm(dim=1).median()
    table = nothing.repeat(rows, 1)
    for token_id in student.get_vocab().values():
        pieces = found.ids_of(token_id)
        table[token_id] = torch.stack([source[piece] for piece in pieces]).mean(0) if pieces else nothing
    return table


def test_other_ids_and_longer_tokens() -> None:
    student = byte_level_bpe(CORPUS, 300)
    encoder = byte_level_bpe(CORPUS[1:2], 290, specials=["<unk>", "</s>", "<mask>", "<pad>"])
    source = embedding(len(encoder))
    found = align_vocabularies(student, encoder)
    table = found.table(source, rows=len(student) + 1)
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
    torch.testing.assert_close(table, naive_table(student, encoder, found, source, len(student) + 1))
    # <extra_id_0> has no counterpart: the encoder's unknown token stands for it, and the report says so.
    assert torch.equal(table[student.get_vocab()["<extra_id_0>"]], source[encoder.unk_token_id])
    assert found.without_counterpart().tolist() == [student.get_vocab()["<extra_id_0>"]]
    assert_no_token(table[len(student) :], source)
    coverage = found.coverage()
    assert (coverage.by_pieces, coverage.none, coverage.altered) == (len(cut), 1, 0)
    assert coverage.total == len(student)
    assert str(coverage).endswith("% without counterpart")
    assert not table.requires_grad


def test_a_part_of_a_character_is_found_by_its_byte() -> None:
    """The text of such a token is no text; and two bytes of a three-byte character are two pieces."""
    student, encoder = roberta_bpe(["日日日 ✓✓"] * 9, 300, CODET5_SPECIALS), roberta_bpe(CORPUS, 300)
    found = align_vocabularies(student, encoder)
    parts = {t: i for t, i in ordinary(student).items() if "\N{REPLACEMENT CHARACTER}" in student.decode([i])}
    assert any(len(token) == 1 for token in parts) and any(len(token) == 2 for token in parts)
    for token, token_id in parts.items():
        assert encoder.convert_ids_to_tokens(found.ids_of(token_id)) == list(token)
    assert_pieces_spell_the_token(student, encoder, found)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_the_leading_space_is_part_of_the_token(add_prefix_space: bool) -> None:
    student = roberta_bpe(CORPUS, 310, CODET5_SPECIALS)
    encoder = roberta_bpe(["x assert alpha"] * 4, 290, add_prefix_space=add_prefix_space)
    found = align_vocabularies(student, encoder)

    def place(token: str) -> list[str]:
        pieces: list[str] = encoder.convert_ids_to_tokens(found.ids_of(student.get_vocab()[token]))
        return pieces

    assert {"Ġassert", "Ġalpha"} <= encoder.get_vocab().keys() and "assert" in student.get_vocab()
    assert place("Ġalpha") == ["Ġalpha"]
    assert "".join(place("assert")) == "assert" and len(place("assert")) > 1
    assert "".join(place("Ġbeta")) == "Ġbeta"


def test_special_tokens_map_by_role_and_ids_without_counterpart_are_counted() -> None:
    """The ids of CodeT5+ and CodeBERT: <pad> 0 and <s> 1 of the one are <pad> 1 and <s> 0 of the other."""
    student, encoder = roberta_bpe(CORPUS, 290, CODET5_SPECIALS), roberta_bpe(CORPUS, 280)
    found = align_vocabularies(student, encoder)
    places = {token: found.ids_of(index) for index, token in enumerate(CODET5_SPECIALS)}
    assert places == {
        "<pad>": [1],
        "<s>": [0],
        "</s>": [2],
        "<unk>": [3],
        "<mask>": [4],
        "<extra_id_0>": [3],
        "<extra_id_1>": [3],
    }
    assert student.convert_ids_to_tokens(found.without_counterpart().tolist()) == ["<extra_id_0>", "<extra_id_1>"]
    assert found.coverage().none == 2


def test_an_ordinary_token_that_looks_like_the_encoders_special_one_is_text() -> None:
    tokens = ["<pad>", "</s>", *byte_alphabet(), "<s", "<s>"]
    merges = [("<", "s"), ("<s", ">")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
    encoder = roberta_bpe(CORPUS, 280)
    found = align_vocabularies(plain, encoder)
    assert encoder.convert_ids_to_tokens(found.ids_of(plain.get_vocab()["<s>"])) == ["<", "s", ">"]


# --- other notations ------------------------------------------------------------------------------------------


def test_the_space_of_sentencepiece_is_part_of_the_text() -> None:
    student = metaspace_words(["assert", "alpha"])
    encoder = byte_level_bpe(CORPUS, 300)
    source = embedding(len(encoder))
    found = align_vocabularies(student, encoder)
    ids = encoder(" alpha", add_special_tokens=False)["input_ids"]
    assert torch.allclose(found.table(source)[student.get_vocab()["▁alpha"]], source[ids].mean(0))
    assert found.coverage().none == 0


def test_a_byte_level_space_is_sentencepieces() -> None:
    student, encoder = byte_level_bpe(CORPUS, 300), metaspace_words(["assert", "alpha"])
    found = align_vocabularies(student, encoder)
    assert found.ids_of(student.get_vocab()["Ġalpha"]) == [encoder.get_vocab()["▁alpha"]]
    assert matched(found, student.get_vocab()["="]) == Match.NONE  # it knows two words, and no other
    assert "é" not in encoder.get_vocab() and found.coverage().exact >= 6


def wordpiece() -> PreTrainedTokenizerFast:
    words = ["[UNK]", "[PAD]", "[SEP]", "assert", "alpha", "##s", "="]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", sep_token="[SEP]")


def test_what_an_encoder_in_lower_case_makes_of_a_token_is_said_to_be_altered() -> None:
    student = byte_level_bpe(["x = Assert ALPHA assert alphas"] * 4, 300)
    ids, found = student.get_vocab(), align_vocabularies(student, encoder := wordpiece())
    assert (found.ids_of(ids["Ġassert"]), matched(found, ids["Ġassert"])) == ([3], Match.EXACT)
    assert (found.ids_of(ids["ĠAssert"]), matched(found, ids["ĠAssert"])) == ([3], Match.ALTERED)
    assert (found.ids_of(ids["Ġalphas"]), matched(found, ids["Ġalphas"])) == ([4, 5], Match.PIECES)
    assert (found.ids_of(ids["#"]), matched(found, ids["#"])) == ([0], Match.NONE)
    assert found.ids_of(ids["</s>"]) == [encoder.sep_token_id]
    assert "altered" in str(found.coverage())


def test_parts_of_a_character_have_no_text_to_cut() -> None:
    student, encoder = ByT5Tokenizer(), byte_level_bpe(CORPUS, 270)
    found = align_vocabularies(student, encoder)
    ids = encoder("=", add_special_tokens=False)["input_ids"]
    place = found.table(embedding(len(encoder)), rows=400)[student.convert_tokens_to_ids("=")]
    assert torch.allclose(place, embedding(len(encoder))[ids].mean(0))
    assert found.coverage().none > 0
    assert found.coverage().total == len(student.get_vocab())


# --- counts ---------------------------------------------------------------------------------------------------


def test_coverage_of_the_targets_counts_each_use() -> None:
    student, encoder = roberta_bpe(CORPUS, 310, CODET5_SPECIALS), roberta_bpe(CORPUS[1:2], 280)
    found = align_vocabularies(student, encoder)
    labels = student("assert alpha == beta <extra_id_0>")["input_ids"]
    counted = found.coverage(torch.bincount(torch.tensor(labels)))
    names = {Match.EXACT: "exact", Match.PIECES: "by_pieces", Match.ALTERED: "altered", Match.NONE: "none"}
    naive = dict.fromkeys(names.values(), 0)
    for label in labels:
        naive[names[matched(found, label)]] += 1
    assert counted.to_dict() == naive
    assert counted.total == len(labels)
    assert min(naive["exact"], naive["by_pieces"], naive["none"]) > 0
    assert found.coverage(torch.zeros(0, dtype=torch.int64)).total == 0


def test_an_encoder_without_an_unknown_token_gives_the_direction_of_its_mean() -> None:
    student, encoder = byte_level_bpe(CORPUS, 280), byte_level_bpe(CORPUS, 270, ["<pad>", "</s>", "<mask>"])
    encoder.unk_token = None
    source = embedding(len(encoder))
    found = align_vocabularies(student, encoder)
    lost = student.get_vocab()["<extra_id_0>"]
    assert matched(found, lost) == Match.NONE and found.ids_of(lost) == []
    assert_no_token(found.table(source)[lost : lost + 1], source)


def test_tables_that_do_not_fit_are_refused() -> None:
    tokenizer = byte_level_bpe(CORPUS, 280)
    for other in (tokenizer, byte_level_bpe(CORPUS, 290)):
        with pytest.raises(DataError, match="its logits only 100 columns"):
            align_vocabularies(tokenizer, other).table(embedding(400), rows=100)
        with pytest.raises(DataError, match="its embedding only 100 rows"):
            align_vocabularies(tokenizer, other).table(embedding(100))
