"""The pictures of a report: baseline left, candidate right, on the same axes. PNG, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.curves import BAND, Curve, core_median
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

WIDTH = 8.5  # inches: 850 CSS pixels at 100 dots each
DPI = 200
_LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a929b",
    "xtick.color": "#3d444d",
    "ytick.color": "#3d444d",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "path.simplify": True,
}
_BAND_LABEL = "0.5-2x around the median of focal, jsd, semantic"


def draw_plots(comparison: Comparison) -> dict[str, bytes]:
    """Every picture as PNG bytes, by file name."""
    with mpl.rc_context(_LOOK):
        return {name: _png(figure) for name, figure in make_figures(comparison).items()}


def make_figures(comparison: Comparison) -> dict[str, Figure]:
    """Every picture, not yet drawn, by file name."""
    with mpl.rc_context(_LOOK):
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
    figure = _figure(3.7)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_sides(axes, comparison, lines, band)
    for side in axes:
        side.set_xlabel("optimizer step")
    axes[0].set_ylabel(unit)
    drawn = _medians(comparison, lines, band)
    if log and drawn:
        _set_log(axes[0], min(drawn), max(drawn))
    elif limits is not None:
        axes[0].set_ylim(*limits)
    elif from_zero and drawn:
        axes[0].set_ylim(0, 1.3 * max(drawn) or 1)
    return _finish(figure, axes, title)


def _medians(comparison: Comparison, lines: Lines, band: bool) -> list[float]:
    """What must be in view: the medians and the band. Single steps far beyond them may be cut off."""
    curves = [line for run in comparison.runs for _, line, _ in lines(run.steps)]
    values = [float(value) for line in curves for value in line.smooth]
    if band:
        medians = [core_median(runs[0].steps) for runs in (comparison.baselines, comparison.candidates)]
        values += [float(edge * value) for median in medians for value in median.values for edge in BAND]
    return values


def _set_log(axes: Any, low: float, high: float) -> None:
    """A logarithmic axis; a term that is exactly 0 somewhere needs one that is linear near 0."""
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.6, high * 1.6)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_yscale("symlog", linthresh=1e-3)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.08, h_pad=0.07)
    return figure


def _weights_and_scales(comparison: Comparison) -> Figure:
    figure = _figure(5.4)
    axes = figure.subplots(2, 2, sharex=True, sharey="row")
    for row, (lines, unit) in enumerate(((weights, "weight"), (scales, "scale"))):
        _draw_sides(axes[row], comparison, lines, band=False, titles=row == 0)
        axes[row][0].set_ylabel(unit)
        axes[row][0].set_ylim(bottom=0)
    for side in axes[1]:
        side.set_xlabel("optimizer step")
    return _finish(figure, axes.ravel(), "Weight and scale of each term")


def _draw_sides(axes: Any, comparison: Comparison, lines: Lines, band: bool, titles: bool = True) -> None:
    arms = (("Baseline", comparison.baselines), ("Candidate", comparison.candidates))
    for side, (name, runs) in zip(axes, arms, strict=True):
        if band:
            _draw_band(side, core_median(runs[0].steps))
        for number, run in enumerate(runs):
            for label, line, style in lines(run.steps):
                _draw_line(side, line, style, label if number == 0 else None, first=number == 0)
        if titles:
            side.set_title(f"{name}{_marked(runs)}")
        side.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        if not side.has_data():
            side.text(0.5, 0.5, "nothing logged", transform=side.transAxes, ha="center", color="#57606a")


def _draw_line(axes: Any, line: Curve, style: tuple[str, str], label: str | None, *, first: bool) -> None:
    """The raw curve faintly behind the running median; a second run of the arm as a thin median only."""
    if not line:
        return
    color, dashes = style
    smooth = line.smooth
    if first and smooth is not line.values:
        axes.plot(line.steps, line.values, color=color, alpha=0.18, linewidth=0.5, zorder=1)
    marker = "o" if len(line.values) < 3 else None
    axes.plot(
        line.steps,
        smooth,
        color=color,
        linestyle=dashes,
        linewidth=1.8 if first else 0.9,
        alpha=1.0 if first else 0.6,
        marker=marker,
        label=label,
        zorder=3 if first else 2,
    )


def _draw_band(axes: Any, median: Curve) -> None:
    if median:
        low, high = BAND
        axes.fill_between(
            median.steps,
            low * median.values,
            high * median.values,
            color="#b9c0c8",
            alpha=0.35,
            linewidth=0,
            zorder=0,
            label=_BAND_LABEL,
        )


def _differences(comparison: Comparison) -> Figure:
    """Each metric's difference as a point with its interval, in points of 100."""
    figure = _figure(4.3)
    axes: Any = figure.subplots()
    names = list(comparison.differences)[::-1]
    for place, name in enumerate(names):
        found = comparison.differences[name]
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
    axes.set_yticks(range(len(names)), [METRIC_TITLES[name] for name in names])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("candidate - baseline, points of 100 (line: 95 % interval; grey: it holds 0)")
    figure.suptitle(f"Difference of each metric{_marked(comparison.runs)}", x=0.012, ha="left", fontweight="bold")
    return figure


def _marked(runs: Sequence[RunData]) -> str:
    return "" if all(run.finished for run in runs) else " (unfinished)"


def _finish(figure: Figure, axes: Any, title: str) -> Figure:
    """One title, and one legend for all sides below them."""
    figure.suptitle(title, x=0.012, ha="left", fontweight="bold")
    entries: dict[str, Any] = {}
    for side in axes:
        for handle, label in zip(*side.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if _BAND_LABEL in entries:
        entries[_BAND_LABEL] = entries.pop(_BAND_LABEL)  # after the lines
    if entries:
        columns = min(len(entries), 4 if max(map(len, entries)) < 16 else 3)
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=columns, handlelength=2.6
        )
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # No software version, no date: the same picture is the same bytes.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
