"""What the figures of a run mean: a verdict per line of the request, a sentence per finding, what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distillctl.core.analysis.criterion import MET, NOT_MEASURED, NOT_MET, Criterion, Verdict
from distillctl.core.analysis.document import Tone
from distillctl.core.analysis.figures import digits_apart, factor_text, percent_text, steps_text
from distillctl.core.analysis.scaling import AGAINST, FIGHTING, Departure, PairFigures, Scaling
from distillctl.core.analysis.scaling_advice import ENOUGH, LARGEST_BETA, BetaAdvice, advise, command_to_try
from distillctl.core.analysis.scaling_gradients import SKEW
from distillctl.core.analysis.scaling_run import ScalingRun

SEPARATE = (
    "1.4 is about losses, 1.5 about gradients, each with its own verdict: equal losses are not equal gradients (10x "
    "apart was measured). Before scaling: focal, jsd and semantic at scale 1, without share limit. After: what reaches "
    "the student."
)
"""Why there are two, and what they compare."""
BAND_LINE, TOTAL_LINE, SPREAD_LINE = "1.4 losses in the band", "1.5 total gradient", "1.5 spread of gradients"
# Silence, fights and spikes in fewer steps than this are noise.
_SOME = 0.05
# The share limit looks back, so single steps pass it: only so many of them are a flood.
_OFTEN = 0.25
# Fewer measured steps than this say nothing about a run.
_FEWEST = 3
# Two gradients with a mean cosine from here on are nearly one.
_ALIKE = 0.8
# The spread may grow by what the log's digits hide.
_ROUNDING = 1.001


@dataclass(frozen=True, slots=True)
class Assessed:
    """A run's figures, judged. ``headline`` is one sentence; ``change`` says what to do, ``command`` how (or None)."""

    run: ScalingRun
    scaling: Scaling
    advice: BetaAdvice
    criteria: tuple[Criterion, ...]
    headline: str
    tone: Tone
    findings: tuple[str, ...]
    change: tuple[str, ...]
    command: str | None

    @property
    def met(self) -> bool:
        """Whether every line of the request is met."""
        return all(one.verdict == MET for one in self.criteria)


def assess_scaling(run: ScalingRun, scaling: Scaling) -> Assessed:
    """Judges the figures of a run."""
    advice = advise(run, scaling.asked)
    criteria = (_band_line(scaling), _total_line(scaling), _spread_line(scaling))
    headline, tone = _headline(scaling, criteria)
    drowned = _drowned(scaling)
    return Assessed(
        run=run,
        scaling=scaling,
        advice=advice,
        criteria=criteria,
        headline=headline,
        tone=tone,
        findings=tuple(_findings(run, scaling)),
        change=tuple(_change(run, scaling, advice)),
        command=command_to_try(run, advice, band_met=criteria[0].verdict == MET, drowned=drowned),
    )


# --- the lines of the request ---------------------------------------------------------------------------------------


def _band_line(scaling: Scaling) -> Criterion:
    band = scaling.band
    required = f"pairwise 0.5-2x in {percent_text(ENOUGH)} of windows"
    if len(band.terms) < 2:
        only = f"only {band.terms[0]} was" if band.terms else "none of them was"
        return Criterion(BAND_LINE, required, f"{only} active", NOT_MEASURED)
    measured = f"in {_share(band.share)} of {band.windows:,} windows"
    return Criterion(BAND_LINE, required, measured, _verdict(band.share >= ENOUGH))


def _total_line(scaling: Scaling) -> Criterion:
    totals = scaling.totals
    required = f"within {SKEW:g}x of before in {percent_text(ENOUGH)} of steps"
    if totals is None or totals.measured < _FEWEST:
        return Criterion(TOTAL_LINE, required, _unmeasured(scaling), NOT_MEASURED)
    measured = f"{factor_text(totals.ratio)}; within {SKEW:g}x in {_share(totals.within)} of {totals.measured:,} steps"
    return Criterion(TOTAL_LINE, required, measured, _verdict(totals.within >= ENOUGH))


def _share(share: float) -> str:
    """Of what has to be :data:`ENOUGH`."""
    return percent_text(share, digits_apart(100 * share, 100 * ENOUGH, 0) if share < ENOUGH else 0)


def _spread_line(scaling: Scaling) -> Criterion:
    required = "no wider than before scaling"
    totals = scaling.totals
    silent = [term for term in _silent(scaling) if term in scaling.band.terms]
    if silent:
        return Criterion(SPREAD_LINE, required, f"{_listed(silent)} without gradient", NOT_MET)
    if totals is None or totals.measured < _FEWEST or totals.spread_before is None or totals.spread_after is None:
        return Criterion(SPREAD_LINE, required, _unmeasured(scaling), NOT_MEASURED)
    measured = f"{factor_text(totals.spread_before)} before, {factor_text(totals.spread_after)} after"
    return Criterion(SPREAD_LINE, required, measured, _verdict(totals.spread_after <= totals.spread_before * _ROUNDING))


def _unmeasured(scaling: Scaling) -> str:
    if scaling.gradient_steps < _FEWEST:
        return f"gradients by term in {steps_text(scaling.gradient_steps)} only"
    return "fewer than two such terms"


def _verdict(met: bool) -> Verdict:
    return MET if met else NOT_MET


# --- one sentence first ---------------------------------------------------------------------------------------------


def _headline(scaling: Scaling, criteria: Sequence[Criterion]) -> tuple[str, Tone]:
    troubles = []
    silent = _silent(scaling)
    if silent:
        troubles.append(f"{_listed(silent)} {'is' if len(silent) == 1 else 'are'} silent: a loss without a gradient")
    if scaling.band.share < ENOUGH:
        gone = [f"{term} ({factor_text(found.factor)})" for term, found in _main_departures(scaling)]
        troubles.append(f"{_listed(gone)} left the band")
    if _drowned(scaling):
        troubles.append("the auxiliary gradient drowns the primary one")
    if criteria[1].verdict == NOT_MET:
        troubles.append("scaling moves the total gradient beyond 3x")
    if criteria[2].verdict == NOT_MET and not silent:
        troubles.append("scaling drives the gradients of the terms further apart")
    fights = [f"{first} and {second}" for (first, second), _ in _fights(scaling)]
    if fights:
        troubles.append(f"{_listed(fights)} fight")
    if troubles:
        return f"Not balanced: {'; '.join(troubles)}.", "bad"
    unmeasured = [one.name for one in criteria if one.verdict == NOT_MEASURED]
    if unmeasured:
        return f"Nothing wrong found, but not measured: {_listed(unmeasured)}.", "unsure"
    return "Balanced: the losses stay in the band and scaling does not skew the gradients.", "good"


def _main_departures(scaling: Scaling) -> list[tuple[str, Departure]]:
    """Those who left for more than a moment; where nobody did, the worst one."""
    gone = list(scaling.band.departures.items())
    return [item for item in gone if item[1].share >= _SOME] or gone[:1]


def _silent(scaling: Scaling) -> list[str]:
    return [term for term, found in scaling.terms.items() if found.silent >= _SOME]


def _fights(scaling: Scaling) -> list[tuple[tuple[str, str], PairFigures]]:
    found = [item for item in _trained_pairs(scaling) if item[1].fighting >= _SOME]
    return sorted(found, key=lambda item: -item[1].fighting)


def _trained_pairs(scaling: Scaling) -> list[tuple[tuple[str, str], PairFigures]]:
    """A term that is only logged pulls at nothing."""
    return [item for item in scaling.pairs.items() if not any(scaling.terms[term].log_only for term in item[0])]


def _drowned(scaling: Scaling) -> bool:
    return scaling.auxiliary is not None and scaling.auxiliary.above >= _OFTEN


# --- a sentence per finding -----------------------------------------------------------------------------------------


def _findings(run: ScalingRun, scaling: Scaling) -> Iterator[str]:
    yield from (_silence(term, scaling) for term in _silent(scaling))
    yield from (_departure(term, found, scaling) for term, found in _main_departures(scaling))
    yield from (_fight(pair, found) for pair, found in _fights(scaling))
    yield from _pulls(scaling)
    yield from _auxiliary(scaling)
    yield from _budget(scaling)
    if run.log_only:
        yield f"{_listed(sorted(run.log_only))} is logged without being trained on (log_only)."
    if scaling.gradient_steps < _FEWEST:
        yield (
            f"Each term's gradient was taken by itself in {steps_text(scaling.gradient_steps)} only, too few to "
            "judge 1.5 or to see silent and fighting terms: train with a smaller logging.gradient_steps."
        )


def _silence(term: str, scaling: Scaling) -> str:
    found = scaling.terms[term]
    return (
        f"{term} is silent: its loss looks healthy ({found.raw['start'].mean:.3g} to {found.raw['end'].mean:.3g}), but "
        f"its gradient at the logits is 0 in {percent_text(found.silent)} of the measured steps, {found.silent_first} "
        f"to {found.silent_last}. It trains nothing there: find what cuts its gradient, or set "
        f"objective.{term}.log_only=true."
    )


def _departure(term: str, found: Departure, scaling: Scaling) -> str:
    where = "above" if found.factor > 1 else "below"
    others = "the core terms' median" if len(scaling.band.terms) > 2 else "the other core term"
    if found.share == 1:
        when = f"from the first window (steps {_span(found.first)}) to the last"
    else:
        when = (
            f"in {percent_text(found.share)} of the windows, first in steps {_span(found.first)}, last in steps "
            f"{_span(found.last)}"
        )
    return f"{term} leaves the band {when}: {where} it, {factor_text(found.factor)} {others}."


def _fight(pair: tuple[str, str], found: PairFigures) -> str:
    return (
        f"{pair[0]} and {pair[1]} fight: the cosine of their gradients is below {FIGHTING:g} in "
        f"{percent_text(found.fighting)} of the measured steps, first in step {found.fights_first} (mean "
        f"{found.cosine:.2f}, lowest {found.lowest:.2f}). Each undoes a part of what the other does: lower the weight "
        "of the one you need less."
    )


def _pulls(scaling: Scaling) -> Iterator[str]:
    """Milder relations between terms, and the word that all is quiet."""
    fighting = {pair for pair, _ in _fights(scaling)}
    measured = {pair: found for pair, found in _trained_pairs(scaling) if found.measured}
    against = [
        f"{first} and {second} ({percent_text(found.against)} of the measured steps)"
        for (first, second), found in measured.items()
        if (first, second) not in fighting and found.against >= 2 * _SOME
    ]
    if against:
        yield f"Pull against each other at times (cosine below {AGAINST:g}): {_listed(against)}."
    elif measured and not fighting:
        yield "No two terms pull against each other."
    for (first, second), found in measured.items():
        if found.cosine is not None and found.cosine >= _ALIKE:
            yield f"{first} and {second} pull nearly the same way (mean cosine {found.cosine:.2f}): one of them may do."


def _auxiliary(scaling: Scaling) -> Iterator[str]:
    found = scaling.auxiliary
    if found is None:
        return
    size = f"The auxiliary gradient ({_listed(found.terms)}) is {factor_text(found.unlimited)} the primary one at the "
    size += "logits (median)"
    if _drowned(scaling):
        limit = "the share limit does not hold it" if found.clipped else "no share limit holds it"
        yield (
            f"{size} and drowns it: larger in {percent_text(found.above)} of the steps as it reaches the student; "
            f"{limit}. In a trial 10x cost two thirds of F1 (9.3 to 3.5)."
        )
    elif found.clipped >= _SOME:
        yield (
            f"{size} and held: {factor_text(found.reaching)} behind the share limit, which acts in "
            f"{percent_text(found.clipped)} of the steps."
        )
    else:
        yield f"{size}: it does not drown it."


def _budget(scaling: Scaling) -> Iterator[str]:
    """Who gets what the share limit leaves."""
    found = scaling.auxiliary
    if found is None or found.clipped < _SOME or len(found.terms) < 2:
        return
    shares = {term: scaling.terms[term].share_reaching or 0.0 for term in found.terms}
    whole = sum(shares.values())
    if whole > 0:
        split = ", ".join(f"{term} {percent_text(share / whole)}" for term, share in shares.items())
        yield f"Behind the limit they share what is left ({split}): beta there decides only how they divide it."


# --- what to change -------------------------------------------------------------------------------------------------


def _change(run: ScalingRun, scaling: Scaling, advice: BetaAdvice) -> Iterator[str]:
    if advice.current is None:
        yield "semantic did not train this run: there is no beta to choose."
    elif advice.suggested is None:
        yield "By losses: no beta to recommend: semantic, or focal and jsd, have no loss above 0 to compare."
    elif run.balance != "fixed":
        yield from _change_of_band(run, scaling, advice)
    else:
        yield _beta_by_losses(advice)
        if not advice.within_reach:
            yield (
                f"No fixed beta holds all core terms in the band: {_out_of_reach(advice)}. objective.balance=band "
                "starts at beta and then follows the losses, jsd's too."
            )
    if advice.by_gradients is not None:
        yield _beta_by_gradients(run, advice)


def _beta_by_losses(advice: BetaAdvice) -> str:
    anchors, current = _listed(advice.anchors), f"beta = {advice.current:g}"
    if advice.keep:
        where = f"it holds semantic within 0.5-2x of {anchors} in {percent_text(advice.semantic_in_band_now)}"
        return f"By losses: keep {current}: {where} of the windows (the middle would be {advice.suggested:g})."
    middle = "midway between focal and jsd" if len(advice.anchors) > 1 else f"to the size of {anchors}"
    text = f"By losses: beta = {advice.suggested:g} instead of {advice.current:g}. It brings semantic {middle}"
    if advice.semantic_in_band > 0:
        shares = (percent_text(share) for share in (advice.semantic_in_band, advice.semantic_in_band_now))
        text += ", within 0.5-2x in {} of the windows (now {})".format(*shares)
    text += f"; any from {advice.low:.3g} to {advice.high:.3g} stays there throughout." if advice.low else "."
    if advice.suggested is not None and advice.suggested > LARGEST_BETA:
        text += f" A configuration may hold {LARGEST_BETA:g} at most: find out first why the semantic loss is so small."
    return text


def _out_of_reach(advice: BetaAdvice) -> str:
    """Why no fixed beta holds all core terms in the band."""
    if advice.anchors_in_band < ENOUGH:
        return (
            f"focal and jsd are beyond 2x of each other in {percent_text(1 - advice.anchors_in_band)} of the windows "
            f"({factor_text(advice.apart)} at the median), whatever beta is"
        )
    return f"the middle moves from beta {advice.first:.3g} in the first window to {advice.last:.3g} in the last"


def _change_of_band(run: ScalingRun, scaling: Scaling, advice: BetaAdvice) -> Iterator[str]:
    first, last = scaling.terms["semantic"].scale
    met = scaling.band.share >= ENOUGH
    verdict = f"Keep balance = {run.balance}: it" if met else f"balance = {run.balance} did not hold the band: it"
    yield (
        f"{verdict} moved scale_semantic (beta x correction) from {first:.3g} to {last:.3g}. Under balance = fixed, "
        f"semantic_loss_scale should be {advice.suggested:g}, by losses: that puts semantic within 0.5-2x of unscaled "
        f"{_listed(advice.anchors)} in {percent_text(advice.semantic_in_band)} of the windows."
    )
    if not advice.within_reach:
        yield f"A fixed beta would not hold all core terms: {_out_of_reach(advice)}."


def _beta_by_gradients(run: ScalingRun, advice: BetaAdvice) -> str:
    beta = advice.by_gradients
    under = "" if run.balance == "fixed" else " under balance = fixed"
    text = f"By gradient norms: beta = {beta:.3g}{under}, weights left out."
    if advice.by_losses is None or beta is None:
        return text
    apart = advice.by_losses / beta
    if 0.5 <= apart <= 2:
        return f"{text} Losses and gradients agree."
    side = "stronger" if apart > 1 else "weaker"
    factor = apart if apart > 1 else 1 / apart
    text += (
        f" With equal losses semantic's gradient at the logits is {factor_text(factor)} {side} than that of the others"
    )
    if run.share_limit is not None and apart > 1:
        return f"{text}; the share limit ({run.share_limit:g}) is what holds it."
    return f"{text}."


# --- words ----------------------------------------------------------------------------------------------------------


def _span(steps: tuple[int, int]) -> str:
    return f"{steps[0]:,}-{steps[1]:,}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
