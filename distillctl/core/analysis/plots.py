"""The pictures of a report: baseline left, candidate right, on the same axes. PNG, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.curves import BAND, core_median
from distillctl.core.analysis.drawing import LOOK, draw_band, draw_line, finish, new_figure, set_log, to_png
from distillctl.core.analysis.figures import interval_text, signed
from distillctl.core.analysis.names import METRIC_TITLES
from distillctl.core.analysis.plot_lines import (
    BLUE,
    VERMILION,
    Lines,
    cosines,
    gradient_norms,
    scaled_losses,
    scales,
    step_times,
    weights,
)
from distillctl.core.analysis.run_data import RunData
from distillctl.core.evaluation.significance import Difference

_LONGEST = 40
"""Characters of a title beside a plot."""


def draw_plots(comparison: Comparison) -> dict[str, bytes]:
    """Every picture as PNG bytes, by file name."""
    with mpl.rc_context(LOOK):
        return {name: to_png(figure) for name, figure in make_figures(comparison).items()}


def make_figures(comparison: Comparison) -> dict[str, Figure]:
    """Every picture, not yet drawn, by file name."""
    with mpl.rc_context(LOOK):
        return {
            "differences.png": _differences(comparison),
            "loss_scales.png": _sides(
                comparison, scaled_losses, "Scaled loss of each term", "scale x loss", log=True, band=True
            ),
            "gradient_norms.png": _sides(
                comparison, gradient_norms, "Gradient norm of each weighted term at the logits", "L2 norm", log=True
            ),
            "gradient_cosines.png": _sides(
                comparison,
                cosines,
                "Cosine between the terms' gradients at the logits",
                "cosine",
                limits=(-1.05, 1.05),
            ),
            "weights_and_scales.png": _weights_and_scales(comparison),
            "step_time.png": _sides(comparison, step_times, "Time of an optimizer step", "seconds", from_zero=True),
            **({"arms.png": _arms(comparison)} if comparison.others else {}),
        }


def _sides(
    comparison: Comparison,
    lines: Lines,
    title: str,
    unit: str,
    *,
    log: bool = False,
    band: bool = False,
    limits: tuple[float, float] | None = None,
    from_zero: bool = False,
) -> Figure:
    figure = new_figure(3.7)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_sides(axes, comparison, lines, band)
    for side in axes:
        side.set_xlabel("optimizer step")
    axes[0].set_ylabel(unit)
    drawn = _medians(comparison, lines, band)
    if log and drawn:
        set_log(axes[0], min(drawn), max(drawn))
    elif limits is not None:
        axes[0].set_ylim(*limits)
    elif from_zero and drawn:
        axes[0].set_ylim(0, 1.3 * max(drawn) or 1)
    return finish(figure, axes, title)


def _medians(comparison: Comparison, lines: Lines, band: bool) -> list[float]:
    """What must be in view: the medians and the band. Single steps far beyond them may be cut off."""
    curves = [line for run in comparison.runs for _, line, _ in lines(run.steps)]
    values = [float(value) for line in curves for value in line.smooth]
    if band:
        medians = [core_median(runs[0].steps) for runs in (comparison.baselines, comparison.candidates)]
        values += [float(edge * value) for median in medians for value in median.values for edge in BAND]
    return values


def _weights_and_scales(comparison: Comparison) -> Figure:
    figure = new_figure(5.4)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (lines, unit) in enumerate(((weights, "weight"), (scales, "scale"))):
        _draw_sides(axes[row], comparison, lines, band=False, titles=row == 0)
        axes[row][0].set_ylabel(unit)
        axes[row][0].set_ylim(bottom=0)
    for side in axes[1]:
        side.set_xlabel("optimizer step")
    return finish(figure, axes.ravel(), "Weight and scale of each term")


def _draw_sides(axes: Any, comparison: Comparison, lines: Lines, band: bool, titles: bool = True) -> None:
    arms = (("Baseline", comparison.baselines), ("Candidate", comparison.candidates))
    for side, (name, runs) in zip(axes, arms, strict=True):
        if band:
            draw_band(side, core_median(runs[0].steps))
        for number, run in enumerate(runs):
            for label, line, style in lines(run.steps):
                draw_line(side, line, style, label if number == 0 else None, first=number == 0)
        if titles:
            side.set_title(f"{name}{_marked(runs)}")
        side.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if not side.has_data():
            side.text(0.5, 0.5, "nothing logged", transform=side.transAxes, ha="center", color="#57606a")


def _differences(comparison: Comparison) -> Figure:
    """Each metric's difference as a point with its interval, in points of 100."""
    figure = new_figure(4.3)
    axes: Any = figure.subplots()
    rows = {METRIC_TITLES[name]: found for name, found in comparison.differences.items()}
    _draw_differences(axes, rows, "candidate")
    figure.suptitle(f"Difference of each metric{_marked(comparison.runs)}", x=0.012, ha="left", fontweight="bold")
    return figure


def _arms(comparison: Comparison) -> Figure:
    """F1 and valid syntax of each arm against the baseline."""
    arms = {"candidate": comparison.differences} | {arm.name: arm.differences for arm in comparison.others}
    figure = new_figure(1.2 + 2 * (0.5 + 0.27 * len(arms)))
    for axes, name in zip(figure.subplots(2, 1), ("f1", "valid_syntax"), strict=True):
        _draw_differences(axes, {arm: found[name] for arm, found in arms.items()}, f"{METRIC_TITLES[name]}: arm")
    figure.suptitle(
        f"Each arm against the baseline{_marked(comparison.all_runs)}", x=0.012, ha="left", fontweight="bold"
    )
    return figure


def _draw_differences(axes: Any, rows: Mapping[str, Difference], what: str) -> None:
    """A point with its interval for each title, the first on top; ``what`` the baseline is subtracted from."""
    for place, found in enumerate(list(rows.values())[::-1]):
        color = "#57606a" if not found.excludes_zero else BLUE if found.difference > 0 else VERMILION
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [place, place], color=color, linewidth=2.4, solid_capstyle="round")
        axes.plot(found.difference, place, "o", color=color, markersize=6)
        interval = "no interval" if found.low is None else interval_text(found.low, found.high)
        axes.annotate(
            f"{signed(found.difference)}  ({interval})",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color="#3d444d",
        )
    axes.axvline(0, color="#3d444d", linewidth=1)
    titles = [title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1]}…" for title in rows]
    axes.set_yticks(range(len(rows)), titles[::-1], parse_math=False)  # a name is the user's, and no formula
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{what} - baseline, points of 100 (line: 95 % interval; grey: it holds 0)")


def _marked(runs: Sequence[RunData]) -> str:
    return "" if all(run.finished for run in runs) else " (unfinished)"
