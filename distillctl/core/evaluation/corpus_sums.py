"""Corpus metrics as functions of sums over samples, so that resampling costs additions only.

Every metric of :func:`~distillctl.core.evaluation.metrics.aggregate` is here a function of column sums: counts
for the rates, n-gram counts for BLEU (Papineni et al. 2002) and chrF (Popovic 2015). The values equal
sacrebleu's and ``aggregate``'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from distillctl.core.evaluation.significance import FloatArray, Statistic

BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2

COUNTED = (
    "tp",
    "fp",
    "fn",
    "exact_match",
    "exact_match_normalised",
    "valid_syntax",
    "non_empty",
    "contains_assertion",
    "matching_tokens",
    "gold_tokens",
    "edit_similarity",
)
COLUMNS = (
    "samples",
    *COUNTED,
    "bleu_length",
    "bleu_gold_length",
    *(f"bleu_{kind}_{n}" for kind in ("matching", "total") for n in range(1, BLEU_ORDER + 1)),
    *(f"chrf_{kind}_{n}" for kind in ("total", "gold", "matching") for n in range(1, CHRF_ORDER + 1)),
)
_PLACE = {name: index for index, name in enumerate(COLUMNS)}


def sample_sums(rows: Sequence[Mapping[str, Any]]) -> FloatArray:
    """What each sample adds to the sums, [N, k] with the columns :data:`COLUMNS`.

    ``rows`` are those of :class:`~distillctl.core.evaluation.evaluate_assertions.Scores`.
    """
    # effective_order only silences a warning about single sentences; the counts do not depend on it.
    bleu = BLEU(effective_order=True)
    return np.array([_sample(row, bleu) for row in rows], dtype=np.float64).reshape(len(rows), len(COLUMNS))


def _sample(row: Mapping[str, Any], bleu: BLEU) -> list[float]:
    prediction, gold = row["prediction"], "\n".join(row["gold"])
    score = bleu.sentence_score(prediction, [gold])
    lengths = (score.sys_len, score.ref_len)
    return [
        1,
        *(float(row[name]) for name in COUNTED),
        *lengths,
        *score.counts,
        *score.totals,
        *_chrf(prediction, gold),
    ]


def _chrf(prediction: str, gold: str) -> list[int]:
    """Character n-grams without white space: the prediction's where the gold has any, the gold's, those in both."""
    texts = ["".join(prediction.split()), "".join(gold.split())]
    totals, golds, matching = [], [], []
    for n in range(1, CHRF_ORDER + 1):
        found, expected = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in texts)
        golds.append(expected.total())
        totals.append(found.total() if expected else 0)
        matching.append((found & expected).total())
    return [*totals, *golds, *matching]


def _column(sums: FloatArray, name: str) -> FloatArray:
    return sums[..., _PLACE[name]]


def _columns(sums: FloatArray, prefix: str, order: int) -> FloatArray:
    start = _PLACE[f"{prefix}_1"]
    return sums[..., start : start + order]


def _points(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Points of 100; a ratio of nothing is 0."""
    return np.divide(100 * part, whole, out=np.zeros_like(whole), where=whole > 0)


def f1(sums: FloatArray) -> FloatArray:
    """Micro F1: ``200 tp / (2 tp + fp + fn)``."""
    return f1_of(*(_column(sums, name) for name in ("tp", "fp", "fn")))


def f1_of(tp: FloatArray, fp: FloatArray, fn: FloatArray) -> FloatArray:
    """Micro F1 (points) of counts of one shape; 0 where there are none."""
    return _points(2 * tp, 2 * tp + fp + fn)


def precision(sums: FloatArray) -> FloatArray:
    """``100 tp / (tp + fp)``."""
    return _points(_column(sums, "tp"), _column(sums, "tp") + _column(sums, "fp"))


def recall(sums: FloatArray) -> FloatArray:
    """``100 tp / (tp + fn)``."""
    return _points(_column(sums, "tp"), _column(sums, "tp") + _column(sums, "fn"))


def ratio(part: str, whole: str = "samples") -> Statistic:
    """The statistic ``100 part / whole`` of two columns."""

    def statistic(sums: FloatArray) -> FloatArray:
        return _points(_column(sums, part), _column(sums, whole))

    return statistic


def bleu_score(sums: FloatArray) -> FloatArray:
    """sacrebleu's corpus BLEU: brevity penalty times the geometric mean of four precisions, in points.

    An order without a match counts as half a match, the next such order as a quarter, and so on (``exp``).
    """
    matching, total = _columns(sums, "bleu_matching", BLEU_ORDER), _columns(sums, "bleu_total", BLEU_ORDER)
    halvings = np.cumsum(matching == 0, axis=-1)
    counted = np.where(matching == 0, 0.5**halvings, matching)
    logs = np.log(np.divide(counted, total, out=np.ones_like(total), where=total > 0))
    length, gold = _column(sums, "bleu_length"), _column(sums, "bleu_gold_length")
    brevity = np.minimum(0, 1 - np.divide(gold, length, out=np.ones_like(gold), where=length > 0))
    defined = matching.any(axis=-1) & (total > 0).all(axis=-1)
    return np.where(defined, 100 * np.exp(brevity + logs.mean(axis=-1)), 0.0)


def chrf_score(sums: FloatArray) -> FloatArray:
    """sacrebleu's corpus chrF2: F2 of the mean precision and recall of character 1- to 6-grams, in points."""
    total, gold = _columns(sums, "chrf_total", CHRF_ORDER), _columns(sums, "chrf_gold", CHRF_ORDER)
    matching = _columns(sums, "chrf_matching", CHRF_ORDER)
    counted = (total > 0) & (gold > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    mean_precision, mean_recall = (
        np.divide(matching, whole, out=np.zeros_like(matching), where=counted).sum(axis=-1) / orders
        for whole in (total, gold)
    )
    factor = CHRF_BETA**2
    return _points((1 + factor) * mean_precision * mean_recall, factor * mean_precision + mean_recall)


METRICS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "f1": f1,
    "precision": precision,
    "recall": recall,
    "exact_match": ratio("exact_match"),
    "exact_match_normalised": ratio("exact_match_normalised"),
    "valid_syntax": ratio("valid_syntax"),
    "non_empty": ratio("non_empty"),
    "contains_assertion": ratio("contains_assertion"),
    "token_accuracy": ratio("matching_tokens", "gold_tokens"),
    "edit_similarity": ratio("edit_similarity"),
    "bleu": bleu_score,
    "chrf": chrf_score,
}
"""Every corpus metric by the name it has in ``metrics.json``, in the order of the tables; all in points of 100."""
