"""Curves of a training from the rows of its step log: which terms there are, their values, smoothed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import median_filter

from distillctl.core.losses.balance import CORE_TERMS

if TYPE_CHECKING:  # both load much that curves do not need
    from distillctl.core.analysis.run_data import StepRows
    from distillctl.core.evaluation.significance import FloatArray

PRIMARY_TERMS = ("focal", "jsd")
"""The terms whose gradient the auxiliary ones (semantic, contrastive, any other) must not drown."""
BAND = (0.5, 2.0)
"""The core terms' scaled losses should lie within this of their common median."""
# The running median looks at one part in this many of the curve; fewer points than this are shown as they are.
_PARTS = 40


@dataclass(frozen=True, eq=False)
class Curve:
    """Values [n] at optimizer steps [n], only where they were measured and finite; ``smooth`` [n] beside them."""

    steps: FloatArray
    values: FloatArray

    @property
    def smooth(self) -> FloatArray:
        """The running median, the ends repeated beyond themselves."""
        window = len(self.values) // _PARTS
        if window < 2:
            return self.values
        smoothed: Any = median_filter(self.values, size=window | 1, mode="nearest")
        return np.asarray(smoothed, dtype=np.float64)

    def __bool__(self) -> bool:
        return len(self.values) > 0


def curve(rows: StepRows, value: Callable[[Mapping[str, float | None]], float | None]) -> Curve:
    """The curve of what ``value`` makes of each row; None, NaN and infinities are left out."""
    points = [(row["step"], number) for row in rows if (number := value(row)) is not None and math.isfinite(number)]
    both = np.array(points, dtype=np.float64).reshape(-1, 2)
    return Curve(both[:, 0], both[:, 1])


def column(name: str) -> Callable[[Mapping[str, float | None]], float | None]:
    """Reads a column of a row; None where the run has no such column."""
    return lambda row: row.get(name)


def scaled_loss(term: str) -> Callable[[Mapping[str, float | None]], float | None]:
    """Scale times raw loss of a term: what the weights are applied to."""

    def value(row: Mapping[str, float | None]) -> float | None:
        scale, loss = row.get(f"scale_{term}"), row.get(f"loss_{term}")
        return None if scale is None or loss is None else scale * loss

    return value


def terms_of(rows: StepRows) -> list[str]:
    """The active terms, in the order of their columns."""
    names = list(rows[0]) if rows else []
    return [name.removeprefix("weighted_") for name in names if name.startswith("weighted_")]


def cosine_pairs(rows: StepRows) -> list[tuple[str, str]]:
    """The pairs of terms whose gradients' cosine is logged."""
    return [pair for pair in combinations(terms_of(rows), 2) if f"grad_cos_{pair[0]}_{pair[1]}" in rows[0]]


def core_median(rows: StepRows) -> Curve:
    """Per step the median over the core terms of their smoothed scaled losses; empty with fewer than two terms."""
    curves = [curve(rows, scaled_loss(term)) for term in CORE_TERMS if term in terms_of(rows)]
    if len(curves) < 2 or not all(curves):
        return Curve(np.empty(0), np.empty(0))
    steps = _shared([one.steps for one in curves])
    values = [one.smooth[np.searchsorted(one.steps, steps)] for one in curves]
    return Curve(steps, np.median(values, axis=0))


def _shared(arrays: Sequence[FloatArray]) -> FloatArray:
    shared = arrays[0]
    for array in arrays[1:]:
        shared = np.intersect1d(shared, array)
    return shared
