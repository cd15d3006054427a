"""Seconds of an optimizer step, by the runs' own clocks, and whether two runs' can be divided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from distillctl.core.analysis.run_data import RunData


class StepTimes(NamedTuple):
    """Mean seconds per optimizer step of each side, the samples of a step, and what was said of pairs left out."""

    before: float
    after: float
    samples: int
    left_out: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """After / before."""
        return self.after / self.before


def step_times(before: Sequence[RunData], after: Sequence[RunData]) -> StepTimes | str:
    """The two sides' seconds per step (seconds.training / training.steps of run.json), or why not to divide them.

    They are of the whole phase: what scores dev and writes checkpoints on the way is in them.

    The first of ``before`` is a pair with the first of ``after``, and so on. A pair of which one run's seconds cannot
    be trusted is left out, and the rest is divided.
    """
    pairs = list(zip(before, after, strict=True))
    doubts = [_why_not_to_trust(pair) for pair in pairs]
    kept = [pair for pair, doubt in zip(pairs, doubts, strict=True) if doubt is None]
    left_out = tuple(doubt for doubt in doubts if doubt is not None)
    if not kept:
        return left_out[0]
    obstacle = _why_times_differ([run for pair in kept for run in pair])
    if obstacle:
        return obstacle
    first, second = (float(np.mean([_seconds_per_step(pair[side]) for pair in kept])) for side in (0, 1))
    return StepTimes(first, second, _step_size(kept[0][0]), left_out)


def _why_not_to_trust(runs: Sequence[RunData]) -> str | None:
    for run in runs:
        if run.record.get("resumed_at"):
            return f"{run.path} was resumed: its seconds may count steps twice or lack some"
        if not run.finished or not _seconds_per_step(run):
            return f"{run.path} has no seconds of a whole training"
    return None


def _why_times_differ(runs: Sequence[RunData]) -> str | None:
    sizes = {_step_size(run) for run in runs}
    if len(sizes) > 1:
        return f"optimizer steps of different sizes ({', '.join(map(str, sorted(sizes)))} samples)"
    if len({_machine(run) for run in runs}) > 1:
        return "the runs were made on different hardware, or by different numbers of processes"
    return None


def _seconds_per_step(run: RunData) -> float:
    """0 where the run did not note them."""
    seconds = run.facts("seconds").get("training") or 0
    steps = run.facts("training").get("steps") or 0
    return float(seconds) / steps if steps else 0.0


def _step_size(run: RunData) -> int:
    """Samples per optimizer step, as logged; 0 where nothing was."""
    row = run.steps[0] if run.steps else {}
    samples, step = row.get("samples_seen"), row.get("step")
    return round(samples / step) if samples and step else 0


def _machine(run: RunData) -> tuple[Any, ...]:
    facts = run.facts("hardware")
    machine = (facts.get(name) for name in ("processor", "cores", "torch_threads"))
    # What is noted is the accelerator that there was; a run may have been told to leave it alone.
    accelerator = None if run.config.get("device") == "cpu" else facts.get("accelerator")
    return (*machine, accelerator, run.record.get("processes", 1))
