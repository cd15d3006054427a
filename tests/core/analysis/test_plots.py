"""The pictures: all of them, at their size, the same bytes every time, whatever a run lacks."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from distillctl.core.analysis import plots
from distillctl.core.analysis.plots import DPI, WIDTH, draw_plots
from distillctl.core.analysis.report_folder import PICTURES
from tests.core.analysis.arms import Arm, compared

WITH_CONTRASTIVE = Arm(right=range(20), terms=("focal", "jsd", "semantic", "contrastive"))


def pixels(png: bytes) -> np.ndarray:
    return image.imread(io.BytesIO(png))


def test_every_picture_is_drawn_at_readme_width_and_not_blank(tmp_path: Path) -> None:
    pictures = draw_plots(compared(tmp_path, [Arm()], [WITH_CONTRASTIVE]))
    assert tuple(pictures) == PICTURES
    for name, png in pictures.items():
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        height, width, _ = pixels(png).shape
        assert width == round(WIDTH * DPI) == 1700, name
        assert 700 <= height <= 1200, name
        assert pixels(png)[..., :3].std() > 0.05, name


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels, where a test does not look at them."""
    monkeypatch.setattr(plots, "DPI", 50)


@pytest.mark.usefixtures("coarse")
def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [WITH_CONTRASTIVE])
    first, second = draw_plots(found), draw_plots(found)
    assert first == second
    assert all(b"Software" not in png and b"tIME" not in png for png in first.values())


@pytest.mark.usefixtures("coarse")
def test_an_unfinished_run_is_marked_in_every_picture(tmp_path: Path) -> None:
    finished = draw_plots(compared(tmp_path / "1", [Arm()], [Arm()]))
    marked = draw_plots(compared(tmp_path / "2", [Arm()], [Arm(status="interrupted")], allow_unfinished=True))
    assert [name for name in PICTURES if finished[name] == marked[name]] == []


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize(
    "arm",
    [
        Arm(steps=0),
        Arm(steps=1),
        Arm(steps=2, terms=("focal",)),
        Arm(terms=("focal", "novel")),
        Arm(change_step=lambda row: row | {"loss_jsd": math.nan}),
        Arm(change_step=lambda row: row | {"loss_focal": 0.0, "grad_norm_jsd": 0.0, "step_seconds": 0.0}),
        Arm(change_step=lambda row: row | {name: None for name in row if name.startswith("grad_")}),
    ],
)
def test_whatever_a_run_lacks_the_others_are_drawn_without_a_warning(arm: Arm, tmp_path: Path) -> None:
    found = compared(tmp_path, [Arm()], [arm])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuple(draw_plots(found)) == PICTURES


@pytest.mark.usefixtures("coarse")
def test_several_seeds_share_a_picture(tmp_path: Path) -> None:
    one = draw_plots(compared(tmp_path / "1", [Arm()], [Arm()]))
    two = draw_plots(compared(tmp_path / "2", [Arm(), Arm(steps=60)], [Arm(), Arm(steps=60)]))
    assert one["loss_scales.png"] != two["loss_scales.png"]
