"""The tokenizer loses no text, spells numbers, and has its special tokens where T5 has them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distillctl.core.data.tokenizer import MASK_TOKENS, train_tokenizer

TEXTS = [
    "def test_add(self):\n    <extra_id_0>\n    self.assertEqual(add(1, 2), 3)\n",
    "def test_frame():\n    frame = make_frame(12345)\n    <extra_id_0>\n    assert frame.size == 12345\n",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


def test_special_tokens_have_their_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    names = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{number}>" for number in range(MASK_TOKENS))]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(len(names)))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    for number, name in enumerate(names):
        assert ids(tokenizer, f"a{name}b")[1] == number
    assert ids(tokenizer, "") == []
    assert len(tokenizer) <= 400


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=30) | st.lists(st.sampled_from([" ", "\n", "12", "é", "</s>", "<extra_id_0>"])).map("".join))
def test_every_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_digits_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "x12345")) == ["x", *"12345"]
    assert not [token for token in tokenizer.get_vocab() if len(token) > 1 and any(c.isdigit() for c in token)][
        MASK_TOKENS:
    ]


def test_masks_do_not_shape_the_merges(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = [token for token in tokenizer.get_vocab() if not token.startswith("<extra_id_")]
    assert not [token for token in plain if "ext" in token or "_id" in token]
    assert "assert" in plain


def test_the_same_texts_give_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(iter(TEXTS), 400)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert ids(again, TEXTS[0]) == ids(tokenizer, TEXTS[0])


def test_it_survives_saving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "é <extra_id_3>\n  x = 12 .  </s>"
    assert ids(loaded, text) == ids(tokenizer, text)
    assert loaded.decode(ids(loaded, text)) == text
    assert loaded.eos_token_id == 1
