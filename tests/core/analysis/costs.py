"""An overhead.json made by hand: arms of known cost, on a machine that drifts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillctl.core.analysis.overhead import StepTime
from distillctl.core.analysis.overhead_record import (
    BASELINE,
    CANDIDATE,
    CANDIDATE_LIVE,
    CROSS_ENTROPY,
    MEASURED,
    Measured,
    overhead_record,
    without,
)
from distillctl.core.analysis.run_data import Overhead

MAIN = {CROSS_ENTROPY: 0.100, BASELINE: 0.104, CANDIDATE: 0.106, CANDIDATE_LIVE: 0.212}
TERMS = {
    CANDIDATE: 0.106,
    without(["semantic"]): 0.105,
    without(["contrastive"]): 0.1055,
    without(["semantic", "contrastive"]): 0.101,
    MEASURED: 0.111,
}


def times(costs: Mapping[str, float], steps: int = 12) -> dict[str, list[StepTime]]:
    """Steps in turn; every part but student and optimizer is of the arm's own cost."""
    found: dict[str, list[StepTime]] = {name: [] for name in costs}
    for place in range(steps):
        for done, name in enumerate(costs if place % 2 == 0 else reversed(costs)):
            slower = 1 + 0.001 * (place * len(costs) + done)
            parts = {"optimizer": 0.02, "student forward": 0.03, "data": 0.002, "logging": 0.0005}
            parts |= {"teacher": 0.0001 if name == CANDIDATE else 0.1} if name in (CANDIDATE, CANDIDATE_LIVE) else {}
            parts["student backward"] = costs[name] - sum(parts.values())
            found[name].append(StepTime(costs[name] * slower, {part: slower * taken for part, taken in parts.items()}))
    return found


def measurement(baseline: object, candidate: object, median: float = 1.019, blocks: int = 6) -> Overhead:
    """A run's overhead.json of these two objectives, whose interval is as narrow as can be."""
    record = made_record()
    record["ratio"]["blocks"] = blocks
    record["provenance"] = {"configs": {"baseline": {"objective": baseline}, "candidate": {"objective": candidate}}}
    return Overhead(median, median - 0.001, median + 0.001, "b1/analysis/overhead.json", record)


def made_record(**settings: Any) -> dict[str, Any]:
    """What profile-overhead would write of them; ``settings`` override."""
    asked = {"shape": "embedded", "teacher_mode": "cached", "limit": 1.1, "batch_size": 8, "gradient_steps": 10}
    return overhead_record(
        Measured(
            main=times(MAIN),
            terms=times(TERMS),
            target_tokens=[160] * 12,
            memory={name: {"kept": 64 * 2**20, "step": 32 * 2**20} for name in MAIN},
            cache={
                "capture_seconds": 4.0,
                "opening_seconds": 2.0,
                "examples": 400,
                "bytes_per_token": 265.0,
                "top_k": 64,
            },
            settings=asked | settings,
            provenance={"configs": {}},
        )
    )
