"""Which beta (``objective.semantic_loss_scale``) would have centred the semantic term, and the command to try it.

By losses: beta = geometric mean over windows, side by side, of ``sqrt(focal * jsd) / semantic``: means of the scaled
losses of focal and jsd and of the raw loss of semantic. That is the middle, on a logarithmic scale, of what lies within
0.5-2x of both. By gradient norms: the same with the norms at the logits, weights left out (they follow schedules). Both
take losses and gradients as logged: another beta would have trained another student.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillctl.core.analysis.curves import BAND
from distillctl.core.analysis.scaling import Windows, in_band
from distillctl.core.analysis.scaling_gradients import Gradients
from distillctl.core.analysis.scaling_run import ScalingRun, core_terms
from distillctl.core.run_dir.step_table import Column

ENOUGH = 0.95
"""The share of windows or steps in which a requirement must hold: single spikes do not decide."""
LARGEST_BETA = 1000.0
"""The largest ``objective.semantic_loss_scale`` that a configuration may hold."""
SHARE_LIMIT = 0.3
"""The ``objective.max_auxiliary_share`` to try where there was none: three times the default, and measured to hold."""
# Within this factor of the centre another beta is not worth a run.
_NEAR = 1.1


@dataclass(frozen=True, slots=True)
class BetaAdvice:
    """What to do about beta. Shares are of all windows, under fixed scales and with the losses as logged.

    Attributes:
        current: the run's beta (where it started, under balance: band); None without a semantic term.
        by_losses, by_gradients: the beta that centres semantic; None where it cannot be computed.
        suggested: ``by_losses`` to three digits, as the command has it.
        semantic_in_band: share with ``suggested`` in which semantic lies within 0.5-2x of focal and of jsd;
            ``semantic_in_band_now``: with ``current``.
        all_in_band, all_in_band_now: the same for all three pairwise.
        low, high: between them semantic is within 0.5-2x of both in every window; None where there is no such beta.
        anchors: what semantic is compared with: focal, jsd, or both.
        anchors_in_band: share in which focal and jsd lie within 0.5-2x of each other, which no beta changes; ``apart``
            is the median ratio of the larger to the smaller.
        first, last: the beta that centres semantic in the first and in the last window.
        keep: whether the current beta is the answer.
    """

    current: float | None = None
    by_losses: float | None = None
    by_gradients: float | None = None
    suggested: float | None = None
    semantic_in_band: float = 0.0
    semantic_in_band_now: float = 0.0
    all_in_band: float = 0.0
    all_in_band_now: float = 0.0
    low: float | None = None
    high: float | None = None
    anchors: tuple[str, ...] = ()
    anchors_in_band: float = 1.0
    apart: float = 1.0
    first: float | None = None
    last: float | None = None
    keep: bool = False

    @property
    def within_reach(self) -> bool:
        """Whether the suggested beta brings all core terms into the band."""
        return self.all_in_band >= ENOUGH


def advise(run: ScalingRun, window: int) -> BetaAdvice:
    """The advice for a run, over windows of ``window`` optimizer steps; all None without semantic, focal and jsd.

    A term that is only logged counts as not there: no beta of it changes the student.
    """
    others = [term for term in core_terms(run.trained) if term != "semantic"]
    if "semantic" not in run.trained:
        return BetaAdvice()
    if run.beta is None or not others:
        return BetaAdvice(current=run.beta)
    windows = Windows(run.steps, window)
    semantic = windows.mean(run.columns["loss_semantic"])
    # Under fixed scales only semantic has one; what a band did to jsd would not be there.
    anchors = np.array([windows.mean(_fixed(run, term)) for term in others])
    there = (semantic > 0) & np.all(anchors > 0, axis=0)
    by_losses = _centre(run, others, windows)
    if by_losses is None or not there.any():
        return BetaAdvice(current=run.beta, by_gradients=_by_gradients(run, others))
    semantic, anchors = semantic[there], anchors[:, there]
    centres = np.exp(np.log(anchors).mean(axis=0) - np.log(semantic))
    low, high = (
        float(np.max(BAND[0] * anchors.max(axis=0) / semantic)),
        float(np.min(BAND[1] * anchors.min(axis=0) / semantic)),
    )
    suggested = float(f"{by_losses:.3g}")
    then, now = (_shares(anchors, beta * semantic) for beta in (suggested, run.beta))
    return BetaAdvice(
        current=run.beta,
        by_losses=by_losses,
        by_gradients=_by_gradients(run, others),
        suggested=suggested,
        semantic_in_band=then[0],
        semantic_in_band_now=now[0],
        all_in_band=then[1],
        all_in_band_now=now[1],
        low=low if low <= high else None,
        high=high if low <= high else None,
        anchors=tuple(others),
        anchors_in_band=float(np.mean(in_band(anchors))),
        apart=float(np.median(anchors.max(axis=0) / anchors.min(axis=0))),
        first=float(centres[0]),
        last=float(centres[-1]),
        # Where the losses move far during a run, the middle may hold fewer windows than what there is.
        keep=now[0] >= ENOUGH or now[0] > then[0] or 1 / _NEAR <= run.beta / by_losses <= _NEAR,
    )


def _centre(run: ScalingRun, others: list[str], windows: Windows) -> float | None:
    """The geometric mean of the centring betas, each row of the log counting once; None where there is none."""
    semantic, rows = windows.side_by_side(run.columns["loss_semantic"])
    anchors = np.array([windows.side_by_side(_fixed(run, term))[0] for term in others])
    there = (semantic > 0) & np.all(anchors > 0, axis=0)
    if not there.any():
        return None
    logs = np.log(anchors[:, there]).mean(axis=0) - np.log(semantic[there])
    return float(np.exp(np.average(logs, weights=rows[there])))


def _fixed(run: ScalingRun, term: str) -> Column:
    return run.scaled(term) if run.balance == "fixed" else run.columns[f"loss_{term}"]


def _shares(anchors: Column, semantic: Column) -> tuple[float, float]:
    """(semantic within 0.5-2x of each anchor, all pairwise), shares of windows."""
    near = np.all([in_band(np.array([anchor, semantic])) for anchor in anchors], axis=0)
    return float(np.mean(near)), float(np.mean(in_band(np.vstack([anchors, semantic]))))


def _by_gradients(run: ScalingRun, others: list[str]) -> float | None:
    rows = Gradients.of(run).rows

    def unweighted(term: str) -> Column:
        weights = run.columns[f"weight_{term}"][rows]
        found: Column = run.columns[f"grad_norm_{term}"][rows] / np.where(weights > 0, weights, np.nan)
        return found

    def unscaled(term: str) -> Column:
        scales = run.columns[f"scale_{term}"][rows]
        found: Column = unweighted(term) / np.where(scales > 0, scales, np.nan)
        return found

    anchors = [unweighted(term) if run.balance == "fixed" else unscaled(term) for term in others]
    norms = np.array([*anchors, unscaled("semantic")])
    norms = norms[:, np.all(norms > 0, axis=0)]
    if not norms.size:
        return None
    return float(np.exp(np.mean(np.log(norms[:-1]).mean(axis=0) - np.log(norms[-1]))))


def command_to_try(run: ScalingRun, advice: BetaAdvice, *, band_met: bool, drowned: bool) -> str | None:
    """The training to try next, with the run's own settings; None where nothing is to be changed.

    ``band_met``: the core terms stayed in the band. ``drowned``: the auxiliary terms drown the primary ones, so the
    command sets a share limit.
    """
    options, names = _beta_options(run, advice, band_met)
    if drowned:
        limit = SHARE_LIMIT if run.share_limit is None else min(SHARE_LIMIT, run.share_limit / 2)
        options += ["--set", f"objective.max_auxiliary_share={limit:g}"]
        names.append("limit")
    if not options:
        return None
    config = ["--config", run.config_file] if run.config_file else []
    base = run.path.rstrip("/") if Path(run.path).name not in ("", "..") else "results/run"
    output = f"{base}-{'-'.join(names)}"
    return shlex.join(["distillctl", "train", *config, *options, "--output-dir", output])


def _beta_options(run: ScalingRun, advice: BetaAdvice, band_met: bool) -> tuple[list[str], list[str]]:
    """(options, what they change in a word each)."""
    if advice.suggested is None or advice.suggested > LARGEST_BETA:
        return [], []
    options, names = ["--beta", f"{advice.suggested:g}"], [f"beta-{advice.suggested:g}"]
    if run.balance != "fixed":
        if band_met:
            return [], []
        if advice.within_reach:  # one factor would do what the balance did not
            return [*options, "--set", "objective.balance=fixed"], [*names, "fixed"]
        return options, names
    if advice.keep:
        options, names = [], []
    if not advice.within_reach:
        options, names = [*options, "--set", "objective.balance=band"], [*names, "band"]
    return options, names
