"""Figures of loss scales: running means against a plain loop, the band, who leaves it and when."""

from __future__ import annotations

import numpy as np
import pytest

from distillctl.core.analysis.scaling import Scaling, Windows, analyse
from distillctl.core.analysis.scaling_run import ScalingRun
from tests.core.analysis.logs import Log

STEPS = np.arange(600)


def run_of(log: Log, **settings: object) -> ScalingRun:
    return ScalingRun("run", log.terms, log.columns(), **settings)  # type: ignore[arg-type]


def figures(log: Log, window: int = 100) -> Scaling:
    return analyse(run_of(log), window)


def test_running_mean_and_std_are_those_of_a_plain_loop() -> None:
    values = 1e6 + np.random.default_rng(3).standard_normal(500)
    windows = Windows(np.arange(1.0, 501.0), 70)
    parts = [values[start : start + 70] for start in range(431)]
    np.testing.assert_allclose(windows.mean(values), [part.mean() for part in parts], rtol=1e-12)
    np.testing.assert_allclose(windows.std(values), [part.std() for part in parts], rtol=1e-6)
    assert (windows.bounds(0), windows.bounds(430)) == ((1, 70), (431, 500))


@pytest.mark.parametrize(
    ("rows", "every", "asked", "in_window", "width"),
    [(600, 1, 100, 100, 100), (250, 1, 100, 83, 83), (2, 1, 100, 1, 1), (600, 10, 100, 10, 100), (600, 10, 3, 1, 10)],
)
def test_windows_are_in_steps_and_at_most_a_third_of_the_log(
    rows: int, every: int, asked: int, in_window: int, width: int
) -> None:
    windows = Windows(every * np.arange(1.0, rows + 1.0), asked)
    assert (windows.rows, windows.width, windows.count) == (in_window, width, rows - in_window + 1)


@pytest.mark.parametrize("every", [1, 5, 10, 20, 25])
def test_windows_are_as_wide_where_gradients_have_rows_of_their_own(every: int) -> None:
    """As the training logs: each ``every``-th step, and each tenth one after the first for its gradients."""
    steps = sorted({1, 1000, *range(every, 1001, every), *range(1, 1001, 10)})
    windows = Windows(np.array(steps, dtype=np.float64), 100)
    widths = [last - first + 1 for first, last in map(windows.bounds, range(windows.count))]
    assert min(widths) >= 80 and max(widths) <= 110
    assert abs(windows.width - 100) <= 5 and not windows.shortened


def test_start_middle_and_end_of_raw_and_scaled_loss() -> None:
    found = figures(Log(losses={"focal": 1.0, "jsd": 0.8, "semantic": STEPS / 600})).terms["semantic"]
    for place, steps in (("start", (1, 100)), ("middle", (251, 350)), ("end", (501, 600))):
        values = np.arange(steps[0] - 1, steps[1]) / 600
        window = found.raw[place]
        assert (window.first, window.last) == steps
        assert (window.mean, window.std) == pytest.approx((values.mean(), values.std()))
        assert found.scaled[place].mean == pytest.approx(5 * values.mean())
    assert found.scale == (5, 5)


def test_a_loss_that_does_not_move_has_no_deviation() -> None:
    assert figures(Log()).terms["jsd"].raw["start"].std == 0


def test_a_balanced_run_is_in_the_band() -> None:
    found = figures(Log(noise=0.1))
    assert (found.band.share, found.band.departures, found.band.windows) == (1.0, {}, 501)
    assert found.pairs["focal", "semantic"].in_band == 1
    assert found.pairs["focal", "jsd"].ratio == pytest.approx(1.25, rel=0.02)


def test_exactly_twice_is_in_the_band() -> None:
    assert figures(Log(losses={"focal": 1.0, "jsd": 2.0, "semantic": 0.3})).band.share == 1
    assert figures(Log(losses={"focal": 1.0, "jsd": 2.001, "semantic": 0.3})).band.share == 0


def test_weights_do_not_move_the_band() -> None:
    weights = {"focal": 0.3, "jsd": np.linspace(0.7, 0.2, 600), "semantic": np.linspace(0, 0.35, 600)}
    assert figures(Log(weights=weights)).band.share == 1


def test_the_term_far_from_the_median_is_the_one_that_leaves() -> None:
    (departure,) = figures(Log(scales={"semantic": 100.0})).band.departures.items()
    assert departure[0] == "semantic"
    assert (departure[1].share, departure[1].first, departure[1].last) == (1.0, (1, 100), (501, 600))
    assert departure[1].factor == pytest.approx(20)


def test_two_may_leave_at_once_the_farther_one_first() -> None:
    found = figures(Log(losses={"focal": 1.0, "jsd": 0.2, "semantic": 20.0}, scales={})).band.departures
    assert list(found) == ["semantic", "jsd"]
    assert found["jsd"].factor == pytest.approx(0.2)


def test_with_none_beyond_twice_the_median_the_farthest_leaves() -> None:
    found = figures(Log(losses={"focal": 1.0, "jsd": 0.55, "semantic": 1.7}, scales={})).band
    assert (found.share, list(found.departures)) == (0.0, ["jsd"])


def test_of_two_terms_it_is_not_focal() -> None:
    found = figures(Log(losses={"focal": 1.0, "semantic": 3.0}, scales={})).band
    assert found.departures["semantic"].factor == pytest.approx(3)
    assert list(found.departures) == ["semantic"]


def test_when_a_term_leaves_is_told_by_windows() -> None:
    jsd = np.where(STEPS >= 400, 0.1, 0.8)
    (found,) = figures(Log(losses={"focal": 1.0, "jsd": jsd, "semantic": 0.2})).band.departures.values()
    # Beyond 2x of the median 1.0 once fewer than 57.1 % of a window are at 0.8.
    assert found.first == (344, 443)
    assert found.last == (501, 600)
    assert found.share == pytest.approx((501 - 343) / 501)


def test_a_term_at_zero_is_out_of_the_band_and_nothing_overflows() -> None:
    found = figures(Log(losses={"focal": 1.0, "jsd": 0.8, "semantic": 0.0})).band
    assert (found.share, list(found.departures)) == (0.0, ["semantic"])


def test_cosines_say_who_pulls_against_whom_and_how_often() -> None:
    cosine = np.where(STEPS >= 300, -0.7, np.where(STEPS >= 150, -0.2, 0.4))
    found = figures(Log(cosines={("focal", "semantic"): cosine})).pairs["focal", "semantic"]
    assert (found.measured, found.against, found.fighting, found.fights_first) == (60, 0.75, 0.5, 301)
    assert (found.lowest, found.cosine) == (-0.7, pytest.approx(np.mean(cosine[::10])))


def test_a_pair_without_cosines_is_not_measured() -> None:
    found = figures(Log(cosines={("focal", "jsd"): None})).pairs["focal", "jsd"]
    assert (found.measured, found.cosine, found.lowest, found.against, found.fighting) == (0, None, None, 0, 0)


def test_rows_may_be_far_between() -> None:
    found = figures(Log(steps=60, every=10))
    assert (found.rows, found.first_step, found.last_step, found.window) == (60, 10, 600, 100)
    assert found.terms["focal"].raw["start"].last == 100
