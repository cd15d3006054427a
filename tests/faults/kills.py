"""Trainings in forked children that kill themselves with SIGKILL at a chosen instant.

An instant is a place in a run where a kill could leave something half done: every file that is opened, renamed or
removed by Python, and the beginning and end of every step, row, checkpoint, evaluation and capture. Instants are
counted by the kind of work they lie in, so "the 7th in a checkpoint" is the same moment every time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distillctl.core import scoring
from distillctl.core.config import Config
from distillctl.core.distillation import distil
from distillctl.core.evaluation.prediction_store import PredictionStore
from distillctl.core.progress import SilentReporter
from distillctl.core.run_dir import StepLog
from distillctl.core.teacher import opening
from distillctl.core.training import loop
from distillctl.core.training.stepper import Stepper

KINDS = ("step", "checkpoint", "evaluation", "capture")
CLOCK = "clock"
"""A kind of its own: so many milliseconds after the start, wherever that is, in the middle of a write too."""
_WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}


@dataclass(frozen=True)
class Moment:
    """The ``number``-th instant (from 0) in a kind of work."""

    kind: str
    number: int


@dataclass
class Instants:
    """Counts the instants of a process, and kills it at one of them."""

    fatal: Moment | None = None
    work: str | None = None  # the kind under way

    def __post_init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def tick(self) -> None:
        if self.work is None:
            return
        if self.fatal == Moment(self.work, self.seen[self.work]):
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen[self.work] += 1

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wax"
        if writes or event in _WRITES:
            self.tick()

    def during(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            before, self.work = self.work, kind
            self.tick()
            try:
                result = call(*arguments, **options)
                self.tick()
                return result
            finally:
                self.work = before

        return counted

    def install(self) -> None:
        """For good: only in a process that ends soon."""
        for owner, name, kind in (
            (Stepper, "take", "step"),
            (StepLog, "write", "step"),
            (loop, "save_checkpoint", "checkpoint"),
            (scoring, "predict", "evaluation"),
            (scoring, "write", "evaluation"),
            (PredictionStore, "add", "evaluation"),
            (opening, "capture_examples", "capture"),
        ):
            setattr(owner, name, self.during(kind, getattr(owner, name)))
        sys.addaudithook(self.audit)


def train_in_child(config: Config, cache: Path, fatal: Moment | None = None, *, resume: bool = False) -> dict[str, int]:
    """Trains in a forked child; the number of instants of each kind, or {} where it was killed at ``fatal``.

    ``cache`` becomes $DISTILLCTL_CACHE. Whatever else ends the child is an AssertionError with its last words.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads; the child starts none and uses none
        child = os.fork()
    if child == 0:
        os.close(reading)
        _live(writing, config, cache, fatal, resume)
    os.close(writing)
    if fatal is not None and fatal.kind == CLOCK:
        time.sleep(fatal.number / 1000)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading) as pipe:
        words = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL and fatal is not None:
        return {}
    assert status == 0, words
    seen: dict[str, int] = json.loads(words)
    return seen


def _live(pipe: int, config: Config, cache: Path, fatal: Moment | None, resume: bool) -> None:
    """The child's life; it never returns."""
    status = 1
    try:
        torch.set_num_threads(1)
        os.environ["DISTILLCTL_CACHE"] = str(cache)
        instants = Instants(fatal)
        instants.install()
        started = time.perf_counter()
        distil(config, SilentReporter(), resume=resume)
        milliseconds = int(1000 * (time.perf_counter() - started))
        os.write(pipe, json.dumps(instants.seen | {CLOCK: milliseconds}).encode())
        status = 0
    finally:
        if status:
            os.write(pipe, traceback.format_exc().encode()[-4000:])
        os._exit(status)
