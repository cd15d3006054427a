"""Metrics from sums equal the metrics themselves, whole and in every part."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.core.evaluation.corpus_sums import COLUMNS, METRICS, ratio, sample_sums
from distillctl.core.evaluation.evaluate_assertions import rescore


@dataclass(frozen=True)
class Pair:
    gold: list[str]
    prediction: str


def rows_of(pairs: list[Pair]) -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "language": "python",
            "project": "p",
            "path": f"t{number % 3}.py",
            "input_fingerprint": "0",
            "gold": pair.gold,
            "prediction": pair.prediction,
        }
        for number, pair in enumerate(pairs)
    ]


PAIRS = [
    Pair(["assert a.b == 1", "assert c is None"], "assert a.b == 2\nassert c is None"),
    Pair(["self.assertEqual(x, [1, 2, 3])"], "self.assertEqual(x, [1, 2, 4])"),
    Pair(["assert y ."], ""),
    Pair(["assert x"], "assert x"),
    Pair(["assert"], "assert assert assert assert assert"),
    Pair(["assert é == '\u2028 x'"], "assert é == 'x'"),
    Pair(["x"], "yy"),
]


def check(pairs: list[Pair]) -> None:
    scores = rescore(rows_of(pairs))
    total = sample_sums(scores.rows).sum(axis=0)
    assert {name: float(metric(total)) for name, metric in METRICS.items()} == pytest.approx(
        {name: scores.metrics["scores"][name] for name in METRICS}, abs=1e-9
    )
    assert set(METRICS) == set(scores.metrics["scores"])


@pytest.mark.parametrize("count", range(1, len(PAIRS) + 1))
def test_every_metric_equals_the_one_of_the_whole_corpus(count: int) -> None:
    check(PAIRS[:count])
    check(PAIRS[-count:])
    check(random.Random(count).choices(PAIRS, k=20))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Pair, st.lists(st.text("ab (\n."), max_size=2), st.text("ab (\n.")), min_size=1, max_size=4))
def test_so_does_any_text(pairs: list[Pair]) -> None:
    check(pairs)


def test_bleu_and_chrf_equal_sacrebleu_on_longer_texts() -> None:
    words = ["assert", "self", "x", "y", "(", ")", "==", "1", "None", "foo", "bar", ",", ".", "[", "]"]
    rng = random.Random(3)
    pairs = [
        Pair([" ".join(rng.choices(words, k=rng.randint(3, 12)))], " ".join(rng.choices(words, k=rng.randint(1, 14))))
        for _ in range(200)
    ]
    total = sample_sums(rescore(rows_of(pairs)).rows).sum(axis=0)
    predictions, golds = [pair.prediction for pair in pairs], [pair.gold[0] for pair in pairs]
    assert float(METRICS["bleu"](total)) == pytest.approx(sacrebleu.corpus_bleu(predictions, [golds]).score, abs=1e-9)
    assert float(METRICS["chrf"](total)) == pytest.approx(sacrebleu.corpus_chrf(predictions, [golds]).score, abs=1e-9)
    assert float(METRICS["bleu"](total)) > 1


def test_metrics_take_many_sums_at_once() -> None:
    sums = sample_sums(rescore(rows_of(PAIRS)).rows)
    assert sums.shape == (len(PAIRS), len(COLUMNS))
    stacked = np.stack([sums[:3].sum(axis=0), sums.sum(axis=0), np.zeros(len(COLUMNS))])
    for metric in METRICS.values():
        values = metric(stacked)
        assert values.tolist() == pytest.approx([float(metric(row)) for row in stacked])
        assert values[2] == 0


def test_a_ratio_of_two_columns() -> None:
    sums = sample_sums(rescore(rows_of(PAIRS)).rows).sum(axis=0)
    assert float(ratio("tp")(sums)) == pytest.approx(100 * 2 / 7)
    assert float(ratio("tp", "gold_tokens")(sums)) == pytest.approx(100 * 2 / sums[COLUMNS.index("gold_tokens")])
