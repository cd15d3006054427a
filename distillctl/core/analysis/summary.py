"""What came out, in words that follow from the figures and verdicts and say nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.criterion import MET, TONES, Criterion
from distillctl.core.analysis.document import Tile, Tiles, Tone
from distillctl.core.analysis.figures import interval_text, p_equation, signed
from distillctl.core.evaluation.significance import Difference


def summary(comparison: Comparison, criteria: Sequence[Criterion]) -> str:
    """One paragraph: the F1 of both arms, the difference and its doubts, the verdicts."""
    f1 = comparison.differences["f1"]
    sentences = [
        f"On {comparison.samples:,} {comparison.split} samples of {comparison.files:,} files, F1 goes from "
        f"{f1.baseline:.2f} (baseline) to {f1.candidate:.2f} points (candidate): {_change(f1)}.",
        _seeds(comparison),
        _verdicts(criteria),
    ]
    if comparison.unfinished:
        names = ", ".join(f"`{run.path}`" for run in dict.fromkeys(comparison.unfinished))
        sentences.append(
            f"Not all runs came to their end ({names}), so this compares something other than finished work."
        )
    return " ".join(sentences)


def _change(f1: Difference) -> str:
    doubts = f"95 % interval {interval_text(f1.low, f1.high)}, {p_equation(f1.p_value)}"
    if f1.low is None:
        return (
            f"{signed(f1.difference)} ({p_equation(f1.p_value)}; all samples are of one file, so there is no interval)"
        )
    if f1.difference == 0 and f1.low == f1.high == 0:
        return "no difference in any resample"
    verb = "a gain" if f1.difference > 0 else "a loss"
    if f1.is_shown:
        return f"{verb} of {abs(f1.difference):.2f} ({doubts})"
    if f1.excludes_zero:
        doubts += f": with {f1.clusters} files the interval may be too narrow"
    return f"{signed(f1.difference)}, which may be chance ({doubts})"


def _seeds(comparison: Comparison) -> str:
    pairs = len(comparison.by_pair)
    if pairs == 1:
        return "There is one run per arm: how much another seed would change the figures is not in the interval."
    deltas = ", ".join(signed(pair["f1"].difference) for pair in comparison.by_pair)
    spread = comparison.seeds["f1"]
    text = (
        f"Over {pairs} pairs of runs the differences are {deltas}, mean {signed(spread.mean)} "
        f"(95 % t interval {interval_text(spread.low, spread.high)})"
    )
    if comparison.noise is not None:
        text += f"; two baselines differ by {signed(comparison.noise['f1'].difference)} from each other"
    return f"{text}."


def _verdicts(criteria: Sequence[Criterion]) -> str:
    unmet = [one for one in criteria if one.verdict != MET]
    if not unmet:
        return f"All {len(criteria)} acceptance criteria are met."
    listed = "; ".join(f"{one.name} ({one.verdict})" for one in unmet)
    met = len(criteria) - len(unmet)
    return f"{met} of {len(criteria)} acceptance criteria {'is' if met == 1 else 'are'} met; the others: {listed}."


def headline_tiles(comparison: Comparison, criteria: Sequence[Criterion]) -> Tiles:
    """The difference in F1, and the verdict on each other criterion (F1 is the first of them)."""
    f1 = comparison.differences["f1"]
    tone: Tone = "plain" if not f1.is_shown else "good" if f1.difference > 0 else "bad"
    first = Tile(
        "F1, candidate - baseline",
        signed(f1.difference),
        f"{criteria[0].verdict}: {f1.baseline:.2f} to {f1.candidate:.2f}, interval {interval_text(f1.low, f1.high)}",
        tone,
    )
    others = [Tile(one.name, one.verdict, one.requirement, TONES[one.verdict]) for one in criteria[1:]]
    return Tiles([first, *others])
