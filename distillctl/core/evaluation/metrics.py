"""The metrics of predicted assertions: per sample, and over a corpus. All rates and scores are points, 0-100.

The main metric is micro F1 over sets of exact assertion lines: per sample the set of predicted lines meets
the set of gold lines (:func:`~distillctl.core.evaluation.lines.split_lines`); true positives, false positives
and false negatives are summed over samples, and ``F1 = 200 tp / (2 tp + fp + fn)``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from distillctl.core.errors import DataError
from distillctl.core.evaluation.lines import (
    OTHER,
    STRING_LITERAL,
    assertion_kind,
    kind_of_lines,
    normalise_whitespace,
    split_lines,
)
from distillctl.core.evaluation.syntax import valid_syntax

# Raise it when any number below changes for the same texts: reports refuse to mix versions. (Not raised on 2026-11-26,
# when Java that javac refuses stopped being valid: no score of Java had been published, and Python's are the same.)
METRIC_VERSION = 1
UNIT = "points, 0-100"

_CODE_TOKEN = re.compile(
    rf"{STRING_LITERAL}"
    r"|[^\W\d]\w*"  # names and keywords
    r"|\d(?:[eE][+-]\d|[\w.])*"  # numbers
    r"|\*\*=|//=|>>=|<<=|\.\.\.|===|!==|==|!=|<=|>=|->|=>|::|:=|&&|\|\||\+\+|--|\*\*|//|<<|>>|[+\-*/%&|^@]="
    r"|\S",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class SampleScore:
    """Scores of one sample. ``tp``, ``fp``, ``fn`` count distinct lines; ``edit_similarity`` is 0-1."""

    id: str
    project: str
    path: str
    kind: str
    tp: int
    fp: int
    fn: int
    exact_match: bool
    exact_match_normalised: bool
    valid_syntax: bool
    non_empty: bool
    contains_assertion: bool
    edit_similarity: float
    matching_tokens: int
    gold_tokens: int


def score_sample(
    sample_id: str, project: str, path: str, language: str, gold: Sequence[str], prediction: str
) -> SampleScore:
    """Scores one prediction against its gold assertions.

    ``exact_match`` compares the texts character by character; ``exact_match_normalised`` their lines, in
    order, with white space normalised. ``kind`` is the gold's (``mixed`` when its assertions differ).
    """
    target = "\n".join(gold)
    gold_lines, lines = split_lines(target), split_lines(prediction)
    gold_set, predicted_set = set(gold_lines), set(lines)
    matching, gold_tokens = matching_tokens(target, prediction)
    return SampleScore(
        id=sample_id,
        project=project,
        path=path,
        kind=kind_of_lines(gold_lines, language),
        tp=len(gold_set & predicted_set),
        fp=len(predicted_set - gold_set),
        fn=len(gold_set - predicted_set),
        exact_match=prediction == target,
        exact_match_normalised=_normalised(lines) == _normalised(gold_lines),
        valid_syntax=valid_syntax(prediction, language),
        non_empty=bool(lines),
        contains_assertion=any(assertion_kind(line, language) != OTHER for line in lines),
        edit_similarity=edit_similarity(prediction, target),
        matching_tokens=matching,
        gold_tokens=gold_tokens,
    )


def _normalised(lines: Sequence[str]) -> list[str]:
    return [normalise_whitespace(line) for line in lines]


def aggregate(
    samples: Sequence[SampleScore], predictions: Sequence[str], golds: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Corpus metrics: ``scores`` (points) and the ``counts`` they come from; both by project and by kind.

    BLEU and chrF are sacrebleu's corpus scores of whole texts, a gold's lines joined by newlines, and are not
    broken down. Edit similarity is the mean over samples, token accuracy the micro average. A ratio of
    nothing (precision without any predicted line) is 0; its count shows it. Raises DataError on an empty
    sample list.
    """
    if not samples:
        raise DataError("nothing to score: the list of samples is empty")
    if not len(samples) == len(predictions) == len(golds):
        raise DataError(
            f"samples, predictions and golds should be equally many. "
            f"Found {len(samples)}, {len(predictions)}, {len(golds)}"
        )
    references = ["\n".join(gold) for gold in golds]
    bleu, chrf = BLEU(force=True), CHRF()  # force: no warning about texts that look tokenised, as code does
    scores, counts = _rates(samples)
    scores["bleu"] = float(bleu.corpus_score(list(predictions), [references]).score)
    scores["chrf"] = float(chrf.corpus_score(list(predictions), [references]).score)
    return {
        "metric_version": METRIC_VERSION,
        "unit": UNIT,
        "scores": scores,
        "counts": counts,
        "signatures": {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())},
        "by_project": _breakdown(samples, lambda sample: sample.project),
        "by_kind": _breakdown(samples, lambda sample: sample.kind),
    }


def f1_points(tp: int, fp: int, fn: int) -> float:
    """``200 tp / (2 tp + fp + fn)``: F1 in points, 0 when there is nothing to count."""
    return _points(2 * tp, 2 * tp + fp + fn)


def _rates(samples: Sequence[SampleScore]) -> tuple[dict[str, float], dict[str, int]]:
    def total(of: Callable[[SampleScore], int]) -> int:
        return sum(map(of, samples))

    counts = {
        "samples": len(samples),
        "files": len({(sample.project, sample.path) for sample in samples}),
        "tp": total(lambda sample: sample.tp),
        "fp": total(lambda sample: sample.fp),
        "fn": total(lambda sample: sample.fn),
        "exact_match": total(lambda sample: sample.exact_match),
        "exact_match_normalised": total(lambda sample: sample.exact_match_normalised),
        "valid_syntax": total(lambda sample: sample.valid_syntax),
        "non_empty": total(lambda sample: sample.non_empty),
        "contains_assertion": total(lambda sample: sample.contains_assertion),
        "matching_tokens": total(lambda sample: sample.matching_tokens),
        "gold_tokens": total(lambda sample: sample.gold_tokens),
    }
    tp, fp, fn = counts["tp"], counts["fp"], counts["fn"]
    scores = {"precision": _points(tp, tp + fp), "recall": _points(tp, tp + fn), "f1": f1_points(tp, fp, fn)}
    for name in ("exact_match", "exact_match_normalised", "valid_syntax", "non_empty", "contains_assertion"):
        scores[name] = _points(counts[name], len(samples))
    scores["token_accuracy"] = _points(counts["matching_tokens"], counts["gold_tokens"])
    scores["edit_similarity"] = 100 * sum(sample.edit_similarity for sample in samples) / len(samples)
    return scores, counts


def _points(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0


def _breakdown(samples: Iterable[SampleScore], key: Callable[[SampleScore], str]) -> dict[str, Any]:
    groups: dict[str, list[SampleScore]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    rates = {name: _rates(groups[name]) for name in sorted(groups)}
    return {name: {"scores": scores, "counts": counts} for name, (scores, counts) in rates.items()}


def code_tokens(text: str) -> list[str]:
    """Tokens of a simple lexer for both languages: string literals, names, numbers, operators."""
    return _CODE_TOKEN.findall(text)


def matching_tokens(gold: str, prediction: str) -> tuple[int, int]:
    """How many of the gold's code tokens the prediction has at the same position, and how many the gold has.

    Token accuracy is the first over the second: positions beyond the shorter text do not match, tokens
    predicted beyond the gold's end are not punished.
    """
    expected = code_tokens(gold)
    found = code_tokens(prediction)
    return sum(a == b for a, b in zip(expected, found, strict=False)), len(expected)


def edit_similarity(first: str, second: str) -> float:
    """``1 - levenshtein / longer length``, 0-1; two empty texts are alike (1)."""
    longer = max(len(first), len(second))
    return 1 - levenshtein(first, second) / longer if longer else 1.0


def levenshtein(first: str, second: str) -> int:
    """Edit distance in characters (insert, delete, substitute).

    The dynamic programme's column as bit vectors of vertical differences, one big-integer step per character
    of ``second`` (Myers, "A fast bit-vector algorithm for approximate string matching", JACM 1999, in the
    form of Hyyro 2003).
    """
    if not first:
        return len(second)
    positions: dict[str, int] = defaultdict(int)
    for index, character in enumerate(first):
        positions[character] |= 1 << index
    mask, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    plus, minus = mask, 0  # cells one above, one below the cell over them, as bits
    distance = len(first)  # the column's last cell
    for character in second:
        match = positions.get(character, 0)
        diagonal = (((match & plus) + plus) ^ plus) | match | minus
        rise = minus | ~(diagonal | plus) & mask  # cells one above, one below their left neighbour
        fall = plus & diagonal
        distance += bool(rise & last) - bool(fall & last)
        rise = (rise << 1 | 1) & mask
        plus = (fall << 1) & mask | ~(diagonal | rise) & mask
        minus = rise & diagonal
    return distance
