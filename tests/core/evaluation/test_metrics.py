"""Metrics against values worked out by hand, naive references, and sacrebleu itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from distillctl.core.errors import DataError
from distillctl.core.evaluation.metrics import (
    METRIC_VERSION,
    SampleScore,
    aggregate,
    code_tokens,
    edit_similarity,
    levenshtein,
    matching_tokens,
    score_sample,
)


def scored(gold: Sequence[str], prediction: str, **fields: str) -> SampleScore:
    names = {"sample_id": "s", "project": "p", "path": "t.py", "language": "python"} | fields
    return score_sample(names["sample_id"], names["project"], names["path"], names["language"], gold, prediction)


# gold, prediction, tp, fp, fn
COUNTS: list[tuple[list[str], str, int, int, int]] = [
    (["assert a"], "assert a", 1, 0, 0),
    (["assert a"], "", 0, 0, 1),
    (["assert a"], " \n\n", 0, 0, 1),
    (["assert a"], "assert b", 0, 1, 1),
    (["assert a", "assert b"], "assert b\nassert a", 2, 0, 0),  # order does not matter
    (["assert a"], "assert a\nassert a", 1, 0, 0),  # a set: a repeated line counts once
    (["assert a", "assert a"], "assert a", 1, 0, 0),
    (["assert a", "assert b", "assert c"], "assert a\nassert x", 1, 1, 2),
    (["assert a"], "  assert a  ", 1, 0, 0),  # the ends are stripped
    (["assert a == b"], "assert a  == b", 0, 1, 1),  # white space inside is not
    (["assert a", "", "  "], "assert a\n\n", 1, 0, 0),  # empty lines are no assertions
    (["assert a\nassert b"], "assert b\nassert a", 2, 0, 0),
    ([], "assert a", 0, 1, 0),
    ([], "", 0, 0, 0),
]


@pytest.mark.parametrize(("gold", "prediction", "tp", "fp", "fn"), COUNTS)
def test_line_counts(gold: list[str], prediction: str, tp: int, fp: int, fn: int) -> None:
    sample = scored(gold, prediction)
    assert (sample.tp, sample.fp, sample.fn) == (tp, fp, fn)


def test_micro_f1_sums_over_samples() -> None:
    golds = [["assert a", "assert b", "assert c"], ["assert d"]]
    predictions = ["assert a\nassert b\nassert a", "assert x\nassert y"]
    samples = [scored(gold, text) for gold, text in zip(golds, predictions, strict=True)]
    metrics = aggregate(samples, predictions, golds)
    # tp 2, fp 2, fn 2; the mean of the samples' F1 would be 40
    assert metrics["scores"]["precision"] == pytest.approx(50)
    assert metrics["scores"]["recall"] == pytest.approx(50)
    assert metrics["scores"]["f1"] == pytest.approx(50)
    assert (metrics["counts"]["tp"], metrics["counts"]["fp"], metrics["counts"]["fn"]) == (2, 2, 2)
    assert metrics["metric_version"] == METRIC_VERSION


@pytest.mark.parametrize(
    ("gold", "prediction", "raw", "normalised"),
    [
        (["assert a == b"], "assert a == b", True, True),
        (["assert a == b"], "assert a  == b\n", False, True),
        (["assert a == 'x  y'"], "assert a == 'x y'", False, False),
        (["assert a", "assert b"], "assert a\nassert b", True, True),
        (["assert a", "assert b"], "assert a\n\n assert b", False, True),
        (["assert a", "assert b"], "assert b\nassert a", False, False),
        (["assert a"], "assert a\nassert a", False, False),
    ],
)
def test_exact_match(gold: list[str], prediction: str, raw: bool, normalised: bool) -> None:
    sample = scored(gold, prediction)
    assert (sample.exact_match, sample.exact_match_normalised) == (raw, normalised)


def test_flags() -> None:
    empty, code, broken = (
        scored(["assert a"], "  "),
        scored(["assert a"], "x = 1"),
        scored(["assert a"], "assert ("),
    )
    assert (empty.non_empty, empty.contains_assertion, empty.valid_syntax) == (False, False, False)
    assert (code.non_empty, code.contains_assertion, code.valid_syntax) == (True, False, True)
    assert (broken.non_empty, broken.contains_assertion, broken.valid_syntax) == (True, True, False)
    java = scored(["assertTrue(x);"], "assertTrue(y);", language="java")
    assert (java.kind, java.contains_assertion, java.valid_syntax) == ("assertTrue", True, True)


def test_rates_have_their_counts() -> None:
    golds = [["assert a"]] * 4
    predictions = ["assert a", "assert  a", "x = 1", ""]
    metrics = aggregate([scored(["assert a"], text) for text in predictions], predictions, golds)
    scores, counts = metrics["scores"], metrics["counts"]
    assert (scores["exact_match"], counts["exact_match"]) == (25, 1)
    assert (scores["exact_match_normalised"], counts["exact_match_normalised"]) == (50, 2)
    assert (scores["valid_syntax"], counts["valid_syntax"]) == (75, 3)
    assert (scores["non_empty"], counts["non_empty"]) == (75, 3)
    assert (scores["contains_assertion"], counts["contains_assertion"]) == (50, 2)
    # "x = 1" shares no position with "assert a"
    assert (scores["token_accuracy"], counts["matching_tokens"], counts["gold_tokens"]) == (50, 4, 8)
    similarities = [1, 1 - 1 / 9, edit_similarity("x = 1", "assert a"), 0]
    assert scores["edit_similarity"] == pytest.approx(100 * sum(similarities) / 4)
    assert (counts["samples"], counts["files"]) == (4, 1)


def test_no_prediction_at_all_scores_zero() -> None:
    metrics = aggregate([scored(["assert a"], "")], [""], [["assert a"]])
    assert set(metrics["scores"].values()) == {0.0}


def test_bleu_and_chrf_equal_sacrebleu() -> None:
    golds = [["assert a.b == 1", "assert c is None"], ["self.assertEqual(x, [1, 2, 3])"], ["assert y ."]] * 40
    predictions = ["assert a.b == 2\nassert c is None", "self.assertEqual(x, [1, 2, 4])", ""] * 40
    samples = [scored(gold, text) for gold, text in zip(golds, predictions, strict=True)]
    metrics = aggregate(samples, predictions, golds)
    references = [["\n".join(gold) for gold in golds]]
    assert metrics["scores"]["bleu"] == sacrebleu.corpus_bleu(predictions, references).score
    assert metrics["scores"]["chrf"] == sacrebleu.corpus_chrf(predictions, references).score
    assert metrics["scores"]["bleu"] > 10
    assert "tok:13a" in metrics["signatures"]["bleu"]
    assert "nc:6" in metrics["signatures"]["chrf"]


def test_breakdowns_add_up() -> None:
    rows = [
        ("q", "b.py", ["assert a == 1"], "assert a == 1"),
        ("p", "a.py", ["assert a == 2"], "assert a == 3"),
        ("p", "b.py", ["assert not a", "assert b"], "assert not a"),
    ]
    samples = [scored(gold, text, project=project, path=path) for project, path, gold, text in rows]
    metrics = aggregate(samples, [row[3] for row in rows], [row[2] for row in rows])
    assert list(metrics["by_project"]) == ["p", "q"]
    assert list(metrics["by_kind"]) == ["assert ==", "mixed"]
    assert metrics["by_project"]["p"]["scores"]["f1"] == pytest.approx(100 * 2 / (2 + 1 + 2))
    assert metrics["by_kind"]["assert =="]["scores"]["f1"] == pytest.approx(50)
    assert metrics["counts"]["files"] == 3
    for groups in (metrics["by_project"], metrics["by_kind"]):
        for name in ("samples", "tp", "fp", "fn", "gold_tokens"):
            assert sum(group["counts"][name] for group in groups.values()) == metrics["counts"][name]


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="empty"):
        aggregate([], [], [])


def test_unequal_numbers_are_an_error() -> None:
    with pytest.raises(DataError, match="Found 1, 2, 1"):
        aggregate([scored(["assert a"], "")], ["", ""], [["assert a"]])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("assert a.b == 'x  y'", ["assert", "a", ".", "b", "==", "'x  y'"]),
        ("f(-1.5e-3, x**2)", ["f", "(", "-", "1.5e-3", ",", "x", "**", "2", ")"]),
        ("a!=b>=c", ["a", "!=", "b", ">=", "c"]),
        ("() -> A::new && !x;", ["(", ")", "->", "A", "::", "new", "&&", "!", "x", ";"]),
        ("'open \u00e9t\u00e9_1", ["'", "open", "\u00e9t\u00e9_1"]),
        ("", []),
    ],
)
def test_code_tokens(text: str, tokens: list[str]) -> None:
    assert code_tokens(text) == tokens


def test_matching_tokens_are_positional() -> None:
    assert matching_tokens("assert a == 1", "assert b == 1") == (3, 4)
    assert matching_tokens("assert a == 1", "a == 1") == (0, 4)
    assert matching_tokens("assert a", "assert a == 1") == (2, 2)
    assert matching_tokens("assert  a==1", "assert a == 1") == (4, 4)


def naive_levenshtein(first: str, second: str) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i in range(len(first) + 1):
        for j in range(len(second) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
            else:
                substituted = table[i - 1][j - 1] + (first[i - 1] != second[j - 1])
                table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, substituted)
    return table[-1][-1]


@given(st.text("ab(", max_size=20), st.text("ab(", max_size=20))
def test_levenshtein_equals_the_naive_table(first: str, second: str) -> None:
    assert levenshtein(first, second) == naive_levenshtein(first, second)


def test_levenshtein_by_hand() -> None:
    assert levenshtein("kitten", "sitting") == 3
    assert levenshtein("", "abc") == levenshtein("abc", "") == 3
    assert levenshtein("ab" * 100, "ba" * 100) == 2  # longer than a machine word
    assert edit_similarity("", "") == 1
    assert edit_similarity("abcd", "abxd") == 0.75
    assert edit_similarity("", "a") == 0


@given(
    st.lists(st.text(st.characters()), max_size=3),
    st.text(st.characters()),
    st.sampled_from(["python", "java"]),
)
def test_no_text_raises(gold: list[str], prediction: str, language: str) -> None:
    sample = scored(gold, prediction, language=language)
    metrics = aggregate([sample], [prediction], [gold])
    assert all(0 <= score <= 100 + 1e-9 for score in metrics["scores"].values())
    perfect = scored(gold, "\n".join(gold), language=language)
    assert (perfect.fp, perfect.fn, perfect.exact_match, perfect.edit_similarity) == (0, 0, True, 1)
