"""The embedding bank: by key, at any order, equal to encoding the golds again."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from distillctl.core.encoder.bank import EmbeddingBank
from distillctl.core.errors import DataError
from distillctl.core.losses.contrastive import unit_vectors
from tests.core.encoder.in_memory import build_bank
from tests.toys import tiny_t5_encoder

GOLDS = {"a": [3, 4, 5, 1], "b": [6, 1], "c": [7, 8, 9, 2, 1], "d": [6, 1], "e": [10, 3, 1]}
ENCODER = tiny_t5_encoder()


def padded(keys: list[str], length: int) -> torch.Tensor:
    rows = [GOLDS[key] + [-100] * (length - len(GOLDS[key])) for key in keys]
    return torch.tensor(rows)


@pytest.fixture(scope="module")
def bank() -> EmbeddingBank:
    return build_bank(ENCODER, GOLDS.items(), batch_size=2)


def test_lookup_by_key_in_any_order(bank: EmbeddingBank) -> None:
    for keys in (["a", "b", "c"], ["c", "a"], ["d"]):
        states = bank.lookup(keys, length=6)
        assert states.dtype == torch.float32
        assert_close(states, ENCODER.gold_states(padded(keys, 6)), rtol=2e-3, atol=2e-3)
        assert (states[padded(keys, 6) < 0] == 0).all()
    assert bank.lookup(["b", "e"]).shape == (2, 3, ENCODER.width)


def test_mean_over_all_tokens_of_all_examples(bank: EmbeddingBank) -> None:
    states = torch.cat([ENCODER.gold_states(torch.tensor([ids]))[0] for ids in GOLDS.values()])
    assert_close(bank.mean_state, states.mean(0), rtol=2e-3, atol=2e-3)


def test_vectors_are_the_terms_own(bank: EmbeddingBank) -> None:
    keys = ["e", "a", "d"]
    states, mask = bank.lookup(keys), padded(keys, 4) >= 0
    assert_close(bank.vectors(keys), unit_vectors(states, bank.mean_state, mask), rtol=1e-4, atol=1e-5)
    assert_close(bank.vectors(keys).norm(dim=-1), torch.ones(3))


def test_equal_golds_share_a_key(bank: EmbeddingBank) -> None:
    keys = bank.gold_keys(["a", "b", "c", "d"])
    assert keys[1] == keys[3]
    assert len(set(keys.tolist())) == 3
    assert len(bank) == 5


def test_the_batch_size_does_not_matter_and_progress_is_told(bank: EmbeddingBank) -> None:
    seen: list[tuple[int, int]] = []
    other = build_bank(ENCODER, reversed(GOLDS.items()), batch_size=3, on_progress=lambda *p: seen.append(p))
    assert_close(other.lookup(list(GOLDS)), bank.lookup(list(GOLDS)), rtol=2e-3, atol=2e-3)
    assert seen == [(3, 4), (4, 4)]


def test_bad_examples_and_unknown_keys_are_named(bank: EmbeddingBank) -> None:
    with pytest.raises(DataError, match="'zz'"):
        bank.lookup(["a", "zz"])
    with pytest.raises(DataError, match="gold of 5 tokens for a batch 4 tokens long"):
        bank.lookup(["a", "c"], length=4)
    with pytest.raises(DataError, match="occurs twice"):
        build_bank(ENCODER, [("a", [3]), ("a", [4])])
    with pytest.raises(DataError, match="without padding"):
        build_bank(ENCODER, [("a", [3, -100])])
    with pytest.raises(DataError, match="without padding"):
        build_bank(ENCODER, [("a", [])])
    with pytest.raises(DataError, match="at least one"):
        build_bank(ENCODER, [])
