"""Is a difference between two systems real? Paired, clustered by file: an interval and a p-value.

Samples of one file resemble each other, so files are what is drawn, never single samples; and both systems
answered the same samples, so one draw serves both. A metric is any function of column sums over samples
(:mod:`~distillctl.core.evaluation.corpus_sums`), so that a draw costs one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distillctl.core.errors import DataError

FloatArray = NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]
"""Column sums [..., k] to the metric [...]."""

RESAMPLES = 5_000
PERMUTATIONS = 5_000
CONFIDENCE = 0.95
SEED = 13
# Two differences closer than this are equal: sums are exact, quotients are not.
TOLERANCE = 1e-9
_DRAWS_AT_ONCE = 250


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two systems, in the metric's unit. ``low`` and ``high`` are None where one file is all."""

    baseline: float
    candidate: float
    difference: float
    low: float | None
    high: float | None
    p_value: float
    clusters: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def is_shown(self) -> bool:
        """Whether interval and p-value both tell the difference from 0.

        Of a few clusters the interval is too narrow and p is not: without any difference it left 0 out in 37 % of 200
        simulations with 2 clusters, in 14 % with 6, in 5 % with 10.
        """
        return self.excludes_zero and self.p_value < 1 - CONFIDENCE


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """The mean of a few values with its t interval; no interval (None) for a single value."""

    mean: float
    low: float | None
    high: float | None
    count: int


def paired_differences(
    baseline: FloatArray,
    candidate: FloatArray,
    clusters: Sequence[str],
    statistics: Mapping[str, Statistic],
    *,
    resamples: int = RESAMPLES,
    permutations: int = PERMUTATIONS,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> dict[str, Difference]:
    """Candidate minus baseline of each statistic, with a BCa interval and a two-sided permutation p-value.

    Interval: ``resamples`` times as many clusters as there are are drawn with replacement, the same ones for
    both systems and all statistics; bias-corrected and accelerated, the acceleration from leaving out one
    cluster at a time (Efron, "Better bootstrap confidence intervals", JASA 1987; DiCiccio and Efron,
    "Bootstrap confidence intervals", Statistical Science 1996). p: under the null hypothesis the systems'
    names mean nothing, so ``permutations`` times the two are swapped within a random half of the clusters;
    ``p = (1 + number at least as far from 0) / (permutations + 1)`` (Phipson and Smyth 2010).

    Swapping the systems negates every difference and mirrors every interval exactly, p staying the same.
    Identical systems give 0, [0, 0] and p = 1. With one cluster there is no interval, and p is 1.

    Measured in 1,000 simulations each with the embedded corpus's 429 validation files (as much worth as 72 of
    equal size), a 95 % interval held the truth 93.3 to 95.3 % of the time, the gain the same in every file or
    varying from nothing to twice that; with every third file alone (worth 35), 93 %. Few large files make it a
    little too narrow.

    Args:
        baseline: sums per sample [N, k]; several runs are pooled by stacking their samples.
        candidate: the same samples [N, k].
        clusters: the cluster of each sample, N names.
        statistics: functions of column sums, by name.
        resamples, permutations: how many draws.
        confidence: of the interval, between 0 and 1.
        seed: of both kinds of draws; the result depends on nothing else random.

    Raises:
        DataError: no sample, or shapes that do not agree.
    """
    if not len(baseline) or baseline.shape != candidate.shape or len(clusters) != len(baseline):
        raise DataError(
            f"both systems should have the same samples, each with its cluster. "
            f"Found {baseline.shape}, {candidate.shape}, {len(clusters)} clusters"
        )
    before, after = cluster_sums(baseline, clusters), cluster_sums(candidate, clusters)
    drawing, swapping = np.random.SeedSequence(seed).spawn(2)
    drawn = _collect(_bootstrap(before, after, statistics, resamples, np.random.default_rng(drawing)))
    swapped = _collect(_permutation(before, after, statistics, permutations, np.random.default_rng(swapping)))
    return {
        name: _difference(before, after, statistic, drawn[name], swapped[name], confidence)
        for name, statistic in statistics.items()
    }


def _difference(
    before: FloatArray,
    after: FloatArray,
    statistic: Statistic,
    drawn: FloatArray,
    swapped: FloatArray,
    confidence: float,
) -> Difference:
    """One statistic of cluster sums [C, k], from its values in bootstrap draws [R] and in swaps [P]."""
    total_before, total_after = before.sum(axis=0), after.sum(axis=0)
    first, second = float(statistic(total_before)), float(statistic(total_after))
    left_out = statistic(total_after - after) - statistic(total_before - before)
    low, high = bca_interval(second - first, drawn, left_out, confidence)
    extreme = np.count_nonzero(np.abs(swapped) >= abs(second - first) - TOLERANCE)
    p_value = (1 + int(extreme)) / (len(swapped) + 1)
    return Difference(first, second, second - first, low, high, p_value, len(before))


def cluster_sums(values: FloatArray, clusters: Sequence[str]) -> FloatArray:
    """Sums over the samples of each cluster, [N, k] to [C, k], clusters in the order of their names."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def _bootstrap(
    before: FloatArray, after: FloatArray, statistics: Mapping[str, Statistic], draws: int, rng: Any
) -> Iterator[dict[str, FloatArray]]:
    count = len(before)
    for size in _portions(draws):
        drawn = rng.integers(0, count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)
        # One product per system, of equal shape: the same numbers come out whichever is called the baseline.
        first, second = times @ before, times @ after
        yield {name: statistic(second) - statistic(first) for name, statistic in statistics.items()}


def _permutation(
    before: FloatArray, after: FloatArray, statistics: Mapping[str, Statistic], draws: int, rng: Any
) -> Iterator[dict[str, FloatArray]]:
    gap = after - before
    first, second = before.sum(axis=0), after.sum(axis=0)
    for size in _portions(draws):
        moved = rng.integers(0, 2, size=(size, len(gap))).astype(np.float64) @ gap
        yield {name: statistic(second - moved) - statistic(first + moved) for name, statistic in statistics.items()}


def _portions(draws: int) -> Iterator[int]:
    for start in range(0, draws, _DRAWS_AT_ONCE):
        yield min(_DRAWS_AT_ONCE, draws - start)


def _collect(portions: Iterator[dict[str, FloatArray]]) -> dict[str, FloatArray]:
    parts = list(portions)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def bca_interval(
    observed: float, drawn: FloatArray, left_out: FloatArray, confidence: float = CONFIDENCE
) -> tuple[float, float] | tuple[None, None]:
    """The bias-corrected and accelerated interval of a bootstrap.

    ``drawn`` [R] are the statistic's bootstrap values, ``left_out`` [C] its values without one cluster each.
    With z0 the normal quantile of the share of ``drawn`` below ``observed`` (ties count half) and
    ``a = sum d^3 / 6 (sum d^2)^1.5``, d the mean of ``left_out`` minus each, the ends are the quantiles of
    ``drawn`` at ``Phi(z0 + (z0 + z) / (1 - a (z0 + z)))``. None for a single cluster.
    """
    if len(left_out) < 2:
        return None, None
    # Quantiles round differently on the two sides of 0, so the interval is always computed on the same one.
    sign = next((math.copysign(1.0, value) for value in (observed, *drawn) if value != 0), 1.0)
    drawn = sign * drawn
    gaps = drawn - sign * observed
    share = np.mean(gaps < -TOLERANCE) + np.mean(np.abs(gaps) <= TOLERANCE) / 2
    # All draws on one side say no more than that the share is beyond one draw.
    z0 = stats.norm.ppf(np.clip(share, 1 / (len(drawn) + 1), len(drawn) / (len(drawn) + 1)))
    acceleration = _acceleration(sign * left_out)
    ends = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = z0 + stats.norm.ppf(tail)
        room = 1 - acceleration * shifted
        # Past the pole of the transformation (extreme skewness) the end is the extreme draw.
        level = stats.norm.cdf(z0 + shifted / room) if room > 0 else float(shifted > 0)
        ends.append(float(np.quantile(drawn, level)))
    low, high = ends
    return (low, high) if sign > 0 else (-high, -low)


def _acceleration(left_out: FloatArray) -> float:
    gaps = left_out.mean() - left_out
    spread = float(np.sum(gaps**2))
    return float(np.sum(gaps**3)) / (6 * spread**1.5) if spread > TOLERANCE**2 else 0.0


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> MeanInterval:
    """The mean with Student's t interval: for a few seeds, whose noise is taken to be normal.

    Raises DataError when there is no value.
    """
    if not values:
        raise DataError("values should hold at least one number. Found none")
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return MeanInterval(mean, None, None, count)
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return MeanInterval(mean, mean - reach, mean + reach, count)
