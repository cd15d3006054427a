"""The pictures: all of them, at their size, the same bytes every time, whatever a run lacks."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillctl.core.analysis import drawing
from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.curves import core_median
from distillctl.core.analysis.names import METRIC_TITLES
from distillctl.core.analysis.plots import draw_plots, make_figures
from distillctl.core.analysis.report_folder import PICTURES
from tests.core.analysis.arms import Arm, compared

PLAIN = [Arm()], [Arm(right=range(20), terms=("focal", "jsd", "semantic", "contrastive"))]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(tmp_path_factory.mktemp("plain"), *PLAIN)


@pytest.fixture(scope="module")
def drawn(plain: Comparison) -> Mapping[str, bytes]:
    return draw_plots(plain)


def pixels(png: bytes) -> np.ndarray:
    return image.imread(io.BytesIO(png))


def test_every_picture_is_drawn_at_readme_width_and_not_blank(drawn: Mapping[str, bytes]) -> None:
    assert tuple(drawn) == PICTURES
    for name, png in drawn.items():
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        height, width, _ = pixels(png).shape
        assert width == 1700, name  # twice the 850 pixels it is shown at
        assert 700 <= height <= 1200, name
        left, right = pixels(png)[..., :3][:, :850], pixels(png)[..., :3][:, 850:]
        assert left.std() > 0.05 and right.std() > 0.05, name


def sides(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.lines]


def test_baseline_stands_left_and_candidate_right_on_the_same_axes(plain: Comparison) -> None:
    figures = make_figures(plain)
    for name in PICTURES[1:]:
        left, right = sides(figures[name])[:2]
        assert (left.get_title("left"), right.get_title("left")) == ("Baseline", "Candidate"), name
        assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim()), name
        assert left.get_ylabel(), name
        assert sides(figures[name])[-1].get_xlabel() == "optimizer step", name
        assert figures[name].get_suptitle(), name


def test_every_term_has_its_line_and_look(plain: Comparison) -> None:
    left, right = sides(make_figures(plain)["gradient_norms.png"])
    names = [[line.get_label() for line in side.lines] for side in (left, right)]
    assert names == [["focal", "jsd", "semantic"], ["focal", "jsd", "semantic", "contrastive"]]
    looks = {(line.get_color(), line.get_linestyle()) for line in right.lines}
    assert len(looks) == 4
    assert len({color for color, _ in looks}) == len({dashes for _, dashes in looks}) == 4
    assert {(line.get_color(), line.get_linestyle()) for line in left.lines} < looks
    assert left.lines[0].get_xdata()[:3].tolist() == [1, 11, 21]


def test_pairs_of_terms_look_the_same_in_both_arms(plain: Comparison) -> None:
    left, right = sides(make_figures(plain)["gradient_cosines.png"])
    before, after = ({str(line.get_label()): line.get_color() for line in side.lines} for side in (left, right))
    assert before == {name: color for name, color in after.items() if "contrastive" not in name}
    assert len(set(after.values())) == len(after) == 6


def test_the_band_is_half_to_twice_the_core_median(plain: Comparison) -> None:
    for side, run in zip(
        sides(make_figures(plain)["loss_scales.png"]), (plain.baselines[0], plain.candidates[0]), strict=True
    ):
        (band,) = side.collections
        assert band.get_label() == "0.5-2x around the median of focal, jsd, semantic"
        edges, median = band.get_paths()[0].vertices[:, 1], core_median(run.steps).values
        assert (edges.min(), edges.max()) == (0.5 * median.min(), 2 * median.max())
        low, high = side.get_ylim()
        assert low < edges.min() and edges.max() < high


def test_differences_are_points_with_their_intervals(plain: Comparison) -> None:
    (axes,) = make_figures(plain)["differences.png"].axes
    assert [label.get_text() for label in axes.get_yticklabels()][::-1] == list(METRIC_TITLES.values())
    f1 = plain.differences["f1"]
    place = len(METRIC_TITLES) - 1
    drawn = [line.get_xdata() for line in axes.lines if set(line.get_ydata()) == {place}]
    assert [list(map(float, x)) for x in drawn] == [[f1.low, f1.high], [f1.difference]]


def test_the_same_comparison_gives_the_same_bytes(plain: Comparison, drawn: Mapping[str, bytes]) -> None:
    assert draw_plots(plain) == drawn
    assert all(b"Software" not in png and b"tIME" not in png for png in drawn.values())


def test_an_unfinished_run_is_marked_in_every_picture(drawn: Mapping[str, bytes], tmp_path: Path) -> None:
    before, (after,) = PLAIN
    unfinished = Arm(right=after.right, terms=after.terms, status="interrupted")
    marked = draw_plots(compared(tmp_path, before, [unfinished], allow_unfinished=True))
    assert [name for name in PICTURES if drawn[name] == marked[name]] == []


def test_several_seeds_share_a_picture(drawn: Mapping[str, bytes], tmp_path: Path) -> None:
    before, after = PLAIN
    assert draw_plots(compared(tmp_path, before * 2, after * 2))["loss_scales.png"] != drawn["loss_scales.png"]


@pytest.mark.parametrize(
    "arm",
    [
        Arm(steps=0),
        Arm(steps=2, terms=("focal",)),
        Arm(terms=("focal", "novel")),
        Arm(change_step=lambda row: row | {"loss_jsd": math.nan, "loss_focal": 0.0, "grad_norm_jsd": 0.0}),
        Arm(change_step=lambda row: row | {name: None for name in row if name.startswith("grad_")}),
    ],
)
def test_whatever_a_run_lacks_the_others_are_drawn_without_a_warning(
    arm: Arm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "DPI", 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuple(draw_plots(compared(tmp_path, [Arm()], [arm]))) == PICTURES
