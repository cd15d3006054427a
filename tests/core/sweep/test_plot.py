"""The picture of a sweep: every point, every kind of axis, the same bytes every time."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from distillctl.core.sweep.plan import Sweep
from distillctl.core.sweep.plot import draw_sweep, make_figure
from distillctl.core.sweep.ranking import Ranking, rank
from tests.core.sweep.sweeps import planned, result

pytestmark = pytest.mark.usefixtures("small_pictures")

GRIDS = [
    ("beta=3,5,7",),
    ("beta=5",),
    ("training.learning_rate=1e-5,1e-4,1e-3",),
    ("training.optimizer=adamw,muon",),
    ("objective.max_auxiliary_share=null,0.3",),
    ("beta=3,5,7", "training.optimizer=adamw,muon"),
    ("beta=3,5", "objective.jsd.weight=[0.7,0.2],0.5,0.3"),
    ("beta=1,2,3,4", "objective.focal.gamma=1,2,3", "training.learning_rate=0.1,0.2,0.3"),
]


def ranked(*grid: str, seeds: int = 1) -> tuple[Sweep, Ranking]:
    sweep = planned(Path("sweep"), *grid, seeds=seeds)
    return sweep, rank(sweep, {trial.number: result(4 + trial.number * 5 % 7) for trial in sweep.trials})


def heights(figure: Figure) -> list[float]:
    (axes,) = figure.axes
    return [float(y) for line in axes.lines for y in np.asarray(line.get_ydata())]


@pytest.mark.parametrize("grid", GRIDS, ids=" ".join)
@pytest.mark.parametrize("seeds", [1, 2])
def test_every_grid_has_its_picture(grid: tuple[str, ...], seeds: int) -> None:
    sweep, ranking = ranked(*grid, seeds=seeds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = draw_sweep(sweep, ranking)
    assert png.startswith(b"\x89PNG")
    if seeds == 1:
        assert png == draw_sweep(sweep, ranking)


def test_all_scores_intervals_and_seeds_are_in_view() -> None:
    sweep, ranking = ranked("beta=3,5,7", "training.optimizer=adamw,muon", seeds=2)
    figure = make_figure(sweep, ranking)
    (axes,) = figure.axes
    shown = heights(figure)
    for found in ranking.ranks:
        assert {found.f1, found.low, found.high, *found.by_seed} <= set(shown)
    low, high = axes.get_ylim()
    assert low <= min(shown) and max(shown) <= high
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["optimizer=adamw", "optimizer=muon"]
    assert axes.get_xlabel() == "objective.semantic_loss_scale"
    assert "mean of 2 seeds" in axes.get_title(loc="left")


def test_numbers_far_apart_are_on_a_logarithmic_axis_and_labelled_with_the_values() -> None:
    far, near = ranked("training.learning_rate=1e-5,1e-3"), ranked("beta=3,5,7")
    assert make_figure(*far).axes[0].get_xscale() == "log"
    axes = make_figure(*near).axes[0]
    assert axes.get_xscale() == "linear"
    assert list(axes.get_xticks()) == [3, 5, 7]


def test_a_point_that_failed_is_left_out() -> None:
    sweep = planned(Path("sweep"), "beta=3,5,7")
    figure = make_figure(sweep, rank(sweep, {0: result(3), 2: result(5)}))
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert np.asarray(line.get_xdata()).tolist() == [3, 7]


def test_many_lines_become_rows() -> None:
    sweep, ranking = ranked(*GRIDS[-1])
    axes = make_figure(sweep, ranking).axes[0]
    assert len(axes.get_yticklabels()) == len(ranking.ranks) == 36
    more = ranked("beta=1,2,3,4", "objective.focal.gamma=1,2,3,4", "training.learning_rate=0.1,0.2,0.3")
    axes = make_figure(*more).axes[0]
    assert len(axes.get_yticklabels()) == 40
    assert "the best 40 of 48 points" in axes.get_xlabel()
    assert axes.get_yticklabels()[-1].get_text().startswith("semantic_loss_scale=")
