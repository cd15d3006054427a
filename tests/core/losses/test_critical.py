"""Critical tokens: found whole in the text that labels spell, whatever the tokenizer does to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import ByT5Tokenizer

from distillctl.core.errors import RunError, UsageError
from distillctl.core.losses.critical import CRITICAL_WORDS, CriticalTokens
from tests.tokenizers import byte_level_bpe, metaspace_words

CORPUS = [
    "assert this.history == expected",
    "self.assertEqual(result, True)",
    "assert x is not None and y in items",
    "assert_allclose(actual, desired)",
    "assertThat(list).isEqualTo(null);",
] * 4


@pytest.fixture(scope="module")
def bpe() -> Any:
    return byte_level_bpe(CORPUS, 300)


def labels_of(tokenizer: Any, *texts: str) -> Tensor:
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    width = max(map(len, rows))
    return torch.tensor([row + [-100] * (width - len(row)) for row in rows])


def mask_of(critical: CriticalTokens, labels: Tensor) -> Tensor:
    """[B,T] bool, True at critical tokens: each row read with its padding."""
    return torch.from_numpy(critical.read(labels.tolist()).flat).reshape(labels.shape)


def marked(tokenizer: Any, language: str, text: str, extra: tuple[str, ...] = ()) -> list[str]:
    """The runs of text that the critical tokens spell, separated by what is not critical."""
    labels = labels_of(tokenizer, text)
    mask = mask_of(CriticalTokens(tokenizer, language, extra), labels)[0].tolist()
    runs, current = [], ""
    for token, critical in zip(labels[0].tolist(), mask, strict=True):
        piece = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if critical:
            current += piece
        elif current:
            runs.append(current.strip())
            current = ""
    return runs + ([current.strip()] if current else [])


PYTHON = [
    ("assert this.history == expected", ["assert", "=="]),
    ("self.assertEqual(result, True)", ["assertEqual", "True"]),
    ("assert x is not None", ["assert", "is", "not", "None"]),
    ("assert y not in items and Trueish", ["assert", "not", "in"]),
    ("tm.assert_series_equal(a, b)", ["assert_series_equal"]),
    ("assert f(a) -> b << c >= 2", ["assert", ">="]),
    ("assert name == 'is None' != \"x < y\"", ["assert", "==", "!="]),
    ("reassert(asserted)", []),
]


@pytest.mark.parametrize(("text", "expected"), PYTHON)
def test_python_words_when_every_byte_is_a_token(text: str, expected: list[str]) -> None:
    found = marked(ByT5Tokenizer(), "python", text)
    assert [run for runs in found for run in runs.split()] == expected


@pytest.mark.parametrize(("text", "expected"), PYTHON)
def test_python_words_under_a_byte_level_bpe(bpe: Any, text: str, expected: list[str]) -> None:
    # Tokens that straddle a border count whole, so a run may be longer than its word: it contains the word.
    joined = " ".join(marked(bpe, "python", text))
    assert all(word in joined for word in expected)
    assert bool(joined) == bool(expected)


def test_java_words() -> None:
    text = "assertThat(isle).isEqualTo(null); assertTrue(a instanceof B == true);"
    found = marked(ByT5Tokenizer(), "java", text)
    expected = ["assertThat", "isEqualTo", "null", "assertTrue", "instanceof", "==", "true"]
    assert [run for runs in found for run in runs.split()] == expected
    assert marked(ByT5Tokenizer(), "java", "new ArrayList<>()") == []


def test_a_split_name_is_marked_whole_and_a_lone_piece_is_not(bpe: Any) -> None:
    split = labels_of(bpe, "assertNotIsInstance")
    assert split.shape[1] > 2, "the tokenizer should split this name"
    assert mask_of(CriticalTokens(bpe, "python"), split).all()
    lone = labels_of(bpe, "assertion")
    assert not mask_of(CriticalTokens(bpe, "python"), lone).any()


def test_the_leading_space_of_sentencepiece_separates_words() -> None:
    tokenizer = metaspace_words(["assert", "x", "is", "None", "island"])
    labels = labels_of(tokenizer, "assert x is None", "island x")
    mask = mask_of(CriticalTokens(tokenizer, "python"), labels)
    assert mask.tolist() == [[True, False, True, True], [False] * 4]


def test_special_tokens_are_never_critical(bpe: Any) -> None:
    labels = torch.tensor([[bpe.eos_token_id, bpe.convert_tokens_to_ids("<extra_id_0>"), -100]])
    assert not mask_of(CriticalTokens(bpe, "python"), labels).any()


def test_the_caller_extends_the_words() -> None:
    text = "check_that(x) and expect_all(y)"
    assert marked(ByT5Tokenizer(), "python", text) == []
    assert marked(ByT5Tokenizer(), "python", text, ("check_that", "expect_*")) == ["check_that", "expect_all"]


def test_weights_rise_from_1_to_the_target_over_the_first_epoch() -> None:
    tokenizer = ByT5Tokenizer()
    rows = [[token for token in row if token != -100] for row in labels_of(tokenizer, "x", "a is b", "a").tolist()]
    critical = CriticalTokens(tokenizer, "python").read(rows)
    expected = torch.tensor([[0.0] * 7, [0.0, 0, 1, 1, 0, 0, 0]])
    for progress in (0.0, 0.25, 1.0):
        weights = critical.token_weights([2, 1], 7, target=2.0, progress_in_first_epoch=progress)
        assert weights.dtype == torch.float32
        assert weights.tolist() == (1 + progress * expected).tolist()
    assert critical.token_weights([2, 1], 7, 1.0, 1.0).unique().tolist() == [1.0]
    assert critical.token_weights([], 0, 2.0, 1.0).shape == (0, 0)


@given(
    st.lists(
        st.lists(st.sampled_from(["is", "thisis", '"is', '"', "==", "<", " ", "null", "é"]), max_size=6), max_size=4
    )
)
def test_what_was_read_once_is_what_each_batch_would_show(words: list[list[str]]) -> None:
    """Padding behind a target, and who stands beside it, change nothing."""
    tokenizer = ByT5Tokenizer()
    rows = [tokenizer(" ".join(row)).input_ids for row in words]
    width = max(map(len, rows), default=0) + 2
    labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in rows]).reshape(len(rows), width).long()
    critical = CriticalTokens(tokenizer, "java")
    weights = critical.read(rows).token_weights(range(len(rows)), width, 2.0, 1.0)
    assert torch.equal(weights == 2, mask_of(critical, labels))


def test_bad_input_is_refused() -> None:
    tokenizer = ByT5Tokenizer()
    with pytest.raises(UsageError, match=r"python, java\. Found language 'cobol'"):
        CriticalTokens(tokenizer, "cobol")
    with pytest.raises(UsageError, match="should not be empty"):
        CriticalTokens(tokenizer, "java", ["*"])
    with pytest.raises(UsageError, match="should be >= 1"):
        CriticalTokens(tokenizer, "java").read([[3]]).token_weights([0], 1, 0.5, 0.0)
    with pytest.raises(RunError, match="first epoch"):
        CriticalTokens(tokenizer, "java").read([[3]]).token_weights([0], 1, 2.0, 1.5)


def test_the_lists_hold_what_the_design_names() -> None:
    python = {"assert", "assertEqual", "==", "!=", "<", "<=", ">", ">=", "is", "in", "not", "True", "False", "None"}
    java = {"assertEquals", "assertThat", "isEqualTo", "==", "!=", "instanceof", "true", "false", "null"}
    for language, words in (("python", python), ("java", java)):
        for word in words:
            assert marked(ByT5Tokenizer(), language, f"a {word} b") == [word]
        assert len(CRITICAL_WORDS[language]) == len(set(CRITICAL_WORDS[language]))


def test_java_has_the_words_of_each_framework() -> None:
    text = (
        "Assert.assertBitEquals(1, a); assertThat(b).isCloseTo(2).hasSize(3); assertThat(c, is(not(nullValue())));"
        'assertWithMessage("is null").that(d).containsExactly(e).inOrder(); assertTrue(f.equals(g));'
    )
    assert marked(ByT5Tokenizer(), "java", text) == [
        *("assertBitEquals", "assertThat", "isCloseTo", "hasSize", "assertThat", "is", "not", "nullValue"),
        *("assertWithMessage", "containsExactly", "inOrder", "assertTrue", "equals"),
    ]


def test_coverage_says_which_ids_the_words_became_and_how_much_of_the_targets_they_are(bpe: Any) -> None:
    texts = ["assertEquals(a, null)", "assertEquals(b)", "other(x)"]
    labels = labels_of(bpe, *texts)
    rows = [[token for token in row if token != -100] for row in labels.tolist()]
    critical = CriticalTokens(bpe, "java")
    found = critical.read(rows).coverage
    assert found.target_tokens == sum(map(len, rows))
    assert found.critical_tokens == int(mask_of(critical, labels).sum()) > 0
    assert found.share == found.critical_tokens / found.target_tokens
    assert {word: of.times for word, of in found.words.items()} == {"assertEquals": 2, "null": 1}
    for word, of in found.words.items():
        assert word in "".join(bpe.convert_ids_to_tokens([t for t in rows[0] if t in of.ids]))
    assert found.to_dict(most=1)["words"].keys() == {"assertEquals"}
    assert found.to_dict()["different_words"] == 2
    assert critical.read([]).coverage.share == 0.0


def test_all_tokens_of_a_word_are_in_its_ids() -> None:
    tokenizer = ByT5Tokenizer()
    rows = [labels_of(tokenizer, "a is b")[0].tolist()]
    found = CriticalTokens(tokenizer, "python").read(rows).coverage.words["is"]
    assert sorted(tokenizer.convert_ids_to_tokens(list(found.ids))) == ["i", "s"]
