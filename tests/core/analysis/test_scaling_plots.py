"""The pictures of one run: all of them, not blank, the same bytes every time, whatever a log lacks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from distillctl.core.analysis import drawing
from distillctl.core.analysis.plot_lines import term_style
from distillctl.core.analysis.scaling_plots import COSINES, GRADIENTS, LOSSES, draw_scaling, make_scaling_figures
from tests.core.analysis.logs import Log
from tests.core.analysis.test_plots import pixels
from tests.core.analysis.test_scaling import run_of

FOUR = Log(losses={"focal": 1.0, "jsd": 0.8, "semantic": 0.2, "contrastive": 3.0}, noise=0.1, clip=0.5)


@pytest.fixture(scope="module")
def drawn() -> Mapping[str, bytes]:
    return draw_scaling(run_of(FOUR), 100)


def test_every_picture_is_drawn_at_readme_width_and_not_blank(drawn: Mapping[str, bytes]) -> None:
    assert tuple(drawn) == (LOSSES, GRADIENTS, COSINES)
    for name, png in drawn.items():
        height, width, _ = pixels(png).shape
        assert (width, height) == (1700, 800), name
        assert pixels(png)[..., :3].std() > 0.05, name


def test_the_same_run_gives_the_same_bytes(drawn: Mapping[str, bytes]) -> None:
    assert draw_scaling(run_of(FOUR), 100) == drawn


def test_running_means_stand_at_the_end_of_their_windows_with_the_band_right() -> None:
    left, right = make_scaling_figures(run_of(FOUR), 100)[LOSSES].axes
    assert [line.get_label() for line in left.lines] == list(FOUR.losses)
    assert left.lines[0].get_xdata()[[0, -1]].tolist() == [100, 600]
    scaled = {line.get_label(): np.mean(line.get_ydata()) for line in right.lines}
    assert scaled["semantic"] == pytest.approx(1.0, rel=0.02)
    assert to_rgb(right.lines[2].get_color()) == to_rgb(term_style("semantic", 2)[0])
    labels = [area.get_label() for area in right.collections]
    assert "0.5-2x around the median of focal, jsd, semantic" in labels
    assert left.get_ylim() == right.get_ylim()


def test_behind_the_limit_only_auxiliary_norms_are_smaller() -> None:
    left, right = make_scaling_figures(run_of(FOUR), 100)[GRADIENTS].axes
    for before, after in zip(left.lines, right.lines, strict=True):
        factor = 1.0 if before.get_label() in ("focal", "jsd") else 0.5
        assert after.get_ydata() == pytest.approx(factor * before.get_ydata())


def test_a_long_log_is_thinned() -> None:
    left, _ = make_scaling_figures(run_of(Log(steps=20_000)), 100)[LOSSES].axes
    assert len(left.lines[0].get_xdata()) < 6_000


def test_an_unfinished_run_is_marked() -> None:
    for figure in make_scaling_figures(run_of(FOUR, unfinished="running"), 100).values():
        assert figure.get_suptitle().endswith("(running)")


@pytest.mark.parametrize(
    "log",
    [
        Log(steps=1),
        Log(steps=2, losses={"focal": 1.0}),
        Log(losses={"focal": 1.0, "novel": 2.0}),
        Log(losses={"focal": 0.0, "jsd": 1.0, "semantic": 0.0}, norms={"semantic": 0.0, "focal": 0.0, "jsd": 0.0}),
        Log(norms={"semantic": 0.0}, cosines={("focal", "jsd"): None}),
    ],
)
def test_whatever_a_log_lacks_the_rest_is_drawn_without_a_warning(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DPI", 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(draw_scaling(run_of(log), 100)) == 3
