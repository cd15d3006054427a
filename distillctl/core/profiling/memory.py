"""Peak memory of a step, by allocations: of this arm alone, whatever else lies in the process.

Resident set size would not do: it holds every arm's models, and what the allocator has not given back. So the memory
of an arm is what it keeps (weights, optimizer state, frozen models it uses, each storage once) and the most that one
step allocates above where it began: on a CPU from torch.profiler's record of the allocator, on a CUDA device from
torch's own counter. The embedding bank and the teacher cache lie outside it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from distillctl.core.profiling.arms import Arm


def kept_bytes(arm: Arm) -> int:
    """Bytes of the tensors that the arm keeps between steps."""
    storages = {}
    for tensor in _kept(arm):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _kept(arm: Arm) -> Iterator[Tensor]:
    stepper = arm.stepper
    teacher = stepper.guides.teacher
    for module in (stepper.student, None if teacher is None else teacher.model, stepper.guides.encoder):
        if module is not None:
            yield from module.parameters()
            yield from module.buffers()
    for optimizer in stepper.optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def step_bytes(arm: Arm, number: int) -> int:
    """The most that step ``number`` allocates above where it began, in bytes. Takes the step."""
    device = arm.stepper.accelerator.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        arm.stepper.step(number, arm.log)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        arm.stepper.step(number, arm.log)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(file))
        return highest_sum(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])


def highest_sum(events: list[dict[str, object]]) -> int:
    """The highest running sum of the allocations (and, negative, releases) of a Chrome trace, in bytes."""
    found = [event for event in events if event.get("name") == "[memory]"]
    running = highest = 0
    for event in sorted(found, key=lambda event: float(str(event["ts"]))):
        arguments = event["args"]
        assert isinstance(arguments, dict)
        running += int(arguments["Bytes"])
        highest = max(highest, running)
    return highest
