"""How pictures look: size, colours of the page, axes, lines, the band, the legend. PNG, the same bytes every time."""

from __future__ import annotations

import io
import warnings
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from distillctl.core.analysis.curves import BAND, Curve

WIDTH = 8.5  # inches: 850 CSS pixels at 100 dots each
DPI = 200
LOOK: Any = {
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
BAND_LABEL = "0.5-2x around the median of focal, jsd, semantic"


def new_figure(height: float) -> Figure:
    """An empty figure of the usual width; ``height`` in inches."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    engine: Any = figure.get_layout_engine()
    engine.set(w_pad=0.08, h_pad=0.07)
    return figure


def set_log(axes: Any, low: float, high: float, linear_below: float = 1e-3) -> None:
    """A logarithmic axis; a term that is exactly 0 somewhere needs one that is linear near 0."""
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.6, high * 1.6)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_yscale("symlog", linthresh=linear_below)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def draw_line(axes: Any, line: Curve, style: tuple[str, str], label: str | None, *, first: bool) -> None:
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


def draw_band(axes: Any, median: Curve) -> None:
    """The band around the median of the core terms, behind everything else; nothing where there is no median."""
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
            label=BAND_LABEL,
        )


def finish(figure: Figure, axes: Any, title: str) -> Figure:
    """One title, and one legend for all sides below them."""
    figure.suptitle(title, x=0.012, ha="left", fontweight="bold")
    entries: dict[str, Any] = {}
    for side in axes:
        for handle, label in zip(*side.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if BAND_LABEL in entries:
        entries[BAND_LABEL] = entries.pop(BAND_LABEL)  # after the lines
    if entries:
        columns = min(len(entries), 4 if max(map(len, entries)) < 16 else 3)
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=columns, handlelength=2.6
        )
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    # No software version, no date: the same picture is the same bytes.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a name in a script that it lacks
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
