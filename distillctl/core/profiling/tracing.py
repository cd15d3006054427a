"""A Chrome trace of some steps, with the names of their parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from distillctl.core.errors import RunError
from distillctl.core.phases import UNTIMED
from distillctl.core.profiling.arms import Arm
from distillctl.core.profiling.timer import TracedPhases


def trace_steps(arm: Arm, numbers: Sequence[int], file: Path) -> None:
    """Writes a trace for chrome://tracing or https://ui.perfetto.dev. Takes the steps.

    Raises RunError where it cannot be written.
    """
    activities = [ProfilerActivity.CPU]
    if arm.stepper.accelerator.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    arm.stepper.tell(TracedPhases())
    try:
        with profile(activities=activities) as recorded:
            for number in numbers:
                arm.stepper.step(number, arm.log)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    finally:
        arm.stepper.tell(UNTIMED)
    recorded.export_chrome_trace(str(file))
    # The profiler's own writer says of a failure in its log only.
    if not file.is_file() or not file.stat().st_size:
        raise RunError(f"{file}: the trace cannot be written: is there such a folder, and space in it?")
