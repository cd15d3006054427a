"""The acceptance criteria of the request, each with what was measured and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillctl.core.analysis.comparison import Comparison
from distillctl.core.analysis.criterion import MET, NOT_MEASURED, NOT_MET, NOT_SIGNIFICANT, Criterion, Verdict
from distillctl.core.analysis.figures import digits_apart, interval_text, p_equation, signed
from distillctl.core.analysis.overhead import FEWEST_BLOCKS
from distillctl.core.analysis.overhead_record import other_objectives
from distillctl.core.analysis.run_data import Overhead, RunData, StepRows
from distillctl.core.analysis.wall_time import step_times
from distillctl.core.errors import DataError
from distillctl.core.evaluation.significance import TOLERANCE

F1_GAIN = 0.5
WALL_TIME = 1.10
EPOCHS = 3
SAMPLES = 5_500
REPORTED = "validation"
# The epoch column has 9 significant digits.
_ROUNDING = 1e-6


def acceptance(comparison: Comparison) -> tuple[Criterion, ...]:
    """Every criterion with its verdict; the step-time measurement only where a run has one."""
    measured, others = decisive_overhead(comparison)
    return (
        _f1(comparison),
        _validity(comparison),
        _wall_time(comparison),
        *([_overhead(measured, others)] if measured else []),
        _finite(comparison.candidates),
        _samples(comparison),
    )


def _f1(comparison: Comparison) -> Criterion:
    """Met and significant means: the point estimate reaches the gain, and interval and p tell it from 0."""
    f1 = comparison.differences["f1"]
    reached = f1.difference >= F1_GAIN - TOLERANCE
    verdict = _doubted(f1.is_shown) if reached else NOT_MET
    gain = signed(f1.difference, 2 if reached else digits_apart(f1.difference, F1_GAIN, 2))
    measured = f"{gain}, 95 % interval {interval_text(f1.low, f1.high)}, {p_equation(f1.p_value)}"
    return Criterion("F1", f"candidate - baseline >= +{F1_GAIN} points", measured, verdict)


def _doubted(certain: bool) -> Verdict:
    return MET if certain else NOT_SIGNIFICANT


def _validity(comparison: Comparison) -> Criterion:
    valid = comparison.differences["valid_syntax"]
    not_below = valid.difference >= -TOLERANCE
    digits = 2 if not_below else digits_apart(valid.difference, 0.0, 2)
    measured = f"{valid.candidate:.{digits}f} against {valid.baseline:.{digits}f} ({signed(valid.difference, digits)})"
    verdict = MET if not_below else NOT_MET
    return Criterion("Valid syntax", "not below the baseline", measured, verdict)


# --- wall time ----------------------------------------------------------------------------------------------------


def _wall_time(comparison: Comparison) -> Criterion:
    name, requirement = "Wall time, runs", f"candidate / baseline <= {WALL_TIME:.2f}"
    times = step_times(comparison.baselines, comparison.candidates)
    if isinstance(times, str):
        return Criterion(name, requirement, times, NOT_MEASURED)
    measured = (
        f"{_ratio(times.ratio)} = {times.after:.4g} s / {times.before:.4g} s per optimizer step of {times.samples} "
        "samples (seconds.training / training.steps of run.json), scoring dev and writing checkpoints included"
    )
    if times.left_out:
        measured += f". Left out with its pair: {'; '.join(times.left_out)}"
    return Criterion(name, requirement, measured, MET if times.ratio <= WALL_TIME else NOT_MET)


def decisive_overhead(comparison: Comparison) -> tuple[Overhead | None, list[str]]:
    """The runs' overhead.json that counts, and which arms' objectives it is not about; (None, []) without any.

    Of those about the objectives of both arms the one with the largest ratio, if there are any of enough steps one of
    those; else the first, which decides nothing. A ratio that somebody wrote by hand does not say what it is about: it
    is taken at its word where nothing was measured.
    """
    found = [run.overhead for run in (*comparison.candidates, *comparison.baselines) if run.overhead]
    arms = {"baseline": comparison.baselines[0], "candidate": comparison.candidates[0]}
    objectives = {arm: run.config.get("objective") for arm, run in arms.items()}
    others = [[] if one.record is None else other_objectives(one.record, objectives) for one in found]
    fitting = [one for one, other in zip(found, others, strict=True) if not other]
    if fitting:
        return max(fitting, key=lambda one: (one.record is not None, _blocks(one) >= FEWEST_BLOCKS, one.median)), []
    return (found[0], others[0]) if found else (None, [])


def _overhead(overhead: Overhead, others: Sequence[str]) -> Criterion:
    """The measurement has an interval: met without doubt only if all of it is within the limit.

    ``others`` are the arms whose objective is not the one that was measured: then it says nothing of these runs.
    """
    name, requirement = "Wall time, overhead", f"candidate / baseline <= {WALL_TIME:.2f}"
    if others:
        reason = f"{overhead.source} is about another objective than that of the {' and the '.join(others)}"
        return Criterion(name, requirement, reason, NOT_MEASURED)
    blocks = _blocks(overhead)
    certain = overhead.high <= WALL_TIME and blocks >= FEWEST_BLOCKS
    verdict = _doubted(certain) if overhead.median <= WALL_TIME else NOT_MET
    median, low, high = (_ratio(value) for value in (overhead.median, overhead.low, overhead.high))
    measured = f"{median}, interval {low} to {high} ({overhead.source})"
    if blocks < FEWEST_BLOCKS:
        measured += f"; of {2 * blocks} steps, and {2 * FEWEST_BLOCKS} or more make an interval to be relied on"
    return Criterion(name, requirement, measured, verdict)


def _blocks(overhead: Overhead) -> int:
    """Of its interval; of one that was written by hand enough."""
    return FEWEST_BLOCKS if overhead.record is None else int(overhead.record["ratio"]["blocks"])


def _ratio(value: float) -> str:
    return f"{value:.{digits_apart(value, WALL_TIME, 3) if value > WALL_TIME else 3}f}"


# --- the rest -----------------------------------------------------------------------------------------------------


def _finite(candidates: Sequence[RunData]) -> Criterion:
    requirement = f"every loss of the candidate finite over >= {EPOCHS} epochs"
    name = "No NaN or Inf"
    for run in candidates:
        found = first_not_finite(run.steps) or skipped_steps(run)
        if found:
            return Criterion(name, requirement, f"{run.path}: {found}", NOT_MET)
    epochs = min(last_epoch(run.steps) for run in candidates)
    rows = sum(len(run.steps) for run in candidates)
    measured = f"all finite in {rows:,} logged steps, {epochs:.2f} epochs"
    return Criterion(name, requirement, measured, MET if epochs >= EPOCHS - _ROUNDING else NOT_MEASURED)


def first_not_finite(steps: StepRows) -> str | None:
    """The first loss in a step log that is NaN, infinite or missing: which one, its step and value."""
    for row in steps:
        for name, value in row.items():
            if name.startswith(("loss_", "weighted_")) and (value is None or not math.isfinite(value)):
                return f"{name} is {'blank' if value is None else value} in step {row['step']:.0f}"
    return None


def skipped_steps(run: RunData) -> str | None:
    """What a run says of the steps that it left out because they were not finite; None where it left out none."""
    skipped = run.facts("training").get("skipped_steps") or []
    if not isinstance(skipped, list):
        raise DataError(f"{run.path}/run.json: training.skipped_steps should be a list of steps. Found {skipped!r}")
    if not skipped:
        return None
    steps = ", ".join(map(str, skipped[:5])) + ", ..." * (len(skipped) > 5)
    return f"{len(skipped)} steps were not finite and were skipped (--on-nan skip): {steps}"


def last_epoch(steps: StepRows) -> float:
    """Epochs trained, 0 where nothing was logged."""
    return float(steps[-1].get("epoch") or 0.0) if steps else 0.0


def _samples(comparison: Comparison) -> Criterion:
    enough = MET if comparison.samples >= SAMPLES else NOT_MET
    verdict = enough if comparison.split == REPORTED else NOT_MEASURED
    measured = f"{comparison.samples:,} of {comparison.split}"
    return Criterion("Samples", f">= {SAMPLES:,} {REPORTED} samples", measured, verdict)
