"""The pictures of one run's loss scales: running losses, gradient norms before and behind the limit, cosines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from distillctl.core.analysis.curves import BAND, PRIMARY_TERMS, Curve
from distillctl.core.analysis.drawing import LOOK, draw_band, draw_line, finish, new_figure, set_log, to_png
from distillctl.core.analysis.plot_lines import VERMILION, pair_style, term_style
from distillctl.core.analysis.scaling import FIGHTING, Windows
from distillctl.core.analysis.scaling_run import ScalingRun
from distillctl.core.losses.balance import CORE_TERMS
from distillctl.core.run_dir.step_table import Column

LOSSES, GRADIENTS, COSINES = "loss_scaling.png", "loss_scaling_gradients.png", "loss_scaling_cosines.png"
# More points than this cannot be told apart at the pictures' width.
_POINTS = 3_000


def draw_scaling(run: ScalingRun, window: int) -> dict[str, bytes]:
    """Every picture as PNG bytes, by file name; ``window`` in optimizer steps."""
    with mpl.rc_context(LOOK):
        return {name: to_png(figure) for name, figure in make_scaling_figures(run, window).items()}


def make_scaling_figures(run: ScalingRun, window: int) -> dict[str, Figure]:
    """Every picture, not yet drawn, by file name."""
    with mpl.rc_context(LOOK):
        return {LOSSES: _losses(run, window), GRADIENTS: _gradients(run), COSINES: _cosines(run)}


def _losses(run: ScalingRun, window: int) -> Figure:
    """Running mean and std per term: raw left, scaled right, with the band."""
    figure = new_figure(4.0)
    axes: Any = figure.subplots(1, 2, sharex=True, sharey=True)
    windows = Windows(run.steps, window)
    ends = run.steps[windows.rows - 1 :]
    sides: tuple[tuple[str, Callable[[str], Column]], ...] = (
        ("Raw", lambda term: run.columns[f"loss_{term}"]),
        ("Scaled (scale x raw), with the band", run.scaled),
    )
    levels: list[Column] = []
    for side, (title, values) in zip(axes, sides, strict=True):
        for index, term in enumerate(run.terms):
            mean, std = windows.mean(values(term)), windows.std(values(term))
            color, dashes = term_style(term, index)
            keep = _thin(len(ends))
            side.fill_between(
                ends[keep], _floor(mean - std, mean)[keep], (mean + std)[keep], color=color, alpha=0.13, lw=0
            )
            marker = "o" if len(ends) < 3 else None
            side.plot(ends[keep], mean[keep], color=color, linestyle=dashes, linewidth=1.8, marker=marker, label=term)
            levels.append(mean)
        side.set_title(title)
    core = [windows.mean(run.scaled(term)) for term in run.terms if term in CORE_TERMS]
    if len(core) > 1:
        median = Curve(ends, np.median(core, axis=0))
        draw_band(axes[1], median)
        levels += [edge * median.values for edge in BAND]
    axes[0].set_ylabel("loss")
    _set_log_around(axes[0], levels)
    title = f"Running mean and standard deviation of each loss, over {windows.width:,} steps"
    return _with_steps(figure, axes, title, run, "optimizer step (last of the window)")


def _gradients(run: ScalingRun) -> Figure:
    """Norms per term at the logits: as they are left, as they reach the student right."""
    figure = new_figure(4.0)
    axes: Any = figure.subplots(1, 2, sharex=True, sharey=True)
    levels: list[Column] = []
    for side, limited in zip(axes, (False, True), strict=True):
        for index, term in enumerate(run.trained if limited else run.terms):
            values = run.columns[f"grad_norm_{term}"]
            if limited and term not in PRIMARY_TERMS:
                values = values * run.columns["auxiliary_clip"]
            line = _curve(run.steps, values)
            draw_line(side, line, term_style(term, index), term, first=True)
            levels.append(line.smooth)
    axes[0].set_title("At the logits")
    axes[1].set_title("Behind the share limit: what reaches the student")
    axes[0].set_ylabel("L2 norm of the weighted term")
    _set_log_around(axes[0], levels)
    return _with_steps(figure, axes, "Gradient norm of each term", run)


def _cosines(run: ScalingRun) -> Figure:
    """Cosines of each two terms' gradients, the area of fights marked."""
    figure = new_figure(4.0)
    axes: Any = figure.subplots()
    for pair in run.pairs:
        line = _curve(run.steps, run.columns[f"grad_cos_{pair[0]}_{pair[1]}"])
        draw_line(axes, line, pair_style(*pair), f"{pair[0]} - {pair[1]}", first=True)
    axes.set_ylim(-1.05, 1.05)
    axes.axhline(0, color="#8a929b", linewidth=0.9, zorder=0)
    axes.axhspan(-1.05, FIGHTING, color=VERMILION, alpha=0.09, linewidth=0, zorder=0)
    axes.text(0.008, FIGHTING - 0.03, "fight", transform=axes.get_yaxis_transform(), va="top", color=VERMILION)
    axes.set_ylabel("cosine")
    return _with_steps(figure, [axes], "Cosine between the terms' gradients at the logits", run)


def _curve(steps: Column, values: Column) -> Curve:
    """The finite values, every n-th of them where there are more than the eye can tell apart."""
    there = np.isfinite(values)
    keep = _thin(int(there.sum()))
    return Curve(steps[there][keep], values[there][keep])


def _thin(count: int) -> Any:
    return slice(None, None, max(1, count // _POINTS))


def _floor(low: Column, mean: Column) -> Column:
    """A lower edge that a logarithmic axis can show."""
    return np.maximum(low, mean / 100)


def _set_log_around(axes: Any, levels: Sequence[Column]) -> None:
    """Everything in view; a term that is silent somewhere (0) does not flatten the others."""
    found = np.concatenate([np.empty(0), *levels])
    above = found[found > 0]
    if len(above):
        set_log(axes, float(found.min()), float(found.max()), linear_below=float(above.min()))


def _with_steps(figure: Figure, axes: Any, title: str, run: ScalingRun, unit: str = "optimizer step") -> Figure:
    for side in axes:
        side.set_xlabel(unit)
        side.xaxis.set_major_locator(MaxNLocator(nbins=5 if len(axes) > 1 else 8, integer=True))
        if not side.has_data() or not side.lines:
            side.text(0.5, 0.5, "nothing measured", transform=side.transAxes, ha="center", color="#57606a")
    return finish(figure, axes, f"{title}{f' ({run.unfinished})' if run.unfinished else ''}")
