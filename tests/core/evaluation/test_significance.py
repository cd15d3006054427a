"""Intervals and p-values: against naive loops, against scipy, by simulation, and their exact symmetries."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from distillctl.core.errors import DataError
from distillctl.core.evaluation.significance import (
    Difference,
    FloatArray,
    bca_interval,
    cluster_sums,
    mean_interval,
    paired_differences,
)

# fmt: off
FILES_BY_SIZE = {
    1: 10, 2: 22, 3: 37, 4: 11, 5: 12, 6: 12, 7: 18, 8: 16, 9: 15, 10: 12, 11: 11, 12: 10, 13: 6, 14: 8, 15: 4,
    16: 12, 17: 7, 18: 8, 19: 8, 20: 3, 21: 7, 22: 7, 23: 6, 24: 4, 25: 10, 26: 4, 27: 5, 28: 3, 29: 4, 30: 2,
    31: 3, 32: 2, 33: 4, 34: 3, 35: 4, 37: 2, 38: 9, 39: 4, 40: 4, 41: 3, 42: 1, 43: 1, 44: 1, 45: 2, 46: 1, 47: 4,
    49: 3, 50: 2, 51: 2, 53: 1, 54: 1, 55: 2, 59: 1, 60: 1, 61: 1, 62: 4, 63: 1, 65: 3, 70: 1, 72: 2, 73: 3, 74: 1,
    75: 1, 77: 2, 78: 1, 79: 1, 80: 1, 81: 2, 82: 1, 83: 1, 85: 2, 87: 1, 90: 1, 91: 1, 93: 2, 95: 1, 101: 2,
    102: 2, 104: 1, 105: 2, 106: 2, 107: 1, 111: 2, 112: 1, 120: 1, 129: 1, 134: 1, 138: 1, 152: 1, 155: 1, 160: 1,
    161: 1, 166: 1, 167: 1, 169: 2, 175: 1, 205: 1, 207: 1, 210: 1, 239: 1, 241: 1, 247: 1, 259: 1, 342: 1, 344: 1,
    370: 1, 374: 1, 541: 1, 970: 1, 1131: 1,
}
"""Validation files of the embedded corpus (4c05ab4821852fc4) by their number of records: 429 files, 17,450 records."""
# fmt: on
FILE_SIZES = np.repeat(list(FILES_BY_SIZE), list(FILES_BY_SIZE.values()))


def f1(sums: FloatArray) -> FloatArray:
    """Micro F1 in points of columns tp, fp, fn."""
    tp, fp, fn = sums[..., 0], sums[..., 1], sums[..., 2]
    return 200 * tp / np.maximum(2 * tp + fp + fn, 1)


def mean(sums: FloatArray) -> FloatArray:
    """Mean of column 0, the number of samples being column 1."""
    return sums[..., 0] / sums[..., 1]


def outcomes(right: FloatArray) -> FloatArray:
    """tp, fp, fn of samples with one gold and one predicted line."""
    return np.stack([right, 1 - right, 1 - right], axis=-1)


def two_systems(seed: int = 0, samples: int = 300, files: int = 40) -> tuple[FloatArray, FloatArray, list[str]]:
    rng = np.random.default_rng(seed)
    chance = rng.random(files)
    file = rng.integers(0, files, samples)
    first = (rng.random(samples) < chance[file]).astype(float)
    second = np.where(rng.random(samples) < 0.2, rng.random(samples) < 0.9, first).astype(float)
    return outcomes(first), outcomes(second), [f"f{number:03}" for number in file]


def compare(first: FloatArray, second: FloatArray, files: list[str], **options: int) -> Difference:
    return paired_differences(first, second, files, {"f1": f1}, **options)["f1"]


# --- what must hold exactly -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_swapping_the_systems_flips_every_sign_exactly(seed: int) -> None:
    first, second, files = two_systems(seed, samples=60, files=12)
    there, back = compare(first, second, files, seed=seed), compare(second, first, files, seed=seed)
    assert there.low is not None and there.high is not None
    assert (back.difference, back.low, back.high) == (-there.difference, -there.high, -there.low)
    assert (back.baseline, back.candidate, back.p_value) == (there.candidate, there.baseline, there.p_value)


def test_equal_scores_of_different_systems_are_mirrored_too() -> None:
    first, second = outcomes(np.array([1.0, 0, 0, 1, 0])), outcomes(np.array([0.0, 1, 0, 0, 1]))
    files = ["a", "a", "b", "c", "d"]
    there, back = compare(first, second, files), compare(second, first, files)
    assert there.difference == back.difference == 0
    assert there.low is not None and there.high is not None
    assert there.low < 0 < there.high
    assert (back.low, back.high, back.p_value) == (-there.high, -there.low, there.p_value)


def test_a_system_against_itself() -> None:
    first, _, files = two_systems()
    same = compare(first, first.copy(), files)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert not same.excludes_zero


def test_two_files_show_nothing_however_narrow_their_interval() -> None:
    before, after = outcomes(np.array([1.0, 0, 1, 0])), outcomes(np.ones(4))
    result = compare(before, after, ["a", "a", "b", "b"])
    assert result.excludes_zero
    assert result.p_value > 0.05
    assert not result.is_shown


def test_one_file_gives_no_interval() -> None:
    first, second, _ = two_systems()
    result = compare(first, second, ["only"] * len(first))
    assert result.difference > 0
    assert (result.low, result.high, result.p_value, result.clusters) == (None, None, 1, 1)
    assert not result.excludes_zero


def test_the_same_difference_in_every_file_has_no_spread() -> None:
    before, after = outcomes(np.array([1.0, 0] * 4)), outcomes(np.ones(8))
    result = compare(before, after, [name for name in "abcd" for _ in range(2)])
    assert (result.low, result.high) == (50, 50)


def test_one_seed_one_result_whatever_the_order_of_samples() -> None:
    first, second, files = two_systems()
    order = np.random.default_rng(1).permutation(len(files))
    assert compare(first, second, files) == compare(first[order], second[order], [files[i] for i in order])
    assert compare(first, second, files) != compare(first, second, files, seed=1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("abcd")), min_size=1, max_size=12),
)
def test_any_small_corpus_gives_an_ordered_interval_and_a_probability(samples: list[tuple[bool, bool, str]]) -> None:
    first, second, files = (np.array(column) for column in zip(*samples, strict=True))
    result = compare(outcomes(first.astype(float)), outcomes(second.astype(float)), list(files), resamples=200)
    assert 0 < result.p_value <= 1
    if result.low is not None and result.high is not None:
        assert -100 <= result.low <= result.high <= 100


@pytest.mark.parametrize(("first", "second", "files"), [((0, 3), (0, 3), 0), ((2, 3), (3, 3), 2), ((2, 3), (2, 3), 3)])
def test_shapes_that_do_not_agree_are_refused(first: tuple[int, int], second: tuple[int, int], files: int) -> None:
    with pytest.raises(DataError, match="both systems should have the same samples"):
        compare(np.ones(first), np.ones(second), ["f"] * files)


# --- against other ways to compute it ---------------------------------------------------------------------------


def naive_f1(rows: list[FloatArray]) -> float:
    tp, fp, fn = (sum(float(row[column]) for row in rows) for column in range(3))
    return 200 * tp / (2 * tp + fp + fn)


def naive_gap(first: FloatArray, second: FloatArray, members: list[list[int]], chosen: list[int]) -> float:
    picked = [sample for cluster in chosen for sample in members[cluster]]
    return naive_f1([second[i] for i in picked]) - naive_f1([first[i] for i in picked])


def test_the_interval_agrees_with_a_naive_loop() -> None:
    first, second, files = two_systems(samples=150, files=25)
    members = [[i for i, file in enumerate(files) if file == name] for name in sorted(set(files))]
    everything = list(range(len(members)))
    rng = np.random.default_rng(7)
    drawn = sorted(
        naive_gap(first, second, members, [int(i) for i in rng.integers(0, len(members), len(members))])
        for _ in range(3000)
    )
    observed = naive_gap(first, second, members, everything)
    jackknife = [naive_gap(first, second, members, [c for c in everything if c != out]) for out in everything]
    average = sum(jackknife) / len(jackknife)
    acceleration = sum((average - value) ** 3 for value in jackknife) / (
        6 * sum((average - value) ** 2 for value in jackknife) ** 1.5
    )
    below = sum(value < observed - 1e-9 for value in drawn) + 0.5 * sum(abs(value - observed) < 1e-9 for value in drawn)
    normal = stats.norm
    z0 = normal.ppf(below / len(drawn))
    ends = []
    for tail in (0.025, 0.975):
        z = z0 + normal.ppf(tail)
        ends.append(drawn[round(normal.cdf(z0 + z / (1 - acceleration * z)) * (len(drawn) - 1))])
    result = compare(first, second, files)
    assert result.difference == pytest.approx(observed)
    width = ends[1] - ends[0]
    assert (result.low, result.high) == (
        pytest.approx(ends[0], abs=0.05 * width),
        pytest.approx(ends[1], abs=0.05 * width),
    )


def test_the_interval_agrees_with_scipy_where_every_file_has_one_sample() -> None:
    rng = np.random.default_rng(3)
    first = rng.gamma(1.0, size=80)
    second = first + rng.gamma(0.5, size=80) - 0.3
    ones = np.ones(80)
    ours = paired_differences(
        np.stack([first, ones], axis=-1),
        np.stack([second, ones], axis=-1),
        [f"{i:03}" for i in range(80)],
        {"mean": mean},
        resamples=20_000,
    )["mean"]
    # Called otherwise before scipy 1.15.
    seeding = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: np.mean(b, axis=axis) - np.mean(a, axis=axis),
        paired=True,
        method="BCa",
        n_resamples=20_000,
        **{seeding: np.random.default_rng(5)},
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * width)


def test_the_p_value_agrees_with_all_swaps_counted() -> None:
    first, second, files = two_systems(seed=4, samples=40, files=8)
    before, after = cluster_sums(first, files), cluster_sums(second, files)
    observed = float(f1(after.sum(0)) - f1(before.sum(0)))
    extreme = 0
    for swaps in itertools.product([False, True], repeat=len(before)):
        swap = np.array(swaps)[:, None]
        gap = f1(np.where(swap, before, after).sum(0)) - f1(np.where(swap, after, before).sum(0))
        extreme += abs(gap) >= abs(observed) - 1e-9
    assert compare(first, second, files, permutations=20_000).p_value == pytest.approx(extreme / 2**8, abs=0.01)


def test_the_smallest_p_value_is_one_draw() -> None:
    before, after = outcomes(np.zeros(60)), outcomes(np.ones(60))
    assert compare(before, after, [f"{i:02}" for i in range(60)], permutations=999).p_value == 1 / 1000


def test_cluster_sums_by_hand() -> None:
    values = np.array([[1.0, 10], [2, 20], [4, 40]])
    assert cluster_sums(values, ["b", "a", "b"]).tolist() == [[2, 20], [5, 50]]


def test_an_observed_value_beyond_all_draws_still_gives_an_interval() -> None:
    low, high = bca_interval(10.0, np.linspace(0, 1, 101), np.linspace(0, 1, 20))
    assert low is not None and high is not None
    assert 0.99 < low <= high <= 1


def test_extreme_skewness_ends_at_the_extreme_draw() -> None:
    left_out = np.append(np.zeros(5000), -1.0)
    low, high = bca_interval(-1.0, np.linspace(0, 1, 1_000_001), -left_out)
    assert low is not None and high is not None
    assert 0 <= low <= high <= 1


# --- several seeds ------------------------------------------------------------------------------------------------


def test_the_mean_of_a_few_values_has_students_interval() -> None:
    result = mean_interval([1.0, 2.0, 4.0])
    reference = stats.ttest_1samp([1.0, 2.0, 4.0], 0).confidence_interval(0.95)
    assert result.mean == pytest.approx(7 / 3)
    assert (result.low, result.high) == (pytest.approx(reference.low), pytest.approx(reference.high))


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    single = mean_interval([1.5])
    assert (single.mean, single.low, single.high, single.count) == (1.5, None, None, 1)
    with pytest.raises(DataError, match="at least one number"):
        mean_interval([])


# --- does a 95 % interval hold 95 % of the time? ------------------------------------------------------------------

GAIN = 0.02


def simulate(rng: np.random.Generator, sizes: np.ndarray, spread: float) -> tuple[FloatArray, FloatArray]:
    """tp, fp, fn per file of two systems: files differ in how hard they are, and in the gain by ``spread``."""
    chance = rng.beta(1, 8, len(sizes))
    gain = GAIN + spread * rng.uniform(-1, 1, len(sizes))
    lost = 0.3 * chance
    won = np.clip(lost + gain, 0, 1 - chance)
    shares = np.stack([chance - lost, lost, won, 1 - chance - won], axis=-1)
    counts = rng.multinomial(sizes, shares).astype(float)
    both, only_first, only_second = counts[:, 0], counts[:, 1], counts[:, 2]
    wrong = [sizes - both - only_first, sizes - both - only_second]
    return (
        np.stack([both + only_first, wrong[0], wrong[0]], axis=-1),
        np.stack([both + only_second, wrong[1], wrong[1]], axis=-1),
    )


def coverage(simulations: int, spread: float, seed: int) -> float:
    """Share of simulated corpora whose interval holds the true difference."""
    rng = np.random.default_rng(seed)
    files = [f"{i:03}" for i in range(len(FILE_SIZES))]
    held = 0
    for number in range(simulations):
        first, second = simulate(rng, FILE_SIZES, spread)
        result = paired_differences(first, second, files, {"f1": f1}, resamples=1000, permutations=1, seed=number)["f1"]
        assert result.low is not None and result.high is not None
        # One line per sample on both sides: F1 is the share of right answers, so its true gain is the gain.
        held += result.low <= 100 * GAIN <= result.high
    return held / simulations


def test_the_interval_holds_what_it_promises_in_a_few_simulations() -> None:
    assert 0.88 <= coverage(120, spread=0.0, seed=1) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_the_interval_covers_the_truth_in_93_to_97_of_100_simulations(spread: float) -> None:
    assert 0.93 <= coverage(1000, spread, seed=2) <= 0.97
