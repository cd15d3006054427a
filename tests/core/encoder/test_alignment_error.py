"""The alignment error: 1 where nothing is lost, near the yardstick where everything is, and cheap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize
from transformers import RobertaConfig, RobertaModel

from distillctl.core.data.encoding import Encoder, Example
from distillctl.core.data.records import Record
from distillctl.core.encoder import alignment_error as measuring
from distillctl.core.encoder.alignment import align_vocabularies
from distillctl.core.encoder.alignment_error import AlignmentError, Spread, alignment_error, natural_means
from distillctl.core.encoder.frozen import FrozenEncoder
from tests.core.encoder.in_memory import build_bank
from tests.tokenizers import CODET5_SPECIALS, roberta_bpe

THINGS = ("stack", "queue", "table", "graph", "ledger", "cursor", "socket", "matrix")
TEXTS = [f"assert {thing}.push({n}) == {n}" for n, thing in enumerate(THINGS * 2)]
STUDENT = roberta_bpe(TEXTS, 330, CODET5_SPECIALS)
OTHER = roberta_bpe([text.replace("assert", "self.assertTrue") for text in TEXTS[:6]], 300)


def roberta(size: int, width: int = 16, layers: int = 2, **changes: Any) -> RobertaModel:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 66,
        "initializer_range": 0.3,
        "pad_token_id": 1,
    }
    return RobertaModel(RobertaConfig(vocab_size=size, **shape | changes), add_pooling_layer=False).eval()


def frozen(tokenizer: Any, own: Any, student: Any = STUDENT) -> FrozenEncoder:
    model = roberta(len(tokenizer))
    found = align_vocabularies(student, tokenizer)
    return FrozenEncoder(model, found.table(model.get_input_embeddings().weight), own)


def examples_of(tokenizer: Any, texts: list[str] = TEXTS, end: bool = True) -> list[Example]:
    found = []
    for number, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        found.append(Example(f"key-{number}", (5,), (*ids, *([tokenizer.eos_token_id] if end else []))))
    return found


def measured(encoder: FrozenEncoder, student: Any, examples: list[Example]) -> AlignmentError:
    found = alignment_error(encoder, build_bank(encoder, ((e.key, e.labels) for e in examples)), student, examples)
    assert found is not None
    return found


# --- what it measures -----------------------------------------------------------------------------------------


def permuted() -> tuple[Any, Any]:
    """The same tokens at other ids, and neither puts anything around a text."""
    specials = ["<unk>", "<mask>", "</s>", "<pad>", "<s>", "<extra_id_0>", "<extra_id_1>"]
    student, encoder = roberta_bpe(TEXTS, 330, CODET5_SPECIALS), roberta_bpe(TEXTS, 330, specials)
    for tokenizer in (student, encoder):
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return student, encoder


def test_the_same_tokens_at_other_ids_lose_nothing() -> None:
    student, own = permuted()
    assert student.get_vocab() != own.get_vocab()
    found = measured(frozen(own, own, student), student, examples_of(student, end=False))
    assert found.own.low == pytest.approx(1, abs=1e-5)  # fp16 in the bank
    assert found.own.mean == pytest.approx(1, abs=1e-5)
    assert found.retrieved == 1
    assert found.others.mean < 0.5


def test_the_same_tokens_between_the_same_frame_lose_nothing() -> None:
    """As CodeT5+ reads them: its targets have the start and the end that the encoder puts around a text."""
    own = roberta_bpe(TEXTS, 330, sorted(CODET5_SPECIALS))
    assert STUDENT.get_vocab() != own.get_vocab()
    records = [Record(text, "python", "p", "t.py", "", "<extra_id_0>", (text,)) for text in TEXTS]
    examples = list(Encoder(STUDENT, 20, 64).encode(records).examples)
    assert {example.labels[0] for example in examples} == {STUDENT.bos_token_id}
    assert measured(frozen(own, own), STUDENT, examples).own.low == pytest.approx(1, abs=1e-5)


def test_tokens_that_mean_something_else_lose_everything() -> None:
    own = roberta_bpe(TEXTS, 330)  # the student's tokens, read behind a <s> that the student has not
    encoder = frozen(own, own)
    whole = measured(encoder, STUDENT, examples_of(STUDENT))
    scrambled = FrozenEncoder(encoder.encoder, encoder.table[torch.randperm(len(encoder.table))], own)
    lost = measured(scrambled, STUDENT, examples_of(STUDENT))
    assert whole.own.mean > lost.own.mean + 0.2
    assert whole.retrieved > lost.retrieved
    assert abs(lost.own.mean - lost.others.mean) < whole.own.mean - whole.others.mean


def test_it_is_the_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_BATCH", 5)
    encoder, examples = frozen(OTHER, OTHER), examples_of(STUDENT)
    bank = build_bank(encoder, ((e.key, e.labels) for e in examples))
    found = alignment_error(encoder, bank, STUDENT, examples)
    assert found is not None
    aligned, natural = {}, {}
    for text, example in zip(TEXTS, examples, strict=True):
        states = encoder.gold_states(torch.tensor([example.labels]))[0]
        aligned[text] = states.mean(0) - bank.mean_state
        with torch.no_grad():
            own = encoder.encoder(**OTHER(text, return_tensors="pt")).last_hidden_state[0]
        natural[text] = own[1:].mean(0) - bank.mean_state  # <s> is read, and is no part of the text
    own_cosines = torch.stack([cosine_similarity(aligned[t], natural[t], dim=0) for t in TEXTS])
    others = torch.stack([cosine_similarity(aligned[t], natural[o], dim=0) for t in TEXTS for o in TEXTS if o != t])
    assert found.own.mean == pytest.approx(float(own_cosines.mean()), abs=1e-3)
    assert found.own.median == pytest.approx(float(own_cosines.quantile(0.5)), abs=1e-3)
    assert found.others.high == pytest.approx(float(others.quantile(0.95)), abs=1e-3)
    nearest = [max(TEXTS, key=lambda o: cosine_similarity(aligned[t], natural[o], dim=0)) == t for t in TEXTS]
    assert found.retrieved == pytest.approx(sum(nearest) / len(TEXTS))
    assert found.golds == len(TEXTS)


def test_a_target_without_its_end_is_compared_without_it() -> None:
    encoder = frozen(OTHER, OTHER)
    with_end, without = (
        natural_means(encoder, STUDENT, [e.labels for e in examples_of(STUDENT, TEXTS[:3], end)])
        for end in (True, False)
    )
    with torch.no_grad():
        states = encoder.encoder(**OTHER(TEXTS[1], return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(with_end[1], states[1:].mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(without[1], states[1:-1].mean(0), rtol=1e-4, atol=1e-5)


def test_a_text_too_long_for_the_encoder_is_cut() -> None:
    encoder = frozen(OTHER, OTHER)
    assert encoder.longest == 64
    long = examples_of(STUDENT, ["assert " + " + ".join(THINGS * 9)])[0]
    assert torch.isfinite(natural_means(encoder, STUDENT, [long.labels])).all()


# --- the numbers ----------------------------------------------------------------------------------------------

UNIT = st.integers(0, 2**32 - 1).map(
    lambda seed: normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)
)


@settings(deadline=None)
@given(UNIT)
def test_identical_readings_are_one_and_found(vectors: Tensor) -> None:
    found = AlignmentError.of(vectors, vectors)
    assert found.own.mean == pytest.approx(1, abs=1e-6)
    assert (found.golds, found.retrieved) == (7, 1)
    assert -1 - 1e-6 <= found.others.low <= found.others.median <= found.others.high <= 1 + 1e-6


def test_by_hand() -> None:
    aligned = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    natural = torch.tensor([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]])
    found = AlignmentError.of(aligned, natural)
    assert found.own == Spread.of(torch.tensor([0.6, 1.0, 1.0]))
    assert found.others.mean == pytest.approx((0 + 1 + 0.8 + 0 + 0.6 + 0) / 6)
    assert found.retrieved == pytest.approx(2 / 3)  # the first one's nearest is the third's
    assert str(found).startswith(
        "3 golds read by the student's tokens against the encoder's own: cosine 0.867 (0.640 to"
    )


# --- what is compared -----------------------------------------------------------------------------------------


def test_the_sample_is_of_distinct_golds_and_does_not_depend_on_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "SAMPLE", 6)
    encoder, examples = frozen(OTHER, OTHER), examples_of(STUDENT, TEXTS + TEXTS[:4])
    first = measured(encoder, STUDENT, examples)
    assert first.golds == 6
    assert measured(encoder, STUDENT, examples[::-1]).own.mean == pytest.approx(first.own.mean, abs=1e-4)


def test_nothing_is_compared_without_another_vocabulary_or_another_gold() -> None:
    examples = examples_of(STUDENT)
    same, other = frozen(STUDENT, None), frozen(OTHER, OTHER)
    bank = build_bank(same, ((e.key, e.labels) for e in examples))
    assert alignment_error(same, bank, STUDENT, examples) is None
    bank = build_bank(other, ((e.key, e.labels) for e in examples))
    assert alignment_error(other, bank, STUDENT, examples[:1] * 3) is None
