"""The picture of a sweep: F1 against the value, with intervals and every seed's own point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from distillctl.core.analysis.drawing import LOOK, new_figure, to_png
from distillctl.core.analysis.figures import value_text
from distillctl.core.analysis.plot_lines import BLUE, STYLES
from distillctl.core.sweep.grid import Axis, point_key, point_text
from distillctl.core.sweep.plan import SPLIT, Sweep
from distillctl.core.sweep.ranking import Rank, Ranking

# Told apart with any kind of colour vision, and once more by marker and line.
_STYLES = tuple((color, marker, dashes) for (color, dashes), marker in zip(STYLES, "os^DvPX", strict=True))
_GREY, _INK = "#57606a", "#3d444d"
_MOST_ROWS = 40
_WIDE = 30.0
"""Values whose largest is this many times the smallest are shown on a logarithmic axis."""


def draw_sweep(sweep: Sweep, ranking: Ranking) -> bytes:
    """The picture as PNG bytes, the same every time."""
    with mpl.rc_context(LOOK):
        return to_png(make_figure(sweep, ranking))


def make_figure(sweep: Sweep, ranking: Ranking) -> Figure:
    """F1 against the values of the axis that has most; the other axes' values are lines, or one row each where many."""
    across = max(range(len(sweep.axes)), key=lambda place: (len(sweep.axes[place].values), -place))
    others = [place for place in range(len(sweep.axes)) if place != across]
    lines: dict[str, list[Rank]] = {}
    titles: dict[str, str] = {}
    by_point = {point_key(found.point): found for found in ranking.ranks}
    for point in sweep.points:
        rest = tuple(point[place] for place in others)
        titles[point_key(rest)] = point_text([sweep.axes[place] for place in others], rest)
        if (found := by_point.get(point_key(point))) is not None:
            lines.setdefault(point_key(rest), []).append(found)
    with mpl.rc_context(LOOK):
        if len(lines) > len(_STYLES):
            return _rows(sweep, ranking)
        return _curves(sweep, ranking, across, lines, titles)


def _curves(
    sweep: Sweep, ranking: Ranking, across: int, lines: Mapping[str, Sequence[Rank]], titles: Mapping[str, str]
) -> Figure:
    axis = sweep.axes[across]
    figure = new_figure(4.0)
    axes: Any = figure.subplots()
    places = _places(axes, axis)
    for number, (key, found) in enumerate(lines.items()):
        # Intervals of several lines side by side, where values are equally far apart on the picture.
        shift = (number - (len(lines) - 1) / 2) * 0.012
        _draw_line(
            axes, [places[point_key((rank.point[across],))] for rank in found], found, number, titles[key], shift
        )
    best = ranking.best
    marked = places[point_key((best.point[across],))]
    axes.annotate(
        f"best: {best.f1:.2f}",
        (marked, max(best.f1, *best.by_seed, best.high or best.f1)),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        color=_INK,
        fontweight="bold",
    )
    axes.set_xlabel(axis.field)
    axes.margins(x=0.08, y=0.16)  # room for the word above the best
    axes.set_ylabel(f"F1 on {SPLIT}, points of 100")
    if len(lines) > 1:
        figure.legend(loc="outside lower center", ncols=min(len(lines), 3), handlelength=3.2)
    return _titled(figure, sweep, ranking)


def _places(axes: Any, axis: Axis) -> dict[str, float]:
    """Where each value stands, by its key: numbers at their own place, anything else one after the other."""
    values = axis.values
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or len(values) == 1:
        axes.set_xticks(range(len(values)), [value_text(value) for value in values])
        return {point_key((value,)): float(place) for place, value in enumerate(values)}
    if min(numbers) > 0 and max(numbers) / min(numbers) > _WIDE:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(numbers)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return {point_key((value,)): number for value, number in zip(values, numbers, strict=True)}


def _draw_line(axes: Any, x: Sequence[float], found: Sequence[Rank], number: int, title: str, shift: float) -> None:
    color, marker, dashes = _STYLES[number]
    order = sorted(range(len(found)), key=lambda place: x[place])
    moved = axes.transData + mpl.transforms.ScaledTranslation(shift * 8, 0, axes.figure.dpi_scale_trans)
    axes.plot(
        [x[place] for place in order],
        [found[place].f1 for place in order],
        color=color,
        linestyle=dashes,
        marker=marker,
        linewidth=1.4,
        markersize=7,
        label=title,
        transform=moved,
        zorder=3,
    )
    for where, rank in zip(x, found, strict=True):
        if rank.low is not None and rank.high is not None:
            axes.plot([where, where], [rank.low, rank.high], color=color, linewidth=2.2, alpha=0.55, transform=moved)
        if len(rank.by_seed) > 1:
            axes.plot(
                [where] * len(rank.by_seed), rank.by_seed, "_", color=_INK, markersize=9, transform=moved, zorder=4
            )
    # What is drawn with a shifted transform does not stretch the axes by itself.
    heights = [value for rank in found for value in (rank.f1, rank.low, rank.high, *rank.by_seed) if value is not None]
    axes.update_datalim([(min(x), min(heights)), (max(x), max(heights))])
    axes.autoscale_view()


def _rows(sweep: Sweep, ranking: Ranking) -> Figure:
    """One row a grid point, the best on top."""
    ranks = ranking.ranks[:_MOST_ROWS][::-1]
    figure = new_figure(1.4 + 0.26 * len(ranks))
    axes: Any = figure.subplots()
    for place, rank in enumerate(ranks):
        if rank.low is not None and rank.high is not None:
            axes.plot([rank.low, rank.high], [place, place], color=BLUE, linewidth=2.2, alpha=0.55)
        axes.plot(rank.f1, place, "o", color=BLUE, markersize=6)
        if len(rank.by_seed) > 1:
            axes.plot(rank.by_seed, [place] * len(rank.by_seed), "|", color=_INK, markersize=8)
    axes.set_yticks(range(len(ranks)), [point_text(sweep.axes, rank.point) for rank in ranks])
    axes.grid(visible=False, axis="y")
    axes.margins(y=0.5 / len(ranks))
    shown = "" if len(ranks) == len(ranking.ranks) else f" (the best {len(ranks)} of {len(ranking.ranks)} points)"
    axes.set_xlabel(f"F1 on {SPLIT}, points of 100{shown}")
    return _titled(figure, sweep, ranking, side="right")


def _titled(figure: Figure, sweep: Sweep, ranking: Ranking, side: Literal["left", "right"] = "left") -> Figure:
    seeds = f"mean of {len(sweep.seeds)} seeds (dashes: each)" if len(sweep.seeds) > 1 else f"seed {sweep.seeds[0]}"
    bars = "bars: 95 % intervals over files" if ranking.files > 1 else "no interval: all from one file"
    facts = f"{ranking.samples:,} records of {SPLIT} in {ranking.files:,} files; {seeds}; {bars}"
    figure.suptitle(f"F1 against {', '.join(axis.label for axis in sweep.axes)}", x=0.012, ha="left", fontweight="bold")
    figure.axes[0].set_title(facts, loc=side, fontsize=8, color=_GREY)
    return figure
