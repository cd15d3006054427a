"""Token ids follow the text contract, truncation keeps what matters, and nothing is lost uncounted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from distillctl.core.data.encoding import Encoded, Encoder, Example, clip_around_masks, window_around
from distillctl.core.data.records import Record
from distillctl.core.data.tokenizer import train_tokenizer
from distillctl.core.errors import DataError
from tests.tokenizers import CODET5_SPECIALS, roberta_bpe

WORDS = ["frame", "value", "x", "assert", "range", "self", "é", "12", "==", "(", ")", "    ", "  ", "\n"]
SPACES = "\n".join(" " * (4 * depth) + "self.frame = value" for depth in range(8))


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    return train_tokenizer([SPACES, " ".join(WORDS), "assert frame == range(12)\n" * 3], 400)


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """One token a word, so that positions can be counted; spaces and lines vanish."""
    names = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"]
    vocabulary = {token: index for index, token in enumerate([*names, *(f"w{i}" for i in range(100))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=names[3:],
        clean_up_tokenization_spaces=False,
    )


def record(test: str, focal: str = "", *assertions: str) -> Record:
    return Record("r", "python", "p", "t.py", focal, test, assertions or ("w1 w2",))


def encode_one(tokenizer: Any, row: Record, source: int, target: int = 50) -> tuple[list[str], list[str], Encoded]:
    encoded = Encoder(tokenizer, source, target).encode([row])
    (example,) = encoded.examples
    names = tokenizer.convert_ids_to_tokens
    return names(list(example.input_ids)), names(list(example.labels)), encoded


def numbered(start: int, stop: int) -> str:
    return " ".join(f"w{i}" for i in range(start, stop))


def test_the_text_contract(bpe: PreTrainedTokenizerFast) -> None:
    row = record("test <extra_id_0>;\n <extra_id_1> end", "def f(): 1", "assert a == 12", "assert 'é'")
    encoded = Encoder(bpe, 100, 50).encode([row])
    (example,) = encoded.examples
    assert bpe.decode(example.input_ids) == "test <extra_id_0>;\n <extra_id_1> end</s>def f(): 1</s>"
    assert bpe.decode(example.labels) == "assert a == 12\nassert 'é'</s>"
    assert example.key == row.key
    assert encoded.records == (row,)
    assert (encoded.inputs_truncated, encoded.targets_truncated, encoded.dropped) == (0, 0, 0)
    assert {3, 4} <= set(example.input_ids)


def test_a_tokenizers_own_start_comes_first(bpe: PreTrainedTokenizerFast) -> None:
    framed = train_tokenizer(["assert x"], 300)
    framed.backend_tokenizer.post_processor = TemplateProcessing(
        single="<pad> $A </s>", special_tokens=[("<pad>", 0), ("</s>", 1)]
    )
    row = record("a <extra_id_0>", "b", "c")
    (example,) = Encoder(framed, 10, 10).encode([row]).examples
    assert framed.decode(example.input_ids) == "<pad>a <extra_id_0></s>b</s>"
    (plain,) = Encoder(bpe, 10, 10).encode([row]).examples
    assert bpe.decode(plain.input_ids) == "a <extra_id_0></s>b</s>"


def test_targets_are_framed_as_the_tokenizer_frames_a_text(bpe: PreTrainedTokenizerFast) -> None:
    """``<s> target </s>`` of CodeT5+ and BART, ``target </s>`` of T5: what a model tuned the usual way writes."""
    row = record("a <extra_id_0>", "b", "assert x", "assert 12")
    codet5 = roberta_bpe(["assert x"], 300, CODET5_SPECIALS)
    for tokenizer, framed in ((bpe, [*bpe(row.target).input_ids, 1]), (codet5, codet5(row.target).input_ids)):
        encoded = Encoder(tokenizer, 20, 30).encode([row])
        (example,) = encoded.examples
        assert list(example.labels) == framed
        assert encoded.targets_truncated == 0
        assert Encoder(tokenizer, 20, len(example.labels) - 1).encode([row]).targets_truncated == 1


def test_a_target_of_which_only_the_start_is_left_is_dropped() -> None:
    tokenizer = roberta_bpe(["assert x"], 300, CODET5_SPECIALS)
    row = record("a <extra_id_0>", "b", "assert x")
    assert Encoder(tokenizer, 20, 1).encode([row]).dropped == 1
    assert Encoder(tokenizer, 20, 2).encode([row]).dropped == 0


def test_a_language_code_is_no_start_of_a_target() -> None:
    """mBART-50 reads ``en_XX text </s>``, and its decoder is started with the code."""
    tokenizer = roberta_bpe(["assert x"], 300, [*CODET5_SPECIALS, "en_XX"])
    codes = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("en_XX", "</s>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="en_XX $A </s>", special_tokens=codes)
    (example,) = Encoder(tokenizer, 20, 30).encode([record("a <extra_id_0>", "", "assert x")]).examples
    assert tokenizer.decode(example.input_ids).startswith("en_XX")
    assert tokenizer.decode(example.labels) == "assert x</s>"


def test_text_that_looks_like_a_special_token_stays_text(bpe: PreTrainedTokenizerFast) -> None:
    row = record(
        "s = '</s>' <extra_id_0> '<pad>'\n<extra_id_1>",
        "return '</s><extra_id_0>'",
        "assert x == '</s>'",
        "assert y == '<extra_id_1>'",
    )
    encoder = Encoder(bpe, 200, 200)
    (example,) = encoder.encode([row]).examples
    assert example.input_ids.count(1) == 2
    assert example.labels.count(1) == 1
    assert bpe.decode(example.labels, skip_special_tokens=True) == row.target
    assert [id_ for id_ in example.input_ids if id_ < 11] == [3, 4, 1, 1]
    test, focal = row.test_method_masked, row.focal_method
    assert bpe.decode(example.input_ids) == f"{test}</s>{focal}</s>"
    short = Encoder(bpe, 12, 200).encode([row]).examples[0].input_ids
    assert [id_ for id_ in short if id_ < 11] == [3, 4, 1, 1]
    assert bpe("</s>").input_ids == [1]  # the tokenizer itself is left as it was
    assert bpe.tokenize("</s>") == ["</s>"]


def test_the_focal_method_goes_first(words: PreTrainedTokenizerFast) -> None:
    row = record("w1 w2 <extra_id_0> w3", numbered(10, 20))
    ids, labels, encoded = encode_one(words, row, 16)
    assert ids == [*["w1", "w2", "<extra_id_0>", "w3", "</s>"], *numbered(10, 20).split(), "</s>"]
    assert labels == ["w1", "w2", "</s>"]
    assert encoded.inputs_truncated == 0
    ids, _, encoded = encode_one(words, row, 15)
    assert ids == [*["w1", "w2", "<extra_id_0>", "w3", "</s>"], *numbered(10, 19).split(), "</s>"]
    assert encoded.inputs_truncated == 1
    ids, _, encoded = encode_one(words, row, 6)
    assert ids == [*["w1", "w2", "<extra_id_0>", "w3", "</s>", "</s>"]]
    assert encoded.inputs_truncated == 1


def test_then_the_test_far_from_its_mask(words: PreTrainedTokenizerFast) -> None:
    row = record(f"{numbered(0, 20)} <extra_id_0> {numbered(30, 50)}", "w99")
    ids, _, encoded = encode_one(words, row, 14)
    assert ids == [*numbered(12, 20).split(), "<extra_id_0>", "w30", "w31", "w32", "</s>", "</s>"]
    assert encoded.inputs_truncated == 1


def test_every_mask_stays(words: PreTrainedTokenizerFast) -> None:
    row = record(f"{numbered(0, 20)} <extra_id_0> {numbered(30, 60)} <extra_id_1> {numbered(60, 70)}")
    ids, _, _ = encode_one(words, row, 4)
    assert ids == ["<extra_id_0>", "<extra_id_1>", "</s>", "</s>"]
    ids, _, _ = encode_one(words, row, 8)
    assert ids == ["w18", "w19", "<extra_id_0>", "w58", "w59", "<extra_id_1>", "</s>", "</s>"]
    with pytest.raises(DataError, match="record r: 2 masks do not fit in max_source_length=3"):
        encode_one(words, row, 3)
    with pytest.raises(DataError, match="record r: 1 masks do not fit in max_source_length=1"):
        encode_one(words, record("<extra_id_0>"), 1)


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 45), st.data())
def test_the_window_keeps_masks_and_order(length: int, budget: int, data: st.DataObject) -> None:
    masks = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=min(budget, length))))
    window = list(window_around(length, masks, budget))
    assert window == sorted(set(window))
    assert set(masks) <= set(window) <= set(range(length))
    assert len(window) == min(length, budget)
    if len(masks) == 1:
        assert window == list(range(window[0], window[-1] + 1))
        before, after = masks[0] - window[0], window[-1] - masks[0]
        assert after <= max(budget // 4, budget - 1 - masks[0])
        assert before <= max(budget - 1 - budget // 4, budget - 1 - (length - 1 - masks[0]))


def test_targets_are_cut_counted_and_dropped(words: PreTrainedTokenizerFast) -> None:
    rows = [
        record("<extra_id_0>", "", "w1 w2"),
        record("<extra_id_0>", "", "w1 w2 w3"),
        replace(record("<extra_id_0>"), assertions=(" ", "\n")),
        replace(record("<extra_id_0> no mask is read of what is dropped"), assertions=()),
    ]
    encoded = Encoder(words, 10, 3).encode(rows)
    assert [words.decode(example.labels) for example in encoded.examples] == ["w1 w2 </s>", "w1 w2 w3"]
    assert encoded.records == tuple(rows[:2])
    assert (encoded.inputs_truncated, encoded.targets_truncated, encoded.dropped) == (0, 1, 2)
    nothing = Encoder(words, 10, 0).encode(rows)
    assert nothing == Encoded((), (), 0, 0, 4)
    one = Encoder(words, 10, 1).encode(rows)
    assert [words.decode(example.labels) for example in one.examples] == ["w1", "w1"]
    assert one.targets_truncated == 2


def test_no_records_give_no_examples(bpe: PreTrainedTokenizerFast) -> None:
    assert Encoder(bpe, 10, 10).encode([]) == Encoded((), (), 0, 0, 0)


def test_the_summary_counts_and_weighs() -> None:
    example = Example("k", (1,), (1,))
    text = Encoded((example,) * 1_200, (), 300, 60, 7).summary()
    assert text == "1,200 examples; inputs truncated 300 (25.0 %), targets truncated 60 (5.0 %), dropped 7"
    assert Encoded((), (), 0, 0, 2).summary().startswith("0 examples; inputs truncated 0 (0.0 %)")


def test_what_a_tokenizer_needs(bpe: PreTrainedTokenizerFast, words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="record r: test_method_masked has no mask"):
        encode_one(bpe, record("test"), 20)
    with pytest.raises(DataError, match=r"does not know the masks of this record; it needs the tokens <extra_id_8>"):
        encode_one(bpe, record("<extra_id_8>"), 20)
    with pytest.raises(DataError, match=r"it needs the tokens <extra_id_8>\. Mask fewer assertions a test"):
        encode_one(bpe, record("<extra_id_0> <extra_id_8>"), 20)
    with pytest.raises(DataError, match="it needs the tokens <extra_id_2>"):
        encode_one(words, record("<extra_id_0> <extra_id_2>"), 20)
    bare = Tokenizer(models.BPE(vocab={"</s>": 0, "a": 1}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="</s>")
    with pytest.raises(DataError, match="does not know the masks"):
        encode_one(tokenizer, record("a<extra_id_0>", "", "a"), 20)
    with pytest.raises(DataError, match="the tokenizer has no end-of-sequence token"):
        Encoder(PreTrainedTokenizerFast(tokenizer_object=bare), 20, 20)


@pytest.mark.parametrize(
    ("text", "reach", "clipped"),
    [
        ("a\nb\n<extra_id_0>\nc\nd\n", 100, "a\nb\n<extra_id_0>\nc\nd\n"),
        ("a\nb\n<extra_id_0>\nc\nd\n", 2, "b\n<extra_id_0>\nc\n"),
        ("a\nb\n<extra_id_0>\nc\nd", 3, "a\nb\n<extra_id_0>\nc\nd"),
        ("aa\nb\n<extra_id_0>\nc\nd", 2, "b\n<extra_id_0>\nc\n"),
        ("aaaa\n  <extra_id_0> x\n<extra_id_1> y\nbbbb\n", 1, "  <extra_id_0> x\n<extra_id_1> y\n"),
        ("a\nb\nc", 1, "a\nb\nc"),
    ],
)
def test_clips_are_whole_lines(text: str, reach: int, clipped: str) -> None:
    assert text[clip_around_masks(text, reach)] == clipped


def unclipped(tokenizer: Any, source: int) -> Encoder:
    encoder = Encoder(tokenizer, source, 10)
    encoder._reach = 10**9
    return encoder


LINES = st.lists(
    st.lists(st.sampled_from([*WORDS[:-1], "a" * 60, " " * 25, "\t", "</s>"]), max_size=6).map("".join),
    min_size=1,
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(LINES, LINES, LINES, st.integers(6, 24))
def test_clipping_changes_nothing(
    bpe: PreTrainedTokenizerFast, before: list[str], after: list[str], focal: list[str], source: int
) -> None:
    rows = [
        record("\n".join([*before, "  <extra_id_0>", *after]), "\n".join(focal)),
        record("\n".join([*before, "<extra_id_0>; <extra_id_1>", *after]), "\n".join(focal * 3), "a", "b"),
    ]
    assert Encoder(bpe, source, 10).encode(rows) == unclipped(bpe, source).encode(rows)


@pytest.mark.parametrize("side", ["before", "after", "focal"])
def test_what_lies_beyond_a_clip_is_read_where_there_is_room(bpe: PreTrainedTokenizerFast, side: str) -> None:
    """Tokens far longer than the average: the clip is less than the room."""
    long = train_tokenizer(["a" * 32] * 9, 300)
    line = "a" * 32 + "\n"
    rows = [
        record({"before": line * 30 + "<extra_id_0>", "after": "<extra_id_0>\n" + line * 30}.get(side, "<extra_id_0>"))
    ]
    if side == "focal":
        rows = [replace(rows[0], focal_method=line * 30)]
    encoded = Encoder(long, 40, 10).encode(rows)
    assert encoded == unclipped(long, 40).encode(rows)
    assert len(encoded.examples[0].input_ids) == 40
    assert encoded.inputs_truncated == 1


def test_clipping_saves_the_tokenizer_work(bpe: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(bpe, 16, 10)
    read: list[int] = []
    ids = encoder._ids

    def counting(texts: list[str], split_special: bool = True) -> list[list[int]]:
        read.append(sum(map(len, texts)))
        return ids(texts, split_special)

    monkeypatch.setattr(encoder, "_ids", counting)
    line = "    frame = value(x)\n"
    encoder.encode([record(line * 500 + "    <extra_id_0>\n" + line * 500, line * 500)])
    assert sum(read) < 3 * 16 * 12 + 100


def test_a_digest_names_the_ids_alone() -> None:
    one = Example("a", (5, 6), (7,))
    assert one.digest() == Example("b", (5, 6), (7,)).digest()
    assert len(one.digest()) == 16
    ids: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((5,), (6, 7)),
        ((5, 6), (8,)),
        ((6, 5), (7,)),
        ((), (5, 6, 7)),
    ]
    others = [Example("a", *pair) for pair in ids]
    assert len({one.digest(), *(other.digest() for other in others)}) == 5
    # Fixed for ever: caches of other machines are found by it.
    assert one.digest().hex() == "0ce064d6824d2115a1983ae68739785c"
