"""Where the time goes, as a picture: one stacked bar per arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from distillctl.core import phases
from distillctl.core.analysis.drawing import LOOK, finish, new_figure, to_png
from distillctl.core.analysis.plot_lines import BLACK, SKY, VERMILION, term_style

PLOT = "overhead.png"
_GREYS = {
    phases.STUDENT_FORWARD: "#8a929b",
    phases.STUDENT_BACKWARD: "#5b636c",
    phases.OPTIMIZER: "#c9ced4",
    phases.DATA: "#f0e442",
    phases.OTHER: "#e9ecef",
    phases.LOGGING: BLACK,
    phases.TEACHER: VERMILION,
    phases.ENCODER_FORWARD: SKY,
    phases.ENCODER_BACKWARD: "#2a7fb0",
    phases.OBJECTIVE: "#b08d57",
}
_ORDER = (
    phases.STUDENT_FORWARD,
    phases.STUDENT_BACKWARD,
    phases.OPTIMIZER,
    phases.TEACHER,
    phases.ENCODER_FORWARD,
    phases.ENCODER_BACKWARD,
    phases.OBJECTIVE,
)


def draw_overhead(record: Mapping[str, Any]) -> bytes:
    """The picture of an overhead.json as PNG bytes."""
    with mpl.rc_context(LOOK):
        return to_png(overhead_figure(record))


def overhead_figure(record: Mapping[str, Any]) -> Figure:
    """Milliseconds of each part of a step, stacked; what all arms do alike comes first."""
    arms = record["arms"]
    with mpl.rc_context(LOOK):
        figure = new_figure(1.6 + 0.5 * len(arms))
        axes = figure.subplots()
        parts = part_order(dict.fromkeys(part for arm in arms.values() for part in arm["parts"]))
        left = [0.0] * len(arms)
        for index, part in enumerate(parts):
            widths = [1000 * arm["parts"].get(part, 0.0) for arm in arms.values()]
            color = _GREYS.get(part) or term_style(part, index)[0]
            axes.barh(
                list(arms), widths, left=left, color=color, label=part, height=0.62, edgecolor="white", linewidth=0.4
            )
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for place, (total, arm) in enumerate(zip(left, arms.values(), strict=True)):
            axes.annotate(f" {1000 * arm['seconds']:,.0f} ms", (total, place), va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 * max(left))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("milliseconds: the median step, divided as all steps together were")
        return finish(figure, [axes], "Where the time goes")


def part_order(names: Mapping[str, None] | Sequence[str]) -> list[str]:
    """The student first, then what arms differ in, the small rest last."""
    first = [name for name in _ORDER if name in names]
    terms = [name for name in names if name not in _GREYS]
    rest = [name for name in (phases.DATA, phases.LOGGING, phases.OTHER) if name in names]
    return [*first, *terms, *rest]
