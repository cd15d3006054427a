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

from distillctl.core.analysis import plots
from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.plots import draw_plots
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
    monkeypatch.setattr(plots, "DPI", 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuple(draw_plots(compared(tmp_path, [Arm()], [arm]))) == PICTURES
