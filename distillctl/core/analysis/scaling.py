"""Loss scales and gradients of one run in figures: running means, the band, pairs, silent and drowning terms.

Losses are compared *scaled*: scale x raw loss, the weights left out, since the weights' schedules are meant to differ.
Gradients are those of the weighted terms at the student's logits. Nothing here judges or advises:
:mod:`distillctl.core.analysis.scaling_verdicts` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillctl.core.analysis.curves import BAND
from distillctl.core.analysis.scaling_gradients import AuxiliaryFigures, Gradients, TotalFigures, auxiliary_figures
from distillctl.core.analysis.scaling_run import ScalingRun, core_terms
from distillctl.core.losses.balance import CORE_TERMS
from distillctl.core.run_dir.step_table import Column

AGAINST = -0.1
"""A cosine below this is a pull against each other: random directions in a vocabulary's space are nearer to 0."""
FIGHTING = -0.5
"""A cosine below this is a fight: at equal norms the two cancel half of what they would do."""
# Rounding of the 9 digits in the log, at the edges of bands.
_EDGE = 1e-6
_TINY = 1e-300
# Below this part of the mean a deviation is rounding.
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Window:
    """Mean and (population) standard deviation over the rows of optimizer steps ``first`` to ``last``."""

    first: int
    last: int
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class TermFigures:
    """One term. ``raw`` and ``scaled`` losses and the ``gradient`` norm at start, middle and end of the run.

    Attributes:
        scale: at the first and the last row.
        gradient: of the weighted term at the logits, before the share limit; None where none was measured.
        share, share_reaching: of the sum of all trained terms' norms, before and behind the share limit (means).
        silent: share of the measured steps in which the term has a loss and a weight, but no gradient.
        silent_first, silent_last: the first and last of these steps.
        log_only: it trains nothing on purpose.
    """

    scale: tuple[float, float]
    raw: Mapping[str, Window]
    scaled: Mapping[str, Window]
    gradient: Mapping[str, Window | None]
    share: float | None
    share_reaching: float | None
    silent: float
    silent_first: int | None
    silent_last: int | None
    log_only: bool


@dataclass(frozen=True, slots=True)
class PairFigures:
    """Two terms. ``in_band`` and ``ratio`` (first / second scaled loss, median) are of core terms only.

    Cosines are those of their gradients: mean, lowest, and in which share of the ``measured`` steps they are below
    :data:`AGAINST` and :data:`FIGHTING`; ``fights_first`` is the first step of a fight.
    """

    in_band: float | None
    ratio: float | None
    measured: int
    cosine: float | None
    lowest: float | None
    against: float
    fighting: float
    fights_first: int | None


@dataclass(frozen=True, slots=True)
class Departure:
    """A core term that leaves the band: in a window where not all lie in it, this one is beyond 2x of their median.

    ``share`` of all windows; ``first`` and ``last`` are those windows' (first step, last step); ``factor`` is the
    median over them of term / median of the core terms (of two core terms: / the other one).
    """

    share: float
    first: tuple[int, int]
    last: tuple[int, int]
    factor: float


@dataclass(frozen=True, slots=True)
class BandFigures:
    """In which share of ``windows`` the trained core ``terms`` lie pairwise within 0.5-2x, and who leaves when."""

    terms: tuple[str, ...]
    windows: int
    share: float
    departures: Mapping[str, Departure]


@dataclass(frozen=True, slots=True)
class Scaling:
    """All figures of one run. ``window`` in optimizer steps, ``asked`` the window that was asked for.

    ``shortened`` is that the log has no room for three of those.
    """

    rows: int
    first_step: int
    last_step: int
    asked: int
    window: int
    shortened: bool
    gradient_steps: int
    terms: Mapping[str, TermFigures]
    pairs: Mapping[tuple[str, str], PairFigures]
    band: BandFigures
    auxiliary: AuxiliaryFigures | None
    totals: TotalFigures | None


class Windows:
    """All runs of ``rows`` consecutive rows, so many that their width is ``window`` steps; the k-th starts at row k.

    Start, middle and end of a run are its first, middle and last window; a window is at most a third of the log, so
    that these do not overlap.
    """

    def __init__(self, steps: Column, window: int) -> None:
        self.steps = steps
        # The mean, not the median: every tenth row may stand beside one that was logged for its gradients.
        spacing = float(steps[-1] - steps[0]) / (len(steps) - 1) if len(steps) > 1 else 1.0
        asked, most = round(window / spacing), len(steps) // 3
        self.rows, self.shortened = max(1, min(asked, most)), asked > most
        self.width = max(1, round(self.rows * spacing))
        self.count = len(steps) - self.rows + 1
        self.places = {"start": 0, "middle": (self.count - 1) // 2, "end": self.count - 1}

    def bounds(self, number: int) -> tuple[int, int]:
        """First and last optimizer step of a window."""
        return int(self.steps[number]), int(self.steps[number + self.rows - 1])

    def mean(self, values: Column) -> Column:
        """The mean of ``values`` [n] in each window [count]."""
        # Sums of differences from one value: long logs do not wash out the digits.
        middle = values[0]
        sums = np.concatenate([[0.0], np.cumsum(values - middle)])
        return np.asarray(middle + (sums[self.rows :] - sums[: -self.rows]) / self.rows)

    def std(self, values: Column) -> Column:
        """The population standard deviation of ``values`` [n] in each window [count]."""
        centred = values - np.mean(values)
        return np.sqrt(np.maximum(self.mean(centred**2) - self.mean(centred) ** 2, 0.0))

    def side_by_side(self, values: Column) -> tuple[Column, Column]:
        """(means, numbers of rows) of windows that cover the log without overlap, so that each row counts once."""
        starts = np.arange(0, len(values), self.rows)
        lengths = np.diff(np.append(starts, len(values)))
        return np.add.reduceat(values, starts) / lengths, lengths.astype(np.float64)

    def at(self, place: str, values: Column) -> Window | None:
        """Mean and standard deviation at ``start``, ``middle`` or ``end``; NaN is left out, None if all is."""
        number = self.places[place]
        found = values[number : number + self.rows]
        found = found[np.isfinite(found)]
        if not len(found):
            return None
        mean, std = float(found.mean()), float(found.std())
        return Window(*self.bounds(number), mean, std if std > _SAME * abs(mean) else 0.0)


def analyse(run: ScalingRun, window: int) -> Scaling:
    """All figures of a run, with running means over ``window`` optimizer steps (>= 1; shortened on short logs)."""
    windows = Windows(run.steps, window)
    gradients = Gradients.of(run)
    return Scaling(
        rows=len(run.steps),
        first_step=int(run.steps[0]),
        last_step=int(run.steps[-1]),
        asked=window,
        window=windows.width,
        shortened=windows.shortened,
        gradient_steps=len(gradients.steps),
        terms={term: _term(term, run, windows, gradients) for term in run.terms},
        pairs={pair: _pair(pair, run, windows) for pair in run.pairs},
        band=_band(run, windows),
        auxiliary=auxiliary_figures(run),
        totals=gradients.totals(),
    )


def in_band(means: Column) -> Any:
    """Whether the core terms' running means [terms, windows] lie pairwise within 0.5-2x: bool [windows]."""
    return np.max(means, axis=0) <= BAND[1] * (1 + _EDGE) * np.min(means, axis=0)


def _term(term: str, run: ScalingRun, windows: Windows, gradients: Gradients) -> TermFigures:
    columns = run.columns
    losses = {"raw": columns[f"loss_{term}"], "scaled": run.scaled(term)}
    places: dict[str, dict[str, Any]] = {
        name: {place: windows.at(place, values) for place in windows.places} for name, values in losses.items()
    }
    silent = gradients.silent(term)
    return TermFigures(
        scale=(float(columns[f"scale_{term}"][0]), float(columns[f"scale_{term}"][-1])),
        raw=places["raw"],
        scaled=places["scaled"],
        gradient={place: windows.at(place, columns[f"grad_norm_{term}"]) for place in windows.places},
        share=gradients.share(term, reaching=False),
        share_reaching=gradients.share(term, reaching=True),
        silent=silent[0],
        silent_first=silent[1],
        silent_last=silent[2],
        log_only=term in run.log_only,
    )


def _pair(pair: tuple[str, str], run: ScalingRun, windows: Windows) -> PairFigures:
    core = all(term in CORE_TERMS for term in pair)
    means = np.array([windows.mean(run.scaled(term)) for term in pair]) if core else np.empty((0, 0))
    cosines = run.columns[f"grad_cos_{pair[0]}_{pair[1]}"]
    there = np.isfinite(cosines)
    found = cosines[there]
    fights = run.steps[there][found < FIGHTING]
    return PairFigures(
        in_band=float(np.mean(in_band(means))) if core else None,
        ratio=float(np.median(means[0] / np.maximum(means[1], _TINY))) if core else None,
        measured=len(found),
        cosine=float(found.mean()) if len(found) else None,
        lowest=float(found.min()) if len(found) else None,
        against=float(np.mean(found < AGAINST)) if len(found) else 0.0,
        fighting=float(np.mean(found < FIGHTING)) if len(found) else 0.0,
        fights_first=int(fights[0]) if len(fights) else None,
    )


def _band(run: ScalingRun, windows: Windows) -> BandFigures:
    terms = core_terms(run.trained)
    if len(terms) < 2:
        return BandFigures(terms, windows.count, 1.0, {})
    means = np.array([windows.mean(run.scaled(term)) for term in terms])
    outside = ~in_band(means)
    logs = np.log(np.maximum(means, _TINY))
    # Of two, both are equally far from their median: focal, whose scale is always 1, or else the first, is the measure.
    away = logs - (np.median(logs, axis=0) if len(terms) > 2 else logs[0])
    beyond = np.abs(away) > np.log(BAND[1])
    # Two may be too far apart with the third midway and neither beyond: then the farther one is the one that left.
    farthest = np.abs(away) >= np.max(np.abs(away), axis=0)
    left = outside & np.where(beyond.any(axis=0), beyond, farthest)
    departures = {}
    for term, gone, factor in zip(terms, left, away, strict=True):
        where = np.flatnonzero(gone)
        if len(where):
            departures[term] = Departure(
                share=len(where) / windows.count,
                first=windows.bounds(int(where[0])),
                last=windows.bounds(int(where[-1])),
                factor=float(np.exp(np.median(factor[where]))),
            )
    ordered = dict(sorted(departures.items(), key=lambda item: -item[1].share * abs(np.log(item[1].factor))))
    return BandFigures(terms, windows.count, float(np.mean(~outside)), ordered)
