"""Teacher and student may only be compared where the same id is the same token."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from distillctl.core.errors import DataError
from distillctl.core.models.vocabulary import logit_width, padded_ids, shared_vocabulary, special_ids
from tests.tiny import Tiny, tiny_teacher


class Words:
    """A tokenizer of which only the vocabulary is asked for."""

    def __init__(self, *tokens: str) -> None:
        self._vocab = {token: index for index, token in enumerate(tokens)}

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocab)


@pytest.mark.parametrize("widths", [(3, 3), (3, 64), (64, 3), (8, 5), (64, 64)])
def test_equal_vocabularies_share_their_tokens_and_padding_is_cut(widths: tuple[int, int]) -> None:
    words = Words("<pad>", "a", "b")
    assert shared_vocabulary(words, words, *widths) == 3


def test_padding_is_what_the_tokenizer_does_not_know(tiny: Tiny) -> None:
    size = len(tiny.tokenizer)
    assert padded_ids(tiny_teacher(tiny.tokenizer), tiny.tokenizer) == []
    wide = tiny_teacher(tiny.tokenizer, vocab_size=size + 3)
    assert (logit_width(wide), padded_ids(wide, tiny.tokenizer)) == (size + 3, [size, size + 1, size + 2])


def test_the_first_differing_ids_are_shown() -> None:
    ours = Words("<pad>", *"abcdefgh")
    theirs = Words("<pad>", *"abcxyzuvw", "more")
    with pytest.raises(DataError) as caught:
        shared_vocabulary(ours, theirs, 16, 16)
    message = str(caught.value)
    assert "teacher and student use different token ids (7 differ;" in message
    assert "4: 'd' for the student, 'x' for the teacher" in message
    assert "8: 'h' for the student, 'v' for the teacher" in message
    assert "9:" not in message


def test_a_token_that_only_one_knows_is_a_difference_even_in_the_padding() -> None:
    with pytest.raises(DataError, match="2: None for the student, 'b' for the teacher"):
        shared_vocabulary(Words("<pad>", "a"), Words("<pad>", "a", "b"), 8, 8)


@pytest.mark.parametrize(("widths", "role"), [((2, 4), "student"), ((4, 2), "teacher")])
def test_fewer_logits_than_tokens_is_a_wrong_tokenizer(widths: tuple[int, int], role: str) -> None:
    words = Words("<pad>", "a", "b")
    with pytest.raises(DataError, match=f"the {role} has 2 logits for a tokenizer of 3 ids"):
        shared_vocabulary(words, words, *widths)


def model(**config: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(**config))


def test_special_ids_are_those_of_the_config() -> None:
    assert special_ids(model(decoder_start_token_id=0, pad_token_id=7), "student") == (0, 7)
    with pytest.raises(DataError, match="the teacher's config has no decoder_start_token_id"):
        special_ids(model(decoder_start_token_id=None, pad_token_id=0), "teacher")
    with pytest.raises(DataError, match="the student's config has no pad_token_id"):
        special_ids(model(decoder_start_token_id=0, pad_token_id=None), "student")
