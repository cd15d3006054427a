"""overhead.json: what was measured of each arm, put in relation. Written by profile-overhead, read by report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distillctl.core.analysis.overhead import (
    Ratio,
    StepTime,
    judge,
    logging_share,
    median_seconds,
    parts_of_median_step,
    payback_epochs,
    ratio_of,
    ratio_record,
    read_ratio,
)
from distillctl.core.errors import DataError
from distillctl.core.phases import DATA, TEACHER

OVERHEAD_FILE = "overhead.json"
CROSS_ENTROPY, BASELINE, CANDIDATE = "cross-entropy", "baseline", "candidate"
MEASURED = "candidate, gradients measured in every step"
CANDIDATE_CACHED, CANDIDATE_LIVE = f"{CANDIDATE}, cached", f"{CANDIDATE}, live"

Times = Mapping[str, Sequence[StepTime]]
"""Arm -> its timed steps, in the order in which they were run."""


def without(names: Sequence[str]) -> str:
    """The arm of a candidate that lacks some of its terms."""
    return f"{CANDIDATE} without {' and '.join(names)}"


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        main: the arms that are compared.
        terms: the candidate again, and itself with something left out or added; empty where that was not asked for.
        target_tokens: per timed step.
        memory: arm -> bytes it keeps, and the most a step allocates above them.
        cache: facts about the teacher cache; empty without a teacher.
        settings: limit, batch_size, steps, teacher_mode, gradient_steps and the like.
        provenance: commit, versions, hardware, configurations.
    """

    main: Times
    terms: Times
    target_tokens: Sequence[int]
    memory: Mapping[str, Mapping[str, int]]
    cache: Mapping[str, Any]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def compared(times: Times, arm: str, other: str) -> dict[str, Any]:
    """The ratio of two arms, of the whole step and without the optimizer."""
    return {
        "arm": arm,
        "to": other,
        "whole_step": ratio_record(_ratio(times, arm, other, whole=True)),
        "without_optimizer": ratio_record(_ratio(times, arm, other, whole=False)),
    }


def _ratio(times: Times, arm: str, other: str, *, whole: bool) -> Ratio:
    above, below = (
        [time.seconds if whole else time.without_optimizer for time in times[name]] for name in (arm, other)
    )
    return ratio_of(above, below)


def overhead_record(measured: Measured) -> dict[str, Any]:
    """Everything, as overhead.json has it. ``ratio`` is candidate / baseline, of the whole step."""
    main, limit = measured.main, float(measured.settings["limit"])
    headline = _ratio(main, CANDIDATE, BASELINE, whole=True)
    verdict = judge(headline, limit)
    other = next((name for name in main if name in (CANDIDATE_CACHED, CANDIDATE_LIVE)), None)
    pairs = [(CANDIDATE, BASELINE), (CANDIDATE, CROSS_ENTROPY), (BASELINE, CROSS_ENTROPY)]
    if other is not None:
        cached, live = (CANDIDATE, other) if other == CANDIDATE_LIVE else (other, CANDIDATE)
        pairs += [(cached, live), *([(cached, CROSS_ENTROPY)] if cached != CANDIDATE else [])]
    return {
        "ratio": ratio_record(headline),
        "limit": limit,
        "verdict": verdict.text,
        "within": verdict.within,
        "certain": verdict.certain,
        "ratios": [compared(main, *pair) for pair in pairs],
        "terms": [
            compared(measured.terms, CANDIDATE, name) for name in measured.terms if name.startswith(without([""]))
        ],
        "logging": _logging(measured),
        "loader": _loader(main, other),
        "cache": _cache(measured, other),
        "arms": {name: _arm(times, measured) for name, times in main.items()},
        "memory": {name: dict(found) for name, found in measured.memory.items()},
        "settings": dict(measured.settings),
        "provenance": dict(measured.provenance),
        "steps": {"main": _steps(main), "terms": _steps(measured.terms), "target_tokens": list(measured.target_tokens)},
    }


def _arm(times: Sequence[StepTime], measured: Measured) -> dict[str, Any]:
    return {
        "seconds": median_seconds(times),
        "tokens_per_second": sum(measured.target_tokens) / sum(time.seconds for time in times),
        "parts": parts_of_median_step(times),
    }


def _logging(measured: Measured) -> dict[str, Any]:
    """Share of the candidate's step for the log, and what measuring each term's gradient adds on average."""
    every = int(measured.settings["gradient_steps"])
    found: dict[str, Any] = {"share": logging_share(measured.main[CANDIDATE]), "gradient_steps": every}
    if MEASURED in measured.terms:
        ratio = _ratio(measured.terms, MEASURED, CANDIDATE, whole=True)
        found |= {"measuring_step": ratio_record(ratio), "measuring_share": max(0.0, ratio.median - 1) / every}
    return found


def _loader(main: Times, other: str | None) -> dict[str, Any] | None:
    """Getting a step's inputs with what the cache holds, against getting them alone; and the step with it."""
    if other is None:
        return None
    times = main[CANDIDATE if other == CANDIDATE_LIVE else other]
    alone = ratio_of([time.of(DATA, TEACHER) for time in times], [time.of(DATA) for time in times])
    step = ratio_of([time.seconds for time in times], [time.seconds - time.of(TEACHER) for time in times])
    return {"alone": ratio_record(alone), "whole_step": ratio_record(step)}


def _cache(measured: Measured, other: str | None) -> dict[str, Any] | None:
    if other is None or not measured.cache:
        return None
    cached, live = (CANDIDATE, other) if other == CANDIDATE_LIVE else (other, CANDIDATE)
    seconds = {name: median_seconds(measured.main[name]) for name in (cached, live)}
    per_example = measured.cache["capture_seconds"] / measured.cache["examples"]
    epochs = payback_epochs(per_example, seconds[live], seconds[cached], int(measured.settings["batch_size"]))
    return {**measured.cache, "capture_seconds_per_example": per_example, "paid_back_after_epochs": epochs}


def _steps(times: Times) -> dict[str, list[dict[str, float]]]:
    return {
        name: [
            {"seconds": time.seconds, **{f"seconds_{part}": taken for part, taken in time.parts.items()}}
            for time in steps
        ]
        for name, steps in times.items()
    }


def read_record(values: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    """An overhead.json with what a report shows of it; None where it holds the headline only.

    Raises DataError naming ``where`` for one that is damaged.
    """
    if "ratios" not in values:
        return None
    listed = [values["ratios"], values.get("terms")]
    groups = [values.get("settings"), values.get("provenance"), values.get("ratio")]
    if not all(isinstance(one, list) for one in listed) or not all(isinstance(one, Mapping) for one in groups):
        raise DataError(f"{where}: damaged: ratios and terms should be lists, settings and provenance mappings")
    for found in (found for one in listed for found in one):
        if not isinstance(found, Mapping) or not all(isinstance(found.get(name), str) for name in ("arm", "to")):
            raise DataError(f"{where}: damaged: a ratio should name its two arms (arm, to)")
        for kind in ("whole_step", "without_optimizer"):
            read_ratio(found.get(kind), where)
    read_ratio(values["ratio"], where)
    if {"shape", "batch_size", "teacher_mode"} - values["settings"].keys() or "blocks" not in values["ratio"]:
        raise DataError(f"{where}: damaged: it does not say how it was measured")
    return values


def other_objectives(record: Mapping[str, Any], objectives: Mapping[str, Any]) -> list[str]:
    """Which of ``objectives`` (arm -> the objective section of a run's config) are not those that were measured."""
    configs = record["provenance"].get("configs", {})
    return [arm for arm, objective in objectives.items() if configs.get(arm, {}).get("objective") != objective]
