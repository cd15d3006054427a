"""Gradient norms at the student's logits, term by term: shares, silence, before and after scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distillctl.core.analysis.curves import PRIMARY_TERMS
from distillctl.core.analysis.scaling_run import ScalingRun, core_terms
from distillctl.core.run_dir.step_table import Column

SKEW = 3.0
"""How far the total gradient norm may move by scaling (request, 1.5)."""
# A gradient this much smaller than the largest term's is no gradient.
_SILENT = 1e-9
# Rounding of the 9 digits in the log, at the edges of bands.
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class AuxiliaryFigures:
    """|auxiliary gradient| / |primary gradient| at the logits over all rows: medians, before and behind the limit.

    ``above`` is the share of rows in which it is above 1 behind the limit, ``clipped`` in which the limit acts.
    """

    terms: tuple[str, ...]
    unlimited: float
    reaching: float
    above: float
    clipped: float


@dataclass(frozen=True, slots=True)
class TotalFigures:
    """Gradient norms before and after scaling, medians over the ``measured`` steps.

    Before: focal, jsd and semantic on the same steps with every scale at 1, no other term, no share limit. After: what
    reaches the student: all terms, scales, share limit. ``ratio`` is the total norm after / before, ``within`` the
    share of steps in which that is within :data:`SKEW`; the spreads are largest / smallest norm among focal, jsd and
    semantic (None with fewer than two of them).
    """

    measured: int
    ratio: float
    within: float
    spread_before: float | None
    spread_after: float | None


def auxiliary_figures(run: ScalingRun) -> AuxiliaryFigures | None:
    """Of a run's rows; None where there are no terms of both kinds, or none of them ever has a gradient."""
    terms = tuple(term for term in run.trained if term not in PRIMARY_TERMS)
    primary, auxiliary = run.columns["grad_norm_primary"], run.columns["grad_norm_auxiliary"]
    there = (primary > 0) & np.isfinite(auxiliary)
    if not terms or not there.any():
        return None
    clip = run.columns["auxiliary_clip"][there]
    ratio = auxiliary[there] / primary[there]
    return AuxiliaryFigures(
        terms=terms,
        unlimited=float(np.median(ratio)),
        reaching=float(np.median(ratio * clip)),
        above=float(np.mean(ratio * clip > 1)),
        clipped=float(np.mean(clip < 1)),
    )


@dataclass(frozen=True, eq=False)
class Gradients:
    """The rows in which every term's gradient was taken by itself, g of them.

    ``norms`` [terms, g] of the weighted trained terms, ``cosines`` [terms, terms, g] (1 on the diagonal, 0 where a
    gradient is 0), ``limits`` [terms, g]: the share limit's factor on auxiliary terms, 1 on primary ones.
    """

    run: ScalingRun
    rows: Any
    steps: Column
    norms: Column
    cosines: Column
    limits: Column

    @classmethod
    def of(cls, run: ScalingRun) -> Gradients:
        """Picks them out of a run's columns."""
        rows = np.flatnonzero(np.isfinite(run.columns[f"grad_norm_{run.terms[0]}"]))
        terms = run.trained
        norms = np.array([run.columns[f"grad_norm_{term}"][rows] for term in terms]).reshape(len(terms), len(rows))
        cosines = np.ones((len(terms), len(terms), len(rows)))
        for i, first in enumerate(terms):
            for j, second in enumerate(terms[i + 1 :], start=i + 1):
                found = np.nan_to_num(run.columns[f"grad_cos_{first}_{second}"][rows])
                cosines[i, j] = cosines[j, i] = found
        clip = run.columns["auxiliary_clip"][rows]
        limits = np.array([np.ones_like(clip) if term in PRIMARY_TERMS else clip for term in terms])
        return cls(run, rows, run.steps[rows], norms, cosines, limits.reshape(norms.shape))

    def share(self, term: str, *, reaching: bool) -> float | None:
        """Mean share of a term's norm in the sum of norms, before or behind the limit; None if not measured."""
        if term not in self.run.trained:
            return None
        norms = self.norms * self.limits if reaching else self.norms
        total = norms.sum(axis=0)
        there = total > 0
        if not there.any():
            return None
        return float(np.mean(norms[self.run.trained.index(term), there] / total[there]))

    def silent(self, term: str) -> tuple[float, int | None, int | None]:
        """(share of the steps with a loss and a weight but without a gradient, the first, the last such step)."""
        if term not in self.run.trained or not len(self.rows):
            return 0.0, None, None
        columns = self.run.columns
        expected = (columns[f"loss_{term}"] * columns[f"scale_{term}"] * columns[f"weight_{term}"])[self.rows] > 0
        none = self.norms[self.run.trained.index(term)] <= _SILENT * self.norms.max(axis=0)
        steps = self.steps[expected & none]
        if not len(steps):
            return 0.0, None, None
        return len(steps) / int(expected.sum()), int(steps[0]), int(steps[-1])

    def totals(self) -> TotalFigures | None:
        """Norms before and after scaling; None where they were not measured."""
        run = self.run
        core = [run.trained.index(term) for term in core_terms(run.trained)]
        if not core or not len(self.rows):
            return None
        scales = np.array([run.columns[f"scale_{run.trained[i]}"][self.rows] for i in core])
        unscaled = self.norms[core] / np.where(scales > 0, scales, np.inf)
        arriving = self.norms * self.limits
        before, after = self._total(unscaled, core), self._total(arriving, list(range(len(run.trained))))
        there = before > 0
        if not there.any():
            return None
        ratios = after[there] / before[there]
        within = (ratios <= SKEW * (1 + _EDGE)) & (ratios * SKEW * (1 + _EDGE) >= 1)
        return TotalFigures(
            measured=int(there.sum()),
            ratio=float(np.median(ratios)),
            within=float(np.mean(within)),
            spread_before=_spread(unscaled),
            spread_after=_spread(arriving[core]),
        )

    def _total(self, norms: Column, places: Sequence[int]) -> Column:
        """|sum of the gradients| [g] from their norms and cosines."""
        cosines = self.cosines[np.ix_(places, places)]
        squares: Column = np.einsum("ig,jg,ijg->g", norms, norms, cosines)
        return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _spread(norms: Column) -> float | None:
    """Median over steps of the largest / the smallest norm, in the steps in which all terms have one."""
    there = np.all(norms > 0, axis=0)
    if len(norms) < 2 or not there.any():
        return None
    return float(np.median(norms[:, there].max(axis=0) / norms[:, there].min(axis=0)))
