"""Where predictions differ: a few gained and lost samples that are worth reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillctl.core.analysis.run_data import RunData

SHOWN = 20
LONG = 400
"""Characters of gold and both predictions together above which a sample waits for shorter ones."""


@dataclass(frozen=True, slots=True)
class DifferingSample:
    """One sample that one run got right and the other wrong. ``input`` is None where it was not stored."""

    id: str
    project: str
    path: str
    kind: str
    input: str | None
    gold: str
    baseline: str
    candidate: str


@dataclass(frozen=True, slots=True)
class DifferingSamples:
    """The chosen ones, and how many there are in all: right only by the candidate, only by the baseline."""

    gained: tuple[DifferingSample, ...]
    lost: tuple[DifferingSample, ...]
    all_gained: int
    all_lost: int
    both_right: int
    both_wrong: int


def differing_samples(baseline: RunData, candidate: RunData, shown: int = SHOWN) -> DifferingSamples:
    """Chooses half of ``shown`` from each side, more from one where the other has fewer.

    Both runs hold the same samples in the same order. Right is: exactly the gold's set of lines. The choice
    depends on the predictions only: spread over projects and kinds, texts short enough to read, wrong answers
    near the right one first.
    """
    pairs = list(zip(baseline.rows, candidate.rows, strict=True))
    right = [(is_right(first), is_right(second)) for first, second in pairs]
    gained = [pair for pair, correct in zip(pairs, right, strict=True) if correct == (False, True)]
    lost = [pair for pair, correct in zip(pairs, right, strict=True) if correct == (True, False)]
    half = shown // 2
    inputs = {**baseline.inputs, **candidate.inputs}
    most_gained, most_lost = max(half, shown - len(lost)), max(half, shown - len(gained))
    return DifferingSamples(
        gained=tuple(_sample(*pair, inputs) for pair in _choose(gained, most_gained, lambda pair: pair[0])),
        lost=tuple(_sample(*pair, inputs) for pair in _choose(lost, most_lost, lambda pair: pair[1])),
        all_gained=len(gained),
        all_lost=len(lost),
        both_right=right.count((True, True)),
        both_wrong=right.count((False, False)),
    )


def is_right(row: Mapping[str, Any]) -> bool:
    """Whether the predicted lines are exactly the gold's."""
    return bool(row["tp"] > 0 and row["fp"] == 0 and row["fn"] == 0)


Row = Mapping[str, Any]
RowPair = tuple[Row, Row]


def _choose(pairs: Sequence[RowPair], count: int, wrong: Callable[[RowPair], Row]) -> list[RowPair]:
    """Takes one after the other what the chosen so far have least of."""
    left = list(pairs)
    chosen: list[RowPair] = []
    projects: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    while left and len(chosen) < count:
        best = min(left, key=lambda pair: (projects[pair[0]["project"]] + kinds[pair[0]["kind"]], *_merit(pair, wrong)))
        left.remove(best)
        chosen.append(best)
        projects[best[0]["project"]] += 1
        kinds[best[0]["kind"]] += 1
    return chosen


def _merit(pair: RowPair, wrong: Callable[[RowPair], Row]) -> tuple[bool, float, int, str]:
    """Smaller is better: readable, a near miss, short; the id decides between equals."""
    length = len("\n".join(pair[0]["gold"])) + len(pair[0]["prediction"]) + len(pair[1]["prediction"])
    return length > LONG, -round(wrong(pair)["edit_similarity"], 2), length, pair[0]["id"]


def _sample(first: Row, second: Row, inputs: Mapping[str, str]) -> DifferingSample:
    return DifferingSample(
        id=first["id"],
        project=first["project"],
        path=first["path"],
        kind=first["kind"],
        input=inputs.get(first["id"]),
        gold="\n".join(first["gold"]),
        baseline=first["prediction"],
        candidate=second["prediction"],
    )
