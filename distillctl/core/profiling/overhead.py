"""Measures what an objective costs: builds the arms, runs them in turn, and puts the figures together."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from distillctl import __version__
from distillctl.core.analysis.overhead import StepTime, check_alike
from distillctl.core.analysis.overhead_record import CANDIDATE, Measured
from distillctl.core.config.schema import Config
from distillctl.core.errors import RunError
from distillctl.core.phases import UNTIMED
from distillctl.core.profiling.arms import Arm, main_arms, make_arms, term_arms
from distillctl.core.profiling.bench import Bench, open_bench
from distillctl.core.profiling.memory import kept_bytes, step_bytes
from distillctl.core.profiling.request import WARM_UP, Request, must_be_alike
from distillctl.core.profiling.timer import StepTimer
from distillctl.core.profiling.tracing import trace_steps
from distillctl.core.progress import Reporter
from distillctl.core.run_dir import git_state, hardware, library_versions
from distillctl.core.training.accelerator import resolve_precision

TRACED_STEPS = 2


def measure_overhead(
    baseline: Config, candidate: Config, request: Request, reporter: Reporter, trace: Path | None = None
) -> Measured:
    """Times plain cross-entropy, baseline and candidate on the same batches; writes nothing but the trace.

    Args:
        baseline, candidate: resolved, with :meth:`Request.settings`.
        request: what to measure.
        reporter: hears of long work, and how long the rest will take.
        trace: file of a Chrome trace of two steps of the candidate, taken after everything else.

    Raises:
        DataError: the two differ in more than their objective and what is logged, or in what they are fed.
        RunError: out of memory, or a loss that is not finite.
    """
    baseline, candidate = resolve_precision(baseline), resolve_precision(candidate)
    check_alike({"baseline": must_be_alike(baseline), "candidate": must_be_alike(candidate)})
    try:
        # Windows keeps open files: what is left of them there is not an error.
        with tempfile.TemporaryDirectory(prefix="distillctl-", ignore_cleanup_errors=True) as name, ExitStack() as logs:
            folder = Path(name)
            bench = open_bench([baseline, candidate], request.shape, folder / "cache", reporter)
            return _measure(bench, baseline, candidate, request, reporter, folder, logs, trace)
    except torch.cuda.OutOfMemoryError as error:
        raise RunError("out of memory on the device: give a smaller --batch-size, or fewer tokens") from error


def _measure(
    bench: Bench,
    baseline: Config,
    candidate: Config,
    request: Request,
    reporter: Reporter,
    folder: Path,
    logs: ExitStack,
    trace: Path | None,
) -> Measured:
    runs = folder / "runs"
    runs.mkdir()
    main = make_arms(bench, main_arms(baseline, candidate), runs, logs)
    terms = make_arms(bench, term_arms(candidate), runs, logs, beside=main) if request.terms else []
    timed = range(WARM_UP, main[0].stepper.plan.steps)
    seconds = {"main": warm_up(main, "warming up", reporter), "terms": warm_up(terms, "warming up the terms", reporter)}
    expected = sum(seconds.values()) / WARM_UP * len(timed)
    reporter.note(f"{len(timed)} steps of {len(main) + len(terms)} arms to go, about {_duration(expected)}")
    times = run_in_turn(main, timed, "timing the arms", reporter)
    term_times = run_in_turn(terms, timed, "timing the terms", reporter)
    memory = {}
    with reporter.task("measuring memory", len(main)) as task:
        for done, arm in enumerate(main, start=1):
            memory[arm.name] = {"kept": kept_bytes(arm), "step": step_bytes(arm, timed[0])}
            task.update(done)
    if trace is not None:
        traced = next(arm for arm in main if arm.name == CANDIDATE)
        trace_steps(traced, timed[:TRACED_STEPS], trace)
    tokens = [main[0].stepper.loader.load(number).tokens for number in timed]
    return Measured(
        times,
        term_times,
        tokens,
        memory,
        bench.cache,
        _settings(candidate, request, len(timed)),
        _provenance(baseline, candidate),
    )


def warm_up(arms: Sequence[Arm], title: str, reporter: Reporter) -> float:
    """Steps that are not timed; returns their seconds."""
    times = run_in_turn(arms, range(WARM_UP), title, reporter)
    return sum(time.seconds for steps in times.values() for time in steps)


def run_in_turn(
    arms: Sequence[Arm], numbers: Sequence[int], title: str, reporter: Reporter
) -> dict[str, list[StepTime]]:
    """Takes each step in every arm, forwards through the arms and backwards on the next, and times it."""
    times: dict[str, list[StepTime]] = {arm.name: [] for arm in arms}
    if not arms:
        return times
    timer = StepTimer(arms[0].stepper.accelerator.device)
    for arm in arms:
        arm.stepper.tell(timer)
    with reporter.task(title, len(numbers)) as task:
        for place, number in enumerate(numbers):
            for arm in arms if place % 2 == 0 else reversed(arms):
                timer.start()
                arm.stepper.step(number, arm.log)
                times[arm.name].append(timer.stop())
            task.update(place + 1)
    for arm in arms:
        arm.stepper.tell(UNTIMED)
    return times


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _settings(candidate: Config, request: Request, steps: int) -> dict[str, Any]:
    return {
        "shape": request.shape,
        "teacher_mode": request.teacher_mode,
        "limit": request.limit,
        "steps": steps,
        "warm_up_steps": WARM_UP,
        "batch_size": request.batch_size,
        "max_source_length": candidate.data.max_source_length,
        "max_target_length": candidate.data.max_target_length,
        "bf16": candidate.training.bf16,
        "gradient_steps": candidate.logging.gradient_steps,
        "memory_by": "torch's allocator: what an arm keeps, and the most a step allocates above that",
    }


def _provenance(baseline: Config, candidate: Config) -> Mapping[str, Any]:
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "distillctl": {"version": __version__, **git_state()},
        "libraries": library_versions(),
        "hardware": hardware(),
        "configs": {
            name: {"fingerprint": config.fingerprint(), "objective": config.objective.model_dump(mode="json")}
            for name, config in (("baseline", baseline), ("candidate", candidate))
        },
    }
