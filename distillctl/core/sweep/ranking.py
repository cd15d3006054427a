"""Grid points in order of their F1, each with its interval, and whether it can be told apart from the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distillctl.core.errors import DataError, RunError
from distillctl.core.evaluation.corpus_sums import f1_of
from distillctl.core.evaluation.significance import Difference, FloatArray, Statistic, paired_differences
from distillctl.core.sweep.grid import Point
from distillctl.core.sweep.plan import Sweep
from distillctl.core.sweep.study import Result

BEST, TIED, WORSE = "best", "not told apart from the best", "worse"
_COUNTS = 3  # true positives, false positives, false negatives


@dataclass(frozen=True, slots=True)
class Rank:
    """A grid point. F1 in points: the mean over seeds, its 95 % interval, and each seed's own.

    ``to_best`` is its F1 minus the best point's; None for the best itself.
    """

    point: Point
    f1: float
    low: float | None
    high: float | None
    by_seed: tuple[float, ...]
    to_best: Difference | None

    @property
    def verdict(self) -> str:
        """Best, worse, or not told apart: by the interval and the p-value of the difference to the best."""
        if self.to_best is None:
            return BEST
        return WORSE if self.to_best.is_shown else TIED


@dataclass(frozen=True)
class Ranking:
    """``ranks``, the best first; ``unranked`` are points of which a seed failed, with the F1 of those that did not."""

    ranks: tuple[Rank, ...]
    unranked: tuple[tuple[Point, tuple[float, ...]], ...]
    samples: int
    files: int

    @property
    def best(self) -> Rank:
        """The point with the highest mean F1."""
        return self.ranks[0]


def rank(sweep: Sweep, results: Mapping[int, Result]) -> Ranking:
    """Ranks the grid points whose every seed is done.

    A point's value is the mean over seeds of the corpus F1. Intervals: files are drawn with replacement, the same ones
    for all seeds and for the point that it is compared with (:func:`paired_differences`). They say what other files
    would have given, not what other seeds would have: for that, compare the seeds' own values.

    Args:
        sweep: grid, seeds and trials.
        results: scores by trial number.

    Raises:
        DataError: trials that were not scored on the same records, or not made from the same.
        RunError: no grid point has all its seeds.
    """
    _check_same_records(sweep, results)
    whole: list[tuple[Point, list[Result]]] = []
    unranked: list[tuple[Point, tuple[float, ...]]] = []
    for place, point in enumerate(sweep.points):
        numbers = range(place, len(sweep.trials), len(sweep.points))
        found = [results[number] for number in numbers if number in results]
        if len(found) == len(sweep.seeds):
            whole.append((point, found))
        else:
            unranked.append((point, tuple(result.f1 for result in found)))
    if not whole:
        raise RunError("no grid point has all its seeds: there is nothing to rank. --retry-failed tries again")
    whole.sort(key=lambda item: -_mean(item[1]))
    best = whole[0][1]
    ranks = [_rank(point, found, None if found is best else best) for point, found in whole]
    return Ranking(tuple(ranks), tuple(unranked), best[0].samples, len(best[0].files))


def _mean(results: Sequence[Result]) -> float:
    return float(np.mean([result.f1 for result in results]))


def _rank(point: Point, results: Sequence[Result], best: Sequence[Result] | None) -> Rank:
    sums = _sums(results)
    own = _difference(np.zeros_like(sums), sums, results)  # against nothing: the interval of F1 itself
    to_best = None if best is None else _difference(_sums(best), sums, results)
    return Rank(point, _mean(results), own.low, own.high, tuple(result.f1 for result in results), to_best)


def _sums(results: Sequence[Result]) -> FloatArray:
    """Per file the counts of one seed after the other, [files, 3 x seeds]."""
    names = sorted(results[0].files)
    return np.array([[count for result in results for count in result.files[name]] for name in names], dtype=np.float64)


def _difference(baseline: FloatArray, candidate: FloatArray, results: Sequence[Result]) -> Difference:
    names = sorted(results[0].files)
    return paired_differences(baseline, candidate, names, {"f1": mean_f1(len(results))})["f1"]


def mean_f1(seeds: int) -> Statistic:
    """The mean over seeds of micro F1 (points): a function of sums [..., 3 x seeds]."""

    def statistic(sums: FloatArray) -> FloatArray:
        counts = sums.reshape(*sums.shape[:-1], seeds, _COUNTS)
        return np.asarray(f1_of(counts[..., 0], counts[..., 1], counts[..., 2]).mean(axis=-1))

    return statistic


def _check_same_records(sweep: Sweep, results: Mapping[int, Result]) -> None:
    first = next(iter(sorted(results)), None)
    for number in sorted(results):
        assert first is not None
        if results[number].records != results[first].records:
            one, other = sweep.text(sweep.trials[first]), sweep.text(sweep.trials[number])
            raise DataError(
                f"{one} and {other}: scored on different records of dev (other package versions, or a tokenizer that "
                "drops some). Run the sweep anew in one environment, in another -o DIR"
            )
    _check_made_alike(sweep, results)


_VARIED_BY = {
    "data": ("other records", ("data.",)),
    "teacher": ("another teacher", ("teacher.",)),
    "tokenizer": ("another tokenizer", ("student.", "teacher.")),
    "encoder": ("another encoder", ("encoder.", "teacher.", "training.bf16")),
}
"""What another fingerprint means, and the settings by which a grid makes such trials on purpose."""


def _check_made_alike(sweep: Sweep, results: Mapping[int, Result]) -> None:
    """DataError where two trials learned from something else that the grid did not vary: it changed between them."""
    for name, (words, prefixes) in _VARIED_BY.items():
        if any(axis.field.startswith(prefixes) for axis in sweep.axes):
            continue
        stated = [
            (number, results[number].made_from[name]) for number in sorted(results) if name in results[number].made_from
        ]
        for number, here in stated:
            first, there = stated[0]
            if here != there:
                raise DataError(
                    f"{sweep.text(sweep.trials[first])} and {sweep.text(sweep.trials[number])}: made from {words} "
                    f"({there[:16]} and {here[:16]}), which changed in between. Run the sweep anew, in another -o DIR"
                )
