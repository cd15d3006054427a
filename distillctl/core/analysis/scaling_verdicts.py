"""What the figures of a run mean: a verdict per line of the request, a sentence per finding, what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distillctl.core.analysis.criterion import MET, NOT_MEASURED, NOT_MET, Criterion, Verdict
from distillctl.core.analysis.scaling import AGAINST, FIGHTING, Departure, PairFigures, Scaling
from distillctl.core.analysis.scaling_advice import ENOUGH, LARGEST_BETA, BetaAdvice, advise, command_to_try
from distillctl.core.analysis.scaling_gradients import SKEW
from distillctl.core.analysis.scaling_run import ScalingRun

BAND_LINE, TOTAL_LINE, SPREAD_LINE = "1.4 Losses in the band", "1.5 Total gradient", "1.5 Spread of gradients"
# Silence, fights and spikes in fewer steps than this are noise.
_SOME = 0.05
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
    drowned = _drowned(scaling)
    return Assessed(
        run=run,
        scaling=scaling,
        advice=advice,
        criteria=criteria,
        headline=_headline(scaling, criteria),
        findings=tuple(_findings(run, scaling, criteria)),
        change=tuple(_change(run, scaling, advice)),
        command=command_to_try(run, advice, band_met=criteria[0].verdict == MET, drowned=drowned),
    )


# --- the lines of the request ---------------------------------------------------------------------------------------


def _band_line(scaling: Scaling) -> Criterion:
    band = scaling.band
    required = f"focal, jsd, semantic pairwise within 0.5-2x, scaled, in >= {_percent(ENOUGH)} of windows"
    if len(band.terms) < 2:
        only = f"only {band.terms[0]} was" if band.terms else "none of them was"
        return Criterion(BAND_LINE, required, f"{only} active", NOT_MEASURED)
    measured = f"{_percent(band.share)} of {band.windows:,} windows"
    return Criterion(BAND_LINE, required, measured, _verdict(band.share >= ENOUGH))


def _total_line(scaling: Scaling) -> Criterion:
    totals = scaling.totals
    required = f"norm after scaling within {SKEW:g}x of before, in >= {_percent(ENOUGH)} of measured steps"
    if totals is None:
        return Criterion(TOTAL_LINE, required, _unmeasured(scaling), NOT_MEASURED)
    measured = f"{totals.ratio:.3g}x (median), within {SKEW:g}x in {_percent(totals.within)} of {totals.measured:,}"
    return Criterion(TOTAL_LINE, required, measured, _verdict(totals.within >= ENOUGH))


def _spread_line(scaling: Scaling) -> Criterion:
    required = "largest / smallest norm of focal, jsd, semantic not above before"
    totals = scaling.totals
    silent = [term for term in _silent(scaling) if term in scaling.band.terms]
    if silent:
        return Criterion(SPREAD_LINE, required, f"{_listed(silent)} sends no gradient", NOT_MET)
    if totals is None or totals.spread_before is None or totals.spread_after is None:
        return Criterion(SPREAD_LINE, required, _unmeasured(scaling), NOT_MEASURED)
    measured = f"{totals.spread_before:.3g}x before, {totals.spread_after:.3g}x after (medians)"
    return Criterion(SPREAD_LINE, required, measured, _verdict(totals.spread_after <= totals.spread_before * _ROUNDING))


def _unmeasured(scaling: Scaling) -> str:
    if not scaling.gradient_steps:
        return "no step took each term's gradient; train with a smaller logging.gradient_steps"
    return "fewer than two of these terms have a gradient"


def _verdict(met: bool) -> Verdict:
    return MET if met else NOT_MET


# --- one sentence first ---------------------------------------------------------------------------------------------


def _headline(scaling: Scaling, criteria: Sequence[Criterion]) -> str:
    troubles = []
    silent = _silent(scaling)
    if silent:
        troubles.append(f"{_listed(silent)} {'is' if len(silent) == 1 else 'are'} silent: a loss without a gradient")
    if scaling.band.share < ENOUGH:
        gone = [f"{term} ({found.factor:.2g}x)" for term, found in _main_departures(scaling)]
        troubles.append(f"{_listed(gone)} left the band")
    if _drowned(scaling):
        troubles.append("the auxiliary terms drown the primary ones")
    if criteria[1].verdict == NOT_MET:
        troubles.append("scaling moves the total gradient beyond 3x")
    if criteria[2].verdict == NOT_MET and not silent:
        troubles.append("scaling drives the gradients of the terms further apart")
    fights = [f"{first} and {second}" for (first, second), _ in _fights(scaling)]
    if fights:
        troubles.append(f"{_listed(fights)} fight")
    if troubles:
        return f"Not balanced: {'; '.join(troubles)}."
    unmeasured = [one.name for one in criteria if one.verdict == NOT_MEASURED]
    if unmeasured:
        return f"Nothing wrong found, but not all was measured: {_listed(unmeasured)}."
    return "Balanced: the losses stay in the band and scaling does not skew the gradients."


def _main_departures(scaling: Scaling) -> list[tuple[str, Departure]]:
    """Those who left for more than a moment; where nobody did, the worst one."""
    gone = list(scaling.band.departures.items())
    return [item for item in gone if item[1].share >= _SOME] or gone[:1]


def _silent(scaling: Scaling) -> list[str]:
    return [term for term, found in scaling.terms.items() if found.silent >= _SOME]


def _fights(scaling: Scaling) -> list[tuple[tuple[str, str], PairFigures]]:
    found = [item for item in scaling.pairs.items() if item[1].fighting >= _SOME]
    return sorted(found, key=lambda item: -item[1].fighting)


def _drowned(scaling: Scaling) -> bool:
    return scaling.auxiliary is not None and scaling.auxiliary.above >= _SOME


# --- a sentence per finding -----------------------------------------------------------------------------------------


def _findings(run: ScalingRun, scaling: Scaling, criteria: Sequence[Criterion]) -> Iterator[str]:
    yield from (_silence(term, scaling) for term in _silent(scaling))
    yield from (_departure(term, found, scaling) for term, found in _main_departures(scaling))
    yield from (_fight(pair, found) for pair, found in _fights(scaling))
    yield from _pulls(scaling)
    yield from _auxiliary(scaling)
    yield from _budget(scaling)
    verdicts = {one.verdict for one in (criteria[0], criteria[2])}
    if verdicts == {MET, NOT_MET}:
        yield (
            "1.4 and 1.5 disagree because equal losses are not equal gradients: a loss says how far a term is from its "
            "goal, its gradient how hard it pulls; ten times apart at equal losses has been measured."
        )
    if run.log_only:
        yield f"{_listed(sorted(run.log_only))} is logged without being trained on (log_only)."
    if scaling.gradient_steps == 0:
        yield f"{_unmeasured(scaling)[:1].upper()}{_unmeasured(scaling)[1:]}: silent and fighting terms cannot be seen."


def _silence(term: str, scaling: Scaling) -> str:
    found = scaling.terms[term]
    return (
        f"{term} is silent: its loss looks healthy ({found.raw['start'].mean:.3g} to {found.raw['end'].mean:.3g}), but "
        f"its gradient at the logits is 0 in {_percent(found.silent)} of the measured steps, {found.silent_first} to "
        f"{found.silent_last}. It trains nothing there: find what cuts its gradient, or set "
        f"objective.{term}.log_only=true."
    )


def _departure(term: str, found: Departure, scaling: Scaling) -> str:
    where = "above" if found.factor > 1 else "below"
    others = "the core terms' median" if len(scaling.band.terms) > 2 else "the other core term"
    if found.share == 1:
        when = f"from the first window (steps {_span(found.first)}) to the last"
    else:
        when = (
            f"in {_percent(found.share)} of the windows, first in steps {_span(found.first)}, last in steps "
            f"{_span(found.last)}"
        )
    return f"{term} leaves the band {when}: {where} it, {found.factor:.3g}x {others}."


def _fight(pair: tuple[str, str], found: PairFigures) -> str:
    return (
        f"{pair[0]} and {pair[1]} fight: the cosine of their gradients is below {FIGHTING:g} in "
        f"{_percent(found.fighting)} of the measured steps, first in step {found.fights_first} (mean "
        f"{found.cosine:.2f}, lowest {found.lowest:.2f}). Each undoes a part of what the other does: lower the weight "
        "of the one you need less."
    )


def _pulls(scaling: Scaling) -> Iterator[str]:
    """Milder relations between terms, and the word that all is quiet."""
    fighting = {pair for pair, _ in _fights(scaling)}
    measured = {pair: found for pair, found in scaling.pairs.items() if found.measured}
    against = [
        f"{first} and {second} ({_percent(found.against)} of the measured steps)"
        for (first, second), found in measured.items()
        if (first, second) not in fighting and found.against >= 2 * _SOME
    ]
    if against:
        yield f"Pull against each other at times (cosine below {AGAINST:g}): {_listed(against)}."
    elif measured and not fighting:
        yield "No two terms pull against each other."
    for (first, second), found in measured.items():
        if found.cosine is not None and found.cosine >= _ALIKE:
            yield f"{first} and {second} pull nearly the same way (mean cosine {found.cosine:.2f}): one may do."


def _auxiliary(scaling: Scaling) -> Iterator[str]:
    found = scaling.auxiliary
    if found is None:
        return
    who = f"The auxiliary terms ({_listed(found.terms)})"
    size = f"{found.unlimited:.3g}x the primary gradient at the logits (median)"
    if found.above >= _SOME:
        limit = "the share limit holds them too late" if found.clipped else "no share limit holds them"
        yield (
            f"{who} drown the primary ones: {size}, and above 1x after all in {_percent(found.above)} of the steps; "
            f"{limit}. In a trial 10x cost F1 two thirds (9.3 to 3.5)."
        )
    elif found.clipped >= _SOME:
        yield f"{who} are held: {size}, {found.reaching:.2g}x behind the share limit, which acts in " + (
            f"{_percent(found.clipped)} of the steps."
        )
    else:
        yield f"{who} do not drown the primary ones: {size}."


def _budget(scaling: Scaling) -> Iterator[str]:
    """Who gets what the share limit leaves."""
    found = scaling.auxiliary
    if found is None or found.clipped < _SOME or len(found.terms) < 2:
        return
    shares = {term: scaling.terms[term].share_reaching or 0.0 for term in found.terms}
    whole = sum(shares.values())
    if whole > 0:
        split = ", ".join(f"{term} {_percent(share / whole)}" for term, share in shares.items())
        yield f"Behind the limit they share what is left ({split}): beta there decides only how they divide it."


# --- what to change -------------------------------------------------------------------------------------------------


def _change(run: ScalingRun, scaling: Scaling, advice: BetaAdvice) -> Iterator[str]:
    if advice.current is None:
        yield "semantic was not active in this run: there is no beta to choose."
    elif advice.suggested is None:
        yield "By losses: no beta to recommend: semantic, or focal and jsd, have no loss above 0 to compare."
    elif run.balance != "fixed":
        yield from _change_of_band(run, scaling, advice)
    else:
        yield _beta_by_losses(advice)
        if advice.apart is not None and not advice.within_reach:
            yield (
                f"No beta puts all three within 2x: focal and jsd are {advice.apart:.2g}x apart by themselves. "
                "objective.balance=band scales jsd too, and starts semantic at beta."
            )
    if advice.by_gradients is not None:
        yield _beta_by_gradients(run, advice)


def _beta_by_losses(advice: BetaAdvice) -> str:
    anchors = "focal and jsd" if advice.apart is not None else "the other core term"
    now = f"{_percent(advice.semantic_in_band_now)} of the windows"
    if advice.keep and advice.semantic_in_band_now >= ENOUGH:
        return (
            f"By losses: keep beta = {advice.current:g}. It holds semantic within 0.5-2x of {anchors} in {now} (the "
            f"middle would be {advice.suggested:g})."
        )
    if advice.keep:
        return f"By losses: keep beta = {advice.current:g}. The middle between {anchors} is {advice.suggested:g}."
    reason = (
        f"By losses: beta = {advice.suggested:g} instead of {advice.current:g}. It centres semantic between {anchors}"
    )
    if advice.semantic_in_band > 0:
        reason += f", within 0.5-2x of them in {_percent(advice.semantic_in_band)} of the windows (now {now})"
    reason += f"; any from {advice.low:.3g} to {advice.high:.3g} stays there throughout." if advice.low else "."
    if advice.suggested is not None and advice.suggested > LARGEST_BETA:
        reason += f" The largest that a configuration may hold is {LARGEST_BETA:g}: look at the semantic loss first."
    return reason


def _change_of_band(run: ScalingRun, scaling: Scaling, advice: BetaAdvice) -> Iterator[str]:
    first, last = scaling.terms["semantic"].scale
    held = "and held the band" if scaling.band.share >= ENOUGH else "and did not hold the band"
    keep = "Keep balance = band. " if scaling.band.share >= ENOUGH else ""
    yield (
        f"{keep}balance was {run.balance}: it moved scale_semantic (beta x correction) from {first:.3g} to {last:.3g} "
        f"{held}. Under balance = fixed, semantic_loss_scale should be {advice.suggested:g}, by losses: that puts "
        f"semantic within 0.5-2x of unscaled focal and jsd in {_percent(advice.semantic_in_band)} of the windows."
    )
    if advice.apart is not None and not advice.within_reach:
        yield f"fixed would not hold all three, though: focal and jsd are {advice.apart:.2g}x apart by themselves."


def _beta_by_gradients(run: ScalingRun, advice: BetaAdvice) -> str:
    beta = advice.by_gradients
    text = f"By gradient norms: beta = {beta:.3g}, weights left out."
    if advice.by_losses is None or beta is None:
        return text
    apart = advice.by_losses / beta
    if 0.5 <= apart <= 2:
        return f"{text} Losses and gradients agree."
    side = "stronger" if apart > 1 else "weaker"
    factor = apart if apart > 1 else 1 / apart
    text += f" With equal losses semantic's gradient at the logits is {factor:.2g}x {side} than that of the others"
    if run.share_limit is not None and apart > 1:
        return f"{text}; the share limit ({run.share_limit:g}) is what holds it."
    return f"{text}."


# --- words ----------------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    """Whole percents; neither 0 nor 100 unless it is exactly that."""
    if 0 < share < 0.01:
        return "< 1 %"
    if 0.99 < share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def _span(steps: tuple[int, int]) -> str:
    return f"{steps[0]:,}-{steps[1]:,}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
